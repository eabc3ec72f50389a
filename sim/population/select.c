#include "population/select.h"

#include <stdio.h>
#include <string.h>

bool device_is_selected(const fleet *f, const device_selection *wanted, const device *d) {
    const population_settings *p = f->populations[d->population].settings;
    return (!wanted->population || strcmp(wanted->population, p->name) == 0) &&
           (!wanted->one_seed || wanted->seed == p->seed) &&
           (wanted->device < 0 || wanted->device == d->index);
}

int devices_selected(const fleet *f, const device_selection *wanted) {
    int n = 0;
    for (int i = 0; i < f->n_devices; i++) n += device_is_selected(f, wanted, &f->devices[i]);
    return n;
}

exit_code devices_none_selected(const fleet *f, const char *where, problems *list) {
    char text[1024] = "";
    size_t used = 0;
    for (int i = 0; i < f->n_populations && used < sizeof text; i++) {
        const population *p = &f->populations[i];
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s (seed %llu, devices 0 to %d)",
                                 i ? ", " : "", p->settings->name, (unsigned long long)p->settings->seed,
                                 p->n_devices - 1);
    }
    return problem(list, EXIT_INPUT, "%s: no such device; there are %s", where, text);
}

#include "result/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/tensors.h"
#include "model/pretrain.h"

enum { PATH_BYTES = 4096 };

static exit_code join(char path[PATH_BYTES], const char *folder, const char *name, problems *list) {
    int used = snprintf(path, PATH_BYTES, "%s/%s", folder, name);
    return used < PATH_BYTES ? EXIT_OK : problem(list, EXIT_INPUT, "%.80s...: the path is too long", folder);
}

/* Of a base that was loaded the result keeps the shape (results of earlier versions do not). */
exit_code result_base_shape(const settings *s, const char *result, base_shape *shape, problems *list) {
    char path[PATH_BYTES];
    *shape = pretrain_shape(s);
    if (!s->base.checkpoint) return EXIT_OK;
    exit_code code = join(path, result, BASE_NAME, list);
    if (code == EXIT_OK && access(path, F_OK) != 0)
        code = join(path, s->base.checkpoint, "config.json", list);
    return THEN(code, base_config_read(path, shape, list));
}

static bool allocate(checkpoint *c) {
    size_t floats = (size_t)c->n_parameters;
    c->parameters = malloc(floats * sizeof *c->parameters);
    c->moment1 = malloc(floats * sizeof *c->moment1);
    c->moment2 = malloc(floats * sizeof *c->moment2);
    c->carried = malloc((size_t)c->n_carried * sizeof *c->carried + 1);
    return checkpoint_states_create(c) && c->parameters && c->moment1 && c->moment2 && c->carried;
}

void result_source_close(result_source *s) {
    checkpoint *c = &s->checkpoint;
    void *owned[] = {c->parameters, c->moment1, c->moment2, c->carried, c->unfinished, c->variants};
    checkpoint_states_free(c);
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    fleet_destroy(s->fleet);
    settings_destroy(s->settings);
}

exit_code result_source_check(const result_source *s, const char *result, const device_selection *wanted,
                              problems *list) {
    if (devices_selected(s->fleet, wanted) == 0) return devices_none_selected(s->fleet, result, list);
    for (int i = 0; i < s->fleet->n_devices; i++) {
        const device *d = &s->fleet->devices[i];
        const population_settings *p = s->fleet->populations[d->population].settings;
        if (device_is_selected(s->fleet, wanted, d) && checkpoint_stopped(&s->checkpoint)[i] &&
            checkpoint_counts(&s->checkpoint, STATE_EXPERT_STEPS)[i] == 0)
            return problem(list, EXIT_INPUT,
                           "%s: population '%s' (seed %llu) diverged before its first checkpoint, so there "
                           "are no adapters of it; choose others with --population",
                           result, p->name, (unsigned long long)p->seed);
    }
    return EXIT_OK;
}

exit_code result_source_open(result_source *s, const char *result, int n_overrides,
                             const char *const *overrides, problems *list) {
    char config[PATH_BYTES], path[PATH_BYTES];
    exit_code code = join(config, result, "config.yaml", list);
    THEN(code, join(path, result, "checkpoint.h5", list));
    if (code == EXIT_OK && access(config, F_OK) == 0 && access(path, F_OK) != 0)
        code =
            problem(list, EXIT_INPUT,
                    "%s: has no checkpoint yet (checkpoint.h5), so there are no adapters in it; let its run "
                    "go on, with --resume where it was ended",
                    result);
    THEN(code, settings_load(config, n_overrides, overrides, &s->settings, list));
    THEN(code, result_base_shape(s->settings, result, &s->shape, list));
    THEN(code, fleet_create(s->settings, &s->shape, &s->fleet, list));
    if (code != EXIT_OK) return code;
    s->checkpoint = (checkpoint){.n_parameters = s->fleet->n_parameters,
                                 .n_carried = s->fleet->n_carried,
                                 .n_devices = s->fleet->n_devices};
    if (!allocate(&s->checkpoint)) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to read it", path);
    return checkpoint_read(path, &s->checkpoint, list);
}

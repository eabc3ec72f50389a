/* Runs cases over the wave table. */
#include "conformance/cases.h"

#include <stdlib.h>

static void run_on(const conformance_case *which, ck_backend *backend, const wave_spec *spec, learn_pattern learn, check *c) {
    rig *r = malloc(sizeof *r);
    if (r == NULL) abort();
    rig_open(r, c, backend, which->name, spec,
             (rig_options){.learn = learn, .trains_base = which->trains_base, .skip_evaluated = which->learns});
    if (!r->broken) which->run(r);
    rig_close(r);
    free(r);
}

void conformance_run(const conformance_case *which, ck_backend *backend, check *c) {
    if (which->run_alone != NULL) which->run_alone(backend, c);
    for (int w = 0; w < n_wave_specs && which->run != NULL; w++) {
        run_on(which, backend, &wave_specs[w], LEARN_ALL, c);
        if (which->learns) run_on(which, backend, &wave_specs[w], LEARN_MIXED, c);
    }
}

void conformance_run_everywhere(const conformance_case *which, check *c) {
    int count, usable = 0;
    const ck_backend_info *backends = ck_backends(&count);
    for (int b = 0; b < count; b++) {
        ck_backend *backend;
        if (backends[b].unavailable != NULL) continue;
        usable++;
        if (ck_open(backends[b].name, 0, &backend) != CK_OK) {
            check_fail(c, "%s: %s", backends[b].name, ck_last_error(NULL));
            continue;
        }
        conformance_run(which, backend, c);
        ck_close(backend);
    }
    if (usable == 0) check_fail(c, "no backend is usable");
}

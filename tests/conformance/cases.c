/* Runs cases over the wave table. */
#include "conformance/cases.h"

#include <stdlib.h>
#include <string.h>

const conformance_group *const conformance_groups[] = {
    &transformer_group, &llama_group,    &head_group,    &lora_group,  &sites_group,
    &route_group,       &expert_group,   &update_group,  &carry_group, &memory_group,
    &model_group,       &decoding_group, &variants_group};
const int n_conformance_groups = sizeof conformance_groups / sizeof *conformance_groups;

static void run_on(const conformance_case *which, ck_backend *backend, ck_precision precision,
                   const wave_spec *spec, learn_pattern learn, check *c) {
    rig *r = malloc(sizeof *r);
    if (r == NULL) abort();
    rig_open(r, c, backend, which->name, spec,
             (rig_options){.learn = learn,
                           .trains_base = which->trains_base,
                           .skip_evaluated = which->learns,
                           .precision = precision});
    if (!r->broken) which->run(r);
    rig_close(r);
    free(r);
}

bool conformance_applies(const conformance_case *which, ck_backend *backend, ck_precision precision) {
    if (precision == CK_F32) return true;
    return ck_supports(backend, precision) && which->run != NULL && !which->exact && !which->trains_base;
}

const char *conformance_wave_text = "";

void conformance_run_on(const conformance_case *which, ck_backend *backend, ck_precision precision, int wave,
                        learn_pattern learn, check *c) {
    const wave_spec *spec = &wave_specs[wave];
    if (learn != LEARN_ALL && !which->learns) return;
    if (which->run_alone != NULL && wave == 0) which->run_alone(backend, c);
    if (which->run == NULL || strstr(spec->name, conformance_wave_text) == NULL) return;
    if (which->whole && !wave_has_base(spec)) return;
    run_on(which, backend, precision, spec, learn, c);
}

void conformance_run(const conformance_case *which, ck_backend *backend, ck_precision precision, check *c) {
    for (int w = 0; w < n_wave_specs; w++) {
        conformance_run_on(which, backend, precision, w, LEARN_ALL, c);
        conformance_run_on(which, backend, precision, w, LEARN_MIXED, c);
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
        for (ck_precision precision = CK_F32; precision <= CK_BF16; precision++)
            if (conformance_applies(which, backend, precision)) conformance_run(which, backend, precision, c);
        ck_close(backend);
    }
    if (usable == 0) check_fail(c, "no backend is usable");
}

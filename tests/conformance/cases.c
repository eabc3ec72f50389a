/* Runs cases over the wave table. */
#include "conformance/cases.h"

#include <stdlib.h>
#include <string.h>

#include "cases/ops.h"
#include "support/kernel_problem.h"

/* In this order; tests/gpu/steps.sh reads it. */
static const char *const GROUPS[] = {"transformer", "llama",    "head",  "lora",   "route",
                                     "experts",     "updates",  "carry", "memory", "model",
                                     "decoding",    "variants", "tied"};
enum { N_GROUPS = sizeof GROUPS / sizeof *GROUPS, MOST_CASES = 256, UNKNOWN_FAULT = 99 };

/* ---- The list */

static void add(conformance_case *all, int *n, const conformance_case *one) {
    if (*n == MOST_CASES) abort();
    all[(*n)++] = *one;
}

static void add_operation(conformance_case *all, int *n, const op_case *op, const char *group) {
    for (const op_variant *variant = op->variants; variant->name; variant++)
        if (strcmp(variant->group ? variant->group : op->group, group) == 0)
            add(all, n,
                &(conformance_case){.group = group,
                                    .variant = *variant,
                                    .op = op,
                                    .learns = (op->needs & NEED_GRADIENTS) != 0});
}

const conformance_case *conformance_cases(int *n) {
    static conformance_case all[MOST_CASES];
    static int count;
    const conformance_case *const others[] = {fault_cases, update_cases,   carry_cases, memory_cases,
                                              model_cases, decoding_cases, tied_cases};
    if (count == 0)
        for (int g = 0; g < N_GROUPS; g++) {
            for (int i = 0; OP_CASES[i]; i++) add_operation(all, &count, OP_CASES[i], GROUPS[g]);
            for (size_t i = 0; i < sizeof others / sizeof *others; i++)
                for (const conformance_case *one = others[i]; one->group; one++)
                    if (strcmp(one->group, GROUPS[g]) == 0) add(all, &count, one);
        }
    *n = count;
    return all;
}

const conformance_case *conformance_find(const char *name) {
    int n;
    const conformance_case *all = conformance_cases(&n);
    for (int i = 0; i < n; i++)
        if (strcmp(all[i].variant.name, name) == 0) return &all[i];
    return NULL;
}

/* ---- A wave of the table */

typedef struct {
    const wave_spec *spec;
    ck_precision precision;
    learn_pattern learn;
} wave_source;

static uint32_t learn_of(learn_pattern pattern, int device) {
    const uint32_t turns[4] = {CK_LEARN_EXPERTS, CK_LEARN_ROUTER, CK_LEARN_EXPERTS | CK_LEARN_ROUTER, 0};
    return pattern == LEARN_ALL ? CK_LEARN_EXPERTS | CK_LEARN_ROUTER : turns[device % 4];
}

static void lay_sequences(rig *r, const wave_spec *spec) {
    r->first_token = rig_zeros(WAVE_MAX_DEVICES * WAVE_MAX_LENGTHS + 1, sizeof *r->first_token);
    r->first_sequence = rig_zeros(r->n_devices + 1, sizeof *r->first_sequence);
    for (int d = 0; d < r->n_devices; d++) {
        for (int i = 0; i < WAVE_MAX_LENGTHS && spec->devices[d].lengths[i] > 0; i++, r->n_sequences++)
            r->first_token[r->n_sequences + 1] = r->first_token[r->n_sequences] + spec->devices[d].lengths[i];
        r->first_sequence[d + 1] = r->n_sequences;
    }
}

static exit_code lay(rig *r, const void *source, problems *list) {
    (void)list;
    const wave_source *from = source;
    const wave_spec *spec = from->spec;
    r->where = spec->name;
    r->precision = from->precision;
    r->width = spec->width, r->ffn = spec->ffn, r->heads = spec->heads;
    r->vocabulary = WAVE_VOCABULARY, r->context = WAVE_CONTEXT;
    r->layers = WAVE_LAYERS, r->layer = WAVE_LAYERS - 1;
    r->n_shapes = SHAPE_SPECS;
    r->n_devices = spec->n_devices;
    r->all_checked = true;
    r->shapes = rig_zeros(SHAPE_SPECS, sizeof *r->shapes);
    for (int i = 0; i < SHAPE_SPECS; i++)
        r->shapes[i] = wave_shape(i, spec->width, spec->ffn, WAVE_LAYERS, spec->mlp);
    r->devices = rig_zeros(r->n_devices, sizeof *r->devices);
    for (int d = 0; d < r->n_devices; d++)
        r->devices[d] = (ck_wave_device){.shape = spec->devices[d].shape, .learn = learn_of(from->learn, d)};
    lay_sequences(r, spec);
    return EXIT_OK;
}

base_shape conformance_base(const rig *r) {
    return wave_base(rig_shape(r, 0), r->heads, r->vocabulary, r->context);
}

/* ---- One run */

static bool said(exit_code code, verdict *v, problems *list) {
    for (int i = 0; i < problems_count(list); i++) verdict_fail(v, "%s", problems_message(list, i));
    problems_destroy(list);
    return code == EXIT_OK;
}

bool conformance_once(rig *r, verdict *v) {
    problems *list = problems_create();
    exit_code code = r->n_copies == 0 ? rig_copy_add(r, true, list) : EXIT_OK;
    rig_context(r, v, -1);
    for (int d = 0; d < r->n_devices; d++) r->fault[d] = UNKNOWN_FAULT;
    if (code == EXIT_OK) code = rig_reset(r, &r->copies[0], list);
    if (code == EXIT_OK) code = kernel_problem(list, r->backend, rig_issue(r, &r->copies[0]), r->which->name);
    if (code == EXIT_OK) code = rig_download(r, &r->copies[0], true, list);
    return said(code, v, list);
}

rig *conformance_open(const conformance_case *which, ck_backend *backend, ck_precision precision,
                      const wave_spec *spec, learn_pattern learn, verdict *v) {
    rig *r = NULL;
    problems *list = problems_create();
    const wave_source source = {spec, precision, learn};
    exit_code code = rig_open(&r, which->op, &which->variant, lay, &source, backend, list);
    v->tolerance = precision == CK_BF16 ? TOLERANCE_BF16 : TOLERANCE_F32;
    if (said(code, v, list)) return r;
    rig_close(r);
    return NULL;
}

void conformance_examine(const conformance_case *which, rig *r, verdict *v) {
    if (which->run) {
        which->run(r, v);
        return;
    }
    for (int turn = 0; turn <= which->variant.turns; turn++) {
        if (r->n_variants > 0) rig_assign_variants(r, turn / 2);
        if (!conformance_once(r, v)) return;
        rig_judge(r, v, true);
    }
}

/* ---- Cases */

bool conformance_applies(const conformance_case *which, ck_backend *backend, ck_precision precision) {
    if (precision == CK_F32) return true;
    return ck_supports(backend, precision) && which->op && !which->variant.exact &&
           !which->variant.trains_base;
}

const char *conformance_wave_text = "";

void conformance_run_on(const conformance_case *which, ck_backend *backend, ck_precision precision, int wave,
                        learn_pattern learn, verdict *v) {
    const wave_spec *spec = &wave_specs[wave];
    if (learn != LEARN_ALL && !which->learns) return;
    if (which->run_alone != NULL && wave == 0) which->run_alone(backend, v);
    if (which->op == NULL || strstr(spec->name, conformance_wave_text) == NULL) return;
    if (which->whole && !wave_has_base(spec)) return;
    rig *r = conformance_open(which, backend, precision, spec, learn, v);
    if (r) conformance_examine(which, r, v);
    rig_close(r);
}

void conformance_run(const conformance_case *which, ck_backend *backend, ck_precision precision, verdict *v) {
    for (int w = 0; w < n_wave_specs; w++) {
        conformance_run_on(which, backend, precision, w, LEARN_ALL, v);
        conformance_run_on(which, backend, precision, w, LEARN_MIXED, v);
    }
}

void conformance_run_everywhere(const conformance_case *which, verdict *v) {
    int count, usable = 0;
    const ck_backend_info *backends = ck_backends(&count);
    for (int b = 0; b < count; b++) {
        ck_backend *backend;
        if (backends[b].unavailable != NULL) continue;
        usable++;
        if (ck_open(backends[b].name, 0, &backend) != CK_OK) {
            verdict_fail(v, "%s: %s", backends[b].name, ck_last_error(NULL));
            continue;
        }
        for (ck_precision precision = CK_F32; precision <= CK_BF16; precision++)
            if (conformance_applies(which, backend, precision)) conformance_run(which, backend, precision, v);
        ck_close(backend);
    }
    if (usable == 0) verdict_fail(v, "no backend is usable");
}

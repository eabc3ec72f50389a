/* The microbenchmarks on tiny shapes: every case is right and has times; kernels that are wrong on purpose
 * are found, and have none. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cases/ops.h"
#include "measure/bench.h"

static const timing_rule QUICK = {.noise = 0.02, .seconds = 0.01, .sample_seconds = 1e-4, .least_samples = 3};

static sweep tiny(void) {
    sweep s = {.n_values = {[AXIS_TOKENS] = 1,
                            [AXIS_SEQUENCE] = 1,
                            [AXIS_WIDTH] = 1,
                            [AXIS_DEVICES] = 1,
                            [AXIS_EXPERTS] = 1,
                            [AXIS_TOP_K] = 1,
                            [AXIS_VOCABULARY] = 1,
                            [AXIS_DISTRIBUTION] = 1}};
    s.values[AXIS_TOKENS][0] = 37, s.values[AXIS_SEQUENCE][0] = 9, s.values[AXIS_WIDTH][0] = 32,
    s.values[AXIS_DEVICES][0] = 3;
    s.values[AXIS_EXPERTS][0] = 3, s.values[AXIS_TOP_K][0] = 2, s.values[AXIS_VOCABULARY][0] = 50;
    s.values[AXIS_DISTRIBUTION][0] = TOKENS_SKEW;
    return s;
}

typedef struct {
    exit_code code;
    char *table;
} outcome;

static outcome run_sweep(sweep s, const op_case *const *cases, const char *json, bool cold) {
    size_t size;
    outcome out = {0};
    problems *list = problems_create();
    bench_options o = {.backend = "cpu",
                       .threads = 2,
                       .rule = QUICK,
                       .n_sweeps = 1,
                       .sweeps = &s,
                       .json = json,
                       .cold = cold};
    o.out = open_memstream(&out.table, &size);
    cr_assert_not_null(o.out);
    out.code = bench_run(&o, cases, list);
    fclose(o.out);
    problems_destroy(list);
    return out;
}

static outcome run(const op_case *const *cases, const char *json, bool cold) {
    return run_sweep(tiny(), cases, json, cold);
}

Test(bench_cases, every_case_is_right_and_is_timed) {
    outcome out = run(OP_CASES, NULL, false);
    cr_assert_eq(out.code, EXIT_OK, "%s", out.table);
    for (int i = 0; OP_CASES[i]; i++) {
        char name[96];
        if (!OP_CASES[i]->floor) continue;
        snprintf(name, sizeof name, "\n%s/%s/", OP_CASES[i]->name, OP_CASES[i]->direction);
        const char *row = strstr(out.table, name);
        cr_assert(row && strstr(row, "  warm "), "no time of %s in:\n%s", name, out.table);
    }
    cr_assert_null(strstr(out.table, "WRONG"));
    cr_assert_null(strstr(out.table, "  skipped"));
    cr_assert(strstr(out.table, "\n34 cases, 0 wrong, 0 skipped"));
    free(out.table);
}

static sweep tiny_swiglu(void) {
    sweep s = tiny();
    s.n_values[AXIS_MLP] = 1, s.values[AXIS_MLP][0] = CK_MLP_SWIGLU;
    return s;
}

Test(bench_cases, swiglu_is_right_and_is_timed) {
    const op_case *const cases[] = {&route_forward,       &route_backward, &activation_forward,
                                    &activation_backward, &layer_step,     NULL};
    outcome out = run_sweep(tiny_swiglu(), cases, NULL, false);
    cr_assert_eq(out.code, EXIT_OK, "%s", out.table);
    for (int i = 0; cases[i]; i++) {
        char name[96];
        snprintf(name, sizeof name, "\n%s/%s/", cases[i]->name, cases[i]->direction);
        const char *row = strstr(out.table, name), *mlp = row ? strstr(row, "/swiglu/") : NULL;
        cr_assert(mlp && mlp < strchr(row + 1, '\n') && strstr(row, "  warm "), "no time of %s in:\n%s", name,
                  out.table);
    }
    cr_assert_null(strstr(out.table, "WRONG"));
    free(out.table);
}

/* ---- Wrong on purpose: each runs the real kernel, then changes what came out */

static bool planted; /* a mistake really was made */

/* Adds to one element of an activation, in its last row. */
static ck_status spoil(const rig *r, rig_copy *c, tensor_id id, int column, float by) {
    float *values = malloc((size_t)(r->n_tokens * r->tensor[id].columns) * sizeof *values);
    ck_status status = ck_tensor_download(r->stream, c->tensor[id], r->n_tokens, values);
    if (status == CK_OK) status = ck_wait(r->stream);
    values[(r->n_tokens - 1) * r->tensor[id].columns + column] += by;
    if (status == CK_OK) status = ck_tensor_upload(r->stream, c->tensor[id], r->n_tokens, values);
    if (status == CK_OK) status = ck_wait(r->stream);
    planted = true;
    free(values);
    return status;
}

static ck_status run_and_spoil(const rig *r, rig_copy *c, tensor_id id, int column, float by) {
    ck_status status = ck_run(c->program, r->stream, &c->wave);
    return status == CK_OK ? spoil(r, c, id, column, by) : status;
}

static ck_status wrong_logit(const rig *r, rig_copy *c) {
    return run_and_spoil(r, c, ZH, 1, 0.01f);
}

/* Of an expert that the first token chose: it did not choose expert 0. */
static ck_status wrong_gate(const rig *r, rig_copy *c) {
    return run_and_spoil(r, c, GATES, 1, 0.25f);
}

static ck_status wrong_product(const rig *r, rig_copy *c) {
    return run_and_spoil(r, c, Y, 5, 0.01f);
}

static ck_status nan_in_attention(const rig *r, rig_copy *c) {
    return run_and_spoil(r, c, O, 0, NAN);
}

/* One gradient of the last device loses its sign. */
static ck_status wrong_gradient(const rig *r, rig_copy *c) {
    float value = 0,
          *at = c->packs[PACK_GRADIENTS] + r->devices[r->n_devices - 1].gradients + r->shapes[0].b1 + 7;
    ck_status status = ck_run(c->program, r->stream, &c->wave);
    if (status == CK_OK) status = ck_download(r->stream, &value, at, sizeof value);
    value = -value;
    planted = true;
    return status == CK_OK ? ck_upload(r->stream, at, &value, sizeof value) : status;
}

/* One gradient of the last layer of the last device, after AdamW has used it rightly. */
static ck_status wrong_gradient_of_a_model(const rig *r, rig_copy *c) {
    const ck_shape *s = &r->shapes[0];
    float value = 0, *at = c->packs[PACK_GRADIENTS] + r->devices[r->n_devices - 1].gradients +
                           (s->n_layers - 1) * s->layer_stride + s->a2;
    ck_status status = model_step.issue(r, c);
    if (status == CK_OK) status = ck_download(r->stream, &value, at, sizeof value);
    value = -value;
    planted = true;
    return status == CK_OK ? ck_upload(r->stream, at, &value, sizeof value) : status;
}

/* AdamW leaves out the last device. */
static ck_status model_without_an_update(const rig *r, rig_copy *c) {
    ck_status status = ck_run(c->program, r->stream, &c->wave);
    planted = true;
    return status == CK_OK ? ck_adamw_devices(r->stream, c->packs[PACK_PARAMETERS], c->packs[PACK_MOMENT1],
                                              c->packs[PACK_MOMENT2], c->packs[PACK_GRADIENTS], &r->shapes[0],
                                              r->own, r->n_devices - 1)
                           : status;
}

/* The weights of a token's experts change places before the layer mixes them: every term of the sum is there,
 * in the wrong measure. */
static ck_status wrong_routing(const rig *r, rig_copy *c) {
    float *gates = malloc((size_t)r->n_tokens * CK_MAX_EXPERTS * sizeof *gates);
    for (int64_t t = 0; t < r->n_tokens; t++)
        for (int e = 0; e < CK_MAX_EXPERTS; e++)
            gates[t * CK_MAX_EXPERTS + e] =
                e < r->shapes[0].n_experts
                    ? r->tensor[GATES].before[t * CK_MAX_EXPERTS + (e + 1) % r->shapes[0].n_experts]
                    : 0;
    ck_status status = ck_tensor_upload(r->stream, c->tensor[GATES], r->n_tokens, gates);
    planted = true;
    free(gates);
    return status == CK_OK ? ck_run(c->program, r->stream, &c->wave) : status;
}

/* Every AdamW step is taken with the first step's bias correction. */
static ck_status wrong_step(const rig *r, rig_copy *c) {
    ck_adamw_device devices[8];
    memcpy(devices, r->own, (size_t)r->n_devices * sizeof *devices);
    for (int d = 0; d < r->n_devices; d++) devices[d].hyper[0].step = 1;
    planted = true;
    return ck_adamw_devices(r->stream, c->packs[PACK_PARAMETERS], c->packs[PACK_MOMENT1],
                            c->packs[PACK_MOMENT2], c->packs[PACK_GRADIENTS], &r->shapes[0], devices,
                            r->n_devices);
}

/* Right the first two times (warm-up and verification), wrong in the recording that is timed. */
static ck_status wrong_when_timed(const rig *r, rig_copy *c) {
    static int runs;
    ck_status status = layer_step.issue(r, c);
    return ++runs <= 2 || status != CK_OK ? status : spoil(r, c, Y, 0, 1);
}

static void expect_wrong(const op_case *original, ck_status (*issue)(const rig *, rig_copy *),
                         const char *where) {
    char path[] = "/tmp/bench_cases_XXXXXX";
    op_case wrong = *original;
    wrong.issue = issue;
    close(mkstemp(path));
    const op_case *const cases[] = {&wrong, NULL};
    planted = false;
    outcome out = run(cases, path, true);
    cr_assert(planted, "%s: nothing was planted", where);
    cr_assert_eq(out.code, EXIT_RUN, "%s: exit code %d\n%s", where, out.code, out.table);
    cr_assert(strstr(out.table, "WRONG"), "%s: not noticed in\n%s", where, out.table);
    cr_assert(strstr(out.table, where), "%s: not named in\n%s", where, out.table);
    cr_assert_null(strstr(out.table, "  warm"), "%s: has a time in\n%s", where, out.table);
    cr_assert_null(strstr(out.table, "  cold"), "%s: has a time in\n%s", where, out.table);
    json_t *root = json_load_file(path, 0, NULL), *entries = json_object_get(root, "benchmarks");
    cr_assert_eq(json_array_size(entries), 1);
    cr_assert(json_is_true(json_object_get(json_array_get(entries, 0), "error_occurred")));
    cr_assert_null(json_object_get(json_array_get(entries, 0), "real_time"));
    cr_assert(json_integer_value(json_object_get(json_array_get(entries, 0), "wrong")) > 0);
    json_decref(root);
    unlink(path);
    free(out.table);
}

Test(bench_cases, wrong_logits_and_gates_have_no_time) {
    expect_wrong(&route_forward, wrong_logit, "zh");
    expect_wrong(&route_forward, wrong_gate, "gates");
}

Test(bench_cases, a_wrong_product_has_no_time) {
    expect_wrong(&linear_forward, wrong_product, "y");
}

Test(bench_cases, a_nan_has_no_time) {
    expect_wrong(&attention_forward, nan_in_attention, "o");
}

Test(bench_cases, a_wrong_gradient_of_one_device_has_no_time) {
    expect_wrong(&activation_backward, wrong_gradient, "dB1");
}

Test(bench_cases, a_whole_model_that_is_wrong_in_one_layer_or_one_device_has_no_time) {
    expect_wrong(&model_step, wrong_gradient_of_a_model, "dA2 of layer 1");
    expect_wrong(&model_step, model_without_an_update, "parameters");
}

Test(bench_cases, wrong_routing_has_no_time) {
    expect_wrong(&expand_forward, wrong_routing, "y");
    expect_wrong(&activation_forward, wrong_routing, "m");
}

Test(bench_cases, a_wrong_optimiser_has_no_time) {
    expect_wrong(&adamw_update, wrong_step, "parameters");
}

Test(bench_cases, what_is_wrong_only_in_the_recording_that_is_timed_has_no_time) {
    expect_wrong(&layer_step, wrong_when_timed, "y");
}

/* A kernel that never writes its output leaves the NaN that were there. */
static void record_nothing(const rig *r, rig_copy *c) {
    (void)r;
    ck_op_norm(c->program, &(ck_norm){.x = c->tensor[X],
                                      .y = c->tensor[DX],
                                      .stats = c->tensor[STATS],
                                      .gain = c->buffer[GAIN],
                                      .bias = c->buffer[GAIN],
                                      .width = r->width,
                                      .epsilon = 1e-5f});
}

static void arrays_with_scratch(rig *r) {
    norm_forward.arrays(r);
    rig_tensor(r, DX, "elsewhere", OUTPUT, COLUMNS_WIDTH);
}

Test(bench_cases, an_output_that_is_never_written_has_no_time) {
    op_case lazy = norm_forward;
    lazy.arrays = arrays_with_scratch;
    lazy.record = record_nothing;
    const op_case *const cases[] = {&lazy, NULL};
    outcome out = run(cases, NULL, true);
    cr_assert_eq(out.code, EXIT_RUN, "%s", out.table);
    cr_assert(strstr(out.table, "WRONG in y"), "%s", out.table);
    free(out.table);
}

/* ---- Floors, by hand: T 37, D 32, F 128, N 3, E 3, S 24, R 3, k 2, f32 */

Test(bench_cases, floors_count_the_bytes_that_must_move) {
    const struct {
        const op_case *which;
        double bytes, flops;
        ck_mlp mlp;
    } expected[] = {
        {&route_forward, 4.0 * 37 * 32 + 4 * 37 * 27 + 64 * 37 + 4 * 3 * 27 * 32, 2.0 * 37 * 32 * 27,
         CK_MLP_GELU},
        {&activation_forward, 8.0 * 37 * 128 + 8 * 37 * 24 + 64 * 37 + 8 * 3 * 24 * 128, 4.0 * 37 * 128 * 16,
         CK_MLP_GELU},
        {&expand_backward, 4.0 * 37 * 32 + 8 * 37 * 24 + 128 * 37 + 8 * 3 * 24 * 32, 4.0 * 37 * 32 * 16,
         CK_MLP_GELU},
        {&route_backward, 8.0 * 37 * 32 + 4 * 37 * 51 + 128 * 37 + 8 * 3 * 51 * 32, 4.0 * 37 * 32 * 51,
         CK_MLP_SWIGLU},
        {&activation_forward, 12.0 * 37 * 128 + 12 * 37 * 24 + 64 * 37 + 12 * 3 * 24 * 128,
         6.0 * 37 * 128 * 16, CK_MLP_SWIGLU},
        {&activation_backward, 20.0 * 37 * 128 + 20 * 37 * 24 + 192 * 37 + 24 * 3 * 24 * 128,
         16.0 * 37 * 128 * 16, CK_MLP_SWIGLU},
        {&linear_forward, 4.0 * (37 * 32 + 37 * 128 + 32 * 128), 2.0 * 37 * 32 * 128, CK_MLP_GELU},
        {&adamw_update, 28.0 * 3 * (27 * 32 + 24 * 32 + 2 * 24 * 128), 0, CK_MLP_GELU},
        {&group_sum, 4.0 * 4 * 8 * (2 * 32 + 2 * 128), 0, CK_MLP_GELU},
        {&group_proximal, 4.0 * 10 * 8 * (2 * 32 + 2 * 128), 0, CK_MLP_GELU},
        {&norm_backward, 12.0 * 37 * 32 + 8 * 37 + 4 * 32, 0, CK_MLP_GELU},
        {&rms_norm_forward, 8.0 * 37 * 32 + 8 * 37 + 4 * 32, 0, CK_MLP_GELU},
        {&rms_norm_backward, 12.0 * 37 * 32 + 8 * 37 + 4 * 32, 0, CK_MLP_GELU},
        /* two query heads of 16 and one of keys; sequences of 9, 9, 9, 9 and 1 */
        {&grouped_attention_forward, 4.0 * 37 * (64 + 32) + 4 * 37 * 2, 4.0 * 181 * 32, CK_MLP_GELU},
        {&grouped_attention_backward, 8.0 * 37 * (64 + 32) + 4 * 37 * 2, 10.0 * 181 * 32, CK_MLP_GELU},
        {&rope_forward, 8.0 * 37 * 3 * 16 + 4 * 9 * 16, 0, CK_MLP_GELU},
        {&swiglu_forward, 12.0 * 37 * 128, 0, CK_MLP_GELU},
        {&swiglu_backward, 20.0 * 37 * 128, 0, CK_MLP_GELU},
        /* LoRA of rank 8, two layers */
        {&tied_forward, 28.0 * 37 * 32 + 4 * 37 * 8 + 16 * 3 * 8 * 32, 8.0 * 37 * 8 * 32, CK_MLP_GELU},
        {&tied_backward, 24.0 * 37 * 32 + 4 * 37 * 8 + 32 * 3 * 8 * 32, 16.0 * 37 * 8 * 32, CK_MLP_GELU},
        {&site_vector_forward, 28.0 * 37 * 32 + 12 * 3 * 32, 0, CK_MLP_GELU},
        {&site_vector_backward, 24.0 * 37 * 32 + 24 * 3 * 32, 0, CK_MLP_GELU},
        {&tied_gradients, 4.0 * 3 * 3 * (4 * 8 * 32 + 3 * 32), 0, CK_MLP_GELU},
    };
    const context no_ceilings = {0}, ceilings = {.copy_rate = 1e9, .ceiling = {{.product = 1e9, .fma = 2e9}}};
    ck_backend *backend;
    cr_assert_eq(ck_open("cpu", 1, &backend), CK_OK);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        sweep s = tiny();
        sweep_defaults(&s, false);
        point at = sweep_point(&s, expected[i].which->axes, 0);
        at.value[AXIS_MLP] = expected[i].mlp;
        problems *list = problems_create();
        bench_options o = {.rule = QUICK};
        result r = {0}, with = {0};
        cr_assert_eq(bench_point(&o, &no_ceilings, backend, NULL, expected[i].which, &at, &r, list), EXIT_OK);
        cr_assert_eq(bench_point(&o, &ceilings, backend, NULL, expected[i].which, &at, &with, list), EXIT_OK);
        cr_assert(r.bytes == expected[i].bytes && r.flops == expected[i].flops,
                  "%s/%s: %g bytes, %g FLOPs instead of %g, %g", expected[i].which->name,
                  expected[i].which->direction, r.bytes, r.flops, expected[i].bytes, expected[i].flops);
        cr_assert(r.floor_seconds == 0 && r.fma_seconds == 0);
        cr_assert(fabs(with.fma_seconds - 0.5e-9 * r.flops) <= 1e-12 * with.fma_seconds);
        double floor = 1e-9 * fmax(r.bytes, r.flops);
        cr_assert(fabs(with.floor_seconds - floor) < 1e-12 * floor + 1e-18);
        result_free(&r);
        result_free(&with);
        problems_destroy(list);
    }
    ck_close(backend);
}

/* The floor's FLOPs are the model's, but for what attention and the expert activation compute a second time
 * and a gradient that nobody needs: that of the input of the first layer's LoRA. Bytes by hand for one more
 * layer: T 37, D 32, F 128, N 3, S 24, ra 8, sequences of one token, f32. */
Test(bench_cases, a_model_costs_what_its_operations_cost) {
    const context ceilings = {.copy_rate = 1e9, .ceiling = {[CK_F32] = {.product = 1e9}}};
    ck_backend *backend;
    cr_assert_eq(ck_open("cpu", 1, &backend), CK_OK);
    sweep s = tiny();
    sweep_defaults(&s, false);
    bench_options o = {.rule = QUICK};
    result r[2] = {0};
    for (int i = 0; i < 2; i++) {
        problems *list = problems_create();
        point at = sweep_point(&s, model_step.axes, 0);
        at.value[AXIS_LAYERS] = 2 + i;
        at.value[AXIS_SEQUENCE] = 1; /* attention sees itself alone */
        cr_assert_eq(bench_point(&o, &ceilings, backend, NULL, &model_step, &at, &r[i], list), EXIT_OK);
        double again = (2.0 * 37 * 32 + 2.0 * 37 * 128 * 16) * (2 + i) - 2.0 * 37 * 8 * 32;
        cr_assert(fabs(r[i].flops - r[i].model_flops - again) < 1, "%g FLOPs, the model's %g", r[i].flops,
                  r[i].model_flops);
        cr_assert_eq(r[i].product_rate, 1e9);
        result_free(&r[i]);
        problems_destroy(list);
    }
    const double t = 37, d = 32, f = 128, n = 3, sum = 24, rows = 27, a = 8;
    double norms = t * (4 + 8) * 4 * d + 4 * t * 8 + 24 * d,
           linears = 4 * (t * (2 * (4 * d + 2 * d + d + f + f + d) + 3 * d) + 2 * (4 * d * d + 2 * d * f));
    double lora = 4 * t * (7 * d + 3 * d + 6 * d + 4 * d) + 16 * t * a + 4 * n * a * (4 + 2 + 8 + 4) * d;
    double attention = t * (48 * d + 2 * 4 * 2);
    double experts = 4 * t * (d + 2 * f + 2 * d + d + 3 * f + 2 * d) + 4 * t * (2 * rows + 8 * sum) +
                     64 * t * (1 + 1 + 1 + 2 + 3 + 2);
    double packs = 12 * n * (rows * d + 2 * sum * f + sum * d),
           adamw = 28 * n * (rows * d + 2 * sum * f + sum * d + 6 * a * d);
    double layer = norms + linears + lora + attention + experts + packs + adamw;
    cr_assert(fabs(r[1].bytes - r[0].bytes - layer) < 1, "a layer moves %g bytes instead of %g",
              r[1].bytes - r[0].bytes, layer);
    ck_close(backend);
}

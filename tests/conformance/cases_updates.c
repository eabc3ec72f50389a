/* AdamW on packs and on plain ranges, the sums and copies of aggregation, and proximal terms. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance/cases.h"

enum { WIDTH = 24, FFN = 96, STEPS = 3, TABLE_FLOATS = 4096 };

/* An array of floats in backend memory, its host copy and the oracle's. */
typedef struct {
    void *memory;
    float *host;
    double *ref;
    int64_t count;
} array;

typedef struct {
    ck_backend *backend;
    ck_stream *stream;
    verdict *verdict;
    uint64_t random;
    bool broken;
} bench;

static bool worked(bench *b, ck_status status, const char *what) {
    if (status != CK_OK && !b->broken)
        verdict_fail(b->verdict, "%s: status %d: %s", what, (int)status, ck_last_error(b->backend));
    b->broken |= status != CK_OK;
    return !b->broken;
}

static array array_create(bench *b, int64_t count, double scale) {
    array a = {.host = calloc((size_t)count, sizeof(float)), .ref = oracle_zeros(count), .count = count};
    if (a.host == NULL) abort();
    for (int64_t i = 0; i < count; i++) a.ref[i] = a.host[i] = (float)wave_draw(&b->random, scale);
    worked(b, ck_alloc(b->backend, (size_t)count * sizeof(float), "test array", &a.memory), "ck_alloc");
    return a;
}

static void array_destroy(bench *b, array *a) {
    ck_free(b->backend, a->memory);
    free(a->host);
    free(a->ref);
}

static void array_up(bench *b, const array *a) {
    if (!b->broken)
        worked(b, ck_upload(b->stream, a->memory, a->host, (size_t)a->count * sizeof(float)), "ck_upload");
}

static void array_down(bench *b, array *a) {
    if (!b->broken)
        worked(b, ck_download(b->stream, a->host, a->memory, (size_t)a->count * sizeof(float)),
               "ck_download");
    if (!b->broken) worked(b, ck_wait(b->stream), "ck_wait");
}

static void compare(bench *b, const char *what, const array *a, int64_t first, int64_t count) {
    char where[128];
    snprintf(where, sizeof where, "%s: %s", ck_name(b->backend), what);
    verdict_near(b->verdict, where, a->host + first, a->ref + first, count, TOLERANCE_F32);
}

/* The step itself, which is a thousandth of a parameter: judged on its own, within what f32 parameters can
 * show of it. */
static void compare_change(bench *b, const char *what, const array *a, const float *before, int64_t first,
                           int64_t count) {
    float *out = calloc((size_t)count + 1, sizeof *out);
    double *ref = oracle_zeros(count);
    if (out == NULL) abort();
    for (int64_t i = 0; i < count; i++) {
        out[i] = (float)((double)a->host[first + i] - (double)before[first + i]);
        ref[i] = a->ref[first + i] - (double)before[first + i];
    }
    verdict_near(b->verdict, what, out, ref, count, 1e-4);
    free(out);
    free(ref);
}

static void unchanged(bench *b, const char *what, const array *a, const float *before, int64_t first,
                      int64_t count) {
    verdict_exact(b->verdict, what,
                  memcmp(a->host + first, before + first, (size_t)count * sizeof(float)) == 0);
}

static bench bench_open(ck_backend *backend, verdict *c) {
    bench b = {.backend = backend, .verdict = c, .random = 5};
    worked(&b, ck_stream_create(backend, &b.stream), "ck_stream_create");
    return b;
}

/* ---- AdamW on devices ------------------------------------------------------------------------ */

typedef struct {
    array parameters, moment1, moment2, gradients;
    float *before; /* the parameters at the start */
    ck_shape shapes[SHAPE_SPECS];
    ck_adamw_device devices[SHAPE_SPECS];
} adamw_world;

static void set_hyper(adamw_world *w, int step) {
    for (int d = 0; d < SHAPE_SPECS; d++) {
        ck_adamw_hyper experts = {.learning_rate = 1e-2f / (float)(d % 3 + 1),
                                  .weight_decay = 0.1f,
                                  .beta1 = 0.9f,
                                  .beta2 = 0.99f,
                                  .epsilon = 1e-8f,
                                  .step = step + d};
        ck_adamw_hyper router = {.learning_rate = 3e-2f,
                                 .weight_decay = 0,
                                 .beta1 = 0.8f,
                                 .beta2 = 0.95f,
                                 .epsilon = 1e-6f,
                                 .step = step};
        w->devices[d].hyper[0] = experts;
        w->devices[d].hyper[1] = router;
    }
}

/* Moments need not lie like the parameters: here in the opposite order. */
static void turn_moments(adamw_world *w, int64_t all) {
    for (int d = 0; d < SHAPE_SPECS; d++)
        w->devices[d].moments = all - w->devices[d].parameters - w->shapes[d].total;
}

/* Where the moments of this parameter are. */
static int64_t moments_at(const ck_adamw_device *d, int64_t first) {
    return first - d->parameters + d->moments;
}

static adamw_world adamw_create(bench *b) {
    const uint32_t turns[7] = {CK_LEARN_EXPERTS | CK_LEARN_ROUTER,
                               CK_LEARN_EXPERTS,
                               CK_LEARN_ROUTER,
                               0,
                               CK_LEARN_EXPERT_B | CK_LEARN_LORA_B,
                               CK_LEARN_LORA_A | CK_LEARN_LORA_B,
                               CK_LEARN_EXPERT_A | CK_LEARN_ROUTER};
    adamw_world w = {0};
    int64_t end = 0;
    for (int d = 0; d < SHAPE_SPECS; d++) {
        w.shapes[d] = wave_shape(d, WIDTH, FFN, WAVE_LAYERS, CK_MLP_GELU);
        w.devices[d] =
            (ck_adamw_device){.parameters = end, .gradients = end, .shape = d, .learn = turns[d % 7]};
        end += w.shapes[d].total;
    }
    turn_moments(&w, end);
    w.parameters = array_create(b, end, 0.3);
    w.gradients = array_create(b, end, 0.1);
    w.moment1 = array_create(b, end, 0.05);
    w.moment2 = array_create(b, end, 0.05);
    for (int64_t i = 0; i < end; i++) w.moment2.ref[i] = w.moment2.host[i] = fabsf(w.moment2.host[i]);
    return w;
}

static bool learned(const ck_adamw_device *d, oracle_part part) {
    return (d->learn & oracle_part_class(part)) != 0;
}

/* Every part of every device and layer. */
static void adamw_each(bench *b, adamw_world *w,
                       void (*visit)(bench *, adamw_world *, const ck_adamw_device *, oracle_part, int64_t,
                                     int64_t)) {
    for (int d = 0; d < SHAPE_SPECS; d++)
        for (int l = 0; l < WAVE_LAYERS; l++)
            for (oracle_part part = 0; part < ORACLE_PARTS; part++) {
                oracle_range range = oracle_part_range(&w->shapes[d], l, part);
                if (range.count > 0)
                    visit(b, w, &w->devices[d], part, w->devices[d].parameters + range.offset, range.count);
            }
}

static void adamw_gradient(bench *b, adamw_world *w, const ck_adamw_device *d, oracle_part part,
                           int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; i++) {
        /* not learned: must not be read */
        w->gradients.host[i] = learned(d, part) ? (float)wave_draw(&b->random, 0.1) : NAN;
        w->gradients.ref[i] = w->gradients.host[i];
    }
}

static void adamw_reference(bench *b, adamw_world *w, const ck_adamw_device *d, oracle_part part,
                            int64_t first, int64_t count) {
    (void)b;
    if (!learned(d, part)) return;
    int64_t moments = moments_at(d, first);
    oracle_adamw((oracle_adamw_arrays){w->parameters.ref + first, w->moment1.ref + moments,
                                       w->moment2.ref + moments, w->gradients.ref + first},
                 count, &d->hyper[oracle_part_class(part) == CK_LEARN_ROUTER]);
}

static void adamw_compare(bench *b, adamw_world *w, const ck_adamw_device *d, oracle_part part, int64_t first,
                          int64_t count) {
    char what[96];
    snprintf(what, sizeof what, "AdamW, device %d, %s", d->shape, oracle_part_name(part));
    if (!learned(d, part)) {
        unchanged(b, what, &w->parameters, w->before, first, count);
        return;
    }
    compare(b, what, &w->parameters, first, count);
    compare(b, what, &w->moment1, moments_at(d, first), count);
    compare(b, what, &w->moment2, moments_at(d, first), count);
    compare_change(b, what, &w->parameters, w->before, first, count);
}

static void adamw_devices(ck_backend *backend, verdict *c) {
    bench b = bench_open(backend, c);
    adamw_world w = adamw_create(&b);
    w.before = malloc((size_t)w.parameters.count * sizeof *w.before);
    if (w.before == NULL) abort();
    memcpy(w.before, w.parameters.host, (size_t)w.parameters.count * sizeof *w.before);
    for (int64_t i = 0; i < w.gradients.count; i++) w.gradients.host[i] = 0;
    array *state[] = {&w.parameters, &w.moment1, &w.moment2};
    for (int i = 0; i < 3; i++) array_up(&b, state[i]);
    for (int step = 1; step <= STEPS && !b.broken; step++) {
        set_hyper(&w, step);
        adamw_each(&b, &w, adamw_gradient);
        array_up(&b, &w.gradients);
        worked(&b,
               ck_adamw_devices(b.stream, w.parameters.memory, w.moment1.memory, w.moment2.memory,
                                w.gradients.memory, w.shapes, w.devices, SHAPE_SPECS),
               "ck_adamw_devices");
        worked(&b, ck_wait(b.stream), "ck_wait");
        adamw_each(&b, &w, adamw_reference);
    }
    for (int i = 0; i < 3; i++) array_down(&b, state[i]);
    adamw_each(&b, &w, adamw_compare);
    free(w.before);
    array *all[] = {&w.parameters, &w.moment1, &w.moment2, &w.gradients};
    for (int i = 0; i < 4; i++) array_destroy(&b, all[i]);
    ck_stream_destroy(b.stream);
}

/* ---- AdamW on ranges ------------------------------------------------------------------------- */

static void adamw_ranges(ck_backend *backend, verdict *c) {
    const ck_range ranges[] = {{.offset = 0, .count = 33, .weight_decay = 0.1f},
                               {.offset = 48, .count = 1, .weight_decay = 0},
                               {.offset = 64, .count = 1000, .weight_decay = 0.01f},
                               {.offset = 2048, .count = 1024, .weight_decay = 0}};
    const int n = sizeof ranges / sizeof *ranges;
    ck_adamw_hyper hyper = {.learning_rate = 1e-2f,
                            .weight_decay = 0.5f,
                            .beta1 = 0.9f,
                            .beta2 = 0.95f,
                            .epsilon = 1e-8f,
                            .step = 1};
    bench b = bench_open(backend, c);
    array p = array_create(&b, TABLE_FLOATS, 1), m = array_create(&b, TABLE_FLOATS, 0),
          v = array_create(&b, TABLE_FLOATS, 0), g = array_create(&b, TABLE_FLOATS, 1);
    float before[TABLE_FLOATS];
    array *all[] = {&p, &m, &v, &g};
    memcpy(before, p.host, sizeof before);
    for (int i = 0; i < 4; i++) array_up(&b, all[i]);
    for (; hyper.step <= STEPS && !b.broken; hyper.step++) {
        worked(&b, ck_adamw_ranges(b.stream, p.memory, m.memory, v.memory, g.memory, ranges, n, &hyper),
               "ck_adamw_ranges");
        for (int i = 0; i < n; i++) {
            ck_adamw_hyper of_range = hyper;
            of_range.weight_decay = ranges[i].weight_decay;
            int64_t at = ranges[i].offset;
            oracle_adamw((oracle_adamw_arrays){p.ref + at, m.ref + at, v.ref + at, g.ref + at},
                         ranges[i].count, &of_range);
        }
    }
    for (int i = 0; i < 4; i++) array_down(&b, all[i]);
    compare_change(&b, "AdamW on ranges", &p, before, 0, TABLE_FLOATS);
    compare(&b, "AdamW on ranges, first moment", &m, 0, TABLE_FLOATS);
    compare(&b, "AdamW on ranges, second moment", &v, 0, TABLE_FLOATS);
    unchanged(&b, "what lies between ranges", &p, before, 33, 15);
    unchanged(&b, "what lies after the last range", &p, before, 3072, 1024);
    for (int i = 0; i < 4; i++) array_destroy(&b, all[i]);
    ck_stream_destroy(b.stream);
}

/* ---- Aggregation ----------------------------------------------------------------------------- */

/* Two groups: three members in two layouts, and one member alone. */
static const int64_t members_a[] = {0, 2000, 1000}, members_b[] = {3000}, counts_a[] = {40, 1, 100},
                     counts_b[] = {64};
static const int64_t offsets_a[] = {0, 64, 128, 16, 300, 400}, offsets_b[] = {8};
static const int32_t layouts_a[] = {0, 1, 0}, layouts_b[] = {0};
static const float weights_a[] = {0.5f, 0.3f, 0.2f}, weights_b[] = {1};
static const ck_group groups[] = {
    {.n_members = 3,
     .members = members_a,
     .layout = layouts_a,
     .weights = weights_a,
     .n_ranges = 3,
     .count = counts_a,
     .offset = offsets_a,
     .packed = 16},
    {.n_members = 1,
     .members = members_b,
     .layout = layouts_b,
     .weights = weights_b,
     .n_ranges = 1,
     .count = counts_b,
     .offset = offsets_b,
     .packed = 256},
};

static void group_sum_and_spread(ck_backend *backend, verdict *c) {
    bench b = bench_open(backend, c);
    array p = array_create(&b, TABLE_FLOATS, 1), packed = array_create(&b, 512, 1);
    float before[TABLE_FLOATS], packed_before[512];
    memcpy(before, p.host, sizeof before);
    memcpy(packed_before, packed.host, sizeof packed_before);
    array_up(&b, &p);
    array_up(&b, &packed);
    if (!b.broken) worked(&b, ck_group_sum(b.stream, p.memory, groups, 2, packed.memory), "ck_group_sum");
    array_down(&b, &packed);
    array_down(&b, &p);
    for (int i = 0; i < 2; i++) oracle_group_sum(p.ref, &groups[i], packed.ref);
    compare(&b, "group sum", &packed, 0, 512);
    unchanged(&b, "packed values of no group", &packed, packed_before, 320, 192);
    unchanged(&b, "parameters during a sum", &p, before, 0, TABLE_FLOATS);
    /* Spread copies: to the bit, and nothing else moves. */
    for (int64_t i = 0; i < TABLE_FLOATS; i++) p.ref[i] = before[i];
    for (int64_t i = 0; i < packed.count; i++) packed.ref[i] = packed.host[i];
    for (int i = 0; i < 2; i++) oracle_group_spread(p.ref, &groups[i], packed.ref);
    if (!b.broken)
        worked(&b, ck_group_spread(b.stream, p.memory, groups, 2, packed.memory), "ck_group_spread");
    array_down(&b, &p);
    for (int64_t i = 0; i < TABLE_FLOATS; i++) before[i] = (float)p.ref[i];
    unchanged(&b, "something a spread should not touch, or a copy that is not exact", &p, before, 0,
              TABLE_FLOATS);
    compare(&b, "group spread", &p, 0, TABLE_FLOATS);
    array_destroy(&b, &p);
    array_destroy(&b, &packed);
    ck_stream_destroy(b.stream);
}

/* Gradients lie in the opposite order of the parameters; the last value of a range is at its anchor. */
static void group_proximal(ck_backend *backend, verdict *c) {
    static const int64_t gradients_a[] = {3000, 1500, 2500}, gradients_b[] = {100};
    ck_group pulled[] = {groups[0], groups[1]};
    pulled[0].gradients = gradients_a;
    pulled[1].gradients = gradients_b;
    bench b = bench_open(backend, c);
    array p = array_create(&b, TABLE_FLOATS, 1), packed = array_create(&b, 512, 1),
          g = array_create(&b, TABLE_FLOATS, 1);
    float before[TABLE_FLOATS];
    packed.ref[16 + 39] = packed.host[16 + 39] = p.host[2000 + 16 + 39]; /* of member 1, in layout 1 */
    for (int i = 0; i < 2; i++) oracle_group_proximal(p.ref, &pulled[i], packed.ref, g.ref);
    for (int64_t i = 0; i < TABLE_FLOATS; i++) before[i] = g.ref[i] == (double)g.host[i] ? g.host[i] : NAN;
    array *all[] = {&p, &packed, &g};
    for (int i = 0; i < 3; i++) array_up(&b, all[i]);
    if (!b.broken)
        worked(&b, ck_group_proximal(b.stream, p.memory, pulled, 2, packed.memory, g.memory),
               "ck_group_proximal");
    array_down(&b, &g);
    compare(&b, "proximal gradients", &g, 0, TABLE_FLOATS);
    verdict_exact(c, "the value at its anchor is one that stays", !isnan(before[1500 + 16 + 39]));
    for (int64_t i = 0; i < TABLE_FLOATS; i++)
        if (!isnan(before[i])) unchanged(&b, "a gradient that nothing pulls", &g, before, i, 1);
    for (int i = 0; i < 3; i++) array_destroy(&b, all[i]);
    ck_stream_destroy(b.stream);
}

const conformance_case update_cases[] = {
    {.group = "updates", .variant = {"AdamW on devices"}, .run_alone = adamw_devices},
    {.group = "updates", .variant = {"AdamW on ranges"}, .run_alone = adamw_ranges},
    {.group = "updates", .variant = {"group sum and spread"}, .run_alone = group_sum_and_spread},
    {.group = "updates", .variant = {"group proximal"}, .run_alone = group_proximal},
    {0}};

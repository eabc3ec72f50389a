/* updates.c - AdamW on the packs of all devices, and the sums and copies of aggregation.
 *
 *   adamw   parameter, both moments read and written, gradient read: 28 bytes a parameter
 *   group   one group of all N devices over one expert (A1, B1, A2, B2 of expert 0): c values of each are
 *           read and c written (sum), c are read and c of each written (spread) */
#include <stdlib.h>

#include "cases/costs.h"
#include "cases/expert_checks.h"
#include "rig/draw.h"

const ck_adamw_hyper BENCH_HYPER[2] = {
    {.learning_rate = 1e-2f,
     .weight_decay = 1e-2f,
     .beta1 = 0.9f,
     .beta2 = 0.99f,
     .epsilon = 1e-8f,
     .step = 2},
    {.learning_rate = 2e-2f, .weight_decay = 0, .beta1 = 0.8f, .beta2 = 0.95f, .epsilon = 1e-6f, .step = 3}};

ck_adamw_device *adamw_devices(const world *w) {
    ck_adamw_device *devices = calloc((size_t)w->n_devices, sizeof *devices);
    if (!devices) abort();
    for (int d = 0; d < w->n_devices; d++)
        devices[d] = (ck_adamw_device){.parameters = d * w->shape.total,
                                       .moments = d * w->shape.total,
                                       .gradients = d * w->shape.total,
                                       .learn = CK_LEARN_EXPERTS | CK_LEARN_ROUTER,
                                       .hyper = {BENCH_HYPER[0], BENCH_HYPER[1]}};
    return devices;
}

ck_status issue_adamw(const world *w, world_copy *c, const ck_adamw_device *devices) {
    return ck_adamw_devices(w->stream, c->packs[PACK_PARAMETERS], c->packs[PACK_MOMENT1],
                            c->packs[PACK_MOMENT2], c->packs[PACK_GRADIENTS], &w->shape, devices,
                            w->n_devices);
}

cost adamw_cost(const world *w) {
    double d = w->width, s = w->shape.rank_sum, h = w->shape.h_ranks,
           attention = 6 * d * w->shape.lora_rank[CK_SITE_QKV];
    double parameters = (w->shape.router_rows + h) * d + (h + s) * w->ffn + s * d + attention;
    return (cost){"adamw", 28.0 * w->n_devices * w->shape.n_layers * parameters, 0};
}

static void prepare_adamw(world *w) {
    w->needs = NEED_PACKS | NEED_GRADIENTS | NEED_MOMENTS;
    w->gradients_given = true;
    w->own = adamw_devices(w);
}

static ck_status issue_adamw_alone(const world *w, world_copy *c) {
    return issue_adamw(w, c, w->own);
}

static void verify_adamw(const world *w, verdict *v) {
    check_adamw(w, v, BENCH_HYPER);
}

static int costs_of_adamw(const world *w, cost *parts) {
    parts[0] = adamw_cost(w);
    return 1;
}

static void release(world *w) {
    free(w->own);
}

const bench_case adamw_update = {.name = "adamw",
                                 .direction = "update",
                                 .floor = "bytes 28 N ((R + 2 S) D + 2 S F)",
                                 .axes = AXES_PACKS,
                                 .prepare = prepare_adamw,
                                 .issue = issue_adamw_alone,
                                 .verify = verify_adamw,
                                 .costs = costs_of_adamw,
                                 .release = release};

/* ---- Aggregation */

enum { RANGES = 4, SUM_CHECKS = 4096, SPREAD_CHECKS = 4096 };

typedef struct {
    int64_t *members, count[RANGES], offset[RANGES], values; /* values: in a pack, sum of count */
    int32_t *layout;
    float *weights;
    ck_group group;
} group_world;

/* Rows of expert 0 in a part of the pack. */
static void lay_range(const world *w, group_world *g, int range, oracle_part part) {
    oracle_range all = oracle_part_range(&w->shape, 0, part);
    g->count[range] = all.count / w->shape.rank_sum * w->shape.rank[0];
    g->offset[range] = all.offset;
    g->values += g->count[range];
}

static void prepare_group(world *w) {
    const oracle_part parts[RANGES] = {ORACLE_A1, ORACLE_B1, ORACLE_A2, ORACLE_B2};
    group_world *g = calloc(1, sizeof *g);
    if (!g) abort();
    w->needs = NEED_PACKS;
    w->own = g;
    g->members = calloc((size_t)w->n_devices, sizeof *g->members);
    g->layout = calloc((size_t)w->n_devices, sizeof *g->layout);
    g->weights = calloc((size_t)w->n_devices, sizeof *g->weights);
    if (!g->members || !g->layout || !g->weights) abort();
    for (int d = 0; d < w->n_devices; d++) {
        g->members[d] = d * w->shape.total;
        g->weights[d] = 1.0f / (float)w->n_devices;
    }
    for (int i = 0; i < RANGES; i++) lay_range(w, g, i, parts[i]);
    g->group = (ck_group){.n_members = w->n_devices,
                          .members = g->members,
                          .layout = g->layout,
                          .weights = g->weights,
                          .n_ranges = RANGES,
                          .count = g->count,
                          .offset = g->offset};
}

static void prepare_group_sum(world *w) {
    prepare_group(w);
    world_buffer(w, PACKED, "packed", OUTPUT, ((group_world *)w->own)->values, 1);
}

static void prepare_group_spread(world *w) {
    prepare_group(w);
    world_buffer(w, PACKED, "packed", INPUT, ((group_world *)w->own)->values, 1);
}

static ck_status issue_group_sum(const world *w, world_copy *c) {
    return ck_group_sum(w->stream, c->packs[PACK_PARAMETERS], &((const group_world *)w->own)->group, 1,
                        c->buffer[PACKED]);
}

static ck_status issue_group_spread(const world *w, world_copy *c) {
    return ck_group_spread(w->stream, c->packs[PACK_PARAMETERS], &((const group_world *)w->own)->group, 1,
                           c->buffer[PACKED]);
}

/* Where packed value j lies in a member's pack. */
static int64_t offset_of(const group_world *g, int64_t j) {
    int range = 0;
    while (j >= g->count[range]) j -= g->count[range++];
    return g->offset[range] + j;
}

static void verify_group_sum(const world *w, verdict *v) {
    const group_world *g = w->own;
    picks some = picks_of(0, g->values, SUM_CHECKS);
    double *ref = oracle_zeros(some.n), tolerance = v->tolerance;
    float *out = calloc((size_t)some.n + 1, sizeof *out);
    for (int64_t i = 0; i < some.n && out; i++) {
        out[i] = w->buffer[PACKED].after[some.index[i]];
        for (int d = 0; d < w->n_devices; d++)
            ref[i] += (double)g->weights[d] *
                      (double)world_pack_value(w, PACK_PARAMETERS, d, offset_of(g, some.index[i]));
    }
    v->tolerance = 1e-5; /* f32 whatever the program */
    if (out) verdict_compare(v, "packed", out, ref, some.n);
    v->tolerance = tolerance;
    free(out);
    free(ref);
    picks_free(&some);
}

/* Copies are exact, and nothing else moves. */
static void verify_group_spread(const world *w, verdict *v) {
    const group_world *g = w->own;
    for (int i = 0; i < w->n_checked; i++) {
        const float *after = w->pack_after[PACK_PARAMETERS][i];
        picks some = picks_of(0, g->values, SPREAD_CHECKS),
              others = picks_of(0, w->shape.total, SPREAD_CHECKS);
        for (int64_t j = 0; j < some.n; j++)
            verdict_exact(v, "spread value",
                          after[offset_of(g, some.index[j])] == w->buffer[PACKED].before[some.index[j]]);
        for (int64_t j = 0; j < others.n; j++) {
            bool shared = false;
            for (int r = 0; r < RANGES; r++)
                shared |= others.index[j] >= g->offset[r] && others.index[j] < g->offset[r] + g->count[r];
            if (!shared)
                verdict_exact(v, "value that is nobody else's",
                              after[others.index[j]] ==
                                  world_pack_value(w, PACK_PARAMETERS, w->checked[i], others.index[j]));
        }
        picks_free(&some);
        picks_free(&others);
    }
}

static int costs_of_group(const world *w, cost *parts) {
    double values = (double)((const group_world *)w->own)->values;
    parts[0] = (cost){"group", 4 * values * (w->n_devices + 1), 0};
    return 1;
}

static void release_group(world *w) {
    group_world *g = w->own;
    free(g->members);
    free(g->layout);
    free(g->weights);
    free(g);
}

const bench_case group_sum = {.name = "group_sum",
                              .direction = "update",
                              .floor = "bytes 4 (N + 1) r (2 D + 2 F)",
                              .axes = AXES_PACKS,
                              .prepare = prepare_group_sum,
                              .issue = issue_group_sum,
                              .verify = verify_group_sum,
                              .costs = costs_of_group,
                              .release = release_group};

const bench_case group_spread = {.name = "group_spread",
                                 .direction = "update",
                                 .floor = "bytes 4 (N + 1) r (2 D + 2 F)",
                                 .axes = AXES_PACKS,
                                 .prepare = prepare_group_spread,
                                 .issue = issue_group_spread,
                                 .verify = verify_group_spread,
                                 .costs = costs_of_group,
                                 .release = release_group};

/* updates.c - AdamW on the packs of all devices, the sums and copies of aggregation, and proximal terms.
 *
 *   adamw   parameter, both moments read and written, gradient read: 28 bytes a parameter
 *   group   one group of all N devices over one expert (A1, B1, A2, B2 of expert 0): c values of each are
 *           read and c written (sum), c are read and c of each written (spread), c are read, c of each
 *           twice, and c of each written (proximal) */
#include <stdlib.h>

#include "cases/ops.h"

const ck_adamw_hyper BENCH_HYPER[2] = {
    {.learning_rate = 1e-2f,
     .weight_decay = 1e-2f,
     .beta1 = 0.9f,
     .beta2 = 0.99f,
     .epsilon = 1e-8f,
     .step = 2},
    {.learning_rate = 2e-2f, .weight_decay = 0, .beta1 = 0.8f, .beta2 = 0.95f, .epsilon = 1e-6f, .step = 3}};

ck_adamw_device *adamw_devices(const rig *r) {
    ck_adamw_device *devices = calloc((size_t)r->n_devices, sizeof *devices);
    if (!devices) abort();
    for (int d = 0; d < r->n_devices; d++)
        devices[d] = (ck_adamw_device){.parameters = r->devices[d].parameters,
                                       .moments = r->devices[d].parameters,
                                       .gradients = r->devices[d].gradients,
                                       .learn = CK_LEARN_EXPERTS | CK_LEARN_ROUTER,
                                       .hyper = {BENCH_HYPER[0], BENCH_HYPER[1]}};
    return devices;
}

ck_status issue_adamw(const rig *r, rig_copy *c, const ck_adamw_device *devices) {
    return ck_adamw_devices(r->stream, c->packs[PACK_PARAMETERS], c->packs[PACK_MOMENT1],
                            c->packs[PACK_MOMENT2], c->packs[PACK_GRADIENTS], &r->shapes[0], devices,
                            r->n_devices);
}

cost adamw_cost(const rig *r) {
    double d = r->width, s = r->shapes[0].rank_sum, h = r->shapes[0].h_ranks,
           attention = 6 * d * r->shapes[0].lora_rank[CK_SITE_QKV];
    double parameters = (r->shapes[0].router_rows + h) * d + (h + s) * r->ffn + s * d + attention;
    return (cost){"adamw", 28.0 * r->n_devices * r->shapes[0].n_layers * parameters, 0};
}

static void check_adamw_part(const rig *r, verdict *v, int i, int layer, oracle_part part,
                             const ck_adamw_hyper *hyper) {
    oracle_range range = oracle_part_range(&r->shapes[0], layer, part);
    double *value[PACK_MEMORIES];
    for (int m = 0; m < PACK_MEMORIES; m++) {
        bool came_out = m == PACK_GRADIENTS && !r->gradients_given;
        value[m] = oracle_zeros(range.count);
        for (int64_t j = 0; j < range.count; j++)
            value[m][j] = came_out
                              ? (double)r->pack_after[m][i][range.offset + j]
                              : (double)rig_pack_value(r, (pack_memory)m, r->checked[i], range.offset + j);
    }
    oracle_adamw((oracle_adamw_arrays){value[PACK_PARAMETERS], value[PACK_MOMENT1], value[PACK_MOMENT2],
                                       value[PACK_GRADIENTS]},
                 range.count, hyper);
    verdict_compare(v, "parameters", r->pack_after[PACK_PARAMETERS][i] + range.offset, value[PACK_PARAMETERS],
                    range.count);
    verdict_compare(v, "first moments", r->pack_after[PACK_MOMENT1][i] + range.offset, value[PACK_MOMENT1],
                    range.count);
    verdict_compare(v, "second moments", r->pack_after[PACK_MOMENT2][i] + range.offset, value[PACK_MOMENT2],
                    range.count);
    for (int m = 0; m < PACK_MEMORIES; m++) free(value[m]);
}

void check_adamw(const rig *r, verdict *v, const ck_adamw_hyper *hyper) {
    double tolerance = v->tolerance;
    v->tolerance = 1e-5; /* master parameters and moments are f32 whatever the program */
    for (int i = 0; i < r->n_checked; i++)
        for (int layer = 0; layer < r->shapes[0].n_layers; layer++)
            for (int part = 0; part < ORACLE_PARTS; part++)
                check_adamw_part(r, v, i, layer, (oracle_part)part,
                                 &hyper[oracle_part_class((oracle_part)part) == CK_LEARN_ROUTER]);
    v->tolerance = tolerance;
}

static void arrays_adamw(rig *r) {
    r->gradients_given = true;
    r->own = adamw_devices(r);
}

static ck_status issue_adamw_alone(const rig *r, rig_copy *c) {
    return issue_adamw(r, c, r->own);
}

static void verify_adamw(const rig *r, verdict *v) {
    check_adamw(r, v, BENCH_HYPER);
}

static void release(rig *r) {
    free(r->own);
}

const op_case adamw_update = {.group = "updates",
                              .name = "adamw",
                              .direction = "update",
                              .floor = "bytes 28 N ((R + 2 S) D + 2 S F)",
                              .axes = AXES_PACKS,
                              .needs = NEED_PACKS | NEED_GRADIENTS | NEED_MOMENTS,
                              .arrays = arrays_adamw,
                              .issue = issue_adamw_alone,
                              .verify = verify_adamw,
                              .cost_of = adamw_cost,
                              .release = release};

/* ---- Aggregation */

enum { RANGES = 4, SUM_CHECKS = 4096, SPREAD_CHECKS = 4096 };

typedef struct {
    int64_t *members, *gradients, count[RANGES], offset[RANGES], values; /* values: in a pack, sum of count */
    int32_t *layout;
    float *weights;
    ck_group group;
} group_world;

/* Rows of expert 0 in a part of the pack. */
static void lay_range(const rig *r, group_world *g, int range, oracle_part part) {
    oracle_range all = oracle_part_range(&r->shapes[0], 0, part);
    g->count[range] = all.count / r->shapes[0].rank_sum * r->shapes[0].rank[0];
    g->offset[range] = all.offset;
    g->values += g->count[range];
}

static void arrays_group(rig *r) {
    const oracle_part parts[RANGES] = {ORACLE_A1, ORACLE_B1, ORACLE_A2, ORACLE_B2};
    group_world *g = calloc(1, sizeof *g);
    if (!g) abort();
    r->own = g;
    g->members = calloc((size_t)r->n_devices, sizeof *g->members);
    g->gradients = calloc((size_t)r->n_devices, sizeof *g->gradients);
    g->layout = calloc((size_t)r->n_devices, sizeof *g->layout);
    g->weights = calloc((size_t)r->n_devices, sizeof *g->weights);
    if (!g->members || !g->gradients || !g->layout || !g->weights) abort();
    for (int d = 0; d < r->n_devices; d++) {
        g->members[d] = r->devices[d].parameters;
        g->gradients[d] = r->devices[d].gradients;
        g->weights[d] = 1.0f / (float)r->n_devices;
    }
    for (int i = 0; i < RANGES; i++) lay_range(r, g, i, parts[i]);
    g->group = (ck_group){.n_members = r->n_devices,
                          .members = g->members,
                          .gradients = g->gradients,
                          .layout = g->layout,
                          .weights = g->weights,
                          .n_ranges = RANGES,
                          .count = g->count,
                          .offset = g->offset};
}

static void arrays_group_sum(rig *r) {
    arrays_group(r);
    rig_buffer(r, PACKED, "packed", OUTPUT, ((group_world *)r->own)->values, 1);
}

/* A proximal term changes gradients that are there already. */
static void arrays_group_spread(rig *r) {
    arrays_group(r);
    r->gradients_given = true;
    rig_buffer(r, PACKED, "packed", INPUT, ((group_world *)r->own)->values, 1);
}

static ck_status issue_group_sum(const rig *r, rig_copy *c) {
    return ck_group_sum(r->stream, c->packs[PACK_PARAMETERS], &((const group_world *)r->own)->group, 1,
                        c->buffer[PACKED]);
}

static ck_status issue_group_spread(const rig *r, rig_copy *c) {
    return ck_group_spread(r->stream, c->packs[PACK_PARAMETERS], &((const group_world *)r->own)->group, 1,
                           c->buffer[PACKED]);
}

static ck_status issue_group_proximal(const rig *r, rig_copy *c) {
    return ck_group_proximal(r->stream, c->packs[PACK_PARAMETERS], &((const group_world *)r->own)->group, 1,
                             c->buffer[PACKED], c->packs[PACK_GRADIENTS]);
}

/* Where packed value j lies in a member's pack. */
static int64_t offset_of(const group_world *g, int64_t j) {
    int range = 0;
    while (j >= g->count[range]) j -= g->count[range++];
    return g->offset[range] + j;
}

static void verify_group_sum(const rig *r, verdict *v) {
    const group_world *g = r->own;
    picks some = picks_of(0, g->values, SUM_CHECKS);
    double *ref = oracle_zeros(some.n), tolerance = v->tolerance;
    float *out = calloc((size_t)some.n + 1, sizeof *out);
    for (int64_t i = 0; i < some.n && out; i++) {
        out[i] = r->buffer[PACKED].after[some.index[i]];
        for (int d = 0; d < r->n_devices; d++)
            ref[i] += (double)g->weights[d] *
                      (double)rig_pack_value(r, PACK_PARAMETERS, d, offset_of(g, some.index[i]));
    }
    v->tolerance = 1e-5; /* f32 whatever the program */
    if (out) verdict_compare(v, "packed", out, ref, some.n);
    v->tolerance = tolerance;
    free(out);
    free(ref);
    picks_free(&some);
}

/* Copies are exact, and nothing else moves. */
static void verify_group_spread(const rig *r, verdict *v) {
    const group_world *g = r->own;
    for (int i = 0; i < r->n_checked; i++) {
        const float *after = r->pack_after[PACK_PARAMETERS][i];
        picks some = picks_of(0, g->values, SPREAD_CHECKS),
              others = picks_of(0, r->shapes[0].total, SPREAD_CHECKS);
        for (int64_t j = 0; j < some.n; j++)
            verdict_exact(v, "spread value",
                          after[offset_of(g, some.index[j])] == r->buffer[PACKED].before[some.index[j]]);
        for (int64_t j = 0; j < others.n; j++) {
            bool shared = false;
            for (int k = 0; k < RANGES; k++)
                shared |= others.index[j] >= g->offset[k] && others.index[j] < g->offset[k] + g->count[k];
            if (!shared)
                verdict_exact(v, "value that is nobody else's",
                              after[others.index[j]] ==
                                  rig_pack_value(r, PACK_PARAMETERS, r->checked[i], others.index[j]));
        }
        picks_free(&some);
        picks_free(&others);
    }
}

static void verify_group_proximal(const rig *r, verdict *v) {
    const group_world *g = r->own;
    picks some = picks_of(0, g->values, SPREAD_CHECKS);
    double *ref = oracle_zeros(some.n);
    float *out = calloc((size_t)some.n + 1, sizeof *out);
    if (!out) abort();
    for (int i = 0; i < r->n_checked; i++) {
        for (int64_t j = 0; j < some.n; j++) {
            int64_t at = offset_of(g, some.index[j]);
            double p = (double)rig_pack_value(r, PACK_PARAMETERS, r->checked[i], at),
                   given = (double)rig_pack_value(r, PACK_GRADIENTS, r->checked[i], at);
            out[j] = r->pack_after[PACK_GRADIENTS][i][at];
            ref[j] = given + (double)g->weights[r->checked[i]] *
                                 (p - (double)r->buffer[PACKED].before[some.index[j]]);
        }
        verdict_compare(v, "proximal gradients", out, ref, some.n);
    }
    free(out);
    free(ref);
    picks_free(&some);
}

static cost cost_of_group(const rig *r) {
    double values = (double)((const group_world *)r->own)->values;
    return (cost){"group", 4 * values * (r->n_devices + 1), 0};
}

static cost cost_of_proximal(const rig *r) {
    double values = (double)((const group_world *)r->own)->values;
    return (cost){"proximal", 4 * values * (3 * r->n_devices + 1), 0};
}

static void release_group(rig *r) {
    group_world *g = r->own;
    free(g->members);
    free(g->gradients);
    free(g->layout);
    free(g->weights);
    free(g);
}

const op_case group_sum = {.group = "updates",
                           .name = "group_sum",
                           .direction = "update",
                           .floor = "bytes 4 (N + 1) r (2 D + 2 F)",
                           .axes = AXES_PACKS,
                           .needs = NEED_PACKS,
                           .arrays = arrays_group_sum,
                           .issue = issue_group_sum,
                           .verify = verify_group_sum,
                           .cost_of = cost_of_group,
                           .release = release_group};

const op_case group_spread = {.group = "updates",
                              .name = "group_spread",
                              .direction = "update",
                              .floor = "bytes 4 (N + 1) r (2 D + 2 F)",
                              .axes = AXES_PACKS,
                              .needs = NEED_PACKS,
                              .arrays = arrays_group_spread,
                              .issue = issue_group_spread,
                              .verify = verify_group_spread,
                              .cost_of = cost_of_group,
                              .release = release_group};

const op_case group_proximal = {.group = "updates",
                                .name = "group_proximal",
                                .direction = "update",
                                .floor = "bytes 4 (3 N + 1) r (2 D + 2 F)",
                                .axes = AXES_PACKS,
                                .needs = NEED_PACKS | NEED_GRADIENTS,
                                .arrays = arrays_group_spread,
                                .issue = issue_group_proximal,
                                .verify = verify_group_proximal,
                                .cost_of = cost_of_proximal,
                                .release = release_group};

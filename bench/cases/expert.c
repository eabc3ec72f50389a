/* expert.c - the expert layer's operations, each alone; the router is in route.c.
 *
 * a bytes of an activation, S sum of ranks, S' = S k / E, N devices, F = 4 D, I branches of the MLP (GELU 1,
 * SwiGLU 2), each with F columns of U and S ranks of h, rows of A1 and of B1:
 *   activation            U read, m written; h, gates read, g written; B1, A2 read
 *   expand                y read and written; g, gates read; B2 read
 *   expand, backward      dy read; g, gates read; q, dw written; B2 read, dB2 written
 *   activation, backward  U, dm read, dU written; h, q, gates read, p written, dw read and written; B1, A2
 *                         read, dB1, dA2 written
 *
 * g, q and dw of experts that a token has not chosen are nobody's business: a backend may skip them. */
#include "cases/linear.h"
#include "cases/ops.h"
#include "cases/versions.h"

enum { AFTER_LINEAR = 1, UNBIASED = 2 };

static double packs(const rig *r, double rows) {
    return 4.0 * r->n_devices * rows;
}

cost activation_cost(const rig *r) {
    double t = tokens_of(r), f = r->ffn, i = branches_of(r),
           weights = (r->shapes[0].h_ranks + r->shapes[0].rank_sum) * f;
    return (cost){"activation",
                  (i + 1) * activation_bytes(r) * t * f + h_bytes(r) + rank_bytes(r) + gates_bytes(r) +
                      packs(r, weights),
                  2 * (i + 1) * t * f * chosen_ranks(r)};
}

cost expand_cost(const rig *r) {
    double t = tokens_of(r), d = r->width, s = r->shapes[0].rank_sum;
    return (cost){"expand",
                  2 * activation_bytes(r) * t * d + rank_bytes(r) + gates_bytes(r) + packs(r, s * d),
                  2 * t * d * chosen_ranks(r)};
}

cost expand_backward_cost(const rig *r) {
    double t = tokens_of(r), d = r->width, s = r->shapes[0].rank_sum;
    return (cost){"expand backward",
                  activation_bytes(r) * t * d + 2 * rank_bytes(r) + 2 * gates_bytes(r) + packs(r, 2 * s * d),
                  4 * t * d * chosen_ranks(r)};
}

cost activation_backward_cost(const rig *r) {
    double t = tokens_of(r), f = r->ffn, i = branches_of(r),
           weights = (r->shapes[0].h_ranks + r->shapes[0].rank_sum) * f;
    return (cost){"activation backward",
                  (2 * i + 1) * activation_bytes(r) * t * f + 2 * h_bytes(r) + rank_bytes(r) +
                      3 * gates_bytes(r) + packs(r, 2 * weights),
                  (6 * i + 4) * t * f * chosen_ranks(r)};
}

/* ---- Activation */

static void arrays(rig *r) {
    rig_tensor(r, U, "u", INPUT, COLUMNS_UP);
    rig_gates(r, INPUT, INPUT);
    rig_tensor(r, M, "m", OUTPUT, COLUMNS_FFN);
    rig_tensor(r, G, "g", OUTPUT, COLUMNS_RANKS);
    rig_chosen(r, G);
}

static void record(const rig *r, rig_copy *c) {
    ck_op_expert_activation(c->program, &(ck_expert_activation){.u = c->tensor[U],
                                                                .zh = c->tensor[ZH],
                                                                .gates = c->tensor[GATES],
                                                                .m = c->tensor[M],
                                                                .g = c->tensor[G],
                                                                .ffn = r->ffn,
                                                                .layer = r->layer,
                                                                .mlp = r->shapes[0].mlp});
}

static void reference(view *v) {
    oracle_expert_activation(&v->adapter, v->rows.n, v->tensor[U], v->tensor[ZH], view_columns(v, ZH),
                             v->tensor[GATES], v->tensor[M], v->tensor[G], view_columns(v, G));
}

const op_case activation_forward = {
    .group = "experts",
    .name = "expert_activation",
    .direction = "forward",
    .floor = "bytes (I + 1) a T F + 4 T (I + 1) S + 64 T + 4 N (I + 1) S F; FLOPs 2 (I + 1) T F S'",
    .axes = AXES_MLP,
    .needs = NEED_PACKS,
    .arrays = arrays,
    .record = record,
    .reference = reference,
    .cost_of = activation_cost,
    .variants = {{"expert activation"}}};

static void arrays_backward(rig *r) {
    rig_tensor(r, U, "u", INPUT, COLUMNS_UP);
    rig_gates(r, INPUT, INPUT);
    rig_tensor(r, DM, "dm", INPUT, COLUMNS_FFN);
    rig_tensor(r, Q, "q", INPUT, COLUMNS_RANKS);
    rig_tensor(r, DU, "du", OUTPUT, COLUMNS_UP);
    rig_tensor(r, P, "p", OUTPUT, COLUMNS_H);
    rig_tensor(r, DW, "dw", IN_PLACE, COLUMNS_EXPERTS);
    rig_chosen(r, DW);
}

static void record_backward(const rig *r, rig_copy *c) {
    ck_op_expert_activation_backward(c->program, &(ck_expert_activation_backward){.u = c->tensor[U],
                                                                                  .zh = c->tensor[ZH],
                                                                                  .gates = c->tensor[GATES],
                                                                                  .dm = c->tensor[DM],
                                                                                  .q = c->tensor[Q],
                                                                                  .du = c->tensor[DU],
                                                                                  .p = c->tensor[P],
                                                                                  .dw = c->tensor[DW],
                                                                                  .ffn = r->ffn,
                                                                                  .layer = r->layer,
                                                                                  .mlp = r->shapes[0].mlp});
}

static void reference_backward(view *v) {
    oracle_expert_activation_backward(&v->adapter, v->rows.n, v->tensor[U], v->tensor[ZH],
                                      view_columns(v, ZH), v->tensor[GATES], v->tensor[DM], v->tensor[Q],
                                      view_columns(v, Q), v->tensor[DU], v->tensor[P], view_columns(v, P),
                                      v->tensor[DW]);
}

const op_case activation_backward = {
    .group = "experts",
    .name = "expert_activation",
    .direction = "backward",
    .floor = "bytes (2 I + 1) a T F + 4 T (2 I + 1) S + 192 T + 8 N (I + 1) S F; FLOPs (6 I + 4) T F S'",
    .axes = AXES_MLP,
    .needs = NEED_PACKS | NEED_GRADIENTS,
    .gradients = 1u << ORACLE_B1 | 1u << ORACLE_A2,
    .arrays = arrays_backward,
    .record = record_backward,
    .reference = reference_backward,
    .cuts = {{COLUMNS_FFN, 1u << ORACLE_B1 | 1u << ORACLE_A2, DU}},
    .cost_of = activation_backward_cost,
    .variants = {{"expert activation, backward"}}};

/* ---- Expand */

/* AFTER_LINEAR: y is that of a linear just before, which then adds the base product to what the experts have
 * begun. */
static const linear_arrays BASE = {
    .x = M, .y = Y, .residual = RESIDUAL, .factor = BIAS_FACTOR, .weight = WEIGHT, .bias = BIAS};

static void arrays_expand(rig *r) {
    rig_gates(r, INPUT, INPUT);
    rig_tensor(r, G, "g", INPUT, COLUMNS_RANKS);
    rig_tensor(r, Y, "y", r->flags & AFTER_LINEAR ? OUTPUT : IN_PLACE, COLUMNS_WIDTH);
    if (!(r->flags & AFTER_LINEAR)) return;
    rig_tensor(r, M, "m", INPUT, COLUMNS_FFN);
    rig_tensor(r, RESIDUAL, "residual", INPUT, COLUMNS_WIDTH);
    rig_tensor_of(r, BIAS_FACTOR, "bias_factor", INPUT, 1);
    versions_arrays(r, (versions_size){r->ffn, r->width, false, 0.2, 3});
}

static void record_expand(const rig *r, rig_copy *c) {
    if (r->flags & AFTER_LINEAR) linear_record(r, c, BASE);
    ck_op_expert_expand(
        c->program, &(ck_expert_expand){
                        .g = c->tensor[G], .gates = c->tensor[GATES], .y = c->tensor[Y], .layer = r->layer});
}

static void reference_expand(view *v) {
    if (v->r->flags & AFTER_LINEAR) linear_reference(v, BASE);
    oracle_expert_expand(&v->adapter, v->rows.n, v->tensor[G], view_columns(v, G), v->tensor[GATES],
                         v->tensor[Y]);
}

const op_case expand_forward = {
    .group = "experts",
    .name = "expert_expand",
    .direction = "forward",
    .floor = "bytes 2 a T D + 4 T S + 64 T + 4 N S D; FLOPs 2 T D S'",
    .axes = AXES_EXPERTS,
    .needs = NEED_PACKS,
    .arrays = arrays_expand,
    .record = record_expand,
    .reference = reference_expand,
    .cost_of = expand_cost,
    .variants = {{"expert expand"},
                 {"linear and expert expand", AFTER_LINEAR},
                 {"linear of variants and expert expand", AFTER_LINEAR | OF_VARIANTS, .group = "variants"}}};

static void arrays_expand_backward(rig *r) {
    rig_gates(r, INPUT, INPUT);
    rig_tensor(r, DY, "dy", INPUT, COLUMNS_WIDTH);
    rig_tensor(r, G, "g", INPUT, COLUMNS_RANKS);
    rig_tensor(r, Q, "q", OUTPUT, COLUMNS_RANKS);
    rig_tensor(r, DW, "dw", OUTPUT, COLUMNS_EXPERTS);
    if (!(r->flags & UNBIASED)) rig_buffer(r, BIAS2, "bias", INPUT, r->width, 1);
    if (r->flags & OF_VARIANTS) versions_arrays(r, (versions_size){r->ffn, r->width, true, 0.1, 1});
    rig_chosen(r, Q);
    rig_chosen(r, DW);
}

static void record_expand_backward(const rig *r, rig_copy *c) {
    ck_op_expert_expand_backward(c->program, &(ck_expert_expand_backward){.dy = c->tensor[DY],
                                                                          .g = c->tensor[G],
                                                                          .gates = c->tensor[GATES],
                                                                          .q = c->tensor[Q],
                                                                          .dw = c->tensor[DW],
                                                                          .bias = c->buffer[BIAS2],
                                                                          .layer = r->layer,
                                                                          .linear = versions_linear(r)});
}

static void reference_expand_backward(view *v) {
    oracle_expert_expand_backward(&v->adapter, v->rows.n, versions_bias(v, BIAS2), v->tensor[DY],
                                  v->tensor[G], view_columns(v, G), v->tensor[GATES], v->tensor[Q],
                                  v->tensor[DW]);
}

const op_case expand_backward = {
    .group = "experts",
    .name = "expert_expand",
    .direction = "backward",
    .floor = "bytes a T D + 8 T S + 128 T + 8 N S D; FLOPs 4 T D S'",
    .axes = AXES_EXPERTS,
    .needs = NEED_PACKS | NEED_GRADIENTS,
    .gradients = 1u << ORACLE_B2,
    .arrays = arrays_expand_backward,
    .record = record_expand_backward,
    .reference = reference_expand_backward,
    .cuts = {{COLUMNS_WIDTH, 1u << ORACLE_B2, NO_TENSOR}},
    .cost_of = expand_backward_cost,
    .variants = {{"expert expand, backward"},
                 {"expert expand, backward, without bias", UNBIASED},
                 {"expert expand of variants, backward", OF_VARIANTS, .group = "variants"},
                 {"expert expand of variants, backward, bias in variants only", UNBIASED | OF_VARIANTS,
                  .group = "variants"}}};

/* expert.c - the expert layer's operations, each alone.
 *
 * a bytes of an activation, R router rows, S sum of ranks, S' = S k / E, N devices, F = 4 D, I branches of
 * the MLP (GELU 1, SwiGLU 2), each with F columns of U and S ranks of h, rows of A1 and of B1:
 *   route                 x read; z and h, gates written; R and A1 read
 *   activation            U read, m written; h, gates read, g written; B1, A2 read
 *   expand                y read and written; g, gates read; B2 read
 *   expand, backward      dy read; g, gates read; q, dw written; B2 read, dB2 written
 *   activation, backward  U, dm read, dU written; h, q, gates read, p written, dw read and written; B1, A2
 *                         read, dB1, dA2 written
 *   route, backward       x read, dx written; z, gates, dw, p read; R, A1 read, dR, dA1 written */
#include "cases/costs.h"
#include "cases/expert_checks.h"

static double packs(const world *w, double rows) {
    return 4.0 * w->n_devices * rows;
}

cost route_cost(const world *w) {
    double t = tokens_of(w), d = w->width, rows = w->shape.router_rows + w->shape.h_ranks;
    return (cost){"route", activation_bytes(w) * t * d + 4 * t * rows + gates_bytes(w) + packs(w, rows * d),
                  2 * t * d * rows};
}

cost activation_cost(const world *w) {
    double t = tokens_of(w), f = w->ffn, i = branches_of(w),
           weights = (w->shape.h_ranks + w->shape.rank_sum) * f;
    return (cost){"activation",
                  (i + 1) * activation_bytes(w) * t * f + h_bytes(w) + rank_bytes(w) + gates_bytes(w) +
                      packs(w, weights),
                  2 * (i + 1) * t * f * chosen_ranks(w)};
}

cost expand_cost(const world *w) {
    double t = tokens_of(w), d = w->width, s = w->shape.rank_sum;
    return (cost){"expand",
                  2 * activation_bytes(w) * t * d + rank_bytes(w) + gates_bytes(w) + packs(w, s * d),
                  2 * t * d * chosen_ranks(w)};
}

cost expand_backward_cost(const world *w) {
    double t = tokens_of(w), d = w->width, s = w->shape.rank_sum;
    return (cost){"expand backward",
                  activation_bytes(w) * t * d + 2 * rank_bytes(w) + 2 * gates_bytes(w) + packs(w, 2 * s * d),
                  4 * t * d * chosen_ranks(w)};
}

cost activation_backward_cost(const world *w) {
    double t = tokens_of(w), f = w->ffn, i = branches_of(w),
           weights = (w->shape.h_ranks + w->shape.rank_sum) * f;
    return (cost){"activation backward",
                  (2 * i + 1) * activation_bytes(w) * t * f + 2 * h_bytes(w) + rank_bytes(w) +
                      3 * gates_bytes(w) + packs(w, 2 * weights),
                  (6 * i + 4) * t * f * chosen_ranks(w)};
}

cost route_backward_cost(const world *w) {
    double t = tokens_of(w), d = w->width, rows = w->shape.router_rows + w->shape.h_ranks;
    return (cost){"route backward",
                  2 * activation_bytes(w) * t * d + 4 * t * rows + 2 * gates_bytes(w) +
                      packs(w, 2 * rows * d),
                  4 * t * d * rows};
}

static void backward_needs(world *w) {
    w->needs = NEED_PACKS | NEED_GRADIENTS;
    w->learn = CK_LEARN_EXPERTS | CK_LEARN_ROUTER;
}

/* ---- Route */

static void prepare_route(world *w) {
    w->needs = NEED_PACKS;
    world_tensor(w, X, "x", INPUT, w->width, true, 1);
    world_gates(w, OUTPUT, OUTPUT);
}

static void record_route(const world *w, world_copy *c) {
    (void)w;
    ck_op_route(c->program, &(ck_route){.x = c->tensor[X],
                                        .zh = c->tensor[ZH],
                                        .gates = c->tensor[GATES],
                                        .bias_factor = c->tensor[BIAS_FACTOR],
                                        .n_layers = 1});
}

static int costs_of_route(const world *w, cost *parts) {
    parts[0] = route_cost(w);
    return 1;
}

const bench_case route_forward = {
    .name = "route",
    .direction = "forward",
    .floor = "bytes a T D + 4 T (R + I S) + 64 T + 4 N (R + I S) D; FLOPs 2 T D (R + I S)",
    .axes = AXES_MLP,
    .prepare = prepare_route,
    .record = record_route,
    .verify = check_route,
    .costs = costs_of_route};

/* p of experts that were not chosen is 0, as the operation before leaves it. */
static void clear_unchosen(world *w, tensor_id id) {
    const ck_shape *s = &w->shape;
    for (int64_t t = 0; t < w->n_tokens; t++)
        for (int e = 0; e < s->n_experts; e++)
            for (int r = s->rank_first[e]; r < s->rank_first[e + 1]; r++)
                for (int h = r; h < s->h_ranks && w->tensor[GATES].before[t * CK_MAX_EXPERTS + e] == 0;
                     h += s->rank_sum)
                    w->tensor[id].before[t * s->h_ranks + h] = 0;
}

static void prepare_route_backward(world *w) {
    backward_needs(w);
    world_tensor(w, X, "x", INPUT, w->width, true, 1);
    world_gates(w, INPUT, INPUT);
    world_tensor(w, DW, "dw", INPUT, CK_MAX_EXPERTS, false, 1);
    world_tensor(w, P, "p", INPUT, w->shape.h_ranks, false, 1);
    clear_unchosen(w, P);
    world_tensor(w, DX, "dx", OUTPUT, w->width, true, 1);
}

static void record_route_backward(const world *w, world_copy *c) {
    (void)w;
    ck_op_route_backward(c->program, &(ck_route_backward){.x = c->tensor[X],
                                                          .zh = c->tensor[ZH],
                                                          .gates = c->tensor[GATES],
                                                          .dw = c->tensor[DW],
                                                          .p = c->tensor[P],
                                                          .dx = c->tensor[DX],
                                                          .n_layers = 1});
}

static void verify_route_backward(const world *w, verdict *v) {
    check_route_backward(w, v, NULL);
}

static int costs_of_route_backward(const world *w, cost *parts) {
    parts[0] = route_backward_cost(w);
    return 1;
}

const bench_case route_backward = {
    .name = "route",
    .direction = "backward",
    .floor = "bytes 2 a T D + 4 T (R + I S) + 128 T + 8 N (R + I S) D; FLOPs 4 T D (R + I S)",
    .axes = AXES_MLP,
    .prepare = prepare_route_backward,
    .record = record_route_backward,
    .verify = verify_route_backward,
    .costs = costs_of_route_backward};

/* ---- Activation */

static void prepare_activation(world *w) {
    w->needs = NEED_PACKS;
    world_tensor(w, U, "u", INPUT, w->up, true, 1);
    world_gates(w, INPUT, INPUT);
    world_tensor(w, M, "m", OUTPUT, w->ffn, true, 1);
    world_tensor(w, G, "g", OUTPUT, w->shape.rank_sum, false, 1);
}

static void record_activation(const world *w, world_copy *c) {
    ck_op_expert_activation(c->program, &(ck_expert_activation){.u = c->tensor[U],
                                                                .zh = c->tensor[ZH],
                                                                .gates = c->tensor[GATES],
                                                                .m = c->tensor[M],
                                                                .g = c->tensor[G],
                                                                .ffn = w->ffn,
                                                                .mlp = w->shape.mlp});
}

static int costs_of_activation(const world *w, cost *parts) {
    parts[0] = activation_cost(w);
    return 1;
}

const bench_case activation_forward = {
    .name = "expert_activation",
    .direction = "forward",
    .floor = "bytes (I + 1) a T F + 4 T (I + 1) S + 64 T + 4 N (I + 1) S F; FLOPs 2 (I + 1) T F S'",
    .axes = AXES_MLP,
    .prepare = prepare_activation,
    .record = record_activation,
    .verify = check_activation,
    .costs = costs_of_activation};

static void prepare_activation_backward(world *w) {
    backward_needs(w);
    world_tensor(w, U, "u", INPUT, w->up, true, 1);
    world_gates(w, INPUT, INPUT);
    world_tensor(w, DM, "dm", INPUT, w->ffn, true, 1);
    world_tensor(w, Q, "q", INPUT, w->shape.rank_sum, false, 1);
    world_tensor(w, DU, "du", OUTPUT, w->up, true, 1);
    world_tensor(w, P, "p", OUTPUT, w->shape.h_ranks, false, 1);
    world_tensor(w, DW, "dw", IN_PLACE, CK_MAX_EXPERTS, false, 1);
}

static void record_activation_backward(const world *w, world_copy *c) {
    ck_op_expert_activation_backward(c->program, &(ck_expert_activation_backward){.u = c->tensor[U],
                                                                                  .zh = c->tensor[ZH],
                                                                                  .gates = c->tensor[GATES],
                                                                                  .dm = c->tensor[DM],
                                                                                  .q = c->tensor[Q],
                                                                                  .du = c->tensor[DU],
                                                                                  .p = c->tensor[P],
                                                                                  .dw = c->tensor[DW],
                                                                                  .ffn = w->ffn,
                                                                                  .mlp = w->shape.mlp});
}

static void verify_activation_backward(const world *w, verdict *v) {
    check_activation_backward(w, v, NULL);
}

static int costs_of_activation_backward(const world *w, cost *parts) {
    parts[0] = activation_backward_cost(w);
    return 1;
}

const bench_case activation_backward = {
    .name = "expert_activation",
    .direction = "backward",
    .floor = "bytes (2 I + 1) a T F + 4 T (2 I + 1) S + 192 T + 8 N (I + 1) S F; FLOPs (6 I + 4) T F S'",
    .axes = AXES_MLP,
    .prepare = prepare_activation_backward,
    .record = record_activation_backward,
    .verify = verify_activation_backward,
    .costs = costs_of_activation_backward};

/* ---- Expand */

static void prepare_expand(world *w) {
    w->needs = NEED_PACKS;
    world_gates(w, INPUT, INPUT);
    world_tensor(w, G, "g", INPUT, w->shape.rank_sum, false, 1);
    world_tensor(w, Y, "y", IN_PLACE, w->width, true, 1);
}

static void record_expand(const world *w, world_copy *c) {
    (void)w;
    ck_op_expert_expand(c->program,
                        &(ck_expert_expand){.g = c->tensor[G], .gates = c->tensor[GATES], .y = c->tensor[Y]});
}

static void verify_expand(const world *w, verdict *v) {
    check_expand(w, v, NULL);
}

static int costs_of_expand(const world *w, cost *parts) {
    parts[0] = expand_cost(w);
    return 1;
}

const bench_case expand_forward = {.name = "expert_expand",
                                   .direction = "forward",
                                   .floor = "bytes 2 a T D + 4 T S + 64 T + 4 N S D; FLOPs 2 T D S'",
                                   .axes = AXES_EXPERTS,
                                   .prepare = prepare_expand,
                                   .record = record_expand,
                                   .verify = verify_expand,
                                   .costs = costs_of_expand};

static void prepare_expand_backward(world *w) {
    backward_needs(w);
    world_gates(w, INPUT, INPUT);
    world_tensor(w, DY, "dy", INPUT, w->width, true, 1);
    world_tensor(w, G, "g", INPUT, w->shape.rank_sum, false, 1);
    world_tensor(w, Q, "q", OUTPUT, w->shape.rank_sum, false, 1);
    world_tensor(w, DW, "dw", OUTPUT, CK_MAX_EXPERTS, false, 1);
    world_buffer(w, BIAS2, "bias", INPUT, w->width, 1);
}

static void record_expand_backward(const world *w, world_copy *c) {
    (void)w;
    ck_op_expert_expand_backward(c->program, &(ck_expert_expand_backward){.dy = c->tensor[DY],
                                                                          .g = c->tensor[G],
                                                                          .gates = c->tensor[GATES],
                                                                          .q = c->tensor[Q],
                                                                          .dw = c->tensor[DW],
                                                                          .bias = c->buffer[BIAS2],
                                                                          .linear = -1});
}

static void verify_expand_backward(const world *w, verdict *v) {
    check_expand_backward(w, v, true);
}

static int costs_of_expand_backward(const world *w, cost *parts) {
    parts[0] = expand_backward_cost(w);
    return 1;
}

const bench_case expand_backward = {.name = "expert_expand",
                                    .direction = "backward",
                                    .floor = "bytes a T D + 8 T S + 128 T + 8 N S D; FLOPs 4 T D S'",
                                    .axes = AXES_EXPERTS,
                                    .prepare = prepare_expand_backward,
                                    .record = record_expand_backward,
                                    .verify = verify_expand_backward,
                                    .costs = costs_of_expand_backward};

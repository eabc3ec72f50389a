/* layer.c - a whole expert step of one layer: forward, backward, AdamW.
 *
 *   z, h = route(x)
 *   U = W_fc x + b_fc (with SwiGLU the rows of gate and up)
 *   m, g = activation(U, h)
 *   y = residual + W_pr m + b_pr sum w + expand(g)
 *   q, dw, dB2 = expand'(dy)
 *   dm = W_pr^T dy
 *   dU, p, dw, dB1, dA2 = activation'
 *   dx, dR, dA1 = route'
 *   dx += W_fc^T dU
 *
 * Made of the hooks of the single cases, whose arrays have the same names; the floor is the sum of their
 * floors. Each operation is judged on the inputs that it really had, which the one before it wrote: an error
 * is found where it is made. */
#include <stdlib.h>

#include "cases/linear.h"
#include "cases/ops.h"

static void arrays(rig *r) {
    double deviation = 0.5 / 16;
    rig_tensor(r, X, "x", INPUT, COLUMNS_WIDTH);
    rig_tensor(r, RESIDUAL, "residual", INPUT, COLUMNS_WIDTH);
    rig_tensor(r, DY, "dy", INPUT, COLUMNS_WIDTH);
    rig_gates(r, INNER, INNER);
    rig_tensor_of(r, BIAS_FACTOR, "bias_factor", INNER, 1);
    rig_tensor(r, U, "u", INNER, COLUMNS_UP);
    rig_tensor(r, M, "m", INNER, COLUMNS_FFN);
    rig_tensor(r, G, "g", INNER, COLUMNS_RANKS);
    rig_tensor(r, Y, "y", OUTPUT, COLUMNS_WIDTH);
    rig_tensor(r, Q, "q", INNER, COLUMNS_RANKS);
    rig_tensor(r, DW, "dw", INNER, COLUMNS_EXPERTS);
    rig_tensor(r, DM, "dm", INNER, COLUMNS_FFN);
    rig_tensor(r, DU, "du", INNER, COLUMNS_UP);
    rig_tensor(r, P, "p", INNER, COLUMNS_H);
    rig_tensor(r, DX, "dx", OUTPUT, COLUMNS_WIDTH);
    rig_chosen(r, G);
    rig_chosen(r, Q);
    rig_chosen(r, DW);
    rig_buffer(r, WEIGHT, "W_fc", INPUT, (int64_t)r->up * r->width, deviation);
    rig_buffer(r, BIAS, "b_fc", INPUT, r->up, deviation);
    rig_buffer(r, WEIGHT2, "W_pr", INPUT, (int64_t)r->width * r->ffn, deviation);
    rig_buffer(r, BIAS2, "b_pr", INPUT, r->width, 1);
    r->own = adamw_devices(r);
}

static void release(rig *r) {
    free(r->own);
}

static const linear_arrays UP = {.x = X, .y = U, .weight = WEIGHT, .bias = BIAS},
                           DOWN = {.x = M,
                                   .y = Y,
                                   .residual = RESIDUAL,
                                   .factor = BIAS_FACTOR,
                                   .weight = WEIGHT2,
                                   .bias = BIAS2};

static linear_backward_arrays down_backward(const rig *r) {
    return (linear_backward_arrays){.dy = DY, .dx = DM, .weight = WEIGHT2, .in = r->ffn};
}

static linear_backward_arrays up_backward(const rig *r) {
    return (linear_backward_arrays){.dy = DU, .dx = DX, .weight = WEIGHT, .in = r->width, .accumulate = true};
}

static void record(const rig *r, rig_copy *c) {
    route_forward.record(r, c);
    linear_record(r, c, UP);
    activation_forward.record(r, c);
    linear_record(r, c, DOWN);
    expand_forward.record(r, c);
    expand_backward.record(r, c);
    linear_record_backward(r, c, down_backward(r));
    activation_backward.record(r, c);
    route_backward.record(r, c);
    linear_record_backward(r, c, up_backward(r));
}

static ck_status issue(const rig *r, rig_copy *c) {
    ck_status status = ck_run(c->program, r->stream, &c->wave);
    return THEN(status, issue_adamw(r, c, r->own));
}

static void reference_and_judge(view *v, const op_case *which, tensor_id first, tensor_id second) {
    which->reference(v);
    if (first != NO_TENSOR) view_judge(v, first);
    if (second != NO_TENSOR) view_judge(v, second);
}

static void reference(view *v) {
    route_forward.reference(v);
    linear_reference(v, UP);
    view_judge(v, U);
    reference_and_judge(v, &activation_forward, M, G);
    linear_reference(v, DOWN);
    reference_and_judge(v, &expand_forward, Y, NO_TENSOR);
    reference_and_judge(v, &expand_backward, Q, NO_TENSOR);
    linear_reference_backward(v, down_backward(v->r));
    view_judge(v, DM);
    reference_and_judge(v, &activation_backward, DU, P);
    view_judge(v, DW);
    route_backward.reference(v);
    linear_reference_backward(v, up_backward(v->r));
}

static void verify(const rig *r, verdict *v) {
    check_adamw(r, v, BENCH_HYPER);
}

static int costs(const rig *r, cost *parts) {
    const cost all[] = {route_cost(r),
                        linear_cost(r, r->width, r->up),
                        activation_cost(r),
                        linear_cost(r, r->ffn, r->width),
                        expand_cost(r),
                        expand_backward_cost(r),
                        linear_cost(r, r->width, r->ffn),
                        activation_backward_cost(r),
                        route_backward_cost(r),
                        linear_cost(r, r->up, r->width),
                        adamw_cost(r)};
    int n = sizeof all / sizeof *all;
    for (int i = 0; i < n; i++) parts[i] = all[i];
    return n;
}

const op_case layer_step = {
    .group = "experts",
    .name = "expert_layer",
    .direction = "step",
    .floor = "the sum of the floors of route, linear (D to I F, F to D), expert_activation, expert_expand, "
             "the same "
             "backward, and adamw",
    .axes = AXES_MLP,
    .needs = NEED_PACKS | NEED_GRADIENTS | NEED_MOMENTS,
    .gradients = 1u << ORACLE_ROUTER | 1u << ORACLE_A1 | 1u << ORACLE_B1 | 1u << ORACLE_A2 | 1u << ORACLE_B2,
    .arrays = arrays,
    .record = record,
    .issue = issue,
    .reference = reference,
    /* another operation adds to dx */
    .cuts = {{COLUMNS_WIDTH, 1u << ORACLE_B2, NO_TENSOR, &expand_backward},
             {COLUMNS_FFN, 1u << ORACLE_B1 | 1u << ORACLE_A2, DU, &activation_backward},
             {COLUMNS_WIDTH, 1u << ORACLE_ROUTER | 1u << ORACLE_A1, NO_TENSOR, &route_backward}},
    .verify = verify,
    .costs = costs,
    .release = release};

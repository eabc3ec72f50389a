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
 * Recorded by the hooks of the single cases, whose tensors have the same names; the floor is the sum of their
 * floors. */
#include <stdlib.h>

#include "cases/costs.h"
#include "cases/expert_checks.h"
#include "rig/case.h"

static void prepare(world *w) {
    int d = w->width, f = w->ffn, s = w->shape.rank_sum;
    w->needs = NEED_PACKS | NEED_GRADIENTS | NEED_MOMENTS;
    w->learn = CK_LEARN_EXPERTS | CK_LEARN_ROUTER;
    world_tensor(w, X, "x", INPUT, d, true, 1);
    world_tensor(w, RESIDUAL, "residual", INPUT, d, true, 1);
    world_tensor(w, DY, "dy", INPUT, d, true, 1);
    world_gates(w, INNER, INNER);
    world_tensor(w, U, "u", INNER, w->up, true, 1);
    world_tensor(w, M, "m", INNER, f, true, 1);
    world_tensor(w, G, "g", INNER, s, false, 1);
    world_tensor(w, Y, "y", OUTPUT, d, true, 1);
    world_tensor(w, Q, "q", INNER, s, false, 1);
    world_tensor(w, DW, "dw", INNER, CK_MAX_EXPERTS, false, 1);
    world_tensor(w, DM, "dm", INNER, f, true, 1);
    world_tensor(w, DU, "du", INNER, w->up, true, 1);
    world_tensor(w, P, "p", INNER, w->shape.h_ranks, false, 1);
    world_tensor(w, DX, "dx", OUTPUT, d, true, 1);
    double deviation = 0.5 / 16;
    world_buffer(w, WEIGHT, "W_fc", INPUT, (int64_t)w->up * d, deviation);
    world_buffer(w, BIAS, "b_fc", INPUT, w->up, deviation);
    world_buffer(w, WEIGHT2, "W_pr", INPUT, (int64_t)d * f, deviation);
    world_buffer(w, BIAS2, "b_pr", INPUT, d, 1);
    w->own = adamw_devices(w);
}

static void release(world *w) {
    free(w->own);
}

static void record_forward(const world *w, world_copy *c) {
    route_forward.record(w, c);
    ck_op_linear(c->program, &(ck_linear){.x = c->tensor[X],
                                          .y = c->tensor[U],
                                          .weight = c->buffer[WEIGHT],
                                          .bias = c->buffer[BIAS],
                                          .in = w->width,
                                          .out = w->up});
    activation_forward.record(w, c);
    ck_op_linear(c->program, &(ck_linear){.x = c->tensor[M],
                                          .y = c->tensor[Y],
                                          .residual = c->tensor[RESIDUAL],
                                          .gates = c->tensor[GATES],
                                          .weight = c->buffer[WEIGHT2],
                                          .bias = c->buffer[BIAS2],
                                          .in = w->ffn,
                                          .out = w->width});
    expand_forward.record(w, c);
}

static void record_linear_backward(world_copy *c, tensor_id dy, tensor_id dx, buffer_id weight, int in,
                                   int out, bool accumulate) {
    ck_op_linear_backward(c->program, &(ck_linear_backward){.dy = c->tensor[dy],
                                                            .dx = c->tensor[dx],
                                                            .weight = c->buffer[weight],
                                                            .in = in,
                                                            .out = out,
                                                            .accumulate = accumulate,
                                                            .weight_gradient = -1,
                                                            .bias_gradient = -1});
}

static void record_backward(const world *w, world_copy *c) {
    expand_backward.record(w, c);
    record_linear_backward(c, DY, DM, WEIGHT2, w->ffn, w->width, false);
    activation_backward.record(w, c);
    route_backward.record(w, c);
    record_linear_backward(c, DU, DX, WEIGHT, w->width, w->up, true);
}

static void record(const world *w, world_copy *c) {
    record_forward(w, c);
    record_backward(w, c);
}

static ck_status issue(const world *w, world_copy *c) {
    ck_status status = ck_run(c->program, w->stream, &c->wave);
    return status == CK_OK ? issue_adamw(w, c, w->own) : status;
}

/* ---- What operations that add to an output found there */

static double *y_start(const world *w, int device, const picks *rows) {
    (void)device;
    double *gates = world_read(w, GATES, rows, NULL), *residual = world_read(w, RESIDUAL, rows, NULL),
           *factor = oracle_zeros(rows->n);
    oracle_bias_factor(&w->shape, rows->n, gates, factor);
    double *y = linear_value(w, M, WEIGHT2, BIAS2, factor, residual, rows, w->width);
    free(gates);
    free(residual);
    free(factor);
    return y;
}

static double *dw_start(const world *w, int device, const picks *rows) {
    device_reference ref = reference_of(w, device);
    oracle_adapter a = reference_adapter(&ref);
    int columns = w->shape.rank_sum;
    double *dy = world_read(w, DY, rows, NULL), *g = world_read(w, G, rows, NULL),
           *gates = world_read(w, GATES, rows, NULL);
    double *bias = oracle_from_floats(w->buffer[BIAS2].before, w->width);
    double *q = oracle_zeros(rows->n * columns), *dw = oracle_zeros(rows->n * CK_MAX_EXPERTS);
    oracle_expert_expand_backward(&a, rows->n, bias, dy, g, columns, gates, q, dw);
    free(dy);
    free(g);
    free(gates);
    free(bias);
    free(q);
    reference_free(&ref);
    return dw;
}

static double *dx_start(const world *w, int device, const picks *rows) {
    (void)device;
    return linear_backward_value(w, DU, WEIGHT, rows, w->width);
}

static void check_dm(const world *w, verdict *v) {
    for (int i = 0; i < w->n_checked; i++) {
        picks rows = world_some_rows(w, w->checked[i], (double)w->width * w->ffn);
        double *dm = linear_backward_value(w, DY, WEIGHT2, &rows, w->ffn);
        world_compare(w, v, DM, &rows, NULL, dm);
        free(dm);
        picks_free(&rows);
    }
}

static void verify(const world *w, verdict *v) {
    check_route(w, v);
    check_linear(w, v, X, U, WEIGHT, BIAS);
    check_activation(w, v);
    check_expand(w, v, y_start);
    check_expand_backward(w, v, false);
    check_dm(w, v);
    check_activation_backward(w, v, dw_start);
    check_route_backward(w, v, dx_start);
    check_adamw(w, v, BENCH_HYPER);
}

static int costs(const world *w, cost *parts) {
    const cost all[] = {route_cost(w),
                        linear_cost(w, w->width, w->up),
                        activation_cost(w),
                        linear_cost(w, w->ffn, w->width),
                        expand_cost(w),
                        expand_backward_cost(w),
                        linear_cost(w, w->width, w->ffn),
                        activation_backward_cost(w),
                        route_backward_cost(w),
                        linear_cost(w, w->up, w->width),
                        adamw_cost(w)};
    int n = sizeof all / sizeof *all;
    for (int i = 0; i < n; i++) parts[i] = all[i];
    return n;
}

const bench_case layer_step = {.name = "expert_layer",
                               .direction = "step",
                               .floor = "the sum of the floors of route, linear (D to I F, F to D), "
                                        "expert_activation, expert_expand, the same "
                                        "backward, and adamw",
                               .axes = AXES_MLP,
                               .prepare = prepare,
                               .record = record,
                               .issue = issue,
                               .verify = verify,
                               .costs = costs,
                               .release = release};

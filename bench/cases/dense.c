/* dense.c - the frozen transformer: LayerNorm, a base product, the tied head.
 *
 *   norm             x read, y written, mean and rstd written
 *   norm, backward   x, dy, statistics read, dx written
 *   linear           D to F: x, W read, y written
 *   linear, backward dy, W read, dx written
 *   head             x, embedding read, dx written; logits and dx are one product each */
#include <stdlib.h>
#include <string.h>

#include "cases/costs.h"
#include "cases/expert_checks.h"

static const float NORM_EPSILON = 1e-5f;

cost linear_cost(const world *w, int in, int out) {
    double t = tokens_of(w), i = in, o = out;
    return (cost){"linear", activation_bytes(w) * (t * (i + o) + i * o), 2 * t * i * o};
}

/* ---- Norm */

static oracle_norm_size norm_size(const world *w, int64_t rows) {
    return (oracle_norm_size){.n = rows, .width = w->width, .epsilon = (double)NORM_EPSILON};
}

static void prepare_norm(world *w) {
    world_tensor(w, X, "x", INPUT, w->width, true, 1);
    world_tensor(w, Y, "y", OUTPUT, w->width, true, 1);
    world_tensor(w, STATS, "stats", OUTPUT, 2, false, 1);
    world_buffer(w, GAIN, "gain", INPUT, w->width, 1);
    world_buffer(w, BIAS, "bias", INPUT, w->width, 1);
}

static void record_norm(const world *w, world_copy *c) {
    ck_op_norm(c->program, &(ck_norm){.x = c->tensor[X],
                                      .y = c->tensor[Y],
                                      .stats = c->tensor[STATS],
                                      .gain = c->buffer[GAIN],
                                      .bias = c->buffer[BIAS],
                                      .width = w->width,
                                      .epsilon = NORM_EPSILON});
}

static void verify_norm(const world *w, verdict *v) {
    picks rows = world_some_rows(w, 0, w->width);
    double *x = world_read(w, X, &rows, NULL), *gain = oracle_from_floats(w->buffer[GAIN].before, w->width),
           *bias = oracle_from_floats(w->buffer[BIAS].before, w->width), *y = oracle_zeros(rows.n * w->width),
           *stats = oracle_zeros(rows.n * 2);
    oracle_norm(norm_size(w, rows.n), x, gain, bias, y, stats);
    world_compare(w, v, Y, &rows, NULL, y);
    world_compare(w, v, STATS, &rows, NULL, stats);
    double *all[] = {x, gain, bias, y, stats};
    for (int i = 0; i < 5; i++) free(all[i]);
    picks_free(&rows);
}

cost norm_cost(const world *w) {
    return (cost){"norm", tokens_of(w) * (2 * activation_bytes(w) * w->width + 8) + 8.0 * w->width, 0};
}

static int costs_of_norm(const world *w, cost *parts) {
    parts[0] = norm_cost(w);
    return 1;
}

const bench_case norm_forward = {.name = "norm",
                                 .direction = "forward",
                                 .floor = "bytes 2 a T D + 8 T + 8 D",
                                 .axes = AXES_DENSE,
                                 .prepare = prepare_norm,
                                 .record = record_norm,
                                 .verify = verify_norm,
                                 .costs = costs_of_norm};

/* Statistics as the forward operation leaves them. */
static void prepare_norm_backward(world *w) {
    world_tensor(w, X, "x", INPUT, w->width, true, 1);
    world_tensor(w, DY, "dy", INPUT, w->width, true, 1);
    world_tensor(w, DX, "dx", OUTPUT, w->width, true, 1);
    world_tensor(w, STATS, "stats", INPUT, 2, false, 1);
    world_buffer(w, GAIN, "gain", INPUT, w->width, 1);
    double *zeros = oracle_zeros(w->width), *y = oracle_zeros(w->width), stats[2];
    for (int64_t t = 0; t < w->n_tokens; t++) {
        double *x = oracle_from_floats(w->tensor[X].before + t * w->width, w->width);
        oracle_norm(norm_size(w, 1), x, zeros, zeros, y, stats);
        for (int i = 0; i < 2; i++) w->tensor[STATS].before[2 * t + i] = (float)stats[i];
        free(x);
    }
    free(zeros);
    free(y);
}

static void record_norm_backward(const world *w, world_copy *c) {
    ck_op_norm_backward(c->program, &(ck_norm_backward){.x = c->tensor[X],
                                                        .stats = c->tensor[STATS],
                                                        .dy = c->tensor[DY],
                                                        .dx = c->tensor[DX],
                                                        .gain = c->buffer[GAIN],
                                                        .width = w->width,
                                                        .gain_gradient = -1,
                                                        .bias_gradient = -1});
}

static void verify_norm_backward(const world *w, verdict *v) {
    picks rows = world_some_rows(w, 0, w->width);
    double *x = world_read(w, X, &rows, NULL), *dy = world_read(w, DY, &rows, NULL),
           *gain = oracle_from_floats(w->buffer[GAIN].before, w->width),
           *dx = oracle_zeros(rows.n * w->width);
    oracle_norm_backward(norm_size(w, rows.n), x, gain, dy, dx, NULL, NULL);
    world_compare(w, v, DX, &rows, NULL, dx);
    double *all[] = {x, dy, gain, dx};
    for (int i = 0; i < 4; i++) free(all[i]);
    picks_free(&rows);
}

cost norm_backward_cost(const world *w, bool accumulate) {
    double arrays = accumulate ? 4 : 3;
    return (cost){"norm backward",
                  tokens_of(w) * (arrays * activation_bytes(w) * w->width + 8) + 4.0 * w->width, 0};
}

static int costs_of_norm_backward(const world *w, cost *parts) {
    parts[0] = norm_backward_cost(w, false);
    return 1;
}

const bench_case norm_backward = {.name = "norm",
                                  .direction = "backward",
                                  .floor = "bytes 3 a T D + 8 T + 4 D",
                                  .axes = AXES_DENSE,
                                  .prepare = prepare_norm_backward,
                                  .record = record_norm_backward,
                                  .verify = verify_norm_backward,
                                  .costs = costs_of_norm_backward};

/* ---- Linear */

static void prepare_linear(world *w) {
    world_tensor(w, X, "x", INPUT, w->width, true, 1);
    world_tensor(w, Y, "y", OUTPUT, w->ffn, true, 1);
    world_buffer(w, WEIGHT, "weight", INPUT, (int64_t)w->ffn * w->width, 0.1);
    world_buffer(w, BIAS, "bias", INPUT, w->ffn, 1);
}

static void record_linear(const world *w, world_copy *c) {
    ck_op_linear(c->program, &(ck_linear){.x = c->tensor[X],
                                          .y = c->tensor[Y],
                                          .weight = c->buffer[WEIGHT],
                                          .bias = c->buffer[BIAS],
                                          .in = w->width,
                                          .out = w->ffn,
                                          .linear = -1});
}

static void verify_linear(const world *w, verdict *v) {
    check_linear(w, v, X, Y, WEIGHT, BIAS);
}

static int costs_of_linear(const world *w, cost *parts) {
    parts[0] = linear_cost(w, w->width, w->ffn);
    return 1;
}

const bench_case linear_forward = {.name = "linear",
                                   .direction = "forward",
                                   .floor = "bytes a (T D + T F + D F); FLOPs 2 T D F",
                                   .axes = AXES_DENSE,
                                   .prepare = prepare_linear,
                                   .record = record_linear,
                                   .verify = verify_linear,
                                   .costs = costs_of_linear};

static void prepare_linear_backward(world *w) {
    world_tensor(w, DY, "dy", INPUT, w->ffn, true, 1);
    world_tensor(w, DX, "dx", OUTPUT, w->width, true, 1);
    world_buffer(w, WEIGHT, "weight", INPUT, (int64_t)w->ffn * w->width, 0.1);
}

static void record_linear_backward(const world *w, world_copy *c) {
    ck_op_linear_backward(c->program, &(ck_linear_backward){.dy = c->tensor[DY],
                                                            .dx = c->tensor[DX],
                                                            .weight = c->buffer[WEIGHT],
                                                            .in = w->width,
                                                            .out = w->ffn,
                                                            .linear = -1,
                                                            .weight_gradient = -1,
                                                            .bias_gradient = -1});
}

static void verify_linear_backward(const world *w, verdict *v) {
    picks rows = world_some_rows(w, 0, (double)w->width * w->ffn);
    double *dx = linear_backward_value(w, DY, WEIGHT, &rows, w->width);
    world_compare(w, v, DX, &rows, NULL, dx);
    free(dx);
    picks_free(&rows);
}

const bench_case linear_backward = {.name = "linear",
                                    .direction = "backward",
                                    .floor = "bytes a (T D + T F + D F); FLOPs 2 T D F",
                                    .axes = AXES_DENSE,
                                    .prepare = prepare_linear_backward,
                                    .record = record_linear_backward,
                                    .verify = verify_linear_backward,
                                    .costs = costs_of_linear};

/* ---- Head */

static void prepare_head(world *w) {
    world_tensor(w, X, "x", INPUT, w->width, true, 1);
    world_tensor(w, DX, "dx", OUTPUT, w->width, true, 1);
    world_buffer(w, WTE, "embedding", INPUT, (int64_t)w->at.value[AXIS_VOCABULARY] * w->width, 0.1);
    world_buffer(w, LOSS, "loss", OUTPUT, w->n_sequences, 1);
}

static void record_head(const world *w, world_copy *c) {
    ck_op_head(c->program, &(ck_head){.mode = CK_HEAD_STEP,
                                      .x = c->tensor[X],
                                      .dx = c->tensor[DX],
                                      .weight = c->buffer[WTE],
                                      .loss = c->buffer[LOSS],
                                      .width = w->width,
                                      .vocabulary = w->at.value[AXIS_VOCABULARY]});
}

/* Some rows of dx, and the loss of the first and last sequence. */
static void verify_head(const world *w, verdict *v) {
    oracle_head_size size = {.n = 1, .width = w->width, .vocabulary = w->at.value[AXIS_VOCABULARY]};
    picks rows = world_some_rows(w, 0, 2.0 * w->width * size.vocabulary),
          ends = picks_of(0, w->n_sequences, 2);
    double *x = world_read(w, X, &rows, NULL), *dx = oracle_zeros(rows.n * w->width);
    double *wte = oracle_from_floats(w->buffer[WTE].before, (int64_t)size.vocabulary * size.width);
    for (int64_t r = 0; r < rows.n; r++)
        oracle_head_backward(size, x + r * w->width, wte, w->targets + rows.index[r], 1.0 / tokens_of(w),
                             dx + r * w->width, NULL);
    world_compare(w, v, DX, &rows, NULL, dx);
    for (int64_t i = 0; i < ends.n; i++) {
        int64_t first = w->first_token[ends.index[i]];
        size.n = w->first_token[ends.index[i] + 1] - first;
        double *sequence = oracle_from_floats(w->tensor[X].before + first * w->width, size.n * w->width);
        double loss = oracle_head(size, sequence, wte, w->targets + first, NULL);
        verdict_compare(v, "loss", w->buffer[LOSS].after + ends.index[i], &loss, 1);
        free(sequence);
    }
    free(x);
    free(dx);
    free(wte);
    picks_free(&rows);
    picks_free(&ends);
}

cost head_cost(const world *w) {
    double t = tokens_of(w), d = w->width, vocabulary = w->at.value[AXIS_VOCABULARY];
    return (cost){"head", activation_bytes(w) * (2 * t * d + vocabulary * d) + 4 * t, 4 * t * d * vocabulary};
}

static int costs_of_head(const world *w, cost *parts) {
    parts[0] = head_cost(w);
    return 1;
}

const bench_case head_step = {.name = "head",
                              .direction = "step",
                              .floor = "bytes a (2 T D + V D) + 4 T; FLOPs 4 T D V",
                              .axes = AXES_SEQUENCES | 1 << AXIS_VOCABULARY,
                              .prepare = prepare_head,
                              .record = record_head,
                              .verify = verify_head,
                              .costs = costs_of_head};

/* norm.c - LayerNorm, and RMSNorm, which has no bias.
 *
 *   norm             x read, y written, mean (RMSNorm: 0) and rstd written
 *   norm, backward   x, dy, statistics read, dx written (accumulate: read too) */
#include <stdlib.h>

#include "cases/ops.h"

static const float EPSILON = 1e-5f;
enum { ACCUMULATE = 1 };

static oracle_norm_size size_of(const rig *r, int64_t rows) {
    return (oracle_norm_size){.n = rows, .width = r->width, .epsilon = (double)EPSILON};
}

static bool is_rms(const rig *r) {
    return r->which == &rms_norm_forward || r->which == &rms_norm_backward;
}

/* Of an RMSNorm far from mean 0, so that an op that takes the mean off shows. */
static void input(rig *r) {
    rig_tensor(r, X, "x", INPUT, COLUMNS_WIDTH);
    for (int64_t i = 0; i < r->n_tokens * r->width && is_rms(r); i++) r->tensor[X].before[i] += 2;
}

static void arrays(rig *r) {
    input(r);
    rig_tensor(r, Y, "y", OUTPUT, COLUMNS_WIDTH);
    rig_tensor_of(r, STATS, "stats", OUTPUT, 2);
    rig_buffer(r, GAIN, "gain", INPUT, r->width, 1);
    if (!is_rms(r)) rig_buffer(r, BIAS, "bias", INPUT, r->width, 1);
}

static void record(const rig *r, rig_copy *c) {
    ck_op_norm(c->program, &(ck_norm){.x = c->tensor[X],
                                      .y = c->tensor[Y],
                                      .stats = c->tensor[STATS],
                                      .gain = c->buffer[GAIN],
                                      .bias = c->buffer[BIAS],
                                      .width = r->width,
                                      .epsilon = EPSILON,
                                      .kind = is_rms(r) ? CK_RMS_NORM : CK_LAYER_NORM});
}

static void reference(view *v) {
    oracle_norm_size size = size_of(v->r, v->rows.n);
    if (is_rms(v->r))
        oracle_rms_norm(size, v->tensor[X], v->buffer[GAIN], v->tensor[Y], v->tensor[STATS]);
    else
        oracle_norm(size, v->tensor[X], v->buffer[GAIN], v->buffer[BIAS], v->tensor[Y], v->tensor[STATS]);
}

cost norm_cost(const rig *r) {
    return (cost){"norm", tokens_of(r) * (2 * activation_bytes(r) * r->width + 8) + 8.0 * r->width, 0};
}

static cost rms_norm_cost(const rig *r) {
    cost c = norm_cost(r);
    c.bytes -= 4.0 * r->width;
    return c;
}

const op_case norm_forward = {.group = "transformer",
                              .name = "norm",
                              .direction = "forward",
                              .floor = "bytes 2 a T D + 8 T + 8 D",
                              .axes = AXES_DENSE,
                              .arrays = arrays,
                              .record = record,
                              .reference = reference,
                              .cost_of = norm_cost,
                              .variants = {{"norm"}}};

const op_case rms_norm_forward = {.group = "llama",
                                  .name = "rms",
                                  .direction = "forward",
                                  .floor = "bytes 2 a T D + 8 T + 4 D",
                                  .axes = AXES_DENSE,
                                  .arrays = arrays,
                                  .record = record,
                                  .reference = reference,
                                  .cost_of = rms_norm_cost,
                                  .variants = {{"RMS norm"}}};

/* Statistics as the forward operation leaves them. */
static void arrays_backward(rig *r) {
    input(r);
    rig_tensor(r, DY, "dy", INPUT, COLUMNS_WIDTH);
    rig_tensor(r, DX, "dx", r->flags & ACCUMULATE ? IN_PLACE : OUTPUT, COLUMNS_WIDTH);
    rig_tensor_of(r, STATS, "stats", INPUT, 2);
    rig_buffer(r, GAIN, "gain", INPUT, r->width, 1);
    if (r->trains_base) rig_base_gradient(r, DWEIGHT, "dgain", 32, r->width);
    if (r->trains_base && !is_rms(r)) rig_base_gradient(r, DBIAS, "dbias", 512, r->width);
    double *zeros = oracle_zeros(r->width), *y = oracle_zeros(r->width), stats[2];
    for (int64_t t = 0; t < r->n_tokens; t++) {
        double *x = oracle_from_floats(r->tensor[X].before + t * r->width, r->width);
        if (is_rms(r))
            oracle_rms_norm(size_of(r, 1), x, zeros, y, stats);
        else
            oracle_norm(size_of(r, 1), x, zeros, zeros, y, stats);
        for (int i = 0; i < 2; i++) r->tensor[STATS].before[2 * t + i] = (float)stats[i];
        free(x);
    }
    free(zeros);
    free(y);
}

static void record_backward(const rig *r, rig_copy *c) {
    ck_op_norm_backward(c->program,
                        &(ck_norm_backward){.x = c->tensor[X],
                                            .stats = c->tensor[STATS],
                                            .dy = c->tensor[DY],
                                            .dx = c->tensor[DX],
                                            .gain = c->buffer[GAIN],
                                            .width = r->width,
                                            .gain_gradient = rig_gradient_at(r, DWEIGHT),
                                            .bias_gradient = is_rms(r) ? -1 : rig_gradient_at(r, DBIAS),
                                            .accumulate = (r->flags & ACCUMULATE) != 0,
                                            .kind = is_rms(r) ? CK_RMS_NORM : CK_LAYER_NORM});
}

static void reference_backward(view *v) {
    oracle_norm_size size = size_of(v->r, v->rows.n);
    if (is_rms(v->r))
        oracle_rms_norm_backward(size, v->tensor[X], v->buffer[GAIN], v->tensor[DY], v->tensor[DX],
                                 v->buffer[DWEIGHT]);
    else
        oracle_norm_backward(size, v->tensor[X], v->buffer[GAIN], v->tensor[DY], v->tensor[DX],
                             v->buffer[DWEIGHT], v->buffer[DBIAS]);
}

cost norm_backward_cost(const rig *r, bool accumulate) {
    double arrays = accumulate ? 4 : 3;
    return (cost){"norm backward",
                  tokens_of(r) * (arrays * activation_bytes(r) * r->width + 8) + 4.0 * r->width, 0};
}

static cost cost_backward(const rig *r) {
    return norm_backward_cost(r, false);
}

const op_case norm_backward = {.group = "transformer",
                               .name = "norm",
                               .direction = "backward",
                               .floor = "bytes 3 a T D + 8 T + 4 D",
                               .axes = AXES_DENSE,
                               .arrays = arrays_backward,
                               .record = record_backward,
                               .reference = reference_backward,
                               .cost_of = cost_backward,
                               .variants = {{"norm backward"},
                                            {"norm backward, accumulating", ACCUMULATE},
                                            {"norm backward, trained", ACCUMULATE, .trains_base = true}}};

const op_case rms_norm_backward = {
    .group = "llama",
    .name = "rms",
    .direction = "backward",
    .floor = "bytes 3 a T D + 8 T + 4 D",
    .axes = AXES_DENSE,
    .arrays = arrays_backward,
    .record = record_backward,
    .reference = reference_backward,
    .cost_of = cost_backward,
    .variants = {{"RMS norm backward"},
                 {"RMS norm backward, accumulating", ACCUMULATE},
                 {"RMS norm backward, trained", ACCUMULATE, .trains_base = true}}};

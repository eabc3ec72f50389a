/* linear.c - a base product; alone D to F.
 *
 *   linear             x, W read, y written
 *   linear, backward   dy, W read, dx written */
#include "cases/linear.h"

#include "cases/ops.h"
#include "cases/versions.h"

enum { RESIDUAL_GIVEN = 1, FACTORS = 2, DOWN = 4, TO_QKV = 8, ACCUMULATE = 16, NO_DX = 32, UNBIASED = 64 };

cost linear_cost(const rig *r, int in, int out) {
    double t = tokens_of(r), i = in, o = out;
    return (cost){"linear", activation_bytes(r) * (t * (i + o) + i * o), 2 * t * i * o};
}

static cost cost_alone(const rig *r) {
    return linear_cost(r, r->width, r->ffn);
}

/* size: columns of y. */
static void arrays(rig *r) {
    bool down = (r->flags & DOWN) != 0;
    int in = down ? r->ffn : r->width, out = r->size ? r->size : down ? r->width : r->ffn;
    if (r->flags & TO_QKV) out = 3 * r->width;
    rig_tensor_of(r, X, "x", INPUT, in);
    rig_tensor_of(r, Y, "y", OUTPUT, out);
    if (r->flags & RESIDUAL_GIVEN) rig_tensor_of(r, RESIDUAL, "residual", INPUT, out);
    if (r->flags & FACTORS) rig_tensor_of(r, BIAS_FACTOR, "bias_factor", INPUT, 1);
    versions_arrays(r, (versions_size){in, out, (r->flags & UNBIASED) != 0, 0.1, 1});
}

void linear_record(const rig *r, rig_copy *c, linear_arrays a) {
    ck_op_linear(c->program, &(ck_linear){.x = c->tensor[a.x],
                                          .y = c->tensor[a.y],
                                          .residual = c->tensor[a.residual],
                                          .bias_factor = c->tensor[a.factor],
                                          .weight = c->buffer[a.weight],
                                          .bias = c->buffer[a.bias],
                                          .in = r->tensor[a.x].columns,
                                          .out = r->tensor[a.y].columns,
                                          .linear = versions_linear(r)});
}

void linear_reference(view *v, linear_arrays a) {
    oracle_linear((oracle_linear_size){v->rows.n, view_columns(v, a.x), view_columns(v, a.y)}, v->tensor[a.x],
                  versions_weight(v, a.weight), versions_bias(v, a.bias), v->tensor[a.factor],
                  v->tensor[a.residual], v->tensor[a.y]);
}

static const linear_arrays ALONE = {
    .x = X, .y = Y, .residual = RESIDUAL, .factor = BIAS_FACTOR, .weight = WEIGHT, .bias = BIAS};

static void record(const rig *r, rig_copy *c) {
    linear_record(r, c, ALONE);
}

static void reference(view *v) {
    linear_reference(v, ALONE);
}

const op_case linear_forward = {
    .group = "transformer",
    .name = "linear",
    .direction = "forward",
    .floor = "bytes a (T D + T F + D F); FLOPs 2 T D F",
    .axes = AXES_DENSE,
    .arrays = arrays,
    .record = record,
    .reference = reference,
    .cost_of = cost_alone,
    .variants = {{"linear", TO_QKV},
                 {"linear with residual", DOWN | RESIDUAL_GIVEN},
                 {"linear to 7 columns", .size = 7},
                 {"linear with bias factors", DOWN | RESIDUAL_GIVEN | FACTORS},
                 {"linear without bias", DOWN | RESIDUAL_GIVEN | UNBIASED},
                 {"linear without bias, with bias factors", DOWN | RESIDUAL_GIVEN | FACTORS | UNBIASED},
                 {"linear of variants", TO_QKV | OF_VARIANTS, .group = "variants", .turns = 4},
                 {"linear of variants, with bias factors", DOWN | RESIDUAL_GIVEN | FACTORS | OF_VARIANTS,
                  .group = "variants", .turns = 4},
                 {"linear of variants, bias in variants only", UNBIASED | OF_VARIANTS, 7, .group = "variants",
                  .turns = 4}}};

static void arrays_backward(rig *r) {
    if (r->trains_base) rig_tensor(r, X, "x", INPUT, COLUMNS_WIDTH);
    rig_tensor(r, DY, "dy", INPUT, COLUMNS_FFN);
    if (!(r->flags & NO_DX))
        rig_tensor(r, DX, "dx", r->flags & ACCUMULATE ? IN_PLACE : OUTPUT, COLUMNS_WIDTH);
    versions_arrays(r, (versions_size){r->width, r->ffn, true, 0.1, 1});
    if (r->trains_base) {
        rig_base_gradient(r, DWEIGHT, "dweight", 2048, (int64_t)r->ffn * r->width);
        if (!(r->flags & UNBIASED)) rig_base_gradient(r, DBIAS, "dbias", 512, r->ffn);
    }
}

void linear_record_backward(const rig *r, rig_copy *c, linear_backward_arrays a) {
    ck_op_linear_backward(c->program, &(ck_linear_backward){.x = c->tensor[a.x],
                                                            .dy = c->tensor[a.dy],
                                                            .dx = c->tensor[a.dx],
                                                            .weight = c->buffer[a.weight],
                                                            .in = a.in,
                                                            .out = r->tensor[a.dy].columns,
                                                            .linear = versions_linear(r),
                                                            .accumulate = a.accumulate,
                                                            .weight_gradient = rig_gradient_at(r, DWEIGHT),
                                                            .bias_gradient = rig_gradient_at(r, DBIAS)});
}

void linear_reference_backward(view *v, linear_backward_arrays a) {
    oracle_linear_backward((oracle_linear_size){v->rows.n, a.in, view_columns(v, a.dy)}, v->tensor[a.x],
                           versions_weight(v, a.weight), v->tensor[a.dy], v->tensor[a.dx], v->buffer[DWEIGHT],
                           v->buffer[DBIAS]);
}

static linear_backward_arrays alone_backward(const rig *r) {
    return (linear_backward_arrays){X, DY, DX, WEIGHT, r->width, (r->flags & ACCUMULATE) != 0};
}

static void record_backward(const rig *r, rig_copy *c) {
    linear_record_backward(r, c, alone_backward(r));
}

static void reference_backward(view *v) {
    linear_reference_backward(v, alone_backward(v->r));
}

const op_case linear_backward = {
    .group = "transformer",
    .name = "linear",
    .direction = "backward",
    .floor = "bytes a (T D + T F + D F); FLOPs 2 T D F",
    .axes = AXES_DENSE,
    .arrays = arrays_backward,
    .record = record_backward,
    .reference = reference_backward,
    .cost_of = cost_alone,
    .variants = {
        {"linear backward"},
        {"linear backward, accumulating", ACCUMULATE},
        {"linear backward, trained", .trains_base = true},
        {"linear backward, weights only", NO_DX, .trains_base = true},
        {"linear backward without bias", UNBIASED, .trains_base = true},
        {"linear backward of variants", OF_VARIANTS, .group = "variants"},
        {"linear backward of variants, accumulating", ACCUMULATE | OF_VARIANTS, .group = "variants"}}};

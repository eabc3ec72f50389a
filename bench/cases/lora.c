/* lora.c - the LoRA at a site that is not routed, of rank ra; alone that of qkv. The conformance tests have
 * waves where some devices have it, with different ranks, and some have not.
 *
 *   lora             x read, y (3 D) read and written, h written; A, B read
 *   lora, backward   x, dy, h read, dx read and written; A, B read, dA, dB written */
#include "cases/linear.h"
#include "cases/ops.h"

enum { OF_OUT = 1, NO_DX = 2, BEGUN = 4, LINEAR_IN = 8 };

static ck_site site_of(const rig *r) {
    return r->flags & OF_OUT ? CK_SITE_OUT : CK_SITE_QKV;
}

static int out_of(const rig *r) {
    return r->flags & OF_OUT ? r->width : 3 * r->width;
}

/* BEGUN: y is that of a linear just before, which then adds the base product to what the LoRA has begun. */
static const linear_arrays BASE = {.x = U, .y = Y, .residual = RESIDUAL, .weight = WEIGHT, .bias = BIAS};

static void arrays(rig *r) {
    rig_tensor(r, X, "x", INPUT, COLUMNS_WIDTH);
    rig_tensor(r, H, "h", OUTPUT, COLUMNS_LORA);
    rig_tensor_of(r, Y, "y", r->flags & BEGUN ? OUTPUT : IN_PLACE, out_of(r));
    if (!(r->flags & BEGUN)) return;
    rig_tensor_of(r, U, "x of the linear", INPUT, LINEAR_IN);
    rig_tensor_of(r, RESIDUAL, "residual", INPUT, out_of(r));
    rig_buffer(r, WEIGHT, "weight", INPUT, (int64_t)LINEAR_IN * out_of(r), 0.2);
    rig_buffer(r, BIAS, "bias", INPUT, out_of(r), 3);
}

static void record(const rig *r, rig_copy *c) {
    if (r->flags & BEGUN) linear_record(r, c, BASE);
    ck_op_lora(c->program, &(ck_lora){.x = c->tensor[X],
                                      .h = c->tensor[H],
                                      .y = c->tensor[Y],
                                      .site = site_of(r),
                                      .in = r->width,
                                      .out = out_of(r),
                                      .layer = r->layer});
}

static void reference(view *v) {
    if (v->r->flags & BEGUN) linear_reference(v, BASE);
    oracle_lora(&v->adapter, site_of(v->r), v->rows.n, v->tensor[X], v->tensor[H], view_columns(v, H),
                v->tensor[Y]);
}

cost lora_cost(const rig *r, int out) {
    double t = tokens_of(r), d = r->width, o = out, rank = r->shapes[0].lora_rank[CK_SITE_QKV];
    return (cost){"lora",
                  activation_bytes(r) * t * (d + 2 * o) + 4 * t * rank + 4.0 * r->n_devices * rank * (d + o),
                  2 * t * rank * (d + o)};
}

static cost cost_alone(const rig *r) {
    return lora_cost(r, 3 * r->width);
}

const op_case lora_forward = {
    .group = "lora",
    .name = "lora",
    .direction = "forward",
    .floor = "bytes 7 a T D + 4 T ra + 16 N ra D; FLOPs 8 T ra D",
    .axes = AXES_LORA,
    .needs = NEED_PACKS,
    .arrays = arrays,
    .record = record,
    .reference = reference,
    .cost_of = cost_alone,
    .variants = {{"lora of qkv"}, {"lora of the output", OF_OUT}, {"lora of qkv after its linear", BEGUN}}};

static void arrays_backward(rig *r) {
    rig_tensor(r, X, "x", INPUT, COLUMNS_WIDTH);
    rig_tensor(r, H, "h", INPUT, COLUMNS_LORA);
    rig_tensor_of(r, DY, "dy", INPUT, out_of(r));
    if (!(r->flags & NO_DX)) rig_tensor(r, DX, "dx", IN_PLACE, COLUMNS_WIDTH);
    r->gradients =
        r->flags & OF_OUT ? 1u << ORACLE_OUT_A | 1u << ORACLE_OUT_B : 1u << ORACLE_QKV_A | 1u << ORACLE_QKV_B;
}

static void record_backward(const rig *r, rig_copy *c) {
    ck_op_lora_backward(c->program, &(ck_lora_backward){.x = c->tensor[X],
                                                        .h = c->tensor[H],
                                                        .dy = c->tensor[DY],
                                                        .dx = c->tensor[DX],
                                                        .site = site_of(r),
                                                        .in = r->width,
                                                        .out = out_of(r),
                                                        .layer = r->layer});
}

static void reference_backward(view *v) {
    oracle_lora_backward(&v->adapter, site_of(v->r), v->rows.n, v->tensor[X], v->tensor[H],
                         view_columns(v, H), v->tensor[DY], v->tensor[DX]);
}

cost lora_backward_cost(const rig *r, int out, bool input_gradient) {
    double t = tokens_of(r), d = r->width, o = out, rank = r->shapes[0].lora_rank[CK_SITE_QKV],
           dx = input_gradient ? d : 0;
    return (cost){"lora backward",
                  activation_bytes(r) * t * (d + o + 2 * dx) + 4 * t * rank +
                      8.0 * r->n_devices * rank * (d + o),
                  2 * t * rank * (d + 2 * o + dx)};
}

static cost cost_alone_backward(const rig *r) {
    return lora_backward_cost(r, 3 * r->width, true);
}

/* q needs whole rows of dy, and the gradients all rows of a device. */
const op_case lora_backward = {.group = "lora",
                               .name = "lora",
                               .direction = "backward",
                               .floor = "bytes 6 a T D + 4 T ra + 32 N ra D; FLOPs 16 T ra D",
                               .axes = AXES_LORA,
                               .needs = NEED_PACKS | NEED_GRADIENTS,
                               .rows = ROWS_DEVICE,
                               .arrays = arrays_backward,
                               .record = record_backward,
                               .reference = reference_backward,
                               .cost_of = cost_alone_backward,
                               .variants = {{"lora of qkv, backward"},
                                            {"lora of qkv, backward without dx", NO_DX},
                                            {"lora of the output, backward", OF_OUT}}};

/* swiglu.c - the dense MLP with a gate.
 *
 *   swiglu             u, gate and up, read, m written
 *   swiglu, backward   u, dm read, du written */
#include <math.h>

#include "cases/ops.h"

enum { FAR_OUT = 1 };

/* Far out silu is 0 or u: an overflowing exponential shows there. */
static void widen_gates(rig *r) {
    for (int64_t t = 0; t < r->n_tokens && r->flags & FAR_OUT; t++)
        for (int i = 0; i < r->ffn; i += 5) r->tensor[U].before[t * 2 * r->ffn + i] *= i % 2 == 0 ? 8 : 1000;
}

/* Far out, large values would hide small ones in a norm: what is compared is the ratio to max(1, |gate|). */
static void divide_by_gates(view *v, tensor_id id) {
    int ffn = v->r->ffn, columns = view_columns(v, id);
    for (int64_t i = 0; i < v->rows.n * columns && v->r->flags & FAR_OUT; i++) {
        double size = fmax(1, fabs(view_row(v, U, i / columns)[i % columns % ffn]));
        v->tensor[id][i] /= size;
        v->out[id][i] = (float)((double)v->out[id][i] / size);
    }
}

static void arrays(rig *r) {
    rig_tensor_of(r, U, "u", INPUT, 2 * r->ffn);
    rig_tensor(r, M, "m", OUTPUT, COLUMNS_FFN);
    widen_gates(r);
}

static void record(const rig *r, rig_copy *c) {
    ck_op_swiglu(c->program, &(ck_swiglu){.u = c->tensor[U], .m = c->tensor[M], .ffn = r->ffn});
}

static void reference(view *v) {
    oracle_swiglu(v->rows.n, v->r->ffn, v->tensor[U], v->tensor[M]);
    divide_by_gates(v, M);
}

static cost cost_forward(const rig *r) {
    return (cost){"swiglu", 3 * activation_bytes(r) * tokens_of(r) * r->ffn, 0};
}

const op_case swiglu_forward = {.group = "llama",
                                .name = "swiglu",
                                .direction = "forward",
                                .floor = "bytes 3 a T F",
                                .axes = AXES_DENSE,
                                .arrays = arrays,
                                .record = record,
                                .reference = reference,
                                .cost_of = cost_forward,
                                .variants = {{"swiglu"}, {"swiglu far out", FAR_OUT}}};

static void arrays_backward(rig *r) {
    rig_tensor_of(r, U, "u", INPUT, 2 * r->ffn);
    rig_tensor(r, DM, "dm", INPUT, COLUMNS_FFN);
    rig_tensor_of(r, DU, "du", OUTPUT, 2 * r->ffn);
    widen_gates(r);
}

static void record_backward(const rig *r, rig_copy *c) {
    ck_op_swiglu_backward(
        c->program,
        &(ck_swiglu_backward){.u = c->tensor[U], .dm = c->tensor[DM], .du = c->tensor[DU], .ffn = r->ffn});
}

static void reference_backward(view *v) {
    oracle_swiglu_backward(v->rows.n, v->r->ffn, v->tensor[U], v->tensor[DM], v->tensor[DU]);
    divide_by_gates(v, DU);
}

static cost cost_backward(const rig *r) {
    return (cost){"swiglu backward", 5 * activation_bytes(r) * tokens_of(r) * r->ffn, 0};
}

const op_case swiglu_backward = {.group = "llama",
                                 .name = "swiglu",
                                 .direction = "backward",
                                 .floor = "bytes 5 a T F",
                                 .axes = AXES_DENSE,
                                 .arrays = arrays_backward,
                                 .record = record_backward,
                                 .reference = reference_backward,
                                 .cost_of = cost_backward,
                                 .variants = {{"swiglu backward"}, {"swiglu backward far out", FAR_OUT}}};

/* gelu.c - the MLP of pre-training: m = gelu(u), du = dm gelu'(u). */
#include <math.h>

#include "cases/ops.h"

enum { FAR_OUT = 1, SAME_ARRAY = 2 };

/* Beyond +-10 gelu is 0 or u to the last bit of f32: a clamped or overflowing tanh shows there. */
static void widen(rig *r) {
    for (int64_t i = 0; i < r->n_tokens * r->ffn && r->flags & FAR_OUT; i += 5)
        r->tensor[U].before[i] *= i % 2 == 0 ? 8 : 1000;
}

static void arrays(rig *r) {
    rig_tensor(r, U, "u", INPUT, COLUMNS_FFN);
    rig_tensor(r, M, "m", OUTPUT, COLUMNS_FFN);
    widen(r);
}

static void record(const rig *r, rig_copy *c) {
    ck_op_gelu(c->program, &(ck_gelu){.u = c->tensor[U], .m = c->tensor[M], .ffn = r->ffn});
}

/* Far out, large values would hide small ones in a norm: what is compared is the ratio to max(1, |u|). */
static void reference(view *v) {
    for (int64_t i = 0; i < v->rows.n * v->r->ffn; i++) {
        double u = v->tensor[U][i], size = v->r->flags & FAR_OUT ? fmax(1, fabs(u)) : 1;
        v->tensor[M][i] = oracle_gelu(u) / size;
        v->out[M][i] = (float)((double)v->out[M][i] / size);
    }
}

const op_case gelu_forward = {.group = "transformer",
                              .name = "gelu",
                              .direction = "forward",
                              .arrays = arrays,
                              .record = record,
                              .reference = reference,
                              .variants = {{"gelu"}, {"gelu far out", FAR_OUT}}};

static void arrays_backward(rig *r) {
    bool same = (r->flags & SAME_ARRAY) != 0;
    rig_tensor(r, U, "u", INPUT, COLUMNS_FFN);
    rig_tensor(r, DM, "dm", same ? IN_PLACE : INPUT, COLUMNS_FFN);
    if (!same) rig_tensor(r, DU, "du", OUTPUT, COLUMNS_FFN);
    widen(r);
}

static void record_backward(const rig *r, rig_copy *c) {
    ck_tensor *du = c->tensor[r->flags & SAME_ARRAY ? DM : DU];
    ck_op_gelu_backward(c->program,
                        &(ck_gelu_backward){.u = c->tensor[U], .dm = c->tensor[DM], .du = du, .ffn = r->ffn});
}

static void reference_backward(view *v) {
    double *du = v->tensor[v->r->flags & SAME_ARRAY ? DM : DU];
    for (int64_t i = 0; i < v->rows.n * v->r->ffn; i++)
        du[i] = v->tensor[DM][i] * oracle_gelu_slope(v->tensor[U][i]);
}

const op_case gelu_backward = {.group = "transformer",
                               .name = "gelu",
                               .direction = "backward",
                               .arrays = arrays_backward,
                               .record = record_backward,
                               .reference = reference_backward,
                               .variants = {{"gelu backward"},
                                            {"gelu backward far out", FAR_OUT},
                                            {"gelu backward in place", SAME_ARRAY}}};

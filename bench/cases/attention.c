/* attention.c - causal attention, s tokens a sequence, H heads.
 *
 *   attention             qkv read, o and log-sum-exps written; scores and mixing over the causal half
 *   attention, backward   qkv, o, do, log-sum-exps read, dqkv written; five products where forward has two */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cases/ops.h"
#include "rig/draw.h"

enum { SHARP = 1 };

static oracle_attention_size size_of(const rig *r, int64_t n) {
    return (oracle_attention_size){.n = n, .width = r->width, .heads = r->heads};
}

/* Scores of a few hundred, where exp() overflows unless the row's maximum is taken off. q and k are then
 * small integers, whose products are exact, because the rounding of the scores would otherwise set the
 * error. */
static void sharpen(rig *r) {
    float *qkv = r->tensor[QKV].before;
    int columns = r->tensor[QKV].columns;
    for (int64_t i = 0; i < r->n_tokens * columns; i++)
        if (i % columns < 2 * r->width) qkv[i] = (float)(8 * lround(1.2 * (double)qkv[i]));
}

static void arrays(rig *r) {
    rig_tensor_of(r, QKV, "qkv", INPUT, 3 * r->width);
    rig_tensor(r, O, "o", OUTPUT, COLUMNS_WIDTH);
    rig_tensor_of(r, LSE, "lse", OUTPUT, r->heads);
    if (r->flags & SHARP) sharpen(r);
}

static void record(const rig *r, rig_copy *c) {
    ck_op_attention(c->program, &(ck_attention){.qkv = c->tensor[QKV],
                                                .o = c->tensor[O],
                                                .lse = c->tensor[LSE],
                                                .heads = r->heads,
                                                .width = r->width});
}

static void reference(view *v) {
    for (int s = 0; s < v->n_sequences; s++)
        oracle_attention(size_of(v->r, view_length(v, s)), view_row(v, QKV, v->row[s]),
                         view_row(v, O, v->row[s]), view_row(v, LSE, v->row[s]));
}

/* Pairs (query, key) of all sequences. */
static double pairs(const rig *r) {
    double sum = 0;
    for (int s = 0; s < r->n_sequences; s++) {
        double n = (double)(r->first_token[s + 1] - r->first_token[s]);
        sum += n * (n + 1) / 2;
    }
    return sum;
}

cost attention_cost(const rig *r) {
    return (cost){"attention", tokens_of(r) * (4 * activation_bytes(r) * r->width + 4.0 * r->heads),
                  4 * pairs(r) * r->width};
}

const op_case attention_forward = {.group = "transformer",
                                   .name = "attention",
                                   .direction = "forward",
                                   .floor = "bytes 4 a T D + 4 T H; FLOPs 2 T D (s + 1)",
                                   .axes = AXES_SEQUENCES,
                                   .rows = ROWS_SEQUENCES,
                                   .arrays = arrays,
                                   .record = record,
                                   .reference = reference,
                                   .cost_of = attention_cost,
                                   .variants = {{"attention"}, {"attention with large scores", SHARP}}};

/* The rows of the first sequence again: whatever comes before a token is the same. */
static void repeat_first(rig *r, tensor_id id, int sequence) {
    tensor_array *t = &r->tensor[id];
    int64_t first = r->first_token[sequence], n = r->first_token[sequence + 1] - first;
    memcpy(t->before + first * t->columns, t->before, (size_t)(n * t->columns) * sizeof *t->before);
}

/* o and lse of a sequence as the forward operation leaves them. */
static void compute_forward(rig *r, int sequence) {
    int64_t first = r->first_token[sequence], n = r->first_token[sequence + 1] - first;
    bool bf16 = r->precision == CK_BF16;
    double *qkv = oracle_from_floats(r->tensor[QKV].before + first * 3 * r->width, n * 3 * r->width),
           *o = oracle_zeros(n * r->width), *lse = oracle_zeros(n * r->heads);
    oracle_attention(size_of(r, n), qkv, o, lse);
    for (int64_t i = 0; i < n * r->width; i++)
        r->tensor[O].before[first * r->width + i] = bf16 ? draw_bf16((float)o[i]) : (float)o[i];
    for (int64_t i = 0; i < n * r->heads; i++) r->tensor[LSE].before[first * r->heads + i] = (float)lse[i];
    free(qkv);
    free(o);
    free(lse);
}

/* Of a large wave all sequences have the content of the first one, which no other is longer than. */
static void arrays_backward(rig *r) {
    rig_tensor_of(r, QKV, "qkv", INPUT, 3 * r->width);
    rig_tensor(r, O, "o", INPUT, COLUMNS_WIDTH);
    rig_tensor_of(r, LSE, "lse", INPUT, r->heads);
    rig_tensor(r, D_O, "do", INPUT, COLUMNS_WIDTH);
    rig_tensor_of(r, DQKV, "dqkv", OUTPUT, 3 * r->width);
    for (int s = 0; s < r->n_sequences; s++) {
        if (s == 0 || r->all_checked) {
            compute_forward(r, s);
            continue;
        }
        repeat_first(r, QKV, s);
        repeat_first(r, O, s);
        repeat_first(r, LSE, s);
    }
}

static void record_backward(const rig *r, rig_copy *c) {
    ck_op_attention_backward(c->program, &(ck_attention_backward){.qkv = c->tensor[QKV],
                                                                  .o = c->tensor[O],
                                                                  .lse = c->tensor[LSE],
                                                                  .d_o = c->tensor[D_O],
                                                                  .dqkv = c->tensor[DQKV],
                                                                  .heads = r->heads,
                                                                  .width = r->width});
}

static void reference_backward(view *v) {
    for (int s = 0; s < v->n_sequences; s++)
        oracle_attention_backward(size_of(v->r, view_length(v, s)), view_row(v, QKV, v->row[s]),
                                  view_row(v, D_O, v->row[s]), view_row(v, DQKV, v->row[s]));
}

cost attention_backward_cost(const rig *r) {
    return (cost){"attention backward", tokens_of(r) * (8 * activation_bytes(r) * r->width + 4.0 * r->heads),
                  10 * pairs(r) * r->width};
}

const op_case attention_backward = {.group = "transformer",
                                    .name = "attention",
                                    .direction = "backward",
                                    .floor = "bytes 8 a T D + 4 T H; FLOPs 5 T D (s + 1)",
                                    .axes = AXES_SEQUENCES,
                                    .rows = ROWS_SEQUENCES,
                                    .arrays = arrays_backward,
                                    .record = record_backward,
                                    .reference = reference_backward,
                                    .cost_of = attention_backward_cost,
                                    .variants = {{"attention backward"}}};

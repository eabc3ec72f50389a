/* attention.c - causal attention, s tokens a sequence, H query heads, of which groups share a head of keys
 * and values; without "grouped" each has its own.
 *
 *   attention             qkv read, o and log-sum-exps written; scores and mixing over the causal half
 *   attention, backward   qkv, o, do, log-sum-exps read, dqkv written; five products where forward has two */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cases/heads.h"
#include "cases/ops.h"
#include "rig/draw.h"

enum { SHARP = 1 };

/* Scores of a few hundred, where exp() overflows unless the row's maximum is taken off. q and k are then
 * small integers, whose products are exact, because the rounding of the scores would otherwise set the
 * error. */
static void sharpen(rig *r) {
    float *qkv = r->tensor[QKV].before;
    int columns = r->tensor[QKV].columns;
    for (int64_t i = 0; i < r->n_tokens * columns; i++)
        if (i % columns < columns / 3 * 2) qkv[i] = (float)(8 * lround(1.2 * (double)qkv[i]));
}

static void arrays(rig *r) {
    head_layout h = heads_of(r);
    rig_tensor_of(r, QKV, "qkv", INPUT, qkv_columns(h));
    rig_tensor_of(r, O, "o", OUTPUT, h.heads * h.head_size);
    rig_tensor_of(r, LSE, "lse", OUTPUT, h.heads);
    if (r->flags & SHARP) sharpen(r);
}

static void record(const rig *r, rig_copy *c) {
    head_layout h = heads_of(r);
    ck_op_attention(c->program, &(ck_attention){.qkv = c->tensor[QKV],
                                                .o = c->tensor[O],
                                                .lse = c->tensor[LSE],
                                                .heads = h.heads,
                                                .kv_heads = h.kv_heads,
                                                .head_size = h.head_size});
}

static void reference(view *v) {
    for (int s = 0; s < v->n_sequences; s++)
        oracle_attention(heads_size(v->r, view_length(v, s)), view_row(v, QKV, v->row[s]),
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

/* qkv and o, or as many gradients more. */
static double bytes(const rig *r, double times) {
    head_layout h = heads_of(r);
    double elements = qkv_columns(h) + h.heads * h.head_size;
    return tokens_of(r) * (times * activation_bytes(r) * elements + 4.0 * h.heads);
}

static double flops(const rig *r, double products) {
    head_layout h = heads_of(r);
    return 2 * products * pairs(r) * h.heads * h.head_size;
}

cost attention_cost(const rig *r) {
    return (cost){"attention", bytes(r, 1), flops(r, 2)};
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

const op_case grouped_attention_forward = {
    .group = "llama",
    .name = "grouped_attention",
    .direction = "forward",
    .floor = "bytes a T (2 D + 2 D G / H) + 4 T H; FLOPs 2 T D (s + 1)",
    .axes = AXES_SEQUENCES,
    .rows = ROWS_SEQUENCES,
    .arrays = arrays,
    .record = record,
    .reference = reference,
    .cost_of = attention_cost,
    .variants = {HEAD_VARIANTS("attention", ""),
                 {"attention, odd heads that share keys", .size = ODD_SHARE}}};

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
    int columns = r->tensor[QKV].columns, width = r->tensor[O].columns, heads = r->tensor[LSE].columns;
    double *qkv = oracle_from_floats(r->tensor[QKV].before + first * columns, n * columns),
           *o = oracle_zeros(n * width), *lse = oracle_zeros(n * heads);
    oracle_attention(heads_size(r, n), qkv, o, lse);
    for (int64_t i = 0; i < n * width; i++)
        r->tensor[O].before[first * width + i] = bf16 ? draw_bf16((float)o[i]) : (float)o[i];
    for (int64_t i = 0; i < n * heads; i++) r->tensor[LSE].before[first * heads + i] = (float)lse[i];
    free(qkv);
    free(o);
    free(lse);
}

/* Of a large wave all sequences have the content of the first one, which no other is longer than. */
static void arrays_backward(rig *r) {
    head_layout h = heads_of(r);
    rig_tensor_of(r, QKV, "qkv", INPUT, qkv_columns(h));
    rig_tensor_of(r, O, "o", INPUT, h.heads * h.head_size);
    rig_tensor_of(r, LSE, "lse", INPUT, h.heads);
    rig_tensor_of(r, D_O, "do", INPUT, h.heads * h.head_size);
    rig_tensor_of(r, DQKV, "dqkv", OUTPUT, qkv_columns(h));
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
    head_layout h = heads_of(r);
    ck_op_attention_backward(c->program, &(ck_attention_backward){.qkv = c->tensor[QKV],
                                                                  .o = c->tensor[O],
                                                                  .lse = c->tensor[LSE],
                                                                  .d_o = c->tensor[D_O],
                                                                  .dqkv = c->tensor[DQKV],
                                                                  .heads = h.heads,
                                                                  .kv_heads = h.kv_heads,
                                                                  .head_size = h.head_size});
}

static void reference_backward(view *v) {
    for (int s = 0; s < v->n_sequences; s++)
        oracle_attention_backward(heads_size(v->r, view_length(v, s)), view_row(v, QKV, v->row[s]),
                                  view_row(v, D_O, v->row[s]), view_row(v, DQKV, v->row[s]));
}

cost attention_backward_cost(const rig *r) {
    return (cost){"attention backward", bytes(r, 2), flops(r, 5)};
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

const op_case grouped_attention_backward = {
    .group = "llama",
    .name = "grouped_attention",
    .direction = "backward",
    .floor = "bytes a T (4 D + 4 D G / H) + 4 T H; FLOPs 5 T D (s + 1)",
    .axes = AXES_SEQUENCES,
    .rows = ROWS_SEQUENCES,
    .arrays = arrays_backward,
    .record = record_backward,
    .reference = reference_backward,
    .cost_of = attention_backward_cost,
    .variants = {HEAD_VARIANTS("attention", " backward"),
                 {"attention backward, odd heads that share keys", .size = ODD_SHARE}}};

/* attention.c - causal attention, and the LoRA on its first linear. s tokens a sequence, H heads, ra the
 * attention LoRA's rank:
 *
 *   attention             qkv read, o and log-sum-exps written; scores and mixing over the causal half
 *   attention, backward   qkv, o, do, log-sum-exps read, dqkv written; five products where forward has two
 *   lora                  x read, y (3 D) read and written, h written; A, B read
 *   lora, backward        x, dy, h read, dx read and written; A, B read, dA, dB written */
#include <stdlib.h>

#include "cases/costs.h"
#include "rig/draw.h"
#include "rig/gather.h"

/* ---- Attention */

static void prepare_attention(world *w) {
    world_tensor(w, QKV, "qkv", INPUT, 3 * w->width, true, 1);
    world_tensor(w, O, "o", OUTPUT, w->width, true, 1);
    world_tensor(w, LSE, "lse", OUTPUT, w->heads, false, 1);
}

static void record_attention(const world *w, world_copy *c) {
    ck_op_attention(c->program, &(ck_attention){.qkv = c->tensor[QKV],
                                                .o = c->tensor[O],
                                                .lse = c->tensor[LSE],
                                                .heads = w->heads,
                                                .width = w->width});
}

/* Sequences that the budget allows, at least the first. */
static picks some_sequences(const world *w, double flops_factor) {
    double tokens = (double)w->first_token[1];
    return picks_of(0, w->n_sequences, GATHER_BUDGET / (flops_factor * tokens * tokens * w->width));
}

static picks rows_of(const world *w, int64_t sequence) {
    int64_t first = w->first_token[sequence], n = w->first_token[sequence + 1] - first;
    return picks_of(first, n, (double)n);
}

static void verify_attention(const world *w, verdict *v) {
    picks sequences = some_sequences(w, 1);
    for (int64_t i = 0; i < sequences.n; i++) {
        picks rows = rows_of(w, sequences.index[i]);
        oracle_attention_size size = {.n = rows.n, .width = w->width, .heads = w->heads};
        double *qkv = world_read(w, QKV, &rows, NULL), *o = oracle_zeros(rows.n * w->width),
               *lse = oracle_zeros(rows.n * w->heads);
        oracle_attention(size, qkv, o, lse);
        world_compare(w, v, O, &rows, NULL, o);
        world_compare(w, v, LSE, &rows, NULL, lse);
        free(qkv);
        free(o);
        free(lse);
        picks_free(&rows);
    }
    picks_free(&sequences);
}

/* Pairs (query, key) of all sequences. */
static double pairs(const world *w) {
    double sum = 0;
    for (int s = 0; s < w->n_sequences; s++) {
        double n = (double)(w->first_token[s + 1] - w->first_token[s]);
        sum += n * (n + 1) / 2;
    }
    return sum;
}

cost attention_cost(const world *w) {
    return (cost){"attention", tokens_of(w) * (4 * activation_bytes(w) * w->width + 4.0 * w->heads),
                  4 * pairs(w) * w->width};
}

static int costs_of_attention(const world *w, cost *parts) {
    parts[0] = attention_cost(w);
    return 1;
}

const bench_case attention_forward = {.name = "attention",
                                      .direction = "forward",
                                      .floor = "bytes 4 a T D + 4 T H; FLOPs 2 T D (s + 1)",
                                      .axes = AXES_SEQUENCES,
                                      .prepare = prepare_attention,
                                      .record = record_attention,
                                      .verify = verify_attention,
                                      .costs = costs_of_attention};

/* o and lse as the forward operation leaves them, for every sequence: the same content in each, so that one
 * is computed. */
static void repeat_sequence(world *w, tensor_id id) {
    tensor_array *t = &w->tensor[id];
    int64_t period = w->first_token[1] * t->columns;
    for (int64_t i = period; i < w->n_tokens * t->columns; i++) t->before[i] = t->before[i % period];
}

static void prepare_attention_backward(world *w) {
    bool bf16 = w->precision == CK_BF16;
    world_tensor(w, QKV, "qkv", INPUT, 3 * w->width, true, 1);
    world_tensor(w, O, "o", INPUT, w->width, true, 1);
    world_tensor(w, LSE, "lse", INPUT, w->heads, false, 1);
    world_tensor(w, D_O, "do", INPUT, w->width, true, 1);
    world_tensor(w, DQKV, "dqkv", OUTPUT, 3 * w->width, true, 1);
    repeat_sequence(w, QKV);
    picks rows = rows_of(w, 0);
    double *qkv = world_read(w, QKV, &rows, NULL), *o = oracle_zeros(rows.n * w->width),
           *lse = oracle_zeros(rows.n * w->heads);
    oracle_attention((oracle_attention_size){.n = rows.n, .width = w->width, .heads = w->heads}, qkv, o, lse);
    for (int64_t i = 0; i < rows.n * w->width; i++)
        w->tensor[O].before[i] = bf16 ? draw_bf16((float)o[i]) : (float)o[i];
    for (int64_t i = 0; i < rows.n * w->heads; i++) w->tensor[LSE].before[i] = (float)lse[i];
    repeat_sequence(w, O);
    repeat_sequence(w, LSE);
    free(qkv);
    free(o);
    free(lse);
    picks_free(&rows);
}

static void record_attention_backward(const world *w, world_copy *c) {
    ck_op_attention_backward(c->program, &(ck_attention_backward){.qkv = c->tensor[QKV],
                                                                  .o = c->tensor[O],
                                                                  .lse = c->tensor[LSE],
                                                                  .d_o = c->tensor[D_O],
                                                                  .dqkv = c->tensor[DQKV],
                                                                  .heads = w->heads,
                                                                  .width = w->width});
}

static void verify_attention_backward(const world *w, verdict *v) {
    picks sequences = some_sequences(w, 3);
    for (int64_t i = 0; i < sequences.n; i++) {
        picks rows = rows_of(w, sequences.index[i]);
        oracle_attention_size size = {.n = rows.n, .width = w->width, .heads = w->heads};
        double *qkv = world_read(w, QKV, &rows, NULL), *d_o = world_read(w, D_O, &rows, NULL),
               *dqkv = oracle_zeros(rows.n * 3 * w->width);
        oracle_attention_backward(size, qkv, d_o, dqkv);
        world_compare(w, v, DQKV, &rows, NULL, dqkv);
        free(qkv);
        free(d_o);
        free(dqkv);
        picks_free(&rows);
    }
    picks_free(&sequences);
}

cost attention_backward_cost(const world *w) {
    return (cost){"attention backward", tokens_of(w) * (8 * activation_bytes(w) * w->width + 4.0 * w->heads),
                  10 * pairs(w) * w->width};
}

static int costs_of_attention_backward(const world *w, cost *parts) {
    parts[0] = attention_backward_cost(w);
    return 1;
}

const bench_case attention_backward = {.name = "attention",
                                       .direction = "backward",
                                       .floor = "bytes 8 a T D + 4 T H; FLOPs 5 T D (s + 1)",
                                       .axes = AXES_SEQUENCES,
                                       .prepare = prepare_attention_backward,
                                       .record = record_attention_backward,
                                       .verify = verify_attention_backward,
                                       .costs = costs_of_attention_backward};

/* ---- LoRA of qkv */

static void prepare_lora(world *w) {
    w->needs = NEED_PACKS;
    world_tensor(w, X, "x", INPUT, w->width, true, 1);
    world_tensor(w, H, "h", OUTPUT, w->shape.lora_rank[CK_SITE_QKV], false, 1);
    world_tensor(w, Y, "y", IN_PLACE, 3 * w->width, true, 1);
}

static void record_lora(const world *w, world_copy *c) {
    (void)w;
    ck_op_lora(c->program, &(ck_lora){.x = c->tensor[X],
                                      .h = c->tensor[H],
                                      .y = c->tensor[Y],
                                      .site = CK_SITE_QKV,
                                      .in = w->width,
                                      .out = 3 * w->width});
}

static void verify_lora(const world *w, verdict *v) {
    int rank = w->shape.lora_rank[CK_SITE_QKV];
    for (int i = 0; i < w->n_checked; i++) {
        device_reference ref = reference_of(w, w->checked[i]);
        oracle_adapter a = reference_adapter(&ref);
        picks rows = world_some_rows(w, w->checked[i], 4.0 * w->width * rank);
        double *x = world_read(w, X, &rows, NULL), *y = world_gather(w, Y, BEFORE, &rows, NULL),
               *h = oracle_zeros(rows.n * rank);
        oracle_lora(&a, CK_SITE_QKV, rows.n, x, h, rank, y);
        world_compare(w, v, H, &rows, NULL, h);
        world_compare(w, v, Y, &rows, NULL, y);
        free(x);
        free(y);
        free(h);
        picks_free(&rows);
        reference_free(&ref);
    }
}

cost lora_cost(const world *w, int out) {
    double t = tokens_of(w), d = w->width, o = out, rank = w->shape.lora_rank[CK_SITE_QKV];
    return (cost){"lora",
                  activation_bytes(w) * t * (d + 2 * o) + 4 * t * rank + 4.0 * w->n_devices * rank * (d + o),
                  2 * t * rank * (d + o)};
}

static int costs_of_lora(const world *w, cost *parts) {
    parts[0] = lora_cost(w, 3 * w->width);
    return 1;
}

const bench_case lora_forward = {.name = "lora",
                                 .direction = "forward",
                                 .floor = "bytes 7 a T D + 4 T ra + 16 N ra D; FLOPs 8 T ra D",
                                 .axes = AXES_LORA,
                                 .prepare = prepare_lora,
                                 .record = record_lora,
                                 .verify = verify_lora,
                                 .costs = costs_of_lora};

static void prepare_lora_backward(world *w) {
    w->needs = NEED_PACKS | NEED_GRADIENTS;
    w->learn = CK_LEARN_EXPERTS;
    world_tensor(w, X, "x", INPUT, w->width, true, 1);
    world_tensor(w, H, "h", INPUT, w->shape.lora_rank[CK_SITE_QKV], false, 1);
    world_tensor(w, DY, "dy", INPUT, 3 * w->width, true, 1);
    world_tensor(w, DX, "dx", IN_PLACE, w->width, true, 1);
}

static void record_lora_backward(const world *w, world_copy *c) {
    (void)w;
    ck_op_lora_backward(c->program, &(ck_lora_backward){.x = c->tensor[X],
                                                        .h = c->tensor[H],
                                                        .dy = c->tensor[DY],
                                                        .dx = c->tensor[DX],
                                                        .site = CK_SITE_QKV,
                                                        .in = w->width,
                                                        .out = 3 * w->width});
}

/* q needs whole rows of dy, and the gradients all rows of a device: everything of the checked devices. */
static void verify_lora_backward(const world *w, verdict *v) {
    int rank = w->shape.lora_rank[CK_SITE_QKV];
    for (int i = 0; i < w->n_checked; i++) {
        device_reference ref = reference_of(w, w->checked[i]);
        oracle_adapter a = reference_adapter(&ref);
        picks rows = world_all_rows(w, w->checked[i]);
        double *x = world_read(w, X, &rows, NULL), *h = world_read(w, H, &rows, NULL),
               *dy = world_read(w, DY, &rows, NULL);
        double *dx = world_gather(w, DX, BEFORE, &rows, NULL);
        oracle_lora_backward(&a, CK_SITE_QKV, rows.n, x, h, rank, dy, dx);
        world_compare(w, v, DX, &rows, NULL, dx);
        world_compare_gradient(w, v, i, &ref, ORACLE_QKV_A, NULL);
        world_compare_gradient(w, v, i, &ref, ORACLE_QKV_B, NULL);
        free(x);
        free(h);
        free(dy);
        free(dx);
        picks_free(&rows);
        reference_free(&ref);
    }
}

cost lora_backward_cost(const world *w, int out, bool input_gradient) {
    double t = tokens_of(w), d = w->width, o = out, rank = w->shape.lora_rank[CK_SITE_QKV],
           dx = input_gradient ? d : 0;
    return (cost){"lora backward",
                  activation_bytes(w) * t * (d + o + 2 * dx) + 4 * t * rank +
                      8.0 * w->n_devices * rank * (d + o),
                  2 * t * rank * (d + 2 * o + dx)};
}

static int costs_of_lora_backward(const world *w, cost *parts) {
    parts[0] = lora_backward_cost(w, 3 * w->width, true);
    return 1;
}

const bench_case lora_backward = {.name = "lora",
                                  .direction = "backward",
                                  .floor = "bytes 6 a T D + 4 T ra + 32 N ra D; FLOPs 16 T ra D",
                                  .axes = AXES_LORA,
                                  .prepare = prepare_lora_backward,
                                  .record = record_lora_backward,
                                  .verify = verify_lora_backward,
                                  .costs = costs_of_lora_backward};

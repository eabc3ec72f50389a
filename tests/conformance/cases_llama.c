/* What a Llama layer has that GPT-2's has not: RMSNorm, rotary positions, query heads that share keys and
 * values, SwiGLU, linears and embeddings without their second term. */
#include <math.h>
#include <string.h>

#include "conformance/cases.h"

enum { VOCABULARY = 37, MAX_POSITIONS = 160, GAIN_AT = 32, WEIGHT_AT = 2048, WTE_AT = 4096 };

/* ---- RMSNorm */

static const float epsilon = 1e-5f;

static void rms_norm(rig *r) {
    int width = r->spec->width;
    rig_tensor *x = rig_input(r, width, "x"), *y = rig_output(r, width, "y"),
               *stats = rig_output(r, 2, "stats");
    rig_buffer *gain = rig_weights(r, width, 1, "gain");
    /* far from mean 0, so that an op that takes the mean off shows */
    for (int64_t i = 0; i < r->n_tokens * width; i++) x->host[i] += 2;
    rig_take(r, x);
    ck_op_norm(r->program, &(ck_norm){.x = x->tensor,
                                      .y = y->tensor,
                                      .stats = stats->tensor,
                                      .gain = gain->memory,
                                      .width = width,
                                      .epsilon = epsilon,
                                      .kind = CK_RMS_NORM});
    if (!rig_run(r)) return;
    oracle_rms_norm((oracle_norm_size){r->n_tokens, width, (double)epsilon}, x->ref, gain->ref, y->ref,
                    stats->ref);
    rig_compare(r, y, COLUMNS_ALL);
    rig_compare(r, stats, COLUMNS_ALL);
}

static void rms_norm_backward_with(rig *r, bool accumulate, bool trained) {
    int width = r->spec->width;
    oracle_norm_size size = {r->n_tokens, width, (double)epsilon};
    rig_tensor *x = rig_input(r, width, "x"), *stats = rig_input(r, 2, "stats"),
               *dy = rig_input(r, width, "dy");
    rig_tensor *dx = accumulate ? rig_input(r, width, "dx") : rig_output(r, width, "dx"),
               *y = rig_output(r, width, "y");
    rig_buffer *gain = rig_weights(r, width, 1, "gain");
    oracle_rms_norm(size, x->ref, gain->ref, y->ref, stats->ref);
    rig_round(r, stats);
    ck_op_norm_backward(r->program, &(ck_norm_backward){.x = x->tensor,
                                                        .stats = stats->tensor,
                                                        .dy = dy->tensor,
                                                        .dx = dx->tensor,
                                                        .gain = gain->memory,
                                                        .width = width,
                                                        .gain_gradient = trained ? GAIN_AT : -1,
                                                        .bias_gradient = -1,
                                                        .accumulate = accumulate,
                                                        .kind = CK_RMS_NORM});
    if (!rig_run(r)) return;
    oracle_rms_norm_backward(size, x->ref, gain->ref, dy->ref, dx->ref,
                             trained ? r->base_gradients.ref + GAIN_AT : NULL);
    rig_compare(r, dx, COLUMNS_ALL);
    if (trained) rig_compare_buffer(r, &r->base_gradients, GAIN_AT, width);
}

static void rms_norm_backward(rig *r) {
    rms_norm_backward_with(r, false, false);
}

static void rms_norm_backward_accumulating(rig *r) {
    rms_norm_backward_with(r, true, false);
}

static void rms_norm_backward_trained(rig *r) {
    rms_norm_backward_with(r, true, true);
}

/* ---- Heads. Their size is not the width divided by their number. */

typedef struct {
    int heads, kv_heads, head_size;
} head_layout;

static const head_layout own_keys = {3, 3, 12}, pairs_share = {4, 2, 16}, threes_share = {6, 2, 8},
                         all_share = {5, 1, 24}, wide_share = {2, 1, 64}, odd_share = {4, 2, 7};

static int qkv_columns(head_layout h) {
    return (h.heads + 2 * h.kv_heads) * h.head_size;
}

static oracle_attention_size sequence_size(const rig *r, int sequence, head_layout h) {
    return (oracle_attention_size){r->first_token[sequence + 1] - r->first_token[sequence], h.heads,
                                   h.kv_heads, h.head_size};
}

/* As in a model: angle = t theta^(-2 i / head_size). */
static rig_buffer *angles(rig *r, int head_size) {
    rig_buffer *table = rig_weights(r, (int64_t)MAX_POSITIONS * head_size, 1, "table");
    for (int64_t i = 0; i < table->count; i += 2) {
        double angle = (double)(i / head_size) * pow(10000, -(double)(i % head_size) / (double)head_size);
        table->host[i] = (float)cos(angle);
        table->host[i + 1] = (float)sin(angle);
        table->ref[i] = table->host[i];
        table->ref[i + 1] = table->host[i + 1];
    }
    return table;
}

static void rope_with(rig *r, head_layout h, bool backward) {
    rig_tensor *qkv = rig_input(r, qkv_columns(h), "qkv");
    rig_buffer *table = angles(r, h.head_size);
    if (backward)
        ck_op_rope_backward(r->program, &(ck_rope_backward){.dqkv = qkv->tensor,
                                                            .table = table->memory,
                                                            .heads = h.heads,
                                                            .kv_heads = h.kv_heads,
                                                            .head_size = h.head_size});
    else
        ck_op_rope(r->program, &(ck_rope){.qkv = qkv->tensor,
                                          .table = table->memory,
                                          .heads = h.heads,
                                          .kv_heads = h.kv_heads,
                                          .head_size = h.head_size});
    if (!rig_run(r)) return;
    for (int s = 0; s < r->wave.n_sequences; s++)
        oracle_rope(sequence_size(r, s, h), table->ref, backward, rig_row(qkv, r->first_token[s]));
    rig_compare(r, qkv, COLUMNS_ALL);
}

static void rope(rig *r) {
    rope_with(r, own_keys, false);
}

static void rope_shared(rig *r) {
    rope_with(r, threes_share, false);
}

static void rope_wide(rig *r) {
    rope_with(r, wide_share, false);
}

static void rope_backward(rig *r) {
    rope_with(r, own_keys, true);
}

static void rope_backward_shared(rig *r) {
    rope_with(r, all_share, true);
}

static void attend(rig *r, head_layout h) {
    rig_tensor *qkv = rig_input(r, qkv_columns(h), "qkv"), *o = rig_output(r, h.heads * h.head_size, "o"),
               *lse = rig_output(r, h.heads, "lse");
    ck_op_attention(r->program, &(ck_attention){.qkv = qkv->tensor,
                                                .o = o->tensor,
                                                .lse = lse->tensor,
                                                .heads = h.heads,
                                                .kv_heads = h.kv_heads,
                                                .head_size = h.head_size});
    if (!rig_run(r)) return;
    for (int s = 0; s < r->wave.n_sequences; s++) {
        int64_t first = r->first_token[s];
        oracle_attention(sequence_size(r, s, h), rig_row(qkv, first), rig_row(o, first), rig_row(lse, first));
    }
    rig_compare(r, o, COLUMNS_ALL);
    rig_compare(r, lse, COLUMNS_ALL);
}

static void attend_backward(rig *r, head_layout h) {
    rig_tensor *qkv = rig_input(r, qkv_columns(h), "qkv"), *o = rig_input(r, h.heads * h.head_size, "o"),
               *lse = rig_input(r, h.heads, "lse");
    rig_tensor *d_o = rig_input(r, h.heads * h.head_size, "do"),
               *dqkv = rig_output(r, qkv_columns(h), "dqkv");
    for (int s = 0; s < r->wave.n_sequences; s++) {
        int64_t first = r->first_token[s];
        oracle_attention(sequence_size(r, s, h), rig_row(qkv, first), rig_row(o, first), rig_row(lse, first));
        oracle_attention_backward(sequence_size(r, s, h), rig_row(qkv, first), rig_row(d_o, first),
                                  rig_row(dqkv, first));
    }
    rig_round(r, o);
    rig_round(r, lse);
    ck_op_attention_backward(r->program, &(ck_attention_backward){.qkv = qkv->tensor,
                                                                  .o = o->tensor,
                                                                  .lse = lse->tensor,
                                                                  .d_o = d_o->tensor,
                                                                  .dqkv = dqkv->tensor,
                                                                  .heads = h.heads,
                                                                  .kv_heads = h.kv_heads,
                                                                  .head_size = h.head_size});
    if (!rig_run(r)) return;
    rig_compare(r, dqkv, COLUMNS_ALL);
}

#define ATTENTION_CASES(layout)                                                                              \
    static void attention_##layout(rig *r) {                                                                 \
        attend(r, layout);                                                                                   \
    }                                                                                                        \
    static void attention_backward_##layout(rig *r) {                                                        \
        attend_backward(r, layout);                                                                          \
    }
ATTENTION_CASES(own_keys)
ATTENTION_CASES(pairs_share)
ATTENTION_CASES(threes_share)
ATTENTION_CASES(all_share)
ATTENTION_CASES(wide_share)
ATTENTION_CASES(odd_share)

/* ---- SwiGLU */

/* Far out silu is 0 or u: an overflowing exponential shows there. */
static void widen_gates(rig *r, rig_tensor *u) {
    for (int64_t t = 0; t < r->n_tokens; t++)
        for (int i = 0; i < u->columns / 2; i += 5) u->host[t * u->columns + i] *= i % 2 == 0 ? 8 : 1000;
    rig_take(r, u);
}

/* Large values would hide small ones in a norm: both sides divided by max(1, |gate|) of their token. */
static void divide_by_gates(const rig *r, const rig_tensor *u, rig_tensor *t) {
    int ffn = u->columns / 2;
    for (int64_t i = 0; i < r->n_tokens * t->columns; i++) {
        double size = fmax(1, fabs(rig_row(u, i / t->columns)[i % t->columns % ffn]));
        t->ref[i] /= size;
        t->host[i] = (float)(t->host[i] / size);
    }
}

static void swiglu_with(rig *r, bool far_out) {
    int ffn = r->spec->ffn;
    rig_tensor *u = rig_input(r, 2 * ffn, "u"), *m = rig_output(r, ffn, "m");
    if (far_out) widen_gates(r, u);
    ck_op_swiglu(r->program, &(ck_swiglu){.u = u->tensor, .m = m->tensor, .ffn = ffn});
    if (!rig_run(r)) return;
    oracle_swiglu(r->n_tokens, ffn, u->ref, m->ref);
    if (far_out) divide_by_gates(r, u, m);
    rig_compare(r, m, COLUMNS_ALL);
}

static void swiglu(rig *r) {
    swiglu_with(r, false);
}

static void swiglu_far_out(rig *r) {
    swiglu_with(r, true);
}

static void swiglu_backward_with(rig *r, bool far_out) {
    int ffn = r->spec->ffn;
    rig_tensor *u = rig_input(r, 2 * ffn, "u"), *dm = rig_input(r, ffn, "dm"),
               *du = rig_output(r, 2 * ffn, "du");
    if (far_out) widen_gates(r, u);
    ck_op_swiglu_backward(
        r->program, &(ck_swiglu_backward){.u = u->tensor, .dm = dm->tensor, .du = du->tensor, .ffn = ffn});
    if (!rig_run(r)) return;
    oracle_swiglu_backward(r->n_tokens, ffn, u->ref, dm->ref, du->ref);
    if (far_out) divide_by_gates(r, u, du);
    rig_compare(r, du, COLUMNS_ALL);
}

static void swiglu_backward(rig *r) {
    swiglu_backward_with(r, false);
}

static void swiglu_backward_far_out(rig *r) {
    swiglu_backward_with(r, true);
}

/* ---- Without a bias, without positions */

/* The factor of a bias that is not there. */
static void linear_unbiased_with(rig *r, bool with_factor) {
    int in = r->spec->ffn, out = r->spec->width;
    rig_tensor *x = rig_input(r, in, "x"), *y = rig_output(r, out, "y"),
               *residual = rig_input(r, out, "residual"), *factor = rig_input(r, 1, "factor of the bias");
    rig_buffer *weight = rig_weights(r, (int64_t)in * out, 0.3, "weight");
    ck_op_linear(r->program, &(ck_linear){.x = x->tensor,
                                          .y = y->tensor,
                                          .residual = residual->tensor,
                                          .bias_factor = with_factor ? factor->tensor : NULL,
                                          .weight = weight->memory,
                                          .in = in,
                                          .out = out,
                                          .linear = -1});
    if (!rig_run(r)) return;
    oracle_linear((oracle_linear_size){r->n_tokens, in, out}, x->ref, weight->ref, NULL, NULL, residual->ref,
                  y->ref);
    rig_compare(r, y, COLUMNS_ALL);
}

static void linear_unbiased(rig *r) {
    linear_unbiased_with(r, false);
}

static void linear_unbiased_with_factors(rig *r) {
    linear_unbiased_with(r, true);
}

static void linear_backward_unbiased(rig *r) {
    int in = r->spec->width, out = r->spec->ffn;
    rig_tensor *x = rig_input(r, in, "x"), *dy = rig_input(r, out, "dy"), *dx = rig_output(r, in, "dx");
    rig_buffer *weight = rig_weights(r, (int64_t)in * out, 0.3, "weight");
    ck_op_linear_backward(r->program, &(ck_linear_backward){.x = x->tensor,
                                                            .dy = dy->tensor,
                                                            .dx = dx->tensor,
                                                            .weight = weight->memory,
                                                            .in = in,
                                                            .out = out,
                                                            .linear = -1,
                                                            .weight_gradient = WEIGHT_AT,
                                                            .bias_gradient = -1});
    if (!rig_run(r)) return;
    oracle_linear_backward((oracle_linear_size){r->n_tokens, in, out}, x->ref, weight->ref, dy->ref, dx->ref,
                           r->base_gradients.ref + WEIGHT_AT, NULL);
    rig_compare(r, dx, COLUMNS_ALL);
    rig_compare_buffer(r, &r->base_gradients, WEIGHT_AT, (int64_t)in * out);
}

static void draw_tokens(rig *r) {
    for (int64_t t = 0; t < r->n_tokens; t++)
        r->tokens[t] = (int32_t)(fabs(wave_draw(&r->random, 1)) * 1e6) % VOCABULARY;
}

static void embed_tokens_alone(rig *r) {
    int width = r->spec->width;
    rig_buffer *wte = rig_weights(r, VOCABULARY * width, 1, "wte");
    rig_tensor *x = rig_output(r, width, "x");
    draw_tokens(r);
    ck_op_embed(r->program, &(ck_embed){.x = x->tensor, .wte = wte->memory, .width = width});
    if (!rig_run(r)) return;
    oracle_embed(r->n_tokens, width, r->tokens, wte->ref, NULL, x->ref);
    rig_compare(r, x, COLUMNS_ALL);
}

/* With a head of its own weights nobody has written dwte before; what lies there counts for nothing. */
static void embed_backward_tokens_alone(rig *r) {
    int width = r->spec->width;
    rig_tensor *dx = rig_input(r, width, "dx");
    draw_tokens(r);
    for (int64_t i = 0; i < r->base_gradients.count; i++) r->base_gradients.host[i] = NAN;
    ck_op_embed_backward(r->program, &(ck_embed_backward){.dx = dx->tensor,
                                                          .wte_gradient = WTE_AT,
                                                          .wpe_gradient = -1,
                                                          .width = width,
                                                          .vocabulary = VOCABULARY});
    if (!rig_run(r)) return;
    oracle_embed_backward(r->n_tokens, width, r->tokens, dx->ref, r->base_gradients.ref + WTE_AT, NULL);
    rig_compare_buffer(r, &r->base_gradients, WTE_AT, VOCABULARY * width);
}

static const conformance_case cases[] = {
    {.name = "RMS norm", .run = rms_norm},
    {.name = "RMS norm backward", .run = rms_norm_backward},
    {.name = "RMS norm backward, accumulating", .run = rms_norm_backward_accumulating},
    {.name = "RMS norm backward, trained", .run = rms_norm_backward_trained, .trains_base = true},
    {.name = "rope", .run = rope},
    {.name = "rope of shared keys", .run = rope_shared},
    {.name = "rope of wide heads", .run = rope_wide},
    {.name = "rope backward", .run = rope_backward},
    {.name = "rope backward of shared keys", .run = rope_backward_shared},
    {.name = "attention, own keys", .run = attention_own_keys},
    {.name = "attention, keys of two heads", .run = attention_pairs_share},
    {.name = "attention, keys of three heads", .run = attention_threes_share},
    {.name = "attention, keys of all heads", .run = attention_all_share},
    {.name = "attention, keys of wide heads", .run = attention_wide_share},
    {.name = "attention, keys of odd heads", .run = attention_odd_share},
    {.name = "attention backward, own keys", .run = attention_backward_own_keys},
    {.name = "attention backward, keys of two heads", .run = attention_backward_pairs_share},
    {.name = "attention backward, keys of three heads", .run = attention_backward_threes_share},
    {.name = "attention backward, keys of all heads", .run = attention_backward_all_share},
    {.name = "attention backward, keys of wide heads", .run = attention_backward_wide_share},
    {.name = "attention backward, keys of odd heads", .run = attention_backward_odd_share},
    {.name = "swiglu", .run = swiglu},
    {.name = "swiglu far out", .run = swiglu_far_out},
    {.name = "swiglu backward", .run = swiglu_backward},
    {.name = "swiglu backward far out", .run = swiglu_backward_far_out},
    {.name = "linear without bias", .run = linear_unbiased},
    {.name = "linear without bias, with bias factors", .run = linear_unbiased_with_factors},
    {.name = "linear backward without bias", .run = linear_backward_unbiased, .trains_base = true},
    {.name = "embed without positions", .run = embed_tokens_alone},
    {.name = "embed backward without positions", .run = embed_backward_tokens_alone, .trains_base = true},
};
const conformance_group llama_group = {"llama", cases, sizeof cases / sizeof *cases};

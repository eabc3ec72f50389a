/* Embedding, LayerNorm, linear, GELU and attention: what a frozen base computes, and its gradients when it is
 * trained. */
#include <math.h>

#include "conformance/cases.h"

enum { VOCABULARY = 37, MAX_POSITIONS = 160, GAIN_AT = 32, BIAS_AT = 512, WEIGHT_AT = 2048, WPE_AT = 4096 };

static void draw_tokens(rig *r, int vocabulary) {
    for (int64_t t = 0; t < r->n_tokens; t++)
        r->tokens[t] = (int32_t)(fabs(wave_draw(&r->random, 1)) * 1e6) % vocabulary;
}

static void embed(rig *r) {
    int width = r->spec->width;
    rig_buffer *wte = rig_weights(r, VOCABULARY * width, 1, "wte"),
               *wpe = rig_weights(r, MAX_POSITIONS * width, 1, "wpe");
    rig_tensor *x = rig_output(r, width, "x");
    draw_tokens(r, VOCABULARY);
    ck_op_embed(r->program,
                &(ck_embed){.x = x->tensor, .wte = wte->memory, .wpe = wpe->memory, .width = width});
    if (!rig_run(r)) return;
    for (int s = 0; s < r->wave.n_sequences; s++) {
        int64_t first = r->first_token[s];
        oracle_embed(r->first_token[s + 1] - first, width, r->tokens + first, wte->ref, wpe->ref,
                     rig_row(x, first));
    }
    rig_compare(r, x, COLUMNS_ALL);
}

static void norm(rig *r) {
    int width = r->spec->width;
    rig_tensor *x = rig_input(r, width, "x"), *y = rig_output(r, width, "y"),
               *stats = rig_output(r, 2, "stats");
    rig_buffer *gain = rig_weights(r, width, 1, "gain"), *bias = rig_weights(r, width, 1, "bias");
    ck_op_norm(r->program, &(ck_norm){.x = x->tensor,
                                      .y = y->tensor,
                                      .stats = stats->tensor,
                                      .gain = gain->memory,
                                      .bias = bias->memory,
                                      .width = width,
                                      .epsilon = 1e-5f});
    if (!rig_run(r)) return;
    oracle_norm((oracle_norm_size){r->n_tokens, width, (double)1e-5f}, x->ref, gain->ref, bias->ref, y->ref,
                stats->ref);
    rig_compare(r, y, COLUMNS_ALL);
    rig_compare(r, stats, COLUMNS_ALL);
}

static void norm_backward_with(rig *r, bool accumulate, bool trained) {
    int width = r->spec->width;
    oracle_norm_size size = {r->n_tokens, width, (double)1e-5f};
    rig_tensor *x = rig_input(r, width, "x"), *stats = rig_input(r, 2, "stats"),
               *dy = rig_input(r, width, "dy");
    rig_tensor *dx = accumulate ? rig_input(r, width, "dx") : rig_output(r, width, "dx"),
               *y = rig_output(r, width, "y");
    rig_buffer *gain = rig_weights(r, width, 1, "gain");
    oracle_norm(size, x->ref, gain->ref, gain->ref, y->ref, stats->ref);
    rig_round(r, stats);
    ck_op_norm_backward(r->program, &(ck_norm_backward){.x = x->tensor,
                                                        .stats = stats->tensor,
                                                        .dy = dy->tensor,
                                                        .dx = dx->tensor,
                                                        .gain = gain->memory,
                                                        .width = width,
                                                        .gain_gradient = trained ? GAIN_AT : -1,
                                                        .bias_gradient = trained ? BIAS_AT : -1,
                                                        .accumulate = accumulate});
    if (!rig_run(r)) return;
    double *gradients = r->base_gradients.ref;
    oracle_norm_backward(size, x->ref, gain->ref, dy->ref, dx->ref, trained ? gradients + GAIN_AT : NULL,
                         trained ? gradients + BIAS_AT : NULL);
    rig_compare(r, dx, COLUMNS_ALL);
    if (!trained) return;
    rig_compare_buffer(r, &r->base_gradients, GAIN_AT, width);
    rig_compare_buffer(r, &r->base_gradients, BIAS_AT, width);
}

static void norm_backward(rig *r) {
    norm_backward_with(r, false, false);
}

static void norm_backward_accumulating(rig *r) {
    norm_backward_with(r, true, false);
}

static void norm_backward_trained(rig *r) {
    norm_backward_with(r, true, true);
}

static void linear_with(rig *r, int in, int out, bool with_residual) {
    rig_tensor *x = rig_input(r, in, "x"), *y = rig_output(r, out, "y"),
               *residual = with_residual ? rig_input(r, out, "residual") : NULL;
    rig_buffer *weight = rig_weights(r, (int64_t)in * out, 0.3, "weight"),
               *bias = rig_weights(r, out, 1, "bias");
    ck_op_linear(r->program, &(ck_linear){.x = x->tensor,
                                          .y = y->tensor,
                                          .residual = with_residual ? residual->tensor : NULL,
                                          .weight = weight->memory,
                                          .bias = bias->memory,
                                          .in = in,
                                          .out = out,
                                          .linear = -1});
    if (!rig_run(r)) return;
    oracle_linear((oracle_linear_size){r->n_tokens, in, out}, x->ref, weight->ref, bias->ref, NULL,
                  with_residual ? residual->ref : NULL, y->ref);
    rig_compare(r, y, COLUMNS_ALL);
}

static void linear(rig *r) {
    linear_with(r, r->spec->width, 3 * r->spec->width, false);
}

static void linear_residual(rig *r) {
    linear_with(r, r->spec->ffn, r->spec->width, true);
}

static void linear_odd(rig *r) {
    linear_with(r, r->spec->width, 7, false);
}

typedef struct {
    bool accumulate, no_dx, trained;
} linear_backward_options;

static void linear_backward_with(rig *r, linear_backward_options o) {
    int in = r->spec->width, out = r->spec->ffn;
    rig_tensor *x = rig_input(r, in, "x"), *dy = rig_input(r, out, "dy");
    rig_tensor *dx = o.accumulate ? rig_input(r, in, "dx") : rig_output(r, in, "dx");
    rig_buffer *weight = rig_weights(r, (int64_t)in * out, 0.3, "weight");
    double *gradients = r->base_gradients.ref;
    ck_op_linear_backward(r->program, &(ck_linear_backward){.x = x->tensor,
                                                            .dy = dy->tensor,
                                                            .dx = o.no_dx ? NULL : dx->tensor,
                                                            .weight = weight->memory,
                                                            .in = in,
                                                            .out = out,
                                                            .linear = -1,
                                                            .accumulate = o.accumulate,
                                                            .weight_gradient = o.trained ? WEIGHT_AT : -1,
                                                            .bias_gradient = o.trained ? BIAS_AT : -1});
    if (!rig_run(r)) return;
    oracle_linear_backward((oracle_linear_size){r->n_tokens, in, out}, x->ref, weight->ref, dy->ref,
                           o.no_dx ? NULL : dx->ref, o.trained ? gradients + WEIGHT_AT : NULL,
                           o.trained ? gradients + BIAS_AT : NULL);
    if (!o.no_dx) rig_compare(r, dx, COLUMNS_ALL);
    if (!o.trained) return;
    rig_compare_buffer(r, &r->base_gradients, WEIGHT_AT, (int64_t)in * out);
    rig_compare_buffer(r, &r->base_gradients, BIAS_AT, out);
}

static void linear_backward(rig *r) {
    linear_backward_with(r, (linear_backward_options){0});
}

static void linear_backward_accumulating(rig *r) {
    linear_backward_with(r, (linear_backward_options){.accumulate = true});
}

static void linear_backward_trained(rig *r) {
    linear_backward_with(r, (linear_backward_options){.trained = true});
}

static void linear_backward_weights_only(rig *r) {
    linear_backward_with(r, (linear_backward_options){.no_dx = true, .trained = true});
}

/* Beyond +-10 gelu is 0 or u to the last bit of f32: a clamped or overflowing tanh shows there. */
static void widen(rig *r, rig_tensor *u) {
    for (int64_t i = 0; i < r->n_tokens * u->columns; i += 5) u->host[i] *= i % 2 == 0 ? 8 : 1000;
    rig_take(r, u);
}

static void gelu(rig *r) {
    int ffn = r->spec->ffn;
    rig_tensor *u = rig_input(r, ffn, "u"), *m = rig_output(r, ffn, "m");
    ck_op_gelu(r->program, &(ck_gelu){.u = u->tensor, .m = m->tensor, .ffn = ffn});
    if (!rig_run(r)) return;
    for (int64_t i = 0; i < r->n_tokens * ffn; i++) m->ref[i] = oracle_gelu(u->ref[i]);
    rig_compare(r, m, COLUMNS_ALL);
}

static void gelu_far_out(rig *r) {
    int ffn = r->spec->ffn;
    rig_tensor *u = rig_input(r, ffn, "u"), *m = rig_output(r, ffn, "m");
    widen(r, u);
    ck_op_gelu(r->program, &(ck_gelu){.u = u->tensor, .m = m->tensor, .ffn = ffn});
    if (!rig_run(r)) return;
    /* Large values would hide small ones in a norm: compare the ratio to max(1, |u|). */
    for (int64_t i = 0; i < r->n_tokens * ffn; i++) {
        double size = fmax(1, fabs(u->ref[i]));
        m->ref[i] = oracle_gelu(u->ref[i]) / size;
        m->host[i] = (float)(m->host[i] / size);
    }
    rig_compare(r, m, COLUMNS_ALL);
}

static void gelu_backward_with(rig *r, bool far_out, bool in_place) {
    int ffn = r->spec->ffn;
    rig_tensor *u = rig_input(r, ffn, "u"), *dm = rig_input(r, ffn, "dm"),
               *du = in_place ? dm : rig_output(r, ffn, "du");
    if (far_out) widen(r, u);
    ck_op_gelu_backward(r->program,
                        &(ck_gelu_backward){.u = u->tensor, .dm = dm->tensor, .du = du->tensor, .ffn = ffn});
    if (!rig_run(r)) return;
    for (int64_t i = 0; i < r->n_tokens * ffn; i++) du->ref[i] = dm->ref[i] * oracle_gelu_slope(u->ref[i]);
    rig_compare(r, du, COLUMNS_ALL);
}

static void gelu_backward(rig *r) {
    gelu_backward_with(r, false, false);
}

static void gelu_backward_far_out(rig *r) {
    gelu_backward_with(r, true, false);
}

static void gelu_backward_in_place(rig *r) {
    gelu_backward_with(r, false, true);
}

static oracle_attention_size sequence_size(const rig *r, int sequence) {
    return (oracle_attention_size){r->first_token[sequence + 1] - r->first_token[sequence], r->spec->heads,
                                   r->spec->heads, r->spec->width / r->spec->heads};
}

/* sharp: scores of a few hundred, where exp() overflows unless the row's maximum is taken off. q and k are
 * then small integers, whose products are exact, because the rounding of the scores would otherwise set the
 * error. */
static void attention_with(rig *r, bool sharp) {
    int width = r->spec->width, heads = r->spec->heads;
    rig_tensor *qkv = rig_input(r, 3 * width, "qkv"), *o = rig_output(r, width, "o"),
               *lse = rig_output(r, heads, "lse");
    for (int64_t i = 0; i < r->n_tokens * qkv->columns && sharp; i++)
        if (i % qkv->columns < 2 * width) qkv->host[i] = (float)(8 * lround(1.2 * (double)qkv->host[i]));
    rig_take(r, qkv);
    ck_op_attention(r->program, &(ck_attention){.qkv = qkv->tensor,
                                                .o = o->tensor,
                                                .lse = lse->tensor,
                                                .heads = heads,
                                                .kv_heads = heads,
                                                .head_size = width / heads});
    if (!rig_run(r)) return;
    for (int s = 0; s < r->wave.n_sequences; s++) {
        int64_t first = r->first_token[s];
        oracle_attention(sequence_size(r, s), rig_row(qkv, first), rig_row(o, first), rig_row(lse, first));
    }
    rig_compare(r, o, COLUMNS_ALL);
    rig_compare(r, lse, COLUMNS_ALL);
}

static void attention(rig *r) {
    attention_with(r, false);
}

static void attention_sharp(rig *r) {
    attention_with(r, true);
}

static void attention_backward(rig *r) {
    int width = r->spec->width, heads = r->spec->heads;
    rig_tensor *qkv = rig_input(r, 3 * width, "qkv"), *o = rig_input(r, width, "o"),
               *lse = rig_input(r, heads, "lse");
    rig_tensor *d_o = rig_input(r, width, "do"), *dqkv = rig_output(r, 3 * width, "dqkv");
    for (int s = 0; s < r->wave.n_sequences; s++) {
        int64_t first = r->first_token[s];
        oracle_attention(sequence_size(r, s), rig_row(qkv, first), rig_row(o, first), rig_row(lse, first));
        oracle_attention_backward(sequence_size(r, s), rig_row(qkv, first), rig_row(d_o, first),
                                  rig_row(dqkv, first));
    }
    rig_round(r, o);
    rig_round(r, lse);
    ck_op_attention_backward(r->program, &(ck_attention_backward){.qkv = qkv->tensor,
                                                                  .o = o->tensor,
                                                                  .lse = lse->tensor,
                                                                  .d_o = d_o->tensor,
                                                                  .dqkv = dqkv->tensor,
                                                                  .heads = heads,
                                                                  .kv_heads = heads,
                                                                  .head_size = width / heads});
    if (!rig_run(r)) return;
    rig_compare(r, dqkv, COLUMNS_ALL);
}

/* The tied head writes dwte, the embedding adds to it: both in one program, as in pre-training. */
static void embed_backward(rig *r) {
    int width = r->spec->width;
    rig_tensor *x = rig_input(r, width, "x"), *dx = rig_output(r, width, "dx");
    rig_buffer *wte = rig_weights(r, VOCABULARY * width, 0.3, "wte"),
               *loss = rig_results(r, r->wave.n_sequences, "loss");
    draw_tokens(r, VOCABULARY);
    for (int64_t t = 0; t < r->n_tokens; t++) r->targets[t] = r->tokens[(t + 1) % r->n_tokens];
    ck_op_head(r->program, &(ck_head){.mode = CK_HEAD_PRETRAIN,
                                      .x = x->tensor,
                                      .dx = dx->tensor,
                                      .weight = wte->memory,
                                      .loss = loss->memory,
                                      .width = width,
                                      .vocabulary = VOCABULARY,
                                      .weight_gradient = GAIN_AT});
    ck_op_embed_backward(r->program, &(ck_embed_backward){.dx = dx->tensor,
                                                          .wte_gradient = GAIN_AT,
                                                          .wpe_gradient = WPE_AT,
                                                          .width = width,
                                                          .vocabulary = VOCABULARY,
                                                          .positions = MAX_POSITIONS,
                                                          .accumulate = true});
    if (!rig_run(r)) return;
    double *dwte = r->base_gradients.ref + GAIN_AT, *dwpe = r->base_gradients.ref + WPE_AT;
    oracle_head_backward((oracle_head_size){r->n_tokens, width, VOCABULARY}, x->ref, wte->ref, r->targets,
                         1.0 / (double)r->n_tokens, dx->ref, dwte);
    for (int s = 0; s < r->wave.n_sequences; s++) {
        int64_t first = r->first_token[s];
        oracle_embed_backward(r->first_token[s + 1] - first, width, r->tokens + first, rig_row(dx, first),
                              dwte, dwpe);
    }
    rig_compare_buffer(r, &r->base_gradients, GAIN_AT, VOCABULARY * width);
    rig_compare_buffer(r, &r->base_gradients, WPE_AT, MAX_POSITIONS * width);
}

static const conformance_case cases[] = {
    {.name = "embed", .run = embed},
    {.name = "embed backward", .run = embed_backward, .trains_base = true},
    {.name = "norm", .run = norm},
    {.name = "norm backward", .run = norm_backward},
    {.name = "norm backward, accumulating", .run = norm_backward_accumulating},
    {.name = "norm backward, trained", .run = norm_backward_trained, .trains_base = true},
    {.name = "linear", .run = linear},
    {.name = "linear with residual", .run = linear_residual},
    {.name = "linear to 7 columns", .run = linear_odd},
    {.name = "linear backward", .run = linear_backward},
    {.name = "linear backward, accumulating", .run = linear_backward_accumulating},
    {.name = "linear backward, trained", .run = linear_backward_trained, .trains_base = true},
    {.name = "linear backward, weights only", .run = linear_backward_weights_only, .trains_base = true},
    {.name = "gelu", .run = gelu},
    {.name = "gelu far out", .run = gelu_far_out},
    {.name = "gelu backward", .run = gelu_backward},
    {.name = "gelu backward far out", .run = gelu_backward_far_out},
    {.name = "gelu backward in place", .run = gelu_backward_in_place},
    {.name = "attention", .run = attention},
    {.name = "attention with large scores", .run = attention_sharp},
    {.name = "attention backward", .run = attention_backward},
};
const conformance_group transformer_group = {"transformer", cases, sizeof cases / sizeof *cases};

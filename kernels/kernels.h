/* kernels.h - everything that computes, behind one interface.
 *
 * Vocabulary
 *   token      one row of an activation.
 *   sequence   consecutive tokens that attend to each other (one sampled window).
 *   device     a simulated device: owns a pack of adapter parameters (ck_shape) and some sequences of the
 *              wave.
 *   wave       the sequences processed together; sequences of one device are neighbours.
 *   program    a recorded list of ops. ck_run() executes it over a wave.
 *
 * Why programs. A GPU wants each op to cover the whole wave (one big GEMM, one CUDA graph per program); a CPU
 * wants one sequence to go through all ops while it is still in cache. Recording serves both: the CUDA
 * backend replays op by op, the CPU backend replays sequence by sequence, and the caller writes the model
 * once.
 *   - A *local* op reads and writes only rows of its own sequence (plus parameters). Runs of local ops are
 *     fused by the CPU.
 *   - A *global* op (the load balance) sees the whole wave; all earlier ops are complete before it starts.
 *     The optimiser and aggregation are calls outside programs.
 * Activations (ck_activation) therefore have no defined content after a run; whatever the host wants to read
 * goes to a buffer.
 *
 * Errors. Functions return a ck_status; ops record the first error of their program, which
 * ck_program_finish() returns with a message (ck_last_error). Nothing here prints or exits. A NaN router
 * logit is not a choice: the run goes on, and the device's entry in ck_wave.fault names the first such layer.
 *
 * Determinism (CPU). A device's results depend on its own sequences and parameters only: same bits for every
 * wave, thread count and neighbour. Gradients of a device are summed in sequence order.
 *
 * All matrices are row-major f32 (activations of a bf16 program: ck_precision). W of a linear is [out, in]; a
 * LoRA factor is stored with one row per rank: A is [r, in] and B, transposed, is [r, out]. */
#ifndef COHORT_KERNELS_H
#define COHORT_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "noise.h"
#include "pack.h"
#include "streams.h"
#include "updates.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Waves ----------------------------------------------------------------------------------- */

typedef struct {
    /* offset in floats of the device's pack in ck_wave.parameters (and in the AdamW moments), aligned */
    int64_t parameters;
    /* offset in floats in ck_wave.gradients, gradient_total floats: a pack of the same layout, and what the
     * layers add to its shared parts; both offsets are multiples of CK_ALIGN_FLOATS */
    int64_t gradients;
    int32_t shape; /* index into ck_wave.shapes */
    /* CK_LEARN_*: the gradients that this step needs, others have no defined content; 0: evaluation */
    uint32_t learn;
    int32_t variant; /* of the base: 1 .. ck_wave.n_variants; 0: the weights that were recorded */
    ck_noise noise;  /* of the step: on logits of a router that has noise, where the device learns */
} ck_wave_device;

/* What a variant of the base has in place of the weight [out, in] and the bias [out] of a linear; each NULL:
 * what was recorded. Backend memory, which outlives the programs that read it. */
typedef struct {
    const float *weight, *bias;
} ck_replacement;

/* Host arrays, copied by ck_run() to where the backend needs them; caller keeps ownership. */
typedef struct {
    int32_t n_devices, n_sequences; /* n_devices = 0: no adapters (pre-training) */
    const int64_t *first_token;     /* [n_sequences + 1] */
    const int32_t *first_sequence;  /* [n_devices + 1]; no device without a sequence */
    const ck_wave_device *devices;  /* [n_devices] */
    int32_t n_shapes;
    const ck_shape *shapes; /* [n_shapes] */
    int32_t n_variants, n_linears;
    const ck_replacement *variants;  /* [n_variants, n_linears] */
    const int32_t *tokens, *targets; /* [n_tokens] ids; target < 0: not counted */
    /* [n_sequences] position of each sequence's first token (NULL: 0); its place in caches (decoding.h) */
    const int32_t *first_position, *cache_slot;
    const float *parameters; /* backend memory: packs of all devices */
    /* backend memory: packs of this wave's devices; overwritten, not accumulated into */
    float *gradients;
    float *base_gradients; /* backend memory, only for programs that train the base; overwritten */
    /* host, [n_devices], out: first layer with a NaN or Inf in its router logits or a chosen A1_e x (where
     * the device has neither: in x itself), or -1 */
    int32_t *fault;
} ck_wave;

/* ---- Programs -------------------------------------------------------------------------------- */

typedef struct ck_program ck_program;
typedef struct ck_tensor ck_tensor; /* an activation [tokens of the wave, columns], owned by its program */

/* Of a program: bf16 keeps activations and copies of the frozen weights in bf16 (router, gates, rank space,
 * statistics, adapters and their gradients stay f32, and so do all sums); whatever the host reads or writes
 * is f32. The CPU backend has f32 only. */
typedef enum { CK_F32, CK_BF16 } ck_precision;
bool ck_supports(const ck_backend *backend, ck_precision precision);

typedef struct {
    int32_t max_sequences, max_tokens; /* capacity of a wave */
    int32_t max_sequence_tokens;       /* longest sequence */
    /* gradient_total of the largest device pack whose gradients are wanted; 0 = none */
    int64_t max_pack;
    /* floats of the base's gradient pack (pre-training, f32 only); 0 = none */
    int64_t base_pack;
    ck_precision precision;
} ck_capacity;

ck_status ck_program_create(ck_backend *backend, const ck_capacity *capacity, ck_program **out);
/* Ends recording: allocates activations and returns the first error of any op. */
ck_status ck_program_finish(ck_program *program);
/* the wave must live until ck_wait() */
ck_status ck_run(ck_program *program, ck_stream *stream, const ck_wave *wave);
void ck_program_destroy(ck_program *program);       /* NULL is fine */
size_t ck_program_bytes(const ck_program *program); /* activations and workspaces, known after finish */

/* A new activation; lives as long as the program. Never NULL: errors are sticky (ck_program_finish). */
ck_tensor *ck_activation(ck_program *program, int32_t columns, const char *name);
/* Test access: makes an activation readable after a run (kept for the whole wave), and reads or sets it. */
void ck_keep(ck_program *program, ck_tensor *tensor);
ck_status ck_tensor_download(ck_stream *stream, const ck_tensor *tensor, int64_t n_tokens, float *host);
ck_status ck_tensor_upload(ck_stream *stream, ck_tensor *tensor, int64_t n_tokens, const float *host);

/* ---- Local ops: the transformer -------------------------------------------------------------- */
/* Pointers named weight, bias, gain are backend memory, frozen unless said otherwise. "+=" ops say so.
 * Backward ops of frozen tensors give input gradients; the *_gradient offsets (floats into the base's
 * gradient pack, -1 = frozen) serve pre-training. */

/* x_t = wte[token_t] + wpe[position of t in its sequence]; wpe NULL: without the second. */
typedef struct {
    ck_tensor *x;
    const float *wte, *wpe;
    int32_t width;
} ck_embed;
void ck_op_embed(ck_program *, const ck_embed *);

/* dwte, dwpe (-1: there is no wpe) from dx. accumulate: dwte +=, because the tied head has written it before
 * (ck_op_head). positions: rows of wpe. */
typedef struct {
    const ck_tensor *dx;
    int64_t wte_gradient, wpe_gradient;
    int32_t width, vocabulary, positions;
    bool accumulate;
} ck_embed_backward;
void ck_op_embed_backward(ck_program *, const ck_embed_backward *);

/* LayerNorm: y = (x - mean) rstd gain + bias, rstd = 1 / sqrt(mean of (x - mean)^2 + epsilon).
 * RMSNorm (Zhang and Sennrich 2019): y = x rstd gain, rstd = 1 / sqrt(mean of x^2 + epsilon); no bias.
 * stats [tokens, 2] keeps mean (RMSNorm: 0), rstd. */
typedef enum { CK_LAYER_NORM, CK_RMS_NORM } ck_norm_kind;
typedef struct {
    const ck_tensor *x;
    ck_tensor *y, *stats;
    const float *gain, *bias; /* bias NULL with RMSNorm */
    int32_t width;
    float epsilon;
    ck_norm_kind kind;
} ck_norm;
void ck_op_norm(ck_program *, const ck_norm *);

/* dx = backward of dy through the norm (accumulate: dx +=). */
typedef struct {
    const ck_tensor *x, *stats, *dy;
    ck_tensor *dx;
    const float *gain;
    int32_t width;
    int64_t gain_gradient, bias_gradient; /* both or neither; with RMSNorm the first alone */
    bool accumulate;
    ck_norm_kind kind;
} ck_norm_backward;
void ck_op_norm_backward(ck_program *, const ck_norm_backward *);

/* Of linears and what reads their bias: `linear` is the linear's place in ck_wave.variants, -1: no variant
 * replaces it. */

/* y = x W^T + c b (+ residual where given); b may be NULL; c = bias_factor of the token where it is given
 * (see ck_route), else 1. */
typedef struct {
    const ck_tensor *x;
    ck_tensor *y;
    const ck_tensor *residual;
    const ck_tensor *bias_factor; /* [tokens, 1] */
    const float *weight, *bias;
    int32_t in, out, linear;
} ck_linear;
void ck_op_linear(ck_program *, const ck_linear *);

/* dx = dy W (accumulate: dx +=; dx NULL: not wanted); dW = dy^T x, db = column sums of dy where wanted. */
typedef struct {
    const ck_tensor *x, *dy;
    ck_tensor *dx;
    const float *weight;
    int32_t in, out, linear;
    bool accumulate;
    int64_t weight_gradient, bias_gradient;
} ck_linear_backward;
void ck_op_linear_backward(ck_program *, const ck_linear_backward *);

/* Rotary position embedding (Su et al. 2021), in place on the q and k of qkv, which lies as ck_attention
 * says: of each head of a token at position t of its sequence, elements i and i + head_size / 2 (i <
 * head_size / 2) turn by the angle of (t, i):
 *   (a, b) <- (a cos - b sin, b cos + a sin).
 * table [positions, head_size / 2, 2] holds cos, sin of each angle; backend memory, of as many positions as
 * the longest sequence has tokens. head_size is even. */
typedef struct {
    ck_tensor *qkv;
    const float *table;
    int32_t heads, kv_heads, head_size;
} ck_rope;
void ck_op_rope(ck_program *, const ck_rope *);
/* The same on dqkv, by the opposite angles. */
typedef struct {
    ck_tensor *dqkv;
    const float *table;
    int32_t heads, kv_heads, head_size;
} ck_rope_backward;
void ck_op_rope_backward(ck_program *, const ck_rope_backward *);

/* Causal attention, of query heads in groups that share a head of keys and values (Ainslie et al. 2023):
 * query head j reads kv head j / (heads / kv_heads). qkv [tokens, (heads + 2 kv_heads) head_size]: the query
 * heads, then k, then v; o [tokens, heads head_size]; lse [tokens, heads] log-sum-exp of each score row. */
typedef struct {
    const ck_tensor *qkv;
    ck_tensor *o, *lse;
    int32_t heads, kv_heads, head_size; /* kv_heads divides heads */
} ck_attention;
void ck_op_attention(ck_program *, const ck_attention *);
typedef struct {
    const ck_tensor *qkv, *o, *lse, *d_o;
    ck_tensor *dqkv;
    int32_t heads, kv_heads, head_size;
} ck_attention_backward;
void ck_op_attention_backward(ck_program *, const ck_attention_backward *);

/* The dense MLP of pre-training: m = gelu(u); du = dm gelu'(u). */
typedef struct {
    const ck_tensor *u;
    ck_tensor *m;
    int32_t ffn;
} ck_gelu;
void ck_op_gelu(ck_program *, const ck_gelu *);
typedef struct {
    const ck_tensor *u, *dm;
    ck_tensor *du;
    int32_t ffn;
} ck_gelu_backward;
void ck_op_gelu_backward(ck_program *, const ck_gelu_backward *);

/* The same with a gate: u [tokens, 2 F] holds gate and up, g and v; m = silu(g) v, silu(g) = g sigma(g).
 * dg = dm v silu'(g), dv = dm silu(g); du is neither u nor dm. */
typedef struct {
    const ck_tensor *u;
    ck_tensor *m;
    int32_t ffn;
} ck_swiglu;
void ck_op_swiglu(ck_program *, const ck_swiglu *);
typedef struct {
    const ck_tensor *u, *dm;
    ck_tensor *du;
    int32_t ffn;
} ck_swiglu_backward;
void ck_op_swiglu_backward(ck_program *, const ck_swiglu_backward *);

/* Head and cross-entropy, fused: logits = x W^T exist for a few rows at a time only. loss[sequence] = sum
 * over counted tokens of -log p(target), nats. A wave of a program with CK_HEAD_STEP has devices, one of a
 * program with CK_HEAD_PRETRAIN has none, and base gradients. */
typedef enum {
    CK_HEAD_EVALUATE, /* losses alone */
    CK_HEAD_STEP,     /* dx = gradient of (sum of the device's losses) / (the device's counted tokens) */
    CK_HEAD_PRETRAIN  /* dx, dW = gradients of (sum of the wave's losses) / (the wave's counted tokens) */
} ck_head_mode;
typedef struct {
    ck_head_mode mode;
    const ck_tensor *x;
    ck_tensor *dx;       /* NULL to evaluate */
    const float *weight; /* [V, width] */
    float *loss;         /* [max_sequences] backend memory */
    float *logits;       /* NULL, or [max_tokens, V] backend memory: tests only */
    int32_t width, vocabulary;
    int64_t weight_gradient; /* read in pre-training only */
} ck_head;
void ck_op_head(ck_program *, const ck_head *);

/* ---- Local ops: adapters --------------------------------------------------------------------- */

/* The LoRA at a site that every token uses: h = x A^T, y += s h B. h [tokens, most ranks of any shape]. Where
 * several sites' outputs lie beside each other in y (q, k and v in qkv; gate and up in U), those of this site
 * begin at first_column. */
typedef struct {
    const ck_tensor *x;
    ck_tensor *h, *y;
    ck_site site;
    int32_t in, out; /* of the site's linear */
    int32_t first_column;
    int32_t layer;
    bool tied; /* the LoRA that all layers share, not the layer's own */
} ck_lora;
void ck_op_lora(ck_program *, const ck_lora *);
/* q = s dy B^T; dx += q A (dx NULL: not wanted); dA = q^T x; dB = s h^T dy. first_column: in dy. At PR, dx is
 * the dm that ck_op_expert_activation_backward() gets, so this comes before it. tied: dA and dB are what this
 * layer gives; ck_op_tied_gradients() adds up the layers. */
typedef struct {
    const ck_tensor *x, *h, *dy;
    ck_tensor *dx;
    ck_site site;
    int32_t in, out;
    int32_t first_column;
    int32_t layer;
    bool tied;
} ck_lora_backward;
void ck_op_lora_backward(ck_program *, const ck_lora_backward *);

/* The vector p of a site, which all layers share: y += p, or with CK_COLUMN_BIAS y += p sum_j x_j. */
typedef struct {
    const ck_tensor *x;
    ck_tensor *y;
    ck_site site;
    int32_t in, out, first_column; /* as in ck_lora */
    int32_t layer;
} ck_site_vector;
void ck_op_site_vector(ck_program *, const ck_site_vector *);
/* dp = sum_t dy_t, or sum_t (sum_j x_tj) dy_t, what this layer gives. With CK_COLUMN_BIAS dx_j += <p, dy> for
 * all j (dx NULL: not wanted). */
typedef struct {
    const ck_tensor *x, *dy;
    ck_tensor *dx;
    ck_site site;
    int32_t in, out, first_column, layer;
} ck_site_vector_backward;
void ck_op_site_vector_backward(ck_program *, const ck_site_vector_backward *);

/* Gradients of what all layers share: the sum of what the layers gave, from layer 0 up. After the backward
 * ops of all layers. */
typedef struct {
    int32_t n_layers;
} ck_tied_gradients;
void ck_op_tied_gradients(ck_program *, const ck_tied_gradients *);

/* One product x [R | A1_0 .. A1_{E-1}]^T, then top-k and softmax (sim/methods/README.md). zh [tokens, E + H]:
 * raw logits then h = A1 x (E = the device's router rows, H its h_ranks); gates [tokens, CK_MAX_EXPERTS]:
 * w_e, 0 if not chosen, columns >= E are 0. Ties: the lower index wins. h of an expert that the token has not
 * chosen may be left 0. bias_factor [tokens, 1]: how often the bias of the expert layer's second linear
 * counts, sum_e w_e where the device's mix is MLP, else 1.
 *
 * CK_ROUTER_LLAMA_MOE: a = tanh(R x), z = R2 a + CK_NOISE_DEVIATION n, where n is normal (noise.h; the
 * token's position is that among the device's tokens in the wave) if the device learns, else 0. zh has z in
 * place of R x. */
typedef struct {
    const ck_tensor *x;
    ck_tensor *zh, *gates;
    ck_tensor *bias_factor; /* NULL: not wanted */
    /* [tokens, 2 CK_MAX_EXPERTS]: a, then R2 a, E each, of routers with a hidden layer; NULL: not wanted */
    ck_tensor *hidden;
    int32_t layer;
    /* Optional statistics, backend memory, [max_sequences, n_layers, CK_MAX_EXPERTS], NULL = not wanted: */
    float *gate_sum;    /* sum over the sequence's tokens of w_e */
    float *top1_count;  /* tokens whose largest gate is e (the chosen expert with the largest logit) */
    float *top_k_count; /* tokens that chose e: f_e of the load balance before normalisation */
    /* Of CK_ROUTER_LLAMA_MOE with K < E in a device that learns, else 0; needs `hidden`: the sum of the
     * probabilities that the token would choose e if e alone had other noise (Shazeer et al. 2017),
     * Phi(((R2 a)_e - t) / CK_NOISE_DEVIATION), where t is the K-th largest of the other z. */
    float *load_sum;
    int32_t n_layers;
    /* Optional per-token record [max_tokens, n_layers, CK_MAX_EXPERTS] of the gates. */
    float *gate_record;
} ck_route;
void ck_op_route(ck_program *, const ck_route *);

/* U [tokens, F or 2 F], zh, gates -> m [tokens, F], g [tokens, S].
 * CK_MIX_MLP:    u_e = U + s_e B1_e h_e, a_e = act(u_e), m = sum_e w_e a_e, g_e = A2_e a_e
 * CK_MIX_LINEAR: u = U + sum_e w_e s_e B1_e h_e, m = act(u), g_e = A2_e m
 * With SwiGLU each u is a pair, of gate and up, with an h_e and a B1_e each. */
typedef struct {
    const ck_tensor *u, *zh, *gates;
    ck_tensor *m, *g;
    int32_t ffn, layer;
    ck_mlp mlp; /* of all shapes of the program's waves */
} ck_expert_activation;
void ck_op_expert_activation(ck_program *, const ck_expert_activation *);

/* y += sum_e s_e w_e g_e B2_e. */
typedef struct {
    const ck_tensor *g, *gates;
    ck_tensor *y;
    int32_t layer;
} ck_expert_expand;
void ck_op_expert_expand(ck_program *, const ck_expert_expand *);

/* q_e = s_e B2_e^T dy; dw_e = <g_e, q_e> + <b_pr, dy> (the bias term only where the mix is MLP); dB2_e = s_e
 * w_e g_e^T dy. q [tokens, S], dw [tokens, CK_MAX_EXPERTS]. b_pr (bias) may be NULL. */
typedef struct {
    const ck_tensor *dy, *g, *gates;
    ck_tensor *q, *dw;
    const float *bias;
    int32_t layer, linear; /* whose bias it is */
} ck_expert_expand_backward;
void ck_op_expert_expand_backward(ck_program *, const ck_expert_expand_backward *);

/* dm = W_pr^T dy comes in (ck_op_linear_backward). Recomputes u_e, a_e. Out: du = sum_e du_e [tokens, F or 2
 * F]; p_e = s_e B1_e^T du_e (linear mix: times w_e) [tokens, H]; dw += <a_e, dm> (linear mix: <s B1 h_e,
 * du>); dB1, dA2. du is not dm. SwiGLU: da = dm + A2^T q, du = w da v silu'(u), dv = w da silu(u); silu'(u) =
 * sigma(u) (1 + u (1 - sigma(u))). */
typedef struct {
    const ck_tensor *u, *zh, *gates, *dm, *q;
    ck_tensor *du, *p, *dw;
    int32_t ffn, layer;
    ck_mlp mlp;
} ck_expert_activation_backward;
void ck_op_expert_activation_backward(ck_program *, const ck_expert_activation_backward *);

/* dz = softmax/top-k backward of dw (+ load balance); dx = dz R + p A1 (accumulate: +=); dR = dz^T x; dA1 =
 * p^T x. K = 1 < E: dz_j = dw_i w_i ([j = i] - softmax(z)_j).
 * CK_ROUTER_LLAMA_MOE: dR2 = dz^T a, and (R2^T dz) (1 - a^2) takes the place of dz in dx and dR. */
typedef struct {
    const ck_tensor *x, *zh, *gates, *dw, *p;
    const ck_tensor *hidden; /* of ck_route; NULL: no device has a router with a hidden layer */
    ck_tensor *dx;
    int32_t layer;
    bool accumulate;
    const float *balance, *load_balance; /* NULL, or the coefficients made by ck_op_balance */
    int32_t n_layers;
} ck_route_backward;
void ck_op_route_backward(ck_program *, const ck_route_backward *);

/* ---- Global ops ------------------------------------------------------------------------------ */

/* Load balance: coefficient[device, layer, e] = balance_e f_e / T_i, f_e = (1/K) share of the device's tokens
 * that chose e; the factor of dP_e/dz in ck_op_route_backward. Splits the program: everything recorded
 * before is complete for the whole wave, and activations used on both sides are kept for the whole wave.
 *
 * CK_ROUTER_LLAMA_MOE: the term is balance (CV^2(w) + CV^2(load)) of the two sums over the device's tokens,
 * CV^2(v) = var(v) / mean(v)^2, var with E - 1. coefficient and load_coefficient are its derivatives,
 *   balance (2 / mean^2) ((v_e - mean) / (E - 1) - var / (E mean)). */
typedef struct {
    const float *top_k_count; /* of ck_route */
    const float *gate_sum,
        *load_sum; /* the same; these and load_coefficient NULL: no device has such a router */
    /* [max_devices = max_sequences, n_layers, CK_MAX_EXPERTS] backend memory */
    float *coefficient, *load_coefficient;
    int32_t n_layers;
} ck_balance;
void ck_op_balance(ck_program *, const ck_balance *);

/* ---- Ceilings -------------------------------------------------------------------------------- */

/* What the backend can compute at most, FLOP/s of all its threads; a rate is 0 where it was not measured. */
typedef struct {
    double product;      /* of the best matrix product there is: OpenBLAS's or Cohort's own, cuBLASLt's */
    double fma;          /* of independent multiply-adds in registers, which nothing exceeds: f32 on a CPU */
    int threads;         /* of a CPU: those that took part in `product` */
    char product_of[48]; /* "Cohort's", "OpenBLAS Haswell", "cuBLASLt" */
    /* a clause on OpenBLAS's kernels where they use less than the processor has; else empty */
    char note[128];
} ck_ceiling;
/* Takes about 0.3 s. Not measured: what the backend does not support, and what finds no memory. */
ck_ceiling ck_measure_ceiling(ck_backend *, ck_precision);
/* Host memory that measuring it takes beside all else: a fixed amount, and one for each thread that has a
 * core. */
size_t ck_ceiling_bytes(const ck_backend *);

/* A large copy, bytes read and written a second; 0: not measured. */
double ck_copy_rate(ck_backend *);

#ifdef __cplusplus
}
#endif
#endif

/* oracle.h - the reference: every op of kernels.h and the whole model, in float64 and plain loops, written
 * from the formulas of sim/methods/README.md and never from a backend. It is nobody's backend: it is slow on
 * purpose, and checked by itself in tests/conformance/test_oracle.c (hand-computed tables, finite
 * differences, the naive form of the expert layer, properties).
 *
 * Conventions
 *   - double throughout; matrices are row-major; n is a number of token rows; W of a linear is [out, in].
 *   - Parameter packs have the layout of ck_shape (A [r, in], B transposed [r, out]),
 *     base weights that of base_layout.
 *   - Functions that give gradients of parameters, and input gradients called "dx +=", add to what is there.
 *   - zh, h, g, q and p have an explicit row stride ("ld"),
 *     because a wave's tensors are as wide as its widest device. */
#ifndef COHORT_ORACLE_H
#define COHORT_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "kernels.h"

double *oracle_zeros(int64_t count); /* calloc that aborts the test when memory is out; free() it */
double *oracle_from_floats(const float *values, int64_t count);
double oracle_dot(const double *a, const double *b, int64_t count);

/* ---- The transformer (oracle_transformer.c, oracle_llama.c, oracle_attention.c, oracle_head.c) */

/* One sequence: n tokens at positions 0 .. n-1; wpe, and its gradient, may be NULL. */
void oracle_embed(int64_t n, int width, const int32_t *tokens, const double *wte, const double *wpe,
                  double *x);
/* += */
void oracle_embed_backward(int64_t n, int width, const int32_t *tokens, const double *dx, double *dwte,
                           double *dwpe);

typedef struct {
    int64_t n;
    int width;
    double epsilon;
} oracle_norm_size;
void oracle_norm(oracle_norm_size size, const double *x, const double *gain, const double *bias, double *y,
                 double *stats);
/* dx +=; dgain and dbias +=, or NULL. */
void oracle_norm_backward(oracle_norm_size size, const double *x, const double *gain, const double *dy,
                          double *dx, double *dgain, double *dbias);

/* RMSNorm: no bias; stats keeps 0 and rstd. */
void oracle_rms_norm(oracle_norm_size size, const double *x, const double *gain, double *y, double *stats);
/* dx +=; dgain +=, or NULL. */
void oracle_rms_norm_backward(oracle_norm_size size, const double *x, const double *gain, const double *dy,
                              double *dx, double *dgain);

typedef struct {
    int64_t n;
    int in, out;
} oracle_linear_size;
/* bias [out] or NULL; factor [n] multiplies the bias of each row (NULL: 1); residual [n, out] or NULL. */
void oracle_linear(oracle_linear_size size, const double *x, const double *weight, const double *bias,
                   const double *factor, const double *residual, double *y);
/* dx +=; any of dx, dweight, dbias may be NULL (dbias is for factor 1). */
void oracle_linear_backward(oracle_linear_size size, const double *x, const double *weight, const double *dy,
                            double *dx, double *dweight, double *dbias);

double oracle_gelu(double u);
double oracle_gelu_slope(double u);

/* u [n, 2 F]: gate and up; writes m [n, F], du [n, 2 F]. */
void oracle_swiglu(int64_t n, int ffn, const double *u, double *m);
void oracle_swiglu_backward(int64_t n, int ffn, const double *u, const double *dm, double *du);

typedef struct {
    int64_t n; /* tokens of one sequence */
    int heads, kv_heads, head_size;
} oracle_attention_size;
/* qkv and dqkv [n, (heads + 2 kv_heads) head_size], o and d_o [n, heads head_size]. */
/* Turns q and k of one sequence in place; table [positions, head_size / 2, 2] of cos and sin; with backward
 * dqkv, by the opposite angles. */
void oracle_rope(oracle_attention_size size, const double *table, bool backward, double *qkv);
void oracle_attention(oracle_attention_size size, const double *qkv, double *o, double *lse);
void oracle_attention_backward(oracle_attention_size size, const double *qkv, const double *d_o,
                               double *dqkv);

typedef struct {
    int64_t n;
    int width, vocabulary;
} oracle_head_size;
/* The summed loss; logits [n, V] or NULL. */
double oracle_head(oracle_head_size size, const double *x, const double *wte, const int32_t *targets,
                   double *logits);
/* dx and dwte (NULL: not wanted) of scale * loss; dx is written, dwte += . */
void oracle_head_backward(oracle_head_size size, const double *x, const double *wte, const int32_t *targets,
                          double scale, double *dx, double *dwte);
int64_t oracle_counted(int64_t n, const int32_t *targets);

/* ---- Adapters: one layer of one device ------------------------------------------------------- */

typedef struct {
    const ck_shape *shape;
    int layer;
    const double *parameters; /* the device's pack */
    /* pack of the same layout, added to; NULL where only forward functions are called */
    double *gradients;
    /* of a step, for a router that has noise; NULL: none. position [n]: of each row among the device's
     * tokens; NULL: 0 to n - 1 */
    const ck_noise *noise;
    const int64_t *position;
} oracle_adapter;

typedef enum {
    ORACLE_QKV_A,
    ORACLE_QKV_B,
    ORACLE_OUT_A,
    ORACLE_OUT_B,
    ORACLE_ROUTER,
    ORACLE_A1,
    ORACLE_B1,
    ORACLE_A2,
    ORACLE_B2,
    ORACLE_Q_A,
    ORACLE_Q_B,
    ORACLE_K_A,
    ORACLE_K_B,
    ORACLE_V_A,
    ORACLE_V_B,
    ORACLE_GATE_A, /* from here on: LoRAs of the MLP that are no expert's */
    ORACLE_GATE_B,
    ORACLE_UP_A, /* FC */
    ORACLE_UP_B,
    ORACLE_DOWN_A, /* PR */
    ORACLE_DOWN_B,
    ORACLE_ROUTER_OUT,
    /* What all layers share: A, B and the vector of each site, in the order of the sites. */
    ORACLE_TIED,
    ORACLE_PARTS = ORACLE_TIED + 3 * CK_SITES
} oracle_part;
const char *oracle_part_name(oracle_part part);
uint32_t oracle_part_class(oracle_part part); /* CK_LEARN_* */
/* Where a part lies in the device's pack; count 0 if the shape has none. What all layers share is listed with
 * layer 0. */
typedef struct {
    int64_t offset, count;
} oracle_range;
oracle_range oracle_part_range(const ck_shape *shape, int layer, oracle_part part);

/* A and B of the LoRA at a site. */
oracle_part oracle_lora_part(ck_site site, ck_factor factor);

/* y += ; the site's first column of y, and ldy from a row of y to the next. */
void oracle_lora(const oracle_adapter *a, ck_site site, int64_t n, const double *x, double *h, int ld,
                 double *y, int ldy);
void oracle_lora_backward(const oracle_adapter *a, ck_site site, int64_t n, const double *x, const double *h,
                          int ld, const double *dy, int ldy, double *dx);

/* The same of the LoRA that all layers share. */
void oracle_tied_lora(const oracle_adapter *a, ck_site site, int64_t n, const double *x, double *h, int ld,
                      double *y, int ldy);
void oracle_tied_lora_backward(const oracle_adapter *a, ck_site site, int64_t n, const double *x,
                               const double *h, int ld, const double *dy, int ldy, double *dx);

/* The vector of a site: y += p, or p times the sum of x's row. dx may be NULL. */
void oracle_site_vector(const oracle_adapter *a, ck_site site, int64_t n, int in, const double *x, double *y,
                        int ldy);
void oracle_site_vector_backward(const oracle_adapter *a, ck_site site, int64_t n, int in, const double *x,
                                 const double *dy, int ldy, double *dx);

/* K = min(k, E), or E where the gates are means. */
int oracle_chosen_count(const ck_shape *shape);
/* The K kept experts of one token: chosen[0] has the largest logit; ties: the lower index first. logits NULL:
 * 0 .. E-1. */
void oracle_top_k(const ck_shape *shape, const double *logits, int *chosen);
/* w of one token [CK_MAX_EXPERTS] and P of the load balance [E] from its logits [E] (not read where there is
 * no router). */
void oracle_gates(const ck_shape *shape, const double *logits, double *gates);
void oracle_balance_probability(const ck_shape *shape, const double *logits, double *p);
/* Smallest distance between a kept and a dropped logit over n tokens; INFINITY if nothing is dropped. */
double oracle_margin(const ck_shape *shape, int64_t n, const double *zh, int ld);

/* hidden [n, 2 CK_MAX_EXPERTS]: as ck_route has it; NULL: not wanted. */
void oracle_route(const oracle_adapter *a, int64_t n, const double *x, double *zh, int ld, double *gates,
                  double *hidden);
/* coefficient [E] of the load balance or NULL; of a router with a hidden layer [CK_MAX_EXPERTS + E]: the
 * derivatives by sums of gates, and from CK_MAX_EXPERTS on by sums of the load. hidden: its rows. dx +=. */
void oracle_route_backward(const oracle_adapter *a, int64_t n, const double *x, const double *zh, int ld,
                           const double *gates, const double *hidden, const double *dw, const double *p,
                           int ldp, const double *coefficient, double *dx);
/* f_e and the coefficient of dP_e/dz from top-k counts and summed P over a device's n tokens; returns the
 * layer's value. */
double oracle_balance(const ck_shape *shape, int64_t n, const double *top_k_count, const double *p_sum,
                      double *coefficient);

/* ---- Routers with a hidden layer (oracle_hidden_router.c) ------------------------------------ */

bool oracle_has_hidden_layer(const ck_shape *shape);
/* A normal number. */
double oracle_noise(const ck_noise *noise, int64_t position, int layers, int layer, int expert);
/* A row's z [E]: R x comes in, logits go out. Writes hidden [2 E]. */
void oracle_hidden_logits(const oracle_adapter *a, int64_t row, double *z, double *hidden);
/* A token's load p [CK_MAX_EXPERTS]: 0 without noise. dz += by a coefficient of each p. */
void oracle_load(const oracle_adapter *a, const double *z, const double *hidden, double *p);
void oracle_load_backward(const oracle_adapter *a, const double *z, const double *hidden,
                          const double *coefficient, double *dz);
/* A token's dz becomes the gradient of R x; dR2 +=. */
void oracle_hidden_backward(const oracle_adapter *a, const double *hidden, double *dz);
/* From sums over a device's tokens [E] the coefficients [2 CK_MAX_EXPERTS] for oracle_route_backward();
 * returns the layer's value. */
double oracle_gate_balance(const ck_shape *shape, const double *gate_sum, const double *load_sum,
                           double *coefficient);

/* ---- The expert layer, factorised (oracle_experts.c) ----------------------------------------- */

/* c of y = W m + c b: sum of the weights where MLP outputs are mixed, 1 where the mix is inside the linears.
 */
void oracle_bias_factor(const ck_shape *shape, int64_t n, const double *gates, double *factor);
/* What the MLP makes of its pre-activations u [branches, F]: element f, and its derivatives by u[f] and u[F +
 * f]. */
int oracle_branches(const ck_shape *shape); /* 1, or 2: gate and up */
double oracle_act(const ck_shape *shape, const double *u, int f);
void oracle_act_slope(const ck_shape *shape, const double *u, int f, double slope[2]);
/* u [n, branches F]. */
void oracle_expert_activation(const oracle_adapter *a, int64_t n, const double *u, const double *zh, int ld,
                              const double *gates, double *m, double *g, int ldg);
void oracle_expert_expand(const oracle_adapter *a, int64_t n, const double *g, int ldg, const double *gates,
                          double *y);
/* Writes q and dw; bias may be NULL. */
void oracle_expert_expand_backward(const oracle_adapter *a, int64_t n, const double *bias, const double *dy,
                                   const double *g, int ldg, const double *gates, double *q, double *dw);
/* Writes du and p; dw +=. du may be dm, but not with SwiGLU. */
void oracle_expert_activation_backward(const oracle_adapter *a, int64_t n, const double *u, const double *zh,
                                       int ld, const double *gates, const double *dm, const double *q,
                                       int ldq, double *du, double *p, int ldp, double *dw);

/* ---- The expert layer, naive (oracle_naive.c): E full copies of the MLP ---------------------- */

typedef struct {
    const double *fc_w, *fc_b, *pr_w, *pr_b; /* [branches F, D], [branches F], [D, F], [D] */
} oracle_mlp;
/* y [n, D]. */
void oracle_naive_layer(const oracle_adapter *a, const oracle_mlp *mlp, int64_t n, const double *x,
                        double *y);
/* Through the copies' own weights W_e = W + s B_e A_e and, only then, to A and B. dx +=. coefficient as in
 * oracle_route_backward. */
void oracle_naive_layer_backward(const oracle_adapter *a, const oracle_mlp *mlp, int64_t n, const double *x,
                                 const double *dy, const double *coefficient, double *dx);

/* ---- Updates (oracle_updates.c) -------------------------------------------------------------- */

typedef struct {
    double *parameter, *moment1, *moment2;
    const double *gradient;
} oracle_adamw_arrays;
void oracle_adamw(oracle_adamw_arrays arrays, int64_t count, const ck_adamw_hyper *hyper);
void oracle_carry(double *carried, double *gradients, int64_t count, bool learned);
void oracle_group_sum(const double *parameters, const ck_group *group, double *packed);
void oracle_group_spread(double *parameters, const ck_group *group, const double *packed);
void oracle_group_proximal(const double *parameters, const ck_group *group, const double *packed,
                           double *gradients);

/* ---- The whole model (oracle_model.c) -------------------------------------------------------- */

typedef struct {
    base_shape shape;
    base_layout layout;
    const double *weights;
} oracle_base;

/* The sequences of one device. */
typedef struct {
    int n_sequences;
    /* [n_sequences + 1]; tokens and targets are indexed by first_token[s] - first_token[0] */
    const int64_t *first_token;
    const int32_t *tokens, *targets;
    const ck_noise *noise; /* of the step; NULL: none */
} oracle_batch;

/* What a pass leaves behind, each NULL if not wanted. */
typedef struct {
    double *loss;      /* [n_sequences] summed nats */
    double *logits;    /* [tokens, V] */
    double *gates;     /* [layers, tokens, CK_MAX_EXPERTS] */
    double *gradients; /* the device's pack: gradient of mean loss + load balance; added to */
    double margin;     /* out: least distance of a kept from a dropped logit */
    double balance;    /* out: value of the load balance, all layers */
} oracle_pass;

/* A device's step (or evaluation, if gradients is NULL). Returns mean loss over counted tokens + load
 * balance. */
double oracle_model(const oracle_base *base, const ck_shape *shape, const double *parameters,
                    const oracle_batch *batch, oracle_pass *pass);
/* Pre-training: no adapters; loss and logits as above, gradients [layout.total] of the mean loss over the
 * batch; the rest is not touched.
 */
double oracle_pretraining(const oracle_base *base, const oracle_batch *batch, oracle_pass *pass);

#endif

/* expert_activation.c - the experts' activation and gate mix around one base product (sim/methods/README.md).
 *
 *   MLP mix:     u_e = U + s_e h_e B1_e, a_e = act(u_e), m = sum_e w_e a_e, g_e = a_e A2_e^T
 *     backward:  du_e = w_e (dm + q_e A2_e) act'(u_e), dU = sum_e du_e, p_e = s_e du_e B1_e^T, dw_e += <a_e,
 *                dm>, dB1_e = s_e h_e^T du_e, dA2_e = (w_e q_e)^T a_e
 *   linear mix:  u = U + sum_e w_e s_e h_e B1_e, m = act(u), g = m A2^T
 *     backward:  du = (dm + sum_e w_e q_e A2_e) act'(u), p_e = w_e s_e du B1_e^T, dw_e += <h_e, s_e du
 *                B1_e^T>, dB1_e = (w_e s_e h_e)^T du, dA2_e = (w_e q_e)^T m
 *   act:         gelu(u), one branch;  silu(u) v, two: u of the gate and v of the up,
 *       each with its half of U, h, B1, dU, p and dB1
 *
 * Tiles of tokens, small enough that U's tile stays in L2 while every expert visits it. An expert sees only
 * the tokens that chose it, gathered in rank space: a token costs K activations, not E. Forward reads U once
 * and writes m once, 8 F bytes a token (SwiGLU 12 F); FLOPs: 4 F r K forward, 10 F r K backward in products
 * (SwiGLU 6 and 16), about 25 F K in elementwise work each way.
 */
#include "cpu.h"
#include "gemm.h"
#include "vector.h"

#include <string.h>

enum { MAX_TILE = 128 };

static int branches_of(ck_mlp mlp) {
    return mlp == CK_MLP_SWIGLU ? 2 : 1;
}

int64_t cpu_expert_activation_scratch(int ffn, ck_mlp mlp) {
    return (branches_of(mlp) + 1) * ck_align((int64_t)cpu_tile_rows(ffn) * ffn) +
           4 * ck_align((int64_t)MAX_TILE * CK_MAX_RANK_SUM);
}

/* The tokens of a tile that chose one expert, and the scratch of the tile. */
typedef struct {
    int first, rows;         /* tokens [first, first + rows) of the sequence */
    int chosen[MAX_TILE], n; /* those that use the expert at hand, relative to first */
    bool touched[MAX_TILE];  /* some earlier expert has written the token's mixed row */
    int ffn, branches;
    float *pre[2], *wide;        /* [rows, F] of each branch, and one more */
    float *h[2], *q, *wq, *p[2]; /* [rows, ranks] gathered; h and p of each branch */
} tile;

static void tile_init(tile *t, const cpu_block *block, int ffn, int first) {
    int rows = cpu_tile_rows(ffn), branches = branches_of(block->shape->mlp);
    int64_t wide = ck_align((int64_t)rows * ffn), narrow = ck_align((int64_t)MAX_TILE * CK_MAX_RANK_SUM);
    t->first = first;
    t->rows = block->n_tokens - first < rows ? block->n_tokens - first : rows;
    t->ffn = ffn, t->branches = branches;
    memset(t->touched, 0, sizeof t->touched);
    t->wide = block->scratch;
    t->pre[0] = t->wide + wide;
    t->pre[1] = t->pre[0] + (branches - 1) * wide;
    t->h[0] = t->pre[1] + wide;
    t->q = t->h[0] + narrow;
    t->wq = t->q + narrow;
    t->p[0] = t->wq + narrow;
    t->h[1] = t->h[0] + narrow / 2; /* two branches have at most half of the ranks each */
    t->p[1] = t->p[0] + narrow / 2;
}

/* First factor of the up branch, in rows or columns of rank space, behind that of the gate. */
static int branch_rank(const ck_shape *shape, int branch, int first_rank) {
    return branch * shape->rank_sum + first_rank;
}

static int64_t b1_of(const ck_shape *shape, int branch, int first_rank) {
    return shape->b1 + (int64_t)branch_rank(shape, branch, first_rank) * shape->ffn;
}

static void tile_choose(tile *t, const float *gates, int expert) {
    t->n = 0;
    for (int i = 0; i < t->rows; i++) {
        if (gates[(int64_t)(t->first + i) * CK_MAX_EXPERTS + expert] != 0.0f) t->chosen[t->n++] = i;
    }
}

/* out[i] = factor(i) * source row of the i-th chosen token, columns [column, column + width); gates NULL:
 * factor 1. */
static void gather(const tile *t, const float *source, int columns, int column, int width, const float *gates,
                   int expert, float *out) {
    for (int i = 0; i < t->n; i++) {
        int64_t token = t->first + t->chosen[i];
        float factor = gates ? gates[token * CK_MAX_EXPERTS + expert] : 1.0f;
        const float *row = source + token * columns + column;
        for (int j = 0; j < width; j++) out[(int64_t)i * width + j] = factor * row[j];
    }
}

static void scatter(const tile *t, const float *rows, int width, float *to, int columns, int column) {
    for (int i = 0; i < t->n; i++) {
        memcpy(to + (int64_t)(t->first + t->chosen[i]) * columns + column, rows + (int64_t)i * width,
               (size_t)width * sizeof(float));
    }
}

static void clear_rows(const tile *t, float *to, int columns, int width) {
    for (int i = 0; i < t->rows; i++)
        memset(to + (int64_t)(t->first + i) * columns, 0, (size_t)width * sizeof(float));
}

/* ---- Rows ---- */

/* pre <- a = act(u + pre), m (+)= w a; inlined for either `add`, because a store that depends on one keeps a
 * loop scalar. */
static inline __attribute__((always_inline)) void
gelu_row(const float *restrict u, float *restrict pre, float *restrict m, float w, const bool add, int ffn) {
    for (int f = 0; f < ffn; f++) {
        pre[f] = vec_gelu(u[f] + pre[f]);
        m[f] = add ? m[f] + w * pre[f] : w * pre[f];
    }
}

static inline __attribute__((always_inline)) void swiglu_row(const float *restrict u, float *restrict pre,
                                                             const float *restrict up, float *restrict m,
                                                             float w, const bool add, int ffn) {
    for (int f = 0; f < ffn; f++) {
        pre[f] = vec_silu(u[f] + pre[f]) * (u[ffn + f] + up[f]);
        m[f] = add ? m[f] + w * pre[f] : w * pre[f];
    }
}

/* Row `i` of the tile's wide ones. */
static void activate(const tile *t, int i, const float *u, float *m, float w, bool add) {
    float *pre = t->pre[0] + (int64_t)i * t->ffn, *up = t->pre[1] + (int64_t)i * t->ffn;
    if (t->branches == 2) {
        add ? swiglu_row(u, pre, up, m, w, true, t->ffn) : swiglu_row(u, pre, up, m, w, false, t->ffn);
    } else {
        add ? gelu_row(u, pre, m, w, true, t->ffn) : gelu_row(u, pre, m, w, false, t->ffn);
    }
}

/* pre <- a = gelu(u + pre), v <- du = w (dm + v) gelu'(u + pre), dU (+)= du; returns <a, dm>. */
static inline __attribute__((always_inline)) float
gelu_backward_row(const float *restrict u, const float *restrict dm, float *restrict pre, float *restrict v,
                  float *restrict du_sum, float w, const bool add, int ffn) {
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int f = 0; f < ffn; f++) {
        float slope, a = vec_gelu_slope(u[f] + pre[f], &slope);
        float du = w * (dm[f] + v[f]) * slope;
        dot += a * dm[f];
        pre[f] = a;
        v[f] = du;
        du_sum[f] = add ? du_sum[f] + du : du;
    }
    return dot;
}

/* The same with two branches: up <- their dv. */
static inline __attribute__((always_inline)) float
swiglu_backward_row(const float *restrict u, const float *restrict dm, float *restrict pre,
                    float *restrict up, float *restrict v, float *restrict du_sum, float w, const bool add,
                    int ffn) {
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int f = 0; f < ffn; f++) {
        float slope, silu = vec_silu_slope(u[f] + pre[f], &slope), linear = u[ffn + f] + up[f];
        float da = w * (dm[f] + v[f]), du = da * linear * slope, dv = da * silu, a = silu * linear;
        dot += a * dm[f];
        pre[f] = a;
        v[f] = du;
        up[f] = dv;
        du_sum[f] = add ? du_sum[f] + du : du;
        du_sum[ffn + f] = add ? du_sum[ffn + f] + dv : dv;
    }
    return dot;
}

static float activate_backward(const tile *t, int i, const float *u, const float *dm, float *du, float w,
                               bool add) {
    int64_t at = (int64_t)i * t->ffn;
    float *pre = t->pre[0] + at, *up = t->pre[1] + at, *v = t->wide + at;
    if (t->branches == 2)
        return add ? swiglu_backward_row(u, dm, pre, up, v, du, w, true, t->ffn)
                   : swiglu_backward_row(u, dm, pre, up, v, du, w, false, t->ffn);
    return add ? gelu_backward_row(u, dm, pre, v, du, w, true, t->ffn)
               : gelu_backward_row(u, dm, pre, v, du, w, false, t->ffn);
}

/* After activate_backward(): gradients of the branch's pre-activations. */
static const float *branch_gradient(const tile *t, int branch) {
    return branch == 0 ? t->wide : t->pre[1];
}

/* ---- MLP mix ---- */

/* pre = s_e h_e B1_e of the chosen tokens, of each branch. */
static void gather_pre(const tile *t, const ck_shape *shape, const float *zh, int columns, const float *layer,
                       int e) {
    int rank = shape->rank[e], first = shape->rank_first[e];
    for (int b = 0; b < t->branches; b++) {
        gather(t, zh, columns, shape->router_rows + branch_rank(shape, b, first), rank, NULL, e, t->h[b]);
        gemm_nn(t->n, t->ffn, rank, shape->scale[e], t->h[b], rank, layer + b1_of(shape, b, first), t->ffn, 0,
                t->pre[b], t->ffn);
    }
}

static void mlp_forward(const ck_expert_activation *d, const cpu_block *block, tile *t) {
    const ck_shape *shape = block->shape;
    const float *u = cpu_rows(d->u, block), *zh = cpu_rows(d->zh, block), *gates = cpu_rows(d->gates, block);
    const float *layer = cpu_layer(block, d->layer);
    float *m = cpu_rows(d->m, block), *g = cpu_rows(d->g, block);
    int ffn = d->ffn;
    clear_rows(t, g, d->g->columns, shape->rank_sum);
    for (int e = 0; e < shape->n_experts; e++) {
        int rank = shape->rank[e], first_rank = shape->rank_first[e];
        const float *a2 = layer + shape->a2 + (int64_t)first_rank * ffn;
        tile_choose(t, gates, e);
        gather_pre(t, shape, zh, d->zh->columns, layer, e);
        for (int i = 0; i < t->n; i++) {
            int64_t token = t->first + t->chosen[i];
            bool *touched = &t->touched[t->chosen[i]];
            activate(t, i, u + token * d->u->columns, m + token * d->m->columns,
                     gates[token * CK_MAX_EXPERTS + e], *touched);
            *touched = true;
        }
        gemm_nt(t->n, rank, ffn, 1, t->pre[0], ffn, a2, ffn, 0, t->p[0], rank);
        scatter(t, t->p[0], rank, g, d->g->columns, first_rank);
    }
}

/* p and dB1 of each branch, and dA2, of expert e. */
static void mlp_ranks_backward(const ck_expert_activation_backward *d, const cpu_block *block, const tile *t,
                               float *gradients, int e) {
    const ck_shape *shape = block->shape;
    const float *layer = cpu_layer(block, d->layer);
    int ffn = d->ffn, rank = shape->rank[e], first = shape->rank_first[e];
    float beta = t->first == 0 ? 0.0f : 1.0f, scale = shape->scale[e];
    for (int b = 0; b < t->branches; b++) {
        const float *du = branch_gradient(t, b);
        int64_t b1 = b1_of(shape, b, first);
        gemm_nt(t->n, rank, ffn, scale, du, ffn, layer + b1, ffn, 0, t->p[b], rank);
        scatter(t, t->p[b], rank, cpu_rows(d->p, block), d->p->columns, branch_rank(shape, b, first));
        if (gradients) gemm_tn(rank, ffn, t->n, scale, t->h[b], rank, du, ffn, beta, gradients + b1, ffn);
    }
    if (!gradients) return;
    gather(t, cpu_rows(d->q, block), d->q->columns, first, rank, cpu_rows(d->gates, block), e, t->wq);
    gemm_tn(rank, ffn, t->n, 1, t->wq, rank, t->pre[0], ffn, beta,
            gradients + shape->a2 + (int64_t)first * ffn, ffn);
}

static void mlp_backward(const ck_expert_activation_backward *d, const cpu_block *block, tile *t) {
    const ck_shape *shape = block->shape;
    const float *u = cpu_rows(d->u, block), *zh = cpu_rows(d->zh, block), *gates = cpu_rows(d->gates, block),
                *dm = cpu_rows(d->dm, block);
    const float *layer = cpu_layer(block, d->layer);
    float *du = cpu_rows(d->du, block), *dw = cpu_rows(d->dw, block);
    float *gradients = block->learn & CK_LEARN_EXPERTS ? cpu_layer_gradients(block, d->layer) : NULL;
    int ffn = d->ffn;
    clear_rows(t, cpu_rows(d->p, block), d->p->columns, shape->h_ranks);
    for (int e = 0; e < shape->n_experts; e++) {
        int rank = shape->rank[e], first_rank = shape->rank_first[e];
        tile_choose(t, gates, e);
        gather(t, cpu_rows(d->q, block), d->q->columns, first_rank, rank, NULL, e, t->q);
        gather_pre(t, shape, zh, d->zh->columns, layer, e);
        gemm_nn(t->n, ffn, rank, 1, t->q, rank, layer + shape->a2 + (int64_t)first_rank * ffn, ffn, 0,
                t->wide, ffn);
        for (int i = 0; i < t->n; i++) {
            int64_t token = t->first + t->chosen[i];
            bool *touched = &t->touched[t->chosen[i]];
            dw[token * CK_MAX_EXPERTS + e] +=
                activate_backward(t, i, u + token * d->u->columns, dm + token * d->dm->columns,
                                  du + token * d->du->columns, gates[token * CK_MAX_EXPERTS + e], *touched);
            *touched = true;
        }
        mlp_ranks_backward(d, block, t, gradients, e);
    }
}

/* ---- Linear mix ---- */

/* out[token] = [factor_e w_e source_e]_e over all experts, factor_e = s_e or 1. */
static void weight_ranks(const tile *t, const ck_shape *shape, const float *source, int columns, int column,
                         const float *gates, bool scaled, float *out) {
    for (int i = 0; i < t->rows; i++) {
        int64_t token = t->first + i;
        for (int e = 0; e < shape->n_experts; e++) {
            float factor = gates[token * CK_MAX_EXPERTS + e] * (scaled ? shape->scale[e] : 1.0f);
            for (int j = shape->rank_first[e]; j < shape->rank_first[e + 1]; j++) {
                out[(int64_t)i * shape->rank_sum + j] = factor * source[token * columns + column + j];
            }
        }
    }
}

/* pre = sum_e w_e s_e h_e B1_e of each branch. */
static void mix_pre(const tile *t, const ck_shape *shape, const float *zh, int columns, const float *gates,
                    const float *layer) {
    int ranks = shape->rank_sum;
    for (int b = 0; b < t->branches; b++) {
        weight_ranks(t, shape, zh, columns, shape->router_rows + branch_rank(shape, b, 0), gates, true,
                     t->h[b]);
        gemm_nn(t->rows, t->ffn, ranks, 1, t->h[b], ranks, layer + b1_of(shape, b, 0), t->ffn, 0, t->pre[b],
                t->ffn);
    }
}

static void linear_forward(const ck_expert_activation *d, const cpu_block *block, tile *t) {
    const ck_shape *shape = block->shape;
    const float *u = cpu_rows(d->u, block) + (int64_t)t->first * d->u->columns,
                *layer = cpu_layer(block, d->layer);
    float *m = cpu_rows(d->m, block) + (int64_t)t->first * d->m->columns;
    int ffn = d->ffn, ranks = shape->rank_sum;
    mix_pre(t, shape, cpu_rows(d->zh, block), d->zh->columns, cpu_rows(d->gates, block), layer);
    for (int i = 0; i < t->rows; i++)
        activate(t, i, u + (int64_t)i * d->u->columns, m + (int64_t)i * d->m->columns, 1, false);
    gemm_nt(t->rows, ranks, ffn, 1, t->pre[0], ffn, layer + shape->a2, ffn, 0,
            cpu_rows(d->g, block) + (int64_t)t->first * d->g->columns, d->g->columns);
}

/* p and dw of a branch, from t->p. */
static void linear_gates_backward(const ck_expert_activation_backward *d, const cpu_block *block,
                                  const tile *t, int branch) {
    const ck_shape *shape = block->shape;
    const float *h = cpu_rows(d->zh, block) + shape->router_rows + branch_rank(shape, branch, 0),
                *gates = cpu_rows(d->gates, block);
    float *p = cpu_rows(d->p, block) + branch_rank(shape, branch, 0), *dw = cpu_rows(d->dw, block);
    for (int i = 0; i < t->rows; i++) {
        int64_t token = t->first + i;
        for (int e = 0; e < shape->n_experts; e++) {
            float dot = 0, w = gates[token * CK_MAX_EXPERTS + e];
            for (int j = shape->rank_first[e]; j < shape->rank_first[e + 1]; j++) {
                float raw = shape->scale[e] * t->p[branch][(int64_t)i * shape->rank_sum + j];
                dot += raw * h[token * d->zh->columns + j];
                p[token * d->p->columns + j] = w * raw;
            }
            dw[token * CK_MAX_EXPERTS + e] += dot;
        }
    }
}

static void linear_backward(const ck_expert_activation_backward *d, const cpu_block *block, tile *t) {
    const ck_shape *shape = block->shape;
    const float *u = cpu_rows(d->u, block), *dm = cpu_rows(d->dm, block), *gates = cpu_rows(d->gates, block);
    const float *layer = cpu_layer(block, d->layer);
    float *gradients = block->learn & CK_LEARN_EXPERTS ? cpu_layer_gradients(block, d->layer) : NULL,
          *du = cpu_rows(d->du, block);
    float beta = t->first == 0 ? 0.0f : 1.0f;
    int ffn = d->ffn, ranks = shape->rank_sum;
    mix_pre(t, shape, cpu_rows(d->zh, block), d->zh->columns, gates, layer);
    weight_ranks(t, shape, cpu_rows(d->q, block), d->q->columns, 0, gates, false, t->wq);
    gemm_nn(t->rows, ffn, ranks, 1, t->wq, ranks, layer + shape->a2, ffn, 0, t->wide, ffn);
    for (int i = 0; i < t->rows; i++) {
        int64_t token = t->first + i;
        activate_backward(t, i, u + token * d->u->columns, dm + token * d->dm->columns,
                          du + token * d->du->columns, 1, false);
    }
    for (int b = 0; b < t->branches; b++) {
        const float *slope = branch_gradient(t, b);
        gemm_nt(t->rows, ranks, ffn, 1, slope, ffn, layer + b1_of(shape, b, 0), ffn, 0, t->p[b], ranks);
        linear_gates_backward(d, block, t, b);
        if (gradients)
            gemm_tn(ranks, ffn, t->rows, 1, t->h[b], ranks, slope, ffn, beta, gradients + b1_of(shape, b, 0),
                    ffn);
    }
    if (gradients)
        gemm_tn(ranks, ffn, t->rows, 1, t->wq, ranks, t->pre[0], ffn, beta, gradients + shape->a2, ffn);
}

/* ---- Ops ---- */

void cpu_expert_activation(const void *descriptor, const cpu_block *block) {
    const ck_expert_activation *d = descriptor;
    if (!block->shape) return;
    tile t;
    for (int first = 0; first < block->n_tokens; first += cpu_tile_rows(d->ffn)) {
        tile_init(&t, block, d->ffn, first);
        if (block->shape->mix == CK_MIX_MLP) {
            mlp_forward(d, block, &t);
        } else {
            linear_forward(d, block, &t);
        }
    }
}

void cpu_expert_activation_backward(const void *descriptor, const cpu_block *block) {
    const ck_expert_activation_backward *d = descriptor;
    if (!block->shape) return;
    tile t;
    for (int first = 0; first < block->n_tokens; first += cpu_tile_rows(d->ffn)) {
        tile_init(&t, block, d->ffn, first);
        if (block->shape->mix == CK_MIX_MLP) {
            mlp_backward(d, block, &t);
        } else {
            linear_backward(d, block, &t);
        }
    }
}

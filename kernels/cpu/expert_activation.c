/* expert_activation.c - the experts' activation and gate mix around one base product (README, The mathematics).
 *
 *   MLP mix:     u_e = U + s_e h_e B1_e, a_e = gelu(u_e), m = sum_e w_e a_e, g_e = a_e A2_e^T
 *     backward:  v_e = q_e A2_e, du_e = w_e (dm + v_e) gelu'(u_e), dU = sum_e du_e, p_e = s_e du_e B1_e^T, dw_e += <a_e, dm>,
 *                dB1_e = s_e h_e^T du_e, dA2_e = (w_e q_e)^T a_e
 *   linear mix:  u = U + sum_e w_e s_e h_e B1_e, m = gelu(u), g = m A2^T
 *     backward:  du = (dm + sum_e w_e q_e A2_e) gelu'(u), p_e = w_e s_e du B1_e^T, dw_e += <h_e, s_e du B1_e^T>, dB1_e = (w_e s_e h_e)^T
 * du, dA2_e = (w_e q_e)^T m
 *
 * Tiles of tokens, small enough that U's tile stays in L2 while every expert visits it. An expert sees only the tokens that chose it,
 * gathered in rank space: a token costs K activations, not E. Forward reads U once and writes m once, 8 F bytes a token; FLOPs:
 * 4 F r K forward, 10 F r K backward in products, about 25 F K in elementwise work each way.
 */
#include "cpu.h"
#include "gemm.h"
#include "vector.h"

#include <string.h>

enum { MAX_TILE = 128 };

int64_t cpu_expert_activation_scratch(int ffn) {
    return 2 * ck_align((int64_t)cpu_tile_rows(ffn) * ffn) + 4 * ck_align((int64_t)MAX_TILE * CK_MAX_RANK_SUM);
}

/* The tokens of a tile that chose one expert, and the scratch of the tile. */
typedef struct {
    int first, rows;         /* tokens [first, first + rows) of the sequence */
    int chosen[MAX_TILE], n; /* those that use the expert at hand, relative to first */
    bool touched[MAX_TILE];  /* some earlier expert has written the token's mixed row */
    float *wide, *wide2;     /* [rows, F] */
    float *h, *q, *wq, *p;   /* [rows, r] gathered */
} tile;

static void tile_init(tile *t, const cpu_block *block, int ffn, int first) {
    int rows = cpu_tile_rows(ffn);
    int64_t wide = ck_align((int64_t)rows * ffn), narrow = ck_align((int64_t)MAX_TILE * CK_MAX_RANK_SUM);
    t->first = first;
    t->rows = block->n_tokens - first < rows ? block->n_tokens - first : rows;
    memset(t->touched, 0, sizeof t->touched);
    t->wide = block->scratch;
    t->wide2 = t->wide + wide;
    t->h = t->wide2 + wide;
    t->q = t->h + narrow;
    t->wq = t->q + narrow;
    t->p = t->wq + narrow;
}

static void tile_choose(tile *t, const float *gates, int expert) {
    t->n = 0;
    for (int i = 0; i < t->rows; i++) {
        if (gates[(int64_t)(t->first + i) * CK_MAX_EXPERTS + expert] != 0.0f) t->chosen[t->n++] = i;
    }
}

/* out[i] = factor(i) * source row of the i-th chosen token, columns [column, column + width); gates NULL: factor 1. */
static void gather(const tile *t, const float *source, int columns, int column, int width, const float *gates, int expert, float *out) {
    for (int i = 0; i < t->n; i++) {
        int64_t token = t->first + t->chosen[i];
        float factor = gates ? gates[token * CK_MAX_EXPERTS + expert] : 1.0f;
        const float *row = source + token * columns + column;
        for (int j = 0; j < width; j++) out[(int64_t)i * width + j] = factor * row[j];
    }
}

static void scatter(const tile *t, const float *rows, int width, float *to, int columns, int column) {
    for (int i = 0; i < t->n; i++) {
        memcpy(to + (int64_t)(t->first + t->chosen[i]) * columns + column, rows + (int64_t)i * width, (size_t)width * sizeof(float));
    }
}

static void clear_rows(const tile *t, float *to, int columns, int width) {
    for (int i = 0; i < t->rows; i++) memset(to + (int64_t)(t->first + i) * columns, 0, (size_t)width * sizeof(float));
}

/* ---- MLP mix ---- */

/* a <- gelu(u + a), m (+)= w a */
static void activate(const float *restrict u, float *restrict a, float *restrict m, float w, bool add, int ffn) {
    if (add) {
        for (int f = 0; f < ffn; f++) {
            a[f] = vec_gelu(u[f] + a[f]);
            m[f] += w * a[f];
        }
    } else {
        for (int f = 0; f < ffn; f++) {
            a[f] = vec_gelu(u[f] + a[f]);
            m[f] = w * a[f];
        }
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
        const float *b1 = layer + shape->b1 + (int64_t)first_rank * ffn, *a2 = layer + shape->a2 + (int64_t)first_rank * ffn;
        tile_choose(t, gates, e);
        gather(t, zh, d->zh->columns, shape->router_rows + first_rank, rank, NULL, e, t->h);
        gemm_nn(t->n, ffn, rank, shape->scale[e], t->h, rank, b1, ffn, 0, t->wide, ffn);
        for (int i = 0; i < t->n; i++) {
            int64_t token = t->first + t->chosen[i];
            bool *touched = &t->touched[t->chosen[i]];
            activate(u + token * d->u->columns, t->wide + (int64_t)i * ffn, m + token * d->m->columns, gates[token * CK_MAX_EXPERTS + e],
                     *touched, ffn);
            *touched = true;
        }
        gemm_nt(t->n, rank, ffn, 1, t->wide, ffn, a2, ffn, 0, t->p, rank);
        scatter(t, t->p, rank, g, d->g->columns, first_rank);
    }
}

/* Row by row: lora <- a = gelu(u + lora), v <- du = w (dm + v) gelu'(u + lora), dU (+)= du; returns <a, dm>. Inlined for either `add`,
 * because a store that depends on one keeps a loop scalar. */
static inline __attribute__((always_inline)) float activate_backward_row(const float *restrict u, const float *restrict dm,
                                                                         float *restrict lora, float *restrict v, float *restrict du_sum,
                                                                         float w, const bool add, int ffn) {
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int f = 0; f < ffn; f++) {
        float slope, a = vec_gelu_slope(u[f] + lora[f], &slope);
        float du = w * (dm[f] + v[f]) * slope;
        dot += a * dm[f];
        lora[f] = a;
        v[f] = du;
        du_sum[f] = add ? du_sum[f] + du : du;
    }
    return dot;
}

static float activate_backward(const float *u, const float *dm, float *lora, float *v, float *du_sum, float w, bool add, int ffn) {
    return add ? activate_backward_row(u, dm, lora, v, du_sum, w, true, ffn) : activate_backward_row(u, dm, lora, v, du_sum, w, false, ffn);
}

static void mlp_backward(const ck_expert_activation_backward *d, const cpu_block *block, tile *t) {
    const ck_shape *shape = block->shape;
    const float *u = cpu_rows(d->u, block), *zh = cpu_rows(d->zh, block), *gates = cpu_rows(d->gates, block), *dm = cpu_rows(d->dm, block);
    const float *layer = cpu_layer(block, d->layer);
    float *du = cpu_rows(d->du, block), *p = cpu_rows(d->p, block), *dw = cpu_rows(d->dw, block);
    float *gradients = block->learn & CK_LEARN_EXPERTS ? cpu_layer_gradients(block, d->layer) : NULL;
    float beta = t->first == 0 ? 0.0f : 1.0f;
    int ffn = d->ffn;
    clear_rows(t, p, d->p->columns, shape->rank_sum);
    for (int e = 0; e < shape->n_experts; e++) {
        int rank = shape->rank[e], first_rank = shape->rank_first[e];
        int64_t b1 = shape->b1 + (int64_t)first_rank * ffn, a2 = shape->a2 + (int64_t)first_rank * ffn;
        tile_choose(t, gates, e);
        gather(t, zh, d->zh->columns, shape->router_rows + first_rank, rank, NULL, e, t->h);
        gather(t, cpu_rows(d->q, block), d->q->columns, first_rank, rank, NULL, e, t->q);
        gemm_nn(t->n, ffn, rank, shape->scale[e], t->h, rank, layer + b1, ffn, 0, t->wide, ffn);
        gemm_nn(t->n, ffn, rank, 1, t->q, rank, layer + a2, ffn, 0, t->wide2, ffn);
        for (int i = 0; i < t->n; i++) {
            int64_t token = t->first + t->chosen[i];
            bool *touched = &t->touched[t->chosen[i]];
            dw[token * CK_MAX_EXPERTS + e] += activate_backward(
                u + token * d->u->columns, dm + token * d->dm->columns, t->wide + (int64_t)i * ffn, t->wide2 + (int64_t)i * ffn,
                du + token * d->du->columns, gates[token * CK_MAX_EXPERTS + e], *touched, ffn);
            *touched = true;
        }
        gemm_nt(t->n, rank, ffn, shape->scale[e], t->wide2, ffn, layer + b1, ffn, 0, t->p, rank);
        scatter(t, t->p, rank, p, d->p->columns, first_rank);
        if (!gradients) continue;
        gather(t, cpu_rows(d->q, block), d->q->columns, first_rank, rank, gates, e, t->wq);
        gemm_tn(rank, ffn, t->n, shape->scale[e], t->h, rank, t->wide2, ffn, beta, gradients + b1, ffn);
        gemm_tn(rank, ffn, t->n, 1, t->wq, rank, t->wide, ffn, beta, gradients + a2, ffn);
    }
}

/* ---- Linear mix ---- */

/* out[token] = [factor_e w_e source_e]_e over all experts, factor_e = s_e or 1. */
static void weight_ranks(const tile *t, const ck_shape *shape, const float *source, int columns, int column, const float *gates,
                         bool scaled, float *out) {
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

static void linear_forward(const ck_expert_activation *d, const cpu_block *block, tile *t) {
    const ck_shape *shape = block->shape;
    const float *u = cpu_rows(d->u, block) + (int64_t)t->first * d->u->columns, *layer = cpu_layer(block, d->layer);
    float *m = cpu_rows(d->m, block) + (int64_t)t->first * d->m->columns;
    int ffn = d->ffn, ranks = shape->rank_sum;
    weight_ranks(t, shape, cpu_rows(d->zh, block), d->zh->columns, shape->router_rows, cpu_rows(d->gates, block), true, t->h);
    gemm_nn(t->rows, ffn, ranks, 1, t->h, ranks, layer + shape->b1, ffn, 0, t->wide, ffn);
    for (int i = 0; i < t->rows; i++)
        activate(u + (int64_t)i * d->u->columns, t->wide + (int64_t)i * ffn, m + (int64_t)i * d->m->columns, 1, false, ffn);
    gemm_nt(t->rows, ranks, ffn, 1, t->wide, ffn, layer + shape->a2, ffn, 0, cpu_rows(d->g, block) + (int64_t)t->first * d->g->columns,
            d->g->columns);
}

static void linear_gates_backward(const ck_expert_activation_backward *d, const cpu_block *block, const tile *t) {
    const ck_shape *shape = block->shape;
    const float *zh = cpu_rows(d->zh, block), *gates = cpu_rows(d->gates, block);
    float *p = cpu_rows(d->p, block), *dw = cpu_rows(d->dw, block);
    for (int i = 0; i < t->rows; i++) {
        int64_t token = t->first + i;
        for (int e = 0; e < shape->n_experts; e++) {
            float dot = 0, w = gates[token * CK_MAX_EXPERTS + e];
            for (int j = shape->rank_first[e]; j < shape->rank_first[e + 1]; j++) {
                float raw = shape->scale[e] * t->p[(int64_t)i * shape->rank_sum + j];
                dot += raw * zh[token * d->zh->columns + shape->router_rows + j];
                p[token * d->p->columns + j] = w * raw;
            }
            dw[token * CK_MAX_EXPERTS + e] += dot;
        }
    }
}

static void linear_backward(const ck_expert_activation_backward *d, const cpu_block *block, tile *t) {
    const ck_shape *shape = block->shape;
    const float *gates = cpu_rows(d->gates, block), *layer = cpu_layer(block, d->layer);
    float *gradients = block->learn & CK_LEARN_EXPERTS ? cpu_layer_gradients(block, d->layer) : NULL;
    float beta = t->first == 0 ? 0.0f : 1.0f;
    int ffn = d->ffn, ranks = shape->rank_sum;
    weight_ranks(t, shape, cpu_rows(d->zh, block), d->zh->columns, shape->router_rows, gates, true, t->h);
    weight_ranks(t, shape, cpu_rows(d->q, block), d->q->columns, 0, gates, false, t->wq);
    gemm_nn(t->rows, ffn, ranks, 1, t->h, ranks, layer + shape->b1, ffn, 0, t->wide, ffn);
    gemm_nn(t->rows, ffn, ranks, 1, t->wq, ranks, layer + shape->a2, ffn, 0, t->wide2, ffn);
    for (int i = 0; i < t->rows; i++) {
        int64_t token = t->first + i;
        activate_backward(cpu_rows(d->u, block) + token * d->u->columns, cpu_rows(d->dm, block) + token * d->dm->columns,
                          t->wide + (int64_t)i * ffn, t->wide2 + (int64_t)i * ffn, cpu_rows(d->du, block) + token * d->du->columns, 1,
                          false, ffn);
    }
    gemm_nt(t->rows, ranks, ffn, 1, t->wide2, ffn, layer + shape->b1, ffn, 0, t->p, ranks);
    linear_gates_backward(d, block, t);
    if (!gradients) return;
    gemm_tn(ranks, ffn, t->rows, 1, t->h, ranks, t->wide2, ffn, beta, gradients + shape->b1, ffn);
    gemm_tn(ranks, ffn, t->rows, 1, t->wq, ranks, t->wide, ffn, beta, gradients + shape->a2, ffn);
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

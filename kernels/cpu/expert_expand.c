/* expert_expand.c - the experts' second factors, all in one product: y += [s_e w_e g_e]_e B2 2 S D FLOPs a
 * token. backward: q_e = s_e dy B2_e^T, dw_e = <g_e, q_e> + <b_pr, dy>, dB2_e = s_e w_e g_e^T dy */
#include "cpu.h"
#include "gemm.h"

#include <string.h>

/* [s_e w_e g_e]_e, rows of rank_sum floats. */
static void scaled_by_gates(const ck_shape *shape, const float *g, int g_columns, const float *gates,
                            int n_tokens, float *out) {
    for (int t = 0; t < n_tokens; t++) {
        for (int e = 0; e < shape->n_experts; e++) {
            float factor = shape->scale[e] * gates[(int64_t)t * CK_MAX_EXPERTS + e];
            for (int j = shape->rank_first[e]; j < shape->rank_first[e + 1]; j++) {
                out[(int64_t)t * shape->rank_sum + j] = factor * g[(int64_t)t * g_columns + j];
            }
        }
    }
}

void cpu_expert_expand(const void *descriptor, const cpu_block *block) {
    const ck_expert_expand *d = descriptor;
    const ck_shape *shape = block->shape;
    if (!shape) return;
    float *scaled = block->scratch;
    scaled_by_gates(shape, cpu_rows(d->g, block), d->g->columns, cpu_rows(d->gates, block), block->n_tokens,
                    scaled);
    gemm_nn(block->n_tokens, shape->width, shape->rank_sum, 1, scaled, shape->rank_sum,
            cpu_layer(block, d->layer) + shape->b2, shape->width, 1, cpu_rows(d->y, block), d->y->columns);
}

static float dot(const float *a, const float *b, int n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Scales q by s_e and makes dw. */
static void finish_row(const ck_shape *shape, float bias_term, const float *g, float *q, float *dw) {
    memset(dw, 0, CK_MAX_EXPERTS * sizeof(float));
    for (int e = 0; e < shape->n_experts; e++) {
        int first = shape->rank_first[e];
        for (int j = first; j < shape->rank_first[e + 1]; j++) q[j] *= shape->scale[e];
        dw[e] = dot(g + first, q + first, shape->rank[e]) + bias_term;
    }
}

void cpu_expert_expand_backward(const void *descriptor, const cpu_block *block) {
    const ck_expert_expand_backward *d = descriptor;
    const ck_shape *shape = block->shape;
    if (!shape) return;
    const float *dy = cpu_rows(d->dy, block), *g = cpu_rows(d->g, block);
    float *q = cpu_rows(d->q, block), *dw = cpu_rows(d->dw, block);
    gemm_nt(block->n_tokens, shape->rank_sum, shape->width, 1, dy, d->dy->columns,
            cpu_layer(block, d->layer) + shape->b2, shape->width, 0, q, d->q->columns);
    const float *b_pr = cpu_weights(block, d->linear, NULL, d->bias).bias;
    bool bias = b_pr && shape->mix == CK_MIX_MLP;
    for (int t = 0; t < block->n_tokens; t++) {
        float bias_term = bias ? dot(b_pr, dy + (int64_t)t * d->dy->columns, shape->width) : 0.0f;
        finish_row(shape, bias_term, g + (int64_t)t * d->g->columns, q + (int64_t)t * d->q->columns,
                   dw + (int64_t)t * CK_MAX_EXPERTS);
    }
    if (!(block->learn & CK_LEARN_EXPERTS)) return;
    float *scaled = block->scratch;
    scaled_by_gates(shape, g, d->g->columns, cpu_rows(d->gates, block), block->n_tokens, scaled);
    gemm_tn(shape->rank_sum, shape->width, block->n_tokens, 1, scaled, shape->rank_sum, dy, d->dy->columns, 0,
            cpu_layer_gradients(block, d->layer) + shape->b2, shape->width);
}

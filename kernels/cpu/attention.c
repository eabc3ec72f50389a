/* attention.c - causal attention, tiles of query rows against the keys they may see; query heads in groups
 * that share a head of keys and values.
 *
 *   S = Q K^T / sqrt(d),  P = softmax over keys <= query,  O = P V;
 *       lse = log sum exp of S keeps what backward needs
 *   dP = dO V^T,  dS = P (dP - <dO, O>) / sqrt(d),  dQ = dS K,  dK = dS^T Q,  dV = P^T dO
 *       (P recomputed from S and lse); dK and dV are sums over the group's query heads, in their order
 *
 * With H query heads and G of keys and values, d columns each, n tokens a sequence: forward 2 H d (n + 1)
 * FLOPs a token, backward 5 H d (n + 1); bytes a token forward 4 (2 H + 2 G) d (qkv read, o written),
 * backward 4 (4 H + 4 G) d (o and do read, dqkv written besides). The bound: FLOPs.
 */
#include "cpu.h"
#include "gemm.h"
#include "vector.h"

#include <math.h>
#include <string.h>

enum { TILE = 32 };

typedef struct {
    const float *q, *k, *v;             /* of one head; rows are stride floats apart */
    int stride, dim, first, rows, keys; /* query rows [first, first + rows) see keys [0, keys) */
    float scale;
} tile;

/* Where q, k and v of a query head begin in a row of qkv. */
typedef struct {
    int dim, q, k, v;
    bool begins_group; /* it is the first of the query heads that share k and v */
} head_columns;

static head_columns columns_of(int heads, int kv_heads, int dim, int head) {
    int group = heads / kv_heads, k = (heads + head / group) * dim;
    return (head_columns){dim, head * dim, k, k + kv_heads * dim, head % group == 0};
}

static tile make_tile(const float *qkv, int stride, head_columns at, int first, int n_tokens) {
    int rows = n_tokens - first < TILE ? n_tokens - first : TILE;
    return (tile){qkv + at.q, qkv + at.k,   qkv + at.v,
                  stride,     at.dim,       first,
                  rows,       first + rows, 1.0f / sqrtf((float)at.dim)};
}

static void scores(const tile *t, float *s) {
    gemm_nt(t->rows, t->keys, t->dim, t->scale, t->q + (int64_t)t->first * t->stride, t->stride, t->k,
            t->stride, 0, s, t->keys);
}

float cpu_softmax_row(float *restrict s, int visible, int keys) {
    float largest = s[0], sum = 0;
#pragma omp simd reduction(max : largest)
    for (int j = 0; j < visible; j++) largest = s[j] > largest ? s[j] : largest;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < visible; j++) {
        s[j] = vec_exp(s[j] - largest);
        sum += s[j];
    }
    float inverse = 1.0f / sum;
    for (int j = 0; j < visible; j++) s[j] *= inverse;
    memset(s + visible, 0, (size_t)(keys - visible) * sizeof(float));
    return largest + logf(sum);
}

void cpu_attention(const void *descriptor, const cpu_block *block) {
    const ck_attention *d = descriptor;
    const float *qkv = cpu_rows(d->qkv, block);
    float *o = cpu_rows(d->o, block), *lse = cpu_rows(d->lse, block), *s = block->scratch;
    for (int head = 0; head < d->heads; head++) {
        head_columns at = columns_of(d->heads, d->kv_heads, d->head_size, head);
        for (int first = 0; first < block->n_tokens; first += TILE) {
            tile t = make_tile(qkv, d->qkv->columns, at, first, block->n_tokens);
            scores(&t, s);
            for (int i = 0; i < t.rows; i++) {
                lse[(int64_t)(first + i) * d->lse->columns + head] =
                    cpu_softmax_row(s + (int64_t)i * t.keys, first + i + 1, t.keys);
            }
            gemm_nn(t.rows, t.dim, t.keys, 1, s, t.keys, t.v, t.stride, 0,
                    o + (int64_t)first * d->o->columns + at.q, d->o->columns);
        }
    }
}

/* s: scores -> P; dp: dP -> dS. */
static void score_gradient_row(float *restrict s, float *restrict dp, float lse, float delta, float scale,
                               int visible, int keys) {
    for (int j = 0; j < visible; j++) {
        s[j] = vec_exp(s[j] - lse);
        dp[j] = s[j] * (dp[j] - delta) * scale;
    }
    memset(s + visible, 0, (size_t)(keys - visible) * sizeof(float));
    memset(dp + visible, 0, (size_t)(keys - visible) * sizeof(float));
}

static float dot(const float *a, const float *b, int n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void head_backward(const ck_attention_backward *d, const cpu_block *block, int head) {
    head_columns at = columns_of(d->heads, d->kv_heads, d->head_size, head);
    int dim = at.dim, stride = d->dqkv->columns, o_stride = d->o->columns, do_stride = d->d_o->columns;
    const float *o = cpu_rows(d->o, block) + at.q, *d_o = cpu_rows(d->d_o, block) + at.q;
    const float *lse = cpu_rows(d->lse, block);
    float *dqkv = cpu_rows(d->dqkv, block), *dq = dqkv + at.q, *dk = dqkv + at.k, *dv = dqkv + at.v;
    float *s = block->scratch, *dp = s + ck_align((int64_t)TILE * block->n_tokens);
    int last = (block->n_tokens - 1) / TILE * TILE;
    /* the last tile sees all keys: that of the group's first head writes dK and dV, all others add */
    for (int first = last; first >= 0; first -= TILE) {
        tile t = make_tile(cpu_rows(d->qkv, block), d->qkv->columns, at, first, block->n_tokens);
        float beta = first == last && at.begins_group ? 0.0f : 1.0f;
        const float *d_o_tile = d_o + (int64_t)first * do_stride;
        scores(&t, s);
        gemm_nt(t.rows, t.keys, dim, 1, d_o_tile, do_stride, t.v, t.stride, 0, dp, t.keys);
        for (int i = 0; i < t.rows; i++) {
            int row = first + i;
            float delta = dot(d_o + (int64_t)row * do_stride, o + (int64_t)row * o_stride, dim);
            score_gradient_row(s + (int64_t)i * t.keys, dp + (int64_t)i * t.keys,
                               lse[(int64_t)row * d->lse->columns + head], delta, t.scale, row + 1, t.keys);
        }
        gemm_tn(t.keys, dim, t.rows, 1, s, t.keys, d_o_tile, do_stride, beta, dv, stride);
        gemm_nn(t.rows, dim, t.keys, 1, dp, t.keys, t.k, t.stride, 0, dq + (int64_t)first * stride, stride);
        gemm_tn(t.keys, dim, t.rows, 1, dp, t.keys, t.q + (int64_t)first * t.stride, t.stride, beta, dk,
                stride);
    }
}

void cpu_attention_backward(const void *descriptor, const cpu_block *block) {
    const ck_attention_backward *d = descriptor;
    for (int head = 0; head < d->heads; head++) head_backward(d, block, head);
}

int64_t cpu_attention_scratch(int max_sequence_tokens) {
    return 2 * ck_align((int64_t)TILE * max_sequence_tokens);
}

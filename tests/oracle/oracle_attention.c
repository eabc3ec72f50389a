/* Causal attention over one sequence. Query head h has columns [h d, (h + 1) d) of q and o; it reads head
 * g(h) = h G / H of the G heads of keys and values, with columns [g d, (g + 1) d) of k and v.
 *
 *   s_tj = <q_t, k_j> / sqrt(d)  (j <= t)     p_t = softmax(s_t)     o_t = sum_j p_tj v_j
 *       lse_t = log sum_j exp(s_tj)
 *   dv_j = sum_t p_tj do_t     dp_tj = <do_t, v_j>     ds_tj = p_tj (dp_tj - sum_i p_ti dp_ti)
 *   dq_t = sum_j ds_tj k_j / sqrt(d)     dk_j = sum_t ds_tj q_t / sqrt(d)
 *       dk_j and dv_j: summed over the query heads that read the head of k and v */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"

static int64_t qkv_columns(oracle_attention_size size) {
    return (int64_t)(size.heads + 2 * size.kv_heads) * size.head_size;
}

/* Columns between a query head's q and its k; v follows k kv_heads heads later. */
static int64_t keys_of(oracle_attention_size size, int head) {
    int kv_head = head * size.kv_heads / size.heads;
    return (int64_t)(size.heads + kv_head - head) * size.head_size;
}

/* p [t + 1] of row t; returns the row's log-sum-exp. q and k point at the head's columns of token 0. */
static double probabilities(int64_t t, int64_t stride, int depth, const double *q, const double *k,
                            double *p) {
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j <= t; j++) {
        p[j] = oracle_dot(q + t * stride, k + j * stride, depth) / sqrt(depth);
        if (p[j] > largest) largest = p[j];
    }
    for (int64_t j = 0; j <= t; j++) sum += p[j] = exp(p[j] - largest);
    for (int64_t j = 0; j <= t; j++) p[j] /= sum;
    return largest + log(sum);
}

void oracle_attention(oracle_attention_size size, const double *qkv, double *o, double *lse) {
    int depth = size.head_size;
    int64_t stride = qkv_columns(size);
    double *p = oracle_zeros(size.n);
    for (int64_t t = 0; t < size.n; t++)
        for (int head = 0; head < size.heads; head++) {
            const double *q = qkv + head * depth, *k = q + keys_of(size, head),
                         *v = k + (int64_t)size.kv_heads * depth;
            double log_sum = probabilities(t, stride, depth, q, k, p);
            if (lse != NULL) lse[t * size.heads + head] = log_sum;
            for (int d = 0; d < depth; d++) {
                double sum = 0;
                for (int64_t j = 0; j <= t; j++) sum += p[j] * v[j * stride + d];
                o[(t * size.heads + head) * depth + d] = sum;
            }
        }
    free(p);
}

/* One row of one head; q and dq point at the head's columns of token 0, d_o at the row's. p and dp: scratch.
 * */
static void attention_backward_row(oracle_attention_size size, int64_t t, int head, const double *q,
                                   const double *d_o, double *dq, double *p, double *dp) {
    int depth = size.head_size;
    int64_t stride = qkv_columns(size), to_k = keys_of(size, head),
            to_v = to_k + (int64_t)size.kv_heads * depth;
    const double *k = q + to_k, *v = q + to_v;
    double *dk = dq + to_k, *dv = dq + to_v, mean = 0;
    probabilities(t, stride, depth, q, k, p);
    for (int64_t j = 0; j <= t; j++) {
        dp[j] = oracle_dot(d_o, v + j * stride, depth);
        mean += p[j] * dp[j];
    }
    for (int64_t j = 0; j <= t; j++) {
        double ds = p[j] * (dp[j] - mean) / sqrt(depth);
        for (int d = 0; d < depth; d++) {
            dv[j * stride + d] += p[j] * d_o[d];
            dq[t * stride + d] += ds * k[j * stride + d];
            dk[j * stride + d] += ds * q[t * stride + d];
        }
    }
}

void oracle_attention_backward(oracle_attention_size size, const double *qkv, const double *d_o,
                               double *dqkv) {
    int depth = size.head_size;
    double *p = oracle_zeros(2 * size.n), *dp = p + size.n;
    memset(dqkv, 0, (size_t)(size.n * qkv_columns(size)) * sizeof *dqkv);
    for (int64_t t = 0; t < size.n; t++)
        for (int head = 0; head < size.heads; head++)
            attention_backward_row(size, t, head, qkv + head * depth, d_o + (t * size.heads + head) * depth,
                                   dqkv + head * depth, p, dp);
    free(p);
}

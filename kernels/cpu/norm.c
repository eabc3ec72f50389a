/* norm.c - LayerNorm and RMSNorm, two passes over a row that is in cache.
 *
 *   LayerNorm:  n = (x - mean) rstd, rstd = 1 / sqrt(mean((x - mean)^2) + epsilon), y = n gain + bias
 *   RMSNorm:    n = x rstd, rstd = 1 / sqrt(mean(x^2) + epsilon), y = n gain: as with a mean of 0
 *   backward, with e = dy gain:  dx = rstd (e - mean(e) - n mean(e n)), RMSNorm without mean(e);
 *       dgain = sum_t dy n, dbias = sum_t dy
 *
 * Bytes a token: forward 8 D, backward 12 D (accumulating 16 D), from the cache that holds the sequence;
 * FLOPs forward 7 D (RMSNorm 4 D), backward 10 D (8 D): loads and stores set the time.
 */
#include "cpu.h"

#include <math.h>
#include <string.h>

static void layer_norm_row(const ck_norm *d, const float *restrict x, float *restrict y, float *stats) {
    float sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < d->width; i++) sum += x[i];
    float mean = sum / (float)d->width;
#pragma omp simd reduction(+ : square)
    for (int i = 0; i < d->width; i++) square += (x[i] - mean) * (x[i] - mean);
    float rstd = 1.0f / sqrtf(square / (float)d->width + d->epsilon);
    for (int i = 0; i < d->width; i++) y[i] = (x[i] - mean) * rstd * d->gain[i] + d->bias[i];
    stats[0] = mean;
    stats[1] = rstd;
}

static void rms_norm_row(const ck_norm *d, const float *restrict x, float *restrict y, float *stats) {
    float square = 0;
#pragma omp simd reduction(+ : square)
    for (int i = 0; i < d->width; i++) square += x[i] * x[i];
    float rstd = 1.0f / sqrtf(square / (float)d->width + d->epsilon);
    for (int i = 0; i < d->width; i++) y[i] = x[i] * rstd * d->gain[i];
    stats[0] = 0;
    stats[1] = rstd;
}

void cpu_norm(const void *descriptor, const cpu_block *block) {
    const ck_norm *d = descriptor;
    const float *x = cpu_rows(d->x, block);
    float *y = cpu_rows(d->y, block), *stats = cpu_rows(d->stats, block);
    for (int t = 0; t < block->n_tokens; t++) {
        (d->kind == CK_RMS_NORM ? rms_norm_row : layer_norm_row)(d, x + (int64_t)t * d->x->columns,
                                                                 y + (int64_t)t * d->y->columns,
                                                                 stats + (int64_t)t * d->stats->columns);
    }
}

static void norm_row_backward(const ck_norm_backward *d, const float *restrict x, const float *stats,
                              const float *restrict dy, float *restrict dx) {
    float mean = stats[0], rstd = stats[1], sum = 0, product = 0;
    const float *restrict gain = d->gain;
#pragma omp simd reduction(+ : sum, product)
    for (int i = 0; i < d->width; i++) {
        float e = dy[i] * gain[i];
        sum += e;
        product += e * (x[i] - mean);
    }
    float shift = d->kind == CK_RMS_NORM ? 0 : sum / (float)d->width,
          slope = product * rstd * rstd / (float)d->width;
    if (d->accumulate) {
        for (int i = 0; i < d->width; i++) dx[i] += rstd * (dy[i] * gain[i] - shift - (x[i] - mean) * slope);
    } else {
        for (int i = 0; i < d->width; i++) dx[i] = rstd * (dy[i] * gain[i] - shift - (x[i] - mean) * slope);
    }
}

static void gain_gradient(const ck_norm_backward *d, const cpu_block *block, const float *x,
                          const float *stats, const float *dy) {
    float *restrict dgain = block->base_gradients + d->gain_gradient;
    memset(dgain, 0, (size_t)d->width * sizeof(float));
    for (int t = 0; t < block->n_tokens; t++) {
        const float *row = x + (int64_t)t * d->x->columns, *drow = dy + (int64_t)t * d->dy->columns;
        float mean = stats[(int64_t)t * d->stats->columns], rstd = stats[(int64_t)t * d->stats->columns + 1];
        for (int i = 0; i < d->width; i++) dgain[i] += drow[i] * (row[i] - mean) * rstd;
    }
}

void cpu_norm_backward(const void *descriptor, const cpu_block *block) {
    const ck_norm_backward *d = descriptor;
    const float *x = cpu_rows(d->x, block), *stats = cpu_rows(d->stats, block), *dy = cpu_rows(d->dy, block);
    float *dx = cpu_rows(d->dx, block);
    if (d->gain_gradient >= 0 && block->base_gradients) gain_gradient(d, block, x, stats, dy);
    if (d->bias_gradient >= 0 && block->base_gradients)
        cpu_column_sums(dy, d->dy->columns, block->n_tokens, d->width,
                        block->base_gradients + d->bias_gradient);
    for (int t = 0; t < block->n_tokens; t++) {
        norm_row_backward(d, x + (int64_t)t * d->x->columns, stats + (int64_t)t * d->stats->columns,
                          dy + (int64_t)t * d->dy->columns, dx + (int64_t)t * d->dx->columns);
    }
}

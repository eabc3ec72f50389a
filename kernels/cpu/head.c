/* head.c - head and cross-entropy; logits exist for a tile of rows at a time.
 *
 *   z = W x,  loss = lse(z) - z_target,  dz = (softmax(z) - onehot(target)) / n,  dx = W^T dz,
 *       dW = dz^T x
 *   n: counted tokens of the device (of the wave in pre-training). 4 D V FLOPs a token, 6 D V with dW.
 */
#include "cpu.h"
#include "gemm.h"
#include "vector.h"

#include <math.h>
#include <string.h>

enum { HEAD_TILE_FLOATS = 1 << 18 };

static int tile_rows(int vocabulary) {
    int rows = HEAD_TILE_FLOATS / vocabulary / 16 * 16;
    return rows < 32 ? 32 : rows > 128 ? 128 : rows;
}

/* Loss of one row; z becomes dz where wanted. */
static float row_loss(float *restrict z, int vocabulary, int32_t target, float inverse_count, bool gradient) {
    float largest = z[0], sum = 0;
#pragma omp simd reduction(max : largest)
    for (int v = 0; v < vocabulary; v++) largest = z[v] > largest ? z[v] : largest;
    float chosen = target < 0 ? 0 : z[target];
#pragma omp simd reduction(+ : sum)
    for (int v = 0; v < vocabulary; v++) sum += vec_exp(z[v] - largest);
    if (gradient) {
        /* Not counted: the whole row of dz is 0. */
        float scale = target < 0 ? 0 : inverse_count / sum;
        for (int v = 0; v < vocabulary; v++) z[v] = scale * vec_exp(z[v] - largest);
        if (target >= 0) z[target] -= inverse_count;
    }
    return target < 0 ? 0 : logf(sum) + largest - chosen;
}

void cpu_head(const void *descriptor, const cpu_block *block) {
    const ck_head *d = descriptor;
    const float *x = cpu_rows(d->x, block);
    float *dx = d->dx ? cpu_rows(d->dx, block) : NULL, *z = block->scratch;
    float *dw = d->mode == CK_HEAD_PRETRAIN ? block->base_gradients + d->weight_gradient : NULL;
    const int32_t *targets = block->wave->targets + block->first_token;
    float inverse_count = block->counted > 0 ? 1.0f / (float)block->counted : 0.0f;
    bool gradient = d->mode != CK_HEAD_EVALUATE;
    double loss = 0;
    int tile = tile_rows(d->vocabulary);
    for (int first = 0; first < block->n_tokens; first += tile) {
        int rows = block->n_tokens - first < tile ? block->n_tokens - first : tile;
        const float *x_tile = x + (int64_t)first * d->x->columns;
        gemm_nt(rows, d->vocabulary, d->width, 1, x_tile, d->x->columns, d->weight, d->width, 0, z,
                d->vocabulary);
        if (d->logits)
            memcpy(d->logits + (block->first_token + first) * d->vocabulary, z,
                   (size_t)rows * (size_t)d->vocabulary * sizeof(float));
        for (int t = 0; t < rows; t++)
            loss += row_loss(z + (int64_t)t * d->vocabulary, d->vocabulary, targets[first + t], inverse_count,
                             gradient);
        if (gradient)
            gemm_nn(rows, d->width, d->vocabulary, 1, z, d->vocabulary, d->weight, d->width, 0,
                    dx + (int64_t)first * d->dx->columns, d->dx->columns);
        if (dw)
            gemm_tn(d->vocabulary, d->width, rows, 1, z, d->vocabulary, x_tile, d->x->columns,
                    first == 0 ? 0.0f : 1.0f, dw, d->width);
    }
    d->loss[block->sequence] = (float)loss;
}

int64_t cpu_head_scratch(const ck_head *d) {
    return (int64_t)tile_rows(d->vocabulary) * d->vocabulary;
}

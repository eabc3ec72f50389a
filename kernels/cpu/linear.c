/* linear.c - frozen linears: 2 in out FLOPs a token forward, as many for dx and for dW. */
#include "cpu.h"
#include "gemm.h"

#include <string.h>

void cpu_linear(const void *descriptor, const cpu_block *block) {
    const ck_linear *d = descriptor;
    ck_replacement w = cpu_weights(block, d->linear, d->weight, d->bias);
    gemm_addend addend = {.bias = w.bias};
    if (d->residual) {
        addend.residual = cpu_rows(d->residual, block);
        addend.residual_stride = d->residual->columns;
    }
    if (d->bias_factor) addend.bias_scale = cpu_rows(d->bias_factor, block);
    gemm_linear(block->n_tokens, d->out, d->in, cpu_rows(d->x, block), d->x->columns, w.weight, d->in, addend,
                cpu_rows(d->y, block), d->y->columns);
}

void cpu_column_sums(const float *restrict dy, int columns, int n_tokens, int out, float *restrict sums) {
    memset(sums, 0, (size_t)out * sizeof(float));
    for (int t = 0; t < n_tokens; t++) {
        for (int i = 0; i < out; i++) sums[i] += dy[(int64_t)t * columns + i];
    }
}

void cpu_linear_backward(const void *descriptor, const cpu_block *block) {
    const ck_linear_backward *d = descriptor;
    const float *dy = cpu_rows(d->dy, block);
    if (d->dx) {
        const float *weight = cpu_weights(block, d->linear, d->weight, NULL).weight;
        gemm_nn(block->n_tokens, d->in, d->out, 1, dy, d->dy->columns, weight, d->in,
                d->accumulate ? 1.0f : 0.0f, cpu_rows(d->dx, block), d->dx->columns);
    }
    if (!block->base_gradients) return;
    if (d->weight_gradient >= 0) {
        gemm_tn(d->out, d->in, block->n_tokens, 1, dy, d->dy->columns, cpu_rows(d->x, block), d->x->columns,
                0, block->base_gradients + d->weight_gradient, d->in);
    }
    if (d->bias_gradient >= 0)
        cpu_column_sums(dy, d->dy->columns, block->n_tokens, d->out,
                        block->base_gradients + d->bias_gradient);
}

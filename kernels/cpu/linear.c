/* linear.c - frozen linears: 2 in out FLOPs a token forward, as many for dx and for dW. */
#include "cpu.h"
#include "gemm_stream.h"

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

/* What the devices from *device on that have one variant have in place of the weight and bias of d, and their
 * tokens [*first, *end); *device moves behind them. Without devices: all tokens. */
static ck_replacement next_run(const ck_linear *d, const ck_wave *wave, int *device, int64_t *first,
                               int64_t *end) {
    *first = 0, *end = wave->first_token[wave->n_sequences];
    if (wave->n_devices == 0) return (ck_replacement){d->weight, d->bias};
    int begin = *device, variant = wave->devices[begin].variant;
    while (*device < wave->n_devices && wave->devices[*device].variant == variant) ++*device;
    *first = wave->first_token[wave->first_sequence[begin]];
    *end = wave->first_token[wave->first_sequence[*device]];
    cpu_block block = {.variant = cpu_variant(wave, variant)};
    return cpu_weights(&block, d->linear, d->weight, d->bias);
}

void cpu_linear_columns(const ck_linear *d, const ck_wave *wave, cpu_range columns) {
    int device = 0, skip = columns.first;
    do {
        int64_t first, end;
        ck_replacement w = next_run(d, wave, &device, &first, &end);
        gemm_addend addend = {.bias = w.bias ? w.bias + skip : NULL};
        if (d->bias_factor) addend.bias_scale = (const float *)d->bias_factor->data + first;
        if (d->residual) {
            addend.residual = (const float *)d->residual->data + first * d->residual->columns + skip;
            addend.residual_stride = d->residual->columns;
        }
        gemm_stream((int)(end - first), columns.end - skip, d->in,
                    (const float *)d->x->data + first * d->x->columns, d->x->columns,
                    w.weight + (int64_t)skip * d->in, d->in, addend,
                    (float *)d->y->data + first * d->y->columns + skip, d->y->columns);
    } while (device < wave->n_devices);
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

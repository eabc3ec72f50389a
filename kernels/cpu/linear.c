/* linear.c - frozen linears: 2 in out FLOPs a token forward, as many for dx and for dW. */
#include "cpu.h"
#include "gemm_stream.h"

#include <string.h>

static float gate_sum(const float *gates) {
    float sum = 0;
    for (int e = 0; e < CK_MAX_EXPERTS; e++) sum += gates[e];
    return sum;
}

void cpu_linear(const void *descriptor, const cpu_block *block) {
    const ck_linear *d = descriptor;
    gemm_addend addend = {.bias = d->bias};
    if (d->residual) {
        addend.residual = cpu_rows(d->residual, block);
        addend.residual_stride = d->residual->columns;
    }
    if (d->bias && d->gates && !(block->shape && block->shape->mix == CK_MIX_LINEAR)) {
        const float *gates = cpu_rows(d->gates, block);
        float *scale = block->scratch; /* c of every token */
        for (int t = 0; t < block->n_tokens; t++) scale[t] = gate_sum(gates + (int64_t)t * CK_MAX_EXPERTS);
        addend.bias_scale = scale;
    }
    gemm_linear(block->n_tokens, d->out, d->in, cpu_rows(d->x, block), d->x->columns, d->weight, d->in,
                addend, cpu_rows(d->y, block), d->y->columns);
}

/* c of every token; NULL: 1 throughout. */
static const float *bias_scales(const ck_linear *d, const ck_wave *wave, float *scales) {
    const float *gates = d->gates ? d->gates->data : NULL;
    if (!d->bias || !gates || wave->n_devices == 0) return NULL;
    for (int i = 0; i < wave->n_devices; i++) {
        bool mlp = wave->shapes[wave->devices[i].shape].mix == CK_MIX_MLP;
        int64_t end = wave->first_token[wave->first_sequence[i + 1]];
        for (int64_t t = wave->first_token[wave->first_sequence[i]]; t < end; t++)
            scales[t] = mlp ? gate_sum(gates + t * CK_MAX_EXPERTS) : 1.0f;
    }
    return scales;
}

void cpu_linear_columns(const ck_linear *d, const ck_wave *wave, cpu_range columns, float *scratch) {
    int first = columns.first;
    gemm_addend addend = {.bias = d->bias ? d->bias + first : NULL,
                          .bias_scale = bias_scales(d, wave, scratch)};
    if (d->residual) {
        addend.residual = (const float *)d->residual->data + first;
        addend.residual_stride = d->residual->columns;
    }
    gemm_stream((int)wave->first_token[wave->n_sequences], columns.end - first, d->in, d->x->data,
                d->x->columns, d->weight + (int64_t)first * d->in, d->in, addend, (float *)d->y->data + first,
                d->y->columns);
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
        gemm_nn(block->n_tokens, d->in, d->out, 1, dy, d->dy->columns, d->weight, d->in,
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

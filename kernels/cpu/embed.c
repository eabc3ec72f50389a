/* embed.c - x_t = wte[token_t] (+ wpe[position of t]): 12 D bytes a token, without wpe 8 D. */
#include "cpu.h"

#include <string.h>

void cpu_embed(const void *descriptor, const cpu_block *block) {
    const ck_embed *d = descriptor;
    float *x = cpu_rows(d->x, block);
    const int32_t *tokens = block->wave->tokens + block->first_token;
    int64_t first = ck_first_position(block->wave, block->sequence);
    for (int t = 0; t < block->n_tokens; t++) {
        const float *token = d->wte + (int64_t)tokens[t] * d->width;
        float *row = x + (int64_t)t * d->width;
        if (!d->wpe) {
            memcpy(row, token, (size_t)d->width * sizeof(float));
            continue;
        }
        const float *position = d->wpe + (first + t) * d->width;
        for (int i = 0; i < d->width; i++) row[i] = token[i] + position[i];
    }
}

/* dwte[token_t] += dx_t, to what the tied head wrote or to 0; dwpe[t] = dx_t, 0 beyond the sequence. */
void cpu_embed_backward(const void *descriptor, const cpu_block *block) {
    const ck_embed_backward *d = descriptor;
    if (!block->base_gradients) return;
    const float *dx = cpu_rows(d->dx, block);
    const int32_t *tokens = block->wave->tokens + block->first_token;
    float *dwte = block->base_gradients + d->wte_gradient;
    if (!d->accumulate) memset(dwte, 0, (size_t)d->vocabulary * (size_t)d->width * sizeof(float));
    for (int t = 0; t < block->n_tokens; t++) {
        float *row = dwte + (int64_t)tokens[t] * d->width;
        for (int i = 0; i < d->width; i++) row[i] += dx[(int64_t)t * d->width + i];
    }
    if (d->wpe_gradient < 0) return;
    float *dwpe = block->base_gradients + d->wpe_gradient;
    int64_t used = (int64_t)block->n_tokens * d->width;
    memcpy(dwpe, dx, (size_t)used * sizeof(float));
    memset(dwpe + used, 0, (size_t)((int64_t)d->positions * d->width - used) * sizeof(float));
}

/* logits.c - the logits of a sequence's last token: 4 D V bytes, once for all rows that share the pass over
 * W. */
#include "cpu.h"
#include "gemm_stream.h"

#include <string.h>

void cpu_logits(const void *descriptor, const cpu_block *block) {
    const ck_logits *d = descriptor;
    const float *x = cpu_rows(d->x, block) + (int64_t)(block->n_tokens - 1) * d->x->columns;
    gemm_stream(1, d->vocabulary, d->width, x, d->x->columns, d->weight, d->width, (gemm_addend){0},
                d->logits + (int64_t)block->sequence * d->vocabulary, d->vocabulary);
}

void cpu_logits_columns(const ck_logits *d, const ck_wave *wave, cpu_range columns, float *scratch) {
    const float *x = d->x->data;
    int n = wave->n_sequences;
    for (int s = 0; s < n; s++)
        memcpy(scratch + (int64_t)s * d->width, x + (wave->first_token[s + 1] - 1) * d->x->columns,
               (size_t)d->width * sizeof(float));
    gemm_stream(n, columns.end - columns.first, d->width, scratch, d->width,
                d->weight + (int64_t)columns.first * d->width, d->width, (gemm_addend){0},
                d->logits + columns.first, d->vocabulary);
}

/* gelu.c - GELU (tanh form) of the dense MLP, used by pre-training. */
#include "cpu.h"
#include "vector.h"

void cpu_gelu(const void *descriptor, const cpu_block *block) {
    const ck_gelu *d = descriptor;
    for (int t = 0; t < block->n_tokens; t++) {
        const float *restrict u = cpu_rows(d->u, block) + (int64_t)t * d->u->columns;
        float *restrict m = cpu_rows(d->m, block) + (int64_t)t * d->m->columns;
        for (int i = 0; i < d->ffn; i++) m[i] = vec_gelu(u[i]);
    }
}

void cpu_gelu_backward(const void *descriptor, const cpu_block *block) {
    const ck_gelu_backward *d = descriptor;
    for (int t = 0; t < block->n_tokens; t++) {
        const float *u = cpu_rows(d->u, block) + (int64_t)t * d->u->columns;
        const float *dm = cpu_rows(d->dm, block) + (int64_t)t * d->dm->columns;
        float *du = cpu_rows(d->du, block) + (int64_t)t * d->du->columns;
#pragma omp simd /* du may be dm */
        for (int i = 0; i < d->ffn; i++) {
            float slope;
            vec_gelu_slope(u[i], &slope);
            du[i] = dm[i] * slope;
        }
    }
}

/* site_vector.c - the vector p of a site, and the sums over layers of what layers share.
 *
 *   y_t += f_t p,  dp = sum_t f_t dy_t,  dx_tj += <p, dy_t>      f_t = 1, and dx gets nothing; or with
 *                                                                CK_COLUMN_BIAS f_t = sum_j x_tj
 */
#include "cpu.h"

#include <string.h>

typedef struct {
    const float *p;
    float *dp; /* of one layer; NULL: nothing learns */
    bool columns;
} site_vector;

/* False: the device has none there. */
static bool vector_of(const cpu_block *block, ck_site site, int layer, site_vector *v) {
    const ck_shape *s = block->shape;
    if (!s || s->vector[site] == CK_NO_VECTOR) return false;
    int64_t offset = ck_block_of(s, CK_TIED, site, CK_FACTOR_VECTOR)->offset;
    v->p = block->pack + offset;
    v->dp =
        block->learn & CK_LEARN_EXPERTS ? block->gradients + cpu_tied_gradients_of(s, layer) + offset : NULL;
    v->columns = s->vector[site] == CK_COLUMN_BIAS;
    return true;
}

static float sum_of(const float *x, int n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += x[i];
    return sum;
}

static float product_of(const float *a, const float *b, int n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void add_scaled(float *restrict to, float factor, const float *restrict from, int n) {
    for (int i = 0; i < n; i++) to[i] += factor * from[i];
}

void cpu_site_vector(const void *descriptor, const cpu_block *block) {
    const ck_site_vector *d = descriptor;
    site_vector v;
    if (!vector_of(block, d->site, 0, &v)) return;
    for (int t = 0; t < block->n_tokens; t++) {
        float factor = v.columns ? sum_of(cpu_rows(d->x, block) + (int64_t)t * d->x->columns, d->in) : 1.0f;
        add_scaled(cpu_rows(d->y, block) + (int64_t)t * d->y->columns + d->first_column, factor, v.p, d->out);
    }
}

void cpu_site_vector_backward(const void *descriptor, const cpu_block *block) {
    const ck_site_vector_backward *d = descriptor;
    site_vector v;
    if (!vector_of(block, d->site, d->layer, &v)) return;
    if (v.dp) memset(v.dp, 0, (size_t)d->out * sizeof *v.dp);
    for (int t = 0; t < block->n_tokens; t++) {
        const float *dy = cpu_rows(d->dy, block) + (int64_t)t * d->dy->columns + d->first_column;
        float factor = v.columns ? sum_of(cpu_rows(d->x, block) + (int64_t)t * d->x->columns, d->in) : 1.0f;
        if (v.dp) add_scaled(v.dp, factor, dy, d->out);
        if (!d->dx || !v.columns) continue;
        float slope = product_of(v.p, dy, d->out), *dx = cpu_rows(d->dx, block) + (int64_t)t * d->dx->columns;
        for (int j = 0; j < d->in; j++) dx[j] += slope;
    }
}

void cpu_tied_gradients(const void *descriptor, const cpu_block *block) {
    const ck_tied_gradients *d = descriptor;
    const ck_shape *s = block->shape;
    if (!s || !block->gradients || s->tied_floats == 0) return;
    for (int i = CK_BLOCK_TIED; i < CK_BLOCKS; i++) {
        int64_t count = (int64_t)s->block[i].rows * s->block[i].columns;
        float *sum = block->gradients + s->block[i].offset;
        for (int layer = 0; layer < d->n_layers && count > 0; layer++) {
            const float *from = sum + cpu_tied_gradients_of(s, layer);
            if (layer == 0)
                memcpy(sum, from, (size_t)count * sizeof *sum);
            else
                add_scaled(sum, 1.0f, from, (int)count);
        }
    }
}

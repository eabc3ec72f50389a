/* versions.h - a linear of which the wave's devices have versions of their own: the recorded weight and bias,
 * or what a variant of the base has instead. Variant 1 replaces both, 2 the weight, 3 the bias. */
#ifndef COHORT_BENCH_VERSIONS_H
#define COHORT_BENCH_VERSIONS_H

#include "rig/case.h"

/* A flag of the cases that read a linear's weight or bias. */
enum { OF_VARIANTS = 1 << 16 };

/* For `arrays`: WEIGHT [out, in] and, unless nothing is recorded, BIAS [out]; with OF_VARIANTS also those of
 * variants, in OTHER_WEIGHTS and OTHER_BIASES. */
typedef struct {
    int in, out;
    bool unbiased; /* no bias is recorded */
    double weight_deviation, bias_deviation;
} versions_size;
void versions_arrays(rig *r, versions_size size);
/* The linear's place in the tables of variants; -1: no variant replaces it. */
int versions_linear(const rig *r);
/* What the view's device has; NULL: no bias. */
const double *versions_weight(const view *v, buffer_id recorded);
const double *versions_bias(const view *v, buffer_id recorded);

#endif

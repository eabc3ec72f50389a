/* linear.h - a base product on any arrays of a rig, for cases of several operations. */
#ifndef COHORT_BENCH_LINEAR_H
#define COHORT_BENCH_LINEAR_H

#include "rig/case.h"

/* y = x W^T + c b + residual. NO_TENSOR, NO_BUFFER, or an array that the case has not named: without it. With
 * OF_VARIANTS (versions.h) weight and bias are the device's. */
typedef struct {
    tensor_id x, y, residual, factor;
    buffer_id weight, bias;
} linear_arrays;
void linear_record(const rig *r, rig_copy *c, linear_arrays a);
void linear_reference(view *v, linear_arrays a);

/* dx = dy W, or dx +=. */
typedef struct {
    tensor_id x, dy, dx; /* x: for the gradient of the weight */
    buffer_id weight;
    int in;
    bool accumulate;
} linear_backward_arrays;
void linear_record_backward(const rig *r, rig_copy *c, linear_backward_arrays a);
void linear_reference_backward(view *v, linear_backward_arrays a);

#endif

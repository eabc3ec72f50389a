/* expert_checks.h - the expert layer's operations against the oracle, on the arrays of a world.
 *
 * Each operation is judged on the inputs that it really had: what was given, or what the operation before it
 * wrote. So the same checks serve the single operations and a whole step, and an error is found where it is
 * made. */
#ifndef COHORT_BENCH_EXPERT_CHECKS_H
#define COHORT_BENCH_EXPERT_CHECKS_H

#include "rig/gather.h"

/* What an output that is added to began as, [rows, columns]; free() it. NULL as a function: the array's own
 * `before`. */
typedef double *start_value(const world *w, int device, const picks *rows);

void check_route(const world *w, verdict *v);
void check_activation(const world *w, verdict *v);
void check_expand(const world *w, verdict *v, start_value *y);
void check_expand_backward(const world *w, verdict *v, bool judge_dw);
void check_activation_backward(const world *w, verdict *v, start_value *dw);
/* dx NULL: it begins as zeros. */
void check_route_backward(const world *w, verdict *v, start_value *dx);
/* Parameters and both moments after one step of AdamW with the gradients that were given or came out. */
void check_adamw(const world *w, verdict *v, const ck_adamw_hyper *hyper);
/* out [rows, out] = in W^T + factor b + residual on some rows. Any of bias, factor, residual may be NULL. */
void check_linear(const world *w, verdict *v, tensor_id in, tensor_id out, buffer_id weight, buffer_id bias);
double *linear_value(const world *w, tensor_id in, buffer_id weight, buffer_id bias, const double *factor,
                     const double *residual, const picks *rows, int out);
double *linear_backward_value(const world *w, tensor_id dy, buffer_id weight, const picks *rows, int in);

#endif

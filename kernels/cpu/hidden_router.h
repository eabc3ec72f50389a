/* hidden_router.h - routers with a hidden layer (CK_ROUTER_LLAMA_MOE), token by token, for route.c. */
#ifndef COHORT_KERNELS_CPU_HIDDEN_ROUTER_H
#define COHORT_KERNELS_CPU_HIDDEN_ROUTER_H

#include "choice.h"
#include "cpu.h"

static inline bool has_hidden_layer(const ck_shape *shape) {
    return shape->router_rows > 0 && shape->router == CK_ROUTER_LLAMA_MOE;
}

/* Rows of a = tanh(R x) [E], then R2 a [E]; `columns` floats from a row to the next. NULL: there are none. */
typedef struct {
    float *a;
    int columns;
} hidden_rows;
static inline hidden_rows hidden_rows_of(const ck_tensor *tensor, const cpu_block *block) {
    hidden_rows h = {0};
    if (tensor) h.a = cpu_rows(tensor, block), h.columns = tensor->columns;
    return h;
}

/* z [E] comes in as R x and becomes the logits of the block's token t; a and clean [E] get tanh(R x) and the
 * logits without noise. */
void hidden_router_logits(const cpu_block *block, int layer, int t, float *z, float *a, float *clean);

/* Adds a token's probabilities of load_sum (ck_route). */
void hidden_router_load(const float *z, const float *clean, const choice *c, float *load);

/* dz += of the load balance, whose derivative by each sum of these probabilities is given. */
void hidden_router_load_backward(const float *z, const float *clean, const choice *c,
                                 const float *coefficient, float *dz);

/* dz [E] becomes the gradient of R x. second_gradient [E, E]: dR2 +=, or NULL. */
void hidden_router_backward(const cpu_block *block, int layer, const float *a, float *dz,
                            float *second_gradient);

/* balance (CV^2) by each of E sums: ck_balance. */
void hidden_router_coefficients(const ck_shape *shape, const double *sums, float *coefficient);

#endif

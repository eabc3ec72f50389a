/* linears.h - the linears of a base that a variant may replace, and their numbers in ck_wave.variants. */
#ifndef COHORT_BASE_LINEARS_H
#define COHORT_BASE_LINEARS_H

#include "base/base.h"

/* Of a layer, in the order of a forward pass. Tensors of a checkpoint that one product reads together are one
 * linear (q, k and v; gate and up). */
typedef enum { BASE_QKV, BASE_OUT, BASE_FC, BASE_PR, BASE_LAYER_LINEARS } base_layer_linear;

static inline int base_linear_number(int layer, base_layer_linear which) {
    return layer * BASE_LAYER_LINEARS + (int)which;
}

/* One of them in the packed weights. */
typedef struct {
    int64_t weight, bias; /* offsets in floats; bias -1: the base has none */
    int in, out;
} base_linear;

base_linear base_linear_at(const base_shape *shape, const base_layout *layout, int number);

#endif

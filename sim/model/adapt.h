/* adapt.h - adapters of a linear that are no routed experts: a LoRA of the layer, a LoRA and a vector that
 * all layers share. Each is recorded where a device of any shape has it. */
#ifndef COHORT_ADAPT_H
#define COHORT_ADAPT_H

#include <stdbool.h>

#include "base/base.h"
#include "kernels.h"

/* What there is over all shapes. */
typedef struct {
    int32_t lora_columns[CK_SITES], tied_columns[CK_SITES]; /* the widest; 0: nobody has one */
    bool vectors[CK_SITES], any_tied;
} adapted_sites;

adapted_sites adapted_sites_of(const ck_shape *shapes, int n_shapes);
bool is_adapted(const adapted_sites *sites, ck_site site);

/* Rank-space activations of a layer; NULL: no device has one. */
typedef struct {
    ck_tensor *h[CK_SITES], *tied_h[CK_SITES];
} adapter_tensors;
adapter_tensors adapter_tensors_create(ck_program *program, const adapted_sites *sites);

/* Where adapters are recorded. */
typedef struct {
    ck_program *program;
    const base_shape *base;
    const adapted_sites *sites;
    adapter_tensors tensors;
    int layer;
} adapted_layer;

/* y += what the adapters at the site make of x. */
void adapt(const adapted_layer *at, ck_site site, const ck_tensor *x, ck_tensor *y);
/* dx += their gradient (NULL: not wanted), and gradients of their parts. */
void adapt_backward(const adapted_layer *at, ck_site site, const ck_tensor *x, const ck_tensor *dy,
                    ck_tensor *dx);

#endif

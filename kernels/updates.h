/* updates.h - what changes parameters or gradients outside programs: the optimiser, gradients that are
 * carried over, aggregation, and the proximal term. kernels.h includes this file.
 *
 * To add one: declare it here, add a member to ck_driver (backend.h), pass it on in registry.c, and write it
 * for both backends and for the oracle. */
#ifndef COHORT_KERNELS_UPDATES_H
#define COHORT_KERNELS_UPDATES_H

#include <stdint.h>

#include "pack.h"
#include "streams.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    float learning_rate, weight_decay, beta1, beta2, epsilon;
    int32_t step;
} ck_adamw_hyper; /* step counts from 1 */

/* A device's step: AdamW (decoupled decay, bias-corrected) on the classes in learn. The router's rows use
 * hyper[1], all else hyper[0]. */
typedef struct {
    /* offsets in floats of packs of the device's layout; moments: into both of them */
    int64_t parameters, moments, gradients;
    int32_t shape;
    uint32_t learn;
    ck_adamw_hyper hyper[2];
} ck_adamw_device;
ck_status ck_adamw_devices(ck_stream *, float *parameters, float *moment1, float *moment2,
                           const float *gradients, const ck_shape *shapes, const ck_adamw_device *devices,
                           int32_t n_devices);

/* Gradients that outlive their step. This happens where two optimisers share a backward pass, and each
 * clears only the gradients of the classes (CK_LEARN_*) that it updates. For the classes in learn gradients
 * += carried, carried = 0 and for the others carried += gradients. */
typedef struct {
    int64_t carried, gradients; /* offsets in floats of two packs of the device's layout */
    int32_t shape;
    uint32_t learn;
} ck_carry_device;
ck_status ck_carry_devices(ck_stream *, float *carried, float *gradients, const ck_shape *shapes,
                           const ck_carry_device *devices, int32_t n_devices);

/* AdamW on plain ranges of one packed buffer (pre-training). */
typedef struct {
    int64_t offset, count;
    float weight_decay;
} ck_range;
ck_status ck_adamw_ranges(ck_stream *, float *parameters, float *moment1, float *moment2,
                          const float *gradients, const ck_range *ranges, int32_t n_ranges,
                          const ck_adamw_hyper *hyper);

/* Aggregation. ck_group_sum(): packed[j] = sum over members m (in order) of weight_m * parameters[member_m +
 * offset of range j in the layout of m]. ck_group_spread() writes the packed values back to every member.
 * Between the two calls a collective may add the packed buffers of several processes. */
typedef struct {
    int32_t n_members;
    const int64_t *members;
    const int32_t *layout;
    const float *weights; /* [n_members] host */
    int32_t n_ranges;
    const int64_t *count;  /* [n_ranges] floats */
    const int64_t *offset; /* [n_layouts, n_ranges] offset of range j inside a pack of that layout */
    int64_t packed;        /* first float of this group in the packed buffer */
    /* [n_members] offsets of the members' gradients, packs of their layouts; ck_group_proximal() alone */
    const int64_t *gradients;
} ck_group;
ck_status ck_group_sum(ck_stream *, const float *parameters, const ck_group *groups, int32_t n_groups,
                       float *packed);
ck_status ck_group_spread(ck_stream *, float *parameters, const ck_group *groups, int32_t n_groups,
                          const float *packed);

/* The gradient of a proximal term of each member's loss, whose anchor is what a spread wrote:
 *     weight_m / 2 |theta_m - packed|^2     gradients_m[j] += weight_m (parameters_m[j] - packed[j])
 * over the group's ranges (FedProx: Li et al., MLSys 2020, eq. 2, with weight mu). Where a member is at the
 * anchor, its gradients keep their bits. */
ck_status ck_group_proximal(ck_stream *, const float *parameters, const ck_group *groups, int32_t n_groups,
                            const float *packed, float *gradients);

#ifdef __cplusplus
}
#endif
#endif

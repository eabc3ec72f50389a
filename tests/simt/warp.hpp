/* warp.hpp - operations in which the lanes of a warp exchange registers. */
#ifndef COHORT_SIMT_WARP_HPP
#define COHORT_SIMT_WARP_HPP

#include <stdint.h>
#include <string.h>
#include <type_traits>

#include "machine.hpp"
#include "memory.hpp"
#include "types.hpp"

/* Where the caller stands: default arguments are evaluated at the call. */
#define SIMT_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define SIMT_HERE   (simt_site{file, line})

static inline int simt_lane_of_warp() {
    return simt_self->index % SIMT_WARP;
}

/* ---- Shuffles: bits of lane `source`, which must be in the mask. */

uint64_t simt_shuffle(uint32_t mask, const char *operation, uint64_t bits, int source, simt_site site);

template <typename T>
T simt_shuffle_value(uint32_t mask, const char *operation, T value, int source, simt_site site) {
    static_assert(std::is_arithmetic<T>::value && sizeof(T) <= 8,
                  "a shuffle moves a number of up to 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = simt_shuffle(mask, operation, bits, source, site);
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T> T __shfl_sync(uint32_t mask, T value, int source, int width = 32, SIMT_CALLER) {
    int base = simt_lane_of_warp() & ~(width - 1);
    return simt_shuffle_value(mask, "__shfl_sync", value, base + (source & (width - 1)), SIMT_HERE);
}

template <typename T> T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, SIMT_CALLER) {
    int lane = simt_lane_of_warp(), source = lane - (int)delta;
    return simt_shuffle_value(mask, "__shfl_up_sync", value, source < (lane & ~(width - 1)) ? lane : source,
                              SIMT_HERE);
}

template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, SIMT_CALLER) {
    int lane = simt_lane_of_warp(), source = lane + (int)delta;
    return simt_shuffle_value(mask, "__shfl_down_sync", value,
                              source >= (lane & ~(width - 1)) + width ? lane : source, SIMT_HERE);
}

template <typename T> T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32, SIMT_CALLER) {
    int lane = simt_lane_of_warp(), source = lane ^ bits;
    return simt_shuffle_value(mask, "__shfl_xor_sync", value,
                              source >= (lane & ~(width - 1)) + width ? lane : source, SIMT_HERE);
}

/* ---- Votes */

uint32_t simt_ballot(uint32_t mask, const char *operation, bool vote, simt_site site);

static inline uint32_t __ballot_sync(uint32_t mask, int vote, SIMT_CALLER) {
    return simt_ballot(mask, "__ballot_sync", vote != 0, SIMT_HERE);
}
static inline int __any_sync(uint32_t mask, int vote, SIMT_CALLER) {
    return simt_ballot(mask, "__any_sync", vote != 0, SIMT_HERE) != 0;
}
static inline int __all_sync(uint32_t mask, int vote, SIMT_CALLER) {
    return simt_ballot(mask, "__all_sync", vote != 0, SIMT_HERE) == mask;
}

/* ---- Barriers */

static inline void __syncthreads(SIMT_CALLER) {
    simt_block_barrier(SIMT_HERE);
}
static inline void __syncwarp(uint32_t mask = 0xffffffffu, SIMT_CALLER) {
    simt_warp_barrier(mask & simt_self->block->warps[simt_self->index / SIMT_WARP].exists, SIMT_HERE);
}

/* ---- Matrix products of a warp (fragments: kernels/cuda/portable.cuh) */

/* d [16, 8] += a [16, 16] b [16, 8]. */
void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_CALLER);
/* The same on f32, each factor as a sum of two tf32 numbers, three of the four products kept. */
void mma_f32(float d[4], const float a[8], const float b[4], SIMT_CALLER);

/* Loads 8 x 8 matrices of 16-bit values; lane 8 i + j gives the address of row j of matrix i (x2: lanes 0 ..
 * 15). */
void simt_ldmatrix(uint32_t *d, int matrices, bool transposed, shared<const bf16> row, simt_site site);

static inline void ldmatrix_x2(uint32_t d[2], shared<const bf16> row, SIMT_CALLER) {
    simt_ldmatrix(d, 2, false, row, SIMT_HERE);
}
static inline void ldmatrix_x4(uint32_t d[4], shared<const bf16> row, SIMT_CALLER) {
    simt_ldmatrix(d, 4, false, row, SIMT_HERE);
}
static inline void ldmatrix_x2_trans(uint32_t d[2], shared<const bf16> row, SIMT_CALLER) {
    simt_ldmatrix(d, 2, true, row, SIMT_HERE);
}
static inline void ldmatrix_x4_trans(uint32_t d[4], shared<const bf16> row, SIMT_CALLER) {
    simt_ldmatrix(d, 4, true, row, SIMT_HERE);
}

#endif

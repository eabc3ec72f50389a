/* types.hpp - CUDA's vector types and bfloat16, for compilers without CUDA's headers. */
#ifndef COHORT_SIMT_TYPES_HPP
#define COHORT_SIMT_TYPES_HPP

#include <stdint.h>
#include <string.h>

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

static inline float2 make_float2(float x, float y) {
    return float2{x, y};
}
static inline float4 make_float4(float x, float y, float z, float w) {
    return float4{x, y, z, w};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return uint4{x, y, z, w};
}

struct bf16 {
    uint16_t bits;
};

/* Round to nearest, ties to even; NaN stays NaN. */
static inline bf16 to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16{(uint16_t)(bits >> 16 | 0x40)};
    return bf16{(uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

static inline float to_float(bf16 value) {
    uint32_t bits = (uint32_t)value.bits << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* Two in one register, the first in the low half. */
static inline uint32_t pack_bf16(float low, float high) {
    return (uint32_t)to_bf16(low).bits | (uint32_t)to_bf16(high).bits << 16;
}

static inline float2 unpack_bf16(uint32_t pair) {
    return float2{to_float(bf16{(uint16_t)pair}), to_float(bf16{(uint16_t)(pair >> 16)})};
}

#endif

/* wide.cuh - several neighbouring elements in one access, for kernels whose bound is memory.
 *
 * W elements at a time: 16 bytes of f32 or bf16 at W = 16 / sizeof(T), where rows begin at multiples of 16
 * bytes; else W = 1. The host asks cuda_is_wide() of every pointer and stride and picks the template. */
#ifndef COHORT_KERNELS_CUDA_WIDE_CUH
#define COHORT_KERNELS_CUDA_WIDE_CUH

#include "fragment.cuh"

template <typename T> constexpr int wide_elements() {
    return 16 / (int)sizeof(T);
}

/* ---- W floats from and to memory of either type, by accesses of up to 16 bytes */

template <int W> __device__ __forceinline__ void load_wide(float v[W], global<const float> p) {
    if constexpr (W == 1) {
        v[0] = p[0];
    } else if constexpr (W == 2) {
        float2 x = load_as<float2>(p);
        v[0] = x.x, v[1] = x.y;
    } else {
        static_assert(W % 4 == 0, "whole accesses of 16 bytes");
        CK_UNROLL
        for (int i = 0; i < W; i += 4) {
            float4 x = load_as<float4>(p + i);
            v[i] = x.x, v[i + 1] = x.y, v[i + 2] = x.z, v[i + 3] = x.w;
        }
    }
}

template <int W> __device__ __forceinline__ void load_wide(float v[W], global<const bf16> p) {
    if constexpr (W == 1) {
        v[0] = to_float(p[0]);
    } else if constexpr (W == 4) {
        uint2 x = load_as<uint2>(p);
        float2 low = unpack_bf16(x.x), high = unpack_bf16(x.y);
        v[0] = low.x, v[1] = low.y, v[2] = high.x, v[3] = high.y;
    } else {
        static_assert(W == 8, "one access of 8 or 16 bytes");
        uint4 x = load_as<uint4>(p);
        const uint32_t pairs[4] = {x.x, x.y, x.z, x.w};
        CK_UNROLL
        for (int i = 0; i < 4; i++) {
            float2 pair = unpack_bf16(pairs[i]);
            v[2 * i] = pair.x, v[2 * i + 1] = pair.y;
        }
    }
}

template <int W> __device__ __forceinline__ void store_wide(global<float> p, const float v[W]) {
    if constexpr (W == 1) {
        p[0] = v[0];
    } else if constexpr (W == 2) {
        store_as(p, make_float2(v[0], v[1]));
    } else {
        CK_UNROLL
        for (int i = 0; i < W; i += 4) store_as(p + i, make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]));
    }
}

template <int W> __device__ __forceinline__ void store_wide(global<bf16> p, const float v[W]) {
    if constexpr (W == 1) {
        p[0] = to_bf16(v[0]);
    } else if constexpr (W == 4) {
        uint2 x = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3])};
        store_as(p, x);
    } else {
        static_assert(W == 8, "one access of 8 or 16 bytes");
        store_as(p, make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                               pack_bf16(v[6], v[7])));
    }
}

/* ---- Host: may rows of this be accessed 16 bytes at a time? */

static inline bool cuda_is_wide(const void *memory, int64_t stride_bytes) {
    return reinterpret_cast<uintptr_t>(memory) % 16 == 0 && stride_bytes % 16 == 0;
}

template <typename T> static inline bool cuda_is_wide(const ck_tensor *tensor) {
    return cuda_is_wide(tensor->data, tensor->columns * (int64_t)sizeof(T));
}

#endif

/* fragment.cuh - parts of matrices in the registers of a warp, as mma_f32 wants them (portable.cuh), read
 * from ragged rows.
 *
 * T is float or bf16, of the matrices in memory; fragments hold floats, and mma<T> multiplies them as T. Lane
 * 4 g + t of the warp. Whatever lies outside the given rows or columns reads as 0 and is not written. `pairs`
 * says that rows begin at even offsets, so that two neighbours are one load. */
#ifndef COHORT_KERNELS_CUDA_FRAGMENT_CUH
#define COHORT_KERNELS_CUDA_FRAGMENT_CUH

#include "portable.cuh"

__device__ __forceinline__ int fragment_g() {
    return (int)(threadIdx.x % 32) / 4;
}
__device__ __forceinline__ int fragment_t() {
    return (int)(threadIdx.x % 4);
}

/* ---- One element, or two neighbours in one access */

__device__ __forceinline__ float load_one(global<const float> p) {
    return p[0];
}
__device__ __forceinline__ float load_one(global<const bf16> p) {
    return to_float(p[0]);
}
__device__ __forceinline__ void store_one(global<float> p, float x) {
    p[0] = x;
}
__device__ __forceinline__ void store_one(global<bf16> p, float x) {
    p[0] = to_bf16(x);
}
/* In global or shared memory. */
template <typename P> __device__ __forceinline__ float2 load_two(P p) {
    if constexpr (sizeof(element_of<P>) == sizeof(bf16)) {
        return unpack_bf16(load_as<uint32_t>(p));
    } else {
        return load_as<float2>(p);
    }
}
template <typename P> __device__ __forceinline__ void store_two(P p, float x, float y) {
    if constexpr (sizeof(element_of<P>) == sizeof(bf16)) {
        store_as(p, pack_bf16(x, y));
    } else {
        store_as(p, make_float2(x, y));
    }
}

template <bool pairs, typename P> __device__ __forceinline__ float2 load_pair(P p, int valid) {
    if (pairs && valid >= 2) return load_two(p);
    return make_float2(valid > 0 ? load_one(p) : 0.0f, valid > 1 ? load_one(p + 1) : 0.0f);
}

template <bool pairs, typename P>
__device__ __forceinline__ void store_pair(P p, int valid, float x, float y) {
    if (pairs && valid >= 2) {
        store_two(p, x, y);
        return;
    }
    if (valid > 0) store_one(p, x);
    if (valid > 1) store_one(p + 1, y);
}

/* ---- d [16, 8] += a [16, 16] b [16, 8], factors rounded to T (f32: three tf32 products) */

/* mma_f32 for long sums: the instruction cuts off what it adds to instead of rounding it, always towards 0;
 * so only 16 products are summed by it, and they are added to d by an addition that rounds. */
__device__ __forceinline__ void mma_f32_rounded(float d[4], const float a[8], const float b[4]) {
    float sum[4] = {0, 0, 0, 0};
    mma_f32(sum, a, b);
    CK_UNROLL
    for (int i = 0; i < 4; i++) d[i] += sum[i];
}

template <typename T> __device__ __forceinline__ void mma(float d[4], const float a[8], const float b[4]);
template <> __device__ __forceinline__ void mma<float>(float d[4], const float a[8], const float b[4]) {
    mma_f32(d, a, b);
}
template <> __device__ __forceinline__ void mma<bf16>(float d[4], const float a[8], const float b[4]) {
    const uint32_t left[4] = {pack_bf16(a[0], a[1]), pack_bf16(a[2], a[3]), pack_bf16(a[4], a[5]),
                              pack_bf16(a[6], a[7])};
    const uint32_t right[2] = {pack_bf16(b[0], b[1]), pack_bf16(b[2], b[3])};
    mma_bf16(d, left, right);
}

/* ---- Tiles and factors */

/* d[n] = columns [8 n, 8 n + 8) of 16 rows that begin at p. */
template <int N, bool pairs, typename P>
__device__ __forceinline__ void load_tile(float d[N][4], P p, int64_t stride, int rows, int columns) {
    int g = fragment_g(), column = 2 * fragment_t();
    CK_UNROLL
    for (int n = 0; n < N; n++) {
        CK_UNROLL
        for (int half = 0; half < 2; half++) {
            int row = g + 8 * half, valid = row < rows ? columns - (8 * n + column) : 0;
            float2 pair = load_pair<pairs>(p + (row * stride + 8 * n + column), valid);
            d[n][2 * half] = pair.x;
            d[n][2 * half + 1] = pair.y;
        }
    }
}

template <int N, bool pairs, typename P>
__device__ __forceinline__ void store_tile(const float d[N][4], P p, int64_t stride, int rows, int columns) {
    int g = fragment_g(), column = 2 * fragment_t();
    CK_UNROLL
    for (int n = 0; n < N; n++) {
        CK_UNROLL
        for (int half = 0; half < 2; half++) {
            int row = g + 8 * half, valid = row < rows ? columns - (8 * n + column) : 0;
            store_pair<pairs>(p + (row * stride + 8 * n + column), valid, d[n][2 * half], d[n][2 * half + 1]);
        }
    }
}

/* a = rows x columns [16, 16] at p; row g is multiplied by factor[0], row g + 8 by factor[1]. */
template <typename P>
__device__ __forceinline__ void load_a(float a[8], P p, int64_t stride, int rows, int columns,
                                       const float factor[2]) {
    int g = fragment_g(), t = fragment_t();
    CK_UNROLL
    for (int i = 0; i < 8; i++) {
        int row = g + i / 2 % 2 * 8, column = 2 * t + i % 2 + i / 4 * 8;
        a[i] =
            row < rows && column < columns ? factor[i / 2 % 2] * load_one(p + (row * stride + column)) : 0.0f;
    }
}

/* b[k, n] = element (row k, column n) at p: the summed index runs down the rows. */
template <typename P>
__device__ __forceinline__ void load_b(float b[4], P p, int64_t stride, int rows, int columns) {
    int g = fragment_g(), t = fragment_t();
    CK_UNROLL
    for (int i = 0; i < 4; i++) {
        int row = 2 * t + i % 2 + i / 2 * 8;
        b[i] = row < rows && g < columns ? load_one(p + (row * stride + g)) : 0.0f;
    }
}

/* b[k, n] = element (row n, column k) at p: the summed index runs along the rows. */
template <bool pairs, typename P>
__device__ __forceinline__ void load_b_turned(float b[4], P p, int64_t stride, int rows, int columns) {
    int g = fragment_g(), t = fragment_t();
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        int column = 2 * t + 8 * half, valid = g < rows ? columns - column : 0;
        float2 pair = load_pair<pairs>(p + (g * stride + column), valid);
        b[2 * half] = pair.x;
        b[2 * half + 1] = pair.y;
    }
}

/* Two neighbouring results are the left factor of the next product. */
__device__ __forceinline__ void a_from_tiles(float a[8], const float left[4], const float right[4]) {
    CK_UNROLL
    for (int i = 0; i < 4; i++) {
        a[i] = left[i];
        a[4 + i] = right[i];
    }
}

#endif

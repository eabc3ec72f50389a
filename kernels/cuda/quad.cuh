/* quad.cuh - four neighbouring values of a product's summed index: a lane's share of one row in a matrix
 * instruction. */
#ifndef COHORT_KERNELS_CUDA_QUAD_CUH
#define COHORT_KERNELS_CUDA_QUAD_CUH

#include "wide.cuh"

template <typename T> struct quad;
template <> struct quad<float> { float v[4]; };
template <> struct quad<bf16> { uint32_t v[2]; };

/* In 16 bytes of T. */
template <typename T> struct access {
    enum : int { COUNT = 16 / (int)sizeof(T), QUADS = COUNT / 4 };
};

static __device__ __forceinline__ void make_quad(quad<float> *q, float a, float b, float c, float d) {
    q->v[0] = a, q->v[1] = b, q->v[2] = c, q->v[3] = d;
}
static __device__ __forceinline__ void make_quad(quad<bf16> *q, float a, float b, float c, float d) {
    q->v[0] = pack_bf16(a, b), q->v[1] = pack_bf16(c, d);
}

/* d [16, 8] += a b; low and high: rows g and g + 8 of a. */
static __device__ __forceinline__ void mma_quads(float d[4], const quad<float> &low, const quad<float> &high,
                                                 const quad<float> &b) {
    const float a[8] = {low.v[0], low.v[1], high.v[0], high.v[1], low.v[2], low.v[3], high.v[2], high.v[3]};
    mma_f32_rounded(d, a, b.v);
}
static __device__ __forceinline__ void mma_quads(float d[4], const quad<bf16> &low, const quad<bf16> &high,
                                                 const quad<bf16> &b) {
    const uint32_t a[4] = {low.v[0], high.v[0], low.v[1], high.v[1]};
    mma_bf16(d, a, b.v);
}

/* v = the first `valid` of W elements at p, then 0; wide: all or none. */
template <bool wide, int W, typename P>
__device__ __forceinline__ void load_some(float v[W], P p, int valid) {
    if constexpr (wide) {
        CK_UNROLL
        for (int i = 0; i < W; i++) v[i] = 0.0f;
        if (valid > 0) load_wide<W>(v, p);
    } else {
        CK_UNROLL
        for (int i = 0; i < W; i++) v[i] = i < valid ? load_one(p + i) : 0.0f;
    }
}

template <bool wide, int W, typename P>
__device__ __forceinline__ void store_some(P p, const float v[W], int valid) {
    if constexpr (wide) {
        if (valid > 0) store_wide<W>(p, v);
    } else {
        CK_UNROLL
        for (int i = 0; i < W; i++) {
            if (i < valid) store_one(p + i, v[i]);
        }
    }
}

/* The quads of 16 bytes of T at p, from memory of type T or from f32. */
template <bool wide, typename T, typename P>
__device__ __forceinline__ void load_quads(quad<T> q[access<T>::QUADS], P p, int valid) {
    float v[access<T>::COUNT];
    load_some<wide, access<T>::COUNT>(v, p, valid);
    CK_UNROLL
    for (int i = 0; i < access<T>::QUADS; i++)
        make_quad(&q[i], v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
}
template <>
__device__ __forceinline__ void load_quads<true, bf16, global<const bf16>>(quad<bf16> q[2],
                                                                           global<const bf16> p, int valid) {
    uint4 x = {0, 0, 0, 0};
    if (valid > 0) x = load_as<uint4>(p);
    q[0].v[0] = x.x, q[0].v[1] = x.y, q[1].v[0] = x.z, q[1].v[1] = x.w;
}

#endif

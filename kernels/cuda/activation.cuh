/* activation.cuh - GELU, tanh form: gelu(u) = u sigma(v), v = 2 sqrt(2 / pi) (u + 0.044715 u^3), since (1 + tanh(v / 2)) / 2 = sigma(v). */
#ifndef COHORT_KERNELS_CUDA_ACTIVATION_CUH
#define COHORT_KERNELS_CUDA_ACTIVATION_CUH

#include "portable.cuh"

/* Returns gelu(u) and stores gelu'(u). */
static __device__ __forceinline__ float gelu_slope(float u, float *slope) {
    const float scale = 1.59576912f, cubic = 0.044715f;
    float square = u * u, v = scale * u * (1.0f + cubic * square);
    float sigma = fast_divide(1.0f, 1.0f + fast_exp(-v)), value = u * sigma;
    *slope = sigma + value * (1.0f - sigma) * scale * (1.0f + 3.0f * cubic * square);
    return value;
}

static __device__ __forceinline__ float gelu(float u) {
    float slope;
    return gelu_slope(u, &slope);
}

/* The same for activations of type T. A value that is rounded to bf16 may be made of the tanh instruction: one special function instead of
 * two, which are what bounds a kernel that does little else (16 a clock and multiprocessor). */
template <typename T> static __device__ __forceinline__ float gelu_slope_as(float u, float *slope) {
    return gelu_slope(u, slope);
}
template <> __device__ __forceinline__ float gelu_slope_as<bf16>(float u, float *slope) {
    const float scale = 0.79788456f, cubic = 0.044715f;
    float square = u * u, v = scale * u, tanh_v = fast_tanh(v * (1.0f + cubic * square));
    float sigma = 0.5f + 0.5f * tanh_v;
    *slope = sigma + 0.5f * v * (1.0f - tanh_v * tanh_v) * (1.0f + 3.0f * cubic * square);
    return u * sigma;
}
template <typename T> static __device__ __forceinline__ float gelu_as(float u) {
    float slope;
    return gelu_slope_as<T>(u, &slope);
}

#endif

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

#endif

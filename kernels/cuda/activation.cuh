/* activation.cuh - the activations of the base's MLP (ck_mlp) and their derivatives.
 *
 *   gelu(u), tanh form:  u sigma(v), v = 2 sqrt(2 / pi) (u + 0.044715 u^3), since (1 + tanh(v / 2)) / 2 =
 *                        sigma(v)
 *   swiglu(u, v):        silu(u) v, silu(u) = u sigma(u), silu'(u) = sigma(u) (1 + u (1 - sigma(u)))
 *
 * For activations of type T. A value that is rounded to bf16 may be made of the tanh instruction: one special
 * function instead of two, which are what bounds a kernel that does little else (16 a clock and
 * multiprocessor). */
#ifndef COHORT_KERNELS_CUDA_ACTIVATION_CUH
#define COHORT_KERNELS_CUDA_ACTIVATION_CUH

#include "portable.cuh"

template <typename T> static __device__ __forceinline__ float sigmoid_as(float u) {
    return fast_divide(1.0f, 1.0f + fast_exp(-u));
}
template <> __device__ __forceinline__ float sigmoid_as<bf16>(float u) {
    return 0.5f + 0.5f * fast_tanh(0.5f * u);
}

/* Returns gelu(u) and stores gelu'(u). */
template <typename T> static __device__ __forceinline__ float gelu_slope_as(float u, float *slope) {
    const float scale = 1.59576912f, cubic = 0.044715f;
    float square = u * u, v = scale * u * (1.0f + cubic * square);
    float sigma = sigmoid_as<float>(v), value = u * sigma;
    *slope = sigma + value * (1.0f - sigma) * scale * (1.0f + 3.0f * cubic * square);
    return value;
}
template <> __device__ __forceinline__ float gelu_slope_as<bf16>(float u, float *slope) {
    const float scale = 0.79788456f, cubic = 0.044715f;
    float square = u * u, v = scale * u, tanh_v = fast_tanh(v * (1.0f + cubic * square));
    float sigma = 0.5f + 0.5f * tanh_v;
    *slope = sigma + 0.5f * v * (1.0f - tanh_v * tanh_v) * (1.0f + 3.0f * cubic * square);
    return u * sigma;
}

/* ---- What kernels are made for, one of ck_mlp: the activation's branches, F columns of U each, with ranks
 * of h and rows of B1 of their own
 */

struct gelu_mlp {
    static constexpr int BRANCHES = 1;
    /* Returns the activation and stores its derivatives. */
    template <typename T> static __device__ __forceinline__ float slopes(const float u[1], float slope[1]) {
        return gelu_slope_as<T>(u[0], slope);
    }
};

struct swiglu_mlp {
    static constexpr int BRANCHES = 2; /* of the gate, of the up */
    template <typename T> static __device__ __forceinline__ float slopes(const float u[2], float slope[2]) {
        float sigma = sigmoid_as<T>(u[0]), silu = u[0] * sigma;
        slope[0] = u[1] * (sigma + silu * (1.0f - sigma));
        slope[1] = silu;
        return silu * u[1];
    }
};

#endif

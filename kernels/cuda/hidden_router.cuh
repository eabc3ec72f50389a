/* hidden_router.cuh - routers with a hidden layer (CK_ROUTER_LLAMA_MOE), as the lanes of half a warp know a
 * token.
 *
 *   a = tanh(R x),  c = R2 a,  z = c + sigma n, n by ../noise.h
 *   load p_e = Phi((c_e - t_e) / sigma), t_e the K-th largest z of the others:
 *       of a chosen expert the first z that
 *       is not chosen, of another the last that is
 *   backward: the load balance's derivatives by sums of w and of p go to w and, through p, to z;
 *       d(R x)_j = sum_e R2_ej dz_e (1 - a_j^2),  dR2 = dz^T a */
#ifndef COHORT_KERNELS_CUDA_HIDDEN_ROUTER_CUH
#define COHORT_KERNELS_CUDA_HIDDEN_ROUTER_CUH

#include "route.cuh"

/* hidden_router.cu, for route.cu and route_backward.cu; dz [tokens, HALF]. */
const char *launch_hidden_router(const ck_route *d, const cuda_call *call);
const char *launch_second_gradient(const ck_route_backward *d, const cuda_call *call, const float *dz);

static __device__ __forceinline__ bool has_hidden_layer(const ck_shape *shape) {
    return shape->router_rows > 0 && shape->router == CK_ROUTER_LLAMA_MOE;
}

/* R2 [E, E] of a device's layer. */
static __device__ __forceinline__ global<const float>
second_matrix(const cuda_wave *wave, const cuda_device *device, const ck_shape *shape, int layer) {
    return wave->parameters +
           (device->parameters + layer * shape->layer_stride + shape->block[CK_BLOCK_ROUTER_OUT].offset);
}

/* The lane's normal number; 0 of a device that learns nothing. */
static __device__ __forceinline__ float noise_of(const cuda_device *device, const ck_shape *shape, int layer,
                                                 int64_t token) {
    int e = (int)threadIdx.x % HALF;
    uint32_t words[4];
    if (!device->learn) return 0.0f;
    ck_noise_words(&device->noise, token - device->first_token, shape->n_layers, layer, e / 4, words);
    float radius = sqrtf(-2.0f * logf(ck_noise_u(words, e / 2 % 2))),
          angle = 6.28318530717958648f * ck_noise_v(words, e / 2 % 2);
    return radius * (e % 2 == 0 ? cosf(angle) : sinf(angle));
}

/* What the lane's expert has to exceed; its own logit where all experts are chosen. */
static __device__ __forceinline__ float threshold_of(float z, const expert_choice &c) {
    float runner_up = half_max(c.exists && !c.chosen ? z : -3.4e38f),
          last = -half_max(c.chosen ? -z : -3.4e38f);
    return c.chosen ? runner_up : last;
}

/* How far the lane's logit without noise is above it, in standard deviations of the noise. */
static __device__ __forceinline__ float excess_of(float z, float clean, const expert_choice &c) {
    float t = threshold_of(z, c);
    return c.exists ? (clean - t) / CK_NOISE_DEVIATION : 0.0f;
}

static __device__ __forceinline__ bool has_load(const cuda_device *device, const ck_shape *shape) {
    return has_hidden_layer(shape) && device->learn && shape->top_k < shape->router_rows;
}

/* dz of the load, of a device that has one; coefficient: the lane's. */
static __device__ __forceinline__ float load_gradient(float z, float clean, float coefficient,
                                                      const expert_choice &c) {
    float u = excess_of(z, clean, c);
    float slope = c.exists ? coefficient * (0.39894228f / CK_NOISE_DEVIATION) * expf(-0.5f * u * u) : 0.0f;
    float of_chosen = half_sum(c.chosen ? slope : 0.0f), of_others = half_sum(c.chosen ? 0.0f : slope);
    if (c.ahead == c.kept) slope -= of_chosen;
    if (c.ahead == c.kept - 1) slope -= of_others;
    return c.exists ? slope : 0.0f;
}

#endif

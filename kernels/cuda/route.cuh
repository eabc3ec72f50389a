/* route.cuh - what the router's forward and backward share.
 *
 *   S = TopK(z), K = min(k, E), the lower index wins ties;  w = softmax(z_S);
 *       K = 1 < E and a linear router: w = softmax(z) over all E, kept for the best
 *   P = softmax(z with the unchosen set to 0) (K >= 2), softmax(z) (K = 1): the load balance's probabilities
 *
 * A token belongs to half a warp, a lane per expert; both halves of a warp have tokens of the same device. */
#ifndef COHORT_KERNELS_CUDA_ROUTE_CUH
#define COHORT_KERNELS_CUDA_ROUTE_CUH

#include "segmented.cuh"

enum { ROUTE_LANES = 256, ROUTE_WARPS = ROUTE_LANES / 32, ROUTE_SHARED = 166912, HALF = CK_MAX_EXPERTS };

/* ---- [R | A1_0 .. A1_{E-1}] of a device's layer */

typedef struct {
    const ck_shape *shape;
    global<const float> rows; /* [columns, width] */
    int columns, width;
    bool wide; /* a row's fours begin at multiples of 16 bytes, and so do the activation's eights */
} router_rows;

static __device__ __forceinline__ router_rows router_rows_of(const cuda_wave *wave, const cuda_device *device,
                                                             int layer, bool wide) {
    const ck_shape *shape = record(wave->shapes + device->shape);
    router_rows r = {shape,
                     wave->parameters + (device->parameters + layer * shape->layer_stride + shape->route),
                     shape->router_rows + shape->h_ranks, shape->width,
                     wide && shape->width % 8 == 0 && device->parameters % 4 == 0};
    return r;
}

/* Four neighbouring floats of a row, 0 beyond its end. */
static __device__ __forceinline__ float4 load_four(global<const float> p, int valid, bool wide) {
    if (wide) return valid > 0 ? load_as<float4>(p) : make_float4(0, 0, 0, 0);
    return make_float4(valid > 0 ? p[0] : 0.0f, valid > 1 ? p[1] : 0.0f, valid > 2 ? p[2] : 0.0f,
                       valid > 3 ? p[3] : 0.0f);
}

/* A lane's own copy of N neighbouring elements: `to` in shared memory, 0 beyond `valid`. Wide: all or none,
 * and only there once waited for.
 */
template <int N, typename T>
static __device__ __forceinline__ void copy_share(shared<T> to, global<const T> from, global<const T> base,
                                                  int valid, bool wide) {
    if (wide) {
        constexpr int bytes = N * (int)sizeof(T), piece = bytes < 16 ? bytes : 16,
                      step = piece / (int)sizeof(T);
        CK_UNROLL
        for (int i = 0; i < N; i += step)
            cp_async<piece>(to + i, valid > 0 ? from + i : base, valid > 0 ? piece : 0);
    } else {
        CK_UNROLL
        for (int i = 0; i < N; i++) to[i] = i < valid ? (T)from[i] : T{};
    }
}

/* ---- Half a warp */

static __device__ __forceinline__ float half_sum(float v) {
    CK_UNROLL
    for (int step = HALF / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

static __device__ __forceinline__ float half_max(float v) {
    CK_UNROLL
    for (int step = HALF / 2; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

/* ---- The choice, as the lane of one expert knows it */

typedef struct {
    bool exists, chosen, best;
    bool single;     /* K = 1 < E: a linear router's gate is a probability over all E */
    int ahead, kept; /* experts with a larger logit; K */
    float largest;   /* logit */
} expert_choice;

/* z: the lane's logit, a number; lanes from `experts` on have none. */
static __device__ __forceinline__ expert_choice choose_experts(float z, const ck_shape *shape) {
    int experts = shape->router_rows, kept = shape->top_k < experts ? shape->top_k : experts;
    int e = (int)threadIdx.x % HALF, ahead = 0;
    float largest = __shfl_sync(0xffffffffu, z, 0, HALF);
    for (int other = 0; other < experts; other++) {
        float rival = __shfl_sync(0xffffffffu, z, other, HALF);
        ahead += rival > z || (rival == z && other < e);
        largest = fmaxf(largest, rival);
    }
    expert_choice c = {e < experts,
                       e < experts && ahead < kept,
                       e < experts && ahead == 0,
                       kept == 1 && experts > 1,
                       ahead,
                       kept,
                       largest};
    return c;
}

/* Over the member lanes; 0 in others. */
static __device__ __forceinline__ float softmax_lanes(float z, bool member, float largest) {
    float v = member ? expf(z - largest) : 0.0f;
    return v / half_sum(v);
}

/* Of a linear router. */
static __device__ __forceinline__ float gate_of(float z, const expert_choice &c) {
    float w = softmax_lanes(z, c.single ? c.exists : c.chosen, c.largest);
    return c.single && !c.best ? 0.0f : w;
}

static __device__ __forceinline__ float balance_probability(float z, const expert_choice &c) {
    float masked = c.single || c.chosen ? z : 0.0f;
    return softmax_lanes(masked, c.exists, half_max(c.exists ? masked : c.largest));
}

#endif

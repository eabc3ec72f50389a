/* route_factors.cuh - the gradients of a token's logits and of its experts' first factors side by side, the
 * factors of route_backward.cu. */
#ifndef COHORT_KERNELS_CUDA_ROUTE_FACTORS_CUH
#define COHORT_KERNELS_CUDA_ROUTE_FACTORS_CUH

#include "hidden_router.cuh"

template <typename T> struct route_backward_op {
    cuda_wave wave;
    cuda_rows<const T> x;
    cuda_rows<T> dx; /* NULL data: not wanted */
    cuda_rows<const float> zh, gates, dw, p, hidden;
    global<const float> balance, load_balance;
    global<T> factors; /* [tokens, 16 depth] */
    global<float> dz;  /* [tokens, HALF] of routers with a hidden layer, NULL: there are none */
    global<float> parts;
    int64_t part_floats;
    int depth; /* 16s of columns that the widest device needs */
    int layer, n_layers, chunk, window;
    bool accumulate, wide;
};

template <typename T>
static __device__ __forceinline__ float logit_gradient(const route_backward_op<T> *op, const ck_shape *shape,
                                                       int device, int64_t token, bool inside) {
    int e = (int)threadIdx.x % HALF;
    bool exists = inside && e < shape->router_rows;
    float z = exists ? (float)op->zh.data[token * op->zh.columns + e] : 0.0f;
    float w = exists ? (float)op->gates.data[token * op->gates.columns + e] : 0.0f;
    float dw = exists ? (float)op->dw.data[token * op->dw.columns + e] : 0.0f;
    expert_choice c = choose_experts(z, shape);
    bool counts = c.single ? c.best : c.chosen;
    float mean = half_sum(counts ? w * dw : 0.0f), dz = counts ? w * (dw - mean) : 0.0f;
    if (c.single) dz = mean * ((c.best ? 1.0f : 0.0f) - softmax_lanes(z, c.exists, c.largest));
    if (!op->balance || !shape->balanced) return dz;
    float p = balance_probability(z, c);
    float slope = c.exists
                      ? (float)op->balance[((int64_t)device * op->n_layers + op->layer) * CK_MAX_EXPERTS + e]
                      : 0.0f;
    float average = half_sum(slope * p);
    return c.single || c.chosen ? dz + p * (slope - average) : dz;
}

/* The lane's coefficient of a table of the load balance; 0: it has none. */
template <typename T>
static __device__ __forceinline__ float coefficient_of(const route_backward_op<T> *op, const ck_shape *shape,
                                                       global<const float> table, int device) {
    int e = (int)threadIdx.x % HALF;
    return table && shape->balanced && e < shape->router_rows
               ? (float)table[((int64_t)device * op->n_layers + op->layer) * CK_MAX_EXPERTS + e]
               : 0.0f;
}

/* The same behind a hidden layer: leaves dz in op->dz, and returns the gradient of R x. */
template <typename T>
static __device__ __forceinline__ float hidden_gradient(const route_backward_op<T> *op, const ck_shape *shape,
                                                        int device, int64_t token, bool inside) {
    const cuda_device *own = record(op->wave.devices + device);
    int e = (int)threadIdx.x % HALF, experts = shape->router_rows;
    bool exists = inside && e < experts;
    float z = exists ? (float)op->zh.data[token * op->zh.columns + e] : 0.0f;
    float w = exists ? (float)op->gates.data[token * op->gates.columns + e] : 0.0f;
    float dw = exists ? (float)op->dw.data[token * op->dw.columns + e] : 0.0f;
    float a = exists ? (float)op->hidden.data[token * op->hidden.columns + e] : 0.0f;
    float clean = exists ? (float)op->hidden.data[token * op->hidden.columns + experts + e] : 0.0f;
    expert_choice c = choose_experts(z, shape);
    dw += coefficient_of(op, shape, op->balance, device);
    float mean = half_sum(c.chosen ? w * dw : 0.0f), dz = c.chosen ? w * (dw - mean) : 0.0f, da = 0;
    if (has_load(own, shape))
        dz += load_gradient(z, clean, coefficient_of(op, shape, op->load_balance, device), c);
    if (inside) op->dz[token * HALF + e] = dz;
    global<const float> second = second_matrix(&op->wave, own, shape, op->layer);
    for (int other = 0; other < experts; other++) {
        float slope = __shfl_sync(0xffffffffu, dz, other, HALF);
        if (exists) da += second[other * experts + e] * slope;
    }
    return da * (1.0f - a * a);
}

template <typename T>
static __global__ void __launch_bounds__(ROUTE_LANES) route_factors(route_backward_op<T> op) {
    const cuda_tile *tile = record(op.wave.tiles + blockIdx.x);
    int row = (int)threadIdx.x / HALF, e = (int)threadIdx.x % HALF;
    if (tile->rows == 0) return;
    const ck_shape *shape = record(op.wave.shapes + record(op.wave.devices + tile->device)->shape);
    int rows = shape->router_rows, columns = rows + shape->h_ranks;
    int64_t token = tile->first_token + row;
    bool inside = row < tile->rows;
    float dz = has_hidden_layer(shape) ? hidden_gradient(&op, shape, tile->device, token, inside)
               : rows > 0              ? logit_gradient(&op, shape, tile->device, token, inside)
                                       : 0.0f;
    if (!inside) return;
    global<T> out = op.factors + token * 16 * op.depth;
    if (e < rows) store_one(out + e, dz);
    for (int c = rows + e; c < (columns + 15) / 16 * 16; c += HALF) {
        store_one(out + c, c < columns ? (float)op.p.data[token * op.p.columns + c - rows] : 0.0f);
    }
}

#endif

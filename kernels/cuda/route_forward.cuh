/* route_forward.cuh - what the forward regimes of the router share: the op, and the way from sums to gates.
 */
#ifndef COHORT_KERNELS_CUDA_ROUTE_FORWARD_CUH
#define COHORT_KERNELS_CUDA_ROUTE_FORWARD_CUH

#include "route.cuh"

/* A step: 64 bytes of each row of x, 16 a lane. */
template <typename T> struct one_step {
    enum : int { COLUMNS = 16 * access<T>::QUADS };
};

template <typename T> struct route_op {
    cuda_wave wave;
    cuda_rows<const T> x;
    cuda_rows<float> zh, gates;
    global<float> gate_record; /* NULL: not wanted, like the next */
    global<float> bias_factor; /* [tokens] */
    int layer, n_layers;
    int slices, stride; /* of route_few.cuh: of D; from a row of sums to the next */
    bool wide;
};

/* ---- From sums to gates; rows of one device, [rows, stride] in shared memory */

/* Returns the lane's. */
template <typename T>
static __device__ __forceinline__ float write_gates(const route_op<T> *op, const ck_shape *shape,
                                                    int64_t token, bool inside, float z) {
    int e = (int)threadIdx.x % HALF;
    float w = e < shape->n_experts ? 1.0f / (float)shape->n_experts : 0.0f;
    if (shape->router_rows > 0) w = gate_of(z, choose_experts(z, shape));
    if (inside) op->gates.data[token * op->gates.columns + e] = w;
    if (inside && op->gate_record)
        op->gate_record[(token * op->n_layers + op->layer) * CK_MAX_EXPERTS + e] = w;
    return w;
}

/* The device's shape is looked up again, because route_few() has no register left to keep it in. */
template <typename T>
static __device__ __forceinline__ void write_bias_factor(const route_op<T> *op, const segment *s, int row,
                                                         float w) {
    const ck_shape *shape = record(op->wave.shapes + record(op->wave.devices + s->device)->shape);
    float sum = half_sum(w);
    if (row < s->rows && threadIdx.x % HALF == 0)
        op->bias_factor[s->token + row] = shape->mix == CK_MIX_MLP ? sum : 1.0f;
}

template <typename T>
static __device__ __forceinline__ void finish_rows(const route_op<T> *op, const router_rows *r,
                                                   const segment *s, shared<const float> sums, int stride) {
    int e = (int)threadIdx.x % HALF, half = (int)threadIdx.x % 32 / HALF, experts = r->shape->router_rows;
    for (int pair = (int)threadIdx.x / 32; 2 * pair < s->rows; pair += ROUTE_WARPS) {
        int row = 2 * pair + half;
        bool inside = row < s->rows, finite = true;
        for (int c = e; c < r->columns && inside; c += HALF) {
            float v = sums[row * stride + c];
            finite &= v - v == 0.0f;
        }
        bool fault = (__ballot_sync(0xffffffffu, !finite) >> (HALF * half) & 0xffffu) != 0;
        if (fault && e == 0) atomic_min(op->wave.faults + s->device, op->layer);
        for (int c = e; c < r->columns && inside; c += HALF) {
            op->zh.data[(s->token + row) * op->zh.columns + c] =
                fault && c < experts ? 0.0f : (float)sums[row * stride + c];
        }
        float z = inside && !fault && e < experts ? (float)sums[row * stride + e] : 0.0f;
        float w = write_gates(op, r->shape, s->token + row, inside, z);
        if (op->bias_factor) write_bias_factor(op, s, row, w);
    }
}

#endif

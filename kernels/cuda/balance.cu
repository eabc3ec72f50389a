/* balance.cu - the load balance's coefficients, from what the router counted over each sequence.
 *
 *   c_e = balance_e f_e / T_i,  f_e = (choices of e) / (K T_i)
 *   of a router with a hidden layer, for both of its sums v over the device's tokens:
 *       balance_e (2 / mean^2) ((v_e - mean) / (E - 1) - var / (E mean)), var with E - 1
 *
 * Block: a device; half a warp: every BALANCE_HALVES-th layer, a lane per expert. Sums run over the sequences
 * in order. 4 L 16 bytes a sequence and table. */
#include "hidden_router.cuh"

enum { BALANCE_LANES = 128, BALANCE_HALVES = BALANCE_LANES / CK_MAX_EXPERTS };

typedef struct {
    cuda_wave wave;
    global<const float> top_k_count, gate_sum, load_sum;
    global<float> coefficient, load_coefficient; /* the last of each NULL: no router has a hidden layer */
    int n_layers;
} balance_op;

/* The lane's expert in one layer of a table, over the device's sequences. */
static __device__ __forceinline__ float sum_over(const balance_op *op, global<const float> table, int first,
                                                 int last, int layer, int e) {
    float sum = 0;
    for (int s = first; s <= last; s++)
        sum += table[((int64_t)s * op->n_layers + layer) * CK_MAX_EXPERTS + e];
    return sum;
}

/* The derivative of balance CV^2 by the lane's sum. Every lane of the half comes here. */
static __device__ __forceinline__ float variation_slope(const ck_shape *shape, float sum) {
    int e = (int)threadIdx.x % CK_MAX_EXPERTS;
    float experts = (float)shape->router_rows;
    bool exists = e < shape->router_rows;
    float mean = half_sum(exists ? sum : 0.0f) / experts, off = exists ? sum - mean : 0.0f;
    float variance = half_sum(off * off) / (experts - 1);
    return exists && mean > 0
               ? shape->balance[e] * 2 / (mean * mean) * (off / (experts - 1) - variance / (experts * mean))
               : 0.0f;
}

static __device__ __forceinline__ void balance_gates(const balance_op *op, const ck_shape *shape, int first,
                                                     int last, int layer) {
    int e = (int)threadIdx.x % CK_MAX_EXPERTS;
    int64_t at = ((int64_t)blockIdx.x * op->n_layers + layer) * CK_MAX_EXPERTS + e;
    bool inside = layer < op->n_layers;
    float gates = inside ? sum_over(op, op->gate_sum, first, last, layer, e) : 0.0f;
    float load = inside ? sum_over(op, op->load_sum, first, last, layer, e) : 0.0f;
    float of_gates = variation_slope(shape, gates), of_load = variation_slope(shape, load);
    if (!inside) return;
    op->coefficient[at] = of_gates;
    op->load_coefficient[at] = shape->top_k < shape->router_rows ? of_load : 0.0f;
}

static __global__ void __launch_bounds__(BALANCE_LANES) balance_kernel(balance_op op) {
    const cuda_device *device = record(op.wave.devices + blockIdx.x);
    if (device->n_tokens == 0) return;
    const ck_shape *shape = record(op.wave.shapes + device->shape);
    int lane = (int)threadIdx.x, e = lane % CK_MAX_EXPERTS, experts = shape->router_rows;
    int first = op.wave.sequence_of[device->first_token],
        last = op.wave.sequence_of[device->first_token + device->n_tokens - 1];
    float tokens = (float)device->n_tokens, kept = (float)(shape->top_k < experts ? shape->top_k : experts);
    bool hidden = has_hidden_layer(shape) && shape->balanced;
    for (int begin = 0; begin < op.n_layers; begin += BALANCE_HALVES) {
        int layer = begin + lane / CK_MAX_EXPERTS;
        if (hidden) {
            balance_gates(&op, shape, first, last, layer);
        } else if (layer < op.n_layers) {
            float c = 0;
            if (e < experts)
                c = shape->balance[e] * sum_over(&op, op.top_k_count, first, last, layer, e) /
                    (kept * tokens) / tokens;
            op.coefficient[((int64_t)blockIdx.x * op.n_layers + layer) * CK_MAX_EXPERTS + e] = c;
        }
    }
}

CUDA_NO_WORKSPACE(balance)

const char *cuda_balance(const ck_balance *d, const cuda_call *call) {
    if (call->wave.n_devices == 0) return nullptr;
    balance_op op = {};
    op.wave = call->wave;
    op.top_k_count = d->top_k_count, op.gate_sum = d->gate_sum, op.load_sum = d->load_sum;
    op.coefficient = d->coefficient, op.load_coefficient = d->load_coefficient;
    op.n_layers = d->n_layers;
    return CK_LAUNCH(balance_kernel, dim3((unsigned)call->wave.n_devices), dim3(BALANCE_LANES), 0,
                     call->stream, op);
}

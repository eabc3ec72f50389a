/* balance.cu - the load balance's coefficients, from what the router counted over each sequence.
 *
 *   c_e = balance_e f_e / T_i,  f_e = (choices of e) / (K T_i)
 *
 * Block: a device; half a warp: every BALANCE_HALVES-th layer, a lane per expert. Sums run over the sequences
 * in order. 4 L 16 bytes a sequence. */
#include "ops.cuh"

enum { BALANCE_LANES = 128, BALANCE_HALVES = BALANCE_LANES / CK_MAX_EXPERTS };

typedef struct {
    cuda_wave wave;
    global<const float> top_k_count;
    global<float> coefficient;
    int n_layers;
} balance_op;

/* Tokens of the device's sequences that chose the lane's expert in one layer. */
static __device__ __forceinline__ float count_choices(const balance_op *op, int first, int last, int layer,
                                                      int e) {
    float count = 0;
    for (int s = first; s <= last; s++)
        count += op->top_k_count[((int64_t)s * op->n_layers + layer) * CK_MAX_EXPERTS + e];
    return count;
}

static __global__ void __launch_bounds__(BALANCE_LANES) balance_kernel(balance_op op) {
    const cuda_device *device = record(op.wave.devices + blockIdx.x);
    if (device->n_tokens == 0) return;
    const ck_shape *shape = record(op.wave.shapes + device->shape);
    int lane = (int)threadIdx.x, e = lane % CK_MAX_EXPERTS, experts = shape->router_rows;
    int first = op.wave.sequence_of[device->first_token],
        last = op.wave.sequence_of[device->first_token + device->n_tokens - 1];
    float tokens = (float)device->n_tokens, kept = (float)(shape->top_k < experts ? shape->top_k : experts);
    for (int layer = lane / CK_MAX_EXPERTS; layer < op.n_layers; layer += BALANCE_HALVES) {
        float c = 0;
        if (e < experts)
            c = shape->balance[e] * count_choices(&op, first, last, layer, e) / (kept * tokens) / tokens;
        op.coefficient[((int64_t)blockIdx.x * op.n_layers + layer) * CK_MAX_EXPERTS + e] = c;
    }
}

const char *cuda_balance(const ck_balance *d, const cuda_call *call) {
    if (call->wave.n_devices == 0) return nullptr;
    balance_op op = {};
    op.wave = call->wave;
    op.top_k_count = d->top_k_count, op.coefficient = d->coefficient;
    op.n_layers = d->n_layers;
    return CK_LAUNCH(balance_kernel, dim3((unsigned)call->wave.n_devices), dim3(BALANCE_LANES), 0,
                     call->stream, op);
}

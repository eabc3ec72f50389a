/* balance.cu - the load balance's coefficients, from what the router counted over each sequence.
 *
 *   c_e = balance_e f_e / T_i,  f_e = (choices of e) / (K T_i);
 *       value = sum over layers and experts of c_e P_e, P_e summed over tokens
 *
 * Block: a device; half a warp: every BALANCE_HALVES-th layer, a lane per expert. Sums run over the sequences
 * in order, then over layers, then over experts. 8 L 16 bytes a sequence. */
#include "ops.cuh"

enum { BALANCE_LANES = 128, BALANCE_HALVES = BALANCE_LANES / CK_MAX_EXPERTS };

typedef struct {
    cuda_wave wave;
    global<const float> top_k_count, p_sum;
    global<float> coefficient, value;
    int n_layers;
} balance_op;

/* Over the device's sequences, for the lane's expert of one layer. */
static __device__ __forceinline__ float2 sum_sequences(const balance_op *op, int first, int last, int layer,
                                                       int e) {
    float2 sum = make_float2(0, 0);
    for (int s = first; s <= last; s++) {
        int64_t at = ((int64_t)s * op->n_layers + layer) * CK_MAX_EXPERTS + e;
        sum.x += op->top_k_count[at];
        sum.y += op->p_sum[at];
    }
    return sum;
}

static __global__ void __launch_bounds__(BALANCE_LANES) balance_kernel(balance_op op) {
    CK_SHARED(float, parts, BALANCE_LANES);
    const cuda_device *device = record(op.wave.devices + blockIdx.x);
    if (device->n_tokens == 0) return;
    const ck_shape *shape = record(op.wave.shapes + device->shape);
    int lane = (int)threadIdx.x, e = lane % CK_MAX_EXPERTS, experts = shape->router_rows;
    int first = op.wave.sequence_of[device->first_token],
        last = op.wave.sequence_of[device->first_token + device->n_tokens - 1];
    float tokens = (float)device->n_tokens, kept = (float)(shape->top_k < experts ? shape->top_k : experts),
          value = 0;
    for (int layer = lane / CK_MAX_EXPERTS; layer < op.n_layers; layer += BALANCE_HALVES) {
        float c = 0;
        if (e < experts) {
            float2 sum = sum_sequences(&op, first, last, layer, e);
            c = shape->balance[e] * sum.x / (kept * tokens) / tokens;
            value += c * sum.y;
        }
        op.coefficient[((int64_t)blockIdx.x * op.n_layers + layer) * CK_MAX_EXPERTS + e] = c;
    }
    parts[lane] = value;
    __syncthreads();
    if (lane != 0) return;
    value = 0;
    for (int i = 0; i < BALANCE_LANES; i++) value += parts[i];
    op.value[blockIdx.x] = value;
}

const char *cuda_balance(const ck_balance *d, const cuda_call *call) {
    if (call->wave.n_devices == 0) return nullptr;
    balance_op op = {};
    op.wave = call->wave;
    op.top_k_count = d->top_k_count, op.p_sum = d->p_sum;
    op.coefficient = d->coefficient, op.value = d->value;
    op.n_layers = d->n_layers;
    return CK_LAUNCH(balance_kernel, dim3((unsigned)call->wave.n_devices), dim3(BALANCE_LANES), 0,
                     call->stream, op);
}

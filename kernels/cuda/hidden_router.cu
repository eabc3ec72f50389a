/* hidden_router.cu - logits and gates of routers with a hidden layer, from R x, which route.cu has left in
 * zh; and the gradient of their second matrix.
 *
 * Forward. Block: a tile, half a warp a token, a lane per expert; R2 comes from L1. 8 (E + 16) bytes a token,
 * and 128 where the hidden layer is kept.
 *
 * Gradient. dR2 [E, E] = sum of dz^T a over a device's tokens, in order. Block: a device, a lane per element;
 * tiles of 32 tokens pass through shared memory. 8 E bytes a token. Zeros follow it up to the next block of
 * the pack, because an update takes them along. */
#include "hidden_router.cuh"

typedef struct {
    cuda_wave wave;
    cuda_rows<float> zh, gates, hidden; /* hidden, NULL data: not wanted, as the next two */
    global<float> gate_record;
    global<float> bias_factor; /* [tokens] */
    int layer, n_layers;
} hidden_op;

/* z of the lane's expert from R x. Every lane of the warp comes here. */
static __device__ __forceinline__ float logit_of(const hidden_op *op, const cuda_device *device,
                                                 const ck_shape *shape, int64_t token, bool inside) {
    int e = (int)threadIdx.x % HALF, experts = shape->router_rows;
    bool exists = inside && e < experts;
    float a = exists ? tanhf(op->zh.data[token * op->zh.columns + e]) : 0.0f, clean = 0;
    global<const float> row = second_matrix(&op->wave, device, shape, op->layer) + e * experts;
    for (int j = 0; j < experts; j++) {
        float other = __shfl_sync(0xffffffffu, a, j, HALF);
        if (exists) clean += row[j] * other;
    }
    if (!exists) return 0.0f;
    if (op->hidden.data) {
        op->hidden.data[token * op->hidden.columns + e] = a;
        op->hidden.data[token * op->hidden.columns + experts + e] = clean;
    }
    return clean + CK_NOISE_DEVIATION * noise_of(device, shape, op->layer, token);
}

static __global__ void __launch_bounds__(ROUTE_LANES) hidden_router(hidden_op op) {
    const cuda_tile *tile = record(op.wave.tiles + blockIdx.x);
    if (tile->rows == 0) return;
    const cuda_device *device = record(op.wave.devices + tile->device);
    const ck_shape *shape = record(op.wave.shapes + device->shape);
    if (!has_hidden_layer(shape)) return;
    int row = (int)threadIdx.x / HALF, e = (int)threadIdx.x % HALF;
    int64_t token = tile->first_token + row;
    bool inside = row < tile->rows;
    float z = logit_of(&op, device, shape, token, inside);
    bool fault = (__ballot_sync(0xffffffffu, !(z - z == 0.0f)) >> ((int)threadIdx.x % 32 / HALF * HALF) &
                  0xffffu) != 0;
    if (fault && e == 0) atomic_min(op.wave.faults + tile->device, op.layer);
    if (fault) z = 0.0f;
    expert_choice c = choose_experts(z, shape);
    float w = softmax_lanes(z, c.chosen, c.largest), sum = half_sum(w);
    if (!inside) return;
    if (e < shape->router_rows) op.zh.data[token * op.zh.columns + e] = z;
    op.gates.data[token * op.gates.columns + e] = w;
    if (op.gate_record) op.gate_record[(token * op.n_layers + op.layer) * CK_MAX_EXPERTS + e] = w;
    if (op.bias_factor && e == 0) op.bias_factor[token] = shape->mix == CK_MIX_MLP ? sum : 1.0f;
}

const char *launch_hidden_router(const ck_route *d, const cuda_call *call) {
    hidden_op op = {};
    op.wave = call->wave;
    op.zh = cuda_rows_of<float>(d->zh), op.gates = cuda_rows_of<float>(d->gates);
    if (d->hidden) op.hidden = cuda_rows_of<float>(d->hidden);
    op.gate_record = d->gate_record;
    if (d->bias_factor) op.bias_factor = static_cast<float *>(d->bias_factor->data);
    op.layer = d->layer, op.n_layers = d->n_layers;
    return CK_LAUNCH(hidden_router, dim3((unsigned)op.wave.n_tiles), dim3(ROUTE_LANES), 0, call->stream, op);
}

/* ---- The gradient of R2 */

typedef struct {
    cuda_wave wave;
    cuda_rows<const float> hidden;
    global<const float> dz; /* [tokens, HALF] */
    int layer;
} second_op;

enum { SECOND_ROWS = 32, SECOND_LANES = HALF * HALF };

static __global__ void __launch_bounds__(SECOND_LANES) second_gradient(second_op op) {
    CK_SHARED(float, dz, SECOND_ROWS *HALF);
    CK_SHARED(float, a, SECOND_ROWS *HALF);
    const cuda_device *device = record(op.wave.devices + blockIdx.x);
    if (device->n_tokens == 0 || !(device->learn & CK_LEARN_ROUTER)) return;
    const ck_shape *shape = record(op.wave.shapes + device->shape);
    if (!has_hidden_layer(shape)) return;
    int lane = (int)threadIdx.x, i = lane / HALF, j = lane % HALF, experts = shape->router_rows;
    float sum = 0;
    for (int first = 0; first < device->n_tokens; first += SECOND_ROWS) {
        int rows = device->n_tokens - first < SECOND_ROWS ? device->n_tokens - first : (int)SECOND_ROWS;
        __syncthreads(); /* the rows before have been read */
        for (int at = lane; at < rows * HALF; at += SECOND_LANES) {
            int64_t token = device->first_token + first + at / HALF;
            bool exists = at % HALF < experts;
            dz[at] = exists ? (float)op.dz[token * HALF + at % HALF] : 0.0f;
            a[at] = exists ? (float)op.hidden.data[token * op.hidden.columns + at % HALF] : 0.0f;
        }
        __syncthreads();
        for (int row = 0; row < rows; row++) sum += dz[row * HALF + i] * a[row * HALF + j];
    }
    global<float> gradient = op.wave.gradients + (device->gradients + op.layer * shape->layer_stride +
                                                  shape->block[CK_BLOCK_ROUTER_OUT].offset);
    if (i < experts && j < experts) gradient[i * experts + j] = sum;
    int end = (experts * experts + CK_ALIGN_FLOATS - 1) / CK_ALIGN_FLOATS * CK_ALIGN_FLOATS;
    if (lane >= experts * experts && lane < end) gradient[lane] = 0.0f;
}

const char *launch_second_gradient(const ck_route_backward *d, const cuda_call *call, const float *dz) {
    second_op op = {};
    op.wave = call->wave;
    op.hidden = cuda_rows_of<const float>(d->hidden);
    op.dz = dz;
    op.layer = d->layer;
    return CK_LAUNCH(second_gradient, dim3((unsigned)op.wave.n_devices), dim3(SECOND_LANES), 0, call->stream,
                     op);
}

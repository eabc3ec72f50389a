/* site_vector.cu - the vector p of a site, of each device its own, and the sums over layers of what layers
 * share.
 *
 *   y_t += f_t p,  dp = sum_t f_t dy_t,  dx_tj += <p, dy_t>      f_t = 1, and dx gets nothing; or with
 *                                                                CK_COLUMN_BIAS f_t = sum_j x_tj
 *
 * x, dx [T, in], y, dy [T, out] f32 or bf16; p, dp [out] f32; sums f32. Forward and dx: a warp a token. dp: a
 * lane a column, which walks the device's tokens in order, after f_t of all tokens is in the workspace. The
 * sum over layers: a lane an element, from layer 0 up. No atomics.
 *
 * Bytes a token in bf16: forward 4 out (and 2 in), backward 2 out (and 2 out + 6 in). The bound: memory. */
#include "ops.cuh"
#include "quad.cuh"

enum { VECTOR_WARPS = 4, VECTOR_LANES = 32 * VECTOR_WARPS };

typedef struct {
    cuda_wave wave;
    ck_site site;
    int in, out, layer;
    global<float> factors; /* of the backward: f_t */
} vector_op;

typedef struct {
    ck_vector_form form;
    int64_t p, dp; /* in the pack, in its gradients, of this layer */
} vector_place;

static __device__ __forceinline__ vector_place place_of(const vector_op *op, const ck_shape *s) {
    int64_t offset = s->block[CK_BLOCK_VECTOR + op->site].offset;
    vector_place place = {s->vector[op->site], offset,
                          s->total + op->layer * s->tied_floats + offset - s->tied};
    return place;
}

static __device__ __forceinline__ float warp_sum(float v) {
    CK_UNROLL
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

/* sum_j x_j, the same for all lanes of the warp. */
template <typename T> static __device__ __forceinline__ float sum_of(global<const T> x, int n) {
    float sum = 0;
    for (int i = (int)(threadIdx.x % 32); i < n; i += 32) sum += load_one(x + i);
    return warp_sum(sum);
}

/* ---- Forward. Grid: tiles */

template <typename T>
static __global__ void __launch_bounds__(VECTOR_LANES)
    vector_kernel(vector_op op, cuda_rows<const T> x, cuda_rows<T> y) {
    const cuda_tile *tile = record(op.wave.tiles + blockIdx.x);
    if (tile->rows == 0) return;
    const cuda_device *device = record(op.wave.devices + tile->device);
    vector_place place = place_of(&op, record(op.wave.shapes + device->shape));
    if (place.form == CK_NO_VECTOR) return;
    global<const float> p = op.wave.parameters + (device->parameters + place.p);
    for (int row = (int)threadIdx.x / 32; row < tile->rows; row += VECTOR_WARPS) {
        int64_t token = tile->first_token + row;
        float factor = place.form == CK_COLUMN_BIAS ? sum_of(x.data + token * x.columns, op.in) : 1.0f;
        global<T> to = y.data + token * y.columns;
        for (int i = (int)(threadIdx.x % 32); i < op.out; i += 32)
            store_one(to + i, load_one(global<const T>(to) + i) + factor * p[i]);
    }
}

template <typename T> static const char *vector_of(const ck_site_vector *d, const cuda_call *call) {
    vector_op op = {call->wave, d->site, d->in, d->out, 0, nullptr};
    cuda_rows<T> y = cuda_rows_of<T>(d->y);
    y.data += d->first_column;
    return CK_LAUNCH((vector_kernel<T>), dim3((unsigned)call->wave.n_tiles), dim3(VECTOR_LANES), 0,
                     call->stream, op, cuda_rows_of<const T>(d->x), y);
}

CUDA_NO_WORKSPACE(site_vector)

const char *cuda_site_vector(const ck_site_vector *d, const cuda_call *call) {
    if (call->wave.n_tiles == 0) return nullptr;
    return call->half ? vector_of<bf16>(d, call) : vector_of<float>(d, call);
}

/* ---- Backward */

/* dx of each token, and f_t. Grid: tiles. */
template <typename T>
static __global__ void __launch_bounds__(VECTOR_LANES)
    vector_tokens_kernel(vector_op op, cuda_rows<const T> x, cuda_rows<const T> dy, cuda_rows<T> dx) {
    const cuda_tile *tile = record(op.wave.tiles + blockIdx.x);
    if (tile->rows == 0) return;
    const cuda_device *device = record(op.wave.devices + tile->device);
    vector_place place = place_of(&op, record(op.wave.shapes + device->shape));
    if (place.form != CK_COLUMN_BIAS) return;
    global<const float> p = op.wave.parameters + (device->parameters + place.p);
    int lane = (int)(threadIdx.x % 32);
    for (int row = (int)threadIdx.x / 32; row < tile->rows; row += VECTOR_WARPS) {
        int64_t token = tile->first_token + row;
        float factor = sum_of(x.data + token * x.columns, op.in), slope = 0;
        if (lane == 0) op.factors[token] = factor;
        if (!dx.data) continue;
        for (int i = lane; i < op.out; i += 32) slope += p[i] * load_one(dy.data + (token * dy.columns + i));
        slope = warp_sum(slope);
        global<T> to = dx.data + token * dx.columns;
        for (int i = lane; i < op.in; i += 32) store_one(to + i, load_one(global<const T>(to) + i) + slope);
    }
}

/* Grid: devices, blocks over the columns of dy. */
template <typename T>
static __global__ void __launch_bounds__(VECTOR_LANES)
    vector_gradient_kernel(vector_op op, cuda_rows<const T> dy) {
    const cuda_device *device = record(op.wave.devices + blockIdx.x);
    vector_place place = place_of(&op, record(op.wave.shapes + device->shape));
    int column = (int)(blockIdx.y * VECTOR_LANES + threadIdx.x);
    if (place.form == CK_NO_VECTOR || !(device->learn & CK_LEARN_EXPERTS) || column >= op.out) return;
    float sum = 0;
    for (int64_t t = device->first_token; t < device->first_token + device->n_tokens; t++) {
        float factor = place.form == CK_COLUMN_BIAS ? (float)op.factors[t] : 1.0f;
        sum += factor * load_one(dy.data + (t * dy.columns + column));
    }
    op.wave.gradients[device->gradients + place.dp + column] = sum;
}

template <typename T>
static const char *vector_backward_of(const ck_site_vector_backward *d, const cuda_call *call) {
    vector_op op = {call->wave, d->site, d->in, d->out, d->layer, static_cast<float *>(call->workspace)};
    cuda_rows<const T> dy = cuda_rows_of<const T>(d->dy);
    cuda_rows<T> dx = {};
    dy.data += d->first_column;
    if (d->dx) dx = cuda_rows_of<T>(d->dx);
    const char *problem =
        CK_LAUNCH((vector_tokens_kernel<T>), dim3((unsigned)call->wave.n_tiles), dim3(VECTOR_LANES), 0,
                  call->stream, op, cuda_rows_of<const T>(d->x), dy, dx);
    if (problem || !call->wave.gradients) return problem;
    dim3 grid((unsigned)call->wave.n_devices, (unsigned)((d->out + VECTOR_LANES - 1) / VECTOR_LANES));
    return CK_LAUNCH((vector_gradient_kernel<T>), grid, dim3(VECTOR_LANES), 0, call->stream, op, dy);
}

size_t cuda_site_vector_backward_workspace(const ck_site_vector_backward *, const cuda_bounds *bounds) {
    return (size_t)bounds->max_tokens * sizeof(float);
}

const char *cuda_site_vector_backward(const ck_site_vector_backward *d, const cuda_call *call) {
    if (call->wave.n_tiles == 0) return nullptr;
    return call->half ? vector_backward_of<bf16>(d, call) : vector_backward_of<float>(d, call);
}

/* ---- Sums over layers. Grid: devices, blocks that share the elements of each block of the pack */

enum { TIED_BLOCKS = 64 };

static __global__ void __launch_bounds__(VECTOR_LANES) tied_gradients_kernel(cuda_wave wave, int n_layers) {
    const cuda_device *device = record(wave.devices + blockIdx.x);
    const ck_shape *s = record(wave.shapes + device->shape);
    if (s->tied_floats == 0 || !(device->learn & CK_LEARN_EXPERTS)) return;
    for (int block = CK_BLOCK_TIED; block < CK_BLOCKS; block++) {
        int64_t count = (int64_t)s->block[block].rows * s->block[block].columns;
        global<float> to = wave.gradients + (device->gradients + s->block[block].offset);
        for (int64_t i = (int64_t)blockIdx.y * VECTOR_LANES + threadIdx.x; i < count;
             i += (int64_t)gridDim.y * VECTOR_LANES) {
            float sum = to[s->total - s->tied + i];
            for (int layer = 1; layer < n_layers; layer++)
                sum += to[s->total - s->tied + layer * s->tied_floats + i];
            to[i] = sum;
        }
    }
}

CUDA_NO_WORKSPACE(tied_gradients)

const char *cuda_tied_gradients(const ck_tied_gradients *d, const cuda_call *call) {
    if (call->wave.n_devices == 0 || !call->wave.gradients) return nullptr;
    dim3 grid((unsigned)call->wave.n_devices, TIED_BLOCKS);
    return CK_LAUNCH(tied_gradients_kernel, grid, dim3(VECTOR_LANES), 0, call->stream, call->wave,
                     d->n_layers);
}

/* expert_backward_finish.cu - what the blocks of the expert activation's backward left in parts, added in
 * their order.
 *
 *   p_e [T, I S], dw [T, E]         over the blocks that shared F among them
 *   dB1 [I S, F], dA2 [S, F]        over the blocks that shared a device's tokens among them, where that was
 *                                   done
 *
 * I is 1, with SwiGLU 2. f32. Bytes: those of the parts (expert_activation_backward.cu); 4 (I + 1) S F read
 * for each split of a device. */
#include "expert_backward.cuh"

/* ---- p and dw from the parts of F; a tile a block, a token a warp at a time */

template <typename T>
static __device__ __forceinline__ float sum_parts(const expert_backward<T> *op, int64_t token, int blocks,
                                                  int column) {
    float sum = 0;
    for (int b = 0; b < blocks; b++) sum += op->parts[(token * blocks + b) * op->parts_columns + column];
    return sum;
}

/* Returns the lane's share of <h_e, part of p_e>, which the linear mix's dw is the sum of. */
template <typename T>
static __device__ __forceinline__ float finish_p(const expert_backward<T> *op, const ck_shape *shape,
                                                 int64_t token, int e, float w, int blocks) {
    bool linear = shape->mix == CK_MIX_LINEAR;
    float dot = 0;
    for (int i = 0; i < op->branches; i++) {
        int first = i * shape->rank_sum + shape->rank_first[e],
            end = i * shape->rank_sum + shape->rank_first[e + 1];
        for (int j = first + (int)(threadIdx.x % 32); j < end; j += 32) {
            float raw = w != 0.0f ? sum_parts(op, token, blocks, j) : 0.0f;
            global<float> p = op->p.data + (token * op->p.columns + j);
            p[0] = (op->first_block > 0 ? (float)p[0] : 0.0f) + (linear ? w * raw : raw);
            if (linear) dot += raw * op->zh.data[token * op->zh.columns + shape->router_rows + j];
        }
    }
    return dot;
}

template <typename T>
static __global__ void __launch_bounds__(128) expert_finish_kernel(expert_backward<T> op, int blocks) {
    const cuda_tile *tile = record(op.wave.tiles + blockIdx.x);
    if (tile->rows == 0) return;
    const ck_shape *shape = record(op.wave.shapes + record(op.wave.devices + tile->device)->shape);
    int lane = (int)(threadIdx.x % 32);
    for (int row = (int)threadIdx.x / 32; row < tile->rows; row += (int)blockDim.x / 32) {
        int64_t token = tile->first_token + row;
        for (int e = 0; e < shape->n_experts; e++) {
            float w = op.gates.data[token * op.gates.columns + e],
                  dot = finish_p(&op, shape, token, e, w, blocks);
            CK_UNROLL
            for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, step);
            if (lane != 0 || w == 0.0f) continue;
            op.dw.data[token * op.dw.columns + e] +=
                shape->mix == CK_MIX_LINEAR ? dot : sum_parts(&op, token, blocks, shape->h_ranks + e);
        }
    }
}

/* ---- Weight gradients of splits, in their order. Grid: devices, chunks of dB1 and dA2 */

template <typename T>
static __global__ void __launch_bounds__(256) expert_splits_kernel(expert_backward<T> op) {
    const cuda_device *device = record(op.wave.devices + blockIdx.x);
    const ck_shape *shape = record(op.wave.shapes + device->shape);
    if (!(device->learn & CK_LEARN_EXPERTS)) return;
    int64_t one = (int64_t)op.max_ranks * op.ffn, of_b1 = (int64_t)shape->h_ranks * op.ffn,
            of_a2 = (int64_t)shape->rank_sum * op.ffn;
    int64_t layer = device->gradients + op.layer * shape->layer_stride;
    for (int64_t i = (int64_t)blockIdx.y * blockDim.x + threadIdx.x; i < of_b1;
         i += (int64_t)gridDim.y * blockDim.x) {
        float b1 = 0, a2 = 0;
        for (int s = 0; s < op.splits; s++) {
            int64_t at = ((int64_t)blockIdx.x * op.splits + s) * (op.branches + 1) * one + i;
            b1 += op.sums[at];
            if (i < of_a2) a2 += op.sums[at + op.branches * one];
        }
        op.wave.gradients[layer + shape->b1 + i] = b1;
        if (i < of_a2) op.wave.gradients[layer + shape->a2 + i] = a2;
    }
}

/* ---- Host */

template <typename T>
static const char *finish_as(const expert_backward<T> &op, int blocks, gpu_stream stream) {
    return CK_LAUNCH((expert_finish_kernel<T>), (unsigned)op.wave.n_tiles, 128, 0, stream, op, blocks);
}

template <typename T> static const char *add_splits_as(const expert_backward<T> &op, gpu_stream stream) {
    int64_t chunks = ((int64_t)op.branches * op.max_ranks * op.ffn + 255) / 256;
    dim3 grid((unsigned)op.wave.n_devices, (unsigned)(chunks < 1024 ? chunks : 1024));
    return CK_LAUNCH((expert_splits_kernel<T>), grid, 256, 0, stream, op);
}

const char *expert_finish(const expert_backward<float> &op, int blocks, gpu_stream stream) {
    return finish_as(op, blocks, stream);
}
const char *expert_finish(const expert_backward<bf16> &op, int blocks, gpu_stream stream) {
    return finish_as(op, blocks, stream);
}

const char *expert_add_splits(const expert_backward<float> &op, gpu_stream stream) {
    return add_splits_as(op, stream);
}
const char *expert_add_splits(const expert_backward<bf16> &op, gpu_stream stream) {
    return add_splits_as(op, stream);
}

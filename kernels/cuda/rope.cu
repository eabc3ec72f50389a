/* rope.cu - rotary position embedding, in place on the query and key heads of qkv; backward on dqkv, by the
 * opposite angles.
 *
 *   (a, b) <- (a cos - b sin, b cos + a sin)
 *
 * qkv [T, (H + 2 G) d] in f32 or bf16, of H query heads and G of keys and values; table [positions, d / 2,
 * 2] of cos, sin in f32. A warp has a token, whose query and key heads lie side by side; a lane has W
 * neighbouring pairs at a time, reads both halves before it writes them, and no other lane has them.
 *
 * Bytes a token: reads and writes 2 (H + G) d elements, 4 (H + G) d in bf16; the table, 4 d, comes from L2.
 * The bound: memory. */
#include "ops.cuh"
#include "wide.cuh"

enum { ROPE_WARPS = 8 };

template <typename T> struct rope_op {
    cuda_wave wave;
    cuda_rows<T> qkv;
    global<const float> table;
    int heads, half; /* query and key heads; pairs of a head */
    float direction; /* 1, or backward -1 */
};

template <typename T, int W>
static __global__ void __launch_bounds__(32 * ROPE_WARPS) rope_kernel(rope_op<T> op) {
    int64_t token = (int64_t)blockIdx.x * ROPE_WARPS + threadIdx.x / 32;
    if (token >= op.wave.n_tokens) return;
    const cuda_sequence *sequence = record(op.wave.sequences + op.wave.sequence_of[token]);
    int64_t position = sequence->first_position + token - sequence->first_token;
    int pieces = op.half / W;
    for (int i = (int)(threadIdx.x % 32); i < op.heads * pieces; i += 32) {
        int head = i / pieces, pair = i % pieces * W;
        global<T> at = op.qkv.data + (token * op.qkv.columns + 2 * head * op.half + pair);
        float a[W], b[W], turned_a[W], turned_b[W], angles[2 * W];
        load_wide<W>(a, global<const T>(at));
        load_wide<W>(b, global<const T>(at + op.half));
        load_wide<2 * W>(angles, op.table + 2 * (position * op.half + pair));
        CK_UNROLL
        for (int j = 0; j < W; j++) {
            float cosine = angles[2 * j], sine = op.direction * angles[2 * j + 1];
            turned_a[j] = a[j] * cosine - b[j] * sine;
            turned_b[j] = b[j] * cosine + a[j] * sine;
        }
        store_wide<W>(at, turned_a);
        store_wide<W>(at + op.half, turned_b);
    }
}

template <typename T, int W> static const char *launch(const rope_op<T> &op, gpu_stream stream) {
    dim3 grid((unsigned)((op.wave.n_tokens + ROPE_WARPS - 1) / ROPE_WARPS));
    return CK_LAUNCH((rope_kernel<T, W>), grid, 32 * ROPE_WARPS, 0, stream, op);
}

template <typename T, typename Descriptor>
static const char *run(const Descriptor *d, ck_tensor *rows, float direction, const cuda_call *call) {
    constexpr int W = wide_elements<T>();
    rope_op<T> op = {call->wave, cuda_rows_of<T>(rows), d->table, d->heads + d->kv_heads, d->head_size / 2,
                     direction};
    bool wide = cuda_is_wide<T>(rows) && op.half % W == 0 && cuda_is_wide(d->table, 0);
    return wide ? launch<T, W>(op, call->stream) : launch<T, 1>(op, call->stream);
}

CUDA_NO_WORKSPACE(rope)

const char *cuda_rope(const ck_rope *d, const cuda_call *call) {
    return call->half ? run<bf16>(d, d->qkv, 1, call) : run<float>(d, d->qkv, 1, call);
}

CUDA_NO_WORKSPACE(rope_backward)

const char *cuda_rope_backward(const ck_rope_backward *d, const cuda_call *call) {
    return call->half ? run<bf16>(d, d->dqkv, -1, call) : run<float>(d, d->dqkv, -1, call);
}

/* attention_cached.cu - attention of a sequence's new tokens over all of it so far, whose keys and values lie
 * in a cache (decoding.h).
 *
 *   K[t], V[t] = k_t, v_t of the new tokens;  S = Q K^T / sqrt(d),  P = softmax over positions <= the row's,
 *   O = P V
 *
 * qkv [T, (heads + 2 kv_heads) d], o [T, heads d], caches [slots, kv_heads, positions, d], all f32 or all
 * bf16. First a kernel puts the new keys and values into their places. Then
 *
 *   prompts   a block has 64 query rows of one head of one sequence (fewer where no wave has so many tokens
 *             of one), as in attention.cu; keys pass through shared memory. Bytes: the cache's once for every
 *             64 rows. FLOPs a token: 4 d (its position) a head.
 *   steps     where every sequence has one token: a block has one head of one sequence, whose keys its groups
 *             of lanes share out; a group has the columns of one key, 16 bytes a lane, and a softmax of its
 *             own, which are joined at the end in a fixed order. Bytes: 2 d of the cache a position and query
 *             head; heads that share keys read them from L2. The bound: memory. */
#include "attention_tile.cuh"
#include "wide.cuh"

enum { STEP_WARPS = 8, STEP_COLUMNS = 128, APPEND_LANES = 256 };

template <typename T> struct cached_op {
    global<const cuda_sequence> sequences;
    cuda_rows<const T> qkv;
    cuda_rows<T> o;
    global<T> keys, values;
    int heads, kv_heads, dim, positions;
    int pairs, tiles; /* sequences x heads; most tiles of a sequence */
    float scale2;     /* log2(e) / sqrt(dim) */
    bool wide;        /* rows of all of them begin at multiples of 16 bytes */
};

/* Where a key-value head of a sequence begins in the caches. */
template <typename T>
static __device__ __forceinline__ int64_t cache_place(const cached_op<T> &op, const cuda_sequence *sequence,
                                                      int kv_head) {
    return ((int64_t)sequence->cache_slot * op.kv_heads + kv_head) * op.positions * op.dim;
}

/* ---- New keys and values. Grid: tokens */

template <typename T>
static __global__ void __launch_bounds__(APPEND_LANES)
    append_kernel(cached_op<T> op, global<const int32_t> sequence_of) {
    int64_t token = blockIdx.x;
    const cuda_sequence *sequence = record(op.sequences + (int32_t)sequence_of[token]);
    int64_t position = sequence->first_position + token - sequence->first_token;
    int width = op.kv_heads * op.dim;
    global<const T> k = op.qkv.data + (token * op.qkv.columns + op.heads * op.dim);
    for (int i = (int)threadIdx.x; i < width; i += APPEND_LANES) {
        int64_t to = cache_place(op, sequence, i / op.dim) + position * op.dim + i % op.dim;
        op.keys[to] = (T)k[i];
        op.values[to] = (T)k[width + i];
    }
}

/* ---- Prompts */

template <typename T, int DIM>
static __global__ void __launch_bounds__(32 * ATTENTION_WARPS, attention_blocks<T, DIM>)
    prompt_kernel(cached_op<T> op) {
    CK_DYNAMIC_SHARED(T, arena);
    constexpr int STRIDE = tile_stride<DIM>, KEYS = passing_rows<T, DIM>;
    int warp = (int)threadIdx.x / 32, rows = (int)blockDim.x / 2,
        head = (int)blockIdx.x % op.pairs % op.heads, tile = op.tiles - 1 - (int)blockIdx.x / op.pairs,
        first = tile * rows, row = first + 16 * warp;
    const cuda_sequence *sequence = record(op.sequences + (int)blockIdx.x % op.pairs / op.heads);
    if (first >= sequence->n_tokens) return;
    int end = first + rows < sequence->n_tokens ? first + rows : sequence->n_tokens;
    int at = sequence->first_position + row, keys_end = sequence->first_position + end; /* positions */
    int64_t place = cache_place(op, sequence, head / (op.heads / op.kv_heads));
    int64_t token = sequence->first_token;
    head_rows<const T> q = {op.qkv.data + (token * op.qkv.columns + head * op.dim), (int)op.qkv.columns,
                            op.dim, op.wide};
    head_rows<const T> k = {op.keys + place, op.dim, op.dim, op.wide},
                       v = {op.values + place, op.dim, op.dim, op.wide};
    head_rows<T> o = {op.o.data + (token * op.o.columns + head * op.dim), (int)op.o.columns, op.dim, op.wide};
    shared<T> queries = part(arena, rows * STRIDE), passing = part(arena + rows * STRIDE, 4 * KEYS * STRIDE);
    softmax_state<DIM> state;
    query_factor<T, DIM> factor;
    begin_softmax(state);
    load_rows<T, DIM>(queries, q, first, 16 * whole_units(end - first), end);
    bring_two<T, DIM>(passing, k, v, 0, keys_end);
    for (int key = 0, turn = 0; key < keys_end; key += KEYS, turn ^= 1) {
        cp_async_wait<0>();
        __syncthreads(); /* these keys are here, and the others have been used by all warps */
        if (key + KEYS < keys_end)
            bring_two<T, DIM>(passing + 2 * (turn ^ 1) * KEYS * STRIDE, k, v, key + KEYS, keys_end);
        if (row >= end || key > at + 15) continue;
        if (key == 0) factor = factor_of<T, DIM, room_to_hold<T, DIM>>(queries + 16 * warp * STRIDE);
        shared<const T> keys = passing + 2 * turn * KEYS * STRIDE;
        if (key + KEYS <= at) {
            attend<T, DIM, true>(state, factor, keys, at, key, KEYS / 16, op.scale2);
        } else {
            int units = whole_units((at + 16 < keys_end ? at + 16 : keys_end) - key);
            attend<T, DIM, false>(state, factor, keys, at, key, units < KEYS / 16 ? units : KEYS / 16,
                                  op.scale2);
        }
    }
    if (row >= end) return;
    float inverse[2] = {1.0f / quad_sum(state.sum[0]), 1.0f / quad_sum(state.sum[1])};
    store_rows<T, DIM>(o, row, end, state.o, inverse, queries + 16 * warp * STRIDE);
}

/* ---- Steps: one token of every sequence */

/* Of some keys: the largest score, the sum of exponentials, and the lane's columns of the result. */
template <int COLUMNS> struct step_state { float largest, sum, o[COLUMNS]; };

template <int COLUMNS>
static __device__ __forceinline__ void step_add(step_state<COLUMNS> &a, float score, const float v[COLUMNS],
                                                float scale2) {
    float largest = fmaxf(a.largest, score), before = fast_exp2(scale2 * (a.largest - largest)),
          power = fast_exp2(scale2 * (score - largest));
    a.largest = largest;
    a.sum = fmaf(a.sum, before, power);
    CK_UNROLL
    for (int i = 0; i < COLUMNS; i++) a.o[i] = fmaf(a.o[i], before, power * v[i]);
}

/* What has no key yet has the sum 0. */
static __device__ __forceinline__ float step_factor(float sum, float largest, float all, float scale2) {
    return sum > 0.0f ? fast_exp2(scale2 * (largest - all)) : sum;
}

template <int COLUMNS>
static __device__ __forceinline__ void step_join_lanes(step_state<COLUMNS> &a, int step, float scale2) {
    float largest = __shfl_xor_sync(0xffffffffu, a.largest, step),
          sum = __shfl_xor_sync(0xffffffffu, a.sum, step), all = fmaxf(a.largest, largest);
    float own = step_factor(a.sum, a.largest, all, scale2), other = step_factor(sum, largest, all, scale2);
    a.largest = all;
    a.sum = a.sum * own + sum * other;
    CK_UNROLL
    for (int i = 0; i < COLUMNS; i++)
        a.o[i] = a.o[i] * own + __shfl_xor_sync(0xffffffffu, a.o[i], step) * other;
}

/* N pieces of W columns, LANES W apart, of a row of dim columns; 0 behind them. */
template <int W, int LANES, int N, typename P>
static __device__ __forceinline__ void load_columns(float v[N * W], P row, int dim, bool there) {
    int first = (int)threadIdx.x % LANES * W;
    CK_UNROLL
    for (int n = 0; n < N; n++) {
        int column = first + n * LANES * W;
        if (there && column < dim) {
            load_wide<W>(v + n * W, row + column);
        } else {
            CK_UNROLL
            for (int i = 0; i < W; i++) v[n * W + i] = 0;
        }
    }
}

/* The groups of the block, each with the columns of one key at a time, take turns over the keys. */
template <typename T, int W, int LANES, int N>
static __device__ __forceinline__ step_state<N * W> step_keys(const cached_op<T> &op, int64_t place,
                                                              const float q[N * W], int keys) {
    constexpr int GROUPS = 32 / LANES;
    int group = (int)(threadIdx.x % 32) / LANES;
    step_state<N *W> state = {-INFINITY, 0.0f, {}};
    for (int first = (int)(threadIdx.x / 32) * GROUPS; first < keys; first += STEP_WARPS * GROUPS) {
        bool there = first + group < keys;
        int64_t at = place + (int64_t)(first + group) * op.dim;
        float k[N * W], v[N * W], score = 0;
        load_columns<W, LANES, N>(k, global<const T>(op.keys) + at, op.dim, there);
        load_columns<W, LANES, N>(v, global<const T>(op.values) + at, op.dim, there);
        CK_UNROLL
        for (int i = 0; i < N * W; i++) score = fmaf(q[i], k[i], score);
        CK_UNROLL
        for (int step = LANES / 2; step > 0; step /= 2) score += __shfl_xor_sync(0xffffffffu, score, step);
        if (there) step_add<N * W>(state, score, v, op.scale2);
    }
    CK_UNROLL
    for (int step = LANES; step < 32; step *= 2) step_join_lanes<N * W>(state, step, op.scale2);
    return state;
}

/* The warps' parts in their order. Grid: pairs. */
template <typename T, int W, int LANES, int N>
static __global__ void __launch_bounds__(32 * STEP_WARPS) step_kernel(cached_op<T> op) {
    CK_SHARED(float, parts, STEP_WARPS *STEP_COLUMNS);
    CK_SHARED(float, largest, STEP_WARPS);
    CK_SHARED(float, sums, STEP_WARPS);
    int head = (int)blockIdx.x % op.heads, warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const cuda_sequence *sequence = record(op.sequences + (int)blockIdx.x / op.heads);
    int64_t token = sequence->first_token, place = cache_place(op, sequence, head / (op.heads / op.kv_heads));
    float q[N * W];
    load_columns<W, LANES, N>(q, op.qkv.data + (token * op.qkv.columns + head * op.dim), op.dim, true);
    step_state<N *W> state = step_keys<T, W, LANES, N>(op, place, q, sequence->first_position + 1);
    CK_UNROLL
    for (int i = 0; i < N * W; i++) {
        int column = lane % LANES * W + i / W * LANES * W + i % W;
        if (lane < LANES && column < op.dim) parts[warp * STEP_COLUMNS + column] = state.o[i];
    }
    if (lane == 0) largest[warp] = state.largest, sums[warp] = state.sum;
    __syncthreads();
    int column = (int)threadIdx.x;
    if (column >= op.dim) return;
    float all = largest[0], sum = 0, o = 0;
    for (int w = 1; w < STEP_WARPS; w++) all = fmaxf(all, largest[w]);
    for (int w = 0; w < STEP_WARPS; w++) {
        float factor = step_factor(sums[w], largest[w], all, op.scale2);
        sum += factor * sums[w];
        o += factor * parts[w * STEP_COLUMNS + column];
    }
    store_one(op.o.data + (token * op.o.columns + head * op.dim + column), o / sum);
}

/* ---- Host */

template <typename T, int DIM>
static const char *launch_prompts(const cached_op<T> *op, int warps, gpu_stream stream) {
    int rows = 16 * warps + 4 * passing_rows<T, DIM>;
    size_t bytes = (size_t)rows * tile_stride<DIM> * sizeof(T);
    return CK_LAUNCH((prompt_kernel<T, DIM>), dim3((unsigned)(op->pairs * op->tiles)),
                     dim3((unsigned)warps * 32), bytes, stream, *op);
}

template <typename T>
static const char *prompts(cached_op<T> *op, int max_sequence_tokens, gpu_stream stream) {
    int warps = attention_warps(max_sequence_tokens, ATTENTION_WARPS);
    op->tiles = (max_sequence_tokens + 16 * warps - 1) / (16 * warps);
    if (op->dim <= 16) return launch_prompts<T, 16>(op, warps, stream);
    if (op->dim <= 32) return launch_prompts<T, 32>(op, warps, stream);
    if (op->dim <= 64) return launch_prompts<T, 64>(op, warps, stream);
    return launch_prompts<T, 128>(op, warps, stream);
}

template <typename T, int W, int LANES, int N>
static const char *launch_steps(const cached_op<T> *op, gpu_stream stream) {
    return CK_LAUNCH((step_kernel<T, W, LANES, N>), dim3((unsigned)op->pairs), dim3(32 * STEP_WARPS), 0,
                     stream, *op);
}

template <typename T> static const char *steps(const cached_op<T> *op, gpu_stream stream) {
    constexpr int W = wide_elements<T>();
    if (!op->wide) return launch_steps<T, 1, 32, STEP_COLUMNS / 32>(op, stream);
    if (op->dim <= 8 * W) return launch_steps<T, W, 8, 1>(op, stream);
    if (op->dim <= 16 * W) return launch_steps<T, W, 16, 1>(op, stream);
    return launch_steps<T, W, STEP_COLUMNS / W, 1>(op, stream);
}

template <typename T> static const char *run(const ck_attention_cached *d, const cuda_call *call) {
    int dim = d->head_size;
    if (dim > STEP_COLUMNS) return "attention on a GPU needs heads of at most 128 columns";
    cached_op<T> op = {};
    op.sequences = call->wave.sequences;
    op.qkv = cuda_rows_of<const T>(d->qkv), op.o = cuda_rows_of<T>(d->o);
    op.keys = static_cast<T *>(d->keys), op.values = static_cast<T *>(d->values);
    op.heads = d->heads, op.kv_heads = d->kv_heads, op.dim = dim, op.positions = d->positions;
    op.pairs = call->wave.n_sequences * d->heads;
    op.scale2 = LOG2_E / sqrtf((float)dim);
    op.wide = attention_is_wide(d->qkv, dim, sizeof(T)) && attention_is_wide(d->o, dim, sizeof(T)) &&
              cuda_is_wide(d->keys, 0) && cuda_is_wide(d->values, 0);
    const char *problem = CK_LAUNCH(append_kernel<T>, dim3((unsigned)call->wave.n_tokens), dim3(APPEND_LANES),
                                    0, call->stream, op, call->wave.sequence_of);
    if (problem) return problem;
    if (call->wave.n_tokens == call->wave.n_sequences) return steps(&op, call->stream);
    return prompts(&op, d->qkv->program->capacity.max_sequence_tokens, call->stream);
}

CUDA_NO_WORKSPACE(attention_cached)

const char *cuda_attention_cached(const ck_attention_cached *d, const cuda_call *call) {
    return call->half ? run<bf16>(d, call) : run<float>(d, call);
}

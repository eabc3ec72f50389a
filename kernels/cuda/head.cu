/* head.cu - head and cross-entropy; logits exist for a chunk of tokens at a time.
 *
 *   z = x W^T,  loss_t = lse(z) - z_target,  dz = (softmax(z) - onehot(target)) / counted,
 *   dx = dz W,   dW = sum over chunks of dz^T x
 *
 * x, dx [T, D] f32 or bf16, z [rows of the chunk, V] f32 in the workspace; products by cuda_multiply().
 * counted: of the device, in pre-training of the wave.
 *
 * Between the products: a block a row. It reads z for the maximum and the sum of exponentials, kept together
 * (a sum is scaled when its maximum moves), and writes dz over it, in the type that the next products read: a
 * bf16 row lies in the first half of its f32 row.
 *
 *   held    z is read once: exp(z - m) of every logit stays in shared memory as T, with m, the lane's maximum
 *           at that step. The target's probability, from which 1 is subtracted, is computed from its logit in
 *           f32. V = 50257 on sm_90: two blocks a multiprocessor in bf16, one in f32.
 *   else    where a row has no room there (cuda_limits.head_row_bytes, or the GPU's own limit), z is read
 *           twice. Shared memory that is asked for and not used then keeps it at one block a multiprocessor:
 *           132 rows of 200 KB stay in an L2 of 50 MB. A bf16 row is written a step behind what has been
 *           read.
 *
 * Losses of tokens go to the workspace, and one warp a sequence sums them in a fixed order, as doubles.
 *
 * FLOPs a token: 2 D V for z, 4 D V with dx, 6 D V with dW. Bytes a token between the products: z written,
 * read and dz written, read, 16 V in f32, 12 V in bf16 (0.14 us at 4.3 TB/s and V = 50257, beside 0.2 us for
 * the products' 4 D V FLOPs at D = 768). */
#include <math.h>

#include "ops.cuh"
#include "wide.cuh"

enum { HEAD_LANES = 512, HEAD_WARPS = HEAD_LANES / 32, HEAD_ALIGN = 32, HEAD_ROWS = 128 };
enum { HEAD_STATIC_BYTES = HEAD_WARPS * 16 }; /* at most: arrays of known size */

typedef struct {
    global<float> z;      /* [rows, stride] */
    global<float> losses; /* [max_tokens] */
    float *logits;        /* z, as the products take it */
    int64_t stride, rows;
} head_workspace;

static int64_t row_stride(int vocabulary) {
    return ((int64_t)vocabulary + HEAD_ALIGN - 1) / HEAD_ALIGN * HEAD_ALIGN;
}

/* Of cuda_limits.head_bytes: as many as fill a GPU with tiles of the product dz W, whose result is narrow.
 */
static int64_t chunk_rows(int vocabulary, int64_t max_tokens) {
    int64_t rows = cuda_limits.head_bytes / (row_stride(vocabulary) * (int64_t)sizeof(float));
    rows = rows > HEAD_ROWS ? rows / HEAD_ROWS * HEAD_ROWS : rows < 1 ? 1 : rows;
    return rows < max_tokens ? rows : max_tokens;
}

/* ---- A row */

/* Of some logits: the largest, and the sum of exp(z - largest). */
typedef struct {
    float largest, sum;
} row_state;

/* What holds no logit has the sum 0, and adds nothing; NaN stays. */
static __device__ __forceinline__ row_state row_join(row_state a, row_state b) {
    bool first = a.largest > b.largest;
    row_state top = first ? a : b, other = first ? b : a;
    if (other.sum != 0.0f) top.sum += other.sum * fast_exp(other.largest - top.largest);
    return top;
}

static __device__ __forceinline__ row_state row_join_lanes(row_state a) {
    CK_UNROLL
    for (int step = 16; step > 0; step /= 2) {
        row_state b = {__shfl_xor_sync(0xffffffffu, a.largest, step),
                       __shfl_xor_sync(0xffffffffu, a.sum, step)};
        a = row_join(a, b);
    }
    return a;
}

/* a lane's logits of one step: accesses of 16 bytes, a block's width apart */
enum { ROW_PARTS = 4, ROW_ELEMENTS = 4 * ROW_PARTS };

/* v[4 p + j] = z[first + 4 blockDim p + j]; -inf behind the last. */
static __device__ __forceinline__ void load_logits(float v[ROW_ELEMENTS], global<const float> z, int first,
                                                   int vocabulary) {
    CK_UNROLL
    for (int p = 0; p < ROW_PARTS; p++) {
        int i = first + 4 * (int)blockDim.x * p;
        if (i + 4 <= vocabulary) {
            load_wide<4>(v + 4 * p, z + i);
            continue;
        }
        CK_UNROLL
        for (int j = 0; j < 4; j++) v[4 * p + j] = i + j < vocabulary ? (float)z[i + j] : -INFINITY;
    }
}

/* v becomes exp(v - state->largest). */
static __device__ __forceinline__ void row_add(row_state *state, float v[ROW_ELEMENTS]) {
    float largest = v[0], sum = 0;
    CK_UNROLL
    for (int j = 1; j < ROW_ELEMENTS; j++) largest = fmaxf(largest, v[j]);
    if (largest > state->largest) { /* seldom, after the first steps */
        state->sum = state->sum != 0.0f ? state->sum * fast_exp(state->largest - largest) : 0.0f;
        state->largest = largest;
    }
    CK_UNROLL
    for (int j = 0; j < ROW_ELEMENTS; j++) {
        v[j] = fast_exp(v[j] - state->largest);
        sum += v[j];
    }
    state->sum += sum;
}

/* A row that stays in shared memory: a lane's powers where its logits were, and what it had taken off them in
 * each step. */
template <typename T> struct held_row {
    shared<T> powers;      /* [row_stride()] */
    shared<float> largest; /* [steps, lanes] */
};

static __device__ __host__ __forceinline__ int row_steps(int vocabulary, int lanes) {
    return (vocabulary + ROW_ELEMENTS * lanes - 1) / (ROW_ELEMENTS * lanes);
}

static __device__ __forceinline__ void hold_four(shared<float> at, const float v[4]) {
    store_as(at, make_float4(v[0], v[1], v[2], v[3]));
}
static __device__ __forceinline__ void hold_four(shared<bf16> at, const float v[4]) {
    uint2 pairs = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3])};
    store_as(at, pairs);
}
static __device__ __forceinline__ void held_four(float v[4], shared<float> at) {
    float4 x = load_as<float4>(at);
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
}
static __device__ __forceinline__ void held_four(float v[4], shared<bf16> at) {
    uint2 pairs = load_as<uint2>(at);
    float2 low = unpack_bf16(pairs.x), high = unpack_bf16(pairs.y);
    v[0] = low.x, v[1] = low.y, v[2] = high.x, v[3] = high.y;
}

template <typename T, bool held>
static __device__ __forceinline__ row_state row_reduce(global<const float> z, int vocabulary,
                                                       const held_row<T> &row) {
    CK_SHARED(row_state, warps, HEAD_WARPS);
    row_state state = {-INFINITY, 0.0f};
    int slot = (int)threadIdx.x; /* of the step and the lane */
    for (int first = 4 * (int)threadIdx.x; first < vocabulary;
         first += ROW_ELEMENTS * (int)blockDim.x, slot += (int)blockDim.x) {
        float v[ROW_ELEMENTS];
        load_logits(v, z, first, vocabulary);
        row_add(&state, v);
        if constexpr (!held) continue;
        row.largest[slot] = state.largest;
        CK_UNROLL
        for (int p = 0; p < ROW_PARTS; p++) {
            int i = first + 4 * (int)blockDim.x * p;
            if (i < vocabulary) hold_four(row.powers + i, v + 4 * p);
        }
    }
    state = row_join_lanes(state);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = state;
    __syncthreads();
    state = warps[0];
    for (int w = 1; w < (int)blockDim.x / 32; w++) state = row_join(state, warps[w]);
    return state;
}

template <typename T>
static __device__ __forceinline__ void store_four(global<T> dz, int i, const float v[4], int vocabulary) {
    if (i + 4 <= vocabulary) {
        store_wide<4>(dz + i, v);
        return;
    }
    CK_UNROLL
    for (int j = 0; j < 4; j++) {
        if (i + j < vocabulary) store_one(dz + (i + j), v[j]);
    }
}

/* dz over z, from the powers that were held; chosen: the target's logit. */
template <typename T>
static __device__ __forceinline__ void write_held_gradient(const held_row<T> &row, global<T> dz,
                                                           int vocabulary, row_state state, int32_t target,
                                                           float chosen, float inverse_count) {
    float scale = target < 0 ? 0.0f : inverse_count / state.sum,
          of_target = scale * fast_exp(chosen - state.largest) - inverse_count;
    int slot = (int)threadIdx.x;
    for (int first = 4 * (int)threadIdx.x; first < vocabulary;
         first += ROW_ELEMENTS * (int)blockDim.x, slot += (int)blockDim.x) {
        float factor = scale * fast_exp(row.largest[slot] - state.largest);
        CK_UNROLL
        for (int p = 0; p < ROW_PARTS; p++) {
            int i = first + 4 * (int)blockDim.x * p;
            float v[4];
            if (i >= vocabulary) continue;
            held_four(v, row.powers + i);
            CK_UNROLL
            for (int j = 0; j < 4; j++) v[j] = i + j == target ? of_target : factor * v[j];
            store_four(dz, i, v, vocabulary);
        }
    }
}

/* dz over z, which is read again. Of a bf16 row, what a step writes lies before all that later steps read;
 * its own has been read once all lanes have come. */
template <typename T>
static __device__ __forceinline__ void write_gradient(global<const float> z, global<T> dz, int vocabulary,
                                                      row_state state, int32_t target, float inverse_count) {
    const int step = ROW_ELEMENTS * (int)blockDim.x;
    float scale = target < 0 ? 0.0f : inverse_count / state.sum;
    for (int begin = 0; begin < vocabulary; begin += step) {
        int first = begin + 4 * (int)threadIdx.x;
        float v[ROW_ELEMENTS];
        load_logits(v, z, first, vocabulary);
        if (sizeof(T) < sizeof(float)) __syncthreads();
        CK_UNROLL
        for (int p = 0; p < ROW_PARTS; p++) {
            int i = first + 4 * (int)blockDim.x * p;
            CK_UNROLL
            for (int j = 0; j < 4; j++) {
                float probability = scale * fast_exp(v[4 * p + j] - state.largest);
                v[4 * p + j] = i + j == target ? probability - inverse_count : probability;
            }
            store_four(dz, i, v + 4 * p, vocabulary);
        }
    }
}

/* Grid: the chunk's rows. */
template <typename T, bool gradient, bool held>
static __global__ void __launch_bounds__(HEAD_LANES)
    head_row_kernel(cuda_wave wave, head_workspace work, int64_t first, int vocabulary) {
    int64_t token = first + blockIdx.x;
    global<float> z = work.z + blockIdx.x * work.stride;
    int32_t target = wave.targets[token];
    float chosen = target < 0 ? 0.0f : (float)z[target]; /* before it is overwritten */
    CK_DYNAMIC_SHARED(T, arena);
    held_row<T> row = {arena, retype<float>(arena + work.stride)};
    row_state state = row_reduce<T, held>(z, vocabulary, row);
    if (threadIdx.x == 0) work.losses[token] = target < 0 ? 0.0f : logf(state.sum) + (state.largest - chosen);
    if (!gradient) return;
    int32_t counted = record(wave.sequences + wave.sequence_of[token])->counted;
    float inverse_count = counted > 0 ? 1.0f / (float)counted : 0.0f;
    if constexpr (held)
        write_held_gradient<T>(row, retype<T>(z), vocabulary, state, target, chosen, inverse_count);
    else
        write_gradient<T>(z, retype<T>(z), vocabulary, state, target, inverse_count);
}

/* Grid: the chunk's rows. */
static __global__ void __launch_bounds__(256)
    copy_logits_kernel(head_workspace work, global<float> logits, int64_t first, int vocabulary) {
    for (int i = (int)threadIdx.x; i < vocabulary; i += (int)blockDim.x)
        logits[(first + blockIdx.x) * vocabulary + i] = work.z[blockIdx.x * work.stride + i];
}

/* A warp a sequence. */
static __global__ void __launch_bounds__(32)
    head_sum_kernel(cuda_wave wave, head_workspace work, global<float> loss) {
    const cuda_sequence *sequence = record(wave.sequences + blockIdx.x);
    double sum = 0;
    for (int i = (int)threadIdx.x; i < sequence->n_tokens; i += 32)
        sum += (double)work.losses[sequence->first_token + i];
    CK_UNROLL
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (threadIdx.x == 0) loss[blockIdx.x] = (float)sum;
}

/* ---- Chunks */

static head_workspace workspace_of(const ck_head *d, void *memory, int64_t rows) {
    head_workspace work = {};
    char *at = static_cast<char *>(memory);
    work.stride = row_stride(d->vocabulary);
    work.rows = rows;
    work.logits = reinterpret_cast<float *>(at);
    at += rows * work.stride * (int64_t)sizeof(float);
    work.z = work.logits;
    work.losses = reinterpret_cast<float *>(at);
    return work;
}

size_t cuda_head_workspace(const ck_head *d, const cuda_bounds *bounds) {
    int64_t rows = chunk_rows(d->vocabulary, bounds->max_tokens);
    return (size_t)(rows * row_stride(d->vocabulary) + bounds->max_tokens) * sizeof(float);
}

/* One row's block: lanes for about 64 logits each. */
static unsigned row_lanes(int vocabulary) {
    int lanes = (vocabulary / 64 + 31) / 32 * 32;
    return (unsigned)(lanes < 32 ? 32 : lanes > HEAD_LANES ? (int)HEAD_LANES : lanes);
}

/* Shared memory of a row that stays there. */
template <typename T> static size_t held_bytes(int vocabulary, int lanes) {
    return (size_t)row_stride(vocabulary) * sizeof(T) +
           (size_t)(row_steps(vocabulary, lanes) * lanes) * sizeof(float);
}

template <typename T>
static const char *rows_of_chunk(const ck_head *d, const cuda_call *call, const head_workspace *work,
                                 int64_t first, int64_t rows, bool gradient) {
    dim3 grid((unsigned)rows);
    global<float> logits = d->logits;
    const char *problem = nullptr;
    if (d->logits)
        problem =
            CK_LAUNCH(copy_logits_kernel, grid, 256, 0, call->stream, *work, logits, first, d->vocabulary);
    if (problem) return problem;
    unsigned lanes = row_lanes(d->vocabulary);
    if (!gradient)
        return CK_LAUNCH((head_row_kernel<T, false, false>), grid, lanes, 0, call->stream, call->wave, *work,
                         first, d->vocabulary);
    /* one block on a multiprocessor */
    size_t row = held_bytes<T>(d->vocabulary, (int)lanes), alone = ck_shared_limit() / 2 + 1;
    if (row <= (size_t)cuda_limits.head_row_bytes && row + HEAD_STATIC_BYTES <= ck_shared_limit())
        return CK_LAUNCH((head_row_kernel<T, true, true>), grid, lanes, row, call->stream, call->wave, *work,
                         first, d->vocabulary);
    return CK_LAUNCH((head_row_kernel<T, true, false>), grid, lanes, alone, call->stream, call->wave, *work,
                     first, d->vocabulary);
}

template <typename T>
static const char *multiply_logits(const ck_head *d, const cuda_call *call, const head_workspace *work,
                                   int64_t first, int64_t rows) {
    cuda_product z = {};
    z.m = rows, z.n = d->vocabulary, z.k = d->width;
    z.a = static_cast<const T *>(d->x->data) + first * d->x->columns, z.lda = d->x->columns;
    z.b = cuda_weight(call, d->weight), z.ldb = d->width, z.turn_b = true;
    z.out = work->logits, z.ld_out = work->stride;
    z.half_in = call->half;
    z.alpha = 1;
    return cuda_multiply(&z, call->stream);
}

/* dz as the products read it: rows of T in the place of rows of f32. */
template <typename T> static int64_t gradient_stride(const head_workspace *work) {
    return work->stride * (int64_t)(sizeof(float) / sizeof(T));
}

template <typename T>
static const char *multiply_dx(const ck_head *d, const cuda_call *call, const head_workspace *work,
                               int64_t first, int64_t rows) {
    cuda_product dx = {};
    dx.m = rows, dx.n = d->width, dx.k = d->vocabulary;
    dx.a = work->logits, dx.lda = gradient_stride<T>(work);
    dx.b = cuda_weight(call, d->weight), dx.ldb = d->width;
    dx.out = static_cast<T *>(d->dx->data) + first * d->dx->columns, dx.ld_out = d->dx->columns;
    dx.half_in = dx.half_out = call->half;
    dx.alpha = 1;
    return cuda_multiply(&dx, call->stream);
}

/* A base is trained in f32 only. */
static const char *multiply_dw(const ck_head *d, const cuda_call *call, const head_workspace *work,
                               int64_t first, int64_t rows) {
    cuda_product dw = {};
    dw.m = d->vocabulary, dw.n = d->width, dw.k = rows;
    dw.a = work->logits, dw.lda = work->stride, dw.turn_a = true;
    dw.b = static_cast<const float *>(d->x->data) + first * d->x->columns, dw.ldb = d->x->columns;
    dw.out = call->base_gradients + d->weight_gradient, dw.ld_out = d->width;
    dw.add = dw.out, dw.ld_add = d->width;
    dw.alpha = 1, dw.beta = first == 0 ? 0.0f : 1.0f;
    return cuda_multiply(&dw, call->stream);
}

template <typename T>
static const char *head_as(const ck_head *d, const cuda_call *call, head_workspace work) {
    bool gradient = d->mode != CK_HEAD_EVALUATE;
    const char *problem = nullptr;
    for (int64_t first = 0; first < call->wave.n_tokens && !problem; first += work.rows) {
        int64_t left = call->wave.n_tokens - first, rows = left < work.rows ? left : work.rows;
        problem = multiply_logits<T>(d, call, &work, first, rows);
        if (!problem) problem = rows_of_chunk<T>(d, call, &work, first, rows, gradient);
        if (!problem && gradient) problem = multiply_dx<T>(d, call, &work, first, rows);
        if (!problem && d->mode == CK_HEAD_PRETRAIN) problem = multiply_dw(d, call, &work, first, rows);
    }
    return problem;
}

const char *cuda_head(const ck_head *d, const cuda_call *call) {
    /* at most the rows that the workspace was planned for */
    head_workspace work = workspace_of(d, call->workspace, chunk_rows(d->vocabulary, call->wave.n_tokens));
    global<float> loss = d->loss;
    const char *problem = call->half ? head_as<bf16>(d, call, work) : head_as<float>(d, call, work);
    if (problem) return problem;
    return CK_LAUNCH(head_sum_kernel, (unsigned)call->wave.n_sequences, 32, 0, call->stream, call->wave, work,
                     loss);
}

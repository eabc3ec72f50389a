/* norm.cu - LayerNorm and RMSNorm: the same with the mean taken as 0, without bias.
 *
 *   y = (x - mean) rstd gain + bias,  rstd = 1 / sqrt(var + epsilon)
 *   with n = (x - mean) rstd and e = dy gain:  dx = rstd (e - mean(e) - n mean(e n)),
 *       RMSNorm without mean(e);  dgain = sum_t dy n, dbias = sum_t dy
 *
 * x, y, dx, dy [T, D] in f32 or bf16, stats [T, 2] (mean, rstd), gain, bias [D] and all sums f32.
 *
 * A warp has a row: 16 bytes a lane, then the next 512 bytes. Rows of up to 2048 columns that begin at
 * multiples of 16 bytes stay in registers and are read once; others are walked again for every sum, from the
 * cache. Sums go over the lanes by a butterfly: a fixed order.
 *
 * dgain and dbias (pre-training): a block sums 32 columns over a slice of the tokens into the workspace,
 * [slices, 2, D]; a second kernel adds the slices in order.
 *
 * Bytes a token: forward reads x, writes y: 4 D in bf16; backward reads x and dy, writes dx: 6 D,
 * accumulating 8 D; with weight gradients x and dy once more. The bound: memory.
 */
#include <math.h>

#include "ops.cuh"
#include "wide.cuh"

enum { WARPS = 4, MOST_SLICES = 64 };

template <typename T> struct norm_op {
    cuda_rows<const T> x;
    cuda_rows<T> y;
    cuda_rows<float> stats;
    global<const float> gain, bias;
    int n_tokens, width;
    float epsilon;
};

template <typename T> struct norm_backward_op {
    cuda_rows<const T> x, dy;
    cuda_rows<T> dx;
    cuda_rows<const float> stats;
    global<const float> gain;
    int n_tokens, width;
    bool accumulate;
};

static __device__ __forceinline__ float warp_sum(float x) {
    CK_UNROLL
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

static __device__ __forceinline__ int own_row() {
    return (int)(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32);
}

static __device__ __forceinline__ int own_column(int piece, int width) {
    return (piece * 32 + (int)(threadIdx.x % 32)) * width;
}

/* v = v rstd gain (+ bias): W columns from `column` on, whose mean is off. */
template <ck_norm_kind KIND, int W, typename Op>
static __device__ __forceinline__ void finish_norm(float v[W], const Op *op, int column, float rstd) {
    float gain[W], bias[W] = {};
    load_wide<W>(gain, op->gain + column);
    if constexpr (KIND == CK_LAYER_NORM) load_wide<W>(bias, op->bias + column);
    CK_UNROLL
    for (int i = 0; i < W; i++) {
        if constexpr (KIND == CK_LAYER_NORM) {
            v[i] = v[i] * rstd * gain[i] + bias[i];
        } else {
            v[i] = v[i] * rstd * gain[i];
        }
    }
}

/* ---- Rows in registers: N pieces of W columns a lane. Columns outside the row are 0. */

template <int W, int N, typename P>
static __device__ __forceinline__ void load_row(float v[N][W], P row, int width) {
    CK_UNROLL
    for (int n = 0; n < N; n++) {
        if (own_column(n, W) < width) {
            load_wide<W>(v[n], row + own_column(n, W));
        } else {
            CK_UNROLL
            for (int i = 0; i < W; i++) v[n][i] = 0;
        }
    }
}

template <typename T, ck_norm_kind KIND, int W, int N>
static __global__ void __launch_bounds__(32 * WARPS) norm_kernel(norm_op<T> op) {
    int row = own_row();
    if (row >= op.n_tokens) return;
    float v[N][W], mean = 0, square = 0;
    load_row<W, N>(v, op.x.data + row * op.x.columns, op.width);
    if constexpr (KIND == CK_LAYER_NORM) {
        float sum = 0;
        CK_UNROLL
        for (int i = 0; i < N * W; i++) sum += v[i / W][i % W];
        mean = warp_sum(sum) / (float)op.width;
    }
    CK_UNROLL
    for (int n = 0; n < N; n++) {
        if (own_column(n, W) >= op.width) continue;
        CK_UNROLL
        for (int i = 0; i < W; i++) {
            v[n][i] -= mean;
            square += v[n][i] * v[n][i];
        }
    }
    float rstd = 1.0f / sqrtf(warp_sum(square) / (float)op.width + op.epsilon);
    CK_UNROLL
    for (int n = 0; n < N; n++) {
        int column = own_column(n, W);
        if (column >= op.width) continue;
        finish_norm<KIND, W>(v[n], &op, column, rstd);
        store_wide<W>(op.y.data + (row * op.y.columns + column), v[n]);
    }
    if (threadIdx.x % 32 < 2)
        op.stats.data[row * op.stats.columns + threadIdx.x % 32] = threadIdx.x % 32 == 0 ? mean : rstd;
}

/* dx of W columns, from what the whole row has in common: shift = mean(e), slope = rstd mean(e n). */
template <typename T, int W>
static __device__ __forceinline__ void store_gradient(const norm_backward_op<T> *op, int64_t row, int column,
                                                      const float centred[W], const float e[W], float rstd,
                                                      float shift, float slope) {
    global<T> at = op->dx.data + (row * op->dx.columns + column);
    float dx[W], before[W];
    CK_UNROLL
    for (int i = 0; i < W; i++) dx[i] = rstd * (e[i] - shift - centred[i] * slope);
    if (op->accumulate) {
        load_wide<W>(before, global<const T>(at));
        CK_UNROLL
        for (int i = 0; i < W; i++) dx[i] += before[i];
    }
    store_wide<W>(at, dx);
}

/* v: a part of a row of x, e: of dy; on return x - mean and e. */
template <int W>
static __device__ __forceinline__ void add_products(float v[W], float e[W], global<const float> gain,
                                                    float mean, float *sum, float *product) {
    float factor[W];
    load_wide<W>(factor, gain);
    CK_UNROLL
    for (int i = 0; i < W; i++) {
        v[i] -= mean;
        e[i] *= factor[i];
        *sum += e[i];
        *product += e[i] * v[i];
    }
}

/* mean(e), which RMSNorm's backward does without. */
template <ck_norm_kind KIND> static __device__ __forceinline__ float shift_of(float sum, int width) {
    return KIND == CK_LAYER_NORM ? warp_sum(sum) / (float)width : 0.0f;
}

template <typename T, ck_norm_kind KIND, int W, int N>
static __global__ void __launch_bounds__(32 * WARPS) norm_backward_kernel(norm_backward_op<T> op) {
    int row = own_row();
    if (row >= op.n_tokens) return;
    float v[N][W], e[N][W], sum = 0, product = 0;
    float mean = op.stats.data[row * op.stats.columns], rstd = op.stats.data[row * op.stats.columns + 1];
    load_row<W, N>(v, op.x.data + row * op.x.columns, op.width);
    load_row<W, N>(e, op.dy.data + row * op.dy.columns, op.width);
    CK_UNROLL
    for (int n = 0; n < N; n++) {
        if (own_column(n, W) < op.width)
            add_products<W>(v[n], e[n], op.gain + own_column(n, W), mean, &sum, &product);
    }
    float shift = shift_of<KIND>(sum, op.width), slope = warp_sum(product) * rstd * rstd / (float)op.width;
    CK_UNROLL
    for (int n = 0; n < N; n++) {
        if (own_column(n, W) < op.width)
            store_gradient<T, W>(&op, row, own_column(n, W), v[n], e[n], rstd, shift, slope);
    }
}

/* ---- Rows that are walked */

template <typename T, ck_norm_kind KIND, int W>
static __global__ void __launch_bounds__(32 * WARPS) norm_walk_kernel(norm_op<T> op) {
    int row = own_row();
    if (row >= op.n_tokens) return;
    global<const T> x = op.x.data + row * op.x.columns;
    float v[W], mean = 0, square = 0;
    if constexpr (KIND == CK_LAYER_NORM) {
        float sum = 0;
        for (int n = 0; own_column(n, W) < op.width; n++) {
            load_wide<W>(v, x + own_column(n, W));
            CK_UNROLL
            for (int i = 0; i < W; i++) sum += v[i];
        }
        mean = warp_sum(sum) / (float)op.width;
    }
    for (int n = 0; own_column(n, W) < op.width; n++) {
        load_wide<W>(v, x + own_column(n, W));
        CK_UNROLL
        for (int i = 0; i < W; i++) square += (v[i] - mean) * (v[i] - mean);
    }
    float rstd = 1.0f / sqrtf(warp_sum(square) / (float)op.width + op.epsilon);
    for (int n = 0; own_column(n, W) < op.width; n++) {
        int column = own_column(n, W);
        load_wide<W>(v, x + column);
        CK_UNROLL
        for (int i = 0; i < W; i++) v[i] -= mean;
        finish_norm<KIND, W>(v, &op, column, rstd);
        store_wide<W>(op.y.data + (row * op.y.columns + column), v);
    }
    if (threadIdx.x % 32 < 2)
        op.stats.data[row * op.stats.columns + threadIdx.x % 32] = threadIdx.x % 32 == 0 ? mean : rstd;
}

template <typename T, ck_norm_kind KIND, int W>
static __global__ void __launch_bounds__(32 * WARPS) norm_backward_walk_kernel(norm_backward_op<T> op) {
    int row = own_row();
    if (row >= op.n_tokens) return;
    global<const T> x = op.x.data + row * op.x.columns, dy = op.dy.data + row * op.dy.columns;
    float mean = op.stats.data[row * op.stats.columns], rstd = op.stats.data[row * op.stats.columns + 1];
    float v[W], e[W], sum = 0, product = 0, ignored = 0;
    for (int n = 0; own_column(n, W) < op.width; n++) {
        load_wide<W>(v, x + own_column(n, W));
        load_wide<W>(e, dy + own_column(n, W));
        add_products<W>(v, e, op.gain + own_column(n, W), mean, &sum, &product);
    }
    float shift = shift_of<KIND>(sum, op.width), slope = warp_sum(product) * rstd * rstd / (float)op.width;
    for (int n = 0; own_column(n, W) < op.width; n++) {
        load_wide<W>(v, x + own_column(n, W));
        load_wide<W>(e, dy + own_column(n, W));
        add_products<W>(v, e, op.gain + own_column(n, W), mean, &ignored, &ignored);
        store_gradient<T, W>(&op, row, own_column(n, W), v, e, rstd, shift, slope);
    }
}

/* ---- dgain and dbias */

/* Grid: 32 columns, slices. Warp w has every WARPS-th token of the slice from w on, lane l column l. parts
 * [slices, 2, D]. */
template <typename T>
static __global__ void __launch_bounds__(32 * WARPS)
    norm_parts_kernel(norm_backward_op<T> op, global<float> parts, int slice_tokens) {
    CK_SHARED(float2, sums, WARPS * 32);
    int warp = (int)threadIdx.x / 32, column = (int)(blockIdx.x * 32 + threadIdx.x % 32),
        first = (int)blockIdx.y * slice_tokens;
    int end = op.n_tokens - first < slice_tokens ? op.n_tokens : first + slice_tokens;
    float2 sum = make_float2(0, 0);
    for (int64_t row = first + warp; row < end && column < op.width; row += WARPS) {
        float dy = load_one(op.dy.data + (row * op.dy.columns + column)),
              x = load_one(op.x.data + (row * op.x.columns + column));
        sum.x += dy * (x - op.stats.data[row * op.stats.columns]) * op.stats.data[row * op.stats.columns + 1];
        sum.y += dy;
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (warp > 0 || column >= op.width) return;
    for (int w = 1; w < WARPS; w++) {
        float2 other = sums[w * 32 + threadIdx.x];
        sum.x += other.x;
        sum.y += other.y;
    }
    parts[(2 * (int64_t)blockIdx.y) * op.width + column] = sum.x;
    parts[(2 * (int64_t)blockIdx.y + 1) * op.width + column] = sum.y;
}

/* Grid: columns; y: 0 = dgain, 1 = dbias, where there is a bias. */
static __global__ void __launch_bounds__(128)
    norm_sum_kernel(global<const float> parts, int slices, int width, global<float> dgain,
                    global<float> dbias) {
    int column = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    float sum = 0;
    if (column >= width) return;
    for (int s = 0; s < slices; s++) sum += parts[(2 * (int64_t)s + blockIdx.y) * width + column];
    (blockIdx.y == 0 ? dgain : dbias)[column] = sum;
}

/* ---- Host: how wide, and whether a row fits the registers */

static dim3 norm_grid(int n_tokens) {
    return dim3((unsigned)((n_tokens + WARPS - 1) / WARPS));
}

template <ck_norm_kind KIND, int N, typename T>
static const char *launch_held(const norm_op<T> &op, gpu_stream stream) {
    return CK_LAUNCH((norm_kernel<T, KIND, wide_elements<T>(), N>), norm_grid(op.n_tokens), dim3(32 * WARPS),
                     0, stream, op);
}
template <ck_norm_kind KIND, int N, typename T>
static const char *launch_held(const norm_backward_op<T> &op, gpu_stream stream) {
    return CK_LAUNCH((norm_backward_kernel<T, KIND, wide_elements<T>(), N>), norm_grid(op.n_tokens),
                     dim3(32 * WARPS), 0, stream, op);
}
template <ck_norm_kind KIND, int W, typename T>
static const char *launch_walk(const norm_op<T> &op, gpu_stream stream) {
    return CK_LAUNCH((norm_walk_kernel<T, KIND, W>), norm_grid(op.n_tokens), dim3(32 * WARPS), 0, stream, op);
}
template <ck_norm_kind KIND, int W, typename T>
static const char *launch_walk(const norm_backward_op<T> &op, gpu_stream stream) {
    return CK_LAUNCH((norm_backward_walk_kernel<T, KIND, W>), norm_grid(op.n_tokens), dim3(32 * WARPS), 0,
                     stream, op);
}

template <typename T, ck_norm_kind KIND, typename Op>
static const char *launch_kind(const Op &op, bool wide, gpu_stream stream) {
    constexpr int W = wide_elements<T>();
    if (!wide || op.width % W != 0) return launch_walk<KIND, 1>(op, stream);
    if (op.width <= 256) return launch_held<KIND, 8 / W>(op, stream);
    if (op.width <= 512) return launch_held<KIND, 16 / W>(op, stream);
    if (op.width <= 768) return launch_held<KIND, 24 / W>(op, stream);
    if (op.width <= 1024) return launch_held<KIND, 32 / W>(op, stream);
    if (op.width <= 2048) return launch_held<KIND, 64 / W>(op, stream);
    return launch_walk<KIND, W>(op, stream);
}

template <typename T, typename Op>
static const char *launch(ck_norm_kind kind, const Op &op, bool wide, gpu_stream stream) {
    return kind == CK_RMS_NORM ? launch_kind<T, CK_RMS_NORM>(op, wide, stream)
                               : launch_kind<T, CK_LAYER_NORM>(op, wide, stream);
}

template <typename T> static const char *forward(const ck_norm *d, const cuda_call *call) {
    norm_op<T> op = {cuda_rows_of<const T>(d->x),
                     cuda_rows_of<T>(d->y),
                     cuda_rows_of<float>(d->stats),
                     d->gain,
                     d->bias,
                     call->wave.n_tokens,
                     d->width,
                     d->epsilon};
    bool wide = cuda_is_wide<T>(d->x) && cuda_is_wide<T>(d->y) && cuda_is_wide(d->gain, 0) &&
                cuda_is_wide(d->bias, 0);
    return launch<T>(d->kind, op, wide, call->stream);
}

CUDA_NO_WORKSPACE(norm)

const char *cuda_norm(const ck_norm *d, const cuda_call *call) {
    return call->half ? forward<bf16>(d, call) : forward<float>(d, call);
}

static int slice_tokens_of(int64_t n_tokens) {
    int64_t tokens = (n_tokens + MOST_SLICES - 1) / MOST_SLICES;
    return (int)(tokens > cuda_limits.slice_tokens ? tokens : cuda_limits.slice_tokens);
}

static int slices_of(int64_t n_tokens) {
    int tokens = slice_tokens_of(n_tokens);
    return (int)((n_tokens + tokens - 1) / tokens);
}

template <typename T>
static const char *weight_gradients(const ck_norm_backward *d, const norm_backward_op<T> &op,
                                    const cuda_call *call) {
    float *parts = static_cast<float *>(call->workspace);
    int slices = slices_of(op.n_tokens);
    bool biased = d->bias_gradient >= 0;
    dim3 part_grid((unsigned)(op.width + 31) / 32, (unsigned)slices),
        sum_grid((unsigned)(op.width + 127) / 128, biased ? 2 : 1);
    const char *problem = CK_LAUNCH(norm_parts_kernel<T>, part_grid, dim3(32 * WARPS), 0, call->stream, op,
                                    parts, slice_tokens_of(op.n_tokens));
    if (problem) return problem;
    return CK_LAUNCH(norm_sum_kernel, sum_grid, dim3(128), 0, call->stream, parts, slices, op.width,
                     call->base_gradients + d->gain_gradient,
                     biased ? call->base_gradients + d->bias_gradient : nullptr);
}

template <typename T> static const char *backward(const ck_norm_backward *d, const cuda_call *call) {
    norm_backward_op<T> op = {cuda_rows_of<const T>(d->x),
                              cuda_rows_of<const T>(d->dy),
                              cuda_rows_of<T>(d->dx),
                              cuda_rows_of<const float>(d->stats),
                              d->gain,
                              call->wave.n_tokens,
                              d->width,
                              d->accumulate};
    bool wide =
        cuda_is_wide<T>(d->x) && cuda_is_wide<T>(d->dy) && cuda_is_wide<T>(d->dx) && cuda_is_wide(d->gain, 0);
    if (d->gain_gradient >= 0 && call->base_gradients) {
        const char *problem = weight_gradients(d, op, call);
        if (problem) return problem;
    }
    return launch<T>(d->kind, op, wide, call->stream);
}

size_t cuda_norm_backward_workspace(const ck_norm_backward *d, const cuda_bounds *bounds) {
    if (d->gain_gradient < 0) return 0;
    int64_t slices = bounds->max_tokens < MOST_SLICES * cuda_limits.slice_tokens
                         ? slices_of(bounds->max_tokens)
                         : (int64_t)MOST_SLICES;
    return (size_t)slices * 2 * (size_t)d->width * sizeof(float);
}

const char *cuda_norm_backward(const ck_norm_backward *d, const cuda_call *call) {
    return call->half ? backward<bf16>(d, call) : backward<float>(d, call);
}

/* one_pass.cuh - the two products of a backward pass that read dy, in one pass over it: q = dy W^T and dW =
 * a^T dy.
 *
 * For devices with many tokens and few ranks, up to 16, and one more row for q (segmented.cuh's `extra`). A
 * block walks a chunk of the wave's tiles over all columns, 32 tokens at a time: a warp owns up to 3 groups
 * of 8 W columns (W = 16 bytes of dy), holds dW of them in registers, and reads its part of dy twice, down
 * the rows for dW and along them for q, the second time from the first cache. q of the 32 tokens is summed
 * over the warps and handed to the sink, finish_ranks(). dW as in gram.cuh.
 *
 * Bytes a token: dy once, 4 S for a; and the parts of dW, 4 S D a chunk that cuts a device. */
#ifndef COHORT_KERNELS_CUDA_ONE_PASS_CUH
#define COHORT_KERNELS_CUDA_ONE_PASS_CUH

#include "gram.cuh"

enum { ONE_PASS_TOKENS = 32, ONE_PASS_STRIDE = 48, ONE_PASS_RANKS = 16 };
enum { ONE_PASS_GROUPS = 3 }; /* what the registers hold, with ONE_PASS_MOST_WARPS */

template <typename T, typename Source, typename Sink> struct one_pass {
    gram_target to;
    Source a;
    cuda_rows<const T> dy;
    global<const float> extra; /* row of q behind the ranks, for devices whose mix is MLP; or NULL */
    Sink sink;
};

static inline __device__ __host__ int one_pass_floats(int n, int warps) {
    return 16 * ONE_PASS_STRIDE + shrink_floats(2, n, warps) +
           ONE_PASS_TOKENS * (rank_stride(8 * n) + CK_MAX_EXPERTS);
}

/* One group's part of dW. Of up to 8 ranks the upper half of the sums is 0: no register need hold it between
 * the calls. */
template <typename T, int N>
static __device__ __forceinline__ void add_to_gram(float d[1][access<T>::COUNT][4], shared<const float> a,
                                                   int tokens, global<const T> dy, int64_t stride,
                                                   int columns) {
    add_product<T, 1, true>(d, a, ONE_PASS_STRIDE, tokens, dy, stride, columns);
    CK_UNROLL
    for (int j = 0; j < access<T>::COUNT && N == 1; j++) d[0][j][2] = d[0][j][3] = 0.0f;
}

template <typename T, int N, typename Source, typename Sink>
static __device__ __forceinline__ void one_pass_segment(const one_pass<T, Source, Sink> *op,
                                                        shared<float> arena, const segment *s) {
    const int W = access<T>::COUNT, G = ONE_PASS_GROUPS, stride = rank_stride(8 * N);
    int warps = (int)blockDim.x / 32, sum_floats = shrink_floats(2, N, warps);
    shared<float> a = part(arena, 16 * ONE_PASS_STRIDE),
                  sums = part(arena + 16 * ONE_PASS_STRIDE, sum_floats);
    shared<float> raw = part(arena + (16 * ONE_PASS_STRIDE + sum_floats), ONE_PASS_TOKENS * stride);
    shared<float> spare = part(arena + (16 * ONE_PASS_STRIDE + sum_floats + ONE_PASS_TOKENS * stride),
                               ONE_PASS_TOKENS * CK_MAX_EXPERTS);
    const cuda_device *device = record(op->to.wave.devices + s->device);
    const ck_shape *shape = record(op->to.wave.shapes + device->shape);
    gram_view v = gram_view_of(&op->to, device, shape, 16);
    rank_rows rows = {op->to.wave.parameters + (device->parameters + v.weight.offset), nullptr,
                      v.weight.ranks, v.weight.columns};
    if (shape->mix == CK_MIX_MLP) rows.extra = op->extra;
    if (count_rows(&rows) == 0 && !finishes_without_ranks(op->sink)) return;
    bool learns = v.first < v.end;
    float d[G][1][W][4] = {};
    for (int at = 0; at < s->rows; at += ONE_PASS_TOKENS) {
        segment now = {s->token + at, s->rows - at < ONE_PASS_TOKENS ? s->rows - at : (int)ONE_PASS_TOKENS,
                       s->device, 0};
        float q[2][N][4] = {};
        __syncthreads(); /* the last tokens' a and raw have been read */
        if (learns) stage_ranks(a, 1, ONE_PASS_STRIDE, op->a, shape, now.token, now.rows, 0, rows.ranks);
        __syncthreads();
        CK_UNROLL
        for (int i = 0; i < G; i++) {
            int column = gram_column(i, G, 8 * W), left = rows.columns - column;
            if (left <= 0) continue;
            if (learns)
                add_to_gram<T, N>(d[i], a, now.rows, op->dy.data + (now.token * op->dy.columns + column),
                                  op->dy.columns, left);
            shrink_columns<T, 2, N, true>(q, &now, op->dy, &rows, 0, column,
                                          column + (left < 8 * W ? left : 8 * W), 1);
        }
        shrink_sum<2, N>(raw, stride, 8 * N, sums, q);
        finish_ranks(op->sink, shape, &now, raw, stride, 0, 8 * N, count_rows(&rows), spare);
    }
    if (learns) write_gram<1, G, W, true>(&op->to, &v, device, s, d);
}

/* Grid: chunks. */
template <typename T, int N, typename Source, typename Sink>
static __global__ void __launch_bounds__(32 * ONE_PASS_MOST_WARPS, 1)
    one_pass_kernel(one_pass<T, Source, Sink> op) {
    CK_DYNAMIC_SHARED(float, arena);
    int tile = (int)blockIdx.x * op.to.chunk,
        end = tile + op.to.chunk < op.to.wave.n_tiles ? tile + op.to.chunk : op.to.wave.n_tiles;
    for (segment s; (s = segment_at(&op.to.wave, tile, end)).tiles > 0; tile += s.tiles)
        one_pass_segment<T, N>(&op, arena, &s);
}

/* ---- Host */

static inline int one_pass_warps_for(int64_t columns, size_t element_bytes) {
    int64_t own = ONE_PASS_GROUPS * 8 * (int64_t)(16 / element_bytes);
    return (int)((columns + own - 1) / own);
}

static inline bool one_pass_fits(const cuda_wave *wave, int ranks, int64_t columns, size_t element_bytes) {
    if (segment_tiles(wave) == 1 || ranks > ONE_PASS_RANKS) return false;
    return one_pass_warps_for(columns, element_bytes) <= ONE_PASS_MOST_WARPS;
}

/* Bytes for any wave of up to n_tiles, ranks and columns. */
static inline size_t one_pass_workspace(int64_t n_tiles, size_t element_bytes) {
    if (n_tiles < cuda_limits.segment_tiles) return 0;
    return (size_t)(2 * (cuda_limits.one_pass_warps + ONE_PASS_MOST_WARPS) * 32 * 4 * ONE_PASS_GROUPS) *
           (16 / element_bytes) * sizeof(float);
}

template <int N, typename T, typename Source, typename Sink>
static const char *launch_one_pass_form(const one_pass<T, Source, Sink> &op, int warps, gpu_stream stream) {
    dim3 grid((unsigned)((op.to.wave.n_tiles + op.to.chunk - 1) / op.to.chunk)), block((unsigned)warps * 32);
    size_t bytes = (size_t)one_pass_floats(N, warps) * sizeof(float);
    const char *problem = CK_LAUNCH((one_pass_kernel<T, N, Source, Sink>), grid, block, bytes, stream, op);
    if (problem || !op.to.wave.gradients) return problem;
    return CK_LAUNCH((gram_sum_kernel<1, ONE_PASS_GROUPS, access<T>::COUNT, true>), grid, block, 0, stream,
                     op.to);
}

/* op.to.chunk is filled in. rows: of q, ranks and, where there is one, the extra row. */
template <typename T, typename Source, typename Sink>
static const char *launch_one_pass(one_pass<T, Source, Sink> op, int rows, int64_t columns,
                                   gpu_stream stream) {
    int warps = one_pass_warps_for(columns, sizeof(T)), blocks = (int)(cuda_limits.one_pass_warps / warps);
    op.to.chunk = (op.to.wave.n_tiles + blocks - 1) / blocks;
    return rows <= 8 ? launch_one_pass_form<1>(op, warps, stream)
                     : launch_one_pass_form<3>(op, warps, stream);
}

#endif

/* segmented.cuh - low-rank products over the tokens of a wave's devices, each device with weights of its own.
 *
 *   shrink  out [t, S] = x [t, D] W^T        expand  y [t, D] (+)= a [t, S] W        gram  dW [S, D] = a^T x
 *
 * W [S, D] f32, one row per rank; x, y [tokens, D] of type T; a, out f32. Products are of factors rounded to
 * T (f32: split tf32), sums f32.
 *
 * A block is four warps and works on a segment: up to 16 M tokens of one device, consecutive tiles of the
 * wave's list.
 *   shrink  The warps share the columns of x, 16 bytes of a row to a lane, and hold [16 M, 8 N]
 *           sums each; these are added through shared memory, in the order of the warps. x and W go straight
 *           from memory to registers: x is read once per 8 N ranks.
 *   expand  a lies in shared memory; a warp makes 32 columns of y at a time. y is read and written once, W
 *           read once per 16 M tokens.
 *   gram    (gram.cuh) A block owns 16 R ranks and 4 warps' columns of a chunk of tiles. A device that lies
 *           in one chunk is written at once; the parts of one that lies in several go to the workspace, and a
 *           second kernel adds them in the order of the chunks.
 *
 * The summed index of a matrix instruction may be permuted as long as both factors are, and so may the
 * columns of its result. So a lane's share of every row is one access of 16 bytes: the four values that it
 * owes an instruction are neighbours in memory (quad.cuh), and where the summed index runs down the rows, its
 * W columns are those of W instructions.
 *
 * Bytes a token: shrink sizeof(T) D + 4 S, expand 2 sizeof(T) D + 4 S (1 where y begins here and has no
 * residual), gram sizeof(T) D + 4 S, and 4 S D a device each. Rows of W are read from L2 once per segment: 4
 * S D / (16 M) bytes a token, half of x's at S = 16, M = 4, bf16.
 *
 * wide: every row begins at a multiple of 16 bytes and D at a multiple of 8, so that a lane's share lies in
 * the row or outside as a whole. Packs of parameters and gradients begin at multiples of CK_ALIGN_FLOATS. */
#ifndef COHORT_KERNELS_CUDA_SEGMENTED_CUH
#define COHORT_KERNELS_CUDA_SEGMENTED_CUH

#include "ops.cuh"
#include "quad.cuh"

enum { SEGMENT_WARPS = 4, SEGMENT_LANES = 32 * SEGMENT_WARPS };

/* ---- Segments */

typedef struct {
    int64_t token; /* its first */
    int rows, device, tiles;
} segment;

/* The tiles from `tile` on, before `end`, that belong to one device; none at the padding behind the last. */
static __device__ __forceinline__ segment segment_at(const cuda_wave *wave, int tile, int end) {
    segment s = {0, 0, -1, 0};
    for (; tile + s.tiles < end; s.tiles++) {
        const cuda_tile *entry = record(wave->tiles + (tile + s.tiles));
        if (entry->rows == 0 || (s.tiles > 0 && entry->device != s.device)) break;
        if (s.tiles == 0) s.token = entry->first_token, s.device = entry->device;
        s.rows += entry->rows;
    }
    return s;
}

/* Tiles that a block takes, the M of the kernels: 4 where that leaves blocks enough to fill a large GPU and
 * devices have several tiles each, else 1. */
static inline int segment_tiles(const cuda_wave *wave) {
    return wave->n_tiles >= cuda_limits.segment_tiles && wave->n_tiles / 2 >= wave->n_devices ? 4 : 1;
}

/* ---- The weights of a device that have one row per rank */

typedef struct {
    int64_t offset, gradient; /* in a pack, and in its gradients, of this layer */
    int ranks, columns;
} rank_weight;

/* What a layer adds to a part that all layers share lies behind the pack of gradients. */
static __device__ __forceinline__ rank_weight rank_weight_of(const ck_shape *s, int block, int layer) {
    const ck_block *at = &s->block[block];
    bool tied = block >= CK_BLOCK_TIED;
    int64_t offset = (tied ? 0 : layer * s->layer_stride) + at->offset;
    rank_weight w = {offset, tied ? s->total + layer * s->tied_floats + at->offset - s->tied : offset,
                     at->rows, at->columns};
    return w;
}

/* ---- Few tokens: weights of experts that no token has chosen are not read */

/* The experts that a token of a segment of one tile has chosen, a bit each; the same for all lanes of a warp.
 */
static __device__ __forceinline__ uint32_t chosen_experts(const cuda_rows<const float> &gates,
                                                          const segment *s) {
    int row = (int)(threadIdx.x % CUDA_TILE),
        first = (int)(threadIdx.x % 32) / CUDA_TILE * (CK_MAX_EXPERTS / 2);
    uint32_t chosen = 0;
    for (int i = 0; i < CK_MAX_EXPERTS / 2 && row < s->rows; i++) {
        chosen |= (uint32_t)(gates.data[(s->token + row) * gates.columns + first + i] != 0.0f) << (first + i);
    }
    CK_UNROLL
    for (int step = 16; step > 0; step /= 2) chosen |= __shfl_xor_sync(0xffffffffu, chosen, step);
    return chosen;
}

/* Of the 32 pieces of `size` ranks from `first` on, those with a rank of such an expert, or behind the last:
 * a bit each. */
static __device__ __forceinline__ uint32_t wanted_pieces(const ck_shape *shape, uint32_t experts, int first,
                                                         int size) {
    int begin = first + size * (int)(threadIdx.x % 32), end = begin + size;
    bool wanted = end > shape->rank_sum;
    for (int e = 0; e < shape->n_experts; e++) {
        wanted |= (experts >> e & 1) && shape->rank_first[e] < end && shape->rank_first[e + 1] > begin;
    }
    return __ballot_sync(0xffffffffu, wanted);
}

/* ---- Shrink */

typedef struct {
    global<const float> weight; /* [ranks, columns] */
    global<const float> extra;  /* [columns]: one more row behind them, or NULL */
    int ranks, columns;
} rank_rows;

static __device__ __forceinline__ int count_rows(const rank_rows *w) {
    return w->ranks + (w->extra ? 1 : 0);
}

/* From a row of factors in shared memory to the next, where a row is read four values a lane: lanes meet
 * different banks. */
static inline __device__ __host__ int rank_stride(int ranks) {
    int whole = (ranks + 15) / 16 * 16;
    return whole % 32 == 0 ? whole + 16 : whole;
}

/* d += x W^T over columns [begin, end), or each `step`-th 16 Q of them, for the ranks from `first` on; Q
 * quads in 16 bytes of T. Rows of every eighth ranks n whose bit of `wanted` is 0 count as zeros. */
template <typename T, int M, int N, bool wide>
static __device__ __forceinline__ void
shrink_columns(float d[M][N][4], const segment *s, const cuda_rows<const T> &x, const rank_rows *w, int first,
               int begin, int end, int step, uint32_t wanted = ~0u) {
    const int Q = access<T>::QUADS;
    int g = fragment_g(), ranks = count_rows(w) - first;
    for (; begin < end; begin += 16 * Q * step) {
        int column = begin + 4 * Q * fragment_t(), valid = w->columns - column;
        quad<T> low[M][Q], high[M][Q], b[N][Q];
        CK_UNROLL
        for (int m = 0; m < M; m++) {
            int row = 16 * m + g;
            global<const T> at = x.data + ((s->token + row) * x.columns + column);
            load_quads<wide, T>(low[m], at, row < s->rows ? valid : 0);
            load_quads<wide, T>(high[m], at + 8 * x.columns, row + 8 < s->rows ? valid : 0);
        }
        CK_UNROLL
        for (int n = 0; n < N; n++) {
            int rank = first + 8 * n + g;
            global<const float> row = rank < w->ranks ? w->weight + (int64_t)rank * w->columns : w->extra;
            load_quads<wide, T>(b[n], row + column, 8 * n + g < ranks && (wanted >> n & 1) ? valid : 0);
        }
        CK_UNROLL
        for (int n = 0; n < N; n++) {
            if (8 * n >= ranks || !(wanted >> n & 1)) continue;
            CK_UNROLL
            for (int i = 0; i < M * Q; i++)
                mma_quads(d[i / Q][n], low[i / Q][i % Q], high[i / Q][i % Q], b[n][i % Q]);
        }
    }
}

/* Floats of shared memory that shrink_sum() adds through. */
static inline __device__ __host__ int shrink_floats(int m, int n, int warps = SEGMENT_WARPS) {
    return warps * m * n * 128;
}

/* result[row, 0 .. 8 N) = the sum of the warps' d, columns from `limit` on left out. Begins and ends in step
 * with all lanes of the block.
 */
template <int M, int N>
static __device__ __forceinline__ void shrink_sum(shared<float> result, int stride, int limit,
                                                  shared<float> sums, const float d[M][N][4]) {
    CK_UNROLL
    for (int i = 0; i < M * N; i++) {
        const float *c = d[i / N][i % N];
        store_as(sums + 4 * ((int)(threadIdx.x / 32 * M * N + i) * 32 + (int)(threadIdx.x % 32)),
                 make_float4(c[0], c[1], c[2], c[3]));
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < M * N * 32; i += (int)blockDim.x) {
        float4 sum = load_as<float4>(sums + 4 * i);
        for (int warp = 1; warp < (int)blockDim.x / 32; warp++) {
            float4 more = load_as<float4>(sums + 4 * (warp * M * N * 32 + i));
            sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
        }
        int row = i / 32 / N * 16 + i % 32 / 4, rank = i / 32 % N * 8 + i % 4 * 2;
        if (rank >= limit) continue;
        store_as(result + (row * stride + rank), make_float2(sum.x, sum.y));
        store_as(result + ((row + 8) * stride + rank), make_float2(sum.z, sum.w));
    }
    __syncthreads();
}

/* result[row, 0 .. 8 N) = x W^T of the segment's rows for the ranks from `first` on; 0 beyond either's end.
 */
template <typename T, int M, int N, bool wide>
static __device__ __forceinline__ void shrink(shared<float> result, int stride, int limit, shared<float> sums,
                                              const segment *s, const cuda_rows<const T> &x,
                                              const rank_rows *w, int first, uint32_t wanted = ~0u) {
    float d[M][N][4] = {};
    shrink_columns<T, M, N, wide>(d, s, x, w, first, (int)(threadIdx.x / 32) * 16 * access<T>::QUADS,
                                  w->columns, SEGMENT_WARPS, wanted);
    shrink_sum<M, N>(result, stride, limit, sums, d);
}

/* ---- Products whose summed index runs down the rows of a matrix in memory */

/* d += a b: a [16 M, depth] in shared memory, 0 up to the next multiple of 16; b the rows [depth, columns] of
 * type V. d[m][j] holds columns W n + j of n = 0 .. 7, W = 16 / sizeof(V). some: only the sixteens of the
 * depth whose bits in `wanted` are 1. */
template <typename T, int M, bool wide, bool some = false, typename V>
static __device__ __forceinline__ void add_product(float d[M][access<V>::COUNT][4], shared<const float> a,
                                                   int stride, int depth, global<const V> b, int64_t b_stride,
                                                   int columns, uint32_t wanted = 0) {
    const int W = access<V>::COUNT;
    int g = fragment_g(), t = fragment_t();
    for (int k = 0; k < depth; k += 16) {
        if (some && !(wanted >> k / 16 & 1)) continue;
        float rows[4][W];
        quad<T> low[M], high[M];
        CK_UNROLL
        for (int i = 0; i < 4; i++) {
            int row = k + 4 * t + i;
            load_some<wide, W>(rows[i], b + (row * b_stride + W * g), row < depth ? columns - W * g : 0);
        }
        CK_UNROLL
        for (int m = 0; m < M; m++) {
            float4 x = load_as<float4>(a + ((16 * m + g) * stride + k + 4 * t));
            float4 y = load_as<float4>(a + ((16 * m + g + 8) * stride + k + 4 * t));
            make_quad(&low[m], x.x, x.y, x.z, x.w);
            make_quad(&high[m], y.x, y.y, y.z, y.w);
        }
        CK_UNROLL
        for (int j = 0; j < W; j++) {
            quad<T> column;
            make_quad(&column, rows[0][j], rows[1][j], rows[2][j], rows[3][j]);
            CK_UNROLL
            for (int m = 0; m < M; m++) mma_quads(d[m][j], low[m], high[m], column);
        }
    }
}

/* The lane's neighbouring columns of row g (half 0) or g + 8 of such a result: 2 W of them, from column 2 W t
 * on. */
template <int W>
static __device__ __forceinline__ void neighbours(float v[2 * W], const float d[W][4], int half) {
    CK_UNROLL
    for (int i = 0; i < 2 * W; i++) v[i] = d[i % W][2 * half + i / W];
}

/* ---- Factors in rank space, [tokens, ranks] f32 in memory */

/* The scale of a device's LoRA at a site: the layer's own, or that of all layers. */
typedef struct {
    ck_site site; /* CK_NO_SITE: 1 */
    bool tied;
} lora_scale;

static __device__ __forceinline__ float scale_of(const ck_shape *shape, lora_scale of) {
    if (of.site == CK_NO_SITE) return 1.0f;
    return of.tied ? shape->tied_scale[of.site] : shape->lora_scale[of.site];
}

/* Every value times a scale. */
typedef struct {
    cuda_rows<const float> rows;
    lora_scale scale;
} plain_ranks;

/* s_e w_e g, 0 where w_e is 0. */
typedef struct {
    cuda_rows<const float> g, gates;
} gated_ranks;

static __device__ __forceinline__ float rank_value(const plain_ranks &from, const ck_shape *shape,
                                                   int64_t token, int rank) {
    return scale_of(shape, from.scale) * from.rows.data[token * from.rows.columns + rank];
}
static __device__ __forceinline__ int expert_of(const ck_shape *shape, int rank) {
    int e = 0;
    while (rank >= shape->rank_first[e + 1]) e++;
    return e;
}
static __device__ __forceinline__ float rank_value(const gated_ranks &from, const ck_shape *shape,
                                                   int64_t token, int rank) {
    int e = expert_of(shape, rank);
    float w = from.gates.data[token * from.gates.columns + e];
    return w != 0.0f ? shape->scale[e] * w * from.g.data[token * from.g.columns + rank] : 0.0f;
}

/* Of one tile, the sixteens of ranks that are not 0 for every token. */
static __device__ __forceinline__ uint32_t wanted_ranks(const plain_ranks &, const ck_shape *,
                                                        const segment *) {
    return ~0u;
}
static __device__ __forceinline__ uint32_t wanted_ranks(const gated_ranks &from, const ck_shape *shape,
                                                        const segment *s) {
    return wanted_pieces(shape, chosen_experts(from.gates, s), 0, 16);
}

/* Puts them into shared memory, value (i, j) at a[i token_step + j rank_step], for `tokens` x `ranks` from
 * (token, first) on; 0 up to whole 16s. */
template <typename Source>
static __device__ __forceinline__ void stage_ranks(shared<float> a, int token_step, int rank_step,
                                                   const Source &source, const ck_shape *shape, int64_t token,
                                                   int tokens, int first, int ranks) {
    int all_ranks = (ranks + 15) / 16 * 16, all = (tokens + 15) / 16 * 16 * all_ranks;
    for (int i = (int)threadIdx.x; i < all; i += (int)blockDim.x) {
        int row = i / all_ranks, rank = i % all_ranks;
        float value =
            row < tokens && rank < ranks ? rank_value(source, shape, token + row, first + rank) : 0.0f;
        a[row * token_step + rank * rank_step] = value;
    }
}

/* ---- Expand */

/* What y begins with: itself, or y0 = residual + c bias (cuda_start). */
template <typename T> struct expand_target {
    cuda_rows<T> y;
    bool starts;
    cuda_rows<const T> residual;
    global<const float> bias_factor; /* [tokens], or NULL: 1 */
    global<const float> bias;
};

template <typename T> static expand_target<T> expand_target_of(const ck_tensor *y, const cuda_start *start) {
    expand_target<T> to = {};
    to.y = cuda_rows_of<T>(y);
    to.starts = start != nullptr;
    if (start && start->residual)
        to.residual =
            cuda_rows<const T>{static_cast<const T *>(start->residual->data), start->residual->columns};
    if (start && start->bias_factor) to.bias_factor = static_cast<const float *>(start->bias_factor->data);
    if (start) to.bias = start->bias;
    return to;
}

template <typename T> static bool is_wide_target(const ck_tensor *y, const cuda_start *start) {
    if (start && start->residual && !cuda_is_wide<T>(start->residual)) return false;
    return cuda_is_wide<T>(y) && (!start || cuda_is_wide(start->bias, 0));
}

/* c of each of the segment's rows. */
template <typename T>
static __device__ __forceinline__ void stage_bias_factors(shared<float> factors, const expand_target<T> &to,
                                                          const segment *s) {
    if (!to.bias) return;
    for (int row = (int)threadIdx.x; row < s->rows; row += (int)blockDim.x)
        factors[row] = to.bias_factor ? (float)to.bias_factor[s->token + row] : 1.0f;
}

/* y += v for 8 columns of a token. */
template <bool wide, typename T>
static __device__ __forceinline__ void add_to_row(const expand_target<T> &to, int64_t token, int column,
                                                  int valid, float v[8], float c) {
    global<T> at = to.y.data + (token * to.y.columns + column);
    float before[8];
    if (!to.starts) {
        load_some<wide, 8>(before, global<const T>(at), valid);
        CK_UNROLL
        for (int i = 0; i < 8; i++) v[i] += before[i];
    }
    if (to.starts && to.residual.data) {
        load_some<wide, 8>(before, to.residual.data + (token * to.residual.columns + column), valid);
        CK_UNROLL
        for (int i = 0; i < 8; i++) v[i] += before[i];
    }
    if (to.starts && to.bias) {
        load_some<wide, 8>(before, to.bias + column, valid);
        CK_UNROLL
        for (int i = 0; i < 8; i++) v[i] += c * before[i];
    }
    store_some<wide, 8>(at, v, valid);
}

/* y (+)= a W of the segment's rows; a [16 M, ranks] in shared memory, as stage_ranks() leaves it. Columns are
 * assigned to the warps of all blocks along y of the grid. Of one tile only the sixteens of ranks in
 * `wanted`.
 */
template <typename T, int M, bool wide>
static __device__ __forceinline__ void
expand(const expand_target<T> &to, const segment *s, shared<const float> a, int stride, int ranks,
       global<const float> w, int columns, shared<const float> factors, uint32_t wanted = ~0u) {
    int g = fragment_g(), begin = 32 * ((int)(threadIdx.x / 32) + SEGMENT_WARPS * (int)blockIdx.y);
    for (; begin < columns; begin += 32 * SEGMENT_WARPS * (int)gridDim.y) {
        float d[M][4][4] = {};
        add_product<T, M, wide, M == 1>(d, a, stride, ranks, w + begin, columns, columns - begin, wanted);
        int column = begin + 8 * fragment_t();
        CK_UNROLL
        for (int i = 0; i < 2 * M; i++) {
            int row = 8 * i + g;
            float v[8];
            neighbours<4>(v, d[i / 2], i % 2);
            if (row < s->rows)
                add_to_row<wide>(to, s->token + row, column, columns - column, v,
                                 to.bias ? (float)factors[row] : 1.0f);
        }
    }
}

/* The product alone, of factors that lie in memory; a and its stride in shared memory. */
template <typename T, typename Source> struct expand_op {
    cuda_wave wave;
    Source a;
    expand_target<T> to;
    int weight; /* a block of the pack */
    int layer, stride;
};

/* Grid: M tiles each, parts of the columns. */
template <typename T, int M, bool wide, typename Source>
static __global__ void __launch_bounds__(SEGMENT_LANES, 2) expand_kernel(expand_op<T, Source> op) {
    CK_DYNAMIC_SHARED(float, arena);
    shared<float> a = part(arena, 16 * M * op.stride), factors = part(arena + 16 * M * op.stride, 16 * M);
    int tile = (int)blockIdx.x * M, end = tile + M < op.wave.n_tiles ? tile + M : op.wave.n_tiles;
    for (segment s; (s = segment_at(&op.wave, tile, end)).tiles > 0; tile += s.tiles) {
        const cuda_device *device = record(op.wave.devices + s.device);
        const ck_shape *shape = record(op.wave.shapes + device->shape);
        rank_weight w = rank_weight_of(shape, op.weight, op.layer);
        if (w.ranks == 0 && !op.to.starts) continue;
        __syncthreads(); /* the last segment's factors have been read */
        stage_ranks(a, op.stride, 1, op.a, shape, s.token, s.rows, 0, w.ranks);
        stage_bias_factors(factors, op.to, &s);
        __syncthreads();
        uint32_t wanted = ~0u;
        if constexpr (M == 1) wanted = wanted_ranks(op.a, shape, &s);
        expand<T, M, wide>(op.to, &s, a, op.stride, w.ranks,
                           op.wave.parameters + (device->parameters + w.offset), w.columns, factors, wanted);
    }
}

template <int M, bool wide, typename T, typename Source>
static const char *launch_expand_form(const expand_op<T, Source> &op, int columns, gpu_stream stream) {
    int blocks = (op.wave.n_tiles + M - 1) / M,
        across = (columns + 32 * SEGMENT_WARPS - 1) / (32 * SEGMENT_WARPS);
    /* few tokens: the columns are assigned to several blocks */
    int splits = (int)((cuda_limits.segment_tiles + blocks - 1) / blocks);
    dim3 grid((unsigned)blocks, (unsigned)(splits < across ? splits : across)), block(SEGMENT_LANES);
    size_t bytes = (size_t)(16 * M * (op.stride + 1)) * sizeof(float);
    return CK_LAUNCH((expand_kernel<T, M, wide, Source>), grid, block, bytes, stream, op);
}

/* op.stride is filled in. ranks: the most that a device of the wave has. */
template <typename T, typename Source>
static const char *launch_expand(expand_op<T, Source> op, int ranks, int columns, bool wide,
                                 gpu_stream stream) {
    op.stride = rank_stride(ranks);
    if (!wide) return launch_expand_form<1, false>(op, columns, stream);
    return segment_tiles(&op.wave) == 1 ? launch_expand_form<1, true>(op, columns, stream)
                                        : launch_expand_form<4, true>(op, columns, stream);
}

#endif

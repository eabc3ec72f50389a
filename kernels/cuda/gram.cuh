/* gram.cuh - gradients of weights with one row per rank, of each device over its own tokens: dW [S, D] = a^T
 * x.
 *
 * a [T, S] f32, any source that rank_value() takes (segmented.cuh); x [T, D]. A block owns 16 R ranks and 32
 * W columns (W = 16 bytes of x) of a chunk of the wave's tiles, and walks the chunk device by device. A
 * device that lies in one chunk is written at once. Of one that lies in several each block leaves its part in
 * the workspace, and the block that the device begins in adds them in the order of the chunks in a second
 * launch: the same bits every time, however many tokens a device has.
 *
 * Bytes: x once per 16 R ranks, S D f32 a device written; a part of 64 R W columns is written and read once
 * per chunk that cuts a device. Shared memory: 80 floats for each of 16 R ranks, of 64 tokens. */
#ifndef COHORT_KERNELS_CUDA_GRAM_CUH
#define COHORT_KERNELS_CUDA_GRAM_CUH

#include "segmented.cuh"

enum { GRAM_TOKENS = 64, GRAM_STRIDE = 80 };

/* Where it goes. A block holds 16 R ranks and, of each of its warps, G groups of 8 W columns. */
typedef struct {
    cuda_wave wave;
    int weight;       /* a block of the pack */
    int layer, chunk; /* tiles */
    global<float> parts;
} gram_target;

typedef struct {
    rank_weight weight;
    global<float> gradient;
    int first, end; /* the block's ranks; none where this device does not learn */
} gram_view;

static __device__ __forceinline__ gram_view gram_view_of(const gram_target *to, const cuda_device *device,
                                                         const ck_shape *shape, int ranks) {
    gram_view v;
    v.weight = rank_weight_of(shape, to->weight, to->layer);
    v.gradient = to->wave.gradients + (device->gradients + v.weight.gradient);
    v.first = (int)blockIdx.z * ranks;
    v.end = device->learn & CK_LEARN_EXPERTS ? v.weight.ranks : 0;
    if (v.first + ranks < v.end) v.end = v.first + ranks;
    return v;
}

/* The first column of a warp's group. */
static __device__ __forceinline__ int gram_column(int group, int groups, int columns) {
    int warps = (int)blockDim.x / 32;
    return (((int)blockIdx.y * groups + group) * warps + (int)(threadIdx.x / 32)) * columns;
}

template <int R, int G, int W, bool wide>
static __device__ __forceinline__ void write_gradient(const gram_view *v, const float d[G][R][W][4]) {
    CK_UNROLL
    for (int i = 0; i < 2 * R * G; i++) {
        int rank = v->first + 8 * (i / G) + fragment_g(),
            first = gram_column(i % G, G, 8 * W) + 2 * W * fragment_t();
        float row[2 * W];
        neighbours<W>(row, d[i % G][i / G / 2], i / G % 2);
        if (rank >= v->end) continue;
        CK_UNROLL
        for (int j = 0; j < 2 * W; j += 8) {
            int column = first + j;
            store_some<wide, 8>(v->gradient + ((int64_t)rank * v->weight.columns + column), row + j,
                                v->weight.columns - column);
        }
    }
}

/* A block's part of a device that other chunks hold too, each lane's own values. slot 0: the device began
 * before this chunk; 1: in it. */
static __device__ __forceinline__ global<float> part_of(global<float> parts, int chunk, int slot,
                                                        int lane_floats) {
    int64_t block = (((int64_t)chunk * 2 + slot) * gridDim.y + blockIdx.y) * gridDim.z + blockIdx.z;
    return parts + (block * blockDim.x * lane_floats + 4 * (int)threadIdx.x);
}

/* What a block has summed over a segment: the gradient, or a part of it. */
template <int R, int G, int W, bool wide>
static __device__ __forceinline__ void write_gram(const gram_target *to, const gram_view *v,
                                                  const cuda_device *device, const segment *s,
                                                  const float d[G][R][W][4]) {
    bool begins = s->token == device->first_token,
         ends = s->token + s->rows == device->first_token + device->n_tokens;
    if (begins && ends) {
        write_gradient<R, G, W, wide>(v, d);
        return;
    }
    global<float> part = part_of(to->parts, (int)blockIdx.x, begins, 4 * R * G * W);
    CK_UNROLL
    for (int i = 0; i < R * G * W; i++) {
        const float *c = d[i / W / R][i / W % R][i % W];
        store_as(part + 4 * (int)blockDim.x * i, make_float4(c[0], c[1], c[2], c[3]));
    }
}

/* The grid and the block that left the parts. */
template <int R, int G, int W, bool wide>
static __global__ void __launch_bounds__(G > 1 ? 256 : SEGMENT_LANES) gram_sum_kernel(gram_target to) {
    int chunk = (int)blockIdx.x, begin = chunk * to.chunk, end = begin + to.chunk;
    if (end >= to.wave.n_tiles) return;
    const cuda_tile *last = record(to.wave.tiles + (end - 1)), *first = record(to.wave.tiles + begin);
    if (last->rows == 0) return;
    const cuda_device *device = record(to.wave.devices + last->device);
    int64_t left = device->first_token + device->n_tokens - (last->first_token + last->rows);
    if (left == 0 || device->first_token < first->first_token) return;
    gram_view v = gram_view_of(&to, device, record(to.wave.shapes + device->shape), 16 * R);
    if (v.first >= v.end) return;
    int64_t chunk_tokens = (int64_t)to.chunk * CUDA_TILE;
    int more = (int)((left + chunk_tokens - 1) / chunk_tokens);
    float d[G][R][W][4] = {};
    for (int i = 0; i <= more; i++) {
        global<const float> part = part_of(to.parts, chunk + i, i == 0, 4 * R * G * W);
        CK_UNROLL
        for (int j = 0; j < R * G * W; j++) {
            float4 x = load_as<float4>(part + 4 * (int)blockDim.x * j);
            float *sum = d[j / W / R][j / W % R][j % W];
            sum[0] += x.x, sum[1] += x.y, sum[2] += x.z, sum[3] += x.w;
        }
    }
    write_gradient<R, G, W, wide>(&v, d);
}

/* ---- The product alone */

template <typename T, typename Source> struct gram {
    gram_target to;
    Source a;
    cuda_rows<const T> x;
};

template <typename T, int R, bool wide, typename Source>
static __device__ __forceinline__ void gram_segment(const gram<T, Source> *op, shared<float> a,
                                                    const segment *s) {
    const int W = access<T>::COUNT;
    const cuda_device *device = record(op->to.wave.devices + s->device);
    const ck_shape *shape = record(op->to.wave.shapes + device->shape);
    gram_view v = gram_view_of(&op->to, device, shape, 16 * R);
    if (v.first >= v.end) return;
    float d[1][R][W][4] = {};
    int ranks = v.weight.ranks - v.first < 16 * R ? v.weight.ranks - v.first : 16 * R;
    int column = gram_column(0, 1, 8 * W), left = v.weight.columns - column;
    for (int at = 0; at < s->rows; at += GRAM_TOKENS) {
        int tokens = s->rows - at < GRAM_TOKENS ? s->rows - at : (int)GRAM_TOKENS;
        int64_t token = s->token + at;
        __syncthreads(); /* the last tokens' a has been read */
        stage_ranks(a, 1, GRAM_STRIDE, op->a, shape, token, tokens, v.first, ranks);
        __syncthreads();
        if (left <= 0) continue;
        add_product<T, R, wide>(d[0], a, GRAM_STRIDE, tokens, op->x.data + (token * op->x.columns + column),
                                op->x.columns, left);
    }
    write_gram<R, 1, W, wide>(&op->to, &v, device, s, d);
}

/* Grid: chunks, blocks over D, groups of 16 R ranks. */
template <typename T, int R, bool wide, typename Source>
static __global__ void __launch_bounds__(SEGMENT_LANES, R == 1 ? 4 : 2) gram_kernel(gram<T, Source> op) {
    CK_SHARED(float, a, 16 * R * GRAM_STRIDE);
    int tile = (int)blockIdx.x * op.to.chunk,
        end = tile + op.to.chunk < op.to.wave.n_tiles ? tile + op.to.chunk : op.to.wave.n_tiles;
    for (segment s; (s = segment_at(&op.to.wave, tile, end)).tiles > 0; tile += s.tiles)
        gram_segment<T, R, wide>(&op, a, &s);
}

/* ---- Host */

typedef struct {
    int rank_tiles, column_blocks, groups, chunk, chunks; /* rank_tiles: R */
} gram_plan;

/* Blocks that fill a GPU, and longer chunks rather than more of them. */
static inline gram_plan plan_gram(int64_t n_tiles, int ranks, int64_t columns, size_t element_bytes,
                                  bool wide) {
    gram_plan p;
    int64_t wide_columns = 32 * (int64_t)(16 / element_bytes);
    p.rank_tiles = !wide || ranks <= 16 ? 1 : ranks <= 32 ? 2 : 4;
    p.groups = (ranks + 16 * p.rank_tiles - 1) / (16 * p.rank_tiles);
    p.column_blocks = (int)((columns + wide_columns - 1) / wide_columns);
    p.chunk =
        (int)((n_tiles * p.column_blocks * p.groups + cuda_limits.gram_blocks - 1) / cuda_limits.gram_blocks);
    p.chunks = (int)((n_tiles + p.chunk - 1) / p.chunk);
    return p;
}

/* Bytes of workspace for any wave of up to n_tiles and up to these ranks: fewer ranks make fewer or smaller
 * parts, and fewer tiles no longer chunks. */
static inline size_t gram_workspace(int64_t n_tiles, int ranks, int64_t columns, size_t element_bytes) {
    gram_plan p = plan_gram(n_tiles, ranks, columns, element_bytes, true);
    int64_t across = (int64_t)p.column_blocks * p.groups, blocks = n_tiles * across;
    if (blocks > cuda_limits.gram_blocks + across) blocks = cuda_limits.gram_blocks + across;
    return (size_t)(2 * blocks * SEGMENT_LANES * 4 * p.rank_tiles) * (16 / element_bytes) * sizeof(float);
}

template <typename T, int R, bool wide, typename Source>
static const char *launch_gram_form(const gram<T, Source> &op, const gram_plan &p, gpu_stream stream) {
    dim3 grid((unsigned)p.chunks, (unsigned)p.column_blocks, (unsigned)p.groups), block(SEGMENT_LANES);
    const char *problem = CK_LAUNCH((gram_kernel<T, R, wide, Source>), grid, block, 0, stream, op);
    if (problem || p.chunks < 2) return problem;
    return CK_LAUNCH((gram_sum_kernel<R, 1, access<T>::COUNT, wide>), grid, block, 0, stream, op.to);
}

/* op.to.chunk is filled in. ranks: the most that a device of the wave has; columns: the weight's. */
template <bool wide, typename T, typename Source>
static const char *launch_gram(gram<T, Source> op, int ranks, int64_t columns, gpu_stream stream) {
    if (ranks == 0 || op.to.wave.n_tiles == 0 || !op.to.wave.gradients) return nullptr;
    gram_plan p = plan_gram(op.to.wave.n_tiles, ranks, columns, sizeof(T), wide);
    op.to.chunk = p.chunk;
    if constexpr (wide) {
        if (p.rank_tiles == 2) return launch_gram_form<T, 2, true>(op, p, stream);
        if (p.rank_tiles == 4) return launch_gram_form<T, 4, true>(op, p, stream);
    }
    return launch_gram_form<T, 1, wide>(op, p, stream);
}

#endif

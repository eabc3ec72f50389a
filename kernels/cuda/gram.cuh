/* gram.cuh - gradients of weights with one row per rank, of each device over its own tokens:  dW [S, D] = a^T x.
 *
 * a [T, S] f32, any source that rank_value() takes (segmented.cuh); x [T, D]. A block owns 16 R ranks and 32 W columns (W = 16 bytes of x)
 * of a chunk of the wave's tiles, and walks the chunk device by device. A device that lies in one chunk is written at once. Of one that
 * lies in several each block leaves its part in the workspace, and the block that the device begins in adds them in the order of the chunks
 * in a second launch: the same bits every time, however many tokens a device has.
 *
 * Bytes: x once per 16 R ranks, S D f32 a device written; a part of 64 R W columns is written and read once per chunk that cuts a device.
 * Shared memory: 80 floats for each of 16 R ranks, of 64 tokens. */
#ifndef COHORT_KERNELS_CUDA_GRAM_CUH
#define COHORT_KERNELS_CUDA_GRAM_CUH

#include "segmented.cuh"

enum { GRAM_TOKENS = 64, GRAM_STRIDE = 80, GRAM_BLOCKS = 528 /* that fill a large GPU: longer chunks rather than more of them */ };

template <typename T, typename Source> struct gram {
    cuda_wave wave;
    Source a;
    cuda_rows<const T> x;
    weight_kind weight;
    int layer, chunk; /* tiles */
    global<float> parts;
};

/* What a lane of a block holds: ranks first + 16 m + g (+ 8), columns from `column` on as neighbours() says. */
typedef struct {
    rank_weight weight;
    global<float> gradient;
    int first, column;
    int low, high; /* the weight's rows that this device learns */
} gram_view;

static __device__ __forceinline__ gram_view gram_view_of(const cuda_wave *wave, const cuda_device *device, weight_kind kind, int layer,
                                                         int ranks, int columns) {
    gram_view v;
    v.weight = rank_weight_of(record(wave->shapes + device->shape), kind, layer);
    v.gradient = wave->gradients + (device->gradients + v.weight.offset);
    v.first = (int)blockIdx.z * ranks;
    v.column = ((int)blockIdx.y * SEGMENT_WARPS + (int)(threadIdx.x / 32)) * columns;
    v.low = device->learn & CK_LEARN_ROUTER ? 0 : v.weight.router_rows;
    v.high = device->learn & CK_LEARN_EXPERTS ? v.weight.ranks : v.weight.router_rows;
    if (v.first > v.low) v.low = v.first;
    if (v.first + ranks < v.high) v.high = v.first + ranks;
    return v;
}

template <int R, int W, bool wide> static __device__ __forceinline__ void write_gradient(const gram_view *v, const float d[R][W][4]) {
    int first = v->column + 2 * W * fragment_t();
    CK_UNROLL
    for (int i = 0; i < 2 * R; i++) {
        int rank = v->first + 8 * i + fragment_g();
        float row[2 * W];
        neighbours<W>(row, d[i / 2], i % 2);
        if (rank < v->low || rank >= v->high) continue;
        CK_UNROLL
        for (int j = 0; j < 2 * W; j += 8) {
            int column = first + j;
            store_some<wide, 8>(v->gradient + ((int64_t)rank * v->weight.columns + column), row + j, v->weight.columns - column);
        }
    }
}

/* A block's part of a device that other chunks hold too, each lane's own values. slot 0: the device began before this chunk; 1: in it. */
static __device__ __forceinline__ global<float> part_of(global<float> parts, int chunk, int slot, int lane_floats) {
    int64_t block = (((int64_t)chunk * 2 + slot) * gridDim.y + blockIdx.y) * gridDim.z + blockIdx.z;
    return parts + (block * SEGMENT_LANES * lane_floats + 4 * (int)threadIdx.x);
}

template <typename T, int R, bool wide, typename Source>
static __device__ __forceinline__ void gram_segment(const gram<T, Source> *op, shared<float> a, const segment *s) {
    const int W = access<T>::COUNT;
    const cuda_device *device = record(op->wave.devices + s->device);
    const ck_shape *shape = record(op->wave.shapes + device->shape);
    gram_view v = gram_view_of(&op->wave, device, op->weight, op->layer, 16 * R, 8 * W);
    if (v.low >= v.high) return;
    float d[R][W][4] = {};
    int ranks = v.weight.ranks - v.first < 16 * R ? v.weight.ranks - v.first : 16 * R, left = v.weight.columns - v.column;
    for (int at = 0; at < s->rows; at += GRAM_TOKENS) {
        int tokens = s->rows - at < GRAM_TOKENS ? s->rows - at : (int)GRAM_TOKENS;
        __syncthreads(); /* the last tokens' a has been read */
        stage_ranks(a, 1, GRAM_STRIDE, op->a, shape, s->token + at, tokens, v.first, ranks);
        __syncthreads();
        if (left > 0)
            add_product<T, R, wide>(d, a, GRAM_STRIDE, tokens, op->x.data + ((s->token + at) * op->x.columns + v.column), op->x.columns,
                                    left);
    }
    bool begins = s->token == device->first_token, ends = s->token + s->rows == device->first_token + device->n_tokens;
    if (begins && ends) {
        write_gradient<R, W, wide>(&v, d);
        return;
    }
    global<float> part = part_of(op->parts, (int)blockIdx.x, begins, 4 * R * W);
    CK_UNROLL
    for (int i = 0; i < R * W; i++) {
        const float *c = d[i / W][i % W];
        store_as(part + 4 * SEGMENT_LANES * i, make_float4(c[0], c[1], c[2], c[3]));
    }
}

/* Grid: chunks, blocks over D, groups of 16 R ranks. */
template <typename T, int R, bool wide, typename Source>
static __global__ void __launch_bounds__(SEGMENT_LANES) gram_kernel(gram<T, Source> op) {
    CK_SHARED(float, a, 16 * R * GRAM_STRIDE);
    int tile = (int)blockIdx.x * op.chunk, end = tile + op.chunk < op.wave.n_tiles ? tile + op.chunk : op.wave.n_tiles;
    for (segment s; (s = segment_at(&op.wave, tile, end)).tiles > 0; tile += s.tiles) gram_segment<T, R, wide>(&op, a, &s);
}

/* The same grid. */
template <typename T, int R, bool wide, typename Source>
static __global__ void __launch_bounds__(SEGMENT_LANES) gram_sum_kernel(gram<T, Source> op) {
    const int W = access<T>::COUNT;
    int chunk = (int)blockIdx.x, begin = chunk * op.chunk, end = begin + op.chunk;
    if (end >= op.wave.n_tiles) return;
    const cuda_tile *last = record(op.wave.tiles + (end - 1)), *first = record(op.wave.tiles + begin);
    if (last->rows == 0) return;
    const cuda_device *device = record(op.wave.devices + last->device);
    int64_t left = device->first_token + device->n_tokens - (last->first_token + last->rows);
    if (left == 0 || device->first_token < first->first_token) return;
    gram_view v = gram_view_of(&op.wave, device, op.weight, op.layer, 16 * R, 8 * W);
    if (v.low >= v.high) return;
    int64_t tokens_in_chunk = (int64_t)op.chunk * CUDA_TILE;
    int more = (int)((left + tokens_in_chunk - 1) / tokens_in_chunk);
    float d[R][W][4];
    for (int i = 0; i <= more; i++) {
        global<const float> part = part_of(op.parts, chunk + i, i == 0, 4 * R * W);
        CK_UNROLL
        for (int j = 0; j < R * W; j++) {
            float4 x = load_as<float4>(part + 4 * SEGMENT_LANES * j);
            float *sum = d[j / W][j % W];
            if (i == 0)
                sum[0] = x.x, sum[1] = x.y, sum[2] = x.z, sum[3] = x.w;
            else
                sum[0] += x.x, sum[1] += x.y, sum[2] += x.z, sum[3] += x.w;
        }
    }
    write_gradient<R, W, wide>(&v, d);
}

/* ---- Host */

typedef struct {
    int rank_tiles, column_blocks, groups, chunk, chunks; /* rank_tiles: R */
} gram_plan;

static inline gram_plan plan_gram(int64_t n_tiles, int ranks, int64_t columns, size_t element_bytes, bool wide) {
    gram_plan p;
    int64_t wide_columns = 32 * (int64_t)(16 / element_bytes);
    p.rank_tiles = !wide || ranks <= 16 ? 1 : ranks <= 32 ? 2 : 4;
    p.groups = (ranks + 16 * p.rank_tiles - 1) / (16 * p.rank_tiles);
    p.column_blocks = (int)((columns + wide_columns - 1) / wide_columns);
    p.chunk = (int)((n_tiles * p.column_blocks * p.groups + GRAM_BLOCKS - 1) / GRAM_BLOCKS);
    p.chunks = (int)((n_tiles + p.chunk - 1) / p.chunk);
    return p;
}

/* Bytes of workspace for any wave of up to n_tiles and up to these ranks: fewer ranks make fewer or smaller parts, and fewer tiles no
 * longer chunks. */
static inline size_t gram_workspace(int64_t n_tiles, int ranks, int64_t columns, size_t element_bytes) {
    gram_plan p = plan_gram(n_tiles, ranks, columns, element_bytes, true);
    int64_t across = (int64_t)p.column_blocks * p.groups, blocks = n_tiles * across;
    if (blocks > GRAM_BLOCKS + across) blocks = GRAM_BLOCKS + across;
    return (size_t)(2 * blocks * SEGMENT_LANES * 4 * p.rank_tiles) * (16 / element_bytes) * sizeof(float);
}

template <typename T, int R, bool wide, typename Source>
static const char *launch_gram_form(const gram<T, Source> &op, const gram_plan &p, gpu_stream stream) {
    dim3 grid((unsigned)p.chunks, (unsigned)p.column_blocks, (unsigned)p.groups), block(SEGMENT_LANES);
    const char *problem = CK_LAUNCH((gram_kernel<T, R, wide, Source>), grid, block, 0, stream, op);
    if (problem || p.chunks < 2) return problem;
    return CK_LAUNCH((gram_sum_kernel<T, R, wide, Source>), grid, block, 0, stream, op);
}

/* op.chunk is filled in. ranks: the most that a device of the wave has; columns: the weight's. */
template <bool wide, typename T, typename Source>
static const char *launch_gram(gram<T, Source> op, int ranks, int64_t columns, gpu_stream stream) {
    if (ranks == 0 || op.wave.n_tiles == 0 || !op.wave.gradients) return nullptr;
    gram_plan p = plan_gram(op.wave.n_tiles, ranks, columns, sizeof(T), wide);
    op.chunk = p.chunk;
    if constexpr (wide) {
        if (p.rank_tiles == 2) return launch_gram_form<T, 2, true>(op, p, stream);
        if (p.rank_tiles == 4) return launch_gram_form<T, 4, true>(op, p, stream);
    }
    return launch_gram_form<T, 1, wide>(op, p, stream);
}

#endif

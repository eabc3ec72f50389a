/* attention.cuh - what attention forward and backward share: which block does what, and one head's columns of
 * the activations.
 *
 * A tile is up to 64 rows of one head of one sequence, 16 a warp. Sequences of a wave differ in length, so
 * that blocks beyond a sequence's last tile have nothing to do. Blocks go by groups of (sequence, head)
 * pairs, whose keys and values (at most 32 MiB) stay in the L2 cache, and in a group the tiles with most work
 * begin first. */
#ifndef COHORT_KERNELS_CUDA_ATTENTION_CUH
#define COHORT_KERNELS_CUDA_ATTENTION_CUH

#include <math.h>

#include "ops.cuh"
#include "row_tile.cuh"

enum { ATTENTION_TILE = 64, ATTENTION_WARPS = ATTENTION_TILE / 16, ATTENTION_GROUP = 128 };
enum { ATTENTION_SHARED = 166912 }; /* bytes a block may have on sm_80; later ones have more */

static constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;

/* Rows that pass through shared memory at a time, twice: the next come in while these are used. */
template <typename T, int DIM> constexpr int passing_rows = (int)sizeof(T) * DIM > 256 ? 32 : 64;

/* Blocks that a multiprocessor should have room for: what registers are rationed by. */
template <typename T, int DIM> constexpr int attention_blocks = sizeof(T) == 2 && DIM <= 64 ? 3 : 2;

/* What both directions know of a wave. */
typedef struct {
    global<const cuda_sequence> sequences;
    int n_sequences, tiles;   /* most tiles of a sequence */
    int heads, kv_heads, dim; /* heads / kv_heads query heads, a group, share keys and values */
    float scale;              /* 1 / sqrt(dim) */
    float scale2;             /* scale log2(e): exp(scale s) = 2^(scale2 s) */
    bool wide;
} attention_size;

typedef struct {
    int64_t token; /* the sequence's first */
    int n_tokens, head;
    int first; /* row of the sequence, of the block's tile */
} attention_place;

/* heads: of the grid, query heads or heads of keys. first_tile_longest: the tile of the first rows has most
 * work (rows are keys), else that of the last (rows are queries). */
static __device__ __forceinline__ attention_place find_place(const attention_size *size, int heads,
                                                             bool first_tile_longest) {
    int block = (int)blockIdx.x, first = block / (ATTENTION_GROUP * size->tiles) * ATTENTION_GROUP;
    int pairs = size->n_sequences * heads;
    int group = pairs - first < ATTENTION_GROUP ? pairs - first : (int)ATTENTION_GROUP;
    int rest = block - first * size->tiles, pair = first + rest % group, tile = rest / group;
    if (!first_tile_longest) tile = size->tiles - 1 - tile;
    const cuda_sequence *sequence = record(size->sequences + pair / heads);
    attention_place place = {sequence->first_token, sequence->n_tokens, pair % heads,
                             tile * (int)(blockDim.x / 2)};
    return place;
}

/* The columns of one head of an activation, from the sequence's first row. In qkv the query heads are
 * followed by the heads of keys, and these by those of values. */
template <typename T>
static __device__ __forceinline__ head_rows<T> head_of(const cuda_rows<T> &rows, const attention_size *size,
                                                       const attention_place *place, int head) {
    int64_t column = (int64_t)head * size->dim;
    head_rows<T> columns = {rows.data + (place->token * rows.columns + column), (int)rows.columns, size->dim,
                            size->wide};
    return columns;
}
static __device__ __forceinline__ int keys_of(const attention_size *size, int kv_head) {
    return size->heads + kv_head;
}
static __device__ __forceinline__ int values_of(const attention_size *size, int kv_head) {
    return size->heads + size->kv_heads + kv_head;
}
/* Query heads that share keys and values, and what a query head shares with them. */
static __device__ __forceinline__ int group_size(const attention_size *size) {
    return size->heads / size->kv_heads;
}
static __device__ __forceinline__ int kv_head_of(const attention_size *size, int head) {
    return head / group_size(size);
}

static __device__ __forceinline__ int whole_units(int rows) {
    return (rows + 15) / 16;
}

/* Rows [row, row + passing_rows) of two matrices, those before `end`, to two tiles side by side; one group of
 * copies. */
template <typename T, int DIM>
static __device__ __forceinline__ void bring_two(shared<T> tiles, const head_rows<const T> &a,
                                                 const head_rows<const T> &b, int row, int end) {
    constexpr int ROWS = passing_rows<T, DIM>;
    int count = end - row < ROWS ? 16 * whole_units(end - row) : ROWS;
    load_rows<T, DIM>(tiles, a, row, count, end);
    load_rows<T, DIM>(tiles + ROWS * tile_stride<DIM>, b, row, count, end);
    cp_async_commit();
}

/* The least that a lane's quad of neighbours must know of a row: sums and maxima over its columns. */
static __device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
static __device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/* A warp's 16 rows as the left factor: held in registers, or read again for every product. */
template <typename T, int DIM> constexpr bool room_to_hold = sizeof(T) == 2 && DIM <= 64;

template <typename T, int DIM, bool held> struct row_factor {
    shared<const T> rows;
    left_factor<T> parts[held ? DIM / 16 : 1];
};

template <typename T, int DIM, bool held>
static __device__ __forceinline__ row_factor<T, DIM, held> factor_of(shared<const T> rows) {
    row_factor<T, DIM, held> factor;
    factor.rows = rows;
    if constexpr (held) {
        CK_UNROLL
        for (int k = 0; k < DIM / 16; k++) factor.parts[k] = load_left<tile_stride<DIM>>(rows + 16 * k);
    }
    return factor;
}

template <typename T, int DIM, bool held>
static __device__ __forceinline__ left_factor<T> factor_part(const row_factor<T, DIM, held> &factor, int k) {
    if constexpr (held) {
        return factor.parts[k];
    } else {
        return load_left<tile_stride<DIM>>(factor.rows + 16 * k);
    }
}

/* d [16, DIM] += a b: b the 16 rows at p. */
template <typename T, int DIM>
static __device__ __forceinline__ void add_rows(float d[DIM / 8][4], const left_factor<T> &a,
                                                shared<const T> p) {
    CK_UNROLL
    for (int n = 0; n < DIM / 16; n++)
        multiply_two(d + 2 * n, a, load_right_turned<tile_stride<DIM>>(p + 16 * n));
}

/* s [16, N]: scores of queries from `row` on and keys from `key` on. Keys after the query have no part. */
template <int N> static __device__ __forceinline__ void mask_scores(float s[N][4], int row, int key) {
    CK_UNROLL
    for (int i = 0; i < 4 * N; i++) {
        int column = key + i / 4 * 8 + 2 * fragment_t() + i % 2, query = row + fragment_g() + i % 4 / 2 * 8;
        if (column > query) s[i / 4][i % 4] = -INFINITY;
    }
}

/* ---- Host */

static inline bool attention_is_wide(const ck_tensor *tensor, int dim, size_t bytes) {
    int width = 16 / (int)bytes;
    return dim % width == 0 && tensor->columns % width == 0 && (uintptr_t)tensor->data % 16 == 0;
}

/* rows: of a tile. */
static inline attention_size attention_size_of(const cuda_call *call, const ck_tensor *qkv, int32_t heads,
                                               int32_t kv_heads, int32_t dim, int rows) {
    int tiles = (qkv->program->capacity.max_sequence_tokens + rows - 1) / rows;
    float scale = 1.0f / sqrtf((float)dim);
    attention_size size = {call->wave.sequences,
                           call->wave.n_sequences,
                           tiles,
                           heads,
                           kv_heads,
                           dim,
                           scale,
                           scale * LOG2_E,
                           false};
    return size;
}

static inline dim3 attention_grid(const attention_size *size, int heads) {
    return dim3((unsigned)(size->n_sequences * heads * size->tiles));
}

/* Warps of a block that has a row for every token of short sequences. */
static inline int attention_warps(int max_sequence_tokens, int most) {
    int warps = (max_sequence_tokens + 15) / 16;
    return warps < most ? warps : most;
}

#endif

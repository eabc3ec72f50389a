/* row_tile.cuh - tiles of rows in shared memory: filled from one head's columns of ragged rows, factors of
 * matrix products out of them, results written through them. T is float or bf16; DIM, a multiple of 16, is
 * the head's columns rounded up: the rest is zeros.
 *
 *   left_factor<T>        a [16, 16] of mma_bf16 or mma_f32, as the instruction takes it
 *   right_factors<T>      two neighbouring b [16, 8]
 *
 * Rows lie DIM + 8 elements apart: the 8 rows of an 8 x 8 matrix begin in different banks, at multiples of 16
 * bytes. */
#ifndef COHORT_KERNELS_CUDA_ROW_TILE_CUH
#define COHORT_KERNELS_CUDA_ROW_TILE_CUH

#include "fragment.cuh"

template <int DIM> constexpr int tile_stride = DIM + 8;

/* ---- Between memory and tiles */

/* One head's columns of consecutive rows. */
template <typename T> struct head_rows {
    global<T> first;
    int stride; /* elements from a row to the next */
    int dim;    /* columns */
    bool wide;  /* rows begin and end at multiples of 16 bytes */
};

/* Rows [row, row + count) into a tile, by the whole block; rows from `end` on and columns from dim on become
 * 0. The copies may be asynchronous: they belong to the caller's next cp_async_commit(). */
template <typename T, int DIM>
__device__ __forceinline__ void load_rows(shared<T> tile, head_rows<const T> from, int row, int count,
                                          int end) {
    constexpr int WIDTH = 16 / (int)sizeof(T), PIECES = DIM / WIDTH;
    if (from.wide) { /* a lane keeps to its columns: PIECES divides the block */
        int first = (int)threadIdx.x / PIECES, column = (int)threadIdx.x % PIECES * WIDTH,
            step = (int)blockDim.x / PIECES;
        int inside = column < from.dim ? end - row : 0;
        global<const T> source = from.first + ((int64_t)(row + first) * from.stride + column);
        shared<T> target = tile + (first * tile_stride<DIM> + column);
        int64_t further = (int64_t)step * from.stride;
        for (int r = first; r < count; r += step, source += further, target += step * tile_stride<DIM>) {
            cp_async<16>(target, source, r < inside ? 16 : 0);
        }
        return;
    }
    for (int i = (int)threadIdx.x; i < count * DIM; i += (int)blockDim.x) {
        int r = i / DIM, column = i % DIM;
        bool inside = row + r < end && column < from.dim;
        tile[r * tile_stride<DIM> + column] =
            inside ? (T)from.first[(int64_t)(row + r) * from.stride + column] : T{};
    }
}

/* A warp's 16 rows of results, rows g times factor[0], g + 8 times factor[1], to rows [row, end) of `to`.
 * `own`: 16 rows of a tile that no other warp uses. */
template <typename T, int DIM>
__device__ __forceinline__ void store_rows(head_rows<T> to, int row, int end, const float d[DIM / 8][4],
                                           const float factor[2], shared<T> own) {
    constexpr int WIDTH = 16 / (int)sizeof(T), PIECES = DIM / WIDTH;
    int g = fragment_g(), t = fragment_t(), lane = (int)(threadIdx.x % 32);
    __syncwarp(); /* what lay there has been read */
    CK_UNROLL
    for (int i = 0; i < DIM / 4; i++) {
        float x = factor[i % 2] * d[i / 2][i % 2 * 2], y = factor[i % 2] * d[i / 2][i % 2 * 2 + 1];
        store_two(own + ((g + i % 2 * 8) * tile_stride<DIM> + i / 2 * 8 + 2 * t), x, y);
    }
    __syncwarp();
    for (int i = lane; i < 16 * PIECES && to.wide; i += 32) {
        int r = i / PIECES, column = i % PIECES * WIDTH;
        if (row + r >= end || column >= to.dim) continue;
        store_as(to.first + ((int64_t)(row + r) * to.stride + column),
                 load_as<uint4>(own + (r * tile_stride<DIM> + column)));
    }
    for (int i = lane; i < 16 * DIM && !to.wide; i += 32) {
        int r = i / DIM, column = i % DIM;
        if (row + r < end && column < to.dim)
            to.first[(int64_t)(row + r) * to.stride + column] = (T)own[r * tile_stride<DIM> + column];
    }
}

/* ---- Factors of products */

template <typename T> struct left_factor;
template <> struct left_factor<float> { float part[8]; };
template <> struct left_factor<bf16> { uint32_t part[4]; };
template <typename T> struct right_factors;
template <> struct right_factors<float> { float part[8]; };
template <> struct right_factors<bf16> { uint32_t part[4]; };

/* a = 16 rows x 16 columns at p. */
template <int STRIDE> __device__ __forceinline__ left_factor<float> load_left(shared<const float> p) {
    left_factor<float> a;
    CK_UNROLL
    for (int i = 0; i < 4; i++) {
        float2 pair = load_two(p + ((fragment_g() + i % 2 * 8) * STRIDE + 2 * fragment_t() + i / 2 * 8));
        a.part[2 * i] = pair.x;
        a.part[2 * i + 1] = pair.y;
    }
    return a;
}
template <int STRIDE> __device__ __forceinline__ left_factor<bf16> load_left(shared<const bf16> p) {
    left_factor<bf16> a;
    int lane = (int)(threadIdx.x % 32);
    ldmatrix_x4(a.part, p + ((lane % 8 + lane / 8 % 2 * 8) * STRIDE + lane / 16 * 8));
    return a;
}

/* b[k, n] = element (row n, column k) at p, n < 16, k < 16: the summed index runs along the rows. */
template <int STRIDE> __device__ __forceinline__ right_factors<float> load_right(shared<const float> p) {
    right_factors<float> b;
    CK_UNROLL
    for (int i = 0; i < 4; i++) {
        float2 pair = load_two(p + ((fragment_g() + i / 2 * 8) * STRIDE + 2 * fragment_t() + i % 2 * 8));
        b.part[2 * i] = pair.x;
        b.part[2 * i + 1] = pair.y;
    }
    return b;
}
template <int STRIDE> __device__ __forceinline__ right_factors<bf16> load_right(shared<const bf16> p) {
    right_factors<bf16> b;
    int lane = (int)(threadIdx.x % 32);
    ldmatrix_x4(b.part, p + ((lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 8));
    return b;
}

/* b[k, n] = element (row k, column n) at p: the summed index runs down the rows. */
template <int STRIDE>
__device__ __forceinline__ right_factors<float> load_right_turned(shared<const float> p) {
    right_factors<float> b;
    CK_UNROLL
    for (int i = 0; i < 8; i++)
        b.part[i] = p[(2 * fragment_t() + i % 2 + i / 2 % 2 * 8) * STRIDE + fragment_g() + i / 4 * 8];
    return b;
}
template <int STRIDE> __device__ __forceinline__ right_factors<bf16> load_right_turned(shared<const bf16> p) {
    right_factors<bf16> b;
    int lane = (int)(threadIdx.x % 32);
    ldmatrix_x4_trans(b.part, p + ((lane % 8 + lane / 8 % 2 * 8) * STRIDE + lane / 16 * 8));
    return b;
}

/* Two neighbouring results are the left factor of the next product. */
template <typename T>
__device__ __forceinline__ left_factor<T> left_of(const float left[4], const float right[4]);
template <>
__device__ __forceinline__ left_factor<float> left_of<float>(const float left[4], const float right[4]) {
    left_factor<float> a;
    a_from_tiles(a.part, left, right);
    return a;
}
template <>
__device__ __forceinline__ left_factor<bf16> left_of<bf16>(const float left[4], const float right[4]) {
    left_factor<bf16> a = {{pack_bf16(left[0], left[1]), pack_bf16(left[2], left[3]),
                            pack_bf16(right[0], right[1]), pack_bf16(right[2], right[3])}};
    return a;
}

/* d[0], d[1] [16, 8] += a b. */
__device__ __forceinline__ void multiply_two(float d[2][4], const left_factor<float> &a,
                                             const right_factors<float> &b) {
    mma_f32(d[0], a.part, b.part);
    mma_f32(d[1], a.part, b.part + 4);
}
__device__ __forceinline__ void multiply_two(float d[2][4], const left_factor<bf16> &a,
                                             const right_factors<bf16> &b) {
    mma_bf16(d[0], a.part, b.part);
    mma_bf16(d[1], a.part, b.part + 2);
}

#endif

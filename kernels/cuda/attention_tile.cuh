/* attention_tile.cuh - online softmax of a warp's 16 query rows over tiles of keys, which both kinds of
 * forward attention share (attention.cu, attention_cached.cu). */
#ifndef COHORT_KERNELS_CUDA_ATTENTION_TILE_CUH
#define COHORT_KERNELS_CUDA_ATTENTION_TILE_CUH

#include "attention.cuh"

template <typename T, int DIM> using query_factor = row_factor<T, DIM, room_to_hold<T, DIM>>;

/* Of a warp's 16 rows: the result so far, its rows' largest score and sum of exponentials (the lane's share).
 */
template <int DIM> struct softmax_state { float o[DIM / 8][4], largest[2], sum[2]; };

template <int DIM> static __device__ __forceinline__ void begin_softmax(softmax_state<DIM> &state) {
    CK_UNROLL
    for (int i = 0; i < DIM / 2; i++) state.o[i / 4][i % 4] = 0;
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        state.largest[half] = -INFINITY;
        state.sum[half] = 0;
    }
}

/* s = Q K^T for the first `units` of 16 keys. */
template <typename T, int DIM, int N>
static __device__ __forceinline__ void score(float s[N][4], const query_factor<T, DIM> &q, shared<const T> k,
                                             int units) {
    CK_UNROLL
    for (int i = 0; i < DIM / 16; i++) {
        left_factor<T> a = factor_part(q, i);
        CK_UNROLL
        for (int u = 0; u < N / 2; u++) {
            if (u < units)
                multiply_two(s + 2 * u, a,
                             load_right<tile_stride<DIM>>(k + (16 * u * tile_stride<DIM> + 16 * i)));
        }
    }
}

/* s -> exp(scale s - scale m), and what was summed before, rescaled to the new m. A row's first key is never
 * masked, so m is finite. */
template <int DIM, int N>
static __device__ __forceinline__ void softmax_step(softmax_state<DIM> &state, float s[N][4], float scale2) {
    float correction[2], shift[2];
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        float largest = state.largest[half];
        CK_UNROLL
        for (int n = 0; n < N; n++) largest = fmaxf(largest, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        largest = quad_max(largest);
        correction[half] = fast_exp2(scale2 * (state.largest[half] - largest));
        shift[half] = -scale2 * largest;
        state.largest[half] = largest;
        state.sum[half] *= correction[half];
    }
    CK_UNROLL
    for (int i = 0; i < 4 * N; i++) {
        s[i / 4][i % 4] = fast_exp2(fmaf(scale2, s[i / 4][i % 4], shift[i % 4 / 2]));
        state.sum[i % 4 / 2] += s[i / 4][i % 4];
    }
    CK_UNROLL
    for (int i = 0; i < DIM / 2; i++) state.o[i / 4][i % 4] *= correction[i % 4 / 2];
}

/* A warp's rows, at positions from `row` on, against the keys of a tile: `units` of 16 of them, that have
 * been loaded and that one of the rows sees. whole: all rows see all keys of the tile. */
template <typename T, int DIM, bool whole>
static __device__ __forceinline__ void attend(softmax_state<DIM> &state, const query_factor<T, DIM> &q,
                                              shared<const T> k, int row, int key, int units, float scale2) {
    constexpr int KEYS = passing_rows<T, DIM>, N = KEYS / 8;
    if (whole) units = KEYS / 16;
    shared<const T> v = k + KEYS * tile_stride<DIM>;
    float s[N][4] = {};
    score<T, DIM, N>(s, q, k, units);
    if (!whole) mask_scores<N>(s, row, key);
    softmax_step<DIM, N>(state, s, scale2);
    CK_UNROLL
    for (int u = 0; u < KEYS / 16; u++) {
        if (u < units)
            add_rows<T, DIM>(state.o, left_of<T>(s[2 * u], s[2 * u + 1]), v + 16 * u * tile_stride<DIM>);
    }
}

#endif

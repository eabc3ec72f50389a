/* four_columns.cuh - products of which a warp makes four side by side, d_j [16, 8] += a b_j, j < 4, column n
 * of the j-th being column 4 n + j of the matrix in memory. So a lane's share of a row of b is four
 * neighbours, and of a row of the result eight: columns [8 t, 8 t + 8) are d_j[g, 2 t], j < 4, then d_j[g, 2
 * t + 1].
 *
 * T: float or bf16, of the factors; a comes from rows in shared memory, as they are or turned. */
#ifndef COHORT_KERNELS_CUDA_FOUR_COLUMNS_CUH
#define COHORT_KERNELS_CUDA_FOUR_COLUMNS_CUH

#include "fragment.cuh"

template <typename T> struct left;
template <> struct left<float> { float v[8]; };
template <> struct left<bf16> { uint32_t v[4]; };
template <typename T> struct right_four;
template <> struct right_four<float> { float v[4][4]; };
template <> struct right_four<bf16> { uint32_t v[4][2]; };

/* 16 x 16 of a matrix, rows `stride` apart. */
static __device__ __forceinline__ void load_left(left<float> *a, shared<const float> p, int stride) {
    CK_UNROLL
    for (int i = 0; i < 4; i++) {
        float2 pair =
            load_as<float2>(p + ((fragment_g() + i % 2 * 8) * stride + 2 * fragment_t() + i / 2 * 8));
        a->v[2 * i] = pair.x, a->v[2 * i + 1] = pair.y;
    }
}
static __device__ __forceinline__ void load_left(left<bf16> *a, shared<const bf16> p, int stride) {
    int lane = (int)(threadIdx.x % 32);
    ldmatrix_x4(a->v, p + (lane % 16 * stride + lane / 16 * 8));
}

/* Its 16 columns as rows. */
static __device__ __forceinline__ void load_left_turned(left<float> *a, shared<const float> p, int stride) {
    CK_UNROLL
    for (int i = 0; i < 8; i++)
        a->v[i] = p[(2 * fragment_t() + i % 2 + i / 4 * 8) * stride + fragment_g() + i / 2 % 2 * 8];
}
static __device__ __forceinline__ void load_left_turned(left<bf16> *a, shared<const bf16> p, int stride) {
    int lane = (int)(threadIdx.x % 32);
    ldmatrix_x4_trans(a->v, p + ((lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8));
}

/* The rows 2t, 2t + 1, 2t + 8, 2t + 9 of the summed index that a lane has of the right factor. */
static __device__ __forceinline__ int right_row(int i) {
    return 2 * fragment_t() + i % 2 + i / 2 * 8;
}

static __device__ __forceinline__ void make_right(right_four<float> *b, const float4 rows[4]) {
    CK_UNROLL
    for (int i = 0; i < 4; i++)
        b->v[0][i] = rows[i].x, b->v[1][i] = rows[i].y, b->v[2][i] = rows[i].z, b->v[3][i] = rows[i].w;
}
static __device__ __forceinline__ void make_right(right_four<bf16> *b, const float4 rows[4]) {
    CK_UNROLL
    for (int i = 0; i < 2; i++) {
        const float4 low = rows[2 * i], high = rows[2 * i + 1];
        b->v[0][i] = pack_bf16(low.x, high.x), b->v[1][i] = pack_bf16(low.y, high.y);
        b->v[2][i] = pack_bf16(low.z, high.z), b->v[3][i] = pack_bf16(low.w, high.w);
    }
}

/* From the lane's shares of its four rows, [4][32][4] of T. */
static __device__ __forceinline__ void take_right(right_four<float> *b, shared<const float> own) {
    float4 rows[4];
    CK_UNROLL
    for (int i = 0; i < 4; i++) rows[i] = load_as<float4>(own + 128 * i);
    make_right(b, rows);
}
static __device__ __forceinline__ void take_right(right_four<bf16> *b, shared<const bf16> own) {
    CK_UNROLL
    for (int i = 0; i < 2; i++) {
        uint2 low = load_as<uint2>(own + 256 * i), high = load_as<uint2>(own + 256 * i + 128);
        b->v[0][i] = (low.x & 0xffffu) | high.x << 16, b->v[1][i] = low.x >> 16 | (high.x & 0xffff0000u);
        b->v[2][i] = (low.y & 0xffffu) | high.y << 16, b->v[3][i] = low.y >> 16 | (high.y & 0xffff0000u);
    }
}

/* A lane's own store of them, in 16s of bytes 512 apart. */
static __device__ __forceinline__ void put_right(shared<float> own, const right_four<float> &b) {
    CK_UNROLL
    for (int j = 0; j < 4; j++)
        store_as(own + 128 * j, make_float4(b.v[j][0], b.v[j][1], b.v[j][2], b.v[j][3]));
}
static __device__ __forceinline__ void put_right(shared<bf16> own, const right_four<bf16> &b) {
    CK_UNROLL
    for (int j = 0; j < 2; j++)
        store_as(own + 256 * j,
                 make_uint4(b.v[2 * j][0], b.v[2 * j][1], b.v[2 * j + 1][0], b.v[2 * j + 1][1]));
}
static __device__ __forceinline__ void get_right(right_four<float> *b, shared<const float> own) {
    CK_UNROLL
    for (int j = 0; j < 4; j++) {
        float4 v = load_as<float4>(own + 128 * j);
        b->v[j][0] = v.x, b->v[j][1] = v.y, b->v[j][2] = v.z, b->v[j][3] = v.w;
    }
}
static __device__ __forceinline__ void get_right(right_four<bf16> *b, shared<const bf16> own) {
    CK_UNROLL
    for (int j = 0; j < 2; j++) {
        uint4 v = load_as<uint4>(own + 256 * j);
        b->v[2 * j][0] = v.x, b->v[2 * j][1] = v.y, b->v[2 * j + 1][0] = v.z, b->v[2 * j + 1][1] = v.w;
    }
}

static __device__ __forceinline__ void multiply_four(float d[4][4], const left<float> &a,
                                                     const right_four<float> &b) {
    CK_UNROLL
    for (int j = 0; j < 4; j++) mma_f32_rounded(d[j], a.v, b.v[j]);
}
static __device__ __forceinline__ void multiply_four(float d[4][4], const left<bf16> &a,
                                                     const right_four<bf16> &b) {
    CK_UNROLL
    for (int j = 0; j < 4; j++) mma_bf16(d[j], a.v, b.v[j]);
}

#endif

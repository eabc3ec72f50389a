/* expert_gradient.cuh - gradients of the experts' weights as sums of a warp, over the tokens of its segments.
 *
 *   dB1 = (s h)^T du,  dA2 = (w q)^T a      [rank, F], for the columns of one warp;
 *       dB1 for each branch of the activation
 *
 * du and a lie in registers token by token; the tokens are the summed index of these products, so they pass
 * through shared memory to be transposed. The sums lie there too, private to each lane. */
#ifndef COHORT_KERNELS_CUDA_EXPERT_GRADIENT_CUH
#define COHORT_KERNELS_CUDA_EXPERT_GRADIENT_CUH

#include "expert_backward.cuh"

/* What a warp works on. */
typedef struct {
    global<const float> layer; /* of the device's parameters */
    int column;
    bool learn;
    shared<int32_t> group; /* [2] of experts: the first, and the one behind the last */
    /* dB1 [branches, group_tiles, N / 2] and dA2, sums of this lane; [CUDA_TILE, turn_stride] of T */
    shared<float> own;
} backward_place;

/* Sums of dB1 of one branch, or of dA2. */
template <int N, typename T> static __device__ __forceinline__ int sum_floats(const expert_backward<T> *op) {
    return op->group_tiles * (N / 2) * LANE_TILE;
}

/* ---- Rows that are transposed: token by token in, columns of a left factor out */

template <typename T, int N> struct turn_size {
    /* Elements from a row to the next: lanes meet different banks both ways. */
    enum : int {
        STRIDE = 8 * N + (sizeof(T) == sizeof(float) ? 4 : 8),
        FLOATS = CUDA_TILE * STRIDE * (int)sizeof(T) / (int)sizeof(float)
    };
};

template <typename T, int N>
static __device__ __forceinline__ void write_turned(shared<T> turn, const float d[N][4]) {
    CK_UNROLL
    for (int i = 0; i < 2 * N; i++) {
        int at = (fragment_g() + i % 2 * 8) * turn_size<T, N>::STRIDE + 8 * (i / 2) + 2 * fragment_t();
        store_two(turn + at, d[i / 2][i % 2 * 2], d[i / 2][i % 2 * 2 + 1]);
    }
}

/* Columns [16 m, 16 m + 16) as rows of a left factor whose summed index is the token. */
template <int N>
static __device__ __forceinline__ void read_turned(quad<float> *low, quad<float> *high, shared<float> turn,
                                                   int m) {
    CK_UNROLL
    for (int i = 0; i < 4; i++) {
        int at = (2 * fragment_t() + i % 2 + i / 2 * 8) * turn_size<float, N>::STRIDE + 16 * m + fragment_g();
        low->v[i] = turn[at];
        high->v[i] = turn[at + 8];
    }
}
template <int N>
static __device__ __forceinline__ void read_turned(quad<bf16> *low, quad<bf16> *high, shared<float> turn,
                                                   int m) {
    int lane = (int)(threadIdx.x % 32), matrix = lane / 8;
    uint32_t a[4];
    ldmatrix_x4_trans(a, retype<bf16>(turn) + ((matrix / 2 * 8 + lane % 8) * turn_size<bf16, N>::STRIDE +
                                               16 * m + matrix % 2 * 8));
    low->v[0] = a[0], high->v[0] = a[1], low->v[1] = a[2], high->v[1] = a[3];
}

/* ---- Adding a fragment */

/* sums += d^T x for every 16 columns and 8 ranks; row i of x times its gate (gated) and `factor`. */
template <typename M, typename T, int N>
static __device__ __forceinline__ void
add_gradient(const expert_backward<T> *op, shared<float> sums, const float d[N][4], const expert_view *view,
             const backward_place *place, int fragment, global<const float> x, int stride, int rank, int e,
             bool gated, float factor) {
    shared<float> turn = place->own + (M::BRANCHES + 1) * sum_floats<N>(op);
    forget(stride);
    int row[4];
    float w[4];
    __syncwarp(); /* the rows before have been read */
    write_turned<T, N>(retype<T>(turn), d);
    CK_UNROLL
    for (int i = 0; i < 4; i++) {
        row[i] = view->list[16 * fragment + 2 * fragment_t() + i % 2 + i / 2 * 8];
        w[i] = row[i] < 0 ? 0.0f : gated ? factor * view->gates[row[i] * GATE_STRIDE + e] : factor;
    }
    __syncwarp();
    CK_ROLL
    for (int j = 0; 8 * j < rank; j++) {
        float v[4];
        quad<T> b;
        int at = 8 * j + fragment_g();
        CK_UNROLL
        for (int i = 0; i < 4; i++) v[i] = row[i] >= 0 && at < rank ? w[i] * x[row[i] * stride + at] : 0.0f;
        make_quad(&b, v[0], v[1], v[2], v[3]);
        CK_UNROLL
        for (int m = 0; m < N / 2; m++) {
            quad<T> low, high;
            float c[4];
            shared<float> sum = lane_sum(sums, j * (N / 2) + m);
            read_turned<N>(&low, &high, turn, m);
            load_sum(c, sum);
            mma_quads(c, low, high, b);
            store_sum(sum, c);
        }
    }
}

/* ---- Writing them */

/* dB1 of one branch, or dA2, of the warp's columns and the group's experts. */
template <int N, bool wide>
static __device__ __forceinline__ void write_gradient(global<float> gradient, shared<const float> sums,
                                                      const ck_shape *shape, const backward_place *place,
                                                      int ffn) {
    int at = place->column + N * fragment_g();
    CK_ROLL
    for (int e = place->group[0], tile = 0; e < place->group[1]; e++) {
        CK_ROLL
        for (int j = 0; 8 * j < shape->rank[e]; j++, tile++) {
            float v[2][N];
            CK_UNROLL
            for (int m = 0; m < N / 2; m++) {
                float c[4];
                load_sum(c, sums + ((tile * (N / 2) + m) * LANE_TILE + 4 * (int)(threadIdx.x % 32)));
                CK_UNROLL
                for (int i = 0; i < 4; i++) v[i % 2][2 * m + i / 2] = c[i];
            }
            CK_UNROLL
            for (int i = 0; i < 2; i++) {
                int rank = 8 * j + 2 * fragment_t() + i;
                store_some<wide, N>(gradient + ((int64_t)(shape->rank_first[e] + rank) * ffn + at), v[i],
                                    rank < shape->rank[e] ? ffn - at : 0);
            }
        }
    }
}

template <typename M, typename T, int N, bool wide>
static __device__ __forceinline__ void write_gradients(const expert_backward<T> *op, const ck_shape *shape,
                                                       const cuda_device *device, const backward_place *place,
                                                       int index, int split) {
    if (!place->learn || place->column >= op->ffn) return;
    global<float> b1 = op->wave.gradients + (device->gradients + op->layer * shape->layer_stride + shape->b1);
    global<float> a2 = op->wave.gradients + (device->gradients + op->layer * shape->layer_stride + shape->a2);
    if (op->splits > 1) {
        int64_t one = (int64_t)op->max_ranks * op->ffn;
        b1 = op->sums + ((int64_t)index * op->splits + split) * (M::BRANCHES + 1) * one;
        a2 = b1 + M::BRANCHES * one;
    }
    CK_UNROLL
    for (int i = 0; i < M::BRANCHES; i++)
        write_gradient<N, wide>(b1 + (int64_t)(i * shape->rank_sum) * op->ffn,
                                place->own + i * sum_floats<N>(op), shape, place, op->ffn);
    write_gradient<N, wide>(a2, place->own + M::BRANCHES * sum_floats<N>(op), shape, place, op->ffn);
}

#endif

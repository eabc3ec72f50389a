/* expert_segment.cuh - the tokens, experts and weights of a segment (segmented.cuh), as the expert
 * activation's warps see them.
 *
 * A *fragment* is 16 tokens, the rows of a matrix instruction. A *pass* visits some experts with a list of
 * the segment's tokens, cut into fragments:
 *   dense     one pass, all experts, all tokens in order; a fragment visits the experts that one of its
 *             tokens chose
 *   gathered  a pass for each expert, the tokens that chose it; what a token's experts add up to is added in
 *             memory, pass by pass
 *
 * The regimes, by shape and tokens of the segment (E experts, K chosen):
 *   linear mix                    dense: one activation a token, however many experts
 *   E < 2 K                       dense: a gathered pass would save less than its second visit of U and m
 *                                 costs
 *   at most 16 tokens             dense: one fragment; it reads the weights of chosen experts only, which is
 *                                 the bound where devices have few tokens
 *   else                          gathered: K activations a token instead of (nearly) E
 *
 * Columns. A warp holds 8 N columns of a fragment. Column c of instruction n stands for column N c + n in
 * memory: then a lane's share of a row of activations is 2 N neighbours, and that of a row of weights N or 2
 * N neighbours, whichever way round the weights are wanted. */
#ifndef COHORT_KERNELS_CUDA_EXPERT_SEGMENT_CUH
#define COHORT_KERNELS_CUDA_EXPERT_SEGMENT_CUH

#include "activation.cuh"
#include "segmented.cuh"

enum { EXPERT_TILES = 8, EXPERT_ROWS = 16 * EXPERT_TILES, GATE_STRIDE = CK_MAX_EXPERTS + 1 };
enum { LANE_TILE = 128 }; /* floats of a 16 x 8 result, 4 a lane */
/* bytes that a block may ask for, its lists not counted: sm_80 has 163 KiB, later ones more */
enum { SHARED_LIMIT = 155648 };

typedef struct {
    const ck_shape *shape;
    int64_t token; /* the segment's first */
    int rows;
    shared<float> gates;     /* [EXPERT_ROWS, GATE_STRIDE] */
    shared<uint32_t> chosen; /* [EXPERT_ROWS] experts of each row, as bits */
    shared<int32_t> list;    /* [EXPERT_ROWS] of the pass: the row at each place; -1 behind the last */
    shared<uint32_t> masks;  /* [EXPERT_TILES] of the pass: experts of each fragment */
} expert_view;

#define EXPERT_VIEW(name, segment, shape)                                                                    \
    CK_SHARED(float, name##_gates, EXPERT_ROWS *GATE_STRIDE);                                                \
    CK_SHARED(uint32_t, name##_chosen, EXPERT_ROWS);                                                         \
    CK_SHARED(int32_t, name##_list, EXPERT_ROWS);                                                            \
    CK_SHARED(uint32_t, name##_masks, EXPERT_TILES);                                                         \
    expert_view name = {shape,         (segment).token, (segment).rows, name##_gates,                        \
                        name##_chosen, name##_list,     name##_masks}

typedef struct {
    int begin, end; /* experts */
    int fragments;
    bool gathered;
} expert_pass;

static __device__ __host__ __forceinline__ int rank_tiles(int rank) {
    return (rank + 7) / 8;
}
static __device__ __host__ __forceinline__ int rank_steps(int rank) {
    return (rank + 15) / 16;
}

static __device__ __forceinline__ bool is_gathered(const expert_view *view) {
    const ck_shape *shape = view->shape;
    return shape->mix == CK_MIX_MLP && shape->router_rows > 0 && shape->n_experts >= 2 * shape->top_k &&
           view->rows > 16;
}

/* ---- Lists; by the whole block, with a barrier behind each */

/* Gates and choices of the segment. A token without a choice (its logits were not numbers) is as if it chose
 * the first, with weight 0. */
static __device__ __forceinline__ void read_choices(const expert_view *view,
                                                    const cuda_rows<const float> *gates) {
    CK_ROLL
    for (int i = (int)threadIdx.x; i < view->rows * view->shape->n_experts; i += (int)blockDim.x) {
        int row = i / view->shape->n_experts, e = i - row * view->shape->n_experts;
        view->gates[row * GATE_STRIDE + e] = (float)gates->data[(view->token + row) * gates->columns + e];
    }
    __syncthreads();
    CK_ROLL
    for (int row = (int)threadIdx.x; row < view->rows; row += (int)blockDim.x) {
        uint32_t chosen = 0;
        CK_ROLL
        for (int e = 0; e < view->shape->n_experts; e++)
            chosen |= (uint32_t)(view->gates[row * GATE_STRIDE + e] != 0.0f) << e;
        view->chosen[row] = chosen ? chosen : 1u;
    }
    __syncthreads();
}

static __device__ __forceinline__ expert_pass list_all(const expert_view *view) {
    expert_pass pass = {0, view->shape->n_experts, (view->rows + 15) / 16, false};
    CK_ROLL
    for (int i = (int)threadIdx.x; i < 16 * pass.fragments; i += (int)blockDim.x)
        view->list[i] = i < view->rows ? i : -1;
    CK_ROLL
    for (int j = (int)threadIdx.x; j < pass.fragments; j += (int)blockDim.x) {
        uint32_t mask = 0;
        CK_ROLL
        for (int row = 16 * j; row < 16 * j + 16 && row < view->rows; row++) mask |= view->chosen[row];
        view->masks[j] = mask;
    }
    __syncthreads();
    return pass;
}

/* Every warp counts; the first one writes. */
static __device__ __forceinline__ expert_pass list_chosen(const expert_view *view, int e) {
    int lane = (int)(threadIdx.x % 32), count = 0;
    bool writes = threadIdx.x < 32;
    CK_ROLL
    for (int first = 0; first < view->rows; first += 32) {
        int row = first + lane;
        bool here = row < view->rows && (view->chosen[row] >> e & 1);
        uint32_t found = __ballot_sync(0xffffffffu, here);
        if (here && writes) view->list[count + __popc(found & ((1u << lane) - 1))] = row;
        count += __popc(found);
    }
    expert_pass pass = {e, e + 1, (count + 15) / 16, true};
    if (writes && lane < 16 * pass.fragments - count) view->list[count + lane] = -1;
    if (writes && lane < pass.fragments) view->masks[lane] = 1u << e;
    __syncthreads();
    return pass;
}

/* ---- The lane's two rows of a fragment */

typedef struct {
    int row[2]; /* of the segment; -1: none */
} lane_rows;

static __device__ __forceinline__ lane_rows rows_of(const expert_view *view, int fragment) {
    lane_rows rows = {
        {view->list[16 * fragment + fragment_g()], view->list[16 * fragment + 8 + fragment_g()]}};
    return rows;
}

static __device__ __forceinline__ void gates_of(float w[2], const expert_view *view, lane_rows rows, int e) {
    CK_UNROLL
    for (int half = 0; half < 2; half++)
        w[half] = rows.row[half] >= 0 ? (float)view->gates[rows.row[half] * GATE_STRIDE + e] : 0.0f;
}

/* d = the lane's columns of its rows; at: the segment's first row, the warp's first column, of which
 * `columns` are left. */
template <int N, bool wide, typename P>
static __device__ __forceinline__ void load_fragment(float d[N][4], P at, int stride, lane_rows rows,
                                                     int columns) {
    int column = 2 * N * fragment_t();
    forget(stride);
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        float v[2 * N];
        load_some<wide, 2 * N>(v, at + (rows.row[half] * stride + column),
                               rows.row[half] >= 0 ? columns - column : 0);
        CK_UNROLL
        for (int i = 0; i < 2 * N; i++) d[i % N][2 * half + i / N] = v[i];
    }
}

template <int N, bool wide, typename P>
static __device__ __forceinline__ void store_fragment(const float d[N][4], P at, int stride, lane_rows rows,
                                                      int columns) {
    int column = 2 * N * fragment_t();
    forget(stride);
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        float v[2 * N];
        CK_UNROLL
        for (int i = 0; i < 2 * N; i++) v[i] = d[i % N][2 * half + i / N];
        store_some<wide, 2 * N>(at + (rows.row[half] * stride + column), v,
                                rows.row[half] >= 0 ? columns - column : 0);
    }
}

/* Columns of the activation's branches, which lie F columns apart. */
template <typename M, int N> using branches = float[M::BRANCHES][N][4];

template <typename M, int N, bool wide, typename P>
static __device__ __forceinline__ void load_branches(branches<M, N> &u, P at, int stride, int ffn,
                                                     lane_rows rows, int columns) {
    CK_UNROLL
    for (int i = 0; i < M::BRANCHES; i++) load_fragment<N, wide>(u[i], at + i * ffn, stride, rows, columns);
}

/* d += what earlier passes have left for the lane's rows. */
template <int N, bool wide, typename P>
static __device__ __forceinline__ void add_earlier(float d[N][4], const expert_view *view, int e, P at,
                                                   int stride, lane_rows rows, int columns) {
    lane_rows begun = rows;
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        if (rows.row[half] >= 0 && !(view->chosen[rows.row[half]] & ((1u << e) - 1))) begun.row[half] = -1;
    }
    float before[N][4];
    load_fragment<N, wide>(before, at, stride, begun, columns);
    CK_UNROLL
    for (int i = 0; i < 4 * N; i++) d[i / 4][i % 4] += before[i / 4][i % 4];
}

/* ---- Ranks of a row: the lane's four of a step of 16, times factor */

template <typename T>
static __device__ __forceinline__ quad<T> rank_quad(global<const float> ranks, int left, float factor) {
    float v[4];
    CK_UNROLL
    for (int i = 0; i < 4; i++) {
        int rank = 2 * fragment_t() + i % 2 + i / 2 * 8;
        v[i] = rank < left ? factor * ranks[rank] : 0.0f;
    }
    quad<T> q;
    make_quad(&q, v[0], v[1], v[2], v[3]);
    return q;
}

/* In shared memory, one access. */
static __device__ __forceinline__ void store_quad(shared<float> at, const quad<float> &q) {
    store_as(at, make_float4(q.v[0], q.v[1], q.v[2], q.v[3]));
}
static __device__ __forceinline__ void store_quad(shared<float> at, const quad<bf16> &q) {
    uint2 pairs = {q.v[0], q.v[1]};
    store_as(at, pairs);
}
static __device__ __forceinline__ void load_quad(quad<float> *q, shared<const float> at) {
    float4 v = load_as<float4>(at);
    q->v[0] = v.x, q->v[1] = v.y, q->v[2] = v.z, q->v[3] = v.w;
}
static __device__ __forceinline__ void load_quad(quad<bf16> *q, shared<const float> at) {
    uint2 v = load_as<uint2>(at);
    q->v[0] = v.x, q->v[1] = v.y;
}

/* ---- Weights [rank, F] of an expert: at its first rank and the warp's first column */

typedef struct {
    global<const float> at;
    int rank, columns; /* columns that are left in F */
    int ffn;
} expert_weight;

static __device__ __forceinline__ expert_weight weight_of(global<const float> weight, const ck_shape *shape,
                                                          int e, int column, int ffn) {
    expert_weight w = {weight + ((int64_t)shape->rank_first[e] * ffn + column), shape->rank[e], ffn - column,
                       ffn};
    return w;
}

/* The rows of B1 for one branch of the activation (swiglu_mlp: the gate's, then the up's), given those for
 * the first. */
static __device__ __forceinline__ expert_weight of_branch(expert_weight w, const ck_shape *shape,
                                                          int branch) {
    w.at += (int64_t)(branch * shape->rank_sum) * w.ffn;
    return w;
}

/* b[n]: ranks [k, k + 16) down, columns along: for products that make columns. */
template <typename T, int N, bool wide>
static __device__ __forceinline__ void weight_down(quad<T> b[N], const expert_weight *w, int k) {
    float v[4][N];
    int column = N * fragment_g(), ffn = w->ffn;
    forget(ffn);
    CK_UNROLL
    for (int i = 0; i < 4; i++) {
        int rank = k + 2 * fragment_t() + i % 2 + i / 2 * 8;
        load_some<wide, N>(v[i], w->at + (rank * ffn + column), rank < w->rank ? w->columns - column : 0);
    }
    CK_UNROLL
    for (int n = 0; n < N; n++) make_quad(&b[n], v[0][n], v[1][n], v[2][n], v[3][n]);
}

/* c += d W^T for ranks [8 j, 8 j + 8). */
template <typename T, int N, bool wide>
static __device__ __forceinline__ void add_ranks(float c[4], const float d[N][4], const expert_weight *w,
                                                 int j) {
    float v[2 * N];
    int rank = 8 * j + fragment_g(), column = 2 * N * fragment_t(), ffn = w->ffn;
    forget(ffn);
    load_some<wide, 2 * N>(v, w->at + (rank * ffn + column), rank < w->rank ? w->columns - column : 0);
    CK_UNROLL
    for (int n = 0; n < N; n += 2) {
        quad<T> low, high, b;
        make_quad(&low, d[n][0], d[n][1], d[n + 1][0], d[n + 1][1]);
        make_quad(&high, d[n][2], d[n][3], d[n + 1][2], d[n + 1][3]);
        make_quad(&b, v[n], v[N + n], v[n + 1], v[N + n + 1]);
        mma_quads(c, low, high, b);
    }
}

/* ---- Sums that belong to one lane, in shared memory */

static __device__ __forceinline__ shared<float> lane_sum(shared<float> sums, int tile) {
    return sums + (tile * LANE_TILE + 4 * (int)(threadIdx.x % 32));
}

static __device__ __forceinline__ void load_sum(float c[4], shared<const float> sum) {
    float4 v = load_as<float4>(sum);
    c[0] = v.x, c[1] = v.y, c[2] = v.z, c[3] = v.w;
}

static __device__ __forceinline__ void store_sum(shared<float> sum, const float c[4]) {
    store_as(sum, make_float4(c[0], c[1], c[2], c[3]));
}

static __device__ __forceinline__ void clear_sums(shared<float> sums, int tiles) {
    for (int i = 0; i < tiles; i++) store_as(lane_sum(sums, i), make_float4(0, 0, 0, 0));
}

/* ---- Host */

/* Tiles of a segment: enough tokens for weights and lists to be used often, where that leaves blocks enough.
 */
static inline int expert_tiles(const cuda_wave *wave) {
    int tiles = EXPERT_TILES;
    while (tiles > 1 && (wave->n_tiles / tiles < cuda_limits.expert_blocks ||
                         wave->n_tiles / wave->n_devices * 2 <= tiles))
        tiles /= 2;
    return tiles;
}

#endif

/* expert_activation.cu - the experts' activation and gate mix around one base product (README, The mathematics).
 *
 *   MLP mix:     u_e = U + s_e h_e B1_e, a_e = gelu(u_e), m = sum_e w_e a_e, g_e = a_e A2_e^T
 *     backward:  v_e = dm + q_e A2_e, du_e = w_e v_e gelu'(u_e), dU = sum_e du_e, p_e = s_e du_e B1_e^T, dw_e += <a_e, dm>,
 *                dB1_e = s_e h_e^T du_e, dA2_e = (w_e q_e)^T a_e
 *   linear mix:  u = U + sum_e w_e s_e h_e B1_e, m = gelu(u), g_e = m A2_e^T
 *     backward:  du = (dm + sum_e w_e q_e A2_e) gelu'(u), p_e = w_e s_e du B1_e^T, dw_e += <h_e, s_e du B1_e^T>,
 *                dB1_e = (w_e s_e h_e)^T du, dA2_e = (w_e q_e)^T m
 *
 * U, m, dm, dU [T, F]; h, g, q, p [T, S]; w [T, 16]; B1, A2 [S, F] of each device and layer, one row per rank. f32 throughout; products by
 * mma_f32. g and p are 0 where w_e is 0, and dw is left as it was.
 *
 * Dense in the tile: a tile is 16 tokens of one device, a warp holds 16 x 32 of it in registers and visits every expert that one of the 16
 * tokens chose. U is read once and m written once, straight from and to the fragments of the matrix instruction (each lane's pair of
 * columns; four lanes make a 32-byte sector). With many experts and small K most of the activations are computed for nothing: that is
 * the business of another regime.
 *
 * Forward. Block: a tile, all of F. Warp: columns [32 w, 32 w + 32), then 32 WARPS further on. What a warp adds to g lies in shared memory,
 * private to each lane, and is summed over warps at the end, in order.
 *
 * Backward. Block: one device, 32 columns a warp (16 where ranks are many); it walks the device's tiles in order and so owns dB1 and dA2 of
 * its columns: no atomics, the same bits every time. Their sums lie in shared memory, private to each lane. du_e and a_e pass through
 * shared memory to be transposed. p and dw need all of F: a block's part goes to the workspace, [T, blocks over F, S + E], and a second
 * kernel sums the parts in order.
 *
 * Bytes a token: forward 8 F, backward 12 F + 8 (S + E) F / 256 for the parts (f32). FLOPs a token, dense: 4 F S forward, 10 F S backward
 * in products, about 25 F E in elementwise work each way. The bound: memory while S is small; f32 products run at a sixth of the tf32 rate.
 */
#include "expert_activation.cuh"
#include "fragment.cuh"

enum { FORWARD_COLUMNS = 4 };   /* tiles of 8 columns a warp holds */
enum { LANE_TILE = 128 };       /* floats of a 16 x 8 result, 4 per lane */
enum { SHARED_LIMIT = 166912 }; /* bytes a block may have on sm_80; later ones have more */

/* ---- A tile as a warp sees it ---- */

typedef struct {
    const ck_shape *shape;
    int64_t token; /* its first */
    int rows;
    uint32_t experts; /* chosen by one of its tokens, as bits; the same in all warps of the block */
} tile_view;

static __device__ __forceinline__ uint32_t chosen_experts(const cuda_rows<const float> *gates, const tile_view *tile) {
    int row = (int)(threadIdx.x % 32);
    uint32_t chosen = 0;
    for (int e = 0; e < tile->shape->n_experts && row < tile->rows; e++) {
        chosen |= (uint32_t)(gates->data[(tile->token + row) * gates->columns + e] != 0.0f) << e;
    }
    CK_UNROLL
    for (int step = 16; step > 0; step /= 2) chosen |= __shfl_xor_sync(0xffffffffu, chosen, step);
    return chosen;
}

/* w_e of rows g and g + 8, times `factor`. */
static __device__ __forceinline__ void load_gates(float w[2], const cuda_rows<const float> *gates, const tile_view *tile, int e,
                                                  float factor) {
    int g = fragment_g();
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        int row = g + 8 * half;
        w[half] = row < tile->rows ? factor * gates->data[(tile->token + row) * gates->columns + e] : 0.0f;
    }
}

/* Columns of a warp in one expert's rows of a weight [rank, F]. */
typedef struct {
    global<const float> rows; /* at the expert's first rank and the warp's first column */
    int rank, columns;        /* columns that are left in F */
    int64_t ffn;
} weight_view;

static __device__ __forceinline__ weight_view weight_of(global<const float> weight, const ck_shape *shape, int e, int column, int ffn) {
    weight_view view = {weight + ((int64_t)shape->rank_first[e] * ffn + column), shape->rank[e], ffn - column, ffn};
    return view;
}

/* d += x W: x [16, rank] with its rows times factor. */
template <int N>
static __device__ __forceinline__ void add_product(float d[N][4], global<const float> x, int64_t stride, int rows, const float factor[2],
                                                   weight_view weight) {
    for (int k = 0; k < weight.rank; k += 16) {
        float a[8], b[4];
        load_a(a, x + k, stride, rows, weight.rank - k, factor);
        CK_UNROLL
        for (int n = 0; n < N; n++) {
            load_b(b, weight.rows + (k * weight.ffn + 8 * n), weight.ffn, weight.rank - k, weight.columns - 8 * n);
            mma_f32(d[n], a, b);
        }
    }
}

/* c += d W^T for ranks [8 j, 8 j + 8). */
template <int N, bool pairs>
static __device__ __forceinline__ void add_turned_product(float c[4], const float d[N][4], weight_view weight, int j) {
    CK_UNROLL
    for (int n = 0; n < N; n += 2) {
        float a[8], b[4];
        a_from_tiles(a, d[n], d[n + 1]);
        load_b_turned<pairs>(b, weight.rows + (8 * j * weight.ffn + 8 * n), weight.ffn, weight.rank - 8 * j, weight.columns - 8 * n);
        mma_f32(c, a, b);
    }
}

/* ---- GELU, tanh form: u sigma(v), v = 2 sqrt(2/pi) (u + 0.044715 u^3) ---- */

static __device__ __forceinline__ float gelu_slope(float u, float *slope) {
    const float scale = 1.59576912f, cubic = 0.044715f;
    float square = u * u, v = scale * u * (1.0f + cubic * square);
    float sigma = fast_divide(1.0f, 1.0f + fast_exp(-v)), value = u * sigma;
    *slope = sigma + value * (1.0f - sigma) * scale * (1.0f + 3.0f * cubic * square);
    return value;
}

static __device__ __forceinline__ float gelu(float u) {
    float slope;
    return gelu_slope(u, &slope);
}

/* ---- Sums that belong to one lane, in shared memory ---- */

static __device__ __forceinline__ shared<float> lane_sum(shared<float> sums, int tile) {
    return sums + (tile * LANE_TILE + 4 * (int)(threadIdx.x % 32));
}

static __device__ __forceinline__ void load_sum(float c[4], shared<float> sum) {
    float4 v = load_as<float4>(sum);
    c[0] = v.x, c[1] = v.y, c[2] = v.z, c[3] = v.w;
}

static __device__ __forceinline__ void store_sum(shared<float> sum, const float c[4]) {
    store_as(sum, make_float4(c[0], c[1], c[2], c[3]));
}

static __device__ __forceinline__ void clear_sums(shared<float> sums, int tiles) {
    for (int i = 0; i < tiles; i++) store_as(lane_sum(sums, i), make_float4(0, 0, 0, 0));
}

/* ---- Forward ---- */

typedef struct {
    tile_view tile;
    global<const float> h, b1, a2; /* h: the tile's first row, the device's first rank */
} forward_view;

/* sums[first + j] += a A2_e^T. */
template <bool pairs>
static __device__ __forceinline__ void add_g(shared<float> sums, int first, const float a[FORWARD_COLUMNS][4], weight_view a2) {
    for (int j = 0; 8 * j < a2.rank; j++) {
        float c[4];
        load_sum(c, lane_sum(sums, first + j));
        add_turned_product<FORWARD_COLUMNS, pairs>(c, a, a2, j);
        store_sum(lane_sum(sums, first + j), c);
    }
}

static __device__ __forceinline__ int rank_tiles(int rank) {
    return (rank + 7) / 8;
}

/* u -> m, and what these columns add to g. */
template <bool pairs>
static __device__ __forceinline__ void mix_outputs(const cuda_expert_activation *op, const forward_view *view, shared<float> sums,
                                                   const float u[FORWARD_COLUMNS][4], float m[FORWARD_COLUMNS][4], int column) {
    const ck_shape *shape = view->tile.shape;
    for (int e = 0, first = 0; e < shape->n_experts; first += rank_tiles(shape->rank[e]), e++) {
        if (!(view->tile.experts >> e & 1)) continue;
        float a[FORWARD_COLUMNS][4], w[2];
        const float scale[2] = {shape->scale[e], shape->scale[e]};
        CK_UNROLL
        for (int i = 0; i < 4 * FORWARD_COLUMNS; i++) a[i / 4][i % 4] = u[i / 4][i % 4];
        add_product<FORWARD_COLUMNS>(a, view->h + shape->rank_first[e], op->zh.columns, view->tile.rows, scale,
                                     weight_of(view->b1, shape, e, column, op->ffn));
        load_gates(w, &op->gates, &view->tile, e, 1.0f);
        CK_UNROLL
        for (int i = 0; i < 4 * FORWARD_COLUMNS; i++) {
            a[i / 4][i % 4] = gelu(a[i / 4][i % 4]);
            m[i / 4][i % 4] += w[i % 4 / 2] * a[i / 4][i % 4];
        }
        add_g<pairs>(sums, first, a, weight_of(view->a2, shape, e, column, op->ffn));
    }
}

template <bool pairs>
static __device__ __forceinline__ void mix_inputs(const cuda_expert_activation *op, const forward_view *view, shared<float> sums,
                                                  float u[FORWARD_COLUMNS][4], float m[FORWARD_COLUMNS][4], int column) {
    const ck_shape *shape = view->tile.shape;
    for (int e = 0; e < shape->n_experts; e++) {
        if (!(view->tile.experts >> e & 1)) continue;
        float factor[2];
        load_gates(factor, &op->gates, &view->tile, e, shape->scale[e]);
        add_product<FORWARD_COLUMNS>(u, view->h + shape->rank_first[e], op->zh.columns, view->tile.rows, factor,
                                     weight_of(view->b1, shape, e, column, op->ffn));
    }
    CK_UNROLL
    for (int i = 0; i < 4 * FORWARD_COLUMNS; i++) m[i / 4][i % 4] = gelu(u[i / 4][i % 4]);
    for (int e = 0, first = 0; e < shape->n_experts; first += rank_tiles(shape->rank[e]), e++) {
        if (view->tile.experts >> e & 1) add_g<pairs>(sums, first, m, weight_of(view->a2, shape, e, column, op->ffn));
    }
}

/* g of the tile from every warp's sums; the tiles of 8 ranks are dealt to the warps. */
static __device__ __forceinline__ void write_g(const cuda_expert_activation *op, const tile_view *tile, shared<const float> sums,
                                               int stride) {
    const ck_shape *shape = tile->shape;
    int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    for (int e = 0, first = 0; e < shape->n_experts; first += rank_tiles(shape->rank[e]), e++) {
        float w[2];
        load_gates(w, &op->gates, tile, e, 1.0f);
        for (int j = 0; 8 * j < shape->rank[e]; j++) {
            if ((first + j) % warps != warp) continue;
            float c[1][4] = {{0, 0, 0, 0}};
            for (int other = 0; other < warps && (tile->experts >> e & 1); other++) {
                float4 v = load_as<float4>(sums + (other * stride + (first + j) * LANE_TILE + 4 * (int)(threadIdx.x % 32)));
                c[0][0] += v.x, c[0][1] += v.y, c[0][2] += v.z, c[0][3] += v.w;
            }
            CK_UNROLL
            for (int i = 0; i < 4; i++) c[0][i] = w[i / 2] != 0.0f ? c[0][i] : 0.0f;
            store_tile<1, false>(c, op->g.data + (tile->token * op->g.columns + shape->rank_first[e] + 8 * j), op->g.columns, tile->rows,
                                 shape->rank[e] - 8 * j);
        }
    }
}

/* pairs: rows of u and m, and of the weights, begin at even offsets. */
template <bool pairs> static __global__ void __launch_bounds__(256) expert_activation_kernel(cuda_expert_activation op) {
    CK_DYNAMIC_SHARED(float, arena);
    const cuda_tile *entry = record(op.wave.tiles + blockIdx.x);
    if (entry->rows == 0) return;
    const cuda_device *device = record(op.wave.devices + entry->device);
    const ck_shape *shape = record(op.wave.shapes + device->shape);
    global<const float> layer = op.wave.parameters + (device->parameters + op.layer * shape->layer_stride);
    forward_view view = {{shape, entry->first_token, entry->rows, 0},
                         op.zh.data + (entry->first_token * op.zh.columns + shape->router_rows),
                         layer + shape->b1,
                         layer + shape->a2};
    view.tile.experts = chosen_experts(&op.gates, &view.tile);
    int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32, stride = op.limits.rank_tiles * LANE_TILE;
    shared<float> sums = part(arena + warp * stride, stride);
    clear_sums(sums, op.limits.rank_tiles);
    for (int column = warp * 8 * FORWARD_COLUMNS; column < op.ffn; column += warps * 8 * FORWARD_COLUMNS) {
        float u[FORWARD_COLUMNS][4], m[FORWARD_COLUMNS][4] = {};
        load_tile<FORWARD_COLUMNS, pairs>(u, op.u.data + (entry->first_token * op.u.columns + column), op.u.columns, entry->rows,
                                          op.ffn - column);
        if (shape->mix == CK_MIX_MLP)
            mix_outputs<pairs>(&op, &view, sums, u, m, column);
        else
            mix_inputs<pairs>(&op, &view, sums, u, m, column);
        store_tile<FORWARD_COLUMNS, pairs>(m, op.m.data + (entry->first_token * op.m.columns + column), op.m.columns, entry->rows,
                                           op.ffn - column);
    }
    __syncthreads();
    write_g(&op, &view.tile, arena, stride);
}

/* ---- Backward: one device, the columns of one block ---- */

enum { TURN_STRIDE = 36 }; /* of the rows that are transposed: neighbouring lanes meet different banks both ways */

typedef struct {
    tile_view tile;
    global<const float> h, q; /* the tile's first row, the device's first rank */
    global<const float> b1, a2;
    int column, parts_columns; /* the warp's first column; S + E of the parts */
    bool learn;
    shared<float> turn;       /* [2, CUDA_TILE, TURN_STRIDE]: du_e and a_e */
    shared<float> d_b1, d_a2; /* [rank tiles, N / 2] sums of this lane */
    shared<float> parts;      /* [CUDA_TILE, S + E]: this warp's part of p (without the linear mix's w) and of dw */
} backward_view;

/* parts[:, rank_first + 8 j ..] = factor du B1^T. */
template <int N, bool pairs>
static __device__ __forceinline__ void write_p_part(const backward_view *view, int e, const float du[N][4], weight_view b1) {
    const ck_shape *shape = view->tile.shape;
    int g = fragment_g(), t = fragment_t();
    for (int j = 0; 8 * j < b1.rank; j++) {
        float c[4] = {0, 0, 0, 0};
        add_turned_product<N, pairs>(c, du, b1, j);
        CK_UNROLL
        for (int i = 0; i < 4; i++) {
            int rank = 8 * j + 2 * t + i % 2, row = g + i / 2 * 8;
            if (rank < b1.rank) view->parts[row * view->parts_columns + shape->rank_first[e] + rank] = shape->scale[e] * c[i];
        }
    }
}

template <int N> static __device__ __forceinline__ void write_turned(shared<float> rows, const float d[N][4]) {
    int g = fragment_g(), t = fragment_t();
    CK_UNROLL
    for (int n = 0; n < N; n++) {
        store_as(rows + (g * TURN_STRIDE + 8 * n + 2 * t), make_float2(d[n][0], d[n][1]));
        store_as(rows + ((g + 8) * TURN_STRIDE + 8 * n + 2 * t), make_float2(d[n][2], d[n][3]));
    }
}

/* sums[first + j] += rows^T x for every 16 columns and 8 ranks; x [16, rank] with its rows times factor(row). */
template <int N>
static __device__ __forceinline__ void add_weight_gradient(shared<float> sums, int first, shared<const float> rows,
                                                           const backward_view *view, global<const float> x, int64_t stride, int rank,
                                                           const cuda_rows<const float> *gates, int e, float factor) {
    int g = fragment_g(), t = fragment_t();
    float w[4];
    CK_UNROLL
    for (int i = 0; i < 4; i++) {
        int row = 2 * t + i % 2 + i / 2 * 8;
        bool inside = row < view->tile.rows;
        w[i] = !inside ? 0.0f : gates ? factor * gates->data[(view->tile.token + row) * gates->columns + e] : factor;
    }
    for (int j = 0; 8 * j < rank; j++) {
        float b[4];
        load_b(b, x + 8 * j, stride, view->tile.rows, rank - 8 * j);
        CK_UNROLL
        for (int i = 0; i < 4; i++) b[i] *= w[i];
        CK_UNROLL
        for (int n = 0; n < N / 2; n++) {
            float a[8], c[4];
            CK_UNROLL
            for (int i = 0; i < 8; i++) a[i] = rows[(2 * t + i % 2 + i / 4 * 8) * TURN_STRIDE + 16 * n + g + i / 2 % 2 * 8];
            shared<float> sum = lane_sum(sums, (first + j) * (N / 2) + n);
            load_sum(c, sum);
            mma_f32(c, a, b);
            store_sum(sum, c);
        }
    }
}

/* Row sums over the warp's columns. */
static __device__ __forceinline__ void write_dw_part(const backward_view *view, int e, float dot[2]) {
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        dot[half] += __shfl_xor_sync(0xffffffffu, dot[half], 1);
        dot[half] += __shfl_xor_sync(0xffffffffu, dot[half], 2);
        if (fragment_t() == 0) view->parts[(fragment_g() + 8 * half) * view->parts_columns + view->tile.shape->rank_sum + e] = dot[half];
    }
}

/* du += the expert's share; everything else that the expert's du_e and a_e give. */
template <int N, bool pairs>
static __device__ __forceinline__ void expert_backward(const cuda_expert_activation_backward *op, const backward_view *view, int e,
                                                       int first, const float u[N][4], const float dm[N][4], float du[N][4]) {
    const ck_shape *shape = view->tile.shape;
    const float one[2] = {1, 1}, scale[2] = {shape->scale[e], shape->scale[e]};
    weight_view b1 = weight_of(view->b1, shape, e, view->column, op->ffn), a2 = weight_of(view->a2, shape, e, view->column, op->ffn);
    global<const float> h = view->h + shape->rank_first[e], q = view->q + shape->rank_first[e];
    float a[N][4], v[N][4], w[2], dot[2] = {0, 0};
    CK_UNROLL
    for (int i = 0; i < 4 * N; i++) {
        a[i / 4][i % 4] = u[i / 4][i % 4];
        v[i / 4][i % 4] = dm[i / 4][i % 4];
    }
    add_product<N>(a, h, op->zh.columns, view->tile.rows, scale, b1);
    add_product<N>(v, q, op->q.columns, view->tile.rows, one, a2);
    load_gates(w, &op->gates, &view->tile, e, 1.0f);
    CK_UNROLL
    for (int i = 0; i < 4 * N; i++) {
        float slope, value = gelu_slope(a[i / 4][i % 4], &slope);
        dot[i % 4 / 2] += value * dm[i / 4][i % 4];
        a[i / 4][i % 4] = value;
        v[i / 4][i % 4] *= w[i % 4 / 2] * slope;
        du[i / 4][i % 4] += v[i / 4][i % 4];
    }
    write_dw_part(view, e, dot);
    write_p_part<N, pairs>(view, e, v, b1);
    if (!view->learn) return;
    shared<float> turned_du = view->turn, turned_a = view->turn + CUDA_TILE * TURN_STRIDE;
    __syncwarp(); /* the last expert's rows have been read */
    write_turned<N>(turned_du, v);
    write_turned<N>(turned_a, a);
    __syncwarp();
    add_weight_gradient<N>(view->d_b1, first, turned_du, view, h, op->zh.columns, b1.rank, NULL, e, shape->scale[e]);
    add_weight_gradient<N>(view->d_a2, first, turned_a, view, q, op->q.columns, b1.rank, &op->gates, e, 1.0f);
}

template <int N, bool pairs>
static __device__ __forceinline__ void mix_outputs_backward(const cuda_expert_activation_backward *op, const backward_view *view,
                                                            const float u[N][4], const float dm[N][4], float du[N][4]) {
    const ck_shape *shape = view->tile.shape;
    for (int e = 0, first = 0; e < shape->n_experts; first += rank_tiles(shape->rank[e]), e++) {
        if (view->tile.experts >> e & 1) expert_backward<N, pairs>(op, view, e, first, u, dm, du);
    }
}

/* u <- m, v <- du, once for all experts. */
template <int N, bool pairs>
static __device__ __forceinline__ void mix_inputs_backward(const cuda_expert_activation_backward *op, const backward_view *view,
                                                           float u[N][4], float v[N][4]) {
    const ck_shape *shape = view->tile.shape;
    for (int e = 0; e < shape->n_experts; e++) {
        if (!(view->tile.experts >> e & 1)) continue;
        float w[2], scaled[2];
        load_gates(w, &op->gates, &view->tile, e, 1.0f);
        load_gates(scaled, &op->gates, &view->tile, e, shape->scale[e]);
        add_product<N>(u, view->h + shape->rank_first[e], op->zh.columns, view->tile.rows, scaled,
                       weight_of(view->b1, shape, e, view->column, op->ffn));
        add_product<N>(v, view->q + shape->rank_first[e], op->q.columns, view->tile.rows, w,
                       weight_of(view->a2, shape, e, view->column, op->ffn));
    }
    CK_UNROLL
    for (int i = 0; i < 4 * N; i++) {
        float slope;
        u[i / 4][i % 4] = gelu_slope(u[i / 4][i % 4], &slope);
        v[i / 4][i % 4] *= slope;
    }
    shared<float> turned_du = view->turn, turned_m = view->turn + CUDA_TILE * TURN_STRIDE;
    __syncwarp();
    write_turned<N>(turned_du, v);
    write_turned<N>(turned_m, u);
    __syncwarp();
    for (int e = 0, first = 0; e < shape->n_experts; first += rank_tiles(shape->rank[e]), e++) {
        if (!(view->tile.experts >> e & 1)) continue;
        int rank = shape->rank[e], at = shape->rank_first[e];
        write_p_part<N, pairs>(view, e, v, weight_of(view->b1, shape, e, view->column, op->ffn));
        if (!view->learn) continue;
        add_weight_gradient<N>(view->d_b1, first, turned_du, view, view->h + at, op->zh.columns, rank, &op->gates, e, shape->scale[e]);
        add_weight_gradient<N>(view->d_a2, first, turned_m, view, view->q + at, op->q.columns, rank, &op->gates, e, 1.0f);
    }
}

/* The block's part of p and dw: its warps' parts, summed in order. An expert outside the tile has none. */
static __device__ __forceinline__ void write_block_part(const cuda_expert_activation_backward *op, const backward_view *view,
                                                        shared<const float> parts, int stride) {
    const ck_shape *shape = view->tile.shape;
    int warps = (int)blockDim.x / 32, lane = (int)threadIdx.x;
    int columns = op->limits.rank_sum + op->limits.experts;
    for (int i = lane; i < view->tile.rows * columns; i += (int)blockDim.x) {
        int row = i / columns, column = i % columns, e = column - shape->rank_sum;
        if (e >= shape->n_experts) continue;
        if (e < 0) {
            for (e = 0; column >= shape->rank_first[e + 1];) e++;
        } else if (shape->mix == CK_MIX_LINEAR) {
            continue;
        }
        if (!(view->tile.experts >> e & 1)) continue;
        float sum = 0;
        for (int w = 0; w < warps; w++) sum += parts[w * stride + row * columns + column];
        op->workspace[((view->tile.token + row) * gridDim.y + blockIdx.y) * columns + column] = sum;
    }
}

/* dB1 or dA2 of the warp's columns. */
template <int N>
static __device__ __forceinline__ void write_weight_gradient(global<float> gradient, shared<const float> sums, const ck_shape *shape,
                                                             int column, int ffn) {
    int g = fragment_g(), t = fragment_t(), lane = (int)(threadIdx.x % 32);
    for (int e = 0, tile = 0; e < shape->n_experts; e++) {
        for (int j = 0; 8 * j < shape->rank[e]; j++, tile++) {
            CK_UNROLL
            for (int n = 0; n < N / 2; n++) {
                float4 sum = load_as<float4>(sums + ((tile * (N / 2) + n) * LANE_TILE + 4 * lane));
                const float c[4] = {sum.x, sum.y, sum.z, sum.w};
                CK_UNROLL
                for (int i = 0; i < 4; i++) {
                    int rank = 8 * j + 2 * t + i % 2, at = column + 16 * n + g + i / 2 * 8;
                    if (rank < shape->rank[e] && at < ffn) gradient[(int64_t)(shape->rank_first[e] + rank) * ffn + at] = c[i];
                }
            }
        }
    }
}

/* Floats of shared memory a warp has. */
static inline __device__ __host__ int backward_floats(int tiles_of_columns, cuda_wave_limits limits) {
    int sums = 2 * limits.rank_tiles * (tiles_of_columns / 2) * LANE_TILE, parts = 2 * CUDA_TILE * (limits.rank_sum + limits.experts);
    return sums + (parts + 3) / 4 * 4 + 2 * CUDA_TILE * TURN_STRIDE;
}

template <int N, bool pairs>
static __device__ __forceinline__ void tile_backward(const cuda_expert_activation_backward *op, const backward_view *view) {
    int left = op->ffn - view->column;
    int64_t token = view->tile.token;
    float u[N][4], dm[N][4], du[N][4] = {};
    load_tile<N, pairs>(u, op->u.data + (token * op->u.columns + view->column), op->u.columns, view->tile.rows, left);
    load_tile<N, pairs>(dm, op->dm.data + (token * op->dm.columns + view->column), op->dm.columns, view->tile.rows, left);
    if (view->tile.shape->mix == CK_MIX_MLP) {
        mix_outputs_backward<N, pairs>(op, view, u, dm, du);
        store_tile<N, pairs>(du, op->du.data + (token * op->du.columns + view->column), op->du.columns, view->tile.rows, left);
    } else {
        mix_inputs_backward<N, pairs>(op, view, u, dm);
        store_tile<N, pairs>(dm, op->du.data + (token * op->du.columns + view->column), op->du.columns, view->tile.rows, left);
    }
}

/* Grid: devices (there may be more than 65535), blocks over F. */
template <int N, bool pairs>
static __global__ void __launch_bounds__(N == 4 ? 256 : 64, 1) expert_activation_backward_kernel(cuda_expert_activation_backward op) {
    CK_DYNAMIC_SHARED(float, arena);
    const cuda_device *device = record(op.wave.devices + blockIdx.x);
    const ck_shape *shape = record(op.wave.shapes + device->shape);
    int64_t layer = op.layer * shape->layer_stride;
    int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32, column = ((int)blockIdx.y * warps + warp) * 8 * N;
    int columns = op.limits.rank_sum + op.limits.experts, sum_floats = op.limits.rank_tiles * (N / 2) * LANE_TILE;
    int part_floats = CUDA_TILE * columns, stride = backward_floats(N, op.limits);
    shared<float> own = part(arena + warp * stride, stride), turn = own + 2 * sum_floats;
    backward_view view = {{shape, 0, 0, 0},
                          op.zh.data,
                          op.q.data,
                          op.wave.parameters + (device->parameters + layer + shape->b1),
                          op.wave.parameters + (device->parameters + layer + shape->a2),
                          column,
                          columns,
                          (device->learn & CK_LEARN_EXPERTS) != 0,
                          part(turn, 2 * CUDA_TILE * TURN_STRIDE),
                          part(own, sum_floats),
                          part(own + sum_floats, sum_floats),
                          turn};
    clear_sums(own, 2 * op.limits.rank_tiles * (N / 2));
    for (int first = 0, parity = 0; first < device->n_tokens; first += CUDA_TILE, parity ^= 1) {
        int64_t token = device->first_token + first;
        int part_at = 2 * sum_floats + 2 * CUDA_TILE * TURN_STRIDE + parity * part_floats;
        view.tile.token = token;
        view.tile.rows = device->n_tokens - first < CUDA_TILE ? device->n_tokens - first : (int)CUDA_TILE;
        view.tile.experts = chosen_experts(&op.gates, &view.tile);
        view.h = op.zh.data + (token * op.zh.columns + shape->router_rows);
        view.q = op.q.data + token * op.q.columns;
        view.parts = part(own + part_at, part_floats);
        tile_backward<N, pairs>(&op, &view);
        __syncthreads(); /* the other half of `parts` is written meanwhile, and read before the next barrier */
        write_block_part(&op, &view, arena + part_at, stride);
    }
    if (!view.learn || column >= op.ffn) return;
    global<float> gradients = op.wave.gradients + (device->gradients + layer);
    write_weight_gradient<N>(gradients + shape->b1, view.d_b1, shape, column, op.ffn);
    write_weight_gradient<N>(gradients + shape->a2, view.d_a2, shape, column, op.ffn);
}

/* ---- Backward: p and dw from the parts of F; a tile per block, a token per warp at a time ---- */

static __device__ __forceinline__ float sum_parts(const cuda_expert_activation_backward *op, int64_t token, int blocks, int column) {
    int columns = op->limits.rank_sum + op->limits.experts;
    float sum = 0;
    for (int b = 0; b < blocks; b++) sum += op->workspace[(token * blocks + b) * columns + column];
    return sum;
}

/* Returns the lane's share of <h_e, part of p_e>, which the linear mix's dw is the sum of. */
static __device__ __forceinline__ float finish_p(const cuda_expert_activation_backward *op, const ck_shape *shape, int64_t token, int e,
                                                 float w, int blocks) {
    bool linear = shape->mix == CK_MIX_LINEAR;
    float dot = 0;
    for (int j = shape->rank_first[e] + (int)(threadIdx.x % 32); j < shape->rank_first[e + 1]; j += 32) {
        float raw = w != 0.0f ? sum_parts(op, token, blocks, j) : 0.0f;
        op->p.data[token * op->p.columns + j] = linear ? w * raw : raw;
        if (linear) dot += raw * op->zh.data[token * op->zh.columns + shape->router_rows + j];
    }
    return dot;
}

static __global__ void __launch_bounds__(128) expert_activation_finish_kernel(cuda_expert_activation_backward op, int blocks) {
    const cuda_tile *tile = record(op.wave.tiles + blockIdx.x);
    const ck_shape *shape = record(op.wave.shapes + record(op.wave.devices + tile->device)->shape);
    int lane = (int)(threadIdx.x % 32);
    for (int row = (int)threadIdx.x / 32; row < tile->rows; row += (int)blockDim.x / 32) {
        int64_t token = tile->first_token + row;
        for (int e = 0; e < shape->n_experts; e++) {
            float w = op.gates.data[token * op.gates.columns + e], dot = finish_p(&op, shape, token, e, w, blocks);
            CK_UNROLL
            for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, step);
            if (lane != 0 || w == 0.0f) continue;
            op.dw.data[token * op.dw.columns + e] += shape->mix == CK_MIX_LINEAR ? dot : sum_parts(&op, token, blocks, shape->rank_sum + e);
        }
    }
}

/* ---- Host: how many warps, how much shared memory ---- */

static int forward_warps(cuda_wave_limits limits) {
    int warps = 8;
    while (warps > 1 && warps * limits.rank_tiles * LANE_TILE * (int)sizeof(float) > SHARED_LIMIT) warps /= 2;
    return warps;
}

typedef struct {
    int tiles_of_columns, warps, blocks; /* blocks over F */
    size_t shared_bytes;
} backward_plan;

/* The widest block that fits. */
static backward_plan plan_backward(int32_t ffn, cuda_wave_limits limits) {
    static const int forms[][2] = {{4, 8}, {4, 4}, {4, 2}, {2, 2}, {2, 1}};
    backward_plan plan = {};
    for (const int *form : forms) {
        size_t bytes = (size_t)form[1] * (size_t)backward_floats(form[0], limits) * sizeof(float);
        int columns = form[1] * 8 * form[0];
        plan = {form[0], form[1], (ffn + columns - 1) / columns, bytes};
        if (bytes <= SHARED_LIMIT) break;
    }
    return plan;
}

int64_t cuda_expert_activation_workspace(int64_t n_tokens, int32_t ffn, cuda_wave_limits limits) {
    return n_tokens * plan_backward(ffn, limits).blocks * (limits.rank_sum + limits.experts);
}

const char *cuda_launch_expert_activation(const cuda_expert_activation *op, gpu_stream stream) {
    bool pairs = op->ffn % 2 == 0 && op->u.columns % 2 == 0 && op->m.columns % 2 == 0;
    int warps = forward_warps(op->limits);
    size_t bytes = (size_t)warps * (size_t)op->limits.rank_tiles * LANE_TILE * sizeof(float);
    dim3 grid((unsigned)op->wave.n_tiles), block((unsigned)warps * 32);
    if (pairs) return CK_LAUNCH(expert_activation_kernel<true>, grid, block, bytes, stream, *op);
    return CK_LAUNCH(expert_activation_kernel<false>, grid, block, bytes, stream, *op);
}

template <int N> static const char *launch_backward(const cuda_expert_activation_backward *op, backward_plan plan, gpu_stream stream) {
    bool pairs = op->ffn % 2 == 0 && op->u.columns % 2 == 0 && op->dm.columns % 2 == 0 && op->du.columns % 2 == 0;
    dim3 grid((unsigned)op->wave.n_devices, (unsigned)plan.blocks), block((unsigned)plan.warps * 32);
    if (pairs) return CK_LAUNCH((expert_activation_backward_kernel<N, true>), grid, block, plan.shared_bytes, stream, *op);
    return CK_LAUNCH((expert_activation_backward_kernel<N, false>), grid, block, plan.shared_bytes, stream, *op);
}

const char *cuda_launch_expert_activation_backward(const cuda_expert_activation_backward *op, gpu_stream stream) {
    backward_plan plan = plan_backward(op->ffn, op->limits);
    const char *problem = plan.tiles_of_columns == 4 ? launch_backward<4>(op, plan, stream) : launch_backward<2>(op, plan, stream);
    if (problem) return problem;
    return CK_LAUNCH(expert_activation_finish_kernel, dim3((unsigned)op->wave.n_tiles), dim3(128), 0, stream, *op, plan.blocks);
}

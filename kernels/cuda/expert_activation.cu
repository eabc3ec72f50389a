/* expert_activation.cu - the experts' activation and gate mix around one base product
 * (sim/methods/README.md).
 *
 *   MLP mix:     u_e = U + s_e h_e B1_e, a_e = act(u_e), m = sum_e w_e a_e, g_e = a_e A2_e^T
 *   linear mix:  u = U + sum_e w_e s_e h_e B1_e, m = act(u), g_e = m A2_e^T
 *   act:         gelu(u), or with SwiGLU silu(u) v of the two halves [u | v] of U, each with an h_e and a
 *                B1_e of its own
 *
 * U [T, I F] and m [T, F] of type T, I = 1, SwiGLU 2; h [T, I S], g [T, S] and w [T, 16] f32; B1 [I S, F], A2
 * [S, F] f32 of each device and layer, one row per rank. Factors of products are rounded to T (f32: split
 * tf32), sums are f32. g is 0 where w_e is 0.
 *
 * Block: a segment, all of F; dense or gathered (expert_segment.cuh). Warp: 32 columns of a fragment at a
 * time, then 32 WARPS further on; for its columns it goes through the fragments before it goes on, so that
 * weights come from memory once and then from L1. U goes straight from memory to registers and m back, a
 * row's 8 neighbours a lane. h lies in shared memory as the matrix instruction takes it, made once for all
 * columns. What a warp adds to g lies there too, private to each lane, and is summed over the warps at the
 * end, in order.
 *
 * Bytes a token: (2 I + 2) F in bf16, twice that in f32, and 4 (I + 1) S F a segment of up to 128 tokens for
 * the weights (from L2 where a device has several). FLOPs a token: 2 (I + 1) F S in products, about 10 F an
 * expert visited in elementwise work, with one special function in bf16. The bound: memory up to about two
 * experts a token, then the elementwise work.
 */
#include "expert_segment.cuh"

enum { FORWARD_WARPS = 8, FORWARD_N = 4, FORWARD_COLUMNS = 8 * FORWARD_N };

template <typename T> struct expert_forward {
    cuda_wave wave;
    int32_t ffn, layer, tiles, arena_floats;
    cuda_rows<const T> u;
    cuda_rows<const float> zh, gates;
    cuda_rows<T> m;
    cuda_rows<float> g;
};

/* ---- h as left factors, in shared memory: [fragment, branch, step of 16 ranks, rows g then rows g + 8,
 * lane] */

template <typename T> struct left_size {
    enum : int { QUAD = (int)(sizeof(quad<T>) / sizeof(float)), FLOATS = 64 * QUAD };
};

template <typename T>
static __device__ __forceinline__ shared<float> left_at(shared<float> left, int step, int half) {
    return left + (step * left_size<T>::FLOATS + (32 * half + (int)(threadIdx.x % 32)) * left_size<T>::QUAD);
}

/* Dealt to the warps. steps: of one branch. */
template <typename M, typename T>
static __device__ __forceinline__ void stage_ranks(const expert_forward<T> *op, const expert_view *view,
                                                   const expert_pass *pass, int first, int count, int steps,
                                                   shared<float> left) {
    const ck_shape *shape = view->shape;
    int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32, turn = 0;
    for (int j = 0; j < count; j++) {
        lane_rows rows = rows_of(view, first + j);
        for (int e = pass->begin, step = 0; e < pass->end; step += rank_steps(shape->rank[e]), e++) {
            if (!(view->masks[first + j] >> e & 1) || turn++ % warps != warp) continue;
            float w[2];
            gates_of(w, view, rows, e);
            CK_UNROLL
            for (int i = 0; i < 2 * M::BRANCHES; i++) {
                int branch = i / 2, half = i % 2;
                float factor = shape->scale[e] * (shape->mix == CK_MIX_LINEAR ? w[half] : 1.0f);
                global<const float> h =
                    op->zh.data + ((view->token + rows.row[half]) * op->zh.columns + shape->router_rows +
                                   branch * shape->rank_sum + shape->rank_first[e]);
                for (int k = 0; k < shape->rank[e]; k += 16) {
                    quad<T> q = rank_quad<T>(h + k, rows.row[half] >= 0 ? shape->rank[e] - k : 0, factor);
                    store_quad(left_at<T>(left, (j * M::BRANCHES + branch) * steps + step + k / 16, half), q);
                }
            }
        }
    }
}

/* ---- A fragment's columns */

typedef struct {
    shared<float> left, sums; /* of the fragment: [branches, steps], [rank tiles] */
    global<const float> b1, a2;
    int column, steps; /* steps: of one branch */
} fragment_place;

/* u = the fragment's columns of U. */
template <typename M, typename T, bool wide>
static __device__ __forceinline__ void load_u(branches<M, FORWARD_N> &u, const expert_forward<T> *op,
                                              const expert_view *view, lane_rows rows, int column) {
    load_branches<M, FORWARD_N, wide>(u, op->u.data + (view->token * op->u.columns + column),
                                      (int)op->u.columns, op->ffn, rows, op->ffn - column);
}

/* d += (s h) B1 of one branch. */
template <typename T, bool wide>
static __device__ __forceinline__ void add_columns(float d[FORWARD_N][4], shared<float> left, int step,
                                                   const expert_weight *b1) {
    CK_ROLL
    for (int k = 0; k < b1->rank; k += 16) {
        quad<T> b[FORWARD_N], low, high;
        load_quad(&low, left_at<T>(left, step + k / 16, 0));
        load_quad(&high, left_at<T>(left, step + k / 16, 1));
        weight_down<T, FORWARD_N, wide>(b, b1, k);
        CK_UNROLL
        for (int n = 0; n < FORWARD_N; n++) mma_quads(d[n], low, high, b[n]);
    }
}

/* u += (s h) B1. */
template <typename M, typename T, bool wide>
static __device__ __forceinline__ void add_expert(branches<M, FORWARD_N> &u, const fragment_place *place,
                                                  const ck_shape *shape, int step, const expert_weight *b1) {
    CK_UNROLL
    for (int i = 0; i < M::BRANCHES; i++) {
        expert_weight rows = of_branch(*b1, shape, i);
        add_columns<T, wide>(u[i], place->left, i * place->steps + step, &rows);
    }
}

/* Of element i of a fragment. */
template <typename M, typename T>
static __device__ __forceinline__ float activate(const branches<M, FORWARD_N> &u, int i) {
    float in[M::BRANCHES], slope[M::BRANCHES];
    CK_UNROLL
    for (int j = 0; j < M::BRANCHES; j++) in[j] = u[j][i / 4][i % 4];
    return M::template slopes<T>(in, slope);
}

/* sums[tile ..] += a A2^T. */
template <typename T, bool wide>
static __device__ __forceinline__ void add_g(shared<float> sums, int tile, const float a[FORWARD_N][4],
                                             const expert_weight *a2) {
    CK_ROLL
    for (int j = 0; 8 * j < a2->rank; j++) {
        float c[4];
        load_sum(c, lane_sum(sums, tile + j));
        add_ranks<T, FORWARD_N, wide>(c, a, a2, j);
        store_sum(lane_sum(sums, tile + j), c);
    }
}

/* m of the fragment, and what these columns add to g. Where U has two halves, each further expert reads them
 * again, from L1: to keep them would take the registers of a second block. */
template <typename M, typename T, bool wide>
static __device__ __forceinline__ void mix_outputs(const expert_forward<T> *op, const expert_view *view,
                                                   const expert_pass *pass, const fragment_place *place,
                                                   lane_rows rows, uint32_t mask, float m[FORWARD_N][4]) {
    const ck_shape *shape = view->shape;
    constexpr bool KEPT = M::BRANCHES == 1;
    branches<M, FORWARD_N> u;
    if (KEPT) load_u<M, T, wide>(u, op, view, rows, place->column);
    CK_UNROLL
    for (int i = 0; i < 4 * FORWARD_N; i++) m[i / 4][i % 4] = 0.0f;
    CK_ROLL
    for (int e = pass->begin, step = 0, tile = 0; e < pass->end; e++) {
        int rank = shape->rank[e];
        if (mask >> e & 1) {
            expert_weight b1 = weight_of(place->b1, shape, e, place->column, op->ffn),
                          a2 = weight_of(place->a2, shape, e, place->column, op->ffn);
            branches<M, FORWARD_N> a;
            float w[2];
            if (!KEPT) load_u<M, T, wide>(a, op, view, rows, place->column);
            CK_UNROLL
            for (int i = 0; i < 4 * FORWARD_N && KEPT; i++) a[0][i / 4][i % 4] = u[0][i / 4][i % 4];
            add_expert<M, T, wide>(a, place, shape, step, &b1);
            gates_of(w, view, rows, e);
            CK_UNROLL
            for (int i = 0; i < 4 * FORWARD_N; i++) {
                a[0][i / 4][i % 4] = activate<M, T>(a, i);
                m[i / 4][i % 4] += w[i % 4 / 2] * a[0][i / 4][i % 4];
            }
            add_g<T, wide>(place->sums, tile, a[0], &a2);
        }
        step += rank_steps(rank), tile += rank_tiles(rank);
    }
}

/* The same where experts mix before the activation. */
template <typename M, typename T, bool wide>
static __device__ __forceinline__ void mix_inputs(const expert_forward<T> *op, const expert_view *view,
                                                  const expert_pass *pass, const fragment_place *place,
                                                  lane_rows rows, uint32_t mask, float m[FORWARD_N][4]) {
    const ck_shape *shape = view->shape;
    branches<M, FORWARD_N> u;
    load_u<M, T, wide>(u, op, view, rows, place->column);
    CK_ROLL
    for (int e = pass->begin, step = 0; e < pass->end; step += rank_steps(shape->rank[e]), e++) {
        expert_weight b1 = weight_of(place->b1, shape, e, place->column, op->ffn);
        if (mask >> e & 1) add_expert<M, T, wide>(u, place, shape, step, &b1);
    }
    CK_UNROLL
    for (int i = 0; i < 4 * FORWARD_N; i++) m[i / 4][i % 4] = activate<M, T>(u, i);
    CK_ROLL
    for (int e = pass->begin, tile = 0; e < pass->end; tile += rank_tiles(shape->rank[e]), e++) {
        expert_weight a2 = weight_of(place->a2, shape, e, place->column, op->ffn);
        if (mask >> e & 1) add_g<T, wide>(place->sums, tile, m, &a2);
    }
}

template <typename M, typename T, bool wide>
static __device__ __forceinline__ void fragment_forward(const expert_forward<T> *op, const expert_view *view,
                                                        const expert_pass *pass, const fragment_place *place,
                                                        int fragment) {
    float m[FORWARD_N][4];
    lane_rows rows = rows_of(view, fragment);
    int left = op->ffn - place->column;
    uint32_t mask = view->masks[fragment];
    global<T> to = op->m.data + (view->token * op->m.columns + place->column);
    if (view->shape->mix == CK_MIX_LINEAR)
        mix_inputs<M, T, wide>(op, view, pass, place, rows, mask, m);
    else
        mix_outputs<M, T, wide>(op, view, pass, place, rows, mask, m);
    if (pass->gathered)
        add_earlier<FORWARD_N, wide>(m, view, pass->begin, global<const T>(to), (int)op->m.columns, rows,
                                     left);
    store_fragment<FORWARD_N, wide>(m, to, (int)op->m.columns, rows, left);
}

/* ---- g */

/* From every warp's sums; tiles of 8 ranks are assigned to the warps. */
template <typename T>
static __device__ __forceinline__ void write_g(const expert_forward<T> *op, const expert_view *view,
                                               const expert_pass *pass, int first, int count, int tiles,
                                               shared<const float> sums, int stride) {
    const ck_shape *shape = view->shape;
    int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32, turn = 0;
    for (int j = 0; j < count; j++) {
        lane_rows rows = rows_of(view, first + j);
        for (int e = pass->begin, tile = 0; e < pass->end; tile += rank_tiles(shape->rank[e]), e++) {
            float w[2];
            gates_of(w, view, rows, e);
            for (int i = 0; 8 * i < shape->rank[e]; i++) {
                if (turn++ % warps != warp) continue;
                float c[4] = {0, 0, 0, 0};
                for (int other = 0; other < warps; other++) {
                    float part_of[4];
                    load_sum(part_of, sums + (other * stride + (j * tiles + tile + i) * LANE_TILE +
                                              4 * (int)(threadIdx.x % 32)));
                    CK_UNROLL
                    for (int k = 0; k < 4; k++) c[k] += part_of[k];
                }
                CK_UNROLL
                for (int k = 0; k < 4; k++) {
                    int rank = 8 * i + 2 * fragment_t() + k % 2, row = rows.row[k / 2];
                    if (row >= 0 && rank < shape->rank[e])
                        op->g.data[(view->token + row) * op->g.columns + shape->rank_first[e] + rank] =
                            w[k / 2] != 0.0f ? c[k] : 0.0f;
                }
            }
        }
    }
}

/* What no pass of the gathered form visits. */
template <typename T>
static __device__ __forceinline__ void clear_unchosen(const expert_forward<T> *op, const expert_view *view) {
    const ck_shape *shape = view->shape;
    for (int row = (int)threadIdx.x; row < view->rows; row += (int)blockDim.x) {
        for (int e = 0; e < shape->n_experts; e++) {
            if (view->chosen[row] >> e & 1) continue;
            for (int r = shape->rank_first[e]; r < shape->rank_first[e + 1]; r++)
                op->g.data[(view->token + row) * op->g.columns + r] = 0.0f;
        }
    }
}

/* ---- A pass; its fragments in groups of as many as the arena has room for */

template <typename M, typename T, bool wide>
static __device__ __forceinline__ void pass_forward(const expert_forward<T> *op, const expert_view *view,
                                                    const expert_pass *pass, global<const float> layer,
                                                    shared<float> arena) {
    const ck_shape *shape = view->shape;
    int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32, steps = 0, tiles = 0;
    for (int e = pass->begin; e < pass->end; e++)
        steps += rank_steps(shape->rank[e]), tiles += rank_tiles(shape->rank[e]);
    int floats = M::BRANCHES * steps * left_size<T>::FLOATS + warps * tiles * LANE_TILE;
    /* without ranks nothing lies in the arena */
    int group = floats > 0 ? op->arena_floats / floats : pass->fragments;
    for (int first = 0; first < pass->fragments; first += group) {
        int count = pass->fragments - first < group ? pass->fragments - first : group,
            stride = count * tiles * LANE_TILE;
        shared<float> left = arena + warps * stride, sums = arena + warp * stride;
        stage_ranks<M, T>(op, view, pass, first, count, steps, left);
        clear_sums(sums, count * tiles);
        __syncthreads();
        CK_ROLL
        for (int column = warp * FORWARD_COLUMNS; column < op->ffn; column += warps * FORWARD_COLUMNS) {
            CK_ROLL
            for (int j = 0; j < count; j++) {
                fragment_place place = {left + j * M::BRANCHES * steps * left_size<T>::FLOATS,
                                        sums + j * tiles * LANE_TILE,
                                        layer + shape->b1,
                                        layer + shape->a2,
                                        column,
                                        steps};
                fragment_forward<M, T, wide>(op, view, pass, &place, first + j);
            }
        }
        __syncthreads();
        write_g<T>(op, view, pass, first, count, tiles, arena, stride);
        __syncthreads();
    }
}

/* Grid: tiles by op.tiles. wide: rows of activations and weights begin at multiples of 16 bytes and F is a
 * multiple of 8. */
template <typename M, typename T, bool wide>
static __global__ void __launch_bounds__(32 * FORWARD_WARPS, sizeof(T) == sizeof(bf16) ? 2 : 1)
    expert_forward_kernel(expert_forward<T> op) {
    CK_DYNAMIC_SHARED(float, arena);
    int tile = (int)blockIdx.x * op.tiles,
        end = tile + op.tiles < op.wave.n_tiles ? tile + op.tiles : op.wave.n_tiles;
    for (segment s; (s = segment_at(&op.wave, tile, end)).tiles > 0; tile += s.tiles) {
        const cuda_device *device = record(op.wave.devices + s.device);
        EXPERT_VIEW(view, s, record(op.wave.shapes + device->shape));
        global<const float> layer =
            op.wave.parameters + (device->parameters + op.layer * view.shape->layer_stride);
        read_choices(&view, &op.gates);
        bool gathered = is_gathered(&view);
        if (gathered) clear_unchosen<T>(&op, &view);
        CK_ROLL
        for (int e = 0; e < (gathered ? view.shape->n_experts : 1); e++) {
            expert_pass pass = gathered ? list_chosen(&view, e) : list_all(&view);
            pass_forward<M, T, wide>(&op, &view, &pass, layer, arena);
        }
    }
}

/* ---- Host */

/* Floats of the arena: room for a segment's fragments, as far as two blocks fit a multiprocessor, but for one
 * of the largest shape. */
template <typename M, typename T> static int arena_floats(cuda_wave_limits limits, int tiles, int warps) {
    /* of 16 ranks: no expert has more than half a step too much */
    int steps = (limits.rank_tiles + limits.experts) / 2 + 1;
    int one = M::BRANCHES * steps * left_size<T>::FLOATS + warps * limits.rank_tiles * LANE_TILE,
        groups = (int)(cuda_limits.expert_arena_bytes / (int64_t)sizeof(float)) / one;
    return one * (groups < 1 ? 1 : groups > tiles ? tiles : groups);
}

template <typename M, typename T>
static const char *expert_forward_as(const ck_expert_activation *d, const cuda_call *call) {
    if (call->wave.n_devices == 0) return nullptr;
    int warps = FORWARD_WARPS, tiles = expert_tiles(&call->wave);
    while (warps > 1 && (size_t)arena_floats<M, T>(call->limits, tiles, warps) * sizeof(float) > SHARED_LIMIT)
        warps /= 2;
    expert_forward<T> op = {call->wave,
                            d->ffn,
                            d->layer,
                            tiles,
                            arena_floats<M, T>(call->limits, tiles, warps),
                            cuda_rows_of<const T>(d->u),
                            cuda_rows_of<const float>(d->zh),
                            cuda_rows_of<const float>(d->gates),
                            cuda_rows_of<T>(d->m),
                            cuda_rows_of<float>(d->g)};
    size_t bytes = (size_t)op.arena_floats * sizeof(float);
    dim3 grid((unsigned)((call->wave.n_tiles + tiles - 1) / tiles)), block((unsigned)warps * 32);
    if (d->ffn % 8 == 0 && cuda_is_wide<T>(d->u) && cuda_is_wide<T>(d->m))
        return CK_LAUNCH((expert_forward_kernel<M, T, true>), grid, block, bytes, call->stream, op);
    return CK_LAUNCH((expert_forward_kernel<M, T, false>), grid, block, bytes, call->stream, op);
}

template <typename M>
static const char *expert_forward_of(const ck_expert_activation *d, const cuda_call *call) {
    return call->half ? expert_forward_as<M, bf16>(d, call) : expert_forward_as<M, float>(d, call);
}

CUDA_NO_WORKSPACE(expert_activation)

const char *cuda_expert_activation(const ck_expert_activation *d, const cuda_call *call) {
    return d->mlp == CK_MLP_SWIGLU ? expert_forward_of<swiglu_mlp>(d, call)
                                   : expert_forward_of<gelu_mlp>(d, call);
}

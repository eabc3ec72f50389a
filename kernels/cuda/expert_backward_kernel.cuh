/* expert_backward_kernel.cuh - the kernel of the expert activation's backward
 * (expert_activation_backward.cu). Its forms take long to compile: each of the files
 * expert_backward_{gelu,swiglu}_{bf16,f32}.cu makes those of one activation and type. */
#ifndef COHORT_KERNELS_CUDA_EXPERT_BACKWARD_KERNEL_CUH
#define COHORT_KERNELS_CUDA_EXPERT_BACKWARD_KERNEL_CUH

#include "expert_backward_plan.cuh"

/* ---- Products */

/* d += x W: ranks of the lane's rows, x at the segment's first row and the expert's first rank, times factor.
 */
template <typename T, int N, bool wide>
static __device__ __forceinline__ void add_columns(float d[N][4], global<const float> x, int stride,
                                                   lane_rows rows, const float factor[2],
                                                   const expert_weight *weight) {
    forget(stride);
    CK_ROLL
    for (int k = 0; k < weight->rank; k += 16) {
        quad<T> b[N];
        quad<T> low =
            rank_quad<T>(x + (rows.row[0] * stride + k), rows.row[0] >= 0 ? weight->rank - k : 0, factor[0]);
        quad<T> high =
            rank_quad<T>(x + (rows.row[1] * stride + k), rows.row[1] >= 0 ? weight->rank - k : 0, factor[1]);
        weight_down<T, N, wide>(b, weight, k);
        CK_UNROLL
        for (int n = 0; n < N; n++) mma_quads(d[n], low, high, b[n]);
    }
}

/* ---- A fragment's columns */

/* parts[tile ..] = s_e du B1^T of one branch. */
template <typename T, int N, bool wide>
static __device__ __forceinline__ void write_p_part(shared<float> parts, int tile, const float du[N][4],
                                                    const expert_weight *b1, float scale) {
    CK_ROLL
    for (int j = 0; 8 * j < b1->rank; j++) {
        float c[4] = {0, 0, 0, 0};
        add_ranks<T, N, wide>(c, du, b1, j);
        CK_UNROLL
        for (int i = 0; i < 4; i++) c[i] *= scale;
        store_sum(lane_sum(parts, tile + j), c);
    }
}

/* Row sums over the warp's columns: [16]. */
static __device__ __forceinline__ void write_dw_part(shared<float> parts, float dot[2]) {
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        dot[half] += __shfl_xor_sync(0xffffffffu, dot[half], 1);
        dot[half] += __shfl_xor_sync(0xffffffffu, dot[half], 2);
        if (fragment_t() == 0) parts[fragment_g() + 8 * half] = dot[half];
    }
}

/* Where an expert's ranks lie. */
typedef struct {
    /* the segment's first row, the expert's first rank; h, b1: of the first branch */
    global<const float> h, q;
    expert_weight b1, a2;
    int tile; /* its first tile of 8 ranks, of the device */
} expert_place;

template <typename T>
static __device__ __forceinline__ expert_place expert_at(const expert_backward<T> *op,
                                                         const expert_view *view, const backward_place *place,
                                                         int e, int tile) {
    const ck_shape *shape = view->shape;
    expert_place at = {op->zh.data +
                           (view->token * op->zh.columns + shape->router_rows + shape->rank_first[e]),
                       op->q.data + (view->token * op->q.columns + shape->rank_first[e]),
                       weight_of(place->layer + shape->b1, shape, e, place->column, op->ffn),
                       weight_of(place->layer + shape->a2, shape, e, place->column, op->ffn), tile};
    return at;
}

template <typename M, typename T, int N, bool wide>
static __device__ __forceinline__ void load_u(branches<M, N> &u, const expert_backward<T> *op,
                                              const expert_view *view, lane_rows rows, int column) {
    load_branches<M, N, wide>(u, op->u.data + (view->token * op->u.columns + column), (int)op->u.columns,
                              op->ffn, rows, op->ffn - column);
}

template <typename T, int N, bool wide>
static __device__ __forceinline__ void load_dm(float d[N][4], const expert_backward<T> *op,
                                               const expert_view *view, lane_rows rows, int column) {
    load_fragment<N, wide>(d, op->dm.data + (view->token * op->dm.columns + column), (int)op->dm.columns,
                           rows, op->ffn - column);
}

/* dU, with what earlier passes have left. */
template <typename M, typename T, int N, bool wide>
static __device__ __forceinline__ void store_du(branches<M, N> &du, const expert_backward<T> *op,
                                                const expert_view *view, const expert_pass *pass,
                                                lane_rows rows, int column) {
    CK_UNROLL
    for (int i = 0; i < M::BRANCHES; i++) {
        global<T> to = op->du.data + (view->token * op->du.columns + i * op->ffn + column);
        if (pass->begin > 0)
            add_earlier<N, wide>(du[i], view, pass->begin, global<const T>(to), (int)op->du.columns, rows,
                                 op->ffn - column);
        store_fragment<N, wide>(du[i], to, (int)op->du.columns, rows, op->ffn - column);
    }
}

/* u += (factor h) B1. */
template <typename M, typename T, int N, bool wide>
static __device__ __forceinline__ void add_expert(branches<M, N> &u, const expert_backward<T> *op,
                                                  const ck_shape *shape, const expert_place *at,
                                                  lane_rows rows, const float factor[2]) {
    CK_UNROLL
    for (int i = 0; i < M::BRANCHES; i++) {
        expert_weight b1 = of_branch(at->b1, shape, i);
        add_columns<T, N, wide>(u[i], at->h + i * shape->rank_sum, (int)op->zh.columns, rows, factor, &b1);
    }
}

/* u becomes du = da act'(u), and d, of which da is w times, becomes act(u). */
template <typename M, typename T, int N>
static __device__ __forceinline__ void activate_backward(branches<M, N> &u, float d[N][4], const float w[2]) {
    CK_UNROLL
    for (int i = 0; i < 4 * N; i++) {
        float in[M::BRANCHES], slope[M::BRANCHES], da = w[i % 4 / 2] * d[i / 4][i % 4];
        CK_UNROLL
        for (int j = 0; j < M::BRANCHES; j++) in[j] = u[j][i / 4][i % 4];
        d[i / 4][i % 4] = M::template slopes<T>(in, slope);
        CK_UNROLL
        for (int j = 0; j < M::BRANCHES; j++) u[j][i / 4][i % 4] = da * slope[j];
    }
}

/* What du and a give: parts of p [branches, tiles], at `tile` of each, and gradients. */
template <typename M, typename T, int N, bool wide>
static __device__ __forceinline__ void
add_gradients(const expert_backward<T> *op, const expert_view *view, const backward_place *place,
              const expert_place *at, int fragment, int e, shared<float> parts, int tile, int tiles,
              const branches<M, N> &du, const float a[N][4]) {
    const ck_shape *shape = view->shape;
    const int sums = at->tile * (N / 2) * LANE_TILE;
    bool linear = shape->mix == CK_MIX_LINEAR;
    CK_UNROLL
    for (int i = 0; i < M::BRANCHES; i++) {
        expert_weight b1 = of_branch(at->b1, shape, i);
        write_p_part<T, N, wide>(parts, i * tiles + tile, du[i], &b1, shape->scale[e]);
    }
    if (!place->learn) return;
    CK_UNROLL
    for (int i = 0; i < M::BRANCHES; i++)
        add_gradient<M, T, N>(op, place->own + (i * sum_floats<N>(op) + sums), du[i], view, place, fragment,
                              at->h + i * shape->rank_sum, (int)op->zh.columns, at->b1.rank, e, linear,
                              shape->scale[e]);
    add_gradient<M, T, N>(op, place->own + (M::BRANCHES * sum_floats<N>(op) + sums), a, view, place, fragment,
                          at->q, (int)op->q.columns, at->b1.rank, e, true, 1.0f);
}

/* du += the expert's share; everything else that the expert's du_e and a_e give. U is read once more by every
 * further expert, from L1: it would take the registers of a second block. parts: of p, of dw behind them. */
template <typename M, typename T, int N, bool wide>
static __device__ __forceinline__ void
expert_gradient(const expert_backward<T> *op, const expert_view *view, const backward_place *place,
                const expert_place *at, int fragment, lane_rows rows, int e, shared<float> parts, int tile,
                int tiles, shared<float> dw_part, branches<M, N> &du) {
    branches<M, N> u;
    float v[N][4], w[2], dot[2] = {0, 0};
    const float one[2] = {1, 1}, scale[2] = {view->shape->scale[e], view->shape->scale[e]};
    load_u<M, T, N, wide>(u, op, view, rows, place->column);
    load_dm<T, N, wide>(v, op, view, rows, place->column);
    add_columns<T, N, wide>(v, at->q, (int)op->q.columns, rows, one, &at->a2);
    add_expert<M, T, N, wide>(u, op, view->shape, at, rows, scale);
    gates_of(w, view, rows, e);
    float dm[N][4];
    load_dm<T, N, wide>(dm, op, view, rows, place->column);
    activate_backward<M, T, N>(u, v, w);
    CK_UNROLL
    for (int i = 0; i < 4 * N; i++) {
        dot[i % 4 / 2] += v[i / 4][i % 4] * dm[i / 4][i % 4];
        CK_UNROLL
        for (int j = 0; j < M::BRANCHES; j++) du[j][i / 4][i % 4] += u[j][i / 4][i % 4];
    }
    write_dw_part(dw_part, dot);
    add_gradients<M, T, N, wide>(op, view, place, at, fragment, e, parts, tile, tiles, u, v);
}

/* u becomes du of all experts; what the pass's experts get of it. */
template <typename M, typename T, int N, bool wide>
static __device__ __forceinline__ void
mix_inputs_gradient(const expert_backward<T> *op, const expert_view *view, const expert_pass *pass,
                    const backward_place *place, int fragment, lane_rows rows, int tiles, shared<float> parts,
                    branches<M, N> &u) {
    const ck_shape *shape = view->shape;
    const float one[2] = {1, 1};
    uint32_t mask = view->masks[fragment];
    float v[N][4];
    load_u<M, T, N, wide>(u, op, view, rows, place->column);
    load_dm<T, N, wide>(v, op, view, rows, place->column);
    CK_ROLL
    for (int e = 0; e < shape->n_experts; e++) {
        if (!(mask >> e & 1)) continue;
        expert_place at = expert_at(op, view, place, e, 0);
        float w[2];
        gates_of(w, view, rows, e);
        add_columns<T, N, wide>(v, at.q, (int)op->q.columns, rows, w, &at.a2);
        w[0] *= shape->scale[e], w[1] *= shape->scale[e];
        add_expert<M, T, N, wide>(u, op, shape, &at, rows, w);
    }
    activate_backward<M, T, N>(u, v, one);
    CK_ROLL
    for (int e = pass->begin, tile = 0; e < pass->end; tile += rank_tiles(shape->rank[e]), e++) {
        if (!(mask >> e & 1)) continue;
        expert_place at = expert_at(op, view, place, e, tile);
        add_gradients<M, T, N, wide>(op, view, place, &at, fragment, e, parts, tile, tiles, u, v);
    }
}

/* parts: [branches, rank tiles of the pass] of p, then [experts of the pass, 16] of dw. */
template <typename M, typename T, int N, bool wide>
static __device__ __forceinline__ void
fragment_backward(const expert_backward<T> *op, const expert_view *view, const expert_pass *pass,
                  const backward_place *place, int fragment, int tiles, shared<float> parts) {
    const ck_shape *shape = view->shape;
    uint32_t mask = view->masks[fragment];
    /* it has all that it gets */
    if (pass->begin > 0 && (mask & ((1u << pass->end) - (1u << pass->begin))) == 0) return;
    lane_rows rows = rows_of(view, fragment);
    branches<M, N> du = {};
    if (shape->mix == CK_MIX_LINEAR) {
        mix_inputs_gradient<M, T, N, wide>(op, view, pass, place, fragment, rows, tiles, parts, du);
        if (pass->begin == 0) store_du<M, T, N, wide>(du, op, view, pass, rows, place->column);
        return;
    }
    int before = 0;
    for (int e = place->group[0]; e < pass->begin; e++) before += rank_tiles(shape->rank[e]);
    CK_ROLL
    for (int e = pass->begin, tile = 0; e < pass->end; tile += rank_tiles(shape->rank[e]), e++) {
        if (!(mask >> e & 1)) continue;
        expert_place at = expert_at(op, view, place, e, before + tile);
        expert_gradient<M, T, N, wide>(
            op, view, place, &at, fragment, rows, e, parts, tile, tiles,
            parts + (M::BRANCHES * tiles * LANE_TILE + (e - pass->begin) * CUDA_TILE), du);
    }
    store_du<M, T, N, wide>(du, op, view, pass, rows, place->column);
}

/* ---- The block's parts of p and dw: its warps' parts, added in order */

/* The block's row of parts for a token. */
template <typename T>
static __device__ __forceinline__ global<float> part_row(const expert_backward<T> *op, int64_t token) {
    return op->parts + (token * gridDim.y + blockIdx.y) * op->parts_columns;
}

/* 8 ranks of p, the first `ranks` of them, from `column` of the parts on. parts: of the first warp. */
template <typename T>
static __device__ __forceinline__ void write_p_tile(const expert_backward<T> *op, const expert_view *view,
                                                    lane_rows rows, int column, int ranks,
                                                    shared<const float> parts) {
    float c[4] = {0, 0, 0, 0};
    CK_ROLL
    for (int warp = 0; warp < (int)blockDim.x / 32; warp++) {
        float more[4];
        load_sum(more, parts + (warp * op->parts_floats + 4 * (int)(threadIdx.x % 32)));
        CK_UNROLL
        for (int k = 0; k < 4; k++) c[k] += more[k];
    }
    CK_UNROLL
    for (int k = 0; k < 4; k++) {
        int rank = 2 * fragment_t() + k % 2, row = rows.row[k / 2];
        if (row >= 0 && rank < ranks) part_row(op, view->token + row)[column + rank] = c[k];
    }
}

/* Tiles of 8 ranks are assigned to the warps, and experts' dw. */
template <typename M, typename T>
static __device__ __forceinline__ void write_parts(const expert_backward<T> *op, const expert_view *view,
                                                   const expert_pass *pass, int first, int count, int tiles,
                                                   shared<const float> parts) {
    const ck_shape *shape = view->shape;
    int lane = (int)(threadIdx.x % 32), warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32, turn = 0;
    int floats = M::BRANCHES * tiles * LANE_TILE + (pass->end - pass->begin) * CUDA_TILE;
    CK_ROLL
    for (int j = 0; j < count; j++, parts += floats) {
        lane_rows rows = rows_of(view, first + j);
        int row16 = lane < 16 ? (int)view->list[16 * (first + j) + lane] : -1;
        CK_ROLL
        for (int e = pass->begin, tile = 0; e < pass->end; tile += rank_tiles(shape->rank[e]), e++) {
            if (!(view->masks[first + j] >> e & 1)) continue;
            CK_UNROLL
            for (int branch = 0; branch < M::BRANCHES; branch++) {
                CK_ROLL
                for (int i = 0; 8 * i < shape->rank[e]; i++) {
                    if (turn++ % warps != warp) continue;
                    write_p_tile(op, view, rows, branch * shape->rank_sum + shape->rank_first[e] + 8 * i,
                                 shape->rank[e] - 8 * i, parts + (branch * tiles + tile + i) * LANE_TILE);
                }
            }
            if (shape->mix == CK_MIX_LINEAR || row16 < 0 || turn % warps != warp) continue;
            shared<const float> dots =
                parts + (M::BRANCHES * tiles * LANE_TILE + (e - pass->begin) * CUDA_TILE + lane);
            float dot = 0;
            CK_ROLL
            for (int other = 0; other < warps; other++) dot += dots[other * op->parts_floats];
            part_row(op, view->token + row16)[shape->h_ranks + e] = dot;
        }
    }
}

/* A pass; its fragments in groups of as many as there is room for parts. */
template <typename M, typename T, int N, bool wide>
static __device__ __forceinline__ void pass_backward(const expert_backward<T> *op, const expert_view *view,
                                                     const expert_pass *pass, const backward_place *place,
                                                     shared<float> parts) {
    int tiles = 0, warp = (int)threadIdx.x / 32;
    CK_ROLL
    for (int e = pass->begin; e < pass->end; e++) tiles += rank_tiles(view->shape->rank[e]);
    int floats = M::BRANCHES * tiles * LANE_TILE + (pass->end - pass->begin) * CUDA_TILE,
        group = op->parts_floats / floats;
    CK_ROLL
    for (int first = 0; first < pass->fragments; first += group) {
        int count = pass->fragments - first < group ? pass->fragments - first : group;
        CK_ROLL
        for (int j = 0; j < count; j++)
            fragment_backward<M, T, N, wide>(op, view, pass, place, first + j, tiles,
                                             parts + (warp * op->parts_floats + j * floats));
        __syncthreads();
        write_parts<M, T>(op, view, pass, first, count, tiles, parts);
        __syncthreads();
    }
}

/* The first expert of a group and the one behind its last, found in shared memory; false: the device has no
 * such group. */
static __device__ __forceinline__ bool find_group(shared<int32_t> group, const ck_shape *shape, int number,
                                                  int most) {
    int begin = 0, end = 0;
    CK_ROLL
    for (int i = 0; i <= number; i++) {
        int tiles = 0;
        begin = end;
        CK_ROLL
        for (; end < shape->n_experts && (end == begin || tiles + rank_tiles(shape->rank[end]) <= most);
             end++)
            tiles += rank_tiles(shape->rank[end]);
    }
    if (threadIdx.x == 0) group[0] = begin, group[1] = end;
    __syncthreads();
    return end > begin;
}

/* Grid: devices (there may be more than 65535) by splits of their tokens, blocks over F. A launch for each
 * group of experts. */
template <typename M, typename T, int N, bool wide>
static __global__ void __launch_bounds__((backward_lanes<M, N>), sizeof(T) == sizeof(bf16) ? 2 : 1)
    expert_backward_kernel(expert_backward<T> op) {
    CK_DYNAMIC_SHARED(float, arena);
    CK_SHARED(int32_t, group, 2);
    int index = (int)blockIdx.x / op.splits, split = (int)blockIdx.x % op.splits;
    int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    const cuda_device *device = record(op.wave.devices + index);
    const ck_shape *shape = record(op.wave.shapes + device->shape);
    if (!find_group(group, shape, op.group, op.group_tiles)) return;
    int tiles = 0, all = (device->n_tokens + CUDA_TILE - 1) / CUDA_TILE,
        share = (all + op.splits - 1) / op.splits;
    backward_place place = {op.wave.parameters + (device->parameters + op.layer * shape->layer_stride),
                            ((op.first_block + (int)blockIdx.y) * warps + warp) * 8 * N,
                            (device->learn & CK_LEARN_EXPERTS) != 0, group, arena + warp * op.own_floats};
    clear_sums(place.own, (M::BRANCHES + 1) * op.group_tiles * (N / 2));
    CK_ROLL
    for (int tile = split * share; tile < all && tile < (split + 1) * share; tile += tiles) {
        tiles = (split + 1) * share - tile < op.tiles ? (split + 1) * share - tile : op.tiles;
        int rows = device->n_tokens - tile * CUDA_TILE;
        segment s = {device->first_token + tile * CUDA_TILE,
                     rows < tiles * CUDA_TILE ? rows : tiles * CUDA_TILE, index, tiles};
        EXPERT_VIEW(view, s, shape);
        read_choices(&view, &op.gates);
        bool gathered = is_gathered(&view);
        CK_ROLL
        for (int e = group[0]; e < (gathered ? (int)group[1] : group[0] + 1); e++) {
            expert_pass pass = gathered ? list_chosen(&view, e) : list_all(&view);
            if (!gathered) pass.begin = e, pass.end = group[1];
            pass_backward<M, T, N, wide>(&op, &view, &pass, &place, arena + warps * op.own_floats);
        }
    }
    write_gradients<M, T, N, wide>(&op, shape, device, &place, index, split);
}

/* ---- Host */

template <typename M, typename T, int N, bool wide>
static const char *launch_columns(const expert_backward<T> *op, const backward_plan *plan, unsigned blocks,
                                  gpu_stream stream) {
    dim3 grid((unsigned)(op->wave.n_devices * op->splits), blocks), block((unsigned)plan->warps * 32);
    return CK_LAUNCH((expert_backward_kernel<M, T, N, wide>), grid, block, plan->shared_bytes, stream, *op);
}

template <typename M, typename T>
const char *expert_backward_launch(const expert_backward<T> *op, const backward_plan *plan, bool wide,
                                   unsigned blocks, gpu_stream stream) {
    if (plan->n == 4)
        return wide ? launch_columns<M, T, 4, true>(op, plan, blocks, stream)
                    : launch_columns<M, T, 4, false>(op, plan, blocks, stream);
    return wide ? launch_columns<M, T, 2, true>(op, plan, blocks, stream)
                : launch_columns<M, T, 2, false>(op, plan, blocks, stream);
}

#endif

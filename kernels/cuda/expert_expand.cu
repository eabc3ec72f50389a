/* expert_expand.cu - the experts' second factors, all ranks in one product (sim/methods/README.md).
 *
 *   y += a B2, a = [s_e w_e g_e]_e           or y = residual + c b_pr + a B2,
 *       where the base product is added afterwards
 *   backward:  q_e = s_e dy B2_e^T,  dw_e = <g_e, q_e> + <b_pr, dy> (the bias where the mix is MLP),
 *       dB2_e = (s_e w_e g_e)^T dy
 *
 * y, dy [T, D]; g, q [T, S], w, dw [T, 16] f32; B2 [S, D] of each device and layer. Where w_e is 0 its term
 * of y is left out.
 *
 * Forward: expand (segmented.cuh), a in shared memory. Backward: b_pr is one more rank, so that dw's bias
 * term comes out of the same pass over dy as q; the block that has q of a token makes its dw. Where devices
 * have few tokens, both ways read B2 of chosen experts only, and q of an expert that no token of the tile has
 * chosen is 0. With many tokens and up to 16 ranks dB2 comes out of that pass too (one_pass.cuh); else it is
 * a gram of its own (gram.cuh), a second pass over dy, only where experts learn.
 *
 * Bytes a token in bf16: forward 4 D (2 D where y begins here without a residual), backward 2 D in one pass,
 * 4 D in two, and 8 S; 4 S D a device for B2 and for dB2. FLOPs a token: 2 S D each of y, q and dB2. The
 * bound: memory, in f32 while S is below about 32, in bf16 below about 100. */
#include "one_pass.cuh"

enum { B2_BLOCK = CK_BLOCK_EXPERTS + 2 * CK_SITE_PR + CK_FACTOR_B };

/* The most ranks that a device of the wave has: its shapes may include some that no device uses. */
static int ranks_of(const ck_tensor *ranked, const cuda_call *call) {
    return call->limits.rank_sum < ranked->columns ? call->limits.rank_sum : ranked->columns;
}

/* ---- Forward */

template <typename T> static const char *expand_of(const ck_expert_expand *d, const cuda_call *call) {
    expand_op<T, gated_ranks> op = {call->wave,
                                    {cuda_rows_of<const float>(d->g), cuda_rows_of<const float>(d->gates)},
                                    expand_target_of<T>(d->y, call->start),
                                    B2_BLOCK,
                                    d->layer,
                                    0};
    bool wide = call->limits.width % 8 == 0 && is_wide_target<T>(d->y, call->start);
    if (ranks_of(d->g, call) == 0 && !call->start) return nullptr;
    return launch_expand(op, ranks_of(d->g, call), call->limits.width, wide, call->stream);
}

size_t cuda_expert_expand_workspace(const ck_expert_expand *, const cuda_bounds *) {
    return 0;
}

const char *cuda_expert_expand(const ck_expert_expand *d, const cuda_call *call) {
    if (call->wave.n_tiles == 0) return call->start ? "expert_expand: the wave has no devices" : nullptr;
    return call->half ? expand_of<bf16>(d, call) : expand_of<float>(d, call);
}

/* ---- Backward */

/* What is made of dy B2^T. */
typedef struct {
    cuda_rows<const float> g;
    cuda_rows<float> q, dw;
} expert_sink;

/* q of the ranks [first, first + count) that `raw` = dy B2^T holds. */
static __device__ __forceinline__ void write_q(const expert_sink *to, const ck_shape *shape, const segment *s,
                                               shared<const float> raw, int stride, int first, int count) {
    for (int i = (int)threadIdx.x; i < s->rows * count; i += (int)blockDim.x) {
        int row = i / count, j = i % count;
        to->q.data[(s->token + row) * to->q.columns + first + j] =
            shape->scale[expert_of(shape, first + j)] * raw[row * stride + j];
    }
}

/* What the ranks [first, first + limit) of `all` add to dw; a lane keeps its (row, expert) through all groups
 * of ranks. A rank behind the experts' is the bias term. */
static __device__ __forceinline__ void add_to_dw(const expert_sink *to, const ck_shape *shape,
                                                 const segment *s, shared<const float> raw, int stride,
                                                 int first, int limit, int all, shared<float> dw) {
    for (int i = (int)threadIdx.x; i < s->rows * CK_MAX_EXPERTS; i += (int)blockDim.x) {
        int row = i / CK_MAX_EXPERTS, e = i % CK_MAX_EXPERTS;
        float sum = first > 0 ? (float)dw[i] : 0.0f;
        if (e < shape->n_experts) {
            int begin = shape->rank_first[e] > first ? shape->rank_first[e] : first;
            int end = shape->rank_first[e + 1] < first + limit ? shape->rank_first[e + 1] : first + limit;
            global<const float> g = to->g.data + (s->token + row) * to->g.columns;
            float dot = 0;
            for (int j = begin; j < end; j++) dot += raw[row * stride + j - first] * g[j];
            sum += shape->scale[e] * dot;
            if (all > shape->rank_sum && all <= first + limit)
                sum += raw[row * stride + shape->rank_sum - first];
        }
        dw[i] = sum;
        if (all <= first + limit) to->dw.data[(s->token + row) * to->dw.columns + e] = sum;
    }
}

/* A device without ranks has a dw, too. */
static __device__ __forceinline__ bool finishes_without_ranks(const expert_sink &) {
    return true;
}

static __device__ __forceinline__ void finish_ranks(const expert_sink &to, const ck_shape *shape,
                                                    const segment *s, shared<const float> raw, int stride,
                                                    int first, int limit, int all, shared<float> dw) {
    int count = shape->rank_sum - first < limit ? shape->rank_sum - first : limit;
    if (count > 0) write_q(&to, shape, s, raw, stride, first, count);
    add_to_dw(&to, shape, s, raw, stride, first, limit, all, dw);
}

/* q and dw alone. */
template <typename T> struct expand_backward_op {
    cuda_wave wave;
    cuda_rows<const T> dy;
    global<const float> bias;
    cuda_rows<const float> gates;
    expert_sink to;
    int layer;
};

/* dy B2^T of the block's rows for one group of ranks, and dw. */
static inline __device__ __host__ int backward_shared_floats(int m, int n) {
    return shrink_floats(m, n) + 16 * m * (rank_stride(8 * n) + CK_MAX_EXPERTS);
}

template <typename T, int M, int N, bool wide>
static __global__ void __launch_bounds__(SEGMENT_LANES, wide &&M == 1 ? 3 : 2)
    expert_expand_backward_kernel(expand_backward_op<T> op) {
    CK_DYNAMIC_SHARED(float, arena);
    const int stride = rank_stride(8 * N), limit = 8 * N;
    shared<float> sums = part(arena, shrink_floats(M, N)),
                  raw = part(arena + shrink_floats(M, N), 16 * M * stride);
    shared<float> dw = part(arena + (shrink_floats(M, N) + 16 * M * stride), 16 * M * CK_MAX_EXPERTS);
    int tile = (int)blockIdx.x * M, end = tile + M < op.wave.n_tiles ? tile + M : op.wave.n_tiles;
    for (segment s; (s = segment_at(&op.wave, tile, end)).tiles > 0; tile += s.tiles) {
        const cuda_device *device = record(op.wave.devices + s.device);
        const ck_shape *shape = record(op.wave.shapes + device->shape);
        rank_weight b2 = rank_weight_of(shape, B2_BLOCK, op.layer);
        rank_rows rows = {op.wave.parameters + (device->parameters + b2.offset), nullptr, b2.ranks,
                          b2.columns};
        if (shape->mix == CK_MIX_MLP) rows.extra = op.bias;
        int all = count_rows(&rows);
        uint32_t experts = ~0u, wanted = ~0u;
        if constexpr (M == 1) experts = chosen_experts(op.gates, &s);
        for (int first = 0; first == 0 || first < all; first += limit) {
            if constexpr (M == 1) wanted = wanted_pieces(shape, experts, first, 8);
            shrink<T, M, N, wide>(raw, stride, limit, sums, &s, op.dy, &rows, first, wanted);
            finish_ranks(op.to, shape, &s, raw, stride, first, limit, all, dw);
        }
    }
}

template <typename T, int M, int N, bool wide>
static const char *launch_backward_form(const expand_backward_op<T> &op, gpu_stream stream) {
    dim3 grid((unsigned)((op.wave.n_tiles + M - 1) / M)), block(SEGMENT_LANES);
    size_t bytes = (size_t)backward_shared_floats(M, N) * sizeof(float);
    return CK_LAUNCH((expert_expand_backward_kernel<T, M, N, wide>), grid, block, bytes, stream, op);
}

template <typename T, bool wide>
static const char *launch_backward(const expand_backward_op<T> &op, gpu_stream stream) {
    if constexpr (wide) {
        if (segment_tiles(&op.wave) > 1) return launch_backward_form<T, 4, 5, true>(op, stream);
    }
    return launch_backward_form<T, 1, 8, wide>(op, stream);
}

template <typename T, bool wide>
static const char *backward_of(const ck_expert_expand_backward *d, const cuda_call *call) {
    int ranks = ranks_of(d->q, call), width = call->limits.width;
    expert_sink to = {cuda_rows_of<const float>(d->g), cuda_rows_of<float>(d->q), cuda_rows_of<float>(d->dw)};
    gated_ranks a = {to.g, cuda_rows_of<const float>(d->gates)};
    cuda_rows<const T> dy = cuda_rows_of<const T>(d->dy);
    gram_target gradient = {call->wave, B2_BLOCK, d->layer, 0, static_cast<float *>(call->workspace)};
    if constexpr (wide) {
        one_pass<T, gated_ranks, expert_sink> op = {gradient, a, dy, d->bias, to};
        if (one_pass_fits(&call->wave, ranks, width, sizeof(T)))
            return launch_one_pass(op, ranks + 1, width, call->stream);
    }
    const char *problem = launch_backward<T, wide>(
        expand_backward_op<T>{call->wave, dy, d->bias, a.gates, to, d->layer}, call->stream);
    if (problem) return problem;
    return launch_gram<wide>(gram<T, gated_ranks>{gradient, a, dy}, ranks, width, call->stream);
}

template <typename T>
static bool is_wide_backward(const ck_expert_expand_backward *d, const cuda_call *call) {
    return call->limits.width % 8 == 0 && cuda_is_wide<T>(d->dy) && cuda_is_wide(d->bias, 0);
}

size_t cuda_expert_expand_backward_workspace(const ck_expert_expand_backward *d, const cuda_bounds *bounds) {
    size_t element = bounds->half ? sizeof(bf16) : sizeof(float);
    size_t separate = gram_workspace(bounds->max_tiles, d->q->columns, d->dy->columns, element);
    size_t together = one_pass_workspace(bounds->max_tiles, element);
    return separate > together ? separate : together;
}

static const char *expand_backward_on(const ck_expert_expand_backward *d, const cuda_call *call) {
    if (call->half)
        return is_wide_backward<bf16>(d, call) ? backward_of<bf16, true>(d, call)
                                               : backward_of<bf16, false>(d, call);
    return is_wide_backward<float>(d, call) ? backward_of<float, true>(d, call)
                                            : backward_of<float, false>(d, call);
}

const char *cuda_expert_expand_backward(const ck_expert_expand_backward *d, const cuda_call *call) {
    const char *problem = nullptr;
    ck_expert_expand_backward own = *d;
    cuda_part part;
    if (call->wave.n_tiles == 0) return nullptr;
    for (int32_t at = 0; !problem && cuda_next_part(call, d->linear, {nullptr, d->bias}, &at, &part);) {
        cuda_call some = cuda_call_on(call, &part);
        own.bias = part.weights.bias;
        problem = expand_backward_on(&own, &some);
    }
    return problem;
}

/* lora.cu - the LoRA at a site that every token uses, of each device its own.
 *
 *   h = x A^T,  y += s h B        or y = residual + c bias + s h B,
 *       where the base product is added afterwards
 *   backward:  q = s dy B^T,  dx += q A (or dx = q A),  dA = q^T x,  dB = s h^T dy
 *
 * x, dx [T, in]; y, dy [T, out]; h [T, ra] f32; A [ra, in], B [ra, out] of each device and layer; s its
 * scale. A device without such a LoRA has ra = 0: only what begins is written for it.
 *
 * Forward: shrink, then expand from shared memory, in one kernel (segmented.cuh). Backward: with many tokens
 * and up to 16 ranks one pass over dy for q and dB (one_pass.cuh), then dx from q; else the forward's kernel
 * with the factors exchanged, and dB as a gram (gram.cuh), a second pass over dy. dA is a gram of q, which
 * lies in the workspace, and x.
 *
 * Bytes a token in bf16: forward 2 in + 4 out (2 out where y begins here without a residual) + 4 ra; backward
 * 2 out + 4 in + 8 ra, and where experts learn 2 in + 8 ra more (in two passes 2 out more); 4 ra (in + out) a
 * device for the factors and for their gradients. FLOPs a token: 2 ra (in + out), twice that for the
 * gradients. The bound: memory. */
#include "one_pass.cuh"

/* One direction: through `down` into rank space, through `up` out of it. */
template <typename T> struct lora_op {
    cuda_wave wave;
    cuda_rows<const T> from;
    cuda_rows<float> ranked; /* raw, or scaled: h or q */
    bool keep_scaled, expands;
    expand_target<T> to;
    lora_scale scale;
    int down, up;      /* blocks of the pack */
    int layer, stride; /* of the ranked rows in shared memory */
};

static inline int lora_shared_floats(int m, int n, int stride) {
    return shrink_floats(m, n) + 16 * m * (stride + 1);
}

/* Keeps the segment's ranked rows, and scales them for what follows. */
template <typename T>
static __device__ __forceinline__ void keep_ranked(const lora_op<T> *op, const segment *s, shared<float> rows,
                                                   int ranks, float scale) {
    for (int i = (int)threadIdx.x; i < s->rows * ranks; i += SEGMENT_LANES) {
        int row = i / ranks, j = i % ranks;
        float raw = rows[row * op->stride + j], scaled = scale * raw;
        op->ranked.data[(s->token + row) * op->ranked.columns + j] = op->keep_scaled ? scaled : raw;
        rows[row * op->stride + j] = scaled;
    }
}

template <typename T, int M, int N, bool wide>
static __device__ __forceinline__ void lora_segment(const lora_op<T> *op, const segment *s,
                                                    shared<float> arena) {
    const cuda_device *device = record(op->wave.devices + s->device);
    const ck_shape *shape = record(op->wave.shapes + device->shape);
    rank_weight down = rank_weight_of(shape, op->down, op->layer),
                up = rank_weight_of(shape, op->up, op->layer);
    if (down.ranks == 0 && !op->to.starts) return;
    shared<float> sums = part(arena, shrink_floats(M, N)),
                  rows = part(arena + shrink_floats(M, N), 16 * M * op->stride);
    shared<float> factors = part(arena + (shrink_floats(M, N) + 16 * M * op->stride), 16 * M);
    rank_rows weight = {op->wave.parameters + (device->parameters + down.offset), nullptr, down.ranks,
                        down.columns};
    __syncthreads(); /* the last segment's rows have been read */
    for (int first = 0; first < down.ranks; first += 8 * N) {
        shrink<T, M, N, wide>(rows + first, op->stride, op->stride - first, sums, s, op->from, &weight,
                              first);
    }
    keep_ranked(op, s, rows, down.ranks, scale_of(shape, op->scale));
    if (!op->expands) return;
    stage_bias_factors(factors, op->to, s);
    __syncthreads();
    expand<T, M, wide>(op->to, s, rows, op->stride, up.ranks,
                       op->wave.parameters + (device->parameters + up.offset), up.columns, factors);
}

/* Grid: M tiles each. */
template <typename T, int M, int N, bool wide>
static __global__ void __launch_bounds__(SEGMENT_LANES, 2) lora_kernel(lora_op<T> op) {
    CK_DYNAMIC_SHARED(float, arena);
    int tile = (int)blockIdx.x * M, end = tile + M < op.wave.n_tiles ? tile + M : op.wave.n_tiles;
    for (segment s; (s = segment_at(&op.wave, tile, end)).tiles > 0; tile += s.tiles)
        lora_segment<T, M, N, wide>(&op, &s, arena);
}

template <typename T, int M, int N, bool wide>
static const char *launch_form(const lora_op<T> &op, gpu_stream stream) {
    dim3 grid((unsigned)((op.wave.n_tiles + M - 1) / M)), block(SEGMENT_LANES);
    return CK_LAUNCH((lora_kernel<T, M, N, wide>), grid, block,
                     (size_t)lora_shared_floats(M, N, op.stride) * sizeof(float), stream, op);
}

/* up to both: 4 tiles a block; the first with fewer registers */
enum { LORA_FEW_RANKS = 16, LORA_MANY_RANKS = 128 };

template <typename T, bool wide>
static const char *launch_lora(const lora_op<T> &op, int ranks, gpu_stream stream) {
    if constexpr (wide) {
        bool many = segment_tiles(&op.wave) == 4;
        if (many && ranks <= LORA_FEW_RANKS) return launch_form<T, 4, 2, true>(op, stream);
        if (many && ranks <= LORA_MANY_RANKS) return launch_form<T, 4, 4, true>(op, stream);
    }
    return launch_form<T, 1, 4, wide>(op, stream);
}

/* ---- Forward */

template <typename D> static ck_adapter adapter_of(const D *d) {
    return d->tied ? CK_TIED : CK_LORA;
}

template <typename T> static const char *lora_of(const ck_lora *d, const cuda_call *call) {
    lora_op<T> op = {call->wave,
                     cuda_rows_of<const T>(d->x),
                     cuda_rows_of<float>(d->h),
                     false,
                     true,
                     expand_target_of<T>(d->y, call->start),
                     {d->site, d->tied},
                     ck_block_index(adapter_of(d), d->site, CK_FACTOR_A),
                     ck_block_index(adapter_of(d), d->site, CK_FACTOR_B),
                     d->layer,
                     rank_stride(d->h->columns)};
    op.to.y.data += d->first_column;
    bool wide = d->in % 8 == 0 && d->out % 8 == 0 && d->first_column % 8 == 0 && cuda_is_wide<T>(d->x) &&
                is_wide_target<T>(d->y, call->start);
    return wide ? launch_lora<T, true>(op, d->h->columns, call->stream)
                : launch_lora<T, false>(op, d->h->columns, call->stream);
}

size_t cuda_lora_workspace(const ck_lora *, const cuda_bounds *) {
    return 0;
}

const char *cuda_lora(const ck_lora *d, const cuda_call *call) {
    if (call->wave.n_tiles == 0) return call->start ? "lora: the wave has no devices" : nullptr;
    if (call->start && d->first_column > 0) return "lora: it begins only a part of y";
    return call->half ? lora_of<bf16>(d, call) : lora_of<float>(d, call);
}

/* ---- Backward */

/* q [tokens, columns of h] lies at the workspace's beginning, the grams' parts behind it. */
static size_t q_bytes(const ck_tensor *h, int64_t n_tokens) {
    return ((size_t)n_tokens * (size_t)h->columns * sizeof(float) + 255) / 256 * 256;
}

/* q of dy B^T, where it is made beside dB. */
typedef struct {
    cuda_rows<float> q;
    lora_scale scale;
} lora_sink;

static __device__ __forceinline__ bool finishes_without_ranks(const lora_sink &) {
    return false;
}

static __device__ __forceinline__ void finish_ranks(const lora_sink &to, const ck_shape *shape,
                                                    const segment *s, shared<const float> raw, int stride,
                                                    int, int, int ranks, shared<float>) {
    for (int i = (int)threadIdx.x; i < s->rows * ranks; i += (int)blockDim.x) {
        int row = i / ranks, j = i % ranks;
        to.q.data[(s->token + row) * to.q.columns + j] = scale_of(shape, to.scale) * raw[row * stride + j];
    }
}

/* The op's parts as its two regimes put them together. */
template <typename T> struct lora_backward_parts {
    cuda_wave wave;
    cuda_rows<const T> x, dy;
    cuda_rows<const float> h;
    cuda_rows<float> q;
    expand_target<T> dx;
    lora_scale scale;
    int a, b; /* blocks of the pack */
    int layer, ranks, in, out;
    gram_target of_a, of_b;
};

template <typename T>
static lora_backward_parts<T> backward_parts_of(const ck_lora_backward *d, const cuda_call *call) {
    lora_backward_parts<T> p = {};
    p.wave = call->wave;
    p.x = cuda_rows_of<const T>(d->x), p.dy = cuda_rows_of<const T>(d->dy),
    p.h = cuda_rows_of<const float>(d->h);
    p.q.data = static_cast<float *>(call->workspace), p.q.columns = d->h->columns;
    if (d->dx) p.dx = expand_target_of<T>(d->dx, call->start);
    p.dy.data += d->first_column;
    p.scale = lora_scale{d->site, d->tied}, p.a = ck_block_index(adapter_of(d), d->site, CK_FACTOR_A),
    p.b = ck_block_index(adapter_of(d), d->site, CK_FACTOR_B);
    p.layer = d->layer, p.ranks = d->h->columns, p.in = d->in, p.out = d->out;
    float *parts =
        reinterpret_cast<float *>(static_cast<char *>(call->workspace) + q_bytes(d->h, call->wave.n_tokens));
    p.of_a = gram_target{call->wave, p.a, d->layer, 0, parts};
    p.of_b = gram_target{call->wave, p.b, d->layer, 0, parts};
    return p;
}

/* q and dx together, then dB. */
template <typename T, bool wide>
static const char *backward_apart(const lora_backward_parts<T> &p, gpu_stream stream) {
    lora_op<T> op = {p.wave,
                     p.dy,
                     p.q,
                     true,
                     static_cast<bool>(p.dx.y.data),
                     p.dx,
                     p.scale,
                     p.b,
                     p.a,
                     p.layer,
                     rank_stride(p.ranks)};
    const char *problem = launch_lora<T, wide>(op, p.ranks, stream);
    if (problem) return problem;
    return launch_gram<wide>(gram<T, plain_ranks>{p.of_b, {p.h, p.scale}, p.dy}, p.ranks, p.out, stream);
}

/* q and dB together, then dx. */
template <typename T>
static const char *backward_in_one_pass(const lora_backward_parts<T> &p, gpu_stream stream) {
    one_pass<T, plain_ranks, lora_sink> op = {p.of_b, {p.h, p.scale}, p.dy, nullptr, {p.q, p.scale}};
    const char *problem = launch_one_pass(op, p.ranks, p.out, stream);
    if (problem || !p.dx.y.data) return problem;
    expand_op<T, plain_ranks> dx = {
        p.wave, {{p.q.data, p.q.columns}, {CK_NO_SITE, false}}, p.dx, p.a, p.layer, 0};
    return launch_expand(dx, p.ranks, p.in, true, stream);
}

template <typename T, bool wide>
static const char *lora_backward_of(const ck_lora_backward *d, const cuda_call *call) {
    lora_backward_parts<T> p = backward_parts_of<T>(d, call);
    bool together = wide && one_pass_fits(&p.wave, p.ranks, p.out, sizeof(T));
    const char *problem =
        together ? backward_in_one_pass(p, call->stream) : backward_apart<T, wide>(p, call->stream);
    if (problem) return problem;
    return launch_gram<wide>(
        gram<T, plain_ranks>{p.of_a, {{p.q.data, p.q.columns}, {CK_NO_SITE, false}}, p.x}, p.ranks, p.in,
        call->stream);
}

template <typename T> static bool is_wide_backward(const ck_lora_backward *d, const cuda_call *call) {
    return d->in % 8 == 0 && d->out % 8 == 0 && d->first_column % 8 == 0 && cuda_is_wide<T>(d->x) &&
           cuda_is_wide<T>(d->dy) && (!d->dx || is_wide_target<T>(d->dx, call->start));
}

size_t cuda_lora_backward_workspace(const ck_lora_backward *d, const cuda_bounds *bounds) {
    size_t element = bounds->half ? sizeof(bf16) : sizeof(float);
    int64_t columns = d->dy->columns > d->x->columns ? d->dy->columns : d->x->columns;
    size_t separate = gram_workspace(bounds->max_tiles, d->h->columns, columns, element);
    size_t together = one_pass_workspace(bounds->max_tiles, element);
    return q_bytes(d->h, bounds->max_tokens) + (separate > together ? separate : together);
}

const char *cuda_lora_backward(const ck_lora_backward *d, const cuda_call *call) {
    if (call->wave.n_tiles == 0) return call->start ? "lora_backward: the wave has no devices" : nullptr;
    if (call->half)
        return is_wide_backward<bf16>(d, call) ? lora_backward_of<bf16, true>(d, call)
                                               : lora_backward_of<bf16, false>(d, call);
    return is_wide_backward<float>(d, call) ? lora_backward_of<float, true>(d, call)
                                            : lora_backward_of<float, false>(d, call);
}

/* embed.cu - x_t = wte[token_t] (+ wpe[position of t in its sequence]), and its backward in pre-training.
 *
 *   dwte[v] += sum over the tokens t with id v of dx_t, in their order
 *       dwpe[i] = sum over sequences longer than i of dx_(first + i)
 *
 * Forward: a warp a token, each lane W neighbouring columns at a time. Bytes a token: reads 4 D of wte (wpe
 * stays in L2), writes x: 8 D in f32, 6 D in bf16, whose sum is of the f32 weights and rounded once.
 *
 * Backward: dwte begins as 0 unless the tied head has written it; every row of a gradient has one warp for
 * each 32 W of its columns, which finds the rows that it adds by reading a list 32 entries at a time. dwte:
 * the warp of an id's first token adds for all of them, the warps of the others find an earlier one and
 * stop; so the work is (distinct ids) x T comparisons of ids at most, and a row that no token has is not
 * touched. dwpe: the list is that of the sequences. */
#include "ops.cuh"
#include "runtime.hpp"
#include "wide.cuh"

enum { EMBED_WARPS = 8 };

template <typename T, int W>
static __global__ void __launch_bounds__(32 * EMBED_WARPS)
    embed_kernel(cuda_wave wave, cuda_rows<T> x, global<const float> wte, global<const float> wpe,
                 int width) {
    int64_t token = (int64_t)blockIdx.x * EMBED_WARPS + threadIdx.x / 32;
    if (token >= wave.n_tokens) return;
    const cuda_sequence *sequence = record(wave.sequences + wave.sequence_of[token]);
    int64_t position = sequence->first_position + token - sequence->first_token;
    global<const float> row = wte + (int64_t)wave.tokens[token] * width;
    for (int i = (int)(threadIdx.x % 32) * W; i < width; i += 32 * W) {
        float v[W], p[W];
        load_wide<W>(v, row + i);
        if (wpe) {
            load_wide<W>(p, wpe + (position * width + i));
            CK_UNROLL
            for (int j = 0; j < W; j++) v[j] += p[j];
        }
        store_wide<W>(x.data + (token * x.columns + i), v);
    }
}

template <typename T> static const char *embed_as(const ck_embed *d, const cuda_call *call) {
    cuda_rows<T> x = cuda_rows_of<T>(d->x);
    global<const float> wte = d->wte, wpe = d->wpe;
    dim3 grid((unsigned)((call->wave.n_tokens + EMBED_WARPS - 1) / EMBED_WARPS));
    constexpr int W = wide_elements<T>();
    bool weights = cuda_is_wide(d->wte, d->width * (int64_t)sizeof(float)) &&
                   cuda_is_wide(d->wpe, d->width * (int64_t)sizeof(float)); /* NULL is */
    if (weights && cuda_is_wide<T>(d->x) && d->width % W == 0)
        return CK_LAUNCH((embed_kernel<T, W>), grid, 32 * EMBED_WARPS, 0, call->stream, call->wave, x, wte,
                         wpe, d->width);
    return CK_LAUNCH((embed_kernel<T, 1>), grid, 32 * EMBED_WARPS, 0, call->stream, call->wave, x, wte, wpe,
                     d->width);
}

CUDA_NO_WORKSPACE(embed)

const char *cuda_embed(const ck_embed *d, const cuda_call *call) {
    return call->half ? embed_as<bf16>(d, call) : embed_as<float>(d, call);
}

/* ---- Backward */

/* sum += rows of dx, for each bit of `found`: row at + its index, in order. */
template <int W>
static __device__ __forceinline__ void add_rows(float sum[W], uint32_t found, global<const float> at,
                                                int64_t stride) {
    for (int i = 0; i < 32; i++) {
        if (!(found >> i & 1)) continue;
        float v[W];
        load_wide<W>(v, at + i * stride);
        CK_UNROLL
        for (int j = 0; j < W; j++) sum[j] += v[j];
    }
}

/* Is an element of ids[0, n) equal to id? */
static __device__ __forceinline__ bool found_before(global<const int32_t> ids, int64_t n, int32_t id) {
    for (int64_t first = 0; first < n; first += 32) {
        int64_t i = first + threadIdx.x % 32;
        if (__any_sync(0xffffffffu, i < n && ids[i] == id)) return true;
    }
    return false;
}

/* Grid: tokens by EMBED_WARPS, spans of 32 W columns. */
template <int W>
static __global__ void __launch_bounds__(32 * EMBED_WARPS)
    token_gradient_kernel(cuda_wave wave, cuda_rows<const float> dx, global<float> dwte, int width) {
    int lane = (int)(threadIdx.x % 32), column = ((int)blockIdx.y * 32 + lane) * W;
    int64_t token = (int64_t)blockIdx.x * EMBED_WARPS + threadIdx.x / 32;
    if (token >= wave.n_tokens) return;
    int32_t id = wave.tokens[token];
    if (found_before(wave.tokens, token, id)) return;
    float sum[W] = {};
    for (int64_t first = token; first < wave.n_tokens; first += 32) {
        uint32_t found =
            __ballot_sync(0xffffffffu, first + lane < wave.n_tokens && wave.tokens[first + lane] == id);
        if (column < width) add_rows<W>(sum, found, dx.data + (first * dx.columns + column), dx.columns);
    }
    if (column >= width) return;
    float before[W];
    global<float> row = dwte + ((int64_t)id * width + column);
    load_wide<W>(before, row);
    CK_UNROLL
    for (int j = 0; j < W; j++) sum[j] += before[j];
    store_wide<W>(row, sum);
}

/* Grid: positions by EMBED_WARPS, spans of 32 W columns. */
template <int W>
static __global__ void __launch_bounds__(32 * EMBED_WARPS)
    position_gradient_kernel(cuda_wave wave, cuda_rows<const float> dx, global<float> dwpe, int width,
                             int positions) {
    int lane = (int)(threadIdx.x % 32), column = ((int)blockIdx.y * 32 + lane) * W;
    int64_t position = (int64_t)blockIdx.x * EMBED_WARPS + threadIdx.x / 32;
    if (position >= positions) return;
    float sum[W] = {};
    for (int first = 0; first < wave.n_sequences; first += 32) {
        const bool here = first + lane < wave.n_sequences;
        uint32_t longer =
            __ballot_sync(0xffffffffu, here && record(wave.sequences + (first + lane))->n_tokens > position);
        for (int i = 0; i < 32; i++) {
            if (!(longer >> i & 1) || column >= width) continue;
            add_rows<W>(
                sum, 1,
                dx.data +
                    ((record(wave.sequences + (first + i))->first_token + position) * dx.columns + column),
                0);
        }
    }
    if (column < width) store_wide<W>(dwpe + (position * width + column), sum);
}

template <int W> static const char *embed_backward_as(const ck_embed_backward *d, const cuda_call *call) {
    cuda_rows<const float> dx = cuda_rows_of<const float>(d->dx);
    float *dwte = call->base_gradients + d->wte_gradient;
    unsigned spans = (unsigned)((d->width + 32 * W - 1) / (32 * W));
    dim3 tokens((unsigned)((call->wave.n_tokens + EMBED_WARPS - 1) / EMBED_WARPS), spans);
    dim3 positions((unsigned)((d->positions + EMBED_WARPS - 1) / EMBED_WARPS), spans);
    const char *problem = nullptr;
    if (!d->accumulate)
        problem = gpu_zero(call->stream, dwte, (size_t)d->vocabulary * (size_t)d->width * sizeof(float));
    if (!problem)
        problem = CK_LAUNCH((token_gradient_kernel<W>), tokens, 32 * EMBED_WARPS, 0, call->stream, call->wave,
                            dx, dwte, d->width);
    if (problem || d->wpe_gradient < 0) return problem;
    float *dwpe = call->base_gradients + d->wpe_gradient;
    return CK_LAUNCH((position_gradient_kernel<W>), positions, 32 * EMBED_WARPS, 0, call->stream, call->wave,
                     dx, dwpe, d->width, d->positions);
}

/* A base is trained in f32 only. */
CUDA_NO_WORKSPACE(embed_backward)

const char *cuda_embed_backward(const ck_embed_backward *d, const cuda_call *call) {
    if (!call->base_gradients) return nullptr;
    int64_t stride = d->width * (int64_t)sizeof(float);
    bool wide = cuda_is_wide(call->base_gradients + d->wte_gradient, stride) &&
                (d->wpe_gradient < 0 || cuda_is_wide(call->base_gradients + d->wpe_gradient, stride));
    if (wide && cuda_is_wide<float>(d->dx)) return embed_backward_as<4>(d, call);
    return embed_backward_as<1>(d, call);
}

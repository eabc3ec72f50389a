/* mlp.cu - the activation of the dense MLP: m = gelu(u), du = dm gelu'(u), tanh form; and with a gate u = (g, v),
 * m = silu(g) v, dg = dm v silu'(g), dv = dm silu(g).
 *
 * u, du [T, BRANCHES F], m, dm [T, F], f32 or bf16. A warp takes SPAN columns of U of a row, each lane W
 * neighbours at a time, of each branch. du may be dm where there is one branch: every lane reads its elements before
 * it writes them. Bytes a token in f32: forward 4 (BRANCHES + 1) F, backward 4 (2 BRANCHES + 1) F, half of that in
 * bf16; the bound is memory. */
#include "activation.cuh"
#include "ops.cuh"
#include "wide.cuh"

enum { MLP_WARPS = 8, MLP_SPAN = 1024 };

template <typename T, int W, int N>
static __device__ __forceinline__ void load_branches(float (&u)[N][W], cuda_rows<const T> rows, int64_t row,
                                                     int ffn, int i) {
    CK_UNROLL
    for (int b = 0; b < N; b++) load_wide<W>(u[b], rows.data + (row * rows.columns + b * ffn + i));
}

/* Column j's values become their slopes; returns the activation. */
template <typename Mlp, typename T, int W>
static __device__ __forceinline__ float turn_to_slopes(float (&u)[Mlp::BRANCHES][W], int j) {
    float branches[Mlp::BRANCHES], slopes[Mlp::BRANCHES];
    CK_UNROLL
    for (int b = 0; b < Mlp::BRANCHES; b++) branches[b] = u[b][j];
    float value = Mlp::template slopes<T>(branches, slopes);
    CK_UNROLL
    for (int b = 0; b < Mlp::BRANCHES; b++) u[b][j] = slopes[b];
    return value;
}

template <typename Mlp, typename T, int W>
static __global__ void __launch_bounds__(32 * MLP_WARPS)
    mlp_kernel(cuda_rows<const T> u, cuda_rows<T> m, int n_tokens, int ffn) {
    constexpr int span = MLP_SPAN / Mlp::BRANCHES;
    int64_t row = (int64_t)blockIdx.x * MLP_WARPS + threadIdx.x / 32;
    int begin = (int)blockIdx.y * span, end = begin + span < ffn ? begin + span : ffn;
    if (row >= n_tokens) return;
    for (int i = begin + (int)(threadIdx.x % 32) * W; i < end; i += 32 * W) {
        float v[Mlp::BRANCHES][W], out[W];
        load_branches(v, u, row, ffn, i);
        CK_UNROLL
        for (int j = 0; j < W; j++) out[j] = turn_to_slopes<Mlp, T>(v, j);
        store_wide<W>(m.data + (row * m.columns + i), out);
    }
}

template <typename Mlp, typename T, int W>
static __global__ void __launch_bounds__(32 * MLP_WARPS)
    mlp_backward_kernel(cuda_rows<const T> u, cuda_rows<const T> dm, cuda_rows<T> du, int n_tokens, int ffn) {
    constexpr int span = MLP_SPAN / Mlp::BRANCHES;
    int64_t row = (int64_t)blockIdx.x * MLP_WARPS + threadIdx.x / 32;
    int begin = (int)blockIdx.y * span, end = begin + span < ffn ? begin + span : ffn;
    if (row >= n_tokens) return;
    for (int i = begin + (int)(threadIdx.x % 32) * W; i < end; i += 32 * W) {
        float v[Mlp::BRANCHES][W], d[W];
        load_branches(v, u, row, ffn, i);
        load_wide<W>(d, dm.data + (row * dm.columns + i));
        CK_UNROLL
        for (int j = 0; j < W; j++) {
            (void)turn_to_slopes<Mlp, T>(v, j);
            CK_UNROLL
            for (int b = 0; b < Mlp::BRANCHES; b++) v[b][j] *= d[j];
        }
        CK_UNROLL
        for (int b = 0; b < Mlp::BRANCHES; b++)
            store_wide<W>(du.data + (row * du.columns + b * ffn + i), v[b]);
    }
}

template <typename Mlp> static dim3 grid_of(const cuda_call *call, int ffn) {
    constexpr int span = MLP_SPAN / Mlp::BRANCHES;
    return dim3((unsigned)((call->wave.n_tokens + MLP_WARPS - 1) / MLP_WARPS),
                (unsigned)((ffn + span - 1) / span));
}

/* Op: ck_gelu, ck_swiglu and their backward twins have the same members. */
template <typename Mlp, typename T, int W, typename Op>
static const char *forward(const Op *d, const cuda_call *call) {
    return CK_LAUNCH((mlp_kernel<Mlp, T, W>), grid_of<Mlp>(call, d->ffn), 32 * MLP_WARPS, 0, call->stream,
                     cuda_rows_of<const T>(d->u), cuda_rows_of<T>(d->m), call->wave.n_tokens, d->ffn);
}

template <typename Mlp, typename T, int W, typename Op>
static const char *backward(const Op *d, const cuda_call *call) {
    return CK_LAUNCH((mlp_backward_kernel<Mlp, T, W>), grid_of<Mlp>(call, d->ffn), 32 * MLP_WARPS, 0,
                     call->stream, cuda_rows_of<const T>(d->u), cuda_rows_of<const T>(d->dm),
                     cuda_rows_of<T>(d->du), call->wave.n_tokens, d->ffn);
}

template <typename Mlp, typename T, typename Op>
static const char *forward_as(const Op *d, const cuda_call *call) {
    constexpr int W = wide_elements<T>();
    bool wide = cuda_is_wide<T>(d->u) && cuda_is_wide<T>(d->m) && d->ffn % W == 0;
    return wide ? forward<Mlp, T, W>(d, call) : forward<Mlp, T, 1>(d, call);
}

template <typename Mlp, typename T, typename Op>
static const char *backward_as(const Op *d, const cuda_call *call) {
    constexpr int W = wide_elements<T>();
    bool wide = cuda_is_wide<T>(d->u) && cuda_is_wide<T>(d->dm) && cuda_is_wide<T>(d->du) && d->ffn % W == 0;
    return wide ? backward<Mlp, T, W>(d, call) : backward<Mlp, T, 1>(d, call);
}

#define MLP_OPS(name)                                                                                        \
    CUDA_NO_WORKSPACE(name)                                                                                  \
    const char *cuda_##name(const ck_##name *d, const cuda_call *call) {                                     \
        return call->half ? forward_as<name##_mlp, bf16>(d, call) : forward_as<name##_mlp, float>(d, call);  \
    }                                                                                                        \
    CUDA_NO_WORKSPACE(name##_backward)                                                                       \
    const char *cuda_##name##_backward(const ck_##name##_backward *d, const cuda_call *call) {               \
        return call->half ? backward_as<name##_mlp, bf16>(d, call)                                           \
                          : backward_as<name##_mlp, float>(d, call);                                         \
    }
MLP_OPS(gelu)
MLP_OPS(swiglu)

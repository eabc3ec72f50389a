/* swiglu.cu - the dense MLP with a gate: u = (g, v), m = silu(g) v, dg = dm v silu'(g), dv = dm silu(g).
 *
 * u, du [T, 2 F], m, dm [T, F], f32 or bf16. A warp takes SPAN columns of F of a row, each lane W neighbours
 * at a time, of both halves. Bytes a token: forward 12 F, backward 20 F in f32, half of that in bf16; the
 * bound is memory. */
#include "activation.cuh"
#include "ops.cuh"
#include "wide.cuh"

enum { SWIGLU_WARPS = 8, SWIGLU_SPAN = 512 };

template <typename T, int W>
static __global__ void __launch_bounds__(32 * SWIGLU_WARPS)
    swiglu_kernel(cuda_rows<const T> u, cuda_rows<T> m, int n_tokens, int ffn) {
    int64_t row = (int64_t)blockIdx.x * SWIGLU_WARPS + threadIdx.x / 32;
    int begin = (int)blockIdx.y * SWIGLU_SPAN, end = begin + SWIGLU_SPAN < ffn ? begin + SWIGLU_SPAN : ffn;
    if (row >= n_tokens) return;
    for (int i = begin + (int)(threadIdx.x % 32) * W; i < end; i += 32 * W) {
        float gate[W], up[W];
        load_wide<W>(gate, u.data + (row * u.columns + i));
        load_wide<W>(up, u.data + (row * u.columns + ffn + i));
        CK_UNROLL
        for (int j = 0; j < W; j++) gate[j] *= sigmoid_as<T>(gate[j]) * up[j];
        store_wide<W>(m.data + (row * m.columns + i), gate);
    }
}

template <typename T, int W>
static __global__ void __launch_bounds__(32 * SWIGLU_WARPS)
    swiglu_backward_kernel(cuda_rows<const T> u, cuda_rows<const T> dm, cuda_rows<T> du, int n_tokens,
                           int ffn) {
    int64_t row = (int64_t)blockIdx.x * SWIGLU_WARPS + threadIdx.x / 32;
    int begin = (int)blockIdx.y * SWIGLU_SPAN, end = begin + SWIGLU_SPAN < ffn ? begin + SWIGLU_SPAN : ffn;
    if (row >= n_tokens) return;
    for (int i = begin + (int)(threadIdx.x % 32) * W; i < end; i += 32 * W) {
        float gate[W], up[W], d[W];
        load_wide<W>(gate, u.data + (row * u.columns + i));
        load_wide<W>(up, u.data + (row * u.columns + ffn + i));
        load_wide<W>(d, dm.data + (row * dm.columns + i));
        CK_UNROLL
        for (int j = 0; j < W; j++) {
            const float branches[2] = {gate[j], up[j]};
            float slopes[2];
            (void)swiglu_mlp::slopes<T>(branches, slopes);
            gate[j] = d[j] * slopes[0];
            up[j] = d[j] * slopes[1];
        }
        store_wide<W>(du.data + (row * du.columns + i), gate);
        store_wide<W>(du.data + (row * du.columns + ffn + i), up);
    }
}

static dim3 grid_of(const cuda_call *call, int ffn) {
    return dim3((unsigned)((call->wave.n_tokens + SWIGLU_WARPS - 1) / SWIGLU_WARPS),
                (unsigned)((ffn + SWIGLU_SPAN - 1) / SWIGLU_SPAN));
}

template <typename T, int W> static const char *forward(const ck_swiglu *d, const cuda_call *call) {
    return CK_LAUNCH((swiglu_kernel<T, W>), grid_of(call, d->ffn), 32 * SWIGLU_WARPS, 0, call->stream,
                     cuda_rows_of<const T>(d->u), cuda_rows_of<T>(d->m), call->wave.n_tokens, d->ffn);
}

template <typename T, int W> static const char *backward(const ck_swiglu_backward *d, const cuda_call *call) {
    return CK_LAUNCH((swiglu_backward_kernel<T, W>), grid_of(call, d->ffn), 32 * SWIGLU_WARPS, 0,
                     call->stream, cuda_rows_of<const T>(d->u), cuda_rows_of<const T>(d->dm),
                     cuda_rows_of<T>(d->du), call->wave.n_tokens, d->ffn);
}

template <typename T> static const char *forward_as(const ck_swiglu *d, const cuda_call *call) {
    constexpr int W = wide_elements<T>();
    bool wide = cuda_is_wide<T>(d->u) && cuda_is_wide<T>(d->m) && d->ffn % W == 0;
    return wide ? forward<T, W>(d, call) : forward<T, 1>(d, call);
}

template <typename T> static const char *backward_as(const ck_swiglu_backward *d, const cuda_call *call) {
    constexpr int W = wide_elements<T>();
    bool wide = cuda_is_wide<T>(d->u) && cuda_is_wide<T>(d->dm) && cuda_is_wide<T>(d->du) && d->ffn % W == 0;
    return wide ? backward<T, W>(d, call) : backward<T, 1>(d, call);
}

const char *cuda_swiglu(const ck_swiglu *d, const cuda_call *call) {
    return call->half ? forward_as<bf16>(d, call) : forward_as<float>(d, call);
}

const char *cuda_swiglu_backward(const ck_swiglu_backward *d, const cuda_call *call) {
    return call->half ? backward_as<bf16>(d, call) : backward_as<float>(d, call);
}

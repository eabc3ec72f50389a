/* gelu.cu - the dense MLP of pre-training: m = gelu(u), du = dm gelu'(u), tanh form.
 *
 * u, m, dm, du [T, F], f32 or bf16. A warp takes a row's SPAN columns, each lane W neighbours at a time. du
 * may be dm: every lane reads its elements before it writes them. Bytes a token: forward 8 F, backward 12 F
 * in f32, half of that in bf16; the bound is memory. */
#include "activation.cuh"
#include "ops.cuh"
#include "wide.cuh"

enum { GELU_WARPS = 8, GELU_SPAN = 1024 };

template <typename T, int W>
static __global__ void __launch_bounds__(32 * GELU_WARPS)
    gelu_kernel(cuda_rows<const T> u, cuda_rows<T> m, int n_tokens, int ffn) {
    int64_t row = (int64_t)blockIdx.x * GELU_WARPS + threadIdx.x / 32;
    int begin = (int)blockIdx.y * GELU_SPAN, end = begin + GELU_SPAN < ffn ? begin + GELU_SPAN : ffn;
    if (row >= n_tokens) return;
    for (int i = begin + (int)(threadIdx.x % 32) * W; i < end; i += 32 * W) {
        float v[W];
        load_wide<W>(v, u.data + (row * u.columns + i));
        CK_UNROLL
        for (int j = 0; j < W; j++) v[j] = gelu(v[j]);
        store_wide<W>(m.data + (row * m.columns + i), v);
    }
}

template <typename T, int W>
static __global__ void __launch_bounds__(32 * GELU_WARPS)
    gelu_backward_kernel(cuda_rows<const T> u, cuda_rows<const T> dm, cuda_rows<T> du, int n_tokens,
                         int ffn) {
    int64_t row = (int64_t)blockIdx.x * GELU_WARPS + threadIdx.x / 32;
    int begin = (int)blockIdx.y * GELU_SPAN, end = begin + GELU_SPAN < ffn ? begin + GELU_SPAN : ffn;
    if (row >= n_tokens) return;
    for (int i = begin + (int)(threadIdx.x % 32) * W; i < end; i += 32 * W) {
        float v[W], d[W];
        load_wide<W>(v, u.data + (row * u.columns + i));
        load_wide<W>(d, dm.data + (row * dm.columns + i));
        CK_UNROLL
        for (int j = 0; j < W; j++) {
            float slope;
            (void)gelu_slope(v[j], &slope);
            d[j] *= slope;
        }
        store_wide<W>(du.data + (row * du.columns + i), d);
    }
}

static dim3 grid_of(const cuda_call *call, int ffn) {
    return dim3((unsigned)((call->wave.n_tokens + GELU_WARPS - 1) / GELU_WARPS),
                (unsigned)((ffn + GELU_SPAN - 1) / GELU_SPAN));
}

template <typename T> static const char *gelu_as(const ck_gelu *d, const cuda_call *call) {
    cuda_rows<const T> u = cuda_rows_of<const T>(d->u);
    cuda_rows<T> m = cuda_rows_of<T>(d->m);
    constexpr int W = wide_elements<T>();
    if (cuda_is_wide<T>(d->u) && cuda_is_wide<T>(d->m) && d->ffn % W == 0)
        return CK_LAUNCH((gelu_kernel<T, W>), grid_of(call, d->ffn), 32 * GELU_WARPS, 0, call->stream, u, m,
                         call->wave.n_tokens, d->ffn);
    return CK_LAUNCH((gelu_kernel<T, 1>), grid_of(call, d->ffn), 32 * GELU_WARPS, 0, call->stream, u, m,
                     call->wave.n_tokens, d->ffn);
}

template <typename T> static const char *gelu_backward_as(const ck_gelu_backward *d, const cuda_call *call) {
    cuda_rows<const T> u = cuda_rows_of<const T>(d->u), dm = cuda_rows_of<const T>(d->dm);
    cuda_rows<T> du = cuda_rows_of<T>(d->du);
    constexpr int W = wide_elements<T>();
    if (cuda_is_wide<T>(d->u) && cuda_is_wide<T>(d->dm) && cuda_is_wide<T>(d->du) && d->ffn % W == 0)
        return CK_LAUNCH((gelu_backward_kernel<T, W>), grid_of(call, d->ffn), 32 * GELU_WARPS, 0,
                         call->stream, u, dm, du, call->wave.n_tokens, d->ffn);
    return CK_LAUNCH((gelu_backward_kernel<T, 1>), grid_of(call, d->ffn), 32 * GELU_WARPS, 0, call->stream, u,
                     dm, du, call->wave.n_tokens, d->ffn);
}

const char *cuda_gelu(const ck_gelu *d, const cuda_call *call) {
    return call->half ? gelu_as<bf16>(d, call) : gelu_as<float>(d, call);
}

const char *cuda_gelu_backward(const ck_gelu_backward *d, const cuda_call *call) {
    return call->half ? gelu_backward_as<bf16>(d, call) : gelu_backward_as<float>(d, call);
}

/* linear.cu - the frozen base's products, by cuda_multiply(), and what surrounds them.
 *
 *   y = x W^T + c b + residual      dx (+)= dy W      dW = dy^T x, db = column sums of dy (pre-training)
 *
 * Bytes a token, bf16: 2 (in + out), with a residual 2 out more; the products dominate (2 in out FLOPs a
 * token). A bias and a residual are part of the product itself; only where the bias has factors y is begun by
 * a kernel of its own. */
#include "driver.hpp"
#include "fragment.cuh"

enum { ELEMENT_BLOCK = 256 };

static unsigned blocks_for(int64_t count) {
    int64_t blocks = (count + ELEMENT_BLOCK - 1) / ELEMENT_BLOCK;
    return (unsigned)(blocks < 65536 ? blocks : 65536);
}

/* ---- Types ---- */

template <typename From, typename To>
static __global__ void convert_kernel(global<const From> from, global<To> to, int64_t count) {
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step)
        store_one(to + i, load_one(from + i));
}

const char *cuda_to_half(const float *from, bf16 *to, int64_t count, gpu_stream stream) {
    return CK_LAUNCH((convert_kernel<float, bf16>), dim3(blocks_for(count)), dim3(ELEMENT_BLOCK), 0, stream,
                     from, to, count);
}

const char *cuda_to_float(const bf16 *from, float *to, int64_t count, gpu_stream stream) {
    return CK_LAUNCH((convert_kernel<bf16, float>), dim3(blocks_for(count)), dim3(ELEMENT_BLOCK), 0, stream,
                     from, to, count);
}

/* ---- y = residual + c b: a warp a token ---- */

template <typename T> struct begin_arguments {
    cuda_rows<T> y;
    cuda_rows<const T> residual;
    global<const float> bias_factor; /* [tokens] */
    global<const float> bias;
    int64_t first_token, n_tokens;
    int32_t out;
};

template <typename T> static __global__ void begin_kernel(begin_arguments<T> a) {
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, token = a.first_token + row;
    if (row >= a.n_tokens) return;
    float factor = a.bias_factor[token];
    for (int i = (int)(threadIdx.x % 32); i < a.out; i += 32) {
        float y = factor * a.bias[i];
        if (a.residual.data) y += load_one(a.residual.data + (token * a.residual.columns + i));
        store_one(a.y.data + (token * a.y.columns + i), y);
    }
}

template <typename T>
static const char *begin(const ck_linear *d, const cuda_call *call, const cuda_part *part) {
    begin_arguments<T> a = {};
    a.y = cuda_rows_of<T>(d->y);
    if (d->residual) a.residual = cuda_rows_of<const T>(d->residual);
    a.bias_factor = static_cast<const float *>(d->bias_factor->data);
    a.bias = part->weights.bias;
    a.first_token = part->first_token, a.n_tokens = part->n_tokens;
    a.out = d->out;
    return CK_LAUNCH(begin_kernel<T>, dim3((unsigned)((part->n_tokens + 7) / 8)), dim3(256), 0, call->stream,
                     a);
}

/* ---- Products: one for each part of the wave that has a weight of its own (variants.cu) ---- */

static cuda_product product_of(const cuda_call *call) {
    cuda_product p = {};
    p.half_in = p.half_out = call->half;
    p.alpha = 1;
    return p;
}

/* The part's first row of an activation. */
static void *rows_of(const ck_tensor *tensor, const cuda_call *call, const cuda_part *part) {
    size_t element = call->half ? sizeof(bf16) : sizeof(float);
    return static_cast<char *>(tensor->data) + (size_t)part->first_token * (size_t)tensor->columns * element;
}

/* out = x W^T; add, bias and beta are the caller's. */
static cuda_product forward_product(const ck_linear *d, const cuda_call *call, const cuda_part *part) {
    cuda_product p = product_of(call);
    p.m = part->n_tokens, p.n = d->out, p.k = d->in;
    p.a = rows_of(d->x, call, part), p.lda = d->x->columns;
    p.b = cuda_weight(call, part->weights.weight), p.ldb = d->in, p.turn_b = true;
    p.out = rows_of(d->y, call, part), p.ld_out = d->y->columns;
    return p;
}

static const char *linear_onto(const ck_linear *d, const cuda_call *call, const cuda_part *part) {
    cuda_product p = forward_product(d, call, part);
    p.add = p.out, p.ld_add = p.ld_out, p.beta = 1;
    return cuda_multiply(&p, call->stream);
}

const char *cuda_linear_onto(const ck_linear *d, const cuda_call *call) {
    const char *problem = nullptr;
    cuda_part part;
    for (int32_t at = 0; !problem && cuda_next_part(call, d->linear, {d->weight, nullptr}, &at, &part);)
        problem = linear_onto(d, call, &part);
    return problem;
}

static const char *linear_of(const ck_linear *d, const cuda_call *call, const cuda_part *part) {
    const float *bias = part->weights.bias;
    if (bias && d->bias_factor) {
        const char *problem = call->half ? begin<bf16>(d, call, part) : begin<float>(d, call, part);
        return problem ? problem : linear_onto(d, call, part);
    }
    cuda_product p = forward_product(d, call, part);
    if (d->residual) p.add = rows_of(d->residual, call, part), p.ld_add = d->residual->columns, p.beta = 1;
    if (bias) p.bias = cuda_weight(call, bias);
    return cuda_multiply(&p, call->stream);
}

CUDA_NO_WORKSPACE(linear)

const char *cuda_linear(const ck_linear *d, const cuda_call *call) {
    const char *problem = nullptr;
    cuda_part part;
    for (int32_t at = 0; !problem && cuda_next_part(call, d->linear, {d->weight, d->bias}, &at, &part);)
        problem = linear_of(d, call, &part);
    return problem;
}

/* ---- Column sums: rows in groups (cuda_limits.slice_tokens), then the groups in order ---- */

static __global__ void group_sums_kernel(global<const float> rows, int64_t stride, int64_t n_rows,
                                         int32_t columns, int64_t group, global<float> sums) {
    int column = (int)(blockIdx.y * blockDim.x + threadIdx.x);
    if (column >= columns) return;
    int64_t first = blockIdx.x * group, end = first + group < n_rows ? first + group : n_rows;
    float sum = 0;
    for (int64_t r = first; r < end; r++) sum += rows[r * stride + column];
    sums[(int64_t)blockIdx.x * columns + column] = sum;
}

static __global__ void total_kernel(global<const float> sums, int64_t groups, int32_t columns,
                                    global<float> out) {
    int column = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (column >= columns) return;
    float sum = 0;
    for (int64_t g = 0; g < groups; g++) sum += sums[g * columns + column];
    out[column] = sum;
}

static int64_t sum_groups(int64_t rows) {
    return (rows + cuda_limits.slice_tokens - 1) / cuda_limits.slice_tokens;
}

size_t cuda_linear_backward_workspace(const ck_linear_backward *d, const cuda_bounds *bounds) {
    return d->bias_gradient >= 0 ? (size_t)sum_groups(bounds->max_tokens) * (size_t)d->out * sizeof(float)
                                 : 0;
}

static const char *bias_gradient(const ck_linear_backward *d, const cuda_call *call) {
    float *sums = static_cast<float *>(call->workspace);
    int64_t groups = sum_groups(call->wave.n_tokens);
    unsigned columns = (unsigned)((d->out + 127) / 128);
    const char *problem = CK_LAUNCH(group_sums_kernel, dim3((unsigned)groups, columns), dim3(128), 0,
                                    call->stream, static_cast<const float *>(d->dy->data), d->dy->columns,
                                    call->wave.n_tokens, d->out, cuda_limits.slice_tokens, sums);
    if (problem) return problem;
    return CK_LAUNCH(total_kernel, dim3(columns), dim3(128), 0, call->stream, sums, groups, d->out,
                     call->base_gradients + d->bias_gradient);
}

static const char *weight_gradient(const ck_linear_backward *d, const cuda_call *call, float *out) {
    cuda_product p = product_of(call);
    p.m = d->out, p.n = d->in, p.k = call->wave.n_tokens;
    p.a = d->dy->data, p.lda = d->dy->columns, p.turn_a = true;
    p.b = d->x->data, p.ldb = d->x->columns;
    p.out = out, p.ld_out = d->in;
    return cuda_multiply(&p, call->stream);
}

static const char *input_gradient(const ck_linear_backward *d, const cuda_call *call, const cuda_part *part) {
    cuda_product p = product_of(call);
    p.m = part->n_tokens, p.n = d->in, p.k = d->out;
    p.a = rows_of(d->dy, call, part), p.lda = d->dy->columns;
    p.b = cuda_weight(call, part->weights.weight), p.ldb = d->in;
    p.out = rows_of(d->dx, call, part), p.ld_out = d->dx->columns;
    if (d->accumulate) p.add = p.out, p.ld_add = p.ld_out, p.beta = 1;
    return cuda_multiply(&p, call->stream);
}

const char *cuda_linear_backward(const ck_linear_backward *d, const cuda_call *call) {
    const char *problem = nullptr;
    cuda_part part;
    for (int32_t at = 0;
         d->dx && !problem && cuda_next_part(call, d->linear, {d->weight, nullptr}, &at, &part);)
        problem = input_gradient(d, call, &part);
    if (!problem && d->weight_gradient >= 0)
        problem = weight_gradient(d, call, call->base_gradients + d->weight_gradient);
    if (!problem && d->bias_gradient >= 0) problem = bias_gradient(d, call);
    return problem;
}

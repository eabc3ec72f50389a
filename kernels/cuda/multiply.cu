/* multiply.cu - cuda_multiply(): the library's product, and what is done where the library has none.
 *
 *   1. The library, the bias in the product itself.
 *   2. Where it refuses, or the bias is not aligned to 16 bytes (it may be read so):
 *       out = beta add + bias by a kernel, then the library.
 *   3. Where it refuses that too, or COHORT_CUDA_PRODUCTS=own: a kernel of our own,
 *       right for every shape and far from the library's speed.
 *
 * The own kernel: a block makes 64 x 64 of out, 16 of the summed index at a time in shared memory, a lane 4 x
 * 4; f32 products and sums in the order of the summed index. 2 m n k FLOPs. */
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tuple>

#include "driver.hpp"
#include "fragment.cuh"

enum { OWN_TILE = 64, OWN_DEPTH = 16, OWN_LANES = 256, OWN_STRIDE = OWN_TILE + 1 };

/* ---- Kernels */

/* A matrix of f32 or bf16; element (i, j) lies at i * row + j * column. */
struct any_matrix {
    global<const float> f32;
    global<const bf16> half;
    int64_t row, column, rows, columns;
};

static __device__ __forceinline__ float any_element(const any_matrix &m, int64_t i, int64_t j) {
    if (i >= m.rows || j >= m.columns) return 0.0f;
    int64_t at = i * m.row + j * m.column;
    return m.half ? to_float(m.half[at]) : (float)m.f32[at];
}

struct own_product {
    any_matrix a, b, add, bias; /* [m, k], [k, n], [m, n], [1, n] */
    global<float> f32;
    global<bf16> half;
    int64_t ld_out, k;
    float alpha, beta;
};

static __device__ __forceinline__ void write_own(const own_product &p, int64_t i, int64_t j, float sum) {
    if (i >= p.add.rows || j >= p.add.columns) return;
    float value = p.alpha * sum;
    if (p.beta != 0.0f) value += p.beta * any_element(p.add, i, j);
    if (p.bias.f32 || p.bias.half) value += any_element(p.bias, 0, j);
    if (p.half)
        store_one(p.half + (i * p.ld_out + j), value);
    else
        p.f32[i * p.ld_out + j] = value;
}

/* Grid: tiles of m, tiles of n. */
static __global__ void __launch_bounds__(OWN_LANES) own_product_kernel(own_product p) {
    CK_SHARED(float, a, OWN_DEPTH *OWN_STRIDE);
    CK_SHARED(float, b, OWN_DEPTH *OWN_STRIDE);
    int64_t row = (int64_t)blockIdx.x * OWN_TILE, column = (int64_t)blockIdx.y * OWN_TILE;
    int lane = (int)threadIdx.x, i = lane / 16, j = lane % 16;
    float sums[4][4] = {};
    for (int64_t k = 0; k < p.k; k += OWN_DEPTH) {
        __syncthreads();
        for (int at = lane; at < OWN_TILE * OWN_DEPTH; at += OWN_LANES) {
            a[at % OWN_DEPTH * OWN_STRIDE + at / OWN_DEPTH] =
                any_element(p.a, row + at / OWN_DEPTH, k + at % OWN_DEPTH);
            b[at / OWN_TILE * OWN_STRIDE + at % OWN_TILE] =
                any_element(p.b, k + at / OWN_TILE, column + at % OWN_TILE);
        }
        __syncthreads();
        for (int d = 0; d < OWN_DEPTH; d++) {
            CK_UNROLL
            for (int at = 0; at < 16; at++)
                sums[at / 4][at % 4] +=
                    a[d * OWN_STRIDE + i + at / 4 * 16] * b[d * OWN_STRIDE + j + at % 4 * 16];
        }
    }
    CK_UNROLL
    for (int at = 0; at < 16; at++)
        write_own(p, row + i + at / 4 * 16, column + j + at % 4 * 16, sums[at / 4][at % 4]);
}

/* ---- Host */

static any_matrix matrix_of(const void *memory, bool half, int64_t rows, int64_t columns, int64_t row,
                            int64_t column) {
    any_matrix m = {};
    if (half)
        m.half = static_cast<const bf16 *>(memory);
    else
        m.f32 = static_cast<const float *>(memory);
    m.rows = rows, m.columns = columns, m.row = row, m.column = column;
    return m;
}

static const char *multiply_slowly(const cuda_product *p, gpu_stream stream) {
    own_product own = {};
    own.a = matrix_of(p->a, p->half_in, p->m, p->k, p->turn_a ? 1 : p->lda, p->turn_a ? p->lda : 1);
    own.b = matrix_of(p->b, p->half_in, p->k, p->n, p->turn_b ? 1 : p->ldb, p->turn_b ? p->ldb : 1);
    own.add = matrix_of(p->add, p->half_out, p->m, p->n, p->ld_add, 1);
    own.bias = matrix_of(p->bias, p->half_out, 1, p->n, 0, 1);
    if (p->half_out)
        own.half = static_cast<bf16 *>(p->out);
    else
        own.f32 = static_cast<float *>(p->out);
    own.ld_out = p->ld_out, own.k = p->k, own.alpha = p->alpha, own.beta = p->beta;
    dim3 grid((unsigned)((p->m + OWN_TILE - 1) / OWN_TILE), (unsigned)((p->n + OWN_TILE - 1) / OWN_TILE));
    return CK_LAUNCH(own_product_kernel, grid, dim3(OWN_LANES), 0, stream, own);
}

/* out = beta add + bias; a product of nothing. */
static const char *begin_with_bias(const cuda_product *p, gpu_stream stream) {
    cuda_product begin = *p;
    begin.k = 0;
    return multiply_slowly(&begin, stream);
}

static bool own_products() {
    const char *wanted = getenv("COHORT_CUDA_PRODUCTS");
    return wanted && strcmp(wanted, "own") == 0;
}

const char *cuda_describe_product(const cuda_product *p, char *text, size_t size) {
    snprintf(text, size, "a product %lld x %lld x %lld, %s to %s%s%s%s, rows of %lld, %lld, %lld",
             (long long)p->m, (long long)p->n, (long long)p->k, p->half_in ? "bf16" : "f32",
             p->half_out ? "bf16" : "f32", p->turn_a ? ", a turned" : "", p->turn_b ? ", b turned" : "",
             p->bias ? ", with a bias" : "", (long long)p->lda, (long long)p->ldb, (long long)p->ld_out);
    return text;
}

/* The shapes that the library has refused, and what is said of them: the product is right, but slow. */
static std::set<std::tuple<int64_t, int64_t, int64_t, int>> refused_shapes;
static char refused_note[512];

static void note_refused(const cuda_product *p, const char *why) {
    static char first[384];
    int form = p->turn_a | p->turn_b << 1 | p->half_in << 2 | p->half_out << 3;
    if (!refused_shapes.emplace(p->m, p->n, p->k, form).second) return;
    char shape[192];
    if (refused_shapes.size() == 1)
        snprintf(first, sizeof first, "%s (%s)", cuda_describe_product(p, shape, sizeof shape), why);
    snprintf(
        refused_note, sizeof refused_note,
        "products of %zu shape%s are made by a slow kernel, because the library refuses them; the first: %s",
        refused_shapes.size(), refused_shapes.size() == 1 ? "" : "s", first);
}

const char *cuda_note(const ck_backend *) {
    return refused_note;
}

static bool is_aligned(const void *bias) {
    return reinterpret_cast<uintptr_t>(bias) % 16 == 0;
}

const char *cuda_multiply(const cuda_product *p, gpu_stream stream) {
    if (p->m == 0 || p->n == 0) return nullptr;
    if (own_products()) return multiply_slowly(p, stream);
    const char *refused = nullptr, *problem = nullptr;
    cuda_product q = *p;
    if (!p->bias || is_aligned(p->bias)) {
        problem = gpu_multiply(p, stream, &refused);
        if (!refused) return problem;
    }
    if (p->bias) {
        problem = begin_with_bias(p, stream);
        q.bias = nullptr, q.add = p->out, q.ld_add = p->ld_out, q.beta = 1, refused = nullptr;
        if (!problem) problem = gpu_multiply(&q, stream, &refused);
        if (!refused) return problem;
    }
    note_refused(p, refused);
    return multiply_slowly(&q, stream);
}

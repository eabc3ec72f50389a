/* ops.cuh - what the host calls to run an op over a wave. Every function issues work to the stream and
 * returns NULL, or what was wrong, a sentence. None allocates, waits, or decides by anything that is only
 * known on the GPU; so a whole program can be one CUDA graph.
 *
 * Element types. A tensor that is used as an activation proper (ck_tensor.wide) holds bf16 in a bf16 program,
 * every other tensor f32. A kernel is a template over the activation's type; sums are f32 in both. */
#ifndef COHORT_KERNELS_CUDA_OPS_CUH
#define COHORT_KERNELS_CUDA_OPS_CUH

#include "../backend.h"
#include "limits.hpp"
#include "wave.cuh"

/* What y or dx of an op that adds (expert_expand, lora, and their likes backward) begins with, where a base
 * product will be added onto it afterwards: y0 = residual + c bias, with members and c of ck_linear. The op
 * writes y0 and its own part for every token of the wave, those of devices without such an adapter too. */
typedef struct {
    const ck_tensor *residual, *bias_factor;
    const float *bias;
    int32_t linear; /* whose bias it is; -1: no variant of the base replaces it */
} cuda_start;

/* Neighbouring devices of the wave that have one variant of the base. */
typedef struct {
    int64_t first_token, n_tokens;
    int32_t first_tile, n_tiles, n_devices, variant; /* variant as in ck_wave_device */
} cuda_variant_run;

typedef struct {
    const cuda_variant_run *runs; /* [n_runs], they cover the wave */
    int32_t n_runs, n_linears;
    const ck_replacement *table; /* ck_wave.variants */
} cuda_variants;

typedef struct {
    cuda_wave wave;
    cuda_wave_limits limits; /* over the shapes of this wave */
    bool half;               /* activations are bf16 */
    float *base_gradients;   /* wave.base_gradients, for the host */
    /* what the op's cuda_*_workspace() asked for, in GPU memory, aligned to 256 bytes; nothing survives an op
     */
    void *workspace;
    const struct cuda_copies *copies; /* what cuda_weight() looks in */
    const cuda_variants *variants;    /* NULL: every device has the recorded weights */
    /* NULL: y += and dx as the descriptor says. Else y and dx are written, beginning with it */
    const cuda_start *start;
    gpu_stream stream;
} cuda_call;

/* Neighbouring devices that have the same weight and bias of a linear. */
typedef struct {
    int64_t first_token, n_tokens;
    int32_t first_tile, n_tiles, n_devices;
    ck_replacement weights; /* f32; cuda_weight() tells what a product reads */
} cuda_part;

/* The next part of the wave for this linear, *at = 0 for the first; false: there are no more. */
bool cuda_next_part(const cuda_call *call, int32_t linear, ck_replacement recorded, int32_t *at,
                    cuda_part *part);
/* The call for an op that goes by tiles, on this part only. */
cuda_call cuda_call_on(const cuda_call *call, const cuda_part *part);

/* What a workspace is planned for: the program's capacity. Ranks are bounded by the columns of the op's own
 * tensors. */
typedef struct {
    int64_t max_tokens;
    int32_t max_sequences, max_devices, max_tiles, max_sequence_tokens;
    bool half;
} cuda_bounds;

#define X(op) const char *cuda_##op(const ck_##op *d, const cuda_call *call);
CK_OPS(X)
#undef X

/* The bytes of workspace that an op needs. Every op says it in its own file; one that needs none by
 * CUDA_NO_WORKSPACE(op). */
#define X(op) size_t cuda_##op##_workspace(const ck_##op *d, const cuda_bounds *bounds);
CK_OPS(X)
#undef X
#define CUDA_NO_WORKSPACE(op)                                                                                \
    size_t cuda_##op##_workspace(const ck_##op *, const cuda_bounds *) {                                     \
        return 0;                                                                                            \
    }

template <typename T> static inline cuda_rows<T> cuda_rows_of(const ck_tensor *tensor) {
    cuda_rows<T> rows = {static_cast<T *>(tensor->data), tensor->columns};
    return rows;
}

/* The frozen weight or bias as this program's products read it: itself in f32, its copy in a bf16 program. */
const void *cuda_weight(const cuda_call *call, const float *weight);

/* out = alpha a b + beta add, plus a bias [n] added to every row where given; row-major, out is m x n, the
 * summed index has k values. turn_a: a is stored [k, m]; turn_b: b is stored [n, k]. half_in: a and b are
 * bf16; half_out: out, add and bias are. Sums are f32, and f32 factors are not rounded to tf32. add may be
 * out; it is not read where beta is 0. */
typedef struct {
    int64_t m, n, k;
    const void *a, *b, *add, *bias;
    void *out;
    int64_t lda, ldb, ld_add, ld_out;
    bool turn_a, turn_b, half_in, half_out;
    float alpha, beta;
} cuda_product;
const char *cuda_multiply(const cuda_product *product, gpu_stream stream);

/* By the library alone (gpu/product.cu; tests/simt has loops). *refused: it has no way to make this one, and
 * nothing was issued. */
const char *gpu_multiply(const cuda_product *product, gpu_stream stream, const char **refused);
/* Its sizes, types and strides, for messages; returns text. */
const char *cuda_describe_product(const cuda_product *product, char *text, size_t size);

/* ---- Updates, outside programs (updates.cu): the driver's own entries */

/* GPU memory that holds a copy of `bytes` of host memory, in time for what is issued to the stream next; good
 * until the driver's call returns. NULL: no memory. */
const void *cuda_stage(ck_stream *stream, const void *host, size_t bytes);
gpu_stream cuda_stream_of(ck_stream *stream);

const char *cuda_adamw_devices(ck_stream *, float *parameters, float *moment1, float *moment2,
                               const float *gradients, const ck_shape *, int32_t n_shapes,
                               const ck_adamw_device *, int32_t n_devices);
const char *cuda_carry_devices(ck_stream *, float *carried, float *gradients, const ck_shape *,
                               int32_t n_shapes, const ck_carry_device *, int32_t n_devices);
const char *cuda_adamw_ranges(ck_stream *, float *parameters, float *moment1, float *moment2,
                              const float *gradients, const ck_range *, int32_t n_ranges,
                              const ck_adamw_hyper *);
const char *cuda_group_sum(ck_stream *, const float *parameters, const ck_group *, int32_t n_groups,
                           float *packed);
const char *cuda_group_spread(ck_stream *, float *parameters, const ck_group *, int32_t n_groups,
                              const float *packed);
const char *cuda_group_proximal(ck_stream *, const float *parameters, const ck_group *, int32_t n_groups,
                                const float *packed, float *gradients);

#endif

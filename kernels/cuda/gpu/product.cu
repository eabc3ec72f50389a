/* product.cu - gpu_multiply() by cuBLASLt.
 *
 * Row-major out = a b is column-major out^T = b^T a^T: the two factors change places, and what is stored
 * turned stays turned.
 *
 * The same bits every time: the algorithm of a shape is chosen once and kept, and sums that an algorithm
 * splits are kept in f32 and added in a separate step, never in the type of the result and never by whoever
 * comes first. By default it is the first that the library's own heuristic proposes, the same in every
 * process. With COHORT_CUDA_TUNE=1 the first few are timed and the fastest is kept: bits are then the same
 * within a process, but another process may choose otherwise. */
#include "../../library.h"
#include "../ops.cuh"

#include <cublasLt.h>
#include <dlfcn.h>
#include <map>
#include <math.h>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tuple>

enum : size_t { LIBRARY_WORKSPACE = (size_t)32 << 20 };

typedef std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int> shape_key;

typedef struct {
    const char *refused; /* why the library has no algorithm; NULL: it has */
    cublasLtMatmulAlgo_t algorithm;
} choice;

static struct {
    std::mutex lock;
    cublasLtHandle_t handle;
    void *workspace;
    bool ready;
    std::map<shape_key, choice> choices;
} library;

enum { CANDIDATES = 6 };

typedef struct {
    cublasLtMatmulHeuristicResult_t list[CANDIDATES];
    int count;
} candidates;

static bool tuned() {
    const char *wanted = getenv("COHORT_CUDA_TUNE");
    return wanted && strcmp(wanted, "1") == 0;
}

/* cuBLASLt is loaded when the first product is wanted: linked, its 300 MB would be mapped by every run on a
 * CPU. */
#define BLAS_FUNCTIONS(X)                                                                                    \
    X(Create)                                                                                                \
    X(GetStatusString)                                                                                       \
    X(MatmulDescCreate)                                                                                      \
    X(MatmulDescDestroy)                                                                                     \
    X(MatmulDescSetAttribute)                                                                                \
    X(MatrixLayoutCreate)                                                                                    \
    X(MatrixLayoutDestroy)                                                                                   \
    X(MatmulPreferenceCreate)                                                                                \
    X(MatmulPreferenceDestroy)                                                                               \
    X(MatmulPreferenceSetAttribute)                                                                          \
    X(MatmulAlgoGetHeuristic)                                                                                \
    X(Matmul)

static struct {
#define X(name) decltype(&cublasLt##name) name;
    BLAS_FUNCTIONS(X)
#undef X
} blas;

static const char *load_library() {
    static char message[640];
    char name[64], why[560];
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    void *found = ck_load_library(name, COHORT_CUBLASLT, why, sizeof why);
    if (!found) {
        snprintf(message, sizeof message, "%s; COHORT_CUDA_PRODUCTS=own does without it, slowly", why);
        return message;
    }
#define X(name)                                                                                              \
    blas.name = reinterpret_cast<decltype(blas.name)>(dlsym(found, "cublasLt" #name));                       \
    if (!blas.name) return "libcublasLt has no cublasLt" #name;
    BLAS_FUNCTIONS(X)
#undef X
    return nullptr;
}

static const char *said(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? nullptr : blas.GetStatusString(status);
}

static const char *open_library() {
    if (library.ready) return nullptr;
    if (const char *problem = load_library()) return problem;
    if (const char *problem = said(blas.Create(&library.handle))) return problem;
    if (cudaMalloc(&library.workspace, LIBRARY_WORKSPACE) != cudaSuccess)
        return "no memory for the workspace of cuBLASLt";
    library.ready = true;
    return nullptr;
}

/* What all its matrices are aligned to, up to 256 bytes: it decides which algorithms are allowed. */
static uint32_t alignment_of(const cuda_product *p) {
    uintptr_t bits =
        (uintptr_t)p->a | (uintptr_t)p->b | (uintptr_t)p->out | (uintptr_t)p->add | (uintptr_t)p->bias | 256;
    return (uint32_t)(bits & (~bits + 1));
}

/* The descriptors of one product; released at the end of its life. */
struct product_plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, add = nullptr, out = nullptr;

    ~product_plan() {
        if (operation) blas.MatmulDescDestroy(operation);
        for (cublasLtMatrixLayout_t layout : {a, b, add, out})
            if (layout) blas.MatrixLayoutDestroy(layout);
    }

    template <typename V> const char *set(cublasLtMatmulDescAttributes_t name, V value) {
        return said(blas.MatmulDescSetAttribute(operation, name, &value, sizeof value));
    }

    const char *describe(const cuda_product *p) {
        cudaDataType_t in = p->half_in ? CUDA_R_16BF : CUDA_R_32F,
                       result = p->half_out ? CUDA_R_16BF : CUDA_R_32F;
        const char *problem = said(blas.MatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        if (!problem) problem = set(CUBLASLT_MATMUL_DESC_TRANSA, p->turn_b ? CUBLAS_OP_T : CUBLAS_OP_N);
        if (!problem) problem = set(CUBLASLT_MATMUL_DESC_TRANSB, p->turn_a ? CUBLAS_OP_T : CUBLAS_OP_N);
        if (!problem && p->bias) {
            problem = set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
            if (!problem) problem = set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p->bias);
            if (!problem) problem = set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, result);
        }
        uint64_t n = (uint64_t)p->n, m = (uint64_t)p->m, k = (uint64_t)p->k;
        if (!problem)
            problem = said(blas.MatrixLayoutCreate(&a, in, p->turn_b ? k : n, p->turn_b ? n : k, p->ldb));
        if (!problem)
            problem = said(blas.MatrixLayoutCreate(&b, in, p->turn_a ? m : k, p->turn_a ? k : m, p->lda));
        if (!problem)
            problem = said(blas.MatrixLayoutCreate(&add, result, n, m, p->add ? p->ld_add : p->ld_out));
        if (!problem) problem = said(blas.MatrixLayoutCreate(&out, result, n, m, p->ld_out));
        return problem;
    }

    const char *describe_wishes(cublasLtMatmulPreference_t preference, uint32_t alignment) {
        size_t most = LIBRARY_WORKSPACE;
        uint32_t sums = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
        const char *problem = said(blas.MatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most));
        if (!problem)
            problem = said(blas.MatmulPreferenceSetAttribute(
                preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums, sizeof sums));
        for (cublasLtMatmulPreferenceAttributes_t matrix :
             {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
            if (!problem)
                problem =
                    said(blas.MatmulPreferenceSetAttribute(preference, matrix, &alignment, sizeof alignment));
        return problem;
    }

    /* The library's proposals, best first; none: the library's own words for why. */
    const char *propose(uint32_t alignment, candidates *found) {
        cublasLtMatmulPreference_t preference;
        if (const char *problem = said(blas.MatmulPreferenceCreate(&preference))) return problem;
        const char *problem = describe_wishes(preference, alignment);
        if (!problem)
            problem =
                said(blas.MatmulAlgoGetHeuristic(library.handle, operation, a, b, add, out, preference,
                                                 tuned() ? (int)CANDIDATES : 1, found->list, &found->count));
        blas.MatmulPreferenceDestroy(preference);
        return !problem && found->count == 0 ? "cuBLASLt knows no algorithm" : problem;
    }

    cublasStatus_t run(const cuda_product *p, void *to, const cublasLtMatmulAlgo_t *algorithm,
                       gpu_stream stream) {
        return blas.Matmul(library.handle, operation, &p->alpha, p->b, a, p->a, b, &p->beta,
                           p->add ? p->add : p->out, add, to, out, algorithm, library.workspace,
                           LIBRARY_WORKSPACE, stream);
    }
};

static int flags_of(const cuda_product *p) {
    int form = p->turn_a | p->turn_b << 1 | p->half_in << 2 | p->half_out << 3 | (p->bias != nullptr) << 4 |
               (p->beta != 0) << 5;
    return form | (int)alignment_of(p) << 6;
}

/* ---- The choice of an algorithm, once a shape */

/* Seconds of three runs, the result written to memory of its own; infinite where it does not run. */
static float time_of(product_plan *plan, const cuda_product *p, void *scratch,
                     const cublasLtMatmulAlgo_t *algorithm, gpu_stream stream, cudaEvent_t from,
                     cudaEvent_t to) {
    float milliseconds = INFINITY;
    /* loads it too */
    if (plan->run(p, scratch, algorithm, stream) != CUBLAS_STATUS_SUCCESS) return milliseconds;
    cudaEventRecord(from, stream);
    for (int i = 0; i < 3; i++)
        if (plan->run(p, scratch, algorithm, stream) != CUBLAS_STATUS_SUCCESS) return milliseconds;
    cudaEventRecord(to, stream);
    if (cudaEventSynchronize(to) != cudaSuccess ||
        cudaEventElapsedTime(&milliseconds, from, to) != cudaSuccess)
        return INFINITY;
    return milliseconds;
}

/* The fastest; the first where there is no memory to try them in, or the stream is being captured. */
static int fastest(product_plan *plan, const cuda_product *p, const candidates *found, gpu_stream stream) {
    cudaStreamCaptureStatus capturing;
    cudaEvent_t from = nullptr, to = nullptr;
    void *scratch = nullptr;
    size_t bytes = (size_t)p->m * (size_t)p->ld_out * (p->half_out ? 2 : 4);
    int best = 0;
    if (found->count < 2 || cudaStreamIsCapturing(stream, &capturing) != cudaSuccess ||
        capturing != cudaStreamCaptureStatusNone)
        return 0;
    if (cudaMalloc(&scratch, bytes) == cudaSuccess && cudaEventCreate(&from) == cudaSuccess &&
        cudaEventCreate(&to) == cudaSuccess) {
        float least = INFINITY;
        for (int i = 0; i < found->count; i++) {
            float time = time_of(plan, p, scratch, &found->list[i].algo, stream, from, to);
            if (time < least) least = time, best = i;
        }
    }
    (void)cudaGetLastError(); /* no memory is no error of what follows */
    if (from) cudaEventDestroy(from);
    if (to) cudaEventDestroy(to);
    cudaFree(scratch);
    return best;
}

/* All products share one workspace: they are issued to one stream at a time. */
const char *gpu_multiply(const cuda_product *p, gpu_stream stream, const char **refused) {
    std::lock_guard<std::mutex> guard(library.lock);
    if (const char *problem = open_library()) return problem;
    product_plan plan;
    shape_key key(p->m, p->n, p->k, p->lda, p->ldb, p->add ? p->ld_add : 0, p->ld_out, flags_of(p));
    auto known = library.choices.find(key);
    *refused = known == library.choices.end() ? nullptr : known->second.refused;
    if (!*refused) *refused = plan.describe(p);
    if (!*refused && known == library.choices.end()) {
        candidates found = {};
        choice chosen = {};
        chosen.refused = plan.propose(alignment_of(p), &found);
        if (!chosen.refused) chosen.algorithm = found.list[fastest(&plan, p, &found, stream)].algo;
        known = library.choices.emplace(key, chosen).first;
        *refused = chosen.refused;
    }
    if (*refused) return nullptr;
    cublasStatus_t status = plan.run(p, p->out, &known->second.algorithm, stream);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE)
        *refused = known->second.refused = said(status);
    return said(status);
}

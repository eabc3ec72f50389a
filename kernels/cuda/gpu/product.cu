/* product.cu - cuda_multiply() by cuBLASLt.
 *
 * Row-major out = a b is column-major out^T = b^T a^T: the two factors change places, and what is stored turned stays turned. The first
 * algorithm that the library's own heuristic proposes is kept for every product of the same shape, so that a program is the same
 * every time. */
#include "../ops.cuh"

#include <cublasLt.h>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <stdio.h>
#include <tuple>

enum : size_t { LIBRARY_WORKSPACE = (size_t)32 << 20 };

typedef std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int> shape_key;

static struct {
    std::mutex lock;
    cublasLtHandle_t handle;
    void *workspace;
    bool ready;
    std::map<shape_key, cublasLtMatmulAlgo_t> algorithms;
} library;

/* cuBLASLt is loaded when the first product is wanted: linked, its 300 MB would be mapped by every run on a CPU. */
#define BLAS_FUNCTIONS(X)                                                                                                                  \
    X(Create)                                                                                                                              \
    X(GetStatusString)                                                                                                                     \
    X(MatmulDescCreate)                                                                                                                    \
    X(MatmulDescDestroy)                                                                                                                   \
    X(MatmulDescSetAttribute)                                                                                                              \
    X(MatrixLayoutCreate)                                                                                                                  \
    X(MatrixLayoutDestroy)                                                                                                                 \
    X(MatmulPreferenceCreate)                                                                                                              \
    X(MatmulPreferenceDestroy)                                                                                                             \
    X(MatmulPreferenceSetAttribute)                                                                                                        \
    X(MatmulAlgoGetHeuristic)                                                                                                              \
    X(Matmul)

static struct {
#define X(name) decltype(&cublasLt##name) name;
    BLAS_FUNCTIONS(X)
#undef X
} blas;

static void *open_shared_library() {
    char name[64];
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    void *found = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    return found ? found : dlopen(COHORT_CUBLASLT, RTLD_NOW | RTLD_LOCAL); /* where it was when this was built */
}

static const char *load_library() {
    void *found = open_shared_library();
    if (!found) return dlerror();
#define X(name)                                                                                                                            \
    blas.name = reinterpret_cast<decltype(blas.name)>(dlsym(found, "cublasLt" #name));                                                     \
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
    if (cudaMalloc(&library.workspace, LIBRARY_WORKSPACE) != cudaSuccess) return "no memory for the workspace of cuBLASLt";
    library.ready = true;
    return nullptr;
}

/* What all its matrices are aligned to, up to 256 bytes: it decides which algorithms are allowed. */
static uint32_t alignment_of(const cuda_product *p) {
    uintptr_t bits = (uintptr_t)p->a | (uintptr_t)p->b | (uintptr_t)p->out | (uintptr_t)p->add | (uintptr_t)p->bias | 256;
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
        cudaDataType_t in = p->half_in ? CUDA_R_16BF : CUDA_R_32F, result = p->half_out ? CUDA_R_16BF : CUDA_R_32F;
        const char *problem = said(blas.MatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        if (!problem) problem = set(CUBLASLT_MATMUL_DESC_TRANSA, p->turn_b ? CUBLAS_OP_T : CUBLAS_OP_N);
        if (!problem) problem = set(CUBLASLT_MATMUL_DESC_TRANSB, p->turn_a ? CUBLAS_OP_T : CUBLAS_OP_N);
        if (!problem && p->bias) {
            problem = set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
            if (!problem) problem = set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p->bias);
            if (!problem) problem = set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, result);
        }
        uint64_t n = (uint64_t)p->n, m = (uint64_t)p->m, k = (uint64_t)p->k;
        if (!problem) problem = said(blas.MatrixLayoutCreate(&a, in, p->turn_b ? k : n, p->turn_b ? n : k, p->ldb));
        if (!problem) problem = said(blas.MatrixLayoutCreate(&b, in, p->turn_a ? m : k, p->turn_a ? k : m, p->lda));
        if (!problem) problem = said(blas.MatrixLayoutCreate(&add, result, n, m, p->add ? p->ld_add : p->ld_out));
        if (!problem) problem = said(blas.MatrixLayoutCreate(&out, result, n, m, p->ld_out));
        return problem;
    }

    const char *choose(uint32_t alignment, cublasLtMatmulAlgo_t *algorithm) {
        cublasLtMatmulPreference_t preference;
        cublasLtMatmulHeuristicResult_t found;
        int count = 0;
        size_t most = LIBRARY_WORKSPACE;
        if (const char *problem = said(blas.MatmulPreferenceCreate(&preference))) return problem;
        const char *problem =
            said(blas.MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most));
        for (cublasLtMatmulPreferenceAttributes_t matrix :
             {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
            if (!problem) problem = said(blas.MatmulPreferenceSetAttribute(preference, matrix, &alignment, sizeof alignment));
        if (!problem) problem = said(blas.MatmulAlgoGetHeuristic(library.handle, operation, a, b, add, out, preference, 1, &found, &count));
        blas.MatmulPreferenceDestroy(preference);
        if (!problem && count == 0) problem = "cuBLASLt knows no algorithm for this product";
        if (!problem) *algorithm = found.algo;
        return problem;
    }
};

static int flags_of(const cuda_product *p) {
    int form = p->turn_a | p->turn_b << 1 | p->half_in << 2 | p->half_out << 3 | (p->bias != nullptr) << 4 | (p->beta != 0) << 5;
    return form | (int)alignment_of(p) << 6;
}

/* All products share one workspace: they are issued to one stream at a time. */
const char *cuda_multiply(const cuda_product *p, gpu_stream stream) {
    std::lock_guard<std::mutex> guard(library.lock);
    if (p->m == 0 || p->n == 0) return nullptr;
    if (const char *problem = open_library()) return problem;
    product_plan plan;
    if (const char *problem = plan.describe(p)) return problem;
    shape_key key(p->m, p->n, p->k, p->lda, p->ldb, p->add ? p->ld_add : 0, p->ld_out, flags_of(p));
    auto known = library.algorithms.find(key);
    if (known == library.algorithms.end()) {
        cublasLtMatmulAlgo_t algorithm;
        if (const char *problem = plan.choose(alignment_of(p), &algorithm)) return problem;
        known = library.algorithms.emplace(key, algorithm).first;
    }
    return said(blas.Matmul(library.handle, plan.operation, &p->alpha, p->b, plan.a, p->a, plan.b, &p->beta, p->add ? p->add : p->out,
                            plan.add, p->out, plan.out, &known->second, library.workspace, LIBRARY_WORKSPACE, stream));
}

/* gemm.h - row-major sgemm in the three orientations the ops need; BLAS runs on the calling thread only.
 *
 *   gemm_nt: C[M,N] = alpha A[M,K] B[N,K]^T + beta C     forward of a linear, shrink
 *   gemm_nn: C[M,N] = alpha A[M,K] B[K,N]   + beta C     input gradients, expand
 *   gemm_tn: C[M,N] = alpha A[K,M]^T B[K,N] + beta C     weight gradients
 */
#ifndef COHORT_KERNELS_CPU_GEMM_H
#define COHORT_KERNELS_CPU_GEMM_H

#include <cblas.h>

static inline void gemm_nt(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta, float *c,
                           int ldc) {
    if (m > 0 && n > 0) cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static inline void gemm_nn(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta, float *c,
                           int ldc) {
    if (m > 0 && n > 0) cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static inline void gemm_tn(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta, float *c,
                           int ldc) {
    if (m > 0 && n > 0) cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

#endif

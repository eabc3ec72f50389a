/* gemm.h - row-major f32 products in the three orientations the ops need, on the calling thread.
 *
 *   gemm_nt: C[M,N] = alpha A[M,K] B[N,K]^T + beta C     shrink, scores
 *   gemm_nn: C[M,N] = alpha A[M,K] B[K,N]   + beta C     input gradients, expand
 *   gemm_tn: C[M,N] = alpha A[K,M]^T B[K,N] + beta C     weight gradients
 *   gemm_linear: Y[M,N] = X[M,K] W[N,K]^T + scale b^T + R
 *
 * lda, ldb, ... are floats from row to row. beta is 0 (C is only written) or 1. C overlaps neither A nor B.
 * An element's sum runs over k in order, in blocks of a fixed size: its bits depend on nothing but K and its
 * row of A and column of B. (Where OpenBLAS does the work, see gemm.c, the order is its own, and may depend
 * on M and N.) */
#ifndef COHORT_KERNELS_CPU_GEMM_H
#define COHORT_KERNELS_CPU_GEMM_H

#include <stdbool.h>

extern const bool gemm_is_own; /* false: OpenBLAS does the work */

void gemm_nt(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
             float *c, int ldc);
void gemm_nn(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
             float *c, int ldc);
void gemm_tn(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
             float *c, int ldc);

/* What a product is added to; every part may be NULL. The residual may be Y itself. */
typedef struct {
    const float *bias;       /* [N] */
    const float *bias_scale; /* [M]; NULL: 1 */
    const float *residual;   /* [M, N], rows residual_stride floats apart */
    int residual_stride;
} gemm_addend;

void gemm_linear(int m, int n, int k, const float *x, int ldx, const float *w, int ldw, gemm_addend addend,
                 float *y, int ldy);

#endif

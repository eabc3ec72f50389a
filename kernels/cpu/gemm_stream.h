/* gemm_stream.h - the product of decoding: few rows, and weights that are read once, where they lie.
 *
 *   gemm_stream: Y[M,N] = X[M,K] W[N,K]^T + scale b^T + R
 *
 * The sum of an element has one order over k, which depends on nothing but K (and the processor's vectors):
 * not on M, N, or which rows and columns are asked for together. It is not the order of gemm.h. */
#ifndef COHORT_KERNELS_CPU_GEMM_STREAM_H
#define COHORT_KERNELS_CPU_GEMM_STREAM_H

#include "gemm.h"

void gemm_stream(int m, int n, int k, const float *x, int ldx, const float *w, int ldw, gemm_addend addend,
                 float *y, int ldy);

#endif

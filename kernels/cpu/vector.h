/* vector.h - the one exponential of the CPU backend, and what is made of it: branch-free, so that loops over it vectorise.
 *
 *   exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2, exp(r) by its Taylor polynomial of degree 6 (error < 2e-7 relative).
 *   GELU (tanh form):  gelu(u) = u sigma(v),  v = 2 sqrt(2/pi) (u + 0.044715 u^3)      since (1 + tanh(v/2)) / 2 = sigma(v)
 *                      gelu'(u) = sigma + u sigma (1 - sigma) v',  v' = 2 sqrt(2/pi) (1 + 3 0.044715 u^2)
 */
#ifndef COHORT_KERNELS_CPU_VECTOR_H
#define COHORT_KERNELS_CPU_VECTOR_H

#include <stdint.h>
#include <string.h>

static inline float vec_exp(float x) {
    /* Beyond these bounds a float's exp is 0 or close to overflow. NaN stays NaN: both comparisons are false for it. */
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shifter = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer held in the low mantissa bits */
    float shifted = x * 1.44269504f + shifter;
    float n = shifted - shifter;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t exponent, bits;
    memcpy(&exponent, &shifted, sizeof exponent);
    memcpy(&bits, &p, sizeof bits);
    bits += exponent << 23; /* the shifter's own bits fall off the top */
    memcpy(&p, &bits, sizeof p);
    return p;
}

#define VEC_GELU_SCALE 1.59576912f /* 2 sqrt(2 / pi) */
#define VEC_GELU_CUBIC 0.044715f

static inline float vec_gelu(float u) {
    float v = VEC_GELU_SCALE * u * (1.0f + VEC_GELU_CUBIC * u * u);
    return u / (1.0f + vec_exp(-v));
}

/* Returns gelu(u) and stores gelu'(u). */
static inline float vec_gelu_slope(float u, float *slope) {
    float square = u * u;
    float v = VEC_GELU_SCALE * u * (1.0f + VEC_GELU_CUBIC * square);
    float sigma = 1.0f / (1.0f + vec_exp(-v));
    float value = u * sigma;
    *slope = sigma + value * (1.0f - sigma) * VEC_GELU_SCALE * (1.0f + 3.0f * VEC_GELU_CUBIC * square);
    return value;
}

#endif

/* vector.h - the one exponential of the CPU backend, and what is made of it: branch-free, so that loops over
 * it vectorise.
 *
 *   2^(n + f), |f| <= 1/2: n goes to the exponent,
 *       2^f is its minimax polynomial of degree 5 with p(0) = 1 (error < 1e-7 relative)
 *   exp(x):   n = round(x / ln 2), f = (x - n ln 2) / ln 2, the difference in two steps so that nothing
 *             cancels
 *   GELU (tanh form):  gelu(u) = u sigma(v),  v = 2 sqrt(2/pi) (u + 0.044715 u^3)
 *       since (1 + tanh(v/2)) / 2 = sigma(v)
 *                      gelu'(u) = sigma + u sigma (1 - sigma) v',  v' = 2 sqrt(2/pi) (1 + 3 0.044715 u^2)
 *                      sigma(v) = 1 / (1 + 2^-t), t = v / ln 2 in one step:
 *                          its error counts little where sigma is flat
 *                      1 - sigma = e^-v sigma, which does not cancel
 *   SiLU:  silu(u) = u sigma(u),  silu'(u) = sigma + u sigma (1 - sigma), sigma made like that of GELU
 */
#ifndef COHORT_KERNELS_CPU_VECTOR_H
#define COHORT_KERNELS_CPU_VECTOR_H

#include <stdint.h>
#include <string.h>

#define VEC_SHIFTER 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer held in the low mantissa bits */

/* 2^(n + f); shifted is n + VEC_SHIFTER, -127 <= n <= 127. */
static inline float vec_power_of_two(float shifted, float f) {
    float p = 1.3269406e-3f;
    p = p * f + 9.67129413e-3f;
    p = p * f + 5.55071123e-2f;
    p = p * f + 2.40222469e-1f;
    p = p * f + 6.93147004e-1f;
    p = p * f + 1.0f;
    uint32_t exponent, bits;
    memcpy(&exponent, &shifted, sizeof exponent);
    memcpy(&bits, &p, sizeof bits);
    bits += exponent << 23; /* the shifter's own bits fall off the top */
    memcpy(&p, &bits, sizeof p);
    return p;
}

static inline float vec_exp(float x) {
    /* Beyond these bounds a float's exp is 0 or close to overflow. NaN stays NaN: both comparisons are false
     * for it. */
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + VEC_SHIFTER;
    float n = shifted - VEC_SHIFTER;
    return vec_power_of_two(shifted, ((x - n * 0.693359375f) + n * 2.12194440e-4f) * 1.44269504f);
}

#define VEC_GELU_SCALE 1.59576912f /* 2 sqrt(2 / pi) */
#define VEC_GELU_CUBIC 0.044715f

/* u between -limit and limit, given by the limit's bits: compilers make branches, and then two divisions, of
 * a comparison of floats. NaN becomes a limit. */
static inline float vec_bounded(float u, int32_t limit) {
    const uint32_t sign = 0x80000000u;
    uint32_t bits;
    memcpy(&bits, &u, sizeof bits);
    int32_t magnitude = (int32_t)(bits & ~sign);
    magnitude = magnitude < limit ? magnitude : limit;
    bits = (uint32_t)magnitude | (bits & sign);
    memcpy(&u, &bits, sizeof u);
    return u;
}

/* Between -10 and 10, beyond which sigma(v) is 1 or (2^-126 instead of less) 0. */
static inline float vec_gelu_bounded(float u) {
    return vec_bounded(u, 0x41200000);
}

/* e^-v of a bounded u. */
static inline float vec_gelu_decay(float u) {
    float minus_t =
        u * (-1.44269504f * VEC_GELU_SCALE + -1.44269504f * VEC_GELU_SCALE * VEC_GELU_CUBIC * (u * u));
    float shifted = minus_t + VEC_SHIFTER;
    return vec_power_of_two(shifted, minus_t - (shifted - VEC_SHIFTER));
}

/* NaN stays NaN: u itself is a factor. */
static inline float vec_gelu(float u) {
    return u / (1.0f + vec_gelu_decay(vec_gelu_bounded(u)));
}

/* Returns gelu(u) and stores gelu'(u). */
static inline float vec_gelu_slope(float u, float *slope) {
    float bounded = vec_gelu_bounded(u), decay = vec_gelu_decay(bounded), sigma = 1.0f / (1.0f + decay),
          value = u * sigma;
    *slope = sigma + value * (decay * sigma) *
                         (VEC_GELU_SCALE + 3.0f * VEC_GELU_SCALE * VEC_GELU_CUBIC * (bounded * bounded));
    return value;
}

/* e^-u, of a u between -87 and 87: beyond, sigma(u) is 1, or e^-87 instead of less. */
static inline float vec_silu_decay(float u) {
    float minus_t = vec_bounded(u, 0x42AE0000) * -1.44269504f, shifted = minus_t + VEC_SHIFTER;
    return vec_power_of_two(shifted, minus_t - (shifted - VEC_SHIFTER));
}

/* NaN stays NaN: u itself is a factor. */
static inline float vec_silu(float u) {
    return u / (1.0f + vec_silu_decay(u));
}

/* Returns silu(u) and stores silu'(u). */
static inline float vec_silu_slope(float u, float *slope) {
    float decay = vec_silu_decay(u), sigma = 1.0f / (1.0f + decay), value = u * sigma;
    *slope = sigma + value * (decay * sigma);
    return value;
}

#endif

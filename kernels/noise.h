/* noise.h - the noise on the logits of a router, counter-based: a number is a pure function of its device's
 * step and of token, layer and expert, so that it depends neither on the wave nor on who computes it.
 *
 *   words    Philox4x32-10 (Salmon et al. 2011) of the step's key and counter; block b of the step has the
 *            counter plus b, b = 4 (t L + l) + floor(e / 4) for position t of the token among the device's
 *            tokens, layer l of L and expert e
 *   normals  Box-Muller: of words (v0, v1) sqrt(-2 ln u) (cos, sin)(2 pi v), u = (floor(v0 / 2^8) + 1) /
 *            2^24, v = floor(v1 / 2^8) / 2^24, for experts 4 i and 4 i + 1; of (v2, v3) for the next two
 */
#ifndef COHORT_KERNELS_NOISE_H
#define COHORT_KERNELS_NOISE_H

#include <stdint.h>

#ifdef __CUDACC__
#define CK_HOST_DEVICE __host__ __device__
#else
#define CK_HOST_DEVICE
#endif

/* What multiplies the normals: softplus(0) + 0.01, which is what LLaMA-MoE's gate has while the weights of
 * its noise are 0, as CoMiGS keeps them. */
#define CK_NOISE_DEVIATION 0.70314718f

/* Of a device's step. Its counter leaves the lowest 40 bits 0, for the blocks. */
typedef struct {
    uint32_t key[2], counter[4]; /* the lowest word first */
} ck_noise;

static inline CK_HOST_DEVICE uint32_t ck_multiply_high(uint32_t a, uint32_t b) {
    return (uint32_t)((uint64_t)a * b >> 32);
}

/* The words of experts 4 * four to 4 * four + 3. */
static inline CK_HOST_DEVICE void ck_noise_words(const ck_noise *noise, int64_t position, int32_t layers,
                                                 int32_t layer, int32_t four, uint32_t words[4]) {
    uint64_t block = 4 * (uint64_t)(position * layers + layer) + (uint64_t)four;
    uint32_t a = noise->counter[0] | (uint32_t)block, b = noise->counter[1] | (uint32_t)(block >> 32),
             c = noise->counter[2], d = noise->counter[3], key0 = noise->key[0], key1 = noise->key[1];
    for (int round = 0; round < 10; round++) {
        uint32_t high_a = ck_multiply_high(0xD2511F53u, a), high_c = ck_multiply_high(0xCD9E8D57u, c),
                 low_a = 0xD2511F53u * a, low_c = 0xCD9E8D57u * c;
        a = high_c ^ b ^ key0;
        b = low_c;
        c = high_a ^ d ^ key1;
        d = low_a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    words[0] = a, words[1] = b, words[2] = c, words[3] = d;
}

/* u on (0, 1] and v on [0, 1) of the normals of experts 2 i and 2 i + 1 among the four. */
static inline CK_HOST_DEVICE float ck_noise_u(const uint32_t words[4], int i) {
    return (float)((words[2 * i] >> 8) + 1) * 0x1p-24f;
}
static inline CK_HOST_DEVICE float ck_noise_v(const uint32_t words[4], int i) {
    return (float)(words[2 * i + 1] >> 8) * 0x1p-24f;
}

#endif

/* Random numbers against Philox's published vectors, and the promises of rng.h: who asks decides, nothing
 * else. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "support/rng.h"

/* Random123's kat_vectors, philox4x32-10: counter 0, key 0. */
Test(rng, philox_of_zero) {
    static const uint32_t expected[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    rng_key key = {.seed = 0, .device = RNG_SHARED, .purpose = 0, .step = 0};
    for (uint64_t i = 0; i < 4; i++)
        cr_assert_eq(rng_u32(&key, i), expected[i], "word %d: %08x", (int)i, rng_u32(&key, i));
}

/* The vector with the digits of pi: every field of the counter is in use, so a wrong packing cannot pass. */
Test(rng, philox_of_pi) {
    static const uint32_t expected[4] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
    uint64_t low = UINT64_C(0x85a308d3243f6a88), high = UINT64_C(0x0370734413198a2e),
             mask = (UINT64_C(1) << 40) - 1;
    rng_key key = {.seed = UINT64_C(0x299f31d0a4093822),
                   .device = (int64_t)(high >> 16 & mask) - 1,
                   .purpose = (rng_purpose)(high >> 56),
                   .step = low >> 40 | (high & 0xffff) << 24};
    for (uint64_t i = 0; i < 4; i++)
        cr_assert_eq(rng_u32(&key, 4 * (low & mask) + i), expected[i], "word %d", (int)i);
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* 53 bits of every combination: equal values would mean that two askers read the same words. */
Test(rng, nobody_shares_a_draw) {
    enum { N = 3 * 5 * 11 * 5 * 9 };
    static const uint64_t seeds[3] = {0, 1, UINT64_C(1) << 32};
    static const int64_t devices[5] = {RNG_SHARED, 0, 1, 1 << 20, INT64_C(1) << 33};
    static const uint64_t steps[5] = {0, 1, 1 << 16, 1 << 24, UINT64_C(1) << 33};
    static uint64_t draws[N];
    int n = 0;
    for (int s = 0; s < 3; s++)
        for (int d = 0; d < 5; d++)
            for (int p = RNG_BASE_INIT; p <= RNG_MIXTURE; p++)
                for (int t = 0; t < 5; t++)
                    for (uint64_t i = 0; i < 9; i++) {
                        rng_key key = {.seed = seeds[s],
                                       .device = devices[d],
                                       .purpose = (rng_purpose)p,
                                       .step = steps[t]};
                        draws[n++] = rng_below(&key, i < 8 ? i : UINT64_C(1) << 40, UINT64_C(1) << 53);
                    }
    cr_assert_eq(n, N);
    qsort(draws, N, sizeof *draws, compare);
    for (int i = 1; i < N; i++) cr_assert_neq(draws[i - 1], draws[i]);
}

/* A key used for words, pairs and normals reads three streams. */
Test(rng, kinds_of_draw_are_independent) {
    rng_key key = {.seed = 42, .device = 3, .purpose = RNG_CORPUS, .step = 9};
    uint64_t pair = rng_below(&key, 0, UINT64_C(1) << 53);
    cr_assert_neq((uint32_t)(pair >> 21), rng_u32(&key, 0));
    cr_assert_neq((uint32_t)(pair >> 21), rng_u32(&key, 1));
}

Test(rng, below_stays_below_and_reaches_everything) {
    rng_key key = {.seed = 7, .device = 0, .purpose = RNG_TRAIN_WINDOWS, .step = 0};
    int counts[10] = {0};
    for (uint64_t i = 0; i < 10000; i++) {
        uint64_t value = rng_below(&key, i, 10);
        cr_assert_lt(value, 10);
        counts[value]++;
    }
    for (int v = 0; v < 10; v++)
        cr_assert(abs(counts[v] - 1000) < 150, "value %d came %d times of 10000", v, counts[v]);
    for (uint64_t i = 0; i < 100; i++) cr_assert_eq(rng_below(&key, i, 1), 0);
}

/* With a bound that is no power of two the upper half must come as often as the lower: a product cut to 32
 * bits fails here. */
Test(rng, below_large_bounds_are_uniform) {
    rng_key key = {.seed = 7, .device = 0, .purpose = RNG_TRAIN_WINDOWS, .step = 1};
    uint64_t bound = 3 * (UINT64_C(1) << 51);
    int upper = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        uint64_t value = rng_below(&key, i, bound);
        cr_assert_lt(value, bound);
        upper += value >= bound / 2;
    }
    cr_assert(abs(upper - 5000) < 300, "%d of 10000 in the upper half", upper);
}

Test(rng, uniform_is_on_the_half_open_unit) {
    rng_key key = {.seed = 1, .device = 1, .purpose = RNG_CORPUS, .step = 1};
    double sum = 0;
    for (uint64_t i = 0; i < 20000; i++) {
        float value = rng_uniform(&key, i);
        cr_assert(value >= 0 && value < 1);
        sum += value;
    }
    cr_assert_float_eq(sum / 20000, 0.5, 0.01);
}

Test(rng, fill_uniform_is_the_single_draws) {
    rng_key key = {.seed = 5, .device = 2, .purpose = RNG_ADAPTER_INIT, .step = 64};
    float filled[37];
    rng_fill_uniform(&key, 0.25F, filled, 37);
    for (int i = 0; i < 37; i++)
        cr_assert_eq(filled[i], 0.25F * (2 * rng_uniform(&key, (uint64_t)i) - 1), "value %d", i);
}

/* A tensor's beginning does not depend on its length. */
Test(rng, fills_do_not_depend_on_length) {
    rng_key key = {.seed = 5, .device = 2, .purpose = RNG_ROUTER_INIT, .step = 3};
    float whole[103], part[103];
    rng_fill_normal(&key, 1, whole, 103);
    for (int n = 0; n <= 103; n++) {
        for (int i = 0; i < 103; i++) part[i] = -77;
        rng_fill_normal(&key, 1, part, n);
        cr_assert_eq(memcmp(part, whole, (size_t)n * sizeof *part), 0, "length %d", n);
        if (n < 103) cr_assert_eq(part[n], -77, "length %d wrote past its end", n);
    }
}

Test(rng, normals_have_their_moments) {
    enum { N = 200000 };
    float *x = malloc(N * sizeof *x);
    double mean = 0, square = 0, fourth = 0, neighbours = 0;
    rng_key key = {.seed = 11, .device = RNG_SHARED, .purpose = RNG_BASE_INIT, .step = 0};
    rng_fill_normal(&key, 2, x, N);
    for (int i = 0; i < N; i++) {
        cr_assert(isfinite(x[i]));
        mean += x[i] / N;
        square += (double)x[i] * x[i] / N;
        fourth += pow(x[i], 4) / N;
        if (i > 0) neighbours += (double)x[i] * x[i - 1] / N;
    }
    cr_assert_float_eq(mean, 0, 0.03);
    cr_assert_float_eq(square, 4, 0.08);
    cr_assert_float_eq(fourth / (square * square), 3, 0.1);
    cr_assert_float_eq(neighbours, 0, 0.05);
    free(x);
}

/* Mean and variance of Gamma(shape, 1) are its shape; with shape 1 it is the exponential distribution, of
 * which exp(-x) is uniform. */
Test(rng, gamma_has_its_distribution) {
    enum { N = 20000, BINS = 20 };
    static const double shapes[] = {1, 1.5, 4, 1000};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        double sum = 0, squares = 0, chi_square = 0;
        int counts[BINS] = {0};
        for (int device = 0; device < N; device++) {
            rng_key key = {.seed = 42, .device = device, .purpose = RNG_MIXTURE, .step = 6};
            double x = rng_gamma(&key, shapes[i]);
            cr_assert(x > 0 && isfinite(x));
            sum += x;
            squares += (x - shapes[i]) * (x - shapes[i]);
            counts[(int)fmin(BINS - 1, BINS * exp(-x))]++;
        }
        cr_expect_float_eq(sum / N, shapes[i], 4 * sqrt(shapes[i] / N), "shape %g: mean %g", shapes[i],
                           sum / N);
        cr_expect_float_eq(squares / N, shapes[i], 0.1 * shapes[i], "shape %g: variance %g", shapes[i],
                           squares / N);
        for (int b = 0; b < BINS; b++)
            chi_square += pow(counts[b] - (double)N / BINS, 2) / ((double)N / BINS);
        cr_expect(shapes[i] != 1 || chi_square < 43.8, "chi-square %g, of 19 degrees of freedom", chi_square);
    }
}

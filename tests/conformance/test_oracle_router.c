/* The oracle's router with a hidden layer: its noise, and its gradients against finite differences, with the
 * noise kept as it is. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conformance/waves.h"
#include "oracle/oracle.h"
#include "support/rng.h"

enum { WIDTH = 6, TOKENS = 7, LAYER = 1 };

typedef struct {
    ck_shape shape;
    ck_noise noise;
    double *pack, *gradients;
    double x[TOKENS * WIDTH], dw[TOKENS * CK_MAX_EXPERTS];
    /* of what the last forward pass gave */
    double *zh, gates[TOKENS * CK_MAX_EXPERTS], hidden[TOKENS * 2 * CK_MAX_EXPERTS],
        coefficient[2 * CK_MAX_EXPERTS], margin;
} setting;

static setting *open_setting(int spec) {
    setting *s = calloc(1, sizeof *s);
    uint64_t seed = 300 + (uint64_t)spec;
    s->shape = wave_shape(spec, WIDTH, 10, WAVE_LAYERS, CK_MLP_GELU);
    s->noise = wave_noise(spec);
    s->pack = oracle_zeros(s->shape.total);
    s->gradients = oracle_zeros(s->shape.total);
    s->zh = oracle_zeros(TOKENS * (s->shape.router_rows + s->shape.h_ranks));
    for (int64_t i = 0; i < s->shape.total; i++) s->pack[i] = wave_draw(&seed, 0.5);
    for (int i = 0; i < TOKENS * WIDTH; i++) s->x[i] = wave_draw(&seed, 1);
    for (int i = 0; i < TOKENS * CK_MAX_EXPERTS; i++) s->dw[i] = wave_draw(&seed, 1);
    return s;
}

static void close_setting(setting *s) {
    free(s->pack);
    free(s->gradients);
    free(s->zh);
    free(s);
}

static oracle_adapter adapter(const setting *s) {
    return (oracle_adapter){&s->shape, LAYER, s->pack, s->gradients, &s->noise, NULL};
}

/* sum <dw, w> + the load balance. */
static double loss_of(setting *s) {
    oracle_adapter a = adapter(s);
    int ld = s->shape.router_rows + s->shape.h_ranks, experts = s->shape.n_experts;
    double gate_sum[CK_MAX_EXPERTS] = {0}, load_sum[CK_MAX_EXPERTS] = {0}, loss = 0;
    oracle_route(&a, TOKENS, s->x, s->zh, ld, s->gates, s->hidden);
    s->margin = oracle_margin(&s->shape, TOKENS, s->zh, ld);
    for (int t = 0; t < TOKENS; t++) {
        double p[CK_MAX_EXPERTS];
        oracle_load(&a, s->zh + t * ld, s->hidden + t * 2 * CK_MAX_EXPERTS, p);
        for (int e = 0; e < experts; e++) {
            gate_sum[e] += s->gates[t * CK_MAX_EXPERTS + e];
            load_sum[e] += p[e];
            loss += s->dw[t * CK_MAX_EXPERTS + e] * s->gates[t * CK_MAX_EXPERTS + e];
        }
    }
    return loss + oracle_gate_balance(&s->shape, gate_sum, load_sum, s->coefficient);
}

/* Relative error of gradients against difference quotients. */
static double quotient_error(setting *s, double *values, const double *gradients, int64_t count) {
    const double step = 1e-5;
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        double kept = values[i];
        values[i] = kept + step;
        double up = loss_of(s);
        values[i] = kept - step;
        double quotient = (up - loss_of(s)) / (2 * step);
        values[i] = kept;
        difference += (quotient - gradients[i]) * (quotient - gradients[i]);
        norm += quotient * quotient;
    }
    return norm > 0 ? sqrt(difference / norm) : 1;
}

Test(oracle_router, gradients_equal_finite_differences) {
    const int specs[] = {SHAPE_HIDDEN, SHAPE_HIDDEN_TOP1, SHAPE_HIDDEN_BOTH, SHAPE_HIDDEN_MANY};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        setting *s = open_setting(specs[i]);
        oracle_adapter a = adapter(s);
        int ranks = s->shape.h_ranks, ld = s->shape.router_rows + ranks;
        double *p = oracle_zeros(TOKENS * ranks), dx[TOKENS * WIDTH] = {0};
        loss_of(s);
        cr_assert(s->margin > 1e-3, "shape %d: choose another seed", specs[i]);
        oracle_route_backward(&a, TOKENS, s->x, s->zh, ld, s->gates, s->hidden, s->dw, p, ranks,
                              s->coefficient, dx);
        double error = quotient_error(s, s->x, dx, TOKENS * WIDTH);
        cr_expect(error < 1e-6, "shape %d, dx: relative error %g", specs[i], error);
        const oracle_part parts[] = {ORACLE_ROUTER, ORACLE_ROUTER_OUT};
        for (int j = 0; j < 2; j++) {
            oracle_range range = oracle_part_range(&s->shape, LAYER, parts[j]);
            error = quotient_error(s, s->pack + range.offset, s->gradients + range.offset, range.count);
            cr_expect(error < 1e-6, "shape %d, d%s: relative error %g", specs[i], oracle_part_name(parts[j]),
                      error);
        }
        free(p);
        close_setting(s);
    }
}

/* Two experts of three kept, sigma = 0.7031: by hand, from a table of the normal distribution. */
Test(oracle_router, load_is_the_chance_of_being_chosen_again) {
    ck_shape s = wave_shape(SHAPE_HIDDEN, WIDTH, 10, 1, CK_MLP_GELU);
    const ck_noise noise = {{0}, {0}};
    const oracle_adapter a = {.shape = &s, .noise = &noise}, quiet = {.shape = &s};
    const double sigma = 0.693147180559945 + 0.01;
    /* z = (2, 1, 0) and c = (2 sigma, sigma + 1, 0): against 0, 0 (the third), and 1 (the second) */
    const double z[] = {2, 1, 0}, hidden[] = {0, 0, 0, 2 * sigma, sigma, 1 - sigma};
    double p[CK_MAX_EXPERTS];
    oracle_load(&a, z, hidden, p);
    cr_expect_float_eq(p[0], 0.9772498680518208, 1e-12);
    cr_expect_float_eq(p[1], 0.8413447460685429, 1e-12);
    cr_expect_float_eq(p[2], 0.1586552539314571, 1e-12);
    oracle_load(&quiet, z, hidden, p);
    cr_expect(p[0] == 0 && p[1] == 0, "without noise there is no chance");
}

/* balance 1/2 x (CV^2(3, 1) + CV^2 ...): mean 2, var 2. */
Test(oracle_router, balance_by_hand) {
    ck_shape s = wave_shape(SHAPE_HIDDEN_BOTH, WIDTH, 10, 1, CK_MLP_GELU);
    double coefficient[2 * CK_MAX_EXPERTS];
    for (int e = 0; e < 2; e++) s.balance[e] = 0.5f;
    double value = oracle_gate_balance(&s, (double[]){3, 1}, (double[]){9, 1}, coefficient);
    cr_expect_float_eq(value, 0.25, 1e-12, "both experts are kept: the load does not count");
    s.top_k = 1;
    value = oracle_gate_balance(&s, (double[]){3, 1}, (double[]){3, 1}, coefficient);
    cr_expect_float_eq(value, 0.5, 1e-12);
    cr_expect_float_eq(coefficient[0], 0.125, 1e-12);
    cr_expect_float_eq(coefficient[1], -0.375, 1e-12);
    cr_expect_float_eq(coefficient[CK_MAX_EXPERTS], 0.125, 1e-12);
}

/* A step's noise is the stream of normals of its key: that of token t, layer l and expert e is number
 * 16 (t L + l) + e. */
Test(oracle_router, noise_is_the_stream_of_its_key) {
    enum { LAYERS = 3, N = CK_MAX_EXPERTS * LAYERS * 5 };
    const rng_key key = {.seed = 77, .device = 5, .purpose = RNG_TRAIN_NOISE, .step = 1000};
    rng_origin origin = rng_normal_origin(&key);
    ck_noise noise;
    float stream[N];
    double square = 0;
    memcpy(noise.key, origin.key, sizeof noise.key);
    memcpy(noise.counter, origin.counter, sizeof noise.counter);
    rng_fill_normal(&key, 1, stream, N);
    for (int i = 0; i < N; i++) {
        int e = i % CK_MAX_EXPERTS, row = i / CK_MAX_EXPERTS;
        double n = oracle_noise(&noise, row / LAYERS, LAYERS, row % LAYERS, e);
        cr_expect_float_eq(n, (double)stream[i], 1e-5, "number %d", i);
        square += n * n / N;
    }
    cr_expect(square > 0.7 && square < 1.3, "mean square %g", square);
}

/* The factorised expert layer against the naive one (E full copies), both against finite differences, and
 * properties that hold whatever the numbers are. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conformance/waves.h"
#include "oracle/oracle.h"

enum { WIDTH = 6, FFN = 10, TOKENS = 7, LAYER = 1 };

/* One layer of one device over a few tokens, with the loss sum <slope, y> + sum over tokens of <coefficient,
 * P>. */
typedef struct {
    ck_shape shape;
    oracle_mlp mlp;
    double *pack, *gradients, *mlp_weights;
    double x[TOKENS * WIDTH], slope[TOKENS * WIDTH], y[TOKENS * WIDTH], dx[TOKENS * WIDTH];
    double coefficient[CK_MAX_EXPERTS];
} setting;

static void fill(double *values, int64_t count, double scale, uint64_t *seed) {
    for (int64_t i = 0; i < count; i++) values[i] = wave_draw(seed, scale);
}

static setting *open_setting(ck_shape shape, uint64_t seed) {
    setting *s = calloc(1, sizeof *s);
    int64_t matrix = WIDTH * FFN, up = oracle_branches(&shape) * FFN, all = (up + FFN) * WIDTH + up + WIDTH;
    float *pack = calloc((size_t)shape.total, sizeof *pack);
    wave_fill_pack(&shape, seed, pack);
    s->shape = shape;
    s->pack = oracle_from_floats(pack, shape.total);
    s->gradients = oracle_zeros(shape.total);
    s->mlp_weights = oracle_zeros(all);
    fill(s->mlp_weights, all, 0.4, &seed);
    s->mlp = (oracle_mlp){s->mlp_weights + matrix, s->mlp_weights + matrix + up * WIDTH, s->mlp_weights,
                          s->mlp_weights + all - WIDTH};
    fill(s->x, TOKENS * WIDTH, 1, &seed);
    fill(s->slope, TOKENS * WIDTH, 1, &seed);
    for (int e = 0; e < shape.n_experts; e++) s->coefficient[e] = shape.balanced ? wave_draw(&seed, 0.5) : 0;
    free(pack);
    return s;
}

static void close_setting(setting *s) {
    free(s->pack);
    free(s->gradients);
    free(s->mlp_weights);
    free(s);
}

static setting *open_spec(int spec, ck_mlp mlp) {
    return open_setting(wave_shape(spec, WIDTH, FFN, WAVE_LAYERS, mlp), 100 + (uint64_t)spec);
}

/* Routers with a hidden layer are tried in test_oracle_router.c. */
#define FOR_EACH_SPEC(spec)                                                                                  \
    for (int spec = 0; spec < SHAPE_SPECS; spec++)                                                           \
        if (shape_specs[spec].router == CK_ROUTER_LINEAR)

#define FOR_EACH_MLP(mlp) for (ck_mlp mlp = CK_MLP_GELU; mlp <= CK_MLP_SWIGLU; mlp++)

static oracle_adapter adapter(const setting *s) {
    return (oracle_adapter){
        .shape = &s->shape, .layer = LAYER, .parameters = s->pack, .gradients = s->gradients};
}

static double *logits_of(const setting *s) {
    double *z = oracle_zeros(TOKENS * CK_MAX_EXPERTS);
    const double *rows = s->pack + oracle_part_range(&s->shape, LAYER, ORACLE_ROUTER).offset;
    for (int t = 0; t < TOKENS; t++)
        for (int e = 0; e < s->shape.router_rows; e++)
            z[t * CK_MAX_EXPERTS + e] = oracle_dot(rows + e * WIDTH, s->x + t * WIDTH, WIDTH);
    return z;
}

/* Forward, and with `backward` also dx and gradients, by the factorised form. */
static void factorised(setting *s, bool backward) {
    const ck_shape *shape = &s->shape;
    int ldg = shape->rank_sum, ldp = shape->h_ranks, ld = ldp + shape->router_rows,
        wide = oracle_branches(shape) * FFN;
    double *u = oracle_zeros(TOKENS * wide), *zh = oracle_zeros(TOKENS * ld),
           *gates = oracle_zeros(TOKENS * CK_MAX_EXPERTS);
    double *m = oracle_zeros(TOKENS * FFN), *g = oracle_zeros(TOKENS * ldg), factor[TOKENS];
    double *q = oracle_zeros(TOKENS * ldg), *p = oracle_zeros(TOKENS * ldp),
           *dw = oracle_zeros(TOKENS * CK_MAX_EXPERTS);
    double *dm = oracle_zeros(TOKENS * FFN), *du = oracle_zeros(TOKENS * wide);
    oracle_linear_size up = {TOKENS, WIDTH, wide}, down = {TOKENS, FFN, WIDTH};
    oracle_adapter a = adapter(s);
    oracle_linear(up, s->x, s->mlp.fc_w, s->mlp.fc_b, NULL, NULL, u);
    oracle_route(&a, TOKENS, s->x, zh, ld, gates, NULL);
    oracle_expert_activation(&a, TOKENS, u, zh, ld, gates, m, g, ldg);
    oracle_bias_factor(shape, TOKENS, gates, factor);
    oracle_linear(down, m, s->mlp.pr_w, s->mlp.pr_b, factor, NULL, s->y);
    oracle_expert_expand(&a, TOKENS, g, ldg, gates, s->y);
    if (backward) {
        oracle_expert_expand_backward(&a, TOKENS, s->mlp.pr_b, s->slope, g, ldg, gates, q, dw);
        oracle_linear_backward(down, m, s->mlp.pr_w, s->slope, dm, NULL, NULL);
        oracle_expert_activation_backward(&a, TOKENS, u, zh, ld, gates, dm, q, ldg, du, p, ldp, dw);
        memset(s->dx, 0, sizeof s->dx);
        oracle_route_backward(&a, TOKENS, s->x, zh, ld, gates, NULL, dw, p, ldp, s->coefficient, s->dx);
        oracle_linear_backward(up, s->x, s->mlp.fc_w, du, s->dx, NULL, NULL);
    }
    double *all[] = {u, zh, gates, m, g, q, p, dw, dm, du};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void naive(setting *s, bool backward) {
    oracle_adapter a = adapter(s);
    oracle_naive_layer(&a, &s->mlp, TOKENS, s->x, s->y);
    if (!backward) return;
    memset(s->dx, 0, sizeof s->dx);
    oracle_naive_layer_backward(&a, &s->mlp, TOKENS, s->x, s->slope, s->coefficient, s->dx);
}

static double relative(const double *a, const double *b, int64_t count) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

Test(oracle_layer, factorised_equals_naive_forward) {
    FOR_EACH_MLP(mlp) FOR_EACH_SPEC(spec) {
        setting *s = open_spec(spec, mlp);
        double expected[TOKENS * WIDTH];
        naive(s, false);
        memcpy(expected, s->y, sizeof expected);
        factorised(s, false);
        double error = relative(s->y, expected, TOKENS * WIDTH);
        cr_expect(error < 1e-12, "shape %d: relative error %g", spec, error);
        close_setting(s);
    }
}

Test(oracle_layer, factorised_equals_naive_backward) {
    FOR_EACH_MLP(mlp) FOR_EACH_SPEC(spec) {
        setting *s = open_spec(spec, mlp);
        double dx[TOKENS * WIDTH], *gradients = oracle_zeros(s->shape.total);
        naive(s, true);
        memcpy(dx, s->dx, sizeof dx);
        memcpy(gradients, s->gradients, (size_t)s->shape.total * sizeof(double));
        memset(s->gradients, 0, (size_t)s->shape.total * sizeof(double));
        factorised(s, true);
        cr_expect(relative(s->dx, dx, TOKENS * WIDTH) < 1e-12, "shape %d: dx", spec);
        for (oracle_part part = ORACLE_ROUTER; part < ORACLE_PARTS; part++) {
            oracle_range range = oracle_part_range(&s->shape, LAYER, part);
            double error = relative(s->gradients + range.offset, gradients + range.offset, range.count);
            cr_expect(error < 1e-12, "shape %d, d%s: relative error %g", spec, oracle_part_name(part), error);
        }
        free(gradients);
        close_setting(s);
    }
}

/* The loss whose gradient the backward functions give, by the naive form. */
static double loss_of(setting *s) {
    naive(s, false);
    double loss = oracle_dot(s->y, s->slope, TOKENS * WIDTH), *z = logits_of(s);
    for (int t = 0; t < TOKENS && s->shape.balanced; t++) {
        double p[CK_MAX_EXPERTS];
        oracle_balance_probability(&s->shape, z + t * CK_MAX_EXPERTS, p);
        loss += oracle_dot(p, s->coefficient, s->shape.n_experts);
    }
    free(z);
    return loss;
}

static double slope_at(setting *s, double *value) {
    const double step = 1e-5, kept = *value;
    *value = kept + step;
    double up = loss_of(s);
    *value = kept - step;
    double down = loss_of(s);
    *value = kept;
    return (up - down) / (2 * step);
}

/* A difference quotient says nothing if a token changes its experts inside it. */
static bool choices_are_stable(const setting *s) {
    double *z = logits_of(s), margin = oracle_margin(&s->shape, TOKENS, z, CK_MAX_EXPERTS);
    free(z);
    return margin > 1e-3;
}

Test(oracle_layer, backward_equals_finite_differences) {
    const int specs[] = {SHAPE_SINGLE, SHAPE_PAIR_TOP1, SHAPE_PAIR_BOTH,   SHAPE_RAGGED,      SHAPE_ALL,
                         SHAPE_MEAN,   SHAPE_LINEAR,    SHAPE_LINEAR_TOP1, SHAPE_LINEAR_MEAN, SHAPE_MANY};
    FOR_EACH_MLP(mlp) for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        setting *s = open_spec(specs[i], mlp);
        double quotients[TOKENS * WIDTH];
        cr_assert(choices_are_stable(s), "shape %d: choose another seed", specs[i]);
        factorised(s, true);
        for (int j = 0; j < TOKENS * WIDTH; j++) quotients[j] = slope_at(s, &s->x[j]);
        cr_expect(relative(quotients, s->dx, TOKENS * WIDTH) < 1e-7, "shape %d: dx", specs[i]);
        for (oracle_part part = ORACLE_ROUTER; part < ORACLE_PARTS; part++) {
            oracle_range range = oracle_part_range(&s->shape, LAYER, part);
            double *quotient = oracle_zeros(range.count);
            for (int64_t j = 0; j < range.count; j++) quotient[j] = slope_at(s, s->pack + range.offset + j);
            double error = relative(quotient, s->gradients + range.offset, range.count);
            cr_expect(error < 1e-7, "shape %d, d%s: relative error %g", specs[i], oracle_part_name(part),
                      error);
            free(quotient);
        }
        close_setting(s);
    }
}

Test(oracle_layer, weights_sum_to_one_unless_one_of_many_is_kept) {
    FOR_EACH_SPEC(spec) {
        setting *s = open_spec(spec, CK_MLP_GELU);
        double *z = logits_of(s);
        bool single = oracle_chosen_count(&s->shape) == 1 && s->shape.n_experts > 1;
        for (int t = 0; t < TOKENS; t++) {
            double w[CK_MAX_EXPERTS], sum = 0;
            oracle_gates(&s->shape, z + t * CK_MAX_EXPERTS, w);
            for (int e = 0; e < CK_MAX_EXPERTS; e++) sum += w[e];
            cr_expect(single ? sum < 1 - 1e-6 && sum > 1.0 / s->shape.n_experts : fabs(sum - 1) < 1e-12,
                      "shape %d: sum %g", spec, sum);
        }
        free(z);
        close_setting(s);
    }
}

static void swap(double *a, double *b, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        double kept = a[i];
        a[i] = b[i];
        b[i] = kept;
    }
}

/* Expert a changes places with expert b (of equal rank), and so do their router rows. */
static void swap_experts(setting *s, int a, int b) {
    const oracle_part parts[] = {ORACLE_A1, ORACLE_B1, ORACLE_A2, ORACLE_B2};
    const int columns[] = {WIDTH, FFN, FFN, WIDTH};
    for (int i = 0; i < 4; i++) {
        double *rows = s->pack + oracle_part_range(&s->shape, LAYER, parts[i]).offset;
        swap(rows + s->shape.rank_first[a] * columns[i], rows + s->shape.rank_first[b] * columns[i],
             s->shape.rank[a] * columns[i]);
    }
    double *router = s->pack + oracle_part_range(&s->shape, LAYER, ORACLE_ROUTER).offset;
    swap(router + a * WIDTH, router + b * WIDTH, WIDTH);
}

Test(oracle_layer, the_order_of_specialists_does_not_matter) {
    for (int top_k = 1; top_k <= 3; top_k++)
        for (ck_mix mix = CK_MIX_MLP; mix <= CK_MIX_LINEAR; mix++) {
            ck_shape shape = {.n_layers = WAVE_LAYERS,
                              .width = WIDTH,
                              .ffn = FFN,
                              .n_experts = 3,
                              .rank = {2, 4, 4},
                              .top_k = top_k,
                              .scale = {0.5f, 0.75f, 0.75f},
                              .mix = mix};
            const char *why;
            cr_assert(ck_shape_init(&shape, &why) == CK_OK);
            setting *s = open_setting(shape, 7);
            double before[TOKENS * WIDTH];
            factorised(s, false);
            memcpy(before, s->y, sizeof before);
            swap_experts(s, 1, 2);
            factorised(s, false);
            cr_expect(relative(s->y, before, TOKENS * WIDTH) < 1e-13, "k = %d, mix %d: y changed", top_k,
                      (int)mix);
            swap(s->pack + s->shape.layer_stride + s->shape.route,
                 s->pack + s->shape.layer_stride + s->shape.route + WIDTH, WIDTH);
            factorised(s, false);
            cr_expect(relative(s->y, before, TOKENS * WIDTH) > 1e-3, "k = %d: router rows alone must matter",
                      top_k);
            close_setting(s);
        }
}

Test(oracle_layer, equal_experts_are_one_expert) {
    ck_shape two = {.n_layers = WAVE_LAYERS,
                    .width = WIDTH,
                    .ffn = FFN,
                    .n_experts = 2,
                    .rank = {4, 4},
                    .top_k = 2,
                    .scale = {0.5f, 0.5f}};
    const char *why;
    cr_assert(ck_shape_init(&two, &why) == CK_OK);
    setting *s = open_setting(two, 11);
    double mixed[TOKENS * WIDTH];
    const oracle_part parts[] = {ORACLE_A1, ORACLE_B1, ORACLE_A2, ORACLE_B2};
    for (int i = 0; i < 4; i++) {
        oracle_range range = oracle_part_range(&s->shape, LAYER, parts[i]);
        memcpy(s->pack + range.offset + range.count / 2, s->pack + range.offset,
               (size_t)(range.count / 2) * sizeof(double));
    }
    factorised(s, false);
    memcpy(mixed, s->y, sizeof mixed);
    uint64_t seed = 12;
    fill(s->pack + oracle_part_range(&s->shape, LAYER, ORACLE_ROUTER).offset, 2 * WIDTH, 1, &seed);
    naive(s, false);
    cr_expect(relative(s->y, mixed, TOKENS * WIDTH) < 1e-12,
              "two equal experts must give the same y for every gate");
    close_setting(s);
}

/* The slope of the load balance alone, whatever the shape says about it. */
static double balance_slope(setting *s, double *value) {
    bool balanced = s->shape.balanced;
    double with = 0, without = 0;
    s->shape.balanced = true, with = slope_at(s, value);
    s->shape.balanced = false, without = slope_at(s, value);
    s->shape.balanced = balanced;
    return with - without;
}

Test(oracle_layer, balance_of_all_kept_is_constant_where_its_weights_are_equal) {
    const int specs[] = {SHAPE_PAIR_BOTH, SHAPE_ALL, SHAPE_MANY_ALL};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        setting *s = open_spec(specs[i], CK_MLP_GELU);
        double *router = s->pack + oracle_part_range(&s->shape, LAYER, ORACLE_ROUTER).offset;
        for (int e = 0; e < s->shape.n_experts; e++) s->coefficient[e] = 1.5;
        cr_expect(fabs(balance_slope(s, router)) < 1e-8, "shape %d: equal weights have a slope", specs[i]);
        s->coefficient[0] = 0.5;
        cr_expect(fabs(balance_slope(s, router)) > 1e-4, "shape %d: unequal weights have none", specs[i]);
        close_setting(s);
    }
}

/* The oracle's Llama ops against numbers worked out by hand, and their backward against finite differences.
 * */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "conformance/waves.h"
#include "oracle/oracle.h"

static void near(double value, double expected, const char *what) {
    cr_expect(fabs(value - expected) <= 1e-12 * (1 + fabs(expected)), "%s: expected %.15g, got %.15g", what,
              expected, value);
}

Test(oracle_llama, rms_norm_by_hand) {
    double y[2], stats[2], dx[2] = {0}, dgain[2] = {0};
    const double x[2] = {1, 7}, gain[2] = {2, 3};
    /* mean of squares 25 */
    oracle_rms_norm((oracle_norm_size){1, 2, 0}, x, gain, y, stats);
    near(y[0], 0.4, "y");
    near(y[1], 4.2, "y");
    near(stats[0], 0, "the mean is not taken off");
    near(stats[1], 0.2, "rstd");
    oracle_rms_norm((oracle_norm_size){1, 2, 0.25}, (double[]){0, 0}, gain, y, stats);
    near(stats[1], 2, "rstd of zeros: 1 / sqrt(epsilon)");
    /* e = (10, 3): <e, n> / 2 = (10 + 21) / 5 / 2 = 3.1, dx = (e - n 3.1) / 5 */
    oracle_rms_norm_backward((oracle_norm_size){1, 2, 0}, x, gain, (double[]){5, 1}, dx, dgain);
    near(dx[0], (10 - 0.2 * 3.1) / 5, "dx");
    near(dx[1], (3 - 1.4 * 3.1) / 5, "dx");
    near(dgain[0], 1, "dgain");
    near(dgain[1], 1.4, "dgain");
}

Test(oracle_llama, rope_by_hand) {
    /* Two tokens, one query head and one of keys, two pairs each; at token 1 a right angle and none. */
    const double table[8] = {1, 0, 1, 0, 0, 1, 1, 0};
    double qkv[24];
    for (int i = 0; i < 24; i++) qkv[i] = i;
    oracle_rope((oracle_attention_size){2, 1, 1, 4}, table, false, qkv);
    for (int i = 0; i < 12; i++) near(qkv[i], i, "token 0 does not turn");
    near(qkv[12], -14, "(12, 14) by a right angle");
    near(qkv[14], 12, "(12, 14) by a right angle");
    near(qkv[13], 13, "the second pair stays");
    near(qkv[16], -18, "the key turns like the query");
    near(qkv[18], 16, "the key turns like the query");
    for (int i = 20; i < 24; i++) near(qkv[i], i, "values do not turn");
    oracle_rope((oracle_attention_size){2, 1, 1, 4}, table, true, qkv);
    for (int i = 0; i < 24; i++) near(qkv[i], i, "backward turns back");
}

/* What rotary positions are for: a score depends on the distance alone. */
Test(oracle_llama, rope_leaves_scores_that_depend_on_the_distance) {
    enum { TOKENS = 5, HALF = 3, HEAD = 2 * HALF };
    double table[TOKENS * HEAD], qkv[TOKENS * 3 * HEAD];
    uint64_t seed = 5;
    for (int i = 0; i < 3 * HEAD; i++) qkv[i] = wave_draw(&seed, 1);
    for (int t = 0; t < TOKENS; t++) {
        memcpy(qkv + t * 3 * HEAD, qkv, 3 * HEAD * sizeof(double));
        for (int i = 0; i < HALF; i++) {
            table[(t * HALF + i) * 2] = cos(t * pow(10, -i));
            table[(t * HALF + i) * 2 + 1] = sin(t * pow(10, -i));
        }
    }
    oracle_rope((oracle_attention_size){TOKENS, 1, 1, HEAD}, table, false, qkv);
    double apart[3];
    for (int t = 0; t < 3; t++)
        apart[t] = oracle_dot(qkv + (t + 2) * 3 * HEAD, qkv + t * 3 * HEAD + HEAD, HEAD);
    near(apart[1], apart[0], "two tokens apart");
    near(apart[2], apart[0], "two tokens apart");
    double next = oracle_dot(qkv + 3 * HEAD, qkv + HEAD, HEAD);
    cr_expect(fabs(next - apart[0]) > 1e-3, "neighbours must score otherwise");
}

Test(oracle_llama, swiglu_by_hand) {
    double m[2], du[4];
    oracle_swiglu(1, 2, (double[]){0, log(3), 5, 8}, m);
    near(m[0], 0, "silu(0) = 0");
    near(m[1], log(3) * 0.75 * 8, "sigma(log 3) = 3/4");
    oracle_swiglu_backward(1, 2, (double[]){0, log(3), 5, 8}, (double[]){1, 2}, du);
    near(du[0], 5 * 0.5, "silu'(0) = 1/2");
    near(du[2], 0, "dv = dm silu(0)");
    near(du[1], 2 * 8 * (0.75 + log(3) * 0.75 * 0.25), "silu'(log 3)");
    near(du[3], 2 * log(3) * 0.75, "dv");
}

Test(oracle_llama, query_heads_share_their_groups_keys) {
    /* One token: o is v. Four query heads, two of keys and values, one column each. */
    double o[4], lse[4], dqkv[8];
    const double qkv[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    oracle_attention((oracle_attention_size){1, 4, 2, 1}, qkv, o, lse);
    const double expected[4] = {7, 7, 8, 8}, scores[4] = {5, 10, 18, 24};
    for (int h = 0; h < 4; h++) {
        near(o[h], expected[h], "o is the group's v");
        near(lse[h], scores[h], "lse is the one score");
    }
    oracle_attention_backward((oracle_attention_size){1, 4, 2, 1}, qkv, (double[]){1, 10, 100, 1000}, dqkv);
    near(dqkv[6], 11, "dv sums over the group");
    near(dqkv[7], 1100, "dv sums over the group");
}

/* ---- Finite differences: d <slope, y(x)> / dx_j for every j */

enum { MOST = 256 };

typedef void (*function)(const double *x, double *y);

static void compare_with_quotients(const char *what, function f, double *x, int n, const double *slope, int m,
                                   const double *gradient) {
    const double step = 1e-5;
    for (int j = 0; j < n; j++) {
        double y[MOST], kept = x[j];
        x[j] = kept + step;
        f(x, y);
        double up = oracle_dot(slope, y, m);
        x[j] = kept - step;
        f(x, y);
        double quotient = (up - oracle_dot(slope, y, m)) / (2 * step);
        x[j] = kept;
        cr_expect(fabs(quotient - gradient[j]) < 1e-8 * (1 + fabs(quotient)),
                  "%s: element %d: quotient %.12g, gradient %.12g", what, j, quotient, gradient[j]);
    }
}

static void fill(double *values, int count, uint64_t seed) {
    for (int i = 0; i < count; i++) values[i] = wave_draw(&seed, 1);
}

enum { ROWS = 3, WIDTH = 5 };
static const oracle_norm_size norm_size = {ROWS, WIDTH, 0.1};

/* x, then the gain. */
static void norm_of(const double *x, double *y) {
    oracle_rms_norm(norm_size, x, x + ROWS * WIDTH, y, NULL);
}

Test(oracle_llama, rms_norm_backward_equals_finite_differences) {
    enum { N = ROWS * WIDTH };
    double x[N + WIDTH], slope[N], gradient[N + WIDTH] = {0};
    fill(x, N + WIDTH, 1);
    fill(slope, N, 2);
    oracle_rms_norm_backward(norm_size, x, x + N, slope, gradient, gradient + N);
    compare_with_quotients("rms norm", norm_of, x, N + WIDTH, slope, N, gradient);
}

static void swiglu_of(const double *u, double *m) {
    oracle_swiglu(ROWS, WIDTH, u, m);
}

Test(oracle_llama, swiglu_backward_equals_finite_differences) {
    enum { N = ROWS * WIDTH };
    double u[2 * N], slope[N], gradient[2 * N];
    fill(u, 2 * N, 3);
    fill(slope, N, 4);
    oracle_swiglu_backward(ROWS, WIDTH, u, slope, gradient);
    compare_with_quotients("swiglu", swiglu_of, u, 2 * N, slope, N, gradient);
}

static oracle_attention_size heads;

static void attention_of(const double *qkv, double *o) {
    oracle_attention(heads, qkv, o, NULL);
}

Test(oracle_llama, attention_backward_equals_finite_differences) {
    const int layouts[][3] = {{2, 2, 3}, {4, 2, 2}, {3, 1, 4}, {6, 3, 1}};
    for (int l = 0; l < 4; l++) {
        heads = (oracle_attention_size){4, layouts[l][0], layouts[l][1], layouts[l][2]};
        int n = 4 * (heads.heads + 2 * heads.kv_heads) * heads.head_size,
            m = 4 * heads.heads * heads.head_size;
        double qkv[MOST], slope[MOST], gradient[MOST];
        fill(qkv, n, 5);
        fill(slope, m, 6);
        oracle_attention_backward(heads, qkv, slope, gradient);
        compare_with_quotients("attention", attention_of, qkv, n, slope, m, gradient);
    }
}

static double table[4 * 6];

static void rope_of(const double *qkv, double *turned) {
    int columns = (heads.heads + 2 * heads.kv_heads) * heads.head_size;
    memcpy(turned, qkv, (size_t)(heads.n * columns) * sizeof *qkv);
    oracle_rope(heads, table, false, turned);
}

Test(oracle_llama, rope_backward_equals_finite_differences) {
    enum { N = 4 * 5 * 6 };
    double qkv[N], slope[N], gradient[N];
    heads = (oracle_attention_size){4, 3, 1, 6};
    for (int i = 0; i < 12; i++) table[2 * i] = cos(i), table[2 * i + 1] = sin(i);
    fill(qkv, N, 7);
    fill(slope, N, 8);
    memcpy(gradient, slope, sizeof slope);
    oracle_rope(heads, table, true, gradient);
    compare_with_quotients("rope", rope_of, qkv, N, slope, N, gradient);
}

/* The oracle against numbers worked out by hand: every expectation here is a closed form, none was computed
 * by the oracle. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conformance/waves.h"
#include "oracle/oracle.h"

static void near(double value, double expected, const char *what) {
    cr_expect(fabs(value - expected) <= 1e-12 * (1 + fabs(expected)), "%s: expected %.15g, got %.15g", what,
              expected, value);
}

static ck_shape routed(int experts, int top_k, ck_gates gates) {
    ck_shape s = {.n_layers = 1, .width = 2, .ffn = 3, .n_experts = experts, .top_k = top_k, .gates = gates};
    for (int e = 0; e < experts; e++) {
        s.rank[e] = 1;
        s.balance[e] = 1;
    }
    const char *why;
    cr_assert(eq(int, ck_shape_init(&s, &why), CK_OK));
    return s;
}

Test(oracle, top_k_keeps_the_largest_and_softmax_is_over_them) {
    ck_shape s = routed(3, 2, CK_GATES_TOP_K);
    double w[CK_MAX_EXPERTS];
    oracle_gates(&s, (double[]){1, 2, 0}, w);
    near(w[0], 1 / (1 + exp(1)), "w of the second");
    near(w[1], 1 / (1 + exp(-1)), "w of the first");
    near(w[2], 0, "w of the dropped");
}

Test(oracle, one_of_many_keeps_its_probability_over_all) {
    ck_shape s = routed(2, 1, CK_GATES_TOP_K);
    double w[CK_MAX_EXPERTS];
    oracle_gates(&s, (double[]){0, log(3)}, w);
    near(w[0], 0, "w of the dropped");
    near(w[1], 0.75, "w of the kept");
}

Test(oracle, ties_go_to_the_lower_index) {
    ck_shape s = routed(3, 2, CK_GATES_TOP_K), one = routed(3, 1, CK_GATES_TOP_K);
    double w[CK_MAX_EXPERTS];
    int chosen[CK_MAX_EXPERTS];
    oracle_top_k(&s, (double[]){5, 5, 5}, chosen);
    cr_expect(eq(int, chosen[0], 0));
    cr_expect(eq(int, chosen[1], 1));
    oracle_gates(&one, (double[]){1, 2, 2}, w);
    near(w[1], 1 / (exp(-1) + 2), "w of the lower of two equals");
    near(w[2], 0, "w of the higher of two equals");
}

Test(oracle, a_single_expert_weighs_one_and_means_are_equal) {
    ck_shape single = routed(1, 1, CK_GATES_TOP_K), mean = routed(4, 1, CK_GATES_MEAN);
    double w[CK_MAX_EXPERTS];
    oracle_gates(&single, NULL, w);
    near(w[0], 1, "w at E = 1");
    oracle_gates(&mean, NULL, w);
    for (int e = 0; e < 4; e++) near(w[e], 0.25, "mean gate");
    near(w[4], 0, "column past E");
}

Test(oracle, balance_probability_masks_with_zero_and_not_with_infinity) {
    ck_shape two = routed(3, 2, CK_GATES_TOP_K), one = routed(3, 1, CK_GATES_TOP_K);
    double p[CK_MAX_EXPERTS];
    oracle_balance_probability(&two, (double[]){log(2), log(3), -1}, p);
    near(p[0], 2.0 / 6, "P of a kept expert");
    near(p[1], 3.0 / 6, "P of a kept expert");
    near(p[2], 1.0 / 6, "P of the dropped expert: its logit counts as 0");
    oracle_balance_probability(&one, (double[]){log(2), log(3), log(5)}, p);
    near(p[0], 2.0 / 10, "P at K = 1");
    near(p[2], 5.0 / 10, "P at K = 1");
}

Test(oracle, balance_of_two_tokens) {
    ck_shape s = routed(2, 1, CK_GATES_TOP_K);
    double coefficient[CK_MAX_EXPERTS];
    /* Both tokens choose expert 0; P = (3/4, 1/4) and (1/2, 1/2). */
    double value = oracle_balance(&s, 2, (double[]){2, 0}, (double[]){1.25, 0.75}, coefficient);
    near(value, 0.625, "value");
    near(coefficient[0], 0.5, "coefficient");
    near(coefficient[1], 0, "coefficient of an expert nobody chose");
}

Test(oracle, norm_by_hand) {
    double y[2], stats[2], dx[2] = {0}, dgain[2] = {0}, dbias[2] = {0};
    oracle_norm((oracle_norm_size){1, 2, 0}, (double[]){1, 3}, (double[]){2, 3}, (double[]){1, 1}, y, stats);
    near(y[0], -1, "y");
    near(y[1], 4, "y");
    near(stats[0], 2, "mean");
    near(stats[1], 1, "rstd");
    oracle_norm((oracle_norm_size){1, 2, 0.25}, (double[]){7, 7}, (double[]){1, 1}, (double[]){0, 0}, y,
                stats);
    near(stats[1], 2, "rstd of a constant row: 1 / sqrt(epsilon)");
    /* Two values always normalise to -1 and 1: the input gradient vanishes at epsilon 0. */
    oracle_norm_backward((oracle_norm_size){1, 2, 0}, (double[]){1, 3}, (double[]){2, 3}, (double[]){5, 7},
                         dx, dgain, dbias);
    near(dx[0], 0, "dx");
    near(dx[1], 0, "dx");
    near(dgain[0], -5, "dgain");
    near(dbias[1], 7, "dbias");
}

Test(oracle, gelu_by_hand) {
    near(oracle_gelu(0), 0, "gelu(0)");
    near(oracle_gelu_slope(0), 0.5, "gelu'(0)");
    double t = tanh(sqrt(2 / M_PI) * 1.044715);
    near(oracle_gelu(1), 0.5 * (1 + t), "gelu(1)");
    near(oracle_gelu(1) + oracle_gelu(-1), t, "gelu(1) + gelu(-1)");
    near(oracle_gelu(30), 30, "gelu far out");
    near(oracle_gelu(-30), 0, "gelu far out");
    cr_expect(fabs(oracle_gelu(1) - 0.8411919906) < 1e-9, "PyTorch's gelu(1, approximate='tanh')");
}

Test(oracle, linear_by_hand) {
    double y[2], factor = 0.5, residual[2] = {100, 200};
    const double weight[4] = {1, 2, 3, 4}, bias[2] = {10, 20}, x[2] = {5, 6};
    oracle_linear((oracle_linear_size){1, 2, 2}, x, weight, bias, &factor, residual, y);
    near(y[0], 17 + 5 + 100, "y");
    near(y[1], 39 + 10 + 200, "y");
    double dx[2] = {1, 1}, dweight[4] = {0}, dbias[2] = {0};
    oracle_linear_backward((oracle_linear_size){1, 2, 2}, x, weight, (double[]){1, 10}, dx, dweight, dbias);
    near(dx[0], 1 + 31, "dx adds");
    near(dx[1], 1 + 42, "dx adds");
    near(dweight[3], 60, "dW");
    near(dbias[1], 10, "db");
}

Test(oracle, attention_of_equal_scores_is_a_running_mean) {
    /* Two tokens, one head of depth 1; q = 0, so every score is 0. */
    const double qkv[6] = {0, 3, 10, 0, 4, 20};
    double o[2], lse[2];
    oracle_attention((oracle_attention_size){2, 1, 1, 1}, qkv, o, lse);
    near(o[0], 10, "the first token sees itself");
    near(o[1], 15, "the second sees both");
    near(lse[0], 0, "log 1");
    near(lse[1], log(2), "log 2");
    double dqkv[6];
    oracle_attention_backward((oracle_attention_size){2, 1, 1, 1}, qkv, (double[]){0, 1}, dqkv);
    near(dqkv[2], 0.5, "dv of the first token");
    near(dqkv[5], 0.5, "dv of the second token");
    near(dqkv[3], 0.5 * (10 - 15) * 3 + 0.5 * (20 - 15) * 4, "dq of the second token");
}

Test(oracle, head_by_hand) {
    const double wte[2] = {log(3), 0}, x = 1;
    double logits[2], dx, dwte[2] = {0};
    double loss = oracle_head((oracle_head_size){1, 1, 2}, &x, wte, (int32_t[]){0}, logits);
    near(loss, log(4.0 / 3), "loss");
    near(logits[0], log(3), "logit");
    near(oracle_head((oracle_head_size){1, 1, 2}, &x, wte, (int32_t[]){-1}, NULL), 0,
         "a target below 0 is not counted");
    oracle_head_backward((oracle_head_size){1, 1, 2}, &x, wte, (int32_t[]){0}, 2, &dx, dwte);
    near(dx, -log(3) / 2, "dx");
    near(dwte[0], -0.5, "dwte of the target");
    near(dwte[1], 0.5, "dwte of the other");
}

Test(oracle, lora_by_hand) {
    ck_shape s = {.n_layers = 1,
                  .width = 2,
                  .ffn = 3,
                  .n_experts = 1,
                  .rank = {1},
                  .top_k = 1,
                  .lora_rank = {[CK_SITE_OUT] = 1},
                  .lora_scale = {[CK_SITE_OUT] = 2}};
    const char *why;
    cr_assert(eq(int, ck_shape_init(&s, &why), CK_OK));
    double *pack = oracle_zeros(2 * s.total), *gradients = pack + s.total;
    memcpy(pack + ck_block_of(&s, CK_LORA, CK_SITE_OUT, CK_FACTOR_A)->offset, (double[]){1, 2},
           2 * sizeof(double));
    memcpy(pack + ck_block_of(&s, CK_LORA, CK_SITE_OUT, CK_FACTOR_B)->offset, (double[]){5, 7},
           2 * sizeof(double));
    oracle_adapter a = {.shape = &s, .parameters = pack, .gradients = gradients};
    double h, y[2] = {100, 200}, dx[2] = {0};
    oracle_lora(&a, CK_SITE_OUT, 1, (double[]){3, 4}, &h, 1, y, 2);
    near(h, 11, "h = A x");
    near(y[0], 100 + 2 * 11 * 5, "y += s B h");
    near(y[1], 200 + 2 * 11 * 7, "y += s B h");
    oracle_lora_backward(&a, CK_SITE_OUT, 1, (double[]){3, 4}, &h, 1, (double[]){1, -1}, 2, dx);
    near(dx[1], 2 * (5 - 7) * 2, "dx = s A^T B^T dy");
    near(gradients[ck_block_of(&s, CK_LORA, CK_SITE_OUT, CK_FACTOR_A)->offset], 2 * (5 - 7) * 3, "dA");
    near(gradients[ck_block_of(&s, CK_LORA, CK_SITE_OUT, CK_FACTOR_B)->offset + 1], 2 * 11 * -1, "dB");
    free(pack);
}

Test(oracle, adamw_first_two_steps) {
    double p = 2, m = 0, v = 0, g = 0.5;
    ck_adamw_hyper hyper = {.learning_rate = 0.125f,
                            .weight_decay = 0.25f,
                            .beta1 = 0.5f,
                            .beta2 = 0.75f,
                            .epsilon = 0,
                            .step = 1};
    oracle_adamw((oracle_adamw_arrays){&p, &m, &v, &g}, 1, &hyper);
    near(m, 0.25, "first moment");
    near(v, 0.0625, "second moment");
    near(p, 2 - 0.125 * (0.5 + 1), "the first step has size lr whatever the gradient");
    g = 0;
    hyper.step = 2;
    double before = p;
    oracle_adamw((oracle_adamw_arrays){&p, &m, &v, &g}, 1, &hyper);
    near(p, before - 0.125 * (0.25 * before + (0.125 / 0.75) / sqrt(0.046875 / 0.4375)), "second step");
}

Test(oracle, group_sum_and_spread) {
    double parameters[8] = {1, 2, 3, 4, 5, 6, 7, 8}, packed[4] = {-1, -1, -1, -1};
    /* Member 0 at float 0 with layout 0, member 1 at float 4 with layout 1: their ranges lie at different
     * offsets. */
    ck_group group = {.n_members = 2,
                      .members = (int64_t[]){0, 4},
                      .layout = (int32_t[]){0, 1},
                      .weights = (float[]){0.25f, 0.75f},
                      .n_ranges = 2,
                      .count = (int64_t[]){2, 1},
                      .offset = (int64_t[]){0, 3, 1, 0},
                      .packed = 1};
    oracle_group_sum(parameters, &group, packed);
    near(packed[0], -1, "before the group's place");
    near(packed[1], 0.25 * 1 + 0.75 * 6, "range 0");
    near(packed[2], 0.25 * 2 + 0.75 * 7, "range 0");
    near(packed[3], 0.25 * 4 + 0.75 * 5, "range 1");
    oracle_group_spread(parameters, &group, packed);
    near(parameters[6], packed[2], "member 1 gets range 0");
    near(parameters[2], 3, "what is in no range stays");
    double gradients[8] = {0};
    group.gradients = (int64_t[]){4, 0};
    packed[2] = 7;
    oracle_group_proximal(parameters, &group, packed, gradients);
    near(gradients[5], 0.25 * (parameters[1] - 7), "member 0, range 0");
    near(gradients[2], 0.75 * (parameters[6] - 7), "member 1, range 0");
    near(gradients[4], 0, "a member at its anchor is not pulled");
    near(gradients[3], 0, "what is in no range is not pulled");
}

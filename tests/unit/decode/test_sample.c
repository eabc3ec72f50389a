/* Choosing a token: the largest, or at random with the right frequencies. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "decode/sample.h"

enum { VOCABULARY = 12, DRAWS = 20000 };

static const float LOGITS[VOCABULARY] = {0.1F,  2.5F, -1.0F, 2.5F, 0.7F, 1.9F,
                                         -3.0F, 0.2F, 1.1F,  1.1F, 1.1F, -0.4F};

static rng_key key_at(uint64_t position) {
    return (rng_key){.seed = 5, .device = 3, .purpose = RNG_DECODING, .step = position};
}

static int32_t draw(sample_rule rule, const float *logits, uint64_t position, uint64_t index) {
    float scratch[VOCABULARY];
    rng_key key = key_at(position);
    return sample_token(&rule, logits, VOCABULARY, &key, index, scratch);
}

Test(sample, without_temperature_the_first_of_the_largest) {
    for (int32_t top_k = 0; top_k < 3; top_k++)
        cr_expect_eq(draw((sample_rule){.temperature = 0, .top_k = top_k}, LOGITS, 0, 0), 1);
}

Test(sample, the_same_key_gives_the_same_token_and_another_position_or_index_others) {
    sample_rule rule = {.temperature = 1.5};
    int same = 0, position = 0, index = 0;
    for (uint64_t i = 0; i < 200; i++) {
        int32_t token = draw(rule, LOGITS, i, 0);
        same += token == draw(rule, LOGITS, i, 0);
        position += token == draw(rule, LOGITS, i + 1000, 0);
        index += token == draw(rule, LOGITS, i, 1);
    }
    cr_expect_eq(same, 200);
    cr_expect_lt(position, 120, "%d of 200 tokens do not depend on the position", position);
    cr_expect_lt(index, 120, "%d of 200 tokens do not depend on the index", index);
}

/* Pearson's statistic of the tokens drawn, against softmax(z / T) over those that are kept; at most `freedom`
 * + 1 of them. */
static double statistic(sample_rule rule, const bool *kept, int *freedom) {
    int counts[VOCABULARY] = {0};
    double p[VOCABULARY], sum = 0, result = 0;
    for (int i = 0; i < VOCABULARY; i++)
        sum += p[i] = kept[i] ? exp((double)LOGITS[i] / rule.temperature) : 0;
    for (uint64_t i = 0; i < DRAWS; i++) counts[draw(rule, LOGITS, i, 0)]++;
    *freedom = -1;
    for (int i = 0; i < VOCABULARY; i++) {
        double expected = DRAWS * p[i] / sum;
        if (!kept[i]) {
            cr_assert_eq(counts[i], 0, "token %d was drawn, which is not among the kept", i);
            continue;
        }
        cr_assert_gt(expected, 5, "too few of token %d for the test", i);
        result += (counts[i] - expected) * (counts[i] - expected) / expected;
        ++*freedom;
    }
    return result;
}

/* Exceeded by chance once in 100,000 times: Wilson and Hilferty's approximation of the quantile. */
static double largest_likely(int freedom) {
    double z = 4.265, n = 2.0 / (9.0 * freedom), root = 1 - n + z * sqrt(n);
    return freedom * root * root * root;
}

static void expect_frequencies(sample_rule rule, const bool *kept) {
    int freedom;
    double found = statistic(rule, kept, &freedom);
    cr_expect_lt(found, largest_likely(freedom),
                 "temperature %g, top %d: chi-square %g with %d degrees of freedom", rule.temperature,
                 rule.top_k, found, freedom);
}

Test(sample, frequencies_are_those_of_the_softmax) {
    bool all[VOCABULARY];
    for (int i = 0; i < VOCABULARY; i++) all[i] = true;
    expect_frequencies((sample_rule){.temperature = 1}, all);
    expect_frequencies((sample_rule){.temperature = 2.5}, all);
    expect_frequencies((sample_rule){.temperature = 2.5, .top_k = VOCABULARY}, all);
    expect_frequencies((sample_rule){.temperature = 2.5, .top_k = VOCABULARY + 9}, all);
}

/* Of three equal logits, 8, 9 and 10, the first ones stay. */
Test(sample, only_the_largest_are_drawn_of_equal_ones_the_first) {
    const bool five[VOCABULARY] = {[1] = true, [3] = true, [5] = true, [8] = true, [9] = true};
    expect_frequencies((sample_rule){.temperature = 1, .top_k = 5}, five);
    for (uint64_t i = 0; i < 50; i++)
        cr_expect_eq(draw((sample_rule){.temperature = 3, .top_k = 1}, LOGITS, i, 0), 1);
}

Test(sample, the_statistic_finds_a_wrong_temperature) {
    bool all[VOCABULARY];
    for (int i = 0; i < VOCABULARY; i++) all[i] = true;
    int freedom;
    double cold = statistic((sample_rule){.temperature = 1}, all, &freedom);
    sample_rule warm = {.temperature = 1.1};
    int counts[VOCABULARY] = {0};
    double sum = 0, off = 0;
    for (uint64_t i = 0; i < DRAWS; i++) counts[draw(warm, LOGITS, i, 0)]++;
    for (int i = 0; i < VOCABULARY; i++) sum += exp((double)LOGITS[i]);
    for (int i = 0; i < VOCABULARY; i++) {
        double expected = DRAWS * exp((double)LOGITS[i]) / sum;
        off += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    cr_expect_lt(cold, largest_likely(freedom));
    cr_expect_gt(off, largest_likely(freedom));
}

Test(sample, logits_that_are_not_finite_are_no_choice) {
    float logits[VOCABULARY];
    for (int at = 0; at < VOCABULARY; at++)
        for (int kind = 0; kind < 3; kind++) {
            for (int i = 0; i < VOCABULARY; i++) logits[i] = LOGITS[i];
            logits[at] = kind == 0 ? NAN : kind == 1 ? INFINITY : -INFINITY;
            cr_expect_eq(draw((sample_rule){.temperature = 0}, logits, 0, 0), -1);
            cr_expect_eq(draw((sample_rule){.temperature = 1, .top_k = 2}, logits, 0, 0), -1);
        }
}

/* Against sorting, on many rows with many equal numbers. */
static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

Test(sample, the_kth_largest_is_found_whatever_the_order) {
    srand48(3);
    for (int round = 0; round < 400; round++) {
        float logits[VOCABULARY], sorted[VOCABULARY];
        for (int i = 0; i < VOCABULARY; i++) sorted[i] = logits[i] = (float)(lrand48() % 6);
        qsort(sorted, VOCABULARY, sizeof *sorted, descending);
        int k = 1 + round % VOCABULARY, left = k;
        for (int i = 0; i < VOCABULARY; i++) left -= logits[i] > sorted[k - 1];
        bool kept[VOCABULARY], seen[VOCABULARY] = {false};
        for (int i = 0; i < VOCABULARY; i++)
            kept[i] = logits[i] > sorted[k - 1] || (logits[i] == sorted[k - 1] && left-- > 0);
        for (uint64_t i = 0; i < 300; i++)
            seen[draw((sample_rule){.temperature = 50, .top_k = k}, logits, i, (uint64_t)round)] = true;
        for (int i = 0; i < VOCABULARY; i++)
            cr_assert_eq(seen[i], kept[i], "round %d, top %d: token %d with logit %g", round, k, i,
                         (double)logits[i]);
    }
}

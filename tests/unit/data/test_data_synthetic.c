/* The synthetic corpus: chains whose entropy is known, against hand-computed values and against the text
 * itself. */
#include <criterion/criterion.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "data/corpus.h"
#include "data/synthetic.h"
#include "unit/data_files.h"

static problems *list;

static void set_up(void) {
    list = problems_create();
}

static void tear_down(void) {
    problems_destroy(list);
}

TestSuite(data_synthetic, .init = set_up, .fini = tear_down);

static data_settings settings_of(int topics, int vocabulary, int branching, double purity, uint64_t seed) {
    data_settings d = data_settings_of("synthetic");
    d.synthetic.topics = topics;
    d.synthetic.vocabulary = vocabulary;
    d.synthetic.branching = branching;
    d.synthetic.purity = purity;
    d.synthetic.seed = seed;
    return d;
}

static synthetic_text *made(const data_settings *d) {
    synthetic_text *s = NULL;
    cr_assert_eq(synthetic_create(d, 512, &s, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
    return s;
}

static int32_t *text_of(const synthetic_text *s, int source, data_part part, int64_t first, int64_t count) {
    shard *text = NULL;
    int32_t *ids = malloc((size_t)count * sizeof *ids);
    cr_assert_eq(synthetic_range(s, source, part, first, count, &text, list), EXIT_OK);
    cr_assert_eq(shard_read(text, 0, count, ids, list), EXIT_OK);
    shard_close(text);
    return ids;
}

/* One successor each: the shared cycle. Nothing is uncertain but where a text begins. */
Test(data_synthetic, one_successor_has_no_entropy) {
    markov_chain m;
    cr_assert_eq(markov_create(3, 0, 10, 1, &m, list), EXIT_OK);
    cr_expect_float_eq(m.rate, 0, 1e-12);
    cr_expect_float_eq(m.entropy, log(10), 1e-9);
    int token = 0, steps = 0;
    do token = markov_next(&m, token, 0x80000000U);
    while (++steps < 10 && token != 0);
    cr_expect_eq(steps, 10, "the cycle closes after %d of 10 tokens", steps);
    markov_destroy(&m);
}

Test(data_synthetic, rows_are_distributions_over_distinct_successors) {
    markov_chain m;
    cr_assert_eq(markov_create(5, 1, 40, 7, &m, list), EXIT_OK);
    for (int v = 0; v < 40; v++) {
        double sum = 0;
        int successors = 0;
        for (int next = 0; next < 40; next++) {
            double p = markov_probability(&m, v, next);
            cr_expect_geq(p, 0);
            sum += p;
            successors += p > 0;
        }
        cr_expect_float_eq(sum, 1, 1e-12, "row %d sums to %g", v, sum);
        cr_expect_eq(successors, 7, "row %d has %d successors", v, successors);
    }
    markov_destroy(&m);
}

Test(data_synthetic, stationary_distribution_is_a_fixed_point) {
    markov_chain m;
    double pi[64], next[64] = {0};
    cr_assert_eq(markov_create(5, 0, 64, 3, &m, list), EXIT_OK);
    for (int v = 0; v < 64; v++) pi[v] = m.stationary[v] - (v ? m.stationary[v - 1] : 0);
    for (int v = 0; v < 64; v++)
        for (int w = 0; w < 64; w++) next[w] += pi[v] * markov_probability(&m, v, w);
    for (int v = 0; v < 64; v++)
        cr_expect_float_eq(next[v], pi[v], 1e-10, "token %d: %g, then %g", v, pi[v], next[v]);
    cr_expect(m.rate > 0 && m.rate < log(3), "entropy rate %g", m.rate);
    markov_destroy(&m);
}

/* About half of the rows are the same in all topics, the others are not; the cycle is in all. */
Test(data_synthetic, topics_share_half_of_their_rows) {
    markov_chain a, b;
    int shared = 0;
    cr_assert_eq(markov_create(9, 0, 256, 8, &a, list), EXIT_OK);
    cr_assert_eq(markov_create(9, 1, 256, 8, &b, list), EXIT_OK);
    for (int v = 0; v < 256; v++) {
        const uint16_t *x = a.successors + 8 * v, *y = b.successors + 8 * v;
        cr_expect_eq(x[0], y[0]);
        shared += memcmp(x, y, 8 * sizeof *x) == 0 &&
                  memcmp(a.cumulative + 8 * v, b.cumulative + 8 * v, 8 * sizeof(double)) == 0;
    }
    cr_expect(shared > 96 && shared < 160, "%d of 256 rows are shared", shared);
    markov_destroy(&a);
    markov_destroy(&b);
}

/* Mean of -ln p of a pure text under the chain that made it. */
Test(data_synthetic, text_has_the_analytic_entropy) {
    enum { TOKENS = 1 << 20 };
    data_settings d = settings_of(3, 128, 12, 1, 17);
    synthetic_text *s = made(&d);
    for (int topic = 0; topic < 3; topic++) {
        int32_t *ids = text_of(s, topic, DATA_TRAIN, 0, TOKENS);
        const markov_chain *m = &s->chains[topic];
        double sum = 0;
        for (int i = 0; i < TOKENS; i++) {
            bool first = i % SYNTHETIC_BLOCK == 0;
            double p = first ? m->stationary[ids[i]] - (ids[i] ? m->stationary[ids[i] - 1] : 0)
                             : markov_probability(m, ids[i - 1], ids[i]);
            cr_assert_gt(p, 0, "token %d of topic %d cannot follow the one before", i, topic);
            sum -= log(p);
        }
        double expected = synthetic_entropy(s, topic);
        cr_expect_float_eq(sum / TOKENS, expected, 0.01 * expected, "topic %d: text %g, analytic %g", topic,
                           sum / TOKENS, expected);
        free(ids);
    }
    synthetic_destroy(s);
}

/* Of a mixed text: -ln p of a segment's tokens under its topic, the topic being the one under which the
 * segment is possible and likeliest.
 */
static double best_segment(const synthetic_text *s, const int32_t *ids, int *topic) {
    double best = -INFINITY;
    for (int k = 0; k < s->topics; k++) {
        double sum = 0;
        for (int i = 1; i < SYNTHETIC_SEGMENT; i++)
            sum += log(markov_probability(&s->chains[k], ids[i - 1], ids[i]));
        if (sum > best) {
            best = sum;
            *topic = k;
        }
    }
    return best;
}

Test(data_synthetic, mixture_has_its_shares_and_entropy) {
    enum { SEGMENTS = 8192 };
    data_settings d = settings_of(4, 128, 12, 0.6, 17);
    synthetic_text *s = made(&d);
    int32_t *ids = text_of(s, 2, DATA_VALID, 0, SEGMENTS * SYNTHETIC_SEGMENT);
    double sum = 0;
    int own = 0, before = -1;
    for (int i = 0; i < SEGMENTS; i++) {
        const int32_t *segment = ids + i * SYNTHETIC_SEGMENT;
        int topic = -1;
        sum -= best_segment(s, segment, &topic);
        const markov_chain *m = &s->chains[topic];
        bool starts = topic != before || i * SYNTHETIC_SEGMENT % SYNTHETIC_BLOCK == 0;
        sum -= log(starts ? m->stationary[segment[0]] - (segment[0] ? m->stationary[segment[0] - 1] : 0)
                          : markov_probability(m, segment[-1], segment[0]));
        own += topic == 2;
        before = topic;
    }
    double entropy = synthetic_entropy(s, 2), measured = sum / (SEGMENTS * SYNTHETIC_SEGMENT);
    cr_expect_float_eq(measured, entropy, 0.01 * entropy, "text %g, analytic %g", measured, entropy);
    cr_expect_float_eq((double)own / SEGMENTS, 0.6 + 0.4 / 4, 0.02,
                       "the source's own topic has a share of %g", (double)own / SEGMENTS);
    free(ids);
    synthetic_destroy(s);
}

Test(data_synthetic, text_is_the_same_by_range_and_threads) {
    enum { TOKENS = 3 * SYNTHETIC_BLOCK };
    data_settings d = settings_of(2, 64, 4, 0.7, 5);
    synthetic_text *s = made(&d);
    omp_set_num_threads(1);
    int32_t *all = text_of(s, 1, DATA_TEST, 0, TOKENS);
    omp_set_num_threads(4);
    int32_t *middle = text_of(s, 1, DATA_TEST, 1000, SYNTHETIC_BLOCK + 77),
            *other = text_of(s, 1, DATA_TRAIN, 0, TOKENS);
    cr_expect_arr_eq(middle, all + 1000, (SYNTHETIC_BLOCK + 77) * sizeof *all);
    cr_expect_neq(memcmp(other, all, TOKENS * sizeof *all), 0, "train and test text are the same");
    free(all);
    free(middle);
    free(other);
    synthetic_destroy(s);
}

Test(data_synthetic, seed_decides_the_text) {
    data_settings d = settings_of(2, 64, 4, 0.7, 5), e = settings_of(2, 64, 4, 0.7, 6);
    synthetic_text *s = made(&d), *t = made(&e), *again = made(&d);
    int32_t *x = text_of(s, 0, DATA_TRAIN, 0, 500), *y = text_of(t, 0, DATA_TRAIN, 0, 500),
            *z = text_of(again, 0, DATA_TRAIN, 0, 500);
    cr_expect_arr_eq(x, z, 500 * sizeof *x);
    cr_expect_neq(memcmp(x, y, 500 * sizeof *x), 0);
    free(x);
    free(y);
    free(z);
    synthetic_destroy(s);
    synthetic_destroy(t);
    synthetic_destroy(again);
}

Test(data_synthetic, corpus_has_a_source_per_topic) {
    data_settings d = settings_of(4, 256, 8, 1, 5);
    corpus *c = NULL;
    cr_assert_eq(corpus_open(&d, 256, &c, list), EXIT_OK);
    cr_expect_eq(corpus_sources(c), 4);
    cr_expect_str_eq(corpus_source_name(c, 3), "topic-3");
    cr_expect(corpus_entropy(c, 0) > 0 && corpus_entropy(c, 0) < log(8), "entropy %g", corpus_entropy(c, 0));
    cr_expect_gt(shard_tokens(corpus_shard(c, 0, DATA_TRAIN)), 1000000);
    corpus_close(c);
}

Test(data_synthetic, refuses_settings_that_make_no_chain) {
    corpus *c = NULL;
    data_settings d = settings_of(0, 512, 600, 1.5, 5);
    cr_expect_eq(corpus_open(&d, 256, &c, list), EXIT_INPUT);
    cr_expect_null(c);
    cr_expect(data_says(list, "data.synthetic.topics is 0"));
    cr_expect(data_says(
        list, "data.synthetic.vocabulary is 512; it must be between 2 and the base's vocabulary of 256"));
    cr_expect(data_says(list, "data.synthetic.branching is 600"));
    cr_expect(data_says(list, "data.synthetic.purity is 1.5"));
}

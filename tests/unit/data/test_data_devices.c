/* What each split gives to devices: against the distribution that was asked for, over many devices. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/partition.h"
#include "data/split.h"
#include "unit/data_files.h"

enum { SOURCES = 5, SEQUENCE = 8, MANY = 20000 };

static problems *list;
static corpus *text;
static data_settings used;

static void set_up(void) {
    list = problems_create();
    used = data_settings_of("synthetic");
    used.synthetic.topics = SOURCES;
    used.synthetic.vocabulary = 64;
    used.synthetic.branching = 4;
    used.synthetic.purity = 1;
    used.tokens_per_device.value = 1000;
    cr_assert_eq(corpus_open(&used, 64, &text, list), EXIT_OK);
}

static void tear_down(void) {
    corpus_close(text);
    problems_destroy(list);
}

TestSuite(data_devices, .init = set_up, .fini = tear_down);

static partition *partition_of(uint64_t seed, int devices) {
    partition *p = NULL;
    cr_assert_eq(partition_open(text, &used, seed, devices, &p, list), EXIT_OK);
    return p;
}

static device_data *device_of(partition *p, int device, bool pooled) {
    device_data *data = NULL;
    cr_assert_eq(device_data_open(p, device, pooled, &data, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
    return data;
}

/* The tokens of each source [SOURCES] that a split gives, without making the text. */
static void tokens_of(const partition *p, int device, data_part part, int64_t out[SOURCES]) {
    text_share shares[SOURCES];
    int n = p->splits[part]->shares(p, device, part, shares);
    memset(out, 0, SOURCES * sizeof *out);
    for (int i = 0; i < n; i++) {
        cr_assert(i == 0 || shares[i].source > shares[i - 1].source);
        cr_assert_gt(shares[i].tokens, 0);
        out[shares[i].source] = shares[i].tokens;
    }
}

static int64_t sum_of(const int64_t tokens[SOURCES]) {
    int64_t sum = 0;
    for (int s = 0; s < SOURCES; s++) sum += tokens[s];
    return sum;
}

/* ---- Statistics ---- */

Test(data_devices, iid_gives_every_device_equal_parts_of_all_sources) {
    used.split = split_named("iid");
    used.tokens_per_device.value = 1003;
    partition *p = partition_of(3, 40);
    for (int device = 0; device < 40; device++) {
        int64_t tokens[SOURCES];
        tokens_of(p, device, DATA_TRAIN, tokens);
        cr_expect_eq(sum_of(tokens), 1003);
        for (int s = 0; s < SOURCES; s++) cr_expect(tokens[s] == 200 + (s < 3), "%lld", (long long)tokens[s]);
    }
    partition_close(p);
}

/* Mean and standard deviation of the logarithm, and the mean of the tokens, which is the one asked for. */
Test(data_devices, quantity_is_log_normal_and_keeps_the_mean) {
    static const double sigmas[] = {0.2, 0.5, 1};
    used.split = split_named("quantity");
    used.tokens_per_device.value = 1000000;
    for (size_t c = 0; c < sizeof sigmas / sizeof *sigmas; c++) {
        double sigma = sigmas[c], sum = 0, logs = 0, squares = 0;
        used.quantity = sigma;
        partition *p = partition_of(17, MANY);
        for (int device = 0; device < MANY; device++) {
            int64_t tokens[SOURCES];
            tokens_of(p, device, DATA_TRAIN, tokens);
            cr_assert_eq(sum_of(tokens), tokens[device % SOURCES], "a device has one source");
            double t = (double)sum_of(tokens) / 1e6, log_of = log(t) + sigma * sigma / 2;
            sum += t, logs += log_of, squares += log_of * log_of;
        }
        double deviation = sqrt(exp(sigma * sigma) - 1);
        cr_expect_float_eq(sum / MANY, 1, 4 * deviation / sqrt(MANY), "sigma %g: mean %g", sigma, sum / MANY);
        cr_expect_float_eq(logs / MANY, 0, 4 * sigma / sqrt(MANY), "sigma %g: mean of the logarithm %g",
                           sigma, logs / MANY - sigma * sigma / 2);
        cr_expect_float_eq(sqrt(squares / MANY), sigma, 4 * sigma / sqrt(2.0 * MANY), "sigma %g, not %g",
                           sqrt(squares / MANY), sigma);
        partition_close(p);
    }
}

Test(data_devices, quantity_leaves_every_device_a_window) {
    int least = 0;
    used.split = split_named("quantity");
    used.quantity = 3;
    used.tokens_per_device.value = 60;
    partition *p = partition_of(17, 2000);
    for (int device = 0; device < 2000; device++) {
        int64_t tokens[SOURCES];
        tokens_of(p, device, DATA_TRAIN, tokens);
        cr_assert_geq(sum_of(tokens), SEQUENCE + 1);
        least += sum_of(tokens) == SEQUENCE + 1;
    }
    cr_expect_gt(least, 1000);
    partition_close(p);
}

/* Exactly k sources; every source as often as the others, give or take one; and every pair of sources about
 * as often as the others, so that the same ones do not always come together. */
Test(data_devices, pathological_deals_k_sources_and_all_of_them_evenly) {
    for (int k = 1; k <= SOURCES; k++) {
        int devices = k == 2 ? MANY : 1203, holders[SOURCES] = {0}, pairs[SOURCES][SOURCES] = {{0}};
        used.split = split_named("pathological");
        used.pathological = k;
        partition *p = partition_of(5, devices);
        for (int device = 0; device < devices; device++) {
            int64_t tokens[SOURCES];
            int n = 0;
            tokens_of(p, device, DATA_TRAIN, tokens);
            cr_expect_eq(sum_of(tokens), 1000);
            for (int s = 0; s < SOURCES; s++) {
                if (tokens[s] == 0) continue;
                n++;
                holders[s]++;
                cr_expect(tokens[s] == 1000 / k || tokens[s] == 1000 / k + 1);
                for (int r = 0; r < s; r++) pairs[r][s] += tokens[r] > 0;
            }
            cr_assert_eq(n, k, "device %d has %d sources, not %d", device, n, k);
        }
        for (int s = 0; s < SOURCES; s++)
            cr_expect(abs(SOURCES * holders[s] - devices * k) < SOURCES, "k %d: source %d has %d holders", k,
                      s, holders[s]);
        for (int s = 0; s < SOURCES && k == 2; s++)
            for (int r = 0; r < s; r++)
                cr_expect(abs(pairs[r][s] - MANY / 10) < MANY / 40, "sources %d and %d: %d", r, s,
                          pairs[r][s]);
        partition_close(p);
    }
}

/* Neither who comes after a device, nor anything but the seed, changes its sources. */
Test(data_devices, pathological_sources_are_a_function_of_seed_and_device) {
    used.split = split_named("pathological");
    used.pathological = 2;
    partition *few = partition_of(5, 10), *many = partition_of(5, 37), *other = partition_of(6, 37);
    int differ = 0;
    for (int device = 0; device < 10; device++) {
        int64_t a[SOURCES], b[SOURCES], c[SOURCES];
        tokens_of(few, device, DATA_TRAIN, a);
        tokens_of(many, device, DATA_TRAIN, b);
        tokens_of(other, device, DATA_TRAIN, c);
        cr_expect_eq(memcmp(a, b, sizeof a), 0, "device %d", device);
        differ += memcmp(a, c, sizeof a) != 0;
    }
    cr_expect_gt(differ, 3);
    partition_close(few);
    partition_close(many);
    partition_close(other);
}

/* ---- Drift ---- */

enum { ROUNDS = 5, STEPS = 40, WINDOWS = 20000 };

/* Whose place in a device's text a window has: its text begins with the source of the lower number. */
static bool is_of_later(const device_data *data, int64_t boundary, uint64_t step, int index) {
    data_window at;
    cr_assert_eq(device_data_sample(data, DATA_TRAIN, step, index, SEQUENCE, &at, list), EXIT_OK);
    return at.place >= boundary;
}

/* In each round the share of windows that the formula says; in a round all steps alike; and of the text what
 * is read in the mean over rounds. */
Test(data_devices, drift_moves_from_its_source_to_the_next) {
    used.split = split_named("drift");
    used.drift = 0.8;
    partition *p = partition_of(5, 7);
    for (int device = 0; device < 7; device += 3) { /* sources 0, 3, 1 */
        int64_t tokens[SOURCES], test[SOURCES];
        int own = device % SOURCES;
        tokens_of(p, device, DATA_TRAIN, tokens);
        cr_expect(tokens[own] == 600 && tokens[own + 1] == 400 && sum_of(tokens) == 1000);
        used.test_tokens_per_device.value = 500;
        tokens_of(p, device, DATA_TEST, test);
        cr_expect(test[own] == 100 && test[own + 1] == 400 && sum_of(test) == 500);
        used.test_tokens_per_device.value = 0;
        device_data *data = device_of(p, device, false);
        device_data_set_length(data, ROUNDS, STEPS);
        cr_expect_eq(device_data_source(data), -1);
        for (int round = 0; round < ROUNDS; round++) {
            double share = 0.8 * round / (ROUNDS - 1);
            int found = 0;
            for (int i = 0; i < WINDOWS; i++)
                found += is_of_later(data, 600, (uint64_t)(round * 8 + i % 8), i / 8);
            cr_expect_float_eq((double)found / WINDOWS, share, 4 * sqrt(share * (1 - share) / WINDOWS) + 1e-9,
                               "device %d, round %d: %g of the next source", device, round,
                               (double)found / WINDOWS);
        }
        device_data_close(data);
    }
    partition_close(p);
}

/* What a step draws depends on its number alone: not on what was drawn before, as after a resume. */
Test(data_devices, drift_draws_by_the_number_of_the_step) {
    used.split = split_named("drift");
    used.drift = 1;
    partition *p = partition_of(5, 4);
    device_data *data = device_of(p, 2, false), *again = device_of(p, 2, false);
    device_data_set_length(data, ROUNDS, STEPS);
    device_data_set_length(again, ROUNDS, STEPS);
    for (int step = STEPS - 1; step >= 0; step--)
        for (int i = 0; i < 5; i++) {
            data_window a, b;
            cr_assert_eq(
                device_data_sample(data, DATA_TRAIN, (uint64_t)(STEPS - 1 - step), i, SEQUENCE, &a, list),
                EXIT_OK);
            cr_assert_eq(
                device_data_sample(again, DATA_TRAIN, (uint64_t)(STEPS - 1 - step), i, SEQUENCE, &b, list),
                EXIT_OK);
            cr_expect_eq(a.place, b.place);
            cr_assert_eq(device_data_sample(again, DATA_TRAIN, (uint64_t)step, i, SEQUENCE, &b, list),
                         EXIT_OK);
        }
    device_data_close(data);
    device_data_close(again);
    partition_close(p);
}

/* With the least drift a device still has a window of the next source. */
Test(data_devices, drift_has_a_window_of_the_next_source) {
    int64_t tokens[SOURCES];
    used.split = split_named("drift");
    used.drift = 1e-6;
    partition *p = partition_of(5, 4);
    tokens_of(p, 1, DATA_TRAIN, tokens);
    cr_expect(tokens[1] == 1000 - SEQUENCE - 1 && tokens[2] == SEQUENCE + 1);
    partition_close(p);
    used.drift = 1;
    p = partition_of(5, 5);
    tokens_of(p, 4, DATA_TEST, tokens);
    cr_expect(tokens[0] > 0 && sum_of(tokens) == tokens[0], "at the end all text is of the next source");
    partition_close(p);
}

/* ---- Evaluation ---- */

/* Whatever the split, valid and test text are of all sources alike where that is asked for, and the training
 * text stays what it is. */
Test(data_devices, out_of_distribution_is_for_every_split) {
    used.valid_tokens_per_device.value = 250;
    for (int split = 0; split < split_count(); split++) {
        used.split = split;
        used.dirichlet = used.quantity = used.drift = 1;
        used.pathological = 2;
        used.evaluation = IN_DISTRIBUTION;
        partition *in = partition_of(5, 8);
        data_settings outside = used;
        outside.evaluation = OUT_OF_DISTRIBUTION;
        partition *out = NULL;
        cr_assert_eq(partition_open(text, &outside, 5, 8, &out, list), EXIT_OK);
        for (int device = 0; device < 8; device++) {
            int64_t a[SOURCES], b[SOURCES];
            tokens_of(in, device, DATA_TRAIN, a);
            tokens_of(out, device, DATA_TRAIN, b);
            cr_expect_eq(memcmp(a, b, sizeof a), 0, "%s, device %d", split_name(split), device);
            tokens_of(out, device, DATA_VALID, b);
            for (int s = 0; s < SOURCES; s++)
                cr_expect_eq(b[s], 50, "%s, device %d", split_name(split), device);
            tokens_of(in, device, DATA_VALID, b);
            cr_expect_eq(sum_of(b), 250);
            for (int s = 0; s < SOURCES; s++)
                cr_expect(b[s] == 0 || a[s] > 0,
                          "%s, device %d: valid text of a source that it does not train on",
                          split_name(split), device);
        }
        partition_close(in);
        partition_close(out);
    }
}

/* ---- Sources and fractions ---- */

static per_device sources_in(int64_t *numbers, int n) {
    per_device x = {.n = n, .list = numbers};
    for (int i = 0; i < n; i++) x.value = numbers[i] > x.value ? numbers[i] : x.value;
    return x;
}

Test(data_devices, data_sources_says_whose_text_a_device_has) {
    int64_t sources[] = {4, 1, 1, 3, 1};
    used.sources = sources_in(sources, 5);
    static const char *const splits[] = {"natural", "quantity", "drift"};
    for (size_t i = 0; i < 3; i++) {
        used.split = split_named(splits[i]);
        used.quantity = used.drift = 0.5;
        partition *p = partition_of(5, 5);
        for (int device = 0; device < 5; device++) {
            int64_t tokens[SOURCES];
            tokens_of(p, device, DATA_TRAIN, tokens);
            int64_t next = i == 2 ? tokens[((int)sources[device] + 1) % SOURCES] : 0;
            cr_expect(tokens[(int)sources[device]] > next &&
                          tokens[(int)sources[device]] + next == sum_of(tokens),
                      "%s: device %d", splits[i], device);
        }
        cr_expect_eq(partition_holders(p, 1), 3);
        cr_expect_eq(partition_holders(p, 0), 0);
        partition_close(p);
    }
}

/* Side by side also where devices of a source have unequal fractions; the pool has each test text once. */
Test(data_devices, fractions_multiply_training_text_alone) {
    double fractions[] = {1, 0.1, 0.5, 0.25};
    int64_t sources[] = {2, 2, 2, 0};
    used.fraction = (per_device){.real = 1, .n = 4, .reals = fractions};
    used.sources = sources_in(sources, 4);
    partition *p = partition_of(5, 4);
    int64_t end = -1;
    for (int device = 0; device < 4; device++) {
        device_data *data = device_of(p, device, false);
        cr_expect_eq(device_data_tokens(data, DATA_TRAIN), (int64_t)(1000 * fractions[device]));
        cr_expect_eq(device_data_tokens(data, DATA_TEST), 1 << 17);
        cr_expect_not(device_data_overlaps(data));
        device_data_close(data);
        text_share share;
        if (device == 3) break;
        part_text got = {0};
        cr_assert_eq(p->splits[DATA_TRAIN]->shares(p, device, DATA_TRAIN, &share), 1);
        cr_assert_eq(partition_take(p, device, DATA_TRAIN, &got, list), EXIT_OK);
        cr_expect_eq(p->sums[DATA_TRAIN].before[2], end < 0 ? 0 : end, "device %d", device);
        end = (end < 0 ? 0 : end) + got.tokens;
        shard_close(got.ranges[0].owned);
        free(got.ranges);
    }
    device_data *pool = device_of(p, 0, true);
    cr_expect_eq(device_data_tokens(pool, DATA_TEST), 2 << 17, "two sources are held");
    int64_t mixture[SOURCES] = {0};
    device_data_mixture(pool, mixture);
    cr_expect(mixture[2] == 1600 && mixture[0] == 250 && sum_of(mixture) == 1850);
    device_data_close(pool);
    partition_close(p);
}

/* Where all text is asked for, a fraction is of the device's part of it. */
Test(data_devices, a_fraction_of_all_text) {
    used.tokens_per_device.value = 0;
    used.fraction.real = 0.5;
    static const char *const splits[] = {"natural", "iid", "pathological", "drift", "dirichlet"};
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        int64_t whole[SOURCES], part[SOURCES];
        used.split = split_named(splits[i]);
        used.pathological = 2;
        used.drift = used.dirichlet = 1;
        partition *p = partition_of(5, 10);
        tokens_of(p, 3, DATA_TRAIN, part);
        partition_close(p);
        data_settings all = used;
        all.fraction.real = 1;
        cr_assert_eq(partition_open(text, &all, 5, 10, &p, list), EXIT_OK);
        tokens_of(p, 3, DATA_TRAIN, whole);
        partition_close(p);
        for (int s = 0; s < SOURCES; s++)
            cr_expect(llabs(2 * part[s] - whole[s]) <= 2, "%s, source %d: %lld of %lld", splits[i], s,
                      (long long)part[s], (long long)whole[s]);
        cr_expect(sum_of(whole) > 0 && sum_of(whole) <= SOURCES << 20);
    }
}

/* Equal parts of k sources are not made unequal, and a source is not left out, for want of text. */
Test(data_devices, pathological_without_a_window_of_each_source_is_refused) {
    used.split = split_named("pathological");
    used.pathological = 3;
    used.tokens_per_device.value = 20;
    partition *p = partition_of(5, 2);
    device_data *data = NULL;
    cr_expect_eq(device_data_open(p, 0, false, &data, list), EXIT_INPUT);
    cr_expect(data_says(list, "fewer than a window (data.sequence: 8)"));
    cr_expect(data_says(list, "give each device at least 27 by data.tokens_per_device"), "%s",
              problems_message(list, 0));
    partition_close(p);
}

Test(data_devices, more_sources_than_there_are_are_refused) {
    const char *key = NULL;
    int64_t sources[] = {0, 5};
    used.split = split_named("pathological");
    used.pathological = 5;
    cr_expect_eq(partition_check(text, &used, &key, list), EXIT_OK);
    cr_expect_null(key);
    used.pathological = 6;
    cr_expect_eq(partition_check(text, &used, &key, list), EXIT_INPUT);
    cr_expect_str_eq(key, "data.split");
    cr_expect(data_says(list, "the split pathological needs 6 sources, but synthetic has 5"));
    used.split = split_named("natural");
    used.sources = sources_in(sources, 2);
    cr_expect_eq(partition_check(text, &used, &key, list), EXIT_INPUT);
    cr_expect_str_eq(key, "data.sources");
    cr_expect(data_says(list, "there is no source 5; synthetic has 5, numbered from 0"));
}

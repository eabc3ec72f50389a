/* Splits over sources: the mixtures that devices draw, and the text that they then have. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/partition.h"
#include "data/splits/dirichlet.h"
#include "unit/data_files.h"

enum { SOURCES = 3, DEVICES = 12, SEQUENCE = 8, TRAIN = 6000, VALID = 900, TEST = 600 };

/* ---- The distribution ---- */

enum { MANY = 20000, MOST_SOURCES = 8, BINS = 20 };

/* Of chi-square with BINS - 1 = 19 degrees of freedom, the quantile at 0.999. */
static const double CHI_SQUARE = 43.8;

static double chi_square(const int counts[BINS]) {
    double sum = 0;
    for (int i = 0; i < BINS; i++) sum += pow(counts[i] - (double)MANY / BINS, 2) / ((double)MANY / BINS);
    return sum;
}

/* Mean 1 / S and variance (S - 1) / (S^2 (S alpha + 1)) of each source's share, over devices. */
Test(data_splits, mixtures_have_mean_and_variance_of_a_dirichlet) {
    static const struct {
        int sources;
        double alpha;
    } cases[] = {{2, 0.1}, {4, 0.1}, {4, 1}, {4, 10}, {8, 0.5}, {8, 100}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int n = cases[c].sources;
        double sum[MOST_SOURCES] = {0}, squares[MOST_SOURCES] = {0};
        double variance = (n - 1) / ((double)n * n * (n * cases[c].alpha + 1));
        for (int device = 0; device < MANY; device++) {
            text_share shares[MOST_SOURCES];
            double all = 0;
            dirichlet_mixture(11, device, cases[c].alpha, n, shares);
            for (int s = 0; s < n; s++) {
                cr_assert(shares[s].source == s && shares[s].weight >= 0);
                all += shares[s].weight;
                sum[s] += shares[s].weight;
                squares[s] += pow(shares[s].weight - 1.0 / n, 2);
            }
            cr_assert_float_eq(all, 1, 1e-12);
        }
        for (int s = 0; s < n; s++) {
            cr_expect_float_eq(sum[s] / MANY, 1.0 / n, 4 * sqrt(variance / MANY),
                               "alpha %g, source %d: mean %g", cases[c].alpha, s, sum[s] / MANY);
            cr_expect_float_eq(squares[s] / MANY, variance, 0.05 * variance,
                               "alpha %g, source %d: variance %g, not %g", cases[c].alpha, s,
                               squares[s] / MANY, variance);
        }
    }
}

/* One source's share has the distribution Beta(alpha, (S - 1) alpha): with alpha = 1, 1 - (1 - q)^(S - 1) is
 * uniform; with alpha = 1/2 and S = 2, (2 / pi) asin(sqrt q) is. */
Test(data_splits, mixtures_have_the_shape_of_a_dirichlet) {
    int flat[BINS] = {0}, arcsine[BINS] = {0};
    for (int device = 0; device < MANY; device++) {
        text_share shares[MOST_SOURCES];
        dirichlet_mixture(5, device, 1, 4, shares);
        flat[(int)fmin(BINS - 1, BINS * (1 - pow(1 - shares[device % 4].weight, 3)))]++;
        dirichlet_mixture(5, device, 0.5, 2, shares);
        arcsine[(int)fmin(BINS - 1, BINS * M_2_PI * asin(sqrt(fmin(1, shares[0].weight))))]++;
    }
    cr_expect_lt(chi_square(flat), CHI_SQUARE, "alpha 1: %g", chi_square(flat));
    cr_expect_lt(chi_square(arcsine), CHI_SQUARE, "alpha 1/2: %g", chi_square(arcsine));
}

/* As alpha falls to nothing a device has one source, each as often as the others. */
Test(data_splits, the_smallest_alpha_gives_one_source) {
    static const double alphas[] = {1e-4, 1e-12, 5e-324};
    for (size_t a = 0; a < sizeof alphas / sizeof *alphas; a++) {
        int counts[4] = {0}, pure = 0;
        for (int device = 0; device < 4000; device++) {
            text_share shares[4];
            int largest = 0;
            dirichlet_mixture(3, device, alphas[a], 4, shares);
            for (int s = 0; s < 4; s++) {
                cr_assert(isfinite(shares[s].weight));
                if (shares[s].weight > shares[largest].weight) largest = s;
            }
            counts[largest]++;
            pure += shares[largest].weight > 0.999;
        }
        cr_expect_geq(pure, 3950, "alpha %g: %d of 4000 devices have one source", alphas[a], pure);
        for (int s = 0; s < 4; s++)
            cr_expect(abs(counts[s] - 1000) < 110, "alpha %g: source %d %d times", alphas[a], s, counts[s]);
    }
}

/* ---- The text ---- */

static char *folder;
static problems *list;
static corpus *text;
static data_settings used;

/* uint16 ids: source * 10000 + position in training text, from 7000 on in validation and from 8500 on in test
 * text; so a token says where it is from. */
static void write_positions(int source, int part, int n) {
    static const char *const names[] = {"train", "valid", "test"};
    uint16_t *ids = malloc((size_t)n * sizeof *ids);
    char name[32];
    for (int i = 0; i < n; i++)
        ids[i] = (uint16_t)(source * 10000 + i + (part == DATA_VALID ? 7000 : part == DATA_TEST ? 8500 : 0));
    snprintf(name, sizeof name, "%s_%d.bin", names[part], source);
    data_write(folder, name, ids, (size_t)n * sizeof *ids);
    free(ids);
}

static void set_up(void) {
    folder = data_folder();
    list = problems_create();
    for (int source = 0; source < SOURCES; source++) {
        write_positions(source, DATA_TRAIN, TRAIN);
        write_positions(source, DATA_VALID, VALID + 100 * source);
        write_positions(source, DATA_TEST, TEST);
    }
    used = data_settings_of(folder);
    used.split = split_named("dirichlet");
    used.dirichlet = 0.7;
    used.tokens_per_device.value = 700;
    used.valid_tokens_per_device.value = 200;
    used.test_tokens_per_device.value = 300;
    cr_assert_eq(corpus_open(&used, 30000, &text, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
}

static void tear_down(void) {
    corpus_close(text);
    data_folder_remove(folder);
    problems_destroy(list);
}

TestSuite(data_splits_text, .init = set_up, .fini = tear_down);

static partition *partition_of(const data_settings *d, int devices) {
    partition *p = NULL;
    cr_assert_eq(partition_open(text, d, 4, devices, &p, list), EXIT_OK);
    return p;
}

static part_text part_of(partition *p, int device, data_part part) {
    part_text out = {0};
    cr_assert_eq(partition_take(p, device, part, &out, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
    return out;
}

/* Of every part exactly the tokens asked for, and of each source its share: to a token where no source is
 * left out, else at least. */
Test(data_splits_text, devices_have_the_mixture_that_they_drew) {
    static const double alphas[] = {0.05, 0.7, 5};
    int left_out = 0, whole = 0;
    for (size_t a = 0; a < sizeof alphas / sizeof *alphas; a++) {
        used.dirichlet = alphas[a];
        partition *p = partition_of(&used, DEVICES);
        for (int device = 0; device < DEVICES; device++)
            for (int part = 0; part < DATA_SPLITS; part++) {
                text_share drawn[SOURCES];
                dirichlet_mixture(4, device, alphas[a], SOURCES, drawn);
                part_text got = part_of(p, device, (data_part)part);
                double kept = 0;
                int64_t wanted = partition_asked(&used, (data_part)part, 0);
                cr_expect_eq(got.tokens, wanted);
                for (int i = 0; i < got.count; i++) kept += drawn[got.ranges[i].source].weight;
                for (int i = 0; i < got.count; i++) {
                    double share = (double)wanted * drawn[got.ranges[i].source].weight / kept;
                    cr_expect(fabs((double)got.ranges[i].count - share) < 1,
                              "device %d has %lld tokens, not %g", device, (long long)got.ranges[i].count,
                              share);
                    cr_expect(i == 0 || got.ranges[i - 1].source < got.ranges[i].source);
                }
                left_out += got.count < SOURCES;
                whole += got.count == SOURCES;
                free(got.ranges);
            }
        partition_close(p);
    }
    cr_expect(left_out > 20 && whole > 20, "%d and %d parts", left_out, whole);
}

/* A source is left out where its share is below a window and the token after it, and only there. */
Test(data_splits_text, a_source_below_a_window_is_left_out) {
    int left_out = 0, small = 0;
    used.dirichlet = 0.3;
    used.tokens_per_device.value = 60;
    partition *p = partition_of(&used, 400);
    for (int device = 0; device < 400; device++) {
        text_share drawn[SOURCES];
        part_text got = part_of(p, device, DATA_TRAIN);
        double most = 0;
        bool has[SOURCES] = {false};
        dirichlet_mixture(4, device, 0.3, SOURCES, drawn);
        for (int i = 0; i < got.count; i++) {
            cr_expect_gt(got.ranges[i].count, SEQUENCE);
            has[got.ranges[i].source] = true;
            small += got.ranges[i].count == SEQUENCE + 1;
        }
        for (int s = 0; s < SOURCES; s++)
            if (!has[s]) most = fmax(most, 60 * drawn[s].weight);
        cr_expect_lt(most, SEQUENCE + 1, "device %d lacks a source of which it should have %g tokens", device,
                     most);
        left_out += got.count < SOURCES;
        free(got.ranges);
    }
    cr_expect(left_out > 100 && small > 0, "%d devices lack a source, %d have just a window of one", left_out,
              small);
    partition_close(p);
}

/* Twelve devices of unequal stretches: nothing twice while the text lasts, and what is asked beyond it is
 * said. */
Test(data_splits_text, training_text_is_disjoint_while_it_lasts) {
    static char held[SOURCES * 10000];
    partition *p = partition_of(&used, DEVICES);
    for (int device = 0; device < DEVICES; device++) {
        part_text got = part_of(p, device, DATA_TRAIN);
        for (int i = 0; i < got.count; i++) {
            const text_range *r = &got.ranges[i];
            cr_expect_not(r->shared);
            cr_assert(r->first >= 0 && r->first + r->count <= TRAIN);
            for (int64_t j = r->first; j < r->first + r->count; j++) {
                cr_assert_not(held[r->source * 10000 + j], "device %d has token %lld of source %d again",
                              device, (long long)j, r->source);
                held[r->source * 10000 + j] = 1;
            }
        }
        free(got.ranges);
    }
    partition_close(p);
    used.tokens_per_device.value = 2500;
    p = partition_of(&used, DEVICES);
    int64_t asked[SOURCES] = {0};
    bool shared[SOURCES] = {false};
    for (int device = 0; device < DEVICES; device++) {
        part_text got = part_of(p, device, DATA_TRAIN);
        for (int i = 0; i < got.count; i++) {
            const text_range *r = &got.ranges[i];
            cr_expect(r->first >= 0 && r->first + r->count <= TRAIN);
            asked[r->source] += r->count;
            shared[r->source] = r->shared;
        }
        free(got.ranges);
    }
    for (int s = 0; s < SOURCES; s++)
        cr_expect_eq(shared[s], asked[s] > TRAIN, "source %d: %lld", s, (long long)asked[s]);
    cr_expect(shared[0] || shared[1] || shared[2]);
    partition_close(p);
}

/* Whether devices come in order, as a process with all of them has it, or one alone, as another process may.
 */
Test(data_splits_text, a_device_s_text_does_not_depend_on_who_asks) {
    partition *all = partition_of(&used, DEVICES);
    for (int device = DEVICES - 1; device >= 0; device -= 2)
        for (int part = 0; part < DATA_SPLITS; part++) {
            partition *alone = partition_of(&used, DEVICES);
            for (int before = 0; before < device && part == 0; before++)
                free(part_of(alone, before, DATA_TRAIN).ranges);
            part_text a = part_of(all, device, (data_part)part), b = part_of(alone, device, (data_part)part);
            cr_assert_eq(a.count, b.count);
            for (int i = 0; i < a.count; i++)
                cr_expect(a.ranges[i].first == b.ranges[i].first && a.ranges[i].count == b.ranges[i].count);
            free(a.ranges);
            free(b.ranges);
            partition_close(alone);
        }
    partition_close(all);
}

/* With 0 a device has as much as its mixture lets it: the whole of one source, and of all other sources what
 * goes with it. */
Test(data_splits_text, all_text_is_what_the_mixture_allows) {
    used.tokens_per_device.value = used.valid_tokens_per_device.value = used.test_tokens_per_device.value = 0;
    partition *p = partition_of(&used, 4);
    for (int device = 0; device < 4; device++)
        for (int part = 0; part < DATA_SPLITS; part++) {
            part_text got = part_of(p, device, (data_part)part);
            int exhausted = 0;
            for (int i = 0; i < got.count; i++) {
                int64_t held = shard_tokens(corpus_shard(text, got.ranges[i].source, (data_part)part)) /
                               (part == DATA_TRAIN ? 4 : 1);
                cr_expect_leq(got.ranges[i].count, held);
                exhausted += got.ranges[i].count >= held - 1; /* tokens are whole */
                cr_expect_not(got.ranges[i].shared);
            }
            cr_expect_geq(exhausted, 1, "device %d, part %d: no source is used up", device, part);
            free(got.ranges);
        }
    partition_close(p);
}

/* ---- Windows ---- */

typedef struct {
    int32_t tokens[SEQUENCE], targets[SEQUENCE];
} window;

/* Windows fall on sources as the device has positions of them, drawn and fixed ones. */
Test(data_splits_text, windows_fall_on_sources_by_their_share) {
    enum { DRAWN = 20000, FIXED = 64 };
    partition *p = partition_of(&used, DEVICES);
    for (int device = 0; device < 4; device++)
        for (int part = 0; part < DATA_SPLITS; part++) {
            part_text got = part_of(p, device, (data_part)part);
            device_data *data = NULL;
            window w;
            int drawn[SOURCES] = {0}, placed[SOURCES] = {0};
            data_window at;
            cr_assert_eq(device_data_open(p, device, false, &data, list), EXIT_OK);
            cr_expect_eq(device_data_source(data), -1);
            for (int i = 0; i < DRAWN; i++) {
                cr_assert_eq(device_data_sample(data, (data_part)part, (uint64_t)i, 1, SEQUENCE, &at, list),
                             EXIT_OK);
                cr_assert_eq(data_window_read(&at, w.tokens, w.targets, list), EXIT_OK);
                drawn[w.tokens[0] / 10000]++;
                cr_assert_eq(w.targets[SEQUENCE - 1], w.tokens[0] + SEQUENCE, "a window leaves its stretch");
            }
            for (int i = 0; i < FIXED; i++) {
                cr_assert_eq(device_data_fixed(data, (data_part)part, i, FIXED, SEQUENCE, &at, list),
                             EXIT_OK);
                cr_assert_eq(data_window_read(&at, w.tokens, w.targets, list), EXIT_OK);
                placed[w.tokens[0] / 10000]++;
                cr_assert_eq(w.targets[SEQUENCE - 1], w.tokens[0] + SEQUENCE,
                             "a fixed window leaves its stretch");
            }
            double positions = (double)(got.tokens - got.count * SEQUENCE);
            for (int i = 0; i < got.count; i++) {
                double share = (double)(got.ranges[i].count - SEQUENCE) / positions;
                int s = got.ranges[i].source;
                cr_expect_float_eq(drawn[s], share * DRAWN, 4 * sqrt(share * DRAWN) + 1,
                                   "source %d: %d of %g", s, drawn[s], share * DRAWN);
                cr_expect_float_eq(placed[s], share * FIXED, 1.01, "source %d: %d of %g", s, placed[s],
                                   share * FIXED);
            }
            device_data_close(data);
            free(got.ranges);
        }
    partition_close(p);
}

Test(data_splits_text, pooled_text_is_that_of_all_devices) {
    partition *p = partition_of(&used, DEVICES);
    device_data *pool = NULL;
    cr_assert_eq(device_data_open(p, 0, true, &pool, list), EXIT_OK);
    cr_expect_eq(device_data_source(pool), -1);
    cr_expect_eq(device_data_tokens(pool, DATA_TRAIN), DEVICES * 700);
    cr_expect_eq(device_data_tokens(pool, DATA_TEST), DEVICES * 300);
    device_data_close(pool);
    partition_close(p);
}

/* The bound of a mixture is that of its sources, by their shares of the test text. */
Test(data_splits_text, the_entropy_of_a_mixture_is_the_mean_of_its_sources) {
    data_settings d = data_settings_of("synthetic");
    d.sequence = SEQUENCE;
    d.tokens_per_device.value = 500;
    d.test_tokens_per_device.value = 4000;
    d.synthetic.topics = SOURCES;
    d.synthetic.vocabulary = 4; /* few states, so that topics differ */
    d.synthetic.branching = 3;
    d.synthetic.purity = 1;
    d.split = split_named("dirichlet");
    d.dirichlet = 1;
    corpus *c = NULL;
    partition *p = NULL;
    double different = 0;
    cr_assert_eq(corpus_open(&d, 64, &c, list), EXIT_OK);
    cr_assert_eq(partition_open(c, &d, 4, DEVICES, &p, list), EXIT_OK);
    for (int device = 0; device < DEVICES; device++) {
        text_share drawn[SOURCES];
        device_data *data = NULL;
        double expected = 0, uniform = 0;
        dirichlet_mixture(4, device, 1, SOURCES, drawn);
        for (int s = 0; s < SOURCES; s++) {
            expected += drawn[s].weight * corpus_entropy(c, s);
            uniform += corpus_entropy(c, s) / SOURCES;
        }
        cr_assert_eq(device_data_open(p, device, false, &data, list), EXIT_OK);
        cr_expect_float_eq(device_data_entropy(data), expected, 2e-3, "device %d: %g, not %g", device,
                           device_data_entropy(data), expected);
        different = fmax(different, fabs(expected - uniform));
        device_data_close(data);
    }
    cr_expect_gt(different, 0.02, "all mixtures have much the same entropy: nothing was tested");
    partition_close(p);
    corpus_close(c);
}

static void expect_refused(int devices, int tried, const char *message) {
    exit_code code = EXIT_OK;
    for (int device = 0; device < tried && code == EXIT_OK; device++) {
        device_data *data = NULL;
        code = data_open_device(text, &used, 4, device, devices, false, &data, list);
        device_data_close(data);
    }
    cr_expect_eq(code, EXIT_INPUT, "accepted; expected: %s", message);
    cr_expect_eq(problems_count(list), 1);
    cr_expect(data_says(list, message), "expected '%s', got '%s'", message,
              problems_count(list) ? problems_message(list, 0) : "nothing");
}

Test(data_splits_text, refuses_more_than_a_source_has) {
    used.dirichlet = 0.01;
    used.tokens_per_device.value = TRAIN + 1;
    expect_refused(4, 4, "takes 6001 tokens (data.tokens_per_device: 6001) from source ");
}

Test(data_splits_text, refuses_less_than_a_window) {
    used.tokens_per_device.value = 0;
    expect_refused(2 * TRAIN, 1, "fewer than a window (data.sequence: 8)");
}

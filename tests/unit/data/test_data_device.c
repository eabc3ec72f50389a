/* What a device sees: which stretch of which source, which windows of it. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/partition.h"
#include "data/synthetic.h"
#include "unit/data_files.h"

enum { TRAIN = 4000, VALID = 300, TEST = 200, SOURCES = 2, SEQUENCE = 8 };

static char *folder;
static problems *list;
static corpus *text;
static data_settings settings_used;

/* uint16 ids: source * 15000 + part * 5000 + position; so a token says where it is from. */
static void write_positions(int source, int part, int n) {
    static const char *const names[] = {"train", "valid", "test"};
    uint16_t *ids = malloc((size_t)n * sizeof *ids);
    char name[32];
    for (int i = 0; i < n; i++) ids[i] = (uint16_t)(source * 15000 + part * 5000 + i);
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
    settings_used = data_settings_of(folder);
    cr_assert_eq(corpus_open(&settings_used, 30000, &text, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
}

static void tear_down(void) {
    corpus_close(text);
    data_folder_remove(folder);
    problems_destroy(list);
}

TestSuite(data_device, .init = set_up, .fini = tear_down);

/* With the windows of the file, if the settings name one. */
static exit_code open_device(const data_settings *d, uint64_t seed, int device, int devices, bool pooled,
                             device_data **out) {
    bool wanted[2 * TRAIN] = {0};
    given_windows *given = NULL;
    wanted[device] = true;
    exit_code code = d->windows ? given_windows_read(d->windows, devices, wanted, &given, list) : EXIT_OK;
    if (code == EXIT_OK) code = data_open_device(text, d, seed, device, devices, pooled, out, list);
    if (code != EXIT_OK) cr_expect_null(*out);
    if (code == EXIT_OK && given) code = device_data_give_windows(*out, d->sequence, given, list);
    given_windows_destroy(given);
    return code;
}

static device_data *device_of(const data_settings *d, uint64_t seed, int device, int devices, bool pooled) {
    device_data *data = NULL;
    cr_assert_eq(open_device(d, seed, device, devices, pooled, &data), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
    return data;
}

typedef struct {
    int32_t tokens[SEQUENCE], targets[SEQUENCE];
    int64_t offset;
} window;

static window window_of(const data_window *at) {
    window w = {.offset = at->place};
    cr_assert_eq(at->tokens, SEQUENCE);
    cr_assert_eq(data_window_read(at, w.tokens, w.targets, list), EXIT_OK);
    return w;
}

static window sampled(const device_data *data, data_part part, uint64_t step, int index) {
    data_window at;
    cr_assert_eq(device_data_sample(data, part, step, index, SEQUENCE, &at, list), EXIT_OK);
    return window_of(&at);
}

static window fixed(const device_data *data, data_part part, int index, int count) {
    data_window at;
    cr_assert_eq(device_data_fixed(data, part, index, count, SEQUENCE, &at, list), EXIT_OK);
    return window_of(&at);
}

/* Lowest and highest id among many windows, targets included. */
static void extent(const device_data *data, data_part part, int32_t *low, int32_t *high) {
    *low = INT32_MAX;
    *high = -1;
    for (int i = 0; i < 20000; i++) {
        window w = sampled(data, part, (uint64_t)i, 0);
        if (w.tokens[0] < *low) *low = w.tokens[0];
        if (w.targets[SEQUENCE - 1] > *high) *high = w.targets[SEQUENCE - 1];
    }
}

Test(data_device, targets_are_the_next_tokens) {
    device_data *data = device_of(&settings_used, 1, 0, 2, false);
    for (int i = 0; i < 100; i++) {
        window w = i % 2 ? sampled(data, DATA_TRAIN, (uint64_t)i, 3) : fixed(data, DATA_TEST, i, 100);
        for (int j = 0; j < SEQUENCE; j++) {
            cr_expect_eq(w.targets[j], w.tokens[0] + j + 1);
            cr_expect_eq(w.tokens[j], w.tokens[0] + j);
        }
    }
    device_data_close(data);
}

Test(data_device, sources_go_round_and_the_parts_are_theirs) {
    for (int device = 0; device < 4; device++) {
        device_data *data = device_of(&settings_used, 1, device, 4, false);
        int source = device % 2;
        cr_expect_eq(device_data_source(data), source);
        cr_expect_eq(device_data_tokens(data, DATA_TRAIN), TRAIN / 2);
        cr_expect_eq(device_data_tokens(data, DATA_VALID), VALID + 100 * source);
        for (int part = 0; part < DATA_SPLITS; part++)
            cr_expect_eq(sampled(data, (data_part)part, 0, 0).tokens[0] / 5000, 3 * source + part,
                         "device %d, part %d", device, part);
        device_data_close(data);
    }
}

/* 2 sources, 3 holders of each: 1000 tokens exactly, side by side, nothing twice, each within reach. */
Test(data_device, training_stretches_are_exact_and_disjoint) {
    char held[2 * 15000] = {0};
    data_settings d = settings_used;
    d.tokens_per_device.value = 1000;
    for (int device = 0; device < 6; device++) {
        int32_t low, high;
        device_data *data = device_of(&d, 7, device, 6, false);
        cr_expect_eq(device_data_tokens(data, DATA_TRAIN), 1000);
        cr_expect_not(device_data_overlaps(data));
        extent(data, DATA_TRAIN, &low, &high);
        cr_expect_eq(high - low + 1, 1000, "device %d reaches %d tokens", device, high - low + 1);
        for (int i = low; i <= high; i++) {
            cr_expect_not(held[i], "token %d is held twice", i);
            held[i] = 1;
        }
        device_data_close(data);
    }
}

Test(data_device, seeds_deal_other_stretches_and_equal_seeds_the_same) {
    data_settings d = settings_used;
    int32_t low[3], high;
    d.tokens_per_device.value = 500;
    const uint64_t seeds[3] = {7, 7, 8};
    for (int i = 0; i < 3; i++) {
        device_data *data = device_of(&d, seeds[i], 1, 4, false);
        extent(data, DATA_TRAIN, &low[i], &high);
        device_data_close(data);
    }
    cr_expect_eq(low[0], low[1]);
    cr_expect_neq(low[0], low[2]);
}

Test(data_device, stretches_overlap_evenly_when_text_runs_out) {
    data_settings d = settings_used;
    d.tokens_per_device.value = 3000;
    int64_t first[3], sum = 0;
    rng_key key = {1, RNG_SHARED, RNG_PARTITION, 0};
    for (int slot = 0; slot < 3; slot++) sum += first[slot] = partition_first(TRAIN, 3000, slot, 3, &key);
    cr_expect_eq(sum, 0 + 500 + 1000);
    cr_expect(first[0] != first[1] && first[1] != first[2] && first[2] != first[0]);
    device_data *data = device_of(&d, 1, 0, 6, false);
    cr_expect(device_data_overlaps(data));
    cr_expect_eq(device_data_tokens(data, DATA_TRAIN), 3000);
    device_data_close(data);
}

Test(data_device, partition_stays_within_the_text) {
    for (uint64_t seed = 0; seed < 200; seed++)
        for (int slots = 1; slots < 6; slots++)
            for (int slot = 0; slot < slots; slot++)
                for (int64_t wanted = 1; wanted <= 10; wanted++) {
                    rng_key key = {seed, RNG_SHARED, RNG_PARTITION, 0};
                    int64_t first = partition_first(10, wanted, slot, slots, &key);
                    cr_assert(first >= 0 && first + wanted <= 10,
                              "seed %llu: %lld tokens at %lld of 10, slot %d of %d", (unsigned long long)seed,
                              (long long)wanted, (long long)first, slot, slots);
                }
}

/* Equal parts whatever the sources' lengths, drawn and fixed alike. */
Test(data_device, out_of_distribution_mixes_sources_equally) {
    data_settings d = settings_used;
    d.evaluation = OUT_OF_DISTRIBUTION;
    device_data *data = device_of(&d, 3, 1, 4, false);
    int drawn = 0, placed = 0;
    for (int i = 0; i < 4000; i++) drawn += sampled(data, DATA_VALID, (uint64_t)i, 0).tokens[0] >= 15000;
    for (int i = 0; i < 50; i++) placed += fixed(data, DATA_TEST, i, 50).tokens[0] >= 15000;
    cr_expect(drawn > 1850 && drawn < 2150, "%d of 4000 validation windows are of source 1", drawn);
    cr_expect_eq(placed, 25);
    cr_expect_eq(device_data_tokens(data, DATA_VALID), 2 * VALID + 100);
    for (int i = 0; i < 200; i++)
        cr_expect_eq(sampled(data, DATA_TRAIN, (uint64_t)i, 0).tokens[0] / 15000, 1,
                     "training text is mixed");
    device_data_close(data);
    d.valid_tokens_per_device.value = 101;
    data = device_of(&d, 3, 1, 4, false);
    cr_expect_eq(device_data_tokens(data, DATA_VALID), 101);
    device_data_close(data);
}

/* Every window of a device's training text can be drawn from the pooled one, and all devices weigh the same.
 */
Test(data_device, pooled_is_the_text_of_all_devices) {
    data_settings d = settings_used;
    d.tokens_per_device.value = 400;
    int counts[6] = {0};
    int32_t low[6], high[6];
    for (int device = 0; device < 6; device++) {
        device_data *data = device_of(&d, 9, device, 6, false);
        extent(data, DATA_TRAIN, &low[device], &high[device]);
        device_data_close(data);
    }
    device_data *pool = device_of(&d, 9, 0, 6, true);
    cr_expect_eq(device_data_source(pool), -1);
    cr_expect_eq(device_data_tokens(pool, DATA_TRAIN), 6 * 400);
    for (int i = 0; i < 12000; i++) {
        window w = sampled(pool, DATA_TRAIN, 0, i);
        int holder = -1;
        for (int device = 0; device < 6; device++)
            if (w.tokens[0] >= low[device] && w.targets[SEQUENCE - 1] <= high[device]) holder = device;
        cr_assert_geq(holder, 0, "a pooled window is no device's");
        cr_expect_eq(w.offset / 400, holder, "the offset %lld is not device %d's", (long long)w.offset,
                     holder);
        counts[holder]++;
    }
    for (int device = 0; device < 6; device++)
        cr_expect(counts[device] > 1800 && counts[device] < 2200, "device %d: %d", device, counts[device]);
    cr_expect_eq(device_data_tokens(pool, DATA_TEST), SOURCES * TEST);
    device_data_close(pool);
}

Test(data_device, windows_depend_on_every_part_of_their_key) {
    device_data *data = device_of(&settings_used, 5, 0, 1, false),
                *again = device_of(&settings_used, 5, 0, 1, false),
                *seed = device_of(&settings_used, 6, 0, 1, false);
    int same[4] = {0};
    for (int i = 0; i < 500; i++) {
        uint64_t step = (uint64_t)i;
        int64_t offset = sampled(data, DATA_TRAIN, step, 2).offset;
        cr_expect_eq(sampled(again, DATA_TRAIN, step, 2).offset, offset);
        same[0] += sampled(data, DATA_TRAIN, step + 1, 2).offset == offset;
        same[1] += sampled(data, DATA_TRAIN, step, 3).offset == offset;
        same[2] += sampled(seed, DATA_TRAIN, step, 2).offset == offset;
        same[3] += sampled(data, DATA_VALID, step, 2).offset == offset;
    }
    for (int i = 0; i < 4; i++)
        cr_expect_lt(same[i], 10, "case %d: %d of 500 windows are the same", i, same[i]);
    device_data_close(data);
    device_data_close(again);
    device_data_close(seed);
}

/* Where shares are equal: a stretch by draw 2 i, one of its positions by draw 2 i + 1; fixed windows go round
 * the stretches, and stand in the middle of equal parts of each. What a run drew is drawn again by every
 * later version. */
Test(data_device, windows_of_equal_shares_follow_their_formula) {
    enum { COUNT = 9 };
    data_settings d = settings_used;
    d.evaluation = OUT_OF_DISTRIBUTION;
    device_data *data = device_of(&d, 3, 1, 4, false);
    for (uint64_t step = 0; step < 20; step++)
        for (int i = 0; i < 5; i++) {
            rng_key train = {3, 1, RNG_TRAIN_WINDOWS, step}, valid = {3, 1, RNG_ROUTER_WINDOWS, step};
            int stretch = (int)rng_below(&valid, 2 * (uint64_t)i, SOURCES);
            uint64_t positions = (uint64_t)(VALID + 100 * stretch - SEQUENCE);
            int64_t expected = VALID * stretch + (int64_t)rng_below(&valid, 2 * (uint64_t)i + 1, positions);
            cr_expect_eq(sampled(data, DATA_VALID, step, i).offset, expected);
            expected = (int64_t)rng_below(&train, 2 * (uint64_t)i + 1, TRAIN / 2 - SEQUENCE);
            cr_expect_eq(sampled(data, DATA_TRAIN, step, i).offset, expected);
        }
    for (int i = 0; i < COUNT; i++) {
        int stretch = i % SOURCES, places = stretch == 0 ? 5 : 4;
        cr_expect_eq(fixed(data, DATA_TEST, i, COUNT).tokens[0],
                     stretch * 15000 + DATA_TEST * 5000 +
                         (TEST - SEQUENCE) * (2 * (i / SOURCES) + 1) / (2 * places));
    }
    device_data_close(data);
}

/* First and last position are drawn: an off-by-one would lose one or read beyond. */
Test(data_device, every_position_is_drawn) {
    data_settings d = settings_used;
    d.valid_tokens_per_device.value = SEQUENCE + 3;
    device_data *data = device_of(&d, 5, 0, 1, false);
    int counts[3] = {0};
    for (int i = 0; i < 3000; i++) {
        window w = sampled(data, DATA_VALID, 0, i);
        cr_assert(w.offset >= 0 && w.offset < 3, "offset %lld", (long long)w.offset);
        counts[w.offset]++;
    }
    for (int i = 0; i < 3; i++)
        cr_expect(counts[i] > 850 && counts[i] < 1150, "offset %d: %d of 3000", i, counts[i]);
    device_data_close(data);
}

Test(data_device, fixed_windows_are_spread_and_the_same_for_all) {
    data_settings d = settings_used;
    d.test_tokens_per_device.value = 100;
    device_data *data = device_of(&d, 5, 1, 4, false), *other = device_of(&d, 6, 3, 4, false);
    int32_t before = -1;
    for (int i = 0; i < 10; i++) {
        window w = fixed(data, DATA_TEST, i, 10);
        cr_expect_eq(w.tokens[0], fixed(other, DATA_TEST, i, 10).tokens[0],
                     "two devices of a source have other test windows");
        cr_expect(i == 0 || (w.tokens[0] - before >= 9 && w.tokens[0] - before <= 10),
                  "window %d is %d after the one before", i, w.tokens[0] - before);
        cr_expect(w.tokens[0] >= 25000 && w.targets[SEQUENCE - 1] < 25100, "window %d leaves the test text",
                  i);
        before = w.tokens[0];
    }
    device_data_close(data);
    device_data_close(other);
}

static void expect_refused(const data_settings *d, int device, int devices, const char *message) {
    device_data *data = NULL;
    cr_expect_eq(open_device(d, 1, device, devices, false, &data), EXIT_INPUT, "accepted; expected: %s",
                 message);
    device_data_close(data);
    cr_expect(data_says(list, message), "expected '%s', got '%s'", message,
              problems_count(list) ? problems_message(list, problems_count(list) - 1) : "nothing");
}

Test(data_device, refuses_too_much_and_too_little) {
    data_settings d = settings_used;
    d.tokens_per_device.value = TRAIN + 1;
    expect_refused(&d, 1, 2, "device 1 of 2: data.tokens_per_device asks for 4001 tokens, but source 1");
    d.tokens_per_device.value = SEQUENCE;
    expect_refused(&d, 0, 2, "device 0 of 2: holds 8 train token(s)");
    d.tokens_per_device.value = SEQUENCE + 1;
    device_data_close(device_of(&d, 1, 0, 2, false));
    d = settings_used;
    d.test_tokens_per_device.value = 5;
    expect_refused(&d, 0, 2, "holds 5 test token(s)");
    d = settings_used;
    expect_refused(&d, 0, 2 * TRAIN, "or fewer devices");
    d.evaluation = OUT_OF_DISTRIBUTION;
    d.valid_tokens_per_device.value = 1;
    expect_refused(&d, 0, 2, "holds 1 valid token(s) of source 0");
}

Test(data_device, synthetic_text_never_runs_out) {
    data_settings d = data_settings_of("synthetic");
    d.synthetic.topics = 2;
    d.synthetic.vocabulary = 64;
    d.synthetic.branching = 4;
    d.synthetic.purity = 1;
    d.tokens_per_device.value = 3 << 20;
    corpus *c = NULL;
    device_data *a = NULL, *b = NULL;
    cr_assert_eq(corpus_open(&d, 64, &c, list), EXIT_OK);
    cr_assert_eq(data_open_device(c, &d, 1, 0, 4, false, &a, list), EXIT_OK);
    cr_assert_eq(data_open_device(c, &d, 1, 2, 4, false, &b, list), EXIT_OK);
    cr_expect_eq(device_data_tokens(a, DATA_TRAIN), 3 << 20);
    cr_expect_not(device_data_overlaps(a));
    int32_t x[65], y[65], targets[65];
    data_window at;
    cr_assert_eq(device_data_fixed(a, DATA_TRAIN, 0, 1, 65, &at, list), EXIT_OK);
    cr_assert_eq(data_window_read(&at, x, targets, list), EXIT_OK);
    cr_assert_eq(device_data_fixed(b, DATA_TRAIN, 0, 1, 65, &at, list), EXIT_OK);
    cr_assert_eq(data_window_read(&at, y, targets, list), EXIT_OK);
    cr_expect_neq(memcmp(x, y, sizeof x), 0, "two devices of a topic have the same text");
    device_data_close(a);
    device_data_close(b);
    corpus_close(c);
}

static void write_windows(const char *lines) {
    static char path[4096];
    data_write(folder, "windows.csv", lines, strlen(lines));
    snprintf(path, sizeof path, "%s/windows.csv", folder);
    settings_used.windows = path;
}

/* Two steps of two windows of device 0, each in turn left out. */
Test(data_device, a_file_must_list_all_windows_that_are_required) {
    static const char *const lines[] = {"0,train,0,0,5\n", "0,train,0,1,6\n", "0,train,1,0,7\n",
                                        "0,train,1,1,8\n"};
    static const char *const expected[] = {"train, step 0, index 0;", "train, step 0, index 1;",
                                           "train, step 1, index 0;", "train, step 1, index 1;", NULL};
    for (int left_out = 0; left_out <= 4; left_out++) {
        char csv[256] = "device,part,step,index,offset\n1,train,0,0,1\n";
        for (int i = 0; i < 4; i++)
            if (i != left_out) strcat(csv, lines[i]);
        write_windows(csv);
        device_data *data = device_of(&settings_used, 1, 0, 2, false);
        exit_code code = device_data_require(data, DATA_TRAIN, 2, 2, list);
        cr_expect_eq(code, left_out < 4 ? EXIT_INPUT : EXIT_OK, "line %d left out", left_out);
        if (left_out < 4) cr_expect(data_says(list, expected[left_out]), "line %d left out", left_out);
        cr_expect_eq(device_data_require(data, DATA_VALID, 0, 2, list), EXIT_OK,
                     "nothing is required of valid");
        cr_expect_eq(device_data_require(data, DATA_VALID, 1, 1, list), EXIT_INPUT);
        device_data_close(data);
    }
    settings_used.windows = NULL;
    device_data *data = device_of(&settings_used, 1, 0, 2, false);
    cr_expect_eq(device_data_require(data, DATA_TRAIN, 1000, 1000, list), EXIT_OK,
                 "without a file all windows are drawn");
    device_data_close(data);
}

Test(data_device, a_file_replaces_the_windows_it_lists) {
    device_data *drawn = device_of(&settings_used, 1, 1, 2, false);
    write_windows(
        "device,part,step,index,offset\n1,train,4,0,77\n0,train,4,0,5\n1,valid,0,1,9\n1,train,0,3,3991\n");
    device_data *data = device_of(&settings_used, 1, 1, 2, false);
    cr_expect_eq(sampled(data, DATA_TRAIN, 4, 0).tokens[0], 15077);
    cr_expect_eq(sampled(data, DATA_TRAIN, 4, 0).offset, 77);
    cr_expect_eq(sampled(data, DATA_VALID, 0, 1).tokens[0], 20009);
    cr_expect_eq(sampled(data, DATA_TRAIN, 0, 3).targets[SEQUENCE - 1], 18999);
    cr_expect_eq(sampled(data, DATA_TRAIN, 4, 1).offset, sampled(drawn, DATA_TRAIN, 4, 1).offset);
    device_data_close(data);
    device_data_close(drawn);
}

/* What editors and spreadsheets leave: a byte order mark, other ends of lines, blank lines, no last end. */
Test(data_device, a_mark_and_blank_lines_in_a_window_file_say_nothing) {
    static const char *const files[] = {"\xEF\xBB\xBF"
                                        "device,part,step,index,offset\n1,train,4,0,77\n",
                                        "device,part,step,index,offset\n1,train,4,0,77\n\n",
                                        "device,part,step,index,offset\n\n1,train,4,0,77\n \t\n\n",
                                        "\xEF\xBB\xBF"
                                        "device,part,step,index,offset\r\n1,train,4,0,77\r\n\r\n",
                                        "device,part,step,index,offset\n1,train,4,0,77"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        write_windows(files[i]);
        device_data *data = device_of(&settings_used, 1, 1, 2, false);
        cr_expect_eq(sampled(data, DATA_TRAIN, 4, 0).offset, 77, "file %zu", i);
        device_data_close(data);
    }
    write_windows("device,part,step,index,offset\n\n0,train,1,0,7 x\n");
    expect_refused(&settings_used, 0, 2, "windows.csv:3: is not a window");
    write_windows("device,part,step,index,offset\n"
                  "\xEF\xBB\xBF"
                  "0,train,1,0,7\n");
    expect_refused(&settings_used, 0, 2, "windows.csv:2: is not a window");
}

/* One pass for all: each device has its own lines, and those of other devices are passed over. */
Test(data_device, a_window_file_is_read_once_for_all_devices) {
    enum { DEVICES = 6 };
    const bool wanted[DEVICES] = {true, false, true, true, false, true};
    char csv[1024] = "device,part,step,index,offset\n";
    given_windows *given = NULL;
    for (int step = 2; step >= 0; step--)
        for (int i = 0; i < DEVICES; i++)
            snprintf(csv + strlen(csv), sizeof csv - strlen(csv), "%d,train,%d,0,%d\n", i, step,
                     10 * i + step);
    write_windows(csv);
    cr_assert_eq(given_windows_read(settings_used.windows, DEVICES, wanted, &given, list), EXIT_OK);
    unlink(settings_used.windows);
    for (int i = 0; i < DEVICES; i++) {
        device_data *data = NULL;
        cr_assert_eq(data_open_device(text, &settings_used, 1, i, DEVICES, false, &data, list), EXIT_OK);
        cr_assert_eq(device_data_give_windows(data, SEQUENCE, given, list), EXIT_OK);
        cr_expect_eq(device_data_require(data, DATA_TRAIN, 3, 1, list), wanted[i] ? EXIT_OK : EXIT_INPUT,
                     "device %d", i);
        for (int step = 0; wanted[i] && step < 3; step++)
            cr_expect_eq(sampled(data, DATA_TRAIN, (uint64_t)step, 0).offset, 10 * i + step, "device %d", i);
        device_data_close(data);
    }
    given_windows_destroy(given);
}

Test(data_device, refuses_bad_window_files) {
    write_windows("step,index\n");
    expect_refused(&settings_used, 0, 2,
                   "windows.csv:1: the first line must be device,part,step,index,offset");
    write_windows("device,part,step,index,offset\n0,train,1,0,3992\n");
    expect_refused(&settings_used, 0, 2, "windows.csv:2: a window of 8 tokens");
    write_windows("device,part,step,index,offset\n0,train,1,0,99999999\n");
    expect_refused(&settings_used, 0, 2, "windows.csv:2: a window of 8 tokens");
    write_windows("device,part,step,index,offset\n0,test,1,0,0\n");
    expect_refused(&settings_used, 0, 2, "windows.csv:2: is not a window");
    write_windows("device,part,step,index,offset\n0,train,1,0,-1\n");
    expect_refused(&settings_used, 0, 2, "windows.csv:2: is not a window");
    static const char *const numbers[] = {"0,train,-1,0,7",         "0,train,1,-1,7",
                                          "-1,train,1,0,7",         "0,train,1,0,1e23",
                                          "0,train,1,0,+7",         "0,train,99999999999999999999,0,7",
                                          "4294967296,train,1,0,7", "0,train,1,4294967296,7"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char lines[128];
        snprintf(lines, sizeof lines, "device,part,step,index,offset\n%s\n", numbers[i]);
        write_windows(lines);
        expect_refused(&settings_used, 0, 2, "windows.csv:2: is not a window");
    }
    write_windows("device,part,step,index,offset\n1,train,1,0,7\n2,train,1,0,7\n");
    expect_refused(&settings_used, 0, 2, "windows.csv:3: device 2 is not there; the population has 2");
    write_windows("device,part,step,index,offset\n0,train,1,0,7 x\n");
    expect_refused(&settings_used, 0, 2, "windows.csv:2: is not a window");
    write_windows("device,part,step,index,offset\n0,train,1,0,7\n0,train,2,0,7\n0,train,1,0,8\n");
    expect_refused(&settings_used, 0, 2, "windows.csv:4: the window of line 2 again");
    settings_used.windows = (char *)(uintptr_t) "/no/such/windows.csv";
    expect_refused(&settings_used, 0, 2, "/no/such/windows.csv");
}

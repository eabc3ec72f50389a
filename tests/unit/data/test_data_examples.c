/* Shards of examples: the format byte by byte, which targets count, and what a device holds and draws. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "data/corpus.h"
#include "data/examples.h"
#include "data/partition.h"
#include "unit/data_files.h"

static char *folder;
static problems *list;

static void set_up(void) {
    folder = data_folder();
    list = problems_create();
}

static void tear_down(void) {
    data_folder_remove(folder);
    problems_destroy(list);
}

TestSuite(data_examples, .init = set_up, .fini = tear_down);

/* ---- The format ---- */

/* Two examples, by hand: prompt 7 8 9, response 1 2 (line 4); prompt 5, response 6 (line 2). */
typedef struct __attribute__((packed)) {
    char magic[8];
    uint32_t version, width;
    int64_t examples, tokens;
    uint64_t checksum;
    struct __attribute__((packed)) {
        int64_t first;
        int32_t prompt, tokens;
        int64_t line;
    } records[2];
    uint16_t ids[7];
} two_examples;

static two_examples by_hand(void) {
    return (two_examples){.magic = {'C', 'O', 'H', 'O', 'R', 'T', 'E', 'X'},
                          .version = 1,
                          .width = 2,
                          .examples = 2,
                          .tokens = 7,
                          .records = {{0, 3, 5, 4}, {5, 1, 2, 2}},
                          .ids = {7, 8, 9, 1, 2, 5, 6}};
}

/* With its checksum: XXH3 of what stands before and behind it. */
static void seal(two_examples *file) {
    char bytes[sizeof *file];
    size_t before = offsetof(two_examples, checksum), behind = before + sizeof file->checksum;
    memcpy(bytes, file, before);
    memcpy(bytes + before, (const char *)file + behind, sizeof *file - behind);
    file->checksum = XXH3_64bits(bytes, sizeof *file - sizeof file->checksum);
}

static exit_code open_bytes(const void *bytes, size_t size, int vocabulary, shard **out) {
    data_write(folder, "shard.bin", bytes, size);
    return shard_open(data_path(folder, "shard.bin"), vocabulary, out, list);
}

Test(data_examples, is_written_byte_by_byte_as_the_header_says) {
    two_examples expected = by_hand(), found;
    const uint32_t ids[] = {7, 8, 9, 1, 2, 5, 6};
    examples_writer w;
    seal(&expected);
    FILE *file = fopen(data_path(folder, "written.bin"), "wb");
    cr_assert_eq(examples_begin(&w, file, 2, 7, 2), 0);
    cr_assert_eq(examples_put_record(&w, 3, 5, 4), 0);
    cr_assert_eq(examples_put_record(&w, 1, 2, 2), 0);
    cr_assert_eq(examples_put_tokens(&w, ids, 7), 0);
    cr_assert_eq(examples_end(&w), 0);
    fclose(file);
    file = fopen(data_path(folder, "written.bin"), "rb");
    cr_assert_eq(fread(&found, 1, sizeof found, file), sizeof found);
    cr_expect_eq(fgetc(file), EOF);
    fclose(file);
    cr_expect_arr_eq((char *)&found, (char *)&expected, sizeof found);
}

Test(data_examples, are_read_back) {
    two_examples file = by_hand();
    shard *s = NULL;
    example e;
    int64_t before;
    seal(&file);
    cr_assert_eq(open_bytes(&file, sizeof file, 256, &s), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
    cr_expect_eq(shard_examples(s), 2);
    cr_expect_eq(shard_tokens(s), 7);
    cr_assert_eq(shard_example(s, 0, &e, list), EXIT_OK);
    cr_expect(e.first == 0 && e.prompt == 3 && e.tokens == 5 && e.line == 4);
    cr_assert_eq(shard_example(s, 1, &e, list), EXIT_OK);
    cr_expect(e.first == 5 && e.prompt == 1 && e.tokens == 2 && e.line == 2);
    const int64_t expected[] = {0, 1, 1, 1, 1, 1, 2, 2};
    for (int64_t position = 0; position < 8; position++) {
        cr_assert_eq(shard_examples_before(s, position, &before, list), EXIT_OK);
        cr_expect_eq(before, expected[position], "before token %lld: %lld", (long long)position,
                     (long long)before);
    }
    shard_close(s);
}

typedef struct {
    const char *name;
    void (*damage)(two_examples *file);
    bool sealed;  /* its checksum is right */
    size_t bytes; /* of the file, where it is cut; 0: all */
    const char *message;
} damage_case;

static void nothing(two_examples *f) {
    (void)f;
}
static void version(two_examples *f) {
    f->version = 2;
}
static void width(two_examples *f) {
    f->width = 3;
}
static void many(two_examples *f) {
    f->examples = INT64_MAX / 24 + 2;
}
static void none(two_examples *f) {
    f->examples = 0;
}
static void tokens(two_examples *f) {
    f->tokens = -7;
}
static void id(two_examples *f) {
    f->ids[3] = 11;
}
static void large_id(two_examples *f) {
    f->ids[3] = 256;
}
static void gap(two_examples *f) {
    f->records[1].first = 6;
}
static void beyond(two_examples *f) {
    f->records[1].tokens = 3;
}
static void no_prompt(two_examples *f) {
    f->records[1].prompt = 0;
}
static void no_response(two_examples *f) {
    f->records[1].prompt = 2;
}
static void short_(two_examples *f) {
    f->records[0].tokens = 4, f->records[1].first = 4;
}

Test(data_examples, damaged_files_are_refused_by_name) {
    static const damage_case cases[] = {
        {"cut header", nothing, true, 39, "has no whole header"},
        {"cut records", nothing, true, 60, "truncated"},
        {"cut tokens", nothing, true, sizeof(two_examples) - 2, "truncated"},
        {"version", version, true, 0, "of version 2; version 1 is known"},
        {"width", width, true, 0, "tokens of 3 bytes"},
        {"many", many, true, 0, "announces"},
        {"none", none, true, 0, "announces 0 examples"},
        {"tokens", tokens, true, 0, "with -7 tokens"},
        {"checksum", id, false, 0, "does not match its checksum"},
        {"id", large_id, true, 0, "token 3 is 256, but ids must be below the vocabulary of 256"},
        {"gap", gap, true, 0, "example 1 is said to begin at token 6"},
        {"beyond", beyond, true, 0, "example 1 is said"},
        {"no prompt", no_prompt, true, 0, "a prompt of 0 tokens and 2 in all"},
        {"no response", no_response, true, 0, "a prompt of 2 tokens and 2 in all"},
        {"short", short_, true, 0, "its examples have 6 tokens, but there are 7"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        two_examples file = by_hand();
        shard *s = NULL;
        if (!cases[i].sealed) seal(&file);
        cases[i].damage(&file);
        if (cases[i].sealed) seal(&file);
        cr_expect_eq(open_bytes(&file, cases[i].bytes ? cases[i].bytes : sizeof file, 256, &s), EXIT_INPUT,
                     "%s", cases[i].name);
        cr_expect_null(s);
        int last = problems_count(list) - 1;
        cr_assert_eq(last, (int)i, "%s: %d messages", cases[i].name, last + 1);
        cr_expect(strstr(problems_message(list, last), cases[i].message) != NULL &&
                      strstr(problems_message(list, last), "shard.bin") != NULL,
                  "%s: %s", cases[i].name, problems_message(list, last));
    }
}

Test(data_examples, a_record_that_changes_under_a_run_is_an_error_of_the_run) {
    two_examples file = by_hand();
    shard *s = NULL;
    example e;
    seal(&file);
    cr_assert_eq(open_bytes(&file, sizeof file, 256, &s), EXIT_OK);
    file.records[1].tokens = 9;
    data_write(folder, "shard.bin", &file, sizeof file);
    cr_expect_eq(shard_example(s, 1, &e, list), EXIT_RUN);
    cr_expect(data_says(list, "the record of example 1 has changed"));
    shard_close(s);
}

/* ---- Windows ---- */

Test(data_examples, targets_of_the_prompt_do_not_count) {
    two_examples file = by_hand();
    shard *s = NULL;
    seal(&file);
    cr_assert_eq(open_bytes(&file, sizeof file, 256, &s), EXIT_OK);
    const data_window windows[] = {{.text = s, .first = 0, .tokens = 4, .skipped = 2},
                                   {.text = s, .first = 5, .tokens = 1, .skipped = 0}};
    int32_t ids[4], targets[4];
    cr_assert_eq(data_window_read(&windows[0], ids, targets, list), EXIT_OK);
    cr_expect_arr_eq(ids, ((int32_t[]){7, 8, 9, 1}), sizeof ids);
    cr_expect_arr_eq(targets, ((int32_t[]){-1, -1, 1, 2}), sizeof targets);
    cr_assert_eq(data_window_read(&windows[1], ids, targets, list), EXIT_OK);
    cr_expect(ids[0] == 5 && targets[0] == 6);
    shard_close(s);
}

/* Example i of `n` has a prompt of 1 + i % 3 tokens and a response of 1 + i % 4, each token `base` + i; lines
 * count down to 10. */
static int64_t tokens_of(int i) {
    return 2 + i % 3 + i % 4;
}

static void write_examples(const char *name, int n, int base) {
    examples_writer w;
    int64_t all = 0;
    for (int i = 0; i < n; i++) all += tokens_of(i);
    FILE *file = fopen(data_path(folder, name), "wb");
    cr_assert_eq(examples_begin(&w, file, n, all, 2), 0);
    for (int i = 0; i < n; i++)
        cr_assert_eq(examples_put_record(&w, 1 + i % 3, (int32_t)tokens_of(i), 10 + n - 1 - i), 0);
    for (int i = 0; i < n; i++)
        for (int64_t t = 0; t < tokens_of(i); t++)
            cr_assert_eq(examples_put_tokens(&w, &(uint32_t){(uint32_t)(base + i)}, 1), 0);
    cr_assert_eq(examples_end(&w), 0);
    fclose(file);
}

enum { TRAIN = 120, VALID = 12, TEST = 24 }; /* examples of a source; 12 have 54 tokens */

static corpus *two_sources(const data_settings *d) {
    corpus *c = NULL;
    for (int source = 0; source < 2; source++) {
        char name[32];
        int base = 1000 * source;
        snprintf(name, sizeof name, "train_%d.bin", source);
        write_examples(name, TRAIN, base);
        snprintf(name, sizeof name, "valid_%d.bin", source);
        write_examples(name, VALID * (source + 1), base + 300);
        snprintf(name, sizeof name, "test_%d.bin", source);
        write_examples(name, TEST, base + 500);
    }
    cr_assert_eq(corpus_open(d, 2000, &c, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
    return c;
}

static device_data *device_of(const corpus *c, const data_settings *d, int device, int devices, bool pooled) {
    device_data *data = NULL;
    cr_assert_eq(data_open_device(c, d, 3, device, devices, pooled, &data, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, problems_count(list) - 1) : "");
    return data;
}

/* Its number among the examples of its shard. */
static int drawn(const device_data *data, data_part part, uint64_t step, int base) {
    data_window at;
    int32_t ids[8], targets[8];
    cr_assert_eq(device_data_sample(data, part, step, 0, 8, &at, list), EXIT_OK);
    cr_assert_eq(data_window_read(&at, ids, targets, list), EXIT_OK);
    int i = ids[0] - base;
    cr_assert_eq(at.tokens, tokens_of(i) - 1, "example %d", i);
    cr_assert_eq(at.skipped, i % 3, "example %d", i);
    for (int t = 0; t < at.tokens; t++) {
        cr_assert_eq(ids[t], base + i);
        cr_assert_eq(targets[t], t < i % 3 ? -1 : base + i, "example %d, target %d", i, t);
    }
    return i;
}

Test(data_examples, devices_have_whole_examples_and_no_two_the_same) {
    data_settings d = data_settings_of(folder);
    corpus *c = two_sources(&d);
    int holders[2][TRAIN] = {{0}};
    int64_t tokens = 0;
    for (int device = 0; device < 6; device++) {
        device_data *data = device_of(c, &d, device, 6, false);
        int seen[TRAIN] = {0}, distinct = 0;
        for (uint64_t step = 0; step < 2000; step++)
            seen[drawn(data, DATA_TRAIN, step, 1000 * (device % 2))] = 1;
        for (int i = 0; i < TRAIN; i++) distinct += seen[i], holders[device % 2][i] += seen[i];
        cr_expect_eq(distinct, device_data_examples(data, DATA_TRAIN), "device %d draws %d of %lld", device,
                     distinct, (long long)device_data_examples(data, DATA_TRAIN));
        tokens += device_data_tokens(data, DATA_TRAIN);
        device_data_close(data);
    }
    int held = 0;
    for (int i = 0; i < TRAIN; i++) {
        cr_expect(holders[0][i] <= 1 && holders[1][i] <= 1, "example %d: %d and %d devices", i, holders[0][i],
                  holders[1][i]);
        held += holders[0][i] + holders[1][i];
    }
    cr_expect_geq(held, 2 * TRAIN - 2);
    cr_expect_geq(tokens, 2 * 540 - 2 * 7);
    corpus_close(c);
}

/* All examples alike: Pearson's statistic of 120 draws a class on average, 119 degrees of freedom. */
Test(data_examples, draws_are_uniform_over_examples_whatever_their_lengths) {
    data_settings d = data_settings_of(folder);
    corpus *c = two_sources(&d);
    device_data *data = device_of(c, &d, 0, 2, false);
    int counts[TRAIN] = {0};
    double chi2 = 0;
    for (uint64_t step = 0; step < 120 * TRAIN; step++) counts[drawn(data, DATA_TRAIN, step, 0)]++;
    for (int i = 0; i < TRAIN; i++) chi2 += (counts[i] - 120.0) * (counts[i] - 120.0) / 120.0;
    cr_expect_lt(chi2, 119 + 4 * sqrt(2 * 119.0), "chi squared %f", chi2);
    device_data_close(data);
    corpus_close(c);
}

Test(data_examples, evaluation_takes_each_example_once) {
    data_settings d = data_settings_of(folder);
    corpus *c = two_sources(&d);
    device_data *data = device_of(c, &d, 0, 2, false), *pooled = device_of(c, &d, 0, 2, true);
    cr_expect_eq(device_data_fixed_count(data, DATA_TEST, 64), TEST);
    cr_expect_eq(device_data_fixed_count(data, DATA_TEST, 5), 5);
    cr_expect_eq(device_data_fixed_count(pooled, DATA_TEST, 64), 2 * TEST);
    /* sources weigh the same: as many of the second as the first has */
    cr_expect_eq(device_data_fixed_count(pooled, DATA_VALID, 64), 2 * VALID);
    int seen[TEST] = {0};
    data_window at;
    for (int i = 0; i < TEST; i++) {
        cr_assert_eq(device_data_fixed(data, DATA_TEST, i, TEST, 8, &at, list), EXIT_OK);
        seen[at.place]++;
    }
    for (int i = 0; i < TEST; i++) cr_expect_eq(seen[i], 1, "example %d: %d times", i, seen[i]);
    device_data_close(data);
    device_data_close(pooled);
    corpus_close(c);
}

Test(data_examples, a_device_can_have_a_number_of_examples) {
    data_settings d = data_settings_of(folder);
    d.examples_per_device.value = 17;
    corpus *c = two_sources(&d);
    device_data *data = device_of(c, &d, 1, 2, false), *pooled = device_of(c, &d, 0, 2, true);
    cr_expect_eq(device_data_examples(data, DATA_TRAIN), 17);
    cr_expect_eq(device_data_examples(pooled, DATA_TRAIN), 34);
    int64_t tokens = 0;
    for (int i = 0; i < 17; i++) tokens += tokens_of(i);
    cr_expect_eq(device_data_tokens(data, DATA_TRAIN), tokens);
    cr_expect_eq(device_data_examples(data, DATA_VALID), 2 * VALID);
    device_data_close(data);
    device_data_close(pooled);
    int64_t each[] = {5, 0};
    d.examples_per_device = (per_device){.value = 5, .n = 2, .list = each};
    data = device_of(c, &d, 0, 2, false), pooled = device_of(c, &d, 0, 2, true);
    cr_expect_eq(device_data_examples(data, DATA_TRAIN), 5);
    cr_expect_eq(device_data_examples(pooled, DATA_TRAIN), 5 + TRAIN, "0: all of them");
    device_data_close(data);
    device_data_close(pooled);
    d.examples_per_device = (per_device){.value = 17};
    d.split = split_named("dirichlet");
    d.dirichlet = 1;
    d.tokens_per_device.value = 400;
    data = device_of(c, &d, 1, 2, false);
    cr_expect_eq(device_data_examples(data, DATA_TRAIN), 17);
    device_data_close(data);
    d.examples_per_device.value = 121;
    d.split = split_named("natural");
    cr_expect_eq(data_open_device(c, &d, 3, 0, 2, false, &data, list), EXIT_INPUT);
    cr_expect(data_says(list, "asks for 121 training examples, but there are 8"), "%s",
              problems_message(list, 0));
    corpus_close(c);
}

/* The longest example has 7 tokens, the longest prompt 3. */
Test(data_examples, examples_longer_than_a_window_are_refused_or_cut) {
    data_settings d = data_settings_of(folder);
    corpus *c = two_sources(&d);
    d.sequence = 6;
    cr_expect_eq(corpus_check_examples(c, &d, list), EXIT_OK);
    d.sequence = 5;
    cr_expect_eq(corpus_check_examples(c, &d, list), EXIT_INPUT);
    /* those with i % 12 = 11 have 7 tokens: 10 of train twice, 1 and 2 of valid, 2 of test twice */
    cr_expect(
        data_says(list,
                  "27 of its 324 examples have more than 6 tokens (first of source 0, train: lines 10, 22, "
                  "34); the longest has 7: write data.sequence: 6"),
        "%s", problems_message(list, 0));
    d.truncate = 1;
    cr_expect_eq(corpus_check_examples(c, &d, list), EXIT_OK);
    device_data *data = device_of(c, &d, 0, 2, false);
    data_window at;
    for (uint64_t step = 0; step < 300; step++) {
        cr_assert_eq(device_data_sample(data, DATA_TRAIN, step, 0, 5, &at, list), EXIT_OK);
        cr_expect_leq(at.tokens, 5);
        cr_expect_lt(at.skipped, at.tokens);
    }
    device_data_close(data);
    d.sequence = 2;
    cr_expect_eq(corpus_check_examples(c, &d, list), EXIT_INPUT);
    cr_expect(data_says(list, "have a prompt of more than 2 tokens"), "%s", problems_message(list, 1));
    cr_expect(data_says(list, "the longest prompt has 3"));
    corpus_close(c);
}

/* Line 3 of the file is example 120 of device 0, which has 120. */
Test(data_examples, given_windows_name_examples) {
    static const char csv[] = "device,part,step,index,offset\n0,train,0,0,119\n0,valid,0,0,0\n";
    static const char bad[] = "device,part,step,index,offset\n0,train,0,0,119\n0,train,1,0,120\n";
    data_settings d = data_settings_of(folder);
    corpus *c = two_sources(&d);
    const char *const contents[] = {csv, bad};
    for (int i = 0; i < 2; i++) {
        given_windows *given = NULL;
        device_data *data = device_of(c, &d, 0, 2, false);
        data_write(folder, "windows.csv", contents[i], strlen(contents[i]));
        const char *path = data_path(folder, "windows.csv");
        cr_assert_eq(given_windows_read(path, 2, (bool[]){true, true}, &given, list), EXIT_OK);
        cr_expect_eq(device_data_give_windows(data, 8, given, list), i == 0 ? EXIT_OK : EXIT_INPUT);
        if (i == 0) cr_expect_eq(drawn(data, DATA_TRAIN, 0, 0), 119);
        given_windows_destroy(given);
        device_data_close(data);
    }
    cr_expect(data_says(list, "windows.csv:3: there is no example 120 of device 0, which has 120 to train"));
    corpus_close(c);
}

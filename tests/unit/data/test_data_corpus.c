/* Folders of shards: names, gaps, and what a user is told when there is none. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "unit/data_files.h"

static char *folder;
static problems *list;

static void write_sources(int n) {
    for (int i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "train_%d.bin", i);
        data_write_shard(folder, name, 10 * i, 100 + i);
        snprintf(name, sizeof name, "valid_%d.bin", i);
        data_write_shard(folder, name, 10 * i + 1, 50);
        snprintf(name, sizeof name, "test_%d.bin", i);
        data_write_shard(folder, name, 10 * i + 2, 40);
    }
}

static void set_up(void) {
    folder = data_folder();
    list = problems_create();
    write_sources(2);
}

static void tear_down(void) {
    data_folder_remove(folder);
    problems_destroy(list);
}

TestSuite(data_corpus, .init = set_up, .fini = tear_down);

static corpus *opened(const char *path) {
    data_settings d = data_settings_of(path);
    corpus *c = NULL;
    cr_assert_eq(corpus_open(&d, 256, &c, list), EXIT_OK, "refused: %s",
                 problems_count(list) ? problems_message(list, 0) : "");
    return c;
}

static void expect_refused(const char *path, const char *message) {
    data_settings d = data_settings_of(path);
    corpus *c = NULL;
    cr_expect_eq(corpus_open(&d, 256, &c, list), EXIT_INPUT);
    cr_expect_null(c);
    cr_expect(data_says(list, message), "expected '%s', got '%s'", message,
              problems_count(list) ? problems_message(list, 0) : "nothing");
}

Test(data_corpus, opens_all_shards_of_a_folder) {
    corpus *c = opened(folder);
    int32_t id;
    cr_expect_eq(corpus_sources(c), 2);
    cr_expect_str_eq(corpus_source_name(c, 1), "1");
    cr_expect_eq(shard_tokens(corpus_shard(c, 1, DATA_TRAIN)), 101);
    cr_expect_eq(shard_tokens(corpus_shard(c, 0, DATA_VALID)), 50);
    cr_assert_eq(shard_read(corpus_shard(c, 1, DATA_TEST), 0, 1, &id, list), EXIT_OK);
    cr_expect_eq(id, 12);
    cr_expect(isnan(corpus_entropy(c, 0)));
    corpus_close(c);
}

Test(data_corpus, takes_names_from_sources_json) {
    const char good[] = "{\"sources\": [{\"name\": \"de\"}, {\"name\": \"fr\"}]}";
    data_write(folder, "sources.json", good, sizeof good - 1);
    corpus *c = opened(folder);
    cr_expect_str_eq(corpus_source_name(c, 0), "de");
    cr_expect_str_eq(corpus_source_name(c, 1), "fr");
    corpus_close(c);
}

Test(data_corpus, refuses_bad_sources_json) {
    const char broken[] = "{\n\"sources\": [",
               three[] = "{\"sources\": [{\"name\": \"a\"}, {\"name\": \"b\"}, {\"name\": \"c\"}]}",
               nameless[] = "{\"sources\": [{\"name\": \"a\"}, {}]}", empty[] = "{}";
    data_write(folder, "sources.json", broken, sizeof broken - 1);
    expect_refused(folder, "sources.json:2");
    data_write(folder, "sources.json", three, sizeof three - 1);
    expect_refused(folder, "lists 3 source(s), but there are shards for 2");
    data_write(folder, "sources.json", nameless, sizeof nameless - 1);
    expect_refused(folder, "sources[1] has no \"name\"");
    data_write(folder, "sources.json", empty, sizeof empty - 1);
    expect_refused(folder, "has no list \"sources\"");
}

Test(data_corpus, names_every_missing_shard) {
    data_write_shard(folder, "train_3.bin", 0, 100);
    unlink(data_path(folder, "valid_0.bin"));
    expect_refused(folder, "valid_0.bin: is missing");
    cr_expect(data_says(list, "has train_3.bin, but no shards numbered 2;"),
              "a gap in the numbers is not named");
    cr_expect(data_says(list, "test_3.bin: is missing"));
    cr_expect(!data_says(list, "train_3.bin: is missing"));
}

Test(data_corpus, numbers_may_be_padded_and_have_any_number_of_digits) {
    static const char *const names[] = {"train_00000.bin", "valid_000.bin", "test_0.bin", "train_1.bin",
                                        "valid_00000000000000000000000001.bin"};
    char *padded = data_folder(), last[32];
    for (int i = 0; i < 5; i++) data_write_shard(padded, names[i], i, 40 + i);
    data_write_shard(padded, "test_00001.bin", 0, 45);
    corpus *c = opened(padded);
    cr_expect_eq(corpus_sources(c), 2);
    for (int i = 0; i < 5; i++)
        cr_expect_eq(shard_tokens(corpus_shard(c, i / 3, i % 3)), 40 + i, "%s", names[i]);
    corpus_close(c);
    for (int i = 2; i < 1000; i++)
        for (int part = 0; part < DATA_SPLITS; part++) {
            snprintf(last, sizeof last, "%s_%06d.bin", part == 0 ? "train" : part == 1 ? "valid" : "test", i);
            data_write_shard(padded, last, 0, 40);
        }
    c = opened(padded);
    cr_expect_eq(corpus_sources(c), 1000);
    corpus_close(c);
    data_folder_remove(padded);
}

Test(data_corpus, refuses_numbers_that_are_too_large_or_taken) {
    data_write_shard(folder, "train_00000000016777216.bin", 0, 100);
    data_write_shard(folder, "train_99999999999999999999999.bin", 0, 100);
    expect_refused(folder, "train_00000000016777216.bin: the number is too large");
    cr_expect(data_says(list, "train_99999999999999999999999.bin: the number is too large"));
    unlink(data_path(folder, "train_00000000016777216.bin"));
    unlink(data_path(folder, "train_99999999999999999999999.bin"));
    data_write_shard(folder, "train_16777215.bin", 0, 100);
    expect_refused(folder, "has train_16777215.bin, but no shards numbered 2 to 16777214");
    unlink(data_path(folder, "train_16777215.bin"));
    data_write_shard(folder, "train_01.bin", 0, 100);
    expect_refused(folder, "train_1.bin: has the number of ");
}

Test(data_corpus, ignores_other_files) {
    data_write_shard(folder, "train_7.bin.old", 0, 100);
    data_write_shard(folder, "notes_9.bin", 0, 100);
    data_write_shard(folder, "train_.bin", 0, 100);
    corpus *c = opened(folder);
    cr_expect_eq(corpus_sources(c), 2);
    corpus_close(c);
}

Test(data_corpus, says_what_makes_a_corpus) {
    char *empty = data_folder();
    expect_refused(empty, "holds no shards");
    cr_assert_eq(chdir(empty), 0); /* where no corpus is in data/ */
    expect_refused("multilingual", "configs/data/multilingual.sh");
    expect_refused("english", "configs/data/multilingual.sh");
    expect_refused("no-such-corpus", "`cohort data` makes one");
    expect_refused(data_path(folder, "train_0.bin"), "is a file");
    data_folder_remove(empty);
}

Test(data_corpus, finds_names_below_data) {
    char *here = data_folder();
    corpus *c;
    cr_assert_eq(chdir(here), 0);
    cr_assert_eq(mkdir("data", 0700), 0);
    cr_assert_eq(symlink(folder, "data/mine"), 0);
    c = opened("mine");
    cr_expect_eq(corpus_sources(c), 2);
    corpus_close(c);
    data_folder_remove(here);
}

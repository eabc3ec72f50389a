/* `cohort data`: text files -> shards that no page shares. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "unit/data_files.h"

static char *folder;
static problems *list;

static void set_up(void) {
    folder = data_folder();
    list = problems_create();
    cr_assert_eq(mkdir(data_path(folder, "text"), 0700), 0);
    cr_assert_eq(mkdir(data_path(folder, "text/deep"), 0700), 0);
}

static void tear_down(void) {
    data_folder_remove(folder);
    problems_destroy(list);
}

TestSuite(data_build, .init = set_up, .fini = tear_down);

/* Pages "<page 7>...": recognisable, of different lengths. */
static void write_pages(int n, const char *prefix) {
    for (int i = 0; i < n; i++) {
        char name[64], text[256];
        snprintf(name, sizeof name, "text/%s%s%03d.txt", i % 2 ? "deep/" : "", prefix, i);
        int length = snprintf(text, sizeof text, "<page %d>%.*s", i, i % 50, "..................................................");
        data_write(folder, name, text, (size_t)length);
    }
}

static exit_code build(const char *source, const char *out) {
    const char *const names[] = {"pages"}, *const paths[] = {source};
    data_build options = {1, names, paths, out, 0.1, 0.2};
    return data_build_shards(&options, list);
}

/* The text of a split (malloc'd, terminated). */
static char *split_text(const char *out, const char *name, int64_t *tokens) {
    shard *s = NULL;
    cr_assert_eq(shard_open(data_path(out, name), 256, &s, list), EXIT_OK, "%s", problems_count(list) ? problems_message(list, 0) : "");
    *tokens = shard_tokens(s);
    int32_t *ids = malloc((size_t)*tokens * sizeof *ids);
    char *text = calloc(1, (size_t)*tokens + 1);
    cr_assert_eq(shard_read(s, 0, *tokens, ids, list), EXIT_OK);
    for (int64_t i = 0; i < *tokens; i++) text[i] = (char)ids[i];
    shard_close(s);
    free(ids);
    return text;
}

static char *path_of(const char *name) {
    char *path = NULL;
    cr_assert_gt(asprintf(&path, "%s/%s", folder, name), 0);
    return path;
}

Test(data_build, deals_every_page_to_one_split) {
    static const char *const splits[] = {"train_0.bin", "valid_0.bin", "test_0.bin"};
    const double shares[] = {0.7, 0.1, 0.2};
    char *text = path_of("text"), *out = path_of("new/out"), *splitted[3];
    int64_t tokens[3], all = 0;
    write_pages(200, "p");
    cr_assert_eq(build(text, out), EXIT_OK, "%s", problems_count(list) ? problems_message(list, 0) : "");
    for (int i = 0; i < 3; i++) splitted[i] = split_text(out, splits[i], &tokens[i]), all += tokens[i];
    for (int i = 0; i < 3; i++)
        cr_expect_float_eq((double)tokens[i] / (double)all, shares[i], 0.03, "%s has a share of %g", splits[i],
                           (double)tokens[i] / (double)all);
    for (int page = 0; page < 200; page++) {
        char mark[32];
        int found = 0;
        snprintf(mark, sizeof mark, "<page %d>", page);
        for (int i = 0; i < 3; i++) found += strstr(splitted[i], mark) != NULL;
        cr_expect_eq(found, 1, "page %d is in %d splits", page, found);
    }
    for (int i = 0; i < 3; i++) free(splitted[i]);
    free(text);
    free(out);
}

/* The hash of the content deals: other names and another place change nothing. */
Test(data_build, names_do_not_matter) {
    char *text = path_of("text"), *one = path_of("one"), *two = path_of("two");
    int64_t tokens;
    write_pages(60, "a");
    cr_assert_eq(build(text, one), EXIT_OK);
    char *moved = path_of("elsewhere");
    cr_assert_eq(rename(text, moved), 0);
    char *page = path_of("elsewhere/a000.txt"), *renamed = path_of("elsewhere/zzz");
    cr_assert_eq(rename(page, renamed), 0);
    cr_assert_eq(build(moved, two), EXIT_OK);
    char *x = split_text(one, "test_0.bin", &tokens), *y = split_text(two, "test_0.bin", &tokens);
    cr_expect_str_eq(x, y);
    free(x);
    free(y);
    free(page);
    free(renamed);
    free(moved);
    free(text);
    free(one);
    free(two);
}

Test(data_build, copies_count_once) {
    char *text = path_of("text"), *one = path_of("one"), *two = path_of("two");
    int64_t before[3], after[3];
    static const char *const splits[] = {"train_0.bin", "valid_0.bin", "test_0.bin"};
    write_pages(30, "a");
    cr_assert_eq(build(text, one), EXIT_OK);
    write_pages(30, "copy");
    data_write(folder, "text/empty", "", 0);
    data_write(folder, "text/.hidden", "not text", 8);
    cr_assert_eq(build(text, two), EXIT_OK);
    for (int i = 0; i < 3; i++) {
        free(split_text(one, splits[i], &before[i]));
        free(split_text(two, splits[i], &after[i]));
        cr_expect_eq(before[i], after[i], "%s: %lld tokens, with copies %lld", splits[i], (long long)before[i], (long long)after[i]);
    }
    free(text);
    free(one);
    free(two);
}

Test(data_build, a_single_file_is_cut_at_lines) {
    char *out = path_of("out"), *file = path_of("text/book"), book[2000];
    int64_t tokens[3];
    for (int i = 0; i < 100; i++) memcpy(book + 20 * i, "nineteen characters\n", 20);
    data_write(folder, "text/book", book, sizeof book);
    cr_assert_eq(build(file, out), EXIT_OK);
    free(split_text(out, "train_0.bin", &tokens[0]));
    free(split_text(out, "valid_0.bin", &tokens[1]));
    free(split_text(out, "test_0.bin", &tokens[2]));
    cr_expect_eq(tokens[0] + tokens[1] + tokens[2], 2000);
    cr_expect(tokens[0] == 1400 && tokens[1] == 200 && tokens[2] == 400, "%lld, %lld, %lld", (long long)tokens[0], (long long)tokens[1],
              (long long)tokens[2]);
    free(out);
    free(file);
}

Test(data_build, three_files_are_enough) {
    char *out = path_of("out"), *text = path_of("text");
    int64_t tokens;
    data_write(folder, "text/a", "first", 5);
    data_write(folder, "text/b", "second", 6);
    data_write(folder, "text/c", "third of them", 13);
    cr_assert_eq(build(text, out), EXIT_OK, "%s", problems_count(list) ? problems_message(list, 0) : "");
    char *train = split_text(out, "train_0.bin", &tokens);
    cr_expect_str_eq(train, "third of them");
    free(train);
    free(out);
    free(text);
}

Test(data_build, refuses_what_cannot_be_three_splits) {
    char *out = path_of("out"), *text = path_of("text");
    cr_expect_eq(build(text, out), EXIT_INPUT);
    cr_expect(data_says(list, "holds no text"));
    data_write(folder, "text/a", "x", 1);
    data_write(folder, "text/b", "y", 1);
    cr_expect_eq(build(text, out), EXIT_INPUT);
    cr_expect(data_says(list, "stays empty"));
    cr_expect_eq(build("/no/such/folder", out), EXIT_INPUT);
    cr_expect(data_says(list, "/no/such/folder"));
    cr_expect_neq(access(out, F_OK), 0, "a failure left %s", out);
    char *left = NULL;
    cr_assert_gt(asprintf(&left, "ls %s | grep -q partial", folder), 0);
    cr_expect_neq(system(left), 0, "a failure left a partial folder");
    free(left);
    free(out);
    free(text);
}

Test(data_build, refuses_a_folder_with_something_in_it) {
    char *text = path_of("text"), *out = path_of("out");
    write_pages(30, "a");
    cr_assert_eq(mkdir(out, 0700), 0);
    cr_expect_eq(build(text, out), EXIT_OK, "an empty folder is refused");
    cr_expect_eq(build(text, out), EXIT_INPUT);
    cr_expect(data_says(list, "not an empty folder"));
    free(text);
    free(out);
}

Test(data_build, refuses_bad_options_all_at_once) {
    const char *const names[] = {"a", "a", ""}, *const paths[] = {"x", "y", "z"};
    char *out = path_of("out");
    data_build options = {3, names, paths, out, 0.5, 0.5};
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_expect(data_says(list, "shares of 0.5"));
    cr_expect(data_says(list, "given to both x and y"));
    cr_expect(data_says(list, "has no name"));
    options.n_sources = 0;
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_expect(data_says(list, "no source is given"));
    free(out);
}

Test(data_build, table_and_corpus_agree) {
    char *text = path_of("text"), *out = path_of("out"), *table = NULL, expected[128];
    size_t size;
    write_pages(60, "a");
    cr_assert_eq(build(text, out), EXIT_OK);
    FILE *to = open_memstream(&table, &size);
    cr_assert_eq(data_print_table(out, to, list), EXIT_OK);
    fclose(to);
    data_settings d = data_settings_of(out);
    corpus *c = NULL;
    cr_assert_eq(corpus_open(&d, 256, &c, list), EXIT_OK);
    cr_expect_str_eq(corpus_source_name(c, 0), "pages");
    snprintf(expected, sizeof expected, "%-14s %8d %12lld %12lld %12lld\n", "pages", 60,
             (long long)shard_tokens(corpus_shard(c, 0, DATA_TRAIN)), (long long)shard_tokens(corpus_shard(c, 0, DATA_VALID)),
             (long long)shard_tokens(corpus_shard(c, 0, DATA_TEST)));
    cr_expect_not_null(strstr(table, expected), "expected\n%sin\n%s", expected, table);
    cr_expect_eq(data_print_table(folder, stdout, list), EXIT_INPUT);
    corpus_close(c);
    free(table);
    free(text);
    free(out);
}

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
        int length = snprintf(text, sizeof text, "<page %d>%.*s", i, i % 50,
                              "..................................................");
        data_write(folder, name, text, (size_t)length);
    }
}

static exit_code build(const char *source, const char *out) {
    const char *const names[] = {"pages"}, *const paths[] = {source};
    data_build options = {
        .n_sources = 1, .names = names, .paths = paths, .out = out, .valid_share = 0.1, .test_share = 0.2};
    return data_build_shards(&options, list);
}

/* The text of a split (malloc'd, terminated). */
static char *split_text(const char *out, const char *name, int64_t *tokens) {
    shard *s = NULL;
    cr_assert_eq(shard_open(data_path(out, name), 256, &s, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
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

Test(data_build, assigns_every_page_to_one_split) {
    static const char *const splits[] = {"train_0.bin", "valid_0.bin", "test_0.bin"};
    const double shares[] = {0.7, 0.1, 0.2};
    char *text = path_of("text"), *out = path_of("new/out"), *splitted[3];
    int64_t tokens[3], all = 0;
    write_pages(200, "p");
    cr_assert_eq(build(text, out), EXIT_OK, "%s", problems_count(list) ? problems_message(list, 0) : "");
    for (int i = 0; i < 3; i++) splitted[i] = split_text(out, splits[i], &tokens[i]), all += tokens[i];
    for (int i = 0; i < 3; i++)
        cr_expect_float_eq((double)tokens[i] / (double)all, shares[i], 0.03, "%s has a share of %g",
                           splits[i], (double)tokens[i] / (double)all);
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

/* The hash of the content decides: other names and another place change nothing. */
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
        cr_expect_eq(before[i], after[i], "%s: %lld tokens, with copies %lld", splits[i],
                     (long long)before[i], (long long)after[i]);
    }
    free(text);
    free(one);
    free(two);
}

static void link_to(const char *target, const char *name) {
    cr_assert_eq(symlink(target, data_path(folder, name)), 0);
}

/* Two pages here, the others behind links to a file, to a folder and to a link. */
Test(data_build, links_to_files_and_folders_are_followed) {
    char *text = path_of("text"), *out = path_of("out");
    int64_t tokens[3];
    write_pages(3, "p"); /* 0 and 2 in text, 1 in text/deep */
    cr_assert_eq(mkdir(data_path(folder, "store"), 0700), 0);
    data_write(folder, "store/a", "<linked file>", 13);
    cr_assert_eq(mkdir(data_path(folder, "elsewhere"), 0700), 0);
    data_write(folder, "elsewhere/b", "<in a linked folder>", 20);
    data_write(folder, "elsewhere/c", "<in a linked folder too>", 24);
    link_to("../store/a", "text/a");
    link_to("../elsewhere", "text/b");
    link_to("text", "link"); /* and the source itself is one */
    char *link = path_of("link");
    cr_assert_eq(build(link, out), EXIT_OK, "%s", problems_count(list) ? problems_message(list, 0) : "");
    char *train = split_text(out, "train_0.bin", &tokens[0]),
         *valid = split_text(out, "valid_0.bin", &tokens[1]);
    char *test = split_text(out, "test_0.bin", &tokens[2]), *all = NULL;
    cr_assert_gt(asprintf(&all, "%s|%s|%s", train, valid, test), 0);
    static const char *const pages[] = {"<page 0>",
                                        "<page 1>",
                                        "<page 2>",
                                        "<linked file>",
                                        "<in a linked folder>",
                                        "<in a linked folder too>"};
    for (int i = 0; i < 6; i++) cr_expect_not_null(strstr(all, pages[i]), "%s is not in %s", pages[i], all);
    free(all);
    free(train);
    free(valid);
    free(test);
    free(link);
    free(text);
    free(out);
}

static void expect_refused(const char *name, const char *message) {
    char *text = path_of("text"), *out = path_of("refused"), *expected = NULL;
    problems_destroy(list);
    list = problems_create();
    cr_expect_eq(build(text, out), EXIT_INPUT, "accepted; expected: %s: %s", name, message);
    cr_assert_gt(asprintf(&expected, "%s/%s: %s", folder, name, message), 0);
    cr_expect(data_says(list, expected), "expected '%s', got '%s'", expected,
              problems_count(list) ? problems_message(list, 0) : "nothing");
    cr_expect_eq(problems_count(list), 1);
    cr_expect_neq(access(out, F_OK), 0, "something was written");
    if (strncmp(name, "text/", 5) == 0) unlink(data_path(folder, name));
    free(expected);
    free(text);
    free(out);
}

Test(data_build, refuses_links_to_nothing_loops_and_pipes) {
    write_pages(30, "p");
    link_to("nowhere", "text/broken");
    expect_refused("text/broken", "is a link to nothing");
    link_to("../../text", "text/deep/up");
    char *message = NULL;
    cr_assert_gt(asprintf(&message, "links back to %s/text, which it lies in", folder), 0);
    expect_refused("text/deep/up", message);
    cr_assert_eq(mkfifo(data_path(folder, "text/pipe"), 0600), 0);
    expect_refused("text/pipe", "is neither a file nor a folder");
    free(message);
}

Test(data_build, refuses_what_is_no_text) {
    static const char gzip[] = {0x1f, (char)0x8b, 8,   0,   0,   0,   0,   0, 0, 3,
                                'k',  'L',        'J', 'N', 'I', 'M', 'K', 7, 0};
    static const char controls[] = "text with \x01 two in fifty\x02 or more";
    static const char utf16[] = {(char)0xff, (char)0xfe, 'a', 0, 'b', 0, '\n', 0};
    const struct {
        const char *name, *content;
        size_t bytes; /* 0: the content is a string */
        const char *message;
    } cases[] = {
        {"text/train_0.bin", "words", 0, "has the name of a token shard"},
        {"text/ids.BIN", "words", 0, "has the name of a token shard"},
        {"text/a.gz", gzip, sizeof gzip,
         "is no text: 10 of its 19 bytes are control characters, 7 of them 0"},
        {"text/a.txt", controls, sizeof controls - 1, "is no text: 2 of its 33 bytes are control characters"},
        {"text/wide.txt", utf16, sizeof utf16, "is no text"},
        {"text/a.jsonl", "not even {}", 0, "is JSON Lines"},
        {"text/a.NDJSON", "[1]", 0, "is JSON Lines"},
        {"text/a", "{\"text\": \"x\"}\n{\"text\": \"y\"}\n", 0, "is JSON Lines"},
        {"text/b", "\xEF\xBB\xBF\r\n {\"text\": \"x\"}", 0, "is JSON Lines"},
        {"text/a.json", "[\n  {\"text\": \"x\"}]", 0, "is a JSON array of objects"}};
    write_pages(30, "p");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        data_write(folder, cases[i].name, cases[i].content,
                   cases[i].bytes ? cases[i].bytes : strlen(cases[i].content));
        expect_refused(cases[i].name, cases[i].message);
    }
}

static void write_text(const char *name, const char *content) {
    data_write(folder, name, content, strlen(content));
}

/* Sources of programs, other encodings, terminal text: all of it is text. */
Test(data_build, takes_text_of_any_kind) {
    char *text = path_of("text"), *out = path_of("out");
    write_text("text/package.json", "{\n  \"name\": \"x\"\n}\n");
    write_text("text/list.json", "[1, 2]\n");
    write_text("text/style.css", "{ color: red }\n");
    write_text("text/latin1", "caf\xe9 cr\xe8me\n");
    write_text("text/rfc", "page\fpage \033[1mbold\033[m a\ba\r\n");
    write_text("text/utf8", "\xd0\xb4\xd0\xb0 \xe4\xbd\xa0\xe5\xa5\xbd\n");
    write_text("text/[{", "[{ of a text");
    cr_expect_eq(build(text, out), EXIT_OK, "%s", problems_count(list) ? problems_message(list, 0) : "");
    free(text);
    free(out);
}

Test(data_build, names_every_file_that_is_no_text_of_every_source) {
    char *text = path_of("text"), *out = path_of("out");
    const char *const names[] = {"a", "b"}, *const paths[] = {text, text};
    data_build options = {
        .n_sources = 2, .names = names, .paths = paths, .out = out, .valid_share = 0.1, .test_share = 0.2};
    write_pages(30, "p");
    for (int i = 0; i < 12; i++) {
        char name[32];
        snprintf(name, sizeof name, "text/picture%c", 'a' + i);
        data_write(folder, name, "\0\1\2", 3);
    }
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_expect_eq(problems_count(list), 24);
    problems_condense(list);
    cr_expect_eq(problems_count(list), PROBLEMS_ALIKE);
    free(text);
    free(out);
}

Test(data_build, what_is_left_out_is_counted_aloud) {
    char *text = path_of("text"), *out = path_of("out"), *table = NULL;
    size_t size;
    write_pages(30, "a");
    for (int other = 0; other < 2; other++) {
        FILE *to = open_memstream(&table, &size);
        cr_assert_eq(build(text, out), EXIT_OK);
        cr_assert_eq(data_print_table(out, to, list), EXIT_OK);
        fclose(to);
        if (other)
            cr_expect_not_null(
                strstr(
                    table,
                    "\npages: left out 1 empty file, 30 copies of other files, 2 hidden files or folders\n"),
                "%s", table);
        else
            cr_expect_null(strstr(table, "left out"), "%s", table);
        free(table);
        free(out);
        out = path_of("another");
        write_pages(30, "copy");
        data_write(folder, "text/empty", "", 0);
        data_write(folder, "text/.hidden", "not text", 8);
        mkdir(data_path(folder, "text/.git"), 0700);
        data_write(folder, "text/.git/file", "not text", 8);
    }
    free(text);
    free(out);
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
    cr_expect(tokens[0] == 1400 && tokens[1] == 200 && tokens[2] == 400, "%lld, %lld, %lld",
              (long long)tokens[0], (long long)tokens[1], (long long)tokens[2]);
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
    cr_expect(data_says(list, "is not empty"));
    free(text);
    free(out);
}

Test(data_build, refuses_bad_options_all_at_once) {
    const char *const names[] = {"a", "a", ""}, *const paths[] = {"x", "y", "z"};
    char *out = path_of("out");
    data_build options = {
        .n_sources = 3, .names = names, .paths = paths, .out = out, .valid_share = 0.5, .test_share = 0.5};
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
             (long long)shard_tokens(corpus_shard(c, 0, DATA_TRAIN)),
             (long long)shard_tokens(corpus_shard(c, 0, DATA_VALID)),
             (long long)shard_tokens(corpus_shard(c, 0, DATA_TEST)));
    cr_expect_not_null(strstr(table, expected), "expected\n%sin\n%s", expected, table);
    cr_expect_eq(data_print_table(folder, stdout, list), EXIT_INPUT);
    corpus_close(c);
    free(table);
    free(text);
    free(out);
}

/* `cohort data` on JSON Lines: which tokens come out, which split each example goes to, what is refused. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/examples.h"
#include "unit/data_files.h"

static char *folder;
static problems *list;
static data_build options;
static const char *names[3];
static char paths[3][4096], out[4096];
static const char *path_list[3] = {paths[0], paths[1], paths[2]};

static void set_up(void) {
    folder = data_folder();
    list = problems_create();
    snprintf(out, sizeof out, "%s/out", folder);
    options =
        (data_build){.names = names, .paths = path_list, .out = out, .valid_share = 0.1, .test_share = 0.2};
}

static void tear_down(void) {
    data_folder_remove(folder);
    problems_destroy(list);
}

TestSuite(data_build_examples, .init = set_up, .fini = tear_down);

static void add_source(const char *name, const char *file, const char *content) {
    names[options.n_sources] = name;
    snprintf(paths[options.n_sources], sizeof *paths, "%s/%s", folder, file);
    if (content) data_write(folder, file, content, strlen(content));
    options.n_sources++;
}

static void build(void) {
    cr_assert_eq(data_build_shards(&options, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
}

/* Three files of a line each. */
static void write_parts(const char *train, const char *valid, const char *test) {
    cr_assert_eq(mkdir(data_path(folder, "parts"), 0700), 0);
    data_write(folder, "parts/train.jsonl", train, strlen(train));
    data_write(folder, "parts/valid.jsonl", valid, strlen(valid));
    data_write(folder, "parts/test.jsonl", test, strlen(test));
    add_source("parts", "parts", NULL);
}

static const char LINE[] = "{\"prompt\": \"p\", \"response\": \"r\"}\n";

/* A shard of the output; it is closed by the caller. */
static shard *shard_of(const char *name, int vocabulary) {
    shard *s = NULL;
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", out, name);
    cr_assert_eq(shard_open(path, vocabulary, &s, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
    return s;
}

/* The ids of example `index` [*count], and where its response begins. */
static void example_of(const shard *s, int64_t index, int32_t ids[64], int *prompt, int *count) {
    example e;
    cr_assert_eq(shard_example(s, index, &e, list), EXIT_OK);
    cr_assert_eq(shard_read(s, e.first, e.tokens, ids, list), EXIT_OK);
    *prompt = e.prompt;
    *count = e.tokens;
}

static void expect_only(const char *name, int vocabulary, int prompt, int count, const int32_t *ids) {
    int32_t found[64];
    int found_prompt, found_count;
    shard *s = shard_of(name, vocabulary);
    cr_assert_eq(shard_examples(s), 1);
    example_of(s, 0, found, &found_prompt, &found_count);
    cr_expect(found_prompt == prompt && found_count == count, "%s: %d of %d", name, found_prompt,
              found_count);
    cr_expect_arr_eq(found, ids, (size_t)count * sizeof *ids, "%s", name);
    shard_close(s);
}

Test(data_build_examples, bytes_of_text_are_tokens) {
    write_parts(
        "\xEF\xBB\xBF\n  \r\n{\"id\": 3, \"prompt\": \"a\\u00e9\", \"response\": \"\\nz\\u0000\"}\r\n", LINE,
        LINE);
    build();
    expect_only("train_0.bin", 256, 3, 6, (int32_t[]){'a', 0xc3, 0xa9, '\n', 'z', 0});
    expect_only("valid_0.bin", 256, 1, 2, (int32_t[]){'p', 'r'});
    shard *s = shard_of("train_0.bin", 256);
    example e;
    cr_assert_eq(shard_example(s, 0, &e, list), EXIT_OK);
    cr_expect_eq(e.line, 3);
    shard_close(s);
}

Test(data_build_examples, every_response_gets_its_end) {
    write_parts(LINE, LINE, LINE);
    options.ends = true;
    options.end = 256;
    build();
    expect_only("test_0.bin", 257, 1, 3, (int32_t[]){'p', 'r', 256});
}

Test(data_build_examples, ids_of_a_large_vocabulary_are_wide_in_all_shards) {
    static const char small[] = "{\"prompt\": [1, 2], \"response\": [3]}",
                      large[] = "{\"prompt\": [0], \"response\": [70000]}";
    write_parts(small, large, small);
    build();
    expect_only("train_0.bin", 70001, 2, 3, (int32_t[]){1, 2, 3});
    expect_only("valid_0.bin", 70001, 1, 2, (int32_t[]){0, 70000});
    char *text = NULL;
    struct stat status;
    cr_assert_gt(asprintf(&text, "%s/train_0.bin", out), 0);
    cr_assert_eq(stat(text, &status), 0);
    cr_expect_eq(status.st_size, 40 + 24 + 3 * 4);
    free(text);
}

/* "<prompt n>" of 200 prompts, each with one to three responses; every tenth line comes twice. */
static char *many_lines(int *lines) {
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    *lines = 0;
    for (int i = 0; i < 200; i++)
        for (int j = 0; j <= i % 3; j++)
            for (int again = *lines % 10 == 0 ? 2 : 1; again > 0; again--, ++*lines)
                fprintf(file,
                        "{\"task\": [\"%s\"], \"prompt\": \"<prompt %d>\", \"response\": \"answer %d\"}\n",
                        i % 4 ? "long" : "short", i, j);
    fclose(file);
    return text;
}

/* Every prompt's split, as letters of the splits in which it is found. */
static void find_prompts(const char *name, char mark, char found[200][4], int *examples) {
    shard *s = shard_of(name, 256);
    for (int64_t i = 0; i < shard_examples(s); i++) {
        int32_t ids[64];
        char text[64] = "";
        int prompt, count, number = -1;
        example_of(s, i, ids, &prompt, &count);
        for (int t = 0; t < prompt; t++) text[t] = (char)ids[t];
        text[prompt] = '\0';
        cr_assert_eq(sscanf(text, "<prompt %d>", &number), 1, "%s", text);
        if (!strchr(found[number], mark)) found[number][strlen(found[number])] = mark;
        ++*examples;
    }
    shard_close(s);
}

Test(data_build_examples, a_prompt_is_in_one_split_and_copies_are_left_out) {
    int lines, all = 199 * 2 + 1; /* 67 prompts of one response, 67 of two, 66 of three */
    char *text = many_lines(&lines);
    add_source("many", "many.jsonl", text);
    for (int tenths = 1; tenths < 9; tenths++) {
        char found[200][4] = {{0}};
        int n[3] = {0};
        snprintf(out, sizeof out, "%s/out%d", folder, tenths);
        options.test_share = tenths / 10.0;
        build();
        find_prompts("train_0.bin", 'a', found, &n[0]);
        find_prompts("valid_0.bin", 'v', found, &n[1]);
        find_prompts("test_0.bin", 't', found, &n[2]);
        for (int i = 0; i < 200; i++) cr_expect_eq(strlen(found[i]), 1, "prompt %d is in %s", i, found[i]);
        cr_expect_eq(n[0] + n[1] + n[2], all);
        cr_expect(abs(n[1] - all / 10) <= 3 && abs(n[2] - all * tenths / 10) <= 3, "%d, %d, %d", n[0], n[1],
                  n[2]);
    }
    char *table = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&table, &size);
    cr_assert_eq(data_print_table(out, to, list), EXIT_OK);
    fclose(to);
    char expected[64];
    snprintf(expected, sizeof expected, "many: left out %d copies of other examples\n", lines - all);
    cr_expect(strstr(table, expected) != NULL && strstr(table, " examples ") != NULL, "%s", table);
    free(table);
    free(text);
}

static char *content_of(const char *root, const char *name) {
    char path[4200];
    char *content = calloc(1, 1 << 20);
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s", path);
    (void)!fread(content, 1, (1 << 20) - 1, file);
    fclose(file);
    return content;
}

/* Lines turned round: other line numbers, the same examples in the same order. */
Test(data_build_examples, the_order_of_lines_decides_nothing) {
    int lines;
    char *text = many_lines(&lines), *turned = calloc(1, strlen(text) + 1);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        size_t n = strlen(line);
        memmove(turned + n + 1, turned, strlen(turned));
        memcpy(turned, line, n);
        turned[n] = '\n';
    }
    free(text);
    text = many_lines(&lines);
    add_source("a", "a.jsonl", text);
    add_source("b", "b.jsonl", turned);
    build();
    for (int part = 0; part < 3; part++) {
        static const char *const shards[] = {"train_%d.bin", "valid_%d.bin", "test_%d.bin"};
        char one[32], two[32];
        snprintf(one, sizeof one, shards[part], 0);
        snprintf(two, sizeof two, shards[part], 1);
        shard *a = shard_of(one, 256), *b = shard_of(two, 256);
        cr_assert_eq(shard_examples(a), shard_examples(b));
        for (int64_t i = 0; i < shard_examples(a); i++) {
            int32_t x[64], y[64];
            int prompt[2], count[2];
            example_of(a, i, x, &prompt[0], &count[0]);
            example_of(b, i, y, &prompt[1], &count[1]);
            cr_assert(prompt[0] == prompt[1] && count[0] == count[1] &&
                      memcmp(x, y, (size_t)count[0] * sizeof *x) == 0);
        }
        shard_close(a);
        shard_close(b);
    }
    free(turned);
    free(text);
}

Test(data_build_examples, tasks_become_sources) {
    int lines;
    char *text = many_lines(&lines);
    char *more = NULL;
    cr_assert_gt(asprintf(&more,
                          "%s"
                          "{\"task\": \"tone\", \"prompt\": \"1\", \"response\": \"x\"}\n"
                          "{\"task\": \"tone\", \"prompt\": \"2\", \"response\": \"x\"}\n"
                          "{\"task\": [\"tone\"], \"prompt\": \"3\", \"response\": \"x\"}\n"
                          "{\"task\": [\"tone\", \"short\"], \"prompt\": \"1\", \"response\": \"x\"}\n"
                          "{\"task\": [\"tone\", \"short\"], \"prompt\": \"2\", \"response\": \"x\"}\n"
                          "{\"task\": [\"tone\", \"short\"], \"prompt\": \"3\", \"response\": \"x\"}\n",
                          text),
                 0);
    add_source("phone", "phone.jsonl", more);
    options.by_task = true;
    build();
    char *said = content_of(out, "sources.json");
    const char *at = said;
    static const char *const expected[] = {"\"phone/long\"", "\"phone/short\"", "\"phone/tone\"",
                                           "\"phone/tone+short\""};
    for (int i = 0; i < 4; i++) {
        at = strstr(at, expected[i]);
        cr_assert_not_null(at, "%s is not in its place in %s", expected[i], said);
    }
    shard *s = shard_of("train_3.bin", 256);
    cr_expect_eq(shard_examples(s), 1);
    shard_close(s);
    cr_assert_eq(access(data_path(out, "train_4.bin"), F_OK), -1);
    free(said);
    free(more);
    free(text);
}

Test(data_build_examples, longer_ones_are_left_out_and_counted) {
    add_source("a", "a.jsonl",
               "{\"prompt\": \"12\", \"response\": \"3\"}\n{\"prompt\": \"22\", \"response\": \"34\"}\n"
               "{\"prompt\": \"32\", \"response\": \"3\"}\n{\"prompt\": \"42\", \"response\": \"3\"}\n");
    options.longest = 3;
    build();
    char *said = content_of(out, "sources.json");
    cr_expect(strstr(said, "\"longer\": 1") != NULL, "%s", said);
    for (int part = 0; part < 3; part++) {
        shard *s = shard_of((const char *[]){"train_0.bin", "valid_0.bin", "test_0.bin"}[part], 256);
        cr_expect_eq(shard_examples(s), 1);
        shard_close(s);
    }
    free(said);
}

Test(data_build_examples, every_mistake_has_its_message_and_line) {
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"{\"prompt\": \"a\", \"response\": \"b\"", "is not valid JSON: "},
        {"[1]", "is no object; write one a line: {\"prompt\": .., \"response\": ..}"},
        {"{\"prompt\": \"a\", \"response\": \"\xff\"}", "is not valid JSON: unable to decode byte 0xff"},
        {"{\"prompt\": \"a\", \"prompt\": \"b\", \"response\": \"b\"}",
         "is not valid JSON: duplicate object key"},
        {"{\"response\": \"b\"}", "has no \"prompt\"; an example is {"},
        {"{\"prompt\": \"b\"}", "has no \"response\"; an example is {"},
        {"{\"text\": \"b\"}", "of running text take the text out, for example with jq -r .text FILE"},
        {"{\"prompt\": \"\", \"response\": \"b\"}",
         "the prompt is empty; the first token of a response is predicted"},
        {"{\"prompt\": \"a\", \"response\": \"\"}",
         "the response is empty; there is nothing to learn from it"},
        {"{\"prompt\": 3, \"response\": \"b\"}", "\"prompt\" must be text or a list of token ids"},
        {"{\"prompt\": \"a\", \"response\": [1]}", "\"response\" is a list of token ids, but"},
        {"{\"prompt\": \"a\", \"response\": \"b\", \"task\": []}",
         "\"task\" must be a name, or a list of names"},
        {"{\"prompt\": \"a\", \"response\": \"b\", \"task\": [\"\"]}", "\"task\" must be a name"},
        {"{\"prompt\": \"a\", \"response\": \"b\"}", "has no \"task\", by which --by-task would tell"}};
    enum { N = sizeof cases / sizeof *cases };
    char text[4096] = "{\"prompt\": \"a\", \"response\": \"b\", \"task\": \"t\"}\n";
    for (int i = 0; i < N; i++) strcat(strcat(text, cases[i].line), "\n");
    add_source("bad", "bad.jsonl", text);
    options.by_task = true;
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_assert_eq(problems_count(list), N);
    for (int i = 0; i < N; i++) {
        char place[32];
        snprintf(place, sizeof place, "bad.jsonl:%d: ", i + 2);
        const char *message = problems_message(list, i);
        cr_expect(strstr(message, place) && strstr(message, cases[i].message), "%s%s: %s", place,
                  cases[i].message, message);
    }
    cr_expect_eq(access(out, F_OK), -1, "something was written");
}

Test(data_build_examples, ids_are_whole_numbers_below_the_vocabulary) {
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"{\"prompt\": [1, 300], \"response\": [1]}",
         "token 1 of \"prompt\" is 300; ids must be from 0 to 299 (--vocabulary)"},
        {"{\"prompt\": [1], \"response\": [-1]}", "token 0 of \"response\" is -1"},
        {"{\"prompt\": [1], \"response\": [1.5]}", "\"response\" is a list, and its entry 0 is no number"},
        {"{\"prompt\": [1], \"response\": [\"a\"]}", "\"response\" is a list, and its entry 0 is no number"},
        {"{\"prompt\": [99999999999999999999], \"response\": [1]}", "too big integer"},
        {"{\"prompt\": [1], \"response\": []}", "the response is empty"},
        {"{\"prompt\": \"a\", \"response\": [1]}",
         "bad.jsonl:1 has token ids; write all as text, or all as token ids"}};
    enum { N = sizeof cases / sizeof *cases };
    char text[4096] = "";
    for (int i = 0; i < N; i++) strcat(strcat(text, cases[i].line), "\n");
    add_source("bad", "bad.jsonl", text);
    options.vocabulary = 300;
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_assert_eq(problems_count(list), N);
    for (int i = 0; i < N; i++)
        cr_expect(strstr(problems_message(list, i), cases[i].message), "%s: %s", cases[i].message,
                  problems_message(list, i));
}

Test(data_build_examples, a_file_of_nothing_but_mistakes_is_not_read_to_its_end) {
    char *text = calloc(300, 8);
    for (int i = 0; i < 300; i++) strcat(text, "{}\n");
    add_source("bad", "bad.jsonl", text);
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_assert_eq(problems_count(list), 101);
    cr_expect(data_says(list, "bad.jsonl: 100 of its lines are wrong up to line 100; the rest was not read"));
    free(text);
}

Test(data_build_examples, what_is_missing_is_named) {
    add_source("few", "few.jsonl", LINE);
    add_source("empty", "empty.jsonl", " \n\n");
    add_source("absent", "absent.jsonl", NULL);
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_assert_eq(problems_count(list), 2);
    cr_expect(data_says(list, "empty.jsonl: holds no example"));
    cr_expect(data_says(list, "absent.jsonl: cannot be read: No such file"));
    options.n_sources = 1;
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_expect(
        data_says(list, "source few has 1 example(s), too few different prompts for three splits: train"));
    cr_assert_eq(mkdir(data_path(folder, "parts"), 0700), 0);
    data_write(folder, "parts/train.jsonl", LINE, strlen(LINE));
    options.n_sources = 0;
    add_source("parts", "parts", NULL);
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_expect(data_says(list, "parts: has no valid.jsonl") && data_says(list, "parts: has no test.jsonl"));
    cr_expect_eq(access(out, F_OK), -1, "something was written");
}

Test(data_build_examples, options_and_sources_go_together) {
    add_source("a", "a.jsonl", LINE);
    add_source("b", "b.txt", "text");
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_expect(data_says(list, "b.txt: is no JSON Lines, but other sources are"));
    options.n_sources = 0;
    add_source("b", "b.txt", "text");
    options.longest = 3;
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_expect(data_says(list, "--by-task, --longest, --vocabulary and --end are of examples"));
    options.n_sources = 0;
    add_source("a", "a.jsonl", LINE);
    options.vocabulary = 256;
    options.ends = true;
    options.end = 256;
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_expect(data_says(list, "--end 256 is no id below --vocabulary 256"));
    options.ends = false;
    options.vocabulary = 100;
    cr_expect_eq(data_build_shards(&options, list), EXIT_INPUT);
    cr_expect(data_says(list, "--vocabulary 100: the text has the byte 114; give at least 115"));
}

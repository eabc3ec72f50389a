/* Token files: every width and header that is read, every damage that is refused, and what changes under a
 * run. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "data/data.h"
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

TestSuite(data_shard, .init = set_up, .fini = tear_down);

static shard *opened(const void *bytes, size_t size, int vocabulary) {
    shard *s = NULL;
    data_write(folder, "ids.bin", bytes, size);
    exit_code code = shard_open(data_path(folder, "ids.bin"), vocabulary, &s, list);
    cr_assert_eq(code, EXIT_OK, "refused: %s",
                 problems_count(list) ? problems_message(list, 0) : "without a message");
    return s;
}

static void expect_refused(const void *bytes, size_t size, int vocabulary, const char *message) {
    problems *own = problems_create();
    shard *s = NULL;
    data_write(folder, "ids.bin", bytes, size);
    cr_expect_eq(shard_open(data_path(folder, "ids.bin"), vocabulary, &s, own), EXIT_INPUT,
                 "accepted; expected: %s", message);
    cr_expect_null(s);
    cr_expect(data_says(own, message), "expected '%s', got '%s'", message,
              problems_count(own) ? problems_message(own, 0) : "nothing");
    cr_expect(data_says(own, "ids.bin"), "the file is not named");
    problems_destroy(own);
}

Test(data_shard, reads_flat_uint16) {
    const uint16_t ids[] = {7, 0, 65535, 256, 1};
    int32_t read[3];
    shard *s = opened(ids, sizeof ids, 65536);
    cr_expect_eq(shard_tokens(s), 5);
    cr_assert_eq(shard_read(s, 1, 3, read, list), EXIT_OK);
    cr_expect(read[0] == 0 && read[1] == 65535 && read[2] == 256);
    shard_close(s);
}

Test(data_shard, reads_flat_uint32_above_65536) {
    const uint32_t ids[] = {7, 65536, 128255};
    int32_t read[3];
    shard *s = opened(ids, sizeof ids, 128256);
    cr_expect_eq(shard_tokens(s), 3);
    cr_assert_eq(shard_read(s, 0, 3, read, list), EXIT_OK);
    cr_expect(read[0] == 7 && read[1] == 65536 && read[2] == 128255);
    shard_close(s);
}

typedef struct {
    int32_t header[256];
    unsigned char payload[64];
} llmc_file;

static llmc_file llmc(int32_t magic, int32_t version, int32_t tokens) {
    llmc_file file = {.header = {magic, version, tokens}};
    return file;
}

Test(data_shard, knows_llmc_by_its_header) {
    llmc_file narrow = llmc(20240520, 1, 3), wide = llmc(20240801, 7, 2);
    const uint16_t ids16[] = {5, 50256, 9};
    const uint32_t ids32[] = {3, 200};
    int32_t read[3];
    memcpy(narrow.payload, ids16, sizeof ids16);
    memcpy(wide.payload, ids32, sizeof ids32);
    shard *s = opened(&narrow, 1024 + sizeof ids16, 50257);
    cr_expect_eq(shard_tokens(s), 3);
    cr_assert_eq(shard_read(s, 0, 3, read, list), EXIT_OK);
    cr_expect(read[0] == 5 && read[1] == 50256 && read[2] == 9);
    shard_close(s);
    s = opened(&wide, 1024 + sizeof ids32, 256); /* the header decides, not the vocabulary */
    cr_expect_eq(shard_tokens(s), 2);
    cr_assert_eq(shard_read(s, 0, 2, read, list), EXIT_OK);
    cr_expect(read[0] == 3 && read[1] == 200);
    shard_close(s);
}

Test(data_shard, refuses_damaged_llmc) {
    llmc_file file = llmc(20240520, 1, 8);
    expect_refused(&file, 1024 + 14, 256, "truncated");
    expect_refused(&file, 1024 + 18, 256, "announces 8 tokens");
    file.header[2] = -1;
    expect_refused(&file, 1024 + 16, 256, "announces -1 tokens");
    file = llmc(20240520, 2, 8);
    expect_refused(&file, 1024 + 16, 256, "version 2");
    file = llmc(20240801, 7, 8);
    expect_refused(&file, 1024 + 16, 256, "8 tokens of 4 bytes");
}

Test(data_shard, refuses_missing_empty_and_ragged) {
    shard *s = NULL;
    const unsigned char bytes[] = {1, 0, 2, 0, 3, 0};
    cr_expect_eq(shard_open(data_path(folder, "absent.bin"), 256, &s, list), EXIT_INPUT);
    cr_expect(data_says(list, "absent.bin"));
    cr_expect_eq(shard_open(folder, 256, &s, list), EXIT_INPUT);
    cr_expect(data_says(list, "is not a file"));
    expect_refused(bytes, 0, 256, "is empty");
    expect_refused(bytes, 5, 256, "5 bytes are no multiple of 2");
    expect_refused(bytes, 6, 100000, "is the file uint16?");
}

Test(data_shard, names_position_and_value_beyond_the_vocabulary) {
    const uint16_t ids[] = {0, 255, 256, 300};
    expect_refused(ids, sizeof ids, 256, "token 2 is 256");
    shard_close(opened(ids, sizeof ids, 301));
    const uint32_t wide[] = {1, 70000};
    expect_refused(wide, sizeof wide, 70000, "token 1 is 70000");
}

Test(data_shard, guesses_the_other_width) {
    uint32_t wide[64];
    uint16_t narrow[64];
    for (int i = 0; i < 64; i++) wide[i] = narrow[i] = (uint16_t)(i + 1000);
    expect_refused(wide, sizeof wide, 50257, "looks like uint32");
    expect_refused(narrow, sizeof narrow, 100000, "as uint16 all would be");
    memset(narrow, 0, sizeof narrow); /* a text of zeros is dull but no guess */
    shard_close(opened(narrow, sizeof narrow, 50257));
}

Test(data_shard, closing_nothing_is_fine) {
    shard_close(NULL);
}

Test(data_shard, a_window_is_tokens_and_the_ones_after_them) {
    enum { N = 9000, SEQUENCE = 8500 }; /* longer than what is read at once */
    static uint16_t narrow[N];
    static uint32_t wide[N];
    static int32_t tokens[SEQUENCE], targets[SEQUENCE];
    for (int i = 0; i < N; i++)
        narrow[i] = (uint16_t)(i * 7919 % 50000), wide[i] = (uint32_t)(i * 7919 % 100000);
    for (int of_wide = 0; of_wide < 2; of_wide++) {
        shard *s = of_wide ? opened(wide, sizeof wide, 100000) : opened(narrow, sizeof narrow, 50000);
        cr_assert_eq(shard_window(s, N - SEQUENCE - 1, SEQUENCE, tokens, targets, list), EXIT_OK);
        for (int i = 0; i < SEQUENCE; i++) {
            int at = N - SEQUENCE - 1 + i;
            cr_assert_eq(tokens[i], of_wide ? (int32_t)wide[at] : narrow[at], "token %d", i);
            cr_assert_eq(targets[i], of_wide ? (int32_t)wide[at + 1] : narrow[at + 1], "target %d", i);
        }
        shard_close(s);
    }
}

/* Whatever is done to the file of an open shard: reading it is refused, with its name. */
static void expect_lost(const shard *s, const char *message) {
    problems *own = problems_create();
    int32_t tokens[4], targets[4];
    cr_expect_eq(shard_window(s, 4, 4, tokens, targets, own), EXIT_RUN, "read; expected: %s", message);
    cr_expect(data_says(own, message), "expected '%s', got '%s'", message,
              problems_count(own) ? problems_message(own, 0) : "nothing");
    cr_expect(data_says(own, "ids.bin"), "the file is not named");
    problems_destroy(own);
}

Test(data_shard, a_file_that_changes_while_it_is_open_is_named) {
    const uint16_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, others[] = {1, 2, 3, 4, 5, 6, 7, 700, 9};
    shard *s = opened(ids, sizeof ids, 256);
    data_write(folder, "ids.bin", others, sizeof others);
    expect_lost(s, "token 7 has become 700, which is not below the vocabulary of 256");
    cr_assert_eq(truncate(data_path(folder, "ids.bin"), 16), 0);
    data_write(folder, "ids.bin", ids, 16);
    expect_lost(s, "has 16 bytes now, but had 18 when it was opened");
    data_write(folder, "ids.bin", ids, 0);
    expect_lost(s, "has 0 bytes now, but had 18 when it was opened");
    data_write(folder, "ids.bin", ids, sizeof ids);
    int32_t read[2];
    cr_expect_eq(shard_read(s, 7, 2, read, list), EXIT_OK, "a file that is back as it was is refused");
    cr_expect(read[0] == 8 && read[1] == 9);
    shard_close(s);
}

/* Where a process may open few files a shard is opened for each read. */
Test(data_shard, shards_do_not_use_up_the_files_of_a_process) {
    enum { SHARDS = 100 };
    const uint16_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    const struct rlimit few = {24, 24};
    shard *s[SHARDS];
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    for (int i = 0; i < SHARDS; i++) s[i] = opened(ids, sizeof ids, 256);
    for (int i = 0; i < SHARDS; i++) {
        int32_t read[3];
        cr_assert_eq(shard_read(s[i], 6, 3, read, list), EXIT_OK, "shard %d", i);
        cr_expect(read[0] == 7 && read[2] == 9);
    }
    FILE *another = fopen(data_path(folder, "another"), "w");
    cr_expect_not_null(another, "no file is left for others");
    if (another) fclose(another);
    cr_assert_eq(unlink(data_path(folder, "ids.bin")), 0);
    expect_lost(s[SHARDS - 1], "cannot be opened again: No such file or directory");
    for (int i = 0; i < SHARDS; i++) shard_close(s[i]);
}

/* Token files: every width and header that is read, every damage that is refused. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

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
    cr_assert_eq(code, EXIT_OK, "refused: %s", problems_count(list) ? problems_message(list, 0) : "without a message");
    return s;
}

static void expect_refused(const void *bytes, size_t size, int vocabulary, const char *message) {
    problems *own = problems_create();
    shard *s = NULL;
    data_write(folder, "ids.bin", bytes, size);
    cr_expect_eq(shard_open(data_path(folder, "ids.bin"), vocabulary, &s, own), EXIT_INPUT, "accepted; expected: %s", message);
    cr_expect_null(s);
    cr_expect(data_says(own, message), "expected '%s', got '%s'", message, problems_count(own) ? problems_message(own, 0) : "nothing");
    cr_expect(data_says(own, "ids.bin"), "the file is not named");
    problems_destroy(own);
}

Test(data_shard, reads_flat_uint16) {
    const uint16_t ids[] = {7, 0, 65535, 256, 1};
    int32_t read[3];
    shard *s = opened(ids, sizeof ids, 65536);
    cr_expect_eq(shard_tokens(s), 5);
    shard_read(s, 1, 3, read);
    cr_expect(read[0] == 0 && read[1] == 65535 && read[2] == 256);
    shard_close(s);
}

Test(data_shard, reads_flat_uint32_above_65536) {
    const uint32_t ids[] = {7, 65536, 128255};
    int32_t read[3];
    shard *s = opened(ids, sizeof ids, 128256);
    cr_expect_eq(shard_tokens(s), 3);
    shard_read(s, 0, 3, read);
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
    shard_read(s, 0, 3, read);
    cr_expect(read[0] == 5 && read[1] == 50256 && read[2] == 9);
    shard_close(s);
    s = opened(&wide, 1024 + sizeof ids32, 256); /* the header decides, not the vocabulary */
    cr_expect_eq(shard_tokens(s), 2);
    shard_read(s, 0, 2, read);
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

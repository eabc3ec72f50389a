/* Headers that lie, conversions by hand-computed tables, and round trips of safetensors files. */
#include "base/safetensors.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "unit/checkpoints.h"

#define TENSOR(dtype, shape, begin, end)                                                                     \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
#define GOOD TENSOR("F32", "[2,3]", "0", "24")

static const struct {
    const char *header;
    size_t data_bytes;
    const char *message; /* part of it */
} lying[] = {
    {"", 0, "must be JSON that starts with '{'"},
    {"[]", 0, "must be JSON that starts with '{'"},
    {" {}", 0, "must be JSON that starts with '{'"},
    {"{\"a\":" GOOD, 24, "not valid JSON"},
    {"{\"a\":" GOOD ",\"a\":" GOOD "}", 24, "duplicate object key"},
    {"{\"\xff\":" GOOD "}", 24, "not valid JSON"},
    {"{\"a\":" GOOD "} x", 24, "not valid JSON"},
    {"{\"a\":[]}", 0, "must be an object with"},
    {"{\"a\":{\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24, "\"dtype\" must be one of"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,24]}}", 24, "\"shape\" must be a list"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3]}}", 24, "\"data_offsets\" must be a list of two"},
    {"{\"a\":" TENSOR("F31", "[2,3]", "0", "24") "}", 24, "\"dtype\" must be one of"},
    {"{\"a\":" TENSOR("F32", "[2,-3]", "0", "24") "}", 24, "integers, 0 or more"},
    {"{\"a\":" TENSOR("F32", "[2,3.0]", "0", "24") "}", 24, "integers, 0 or more"},
    {"{\"a\":" TENSOR("F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, "at most 8 dimensions"},
    {"{\"a\":" TENSOR("F32", "[4294967296,4294967296]", "0", "24") "}", 24, "more bytes than any file"},
    {"{\"a\":" TENSOR("F32", "[2305843009213693954]", "0", "8") "}", 8, "more bytes than any file"},
    {"{\"a\":" TENSOR("F32", "[2,3]", "0", "20") "}", 20, "different number of bytes"},
    {"{\"a\":" TENSOR("F16", "[2,3]", "0", "24") "}", 24, "different number of bytes"},
    {"{\"a\":" TENSOR("F32", "[2,3]", "-24", "0") "}", 24, "0 <= begin <= end"},
    {"{\"a\":" TENSOR("F32", "[2,3]", "24", "0") "}", 24, "0 <= begin <= end"},
    {"{\"a\":" TENSOR("F32", "[2,3]", "0", "24.0") "}", 24, "list of two integers"},
    {"{\"a\":" GOOD "}", 23, "end beyond the file"},
    {"{\"a\":" GOOD "}", 25, "has something appended"},
    {"{}", 1, "has something appended"},
    {"{\"a\":" TENSOR("F32", "[2]", "4", "12") "}", 12, "leaves a hole"},
    {"{\"a\":" TENSOR("F32", "[2]", "0", "8") ",\"b\":" TENSOR("F32", "[2]", "12", "20") "}", 20,
     "leaves a hole"},
    {"{\"a\":" TENSOR("F32", "[2]", "0", "8") ",\"b\":" TENSOR("F32", "[2]", "4", "12") "}", 12,
     "overlaps another"},
    {"{\"a\":" GOOD ",\"b\":" GOOD "}", 24, "overlaps another"},
    {"{\"__metadata__\":3,\"a\":" GOOD "}", 24, "must be an object of strings"},
    {"{\"__metadata__\":{\"n\":3},\"a\":" GOOD "}", 24, "all values must be strings"},
};

Test(safetensors, refuses_headers_that_lie) {
    for (size_t i = 0; i < sizeof lying / sizeof *lying; i++) {
        size_t size;
        uint8_t *bytes = raw_file(lying[i].header, NULL, lying[i].data_bytes, &size);
        problems *list = problems_create();
        safetensors *file;
        cr_expect_eq(safetensors_parse(bytes, size, "FILE", &file, list), EXIT_INPUT,
                     "case %zu was accepted: %s", i, lying[i].header);
        cr_expect_null(file);
        cr_expect(mentions(list, lying[i].message), "case %zu: expected \"%s\", got: %s", i, lying[i].message,
                  all_messages(list));
        cr_expect(mentions(list, "FILE: "), "case %zu names no file", i);
        problems_destroy(list);
        free(bytes);
    }
}

Test(safetensors, refuses_lengths_that_lie) {
    static const struct {
        uint8_t bytes[10];
        size_t size;
        const char *message;
    } cases[] = {
        {{0}, 0, "too short"},
        {{2, 0, 0, 0, 0, 0, 0}, 7, "too short"},
        {{3, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, 10, "does not fit"},
        {{255, 255, 255, 255, 255, 255, 255, 255, '{', '}'}, 10, "above the format's limit"},
        {{1, 225, 245, 5, 0, 0, 0, 0, '{', '}'}, 10, "above the format's limit"}, /* 100,000,001 */
        {{0, 225, 245, 5, 0, 0, 0, 0, '{', '}'}, 10, "does not fit"},             /* 100,000,000 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        problems *list = problems_create();
        safetensors *file;
        cr_expect_eq(safetensors_parse(cases[i].bytes, cases[i].size, "FILE", &file, list), EXIT_INPUT,
                     "case %zu", i);
        cr_expect(mentions(list, cases[i].message), "case %zu: %s", i, all_messages(list));
        problems_destroy(list);
    }
}

Test(safetensors, accepts_what_the_format_allows) {
    static const char *const headers[] = {
        "{\"a\":" GOOD "}",
        "{\"a\":" GOOD "}   ",
        "{\"__metadata__\":{\"format\":\"pt\"},\"z\":" TENSOR("F32", "[]", "20", "24") ",\"b\":" TENSOR(
            "U8", "[0,7]", "20", "20") ",\"a\":" TENSOR("I32", "[5]", "0", "20") "}",
    };
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        size_t size;
        uint8_t *bytes = raw_file(headers[i], NULL, 24, &size);
        problems *list = problems_create();
        safetensors *file;
        cr_assert_eq(safetensors_parse(bytes, size, "FILE", &file, list), EXIT_OK, "case %zu: %s", i,
                     all_messages(list));
        const safetensor *a = safetensors_find(file, "a");
        cr_expect(a && a->begin == size - 24, "case %zu", i);
        cr_expect_null(safetensors_find(file, "__metadata__"));
        safetensors_close(file);
        problems_destroy(list);
        free(bytes);
    }
}

Test(safetensors, reports_all_bad_tensors_at_once) {
    size_t size;
    uint8_t *bytes = raw_file("{\"first\":[],\"second\":" TENSOR("F33", "[2]", "0", "8") "}", NULL, 8, &size);
    problems *list = problems_create();
    safetensors *file;
    cr_expect_eq(safetensors_parse(bytes, size, "FILE", &file, list), EXIT_INPUT);
    cr_expect(mentions(list, "first") && mentions(list, "second"), "%s", all_messages(list));
    problems_destroy(list);
    free(bytes);
}

Test(safetensors, shows_names_without_control_characters) {
    char shown[SAFETENSORS_SHOWN_BYTES], name[4000];
    cr_expect_str_eq(safetensors_shown("a\x1b[2Jb", shown), "a?[2Jb");
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    cr_expect_eq(strlen(safetensors_shown(name, shown)), SAFETENSORS_SHOWN_BYTES - 1);
    cr_expect_str_eq(shown + SAFETENSORS_SHOWN_BYTES - 4, "...");
}

/* Every truncation and every changed byte of a good file: refused, or accepted with data inside the file. */
static void expect_contained(const uint8_t *bytes, size_t size) {
    problems *list = problems_create();
    safetensors *file;
    exit_code code = safetensors_parse(bytes, size, "FILE", &file, list);
    cr_expect_eq(code == EXIT_OK, problems_count(list) == 0);
    for (int64_t i = 0; !code && i < safetensors_count(file); i++) {
        const safetensor *t = safetensors_at(file, i);
        cr_expect(t->begin <= size && t->bytes <= size - t->begin);
    }
    safetensors_close(file);
    problems_destroy(list);
}

Test(safetensors, survives_truncation_and_changed_bytes) {
    size_t size;
    uint8_t *good = raw_file("{\"a\":" GOOD ",\"b\":" TENSOR("BF16", "[2]", "24", "28") "}", NULL, 28, &size);
    uint8_t *changed = malloc(size);
    for (size_t n = 0; n < size; n++) {
        problems *list = problems_create();
        safetensors *file;
        cr_expect_eq(safetensors_parse(good, n, "FILE", &file, list), EXIT_INPUT,
                     "accepted when cut to %zu bytes", n);
        problems_destroy(list);
    }
    for (size_t at = 0; at < size - 28; at++)
        for (int value = 0; value < 256; value++) {
            memcpy(changed, good, size);
            changed[at] = (uint8_t)value;
            expect_contained(changed, size);
        }
    free(changed);
    free(good);
}

/* ---- Reading into a pack --------------------------------------------------------------------- */

static exit_code read_raw(const char *header, const void *data, size_t data_bytes,
                          const packed_tensor *tensors, int n, float *pack, problems *list) {
    size_t size;
    uint8_t *bytes = raw_file(header, data, data_bytes, &size);
    safetensors *file;
    exit_code code = safetensors_parse(bytes, size, "FILE", &file, list);
    if (!code) code = safetensors_check(file, tensors, n, NULL, list);
    if (!code) code = safetensors_read(file, tensors, n, pack, list);
    safetensors_close(file);
    free(bytes);
    return code;
}

Test(safetensors, converts_f16) {
    static const uint16_t halves[] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x0400, 0x03ff, 0x8001, 0x3555};
    static const float expected[] = {0.0f,     -0.0f,        1.0f,      -2.0f,      65504.0f,
                                     0x1p-14f, 0x1.ff8p-15f, -0x1p-24f, 0x1.554p-2f};
    packed_tensor t = {.name = "a", .n_dims = 1, .dims = {9}};
    float pack[9];
    problems *list = problems_create();
    cr_assert_eq(read_raw("{\"a\":" TENSOR("F16", "[9]", "0", "18") "}", halves, 18, &t, 1, pack, list),
                 EXIT_OK);
    cr_expect_arr_eq(pack, expected, sizeof expected);
    problems_destroy(list);
}

Test(safetensors, converts_bf16) {
    static const uint16_t halves[] = {0x0000, 0x8000, 0x3f80, 0xc049, 0x7f7f, 0x0001};
    static const float expected[] = {0.0f, -0.0f, 1.0f, -3.140625f, 0x1.fep127f, 0x1p-133f};
    packed_tensor t = {.name = "a", .n_dims = 1, .dims = {6}};
    float pack[6];
    problems *list = problems_create();
    cr_assert_eq(read_raw("{\"a\":" TENSOR("BF16", "[6]", "0", "12") "}", halves, 12, &t, 1, pack, list),
                 EXIT_OK);
    cr_expect_arr_eq(pack, expected, sizeof expected);
    problems_destroy(list);
}

Test(safetensors, refuses_values_that_are_not_finite) {
    static const struct {
        const char *dtype, *bytes;
        int element_bytes;
        const char *kind;
    } cases[] = {{"F32", "\0\0\xc0\x7f", 4, "NaN"}, {"F32", "\0\0\x80\xff", 4, "Inf"},
                 {"F16", "\0\x7c", 2, "Inf"},       {"F16", "\1\xfc", 2, "NaN"},
                 {"BF16", "\x80\x7f", 2, "Inf"},    {"BF16", "\xc0\xff", 2, "NaN"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int transposed = 0; transposed < 2; transposed++) {
            char header[200], expected[100];
            uint8_t data[24] = {0};
            int n = cases[i].element_bytes;
            float pack[6];
            packed_tensor t = {.name = "a", .n_dims = 2, .dims = {2, 3}, .transposed = transposed};
            problems *list = problems_create();
            snprintf(header, sizeof header,
                     "{\"a\":{\"dtype\":\"%s\",\"shape\":[2,3],\"data_offsets\":[0,%d]}}", cases[i].dtype,
                     6 * n);
            snprintf(expected, sizeof expected, "\"a\": element [1, 0] is %s", cases[i].kind);
            memcpy(data + 3 * n, cases[i].bytes, (size_t)n);
            cr_expect_eq(read_raw(header, data, (size_t)(6 * n), &t, 1, pack, list), EXIT_INPUT, "case %zu",
                         i);
            cr_expect(mentions(list, expected), "case %zu, transposed %d: expected %s, got %s", i, transposed,
                      expected, all_messages(list));
            problems_destroy(list);
        }
}

Test(safetensors, names_what_is_missing_misshapen_or_unexpected) {
    packed_tensor tensors[] = {{.name = "a", .n_dims = 2, .dims = {3, 2}},
                               {.name = "b", .n_dims = 1, .dims = {2}},
                               {.name = "c", .n_dims = 1, .dims = {2}}};
    float pack[16];
    problems *list = problems_create();
    const char *header = "{\"a\":" GOOD ",\"c\":" TENSOR("I32", "[2]", "24",
                                                         "32") ",\"d\":" TENSOR("F32", "[]", "32", "36") "}";
    cr_expect_eq(read_raw(header, NULL, 36, tensors, 3, pack, list), EXIT_INPUT);
    cr_expect(mentions(list, "\"a\" has shape [2, 3]; it must be [3, 2]"), "%s", all_messages(list));
    cr_expect(mentions(list, "\"b\" is missing; it must be there with shape [2]"), "%s", all_messages(list));
    cr_expect(mentions(list, "\"c\" must be F32, F16 or BF16"), "%s", all_messages(list));
    cr_expect(mentions(list, "\"d\" has no place"), "%s", all_messages(list));
    cr_expect_eq(problems_count(list), 4);
    problems_destroy(list);
}

/* A file is read when its tensors are wanted: what is gone by then is said, and nobody is killed by a signal.
 */
Test(safetensors, a_file_that_becomes_shorter_is_refused) {
    packed_tensor tensors[] = {{.name = "a", .n_dims = 2, .dims = {64, 65}},
                               {.name = "b", .n_dims = 2, .dims = {64, 65}, .transposed = true}};
    char *folder = temporary_folder(), *path = path_in(folder, "x.safetensors");
    float *pack = calloc(2 * 64 * 65, sizeof *pack);
    problems *list = problems_create();
    safetensors *file = NULL;
    tensors[1].offset = 64 * 65;
    cr_assert_eq(safetensors_write(path, tensors, 2, pack, list), EXIT_OK, "%s", all_messages(list));
    for (int which = 0; which < 2; which++) {
        cr_assert_eq(safetensors_open(path, &file, list), EXIT_OK, "%s", all_messages(list));
        cr_assert_eq(truncate(path, which == 0 ? 9000 : 20000), 0);
        cr_expect_eq(safetensors_read(file, &tensors[which], 1, pack, list), EXIT_INPUT);
        safetensors_close(file);
        cr_assert_eq(unlink(path), 0);
        cr_assert_eq(safetensors_write(path, tensors, 2, pack, list), EXIT_OK);
    }
    cr_expect(mentions(list, "became shorter while it was read"), "%s", all_messages(list));
    cr_expect_eq(problems_count(list), 2);
    problems_destroy(list);
    free(pack);
    free(path);
    remove_folder(folder);
}

/* ---- Writing --------------------------------------------------------------------------------- */

Test(safetensors, writes_the_format_to_the_byte) {
    /* at 1: [3, 2], the transpose of the file's [2, 3] */
    static const float pack[] = {9.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f};
    packed_tensor tensors[] = {{.name = "b", .n_dims = 1, .dims = {1}, .offset = 0},
                               {.name = "a", .n_dims = 2, .dims = {2, 3}, .offset = 1, .transposed = true}};
    static const float expected[] = {1.0f, 3.0f, 5.0f, 2.0f, 4.0f, 6.0f, 9.0f};
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},\"a\":" TENSOR(
        "F32", "[2,3]", "0", "24") ",\"b\":" TENSOR("F32", "[1]", "24", "28") "}";
    char *folder = temporary_folder(), *path = path_in(folder, "x.safetensors"),
         *partial = path_in(folder, "x.safetensors.partial");
    problems *list = problems_create();
    uint8_t bytes[512] = {0};
    cr_assert_eq(safetensors_write(path, tensors, 2, pack, list), EXIT_OK, "%s", all_messages(list));
    FILE *in = fopen(path, "rb");
    size_t size = fread(bytes, 1, sizeof bytes, in), padded = (strlen(header) + 7) / 8 * 8;
    fclose(in);
    cr_assert_eq(size, 8 + padded + sizeof expected);
    cr_expect_eq(bytes[0], padded);
    cr_expect_arr_eq(bytes + 8, header, strlen(header));
    for (size_t i = strlen(header); i < padded; i++) cr_expect_eq(bytes[8 + i], ' ');
    cr_expect_arr_eq(bytes + 8 + padded, expected, sizeof expected);
    cr_expect_null(fopen(partial, "rb"), "a partial file stayed behind");
    problems_destroy(list);
    free(partial);
    free(path);
    remove_folder(folder);
}

Test(safetensors, round_trips_every_bit_at_tile_edges) {
    static const int64_t edges[] = {1, 2, 31, 32, 33, 64, 65};
    enum { EDGES = 7 };
    char *folder = temporary_folder(), *path = path_in(folder, "x.safetensors");
    float *pack = malloc(65 * 65 * sizeof *pack), *again = malloc(65 * 65 * sizeof *again);
    /* down to subnormals */
    for (int i = 0; i < 65 * 65; i++) pack[i] = ldexpf((float)(i % 101) - 50.0f, i % 250 - 149);
    pack[0] = -0.0f;
    for (int r = 0; r < EDGES; r++)
        for (int c = 0; c < EDGES; c++)
            for (int transposed = 0; transposed < 2; transposed++) {
                packed_tensor t = {
                    .name = "a", .n_dims = 2, .dims = {edges[r], edges[c]}, .transposed = transposed};
                problems *list = problems_create();
                safetensors *file;
                cr_assert_eq(safetensors_write(path, &t, 1, pack, list), EXIT_OK, "%s", all_messages(list));
                cr_assert_eq(safetensors_open(path, &file, list), EXIT_OK, "%s", all_messages(list));
                cr_assert_eq(safetensors_check(file, &t, 1, NULL, list), EXIT_OK, "%s", all_messages(list));
                cr_assert_eq(safetensors_read(file, &t, 1, again, list), EXIT_OK, "%s", all_messages(list));
                cr_expect_arr_eq(pack, again, (size_t)(edges[r] * edges[c]) * sizeof *pack);
                safetensors_close(file);
                problems_destroy(list);
            }
    free(again);
    free(pack);
    free(path);
    remove_folder(folder);
}

Test(safetensors, says_why_a_file_cannot_be_opened_or_written) {
    char *folder = temporary_folder(), *absent = path_in(folder, "absent/x.safetensors");
    packed_tensor t = {.name = "a", .n_dims = 1, .dims = {1}};
    float pack[1] = {1.0f};
    problems *list = problems_create();
    safetensors *file;
    cr_expect_eq(safetensors_open(absent, &file, list), EXIT_INPUT);
    cr_expect(mentions(list, "cannot be read: No such file"), "%s", all_messages(list));
    cr_expect_eq(safetensors_open(folder, &file, list), EXIT_INPUT);
    cr_expect(mentions(list, "not a regular file"), "%s", all_messages(list));
    cr_expect_eq(safetensors_write(absent, &t, 1, pack, list), EXIT_ENVIRONMENT);
    cr_expect(mentions(list, "cannot be written: No such file"), "%s", all_messages(list));
    problems_destroy(list);
    free(absent);
    remove_folder(folder);
}

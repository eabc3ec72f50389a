/* fuzz_shard.c - any bytes as a token shard: refused with one message, or all ids are below the vocabulary,
 * and examples lie one after the other, each with a prompt and a response.
 *
 *   input = a byte that chooses the vocabulary | the file, whose checksum is made right where it has one */
#define XXH_INLINE_ALL
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "data/examples.h"
#include "memory_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect_known_ids(const shard *s, size_t bytes, int vocabulary, problems *list) {
    int64_t n = shard_tokens(s);
    if (n < 1 || (size_t)n > bytes / 2) abort();
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    if (shard_read(s, 0, n, ids, list) != EXIT_OK) abort();
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocabulary) abort();
    free(ids);
}

static void expect_whole_examples(const shard *s, problems *list) {
    int64_t next = 0, before;
    for (int64_t i = 0; i < shard_examples(s); i++) {
        example e;
        if (shard_example(s, i, &e, list) != EXIT_OK || e.first != next) abort();
        if (e.prompt < 1 || e.tokens <= e.prompt) abort();
        if (shard_examples_before(s, next + 1, &before, list) != EXIT_OK || before != i + 1) abort();
        next += e.tokens;
    }
    if (shard_examples(s) > 0 && next != shard_tokens(s)) abort();
}

/* What guesses would never find. */
static void make_sum_right(uint8_t *file, size_t size) {
    enum { BEFORE = EXAMPLES_HEADER_BYTES - 8 };
    if (size < EXAMPLES_HEADER_BYTES || !examples_known((const char *)file)) return;
    XXH3_state_t *state = XXH3_createState();
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, file, BEFORE);
    XXH3_64bits_update(state, file + EXAMPLES_HEADER_BYTES, size - EXAMPLES_HEADER_BYTES);
    uint64_t sum = XXH3_64bits_digest(state);
    memcpy(file + BEFORE, &sum, sizeof sum);
    XXH3_freeState(state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const int vocabularies[] = {2, 256, 50257, 65536, 65537, 128256, 1 << 24};
    char path[MEMORY_PATH_BYTES];
    shard *s = NULL;
    if (size == 0) return 0;
    int vocabulary = vocabularies[data[0] % (sizeof vocabularies / sizeof *vocabularies)];
    problems *list = problems_create();
    uint8_t *file = malloc(size);
    memcpy(file, data + 1, size - 1);
    make_sum_right(file, size - 1);
    memory_file(file, size - 1, path);
    free(file);
    exit_code code = shard_open(path, vocabulary, &s, list);
    if ((code == EXIT_OK) != (s != NULL) || problems_count(list) != (code == EXIT_OK ? 0 : 1)) abort();
    if (s) expect_known_ids(s, size - 1, vocabulary, list);
    if (s) expect_whole_examples(s, list);
    shard_close(s);
    problems_destroy(list);
    return 0;
}

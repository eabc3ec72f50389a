/* fuzz_shard.c - any bytes as a token shard: refused with one message, or all ids are below the vocabulary.
 *
 *   input = a byte that chooses the vocabulary | the file */
#include <stdlib.h>

#include "data/data.h"
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const int vocabularies[] = {2, 256, 50257, 65536, 65537, 128256, 1 << 24};
    char path[MEMORY_PATH_BYTES];
    shard *s = NULL;
    if (size == 0) return 0;
    int vocabulary = vocabularies[data[0] % (sizeof vocabularies / sizeof *vocabularies)];
    problems *list = problems_create();
    memory_file(data + 1, size - 1, path);
    exit_code code = shard_open(path, vocabulary, &s, list);
    if ((code == EXIT_OK) != (s != NULL) || problems_count(list) != (code == EXIT_OK ? 0 : 1)) abort();
    if (s) expect_known_ids(s, size - 1, vocabulary, list);
    shard_close(s);
    problems_destroy(list);
    return 0;
}

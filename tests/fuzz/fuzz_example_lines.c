/* fuzz_example_lines.c - any bytes as JSON Lines of prompts and responses: refused with messages, or every
 * example has both, of ids below the vocabulary.
 *
 *   input = a byte of options | the file */
#include <stdlib.h>

#include "data/example_lines.h"
#include "memory_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect_examples(const example_lines *r, const line_examples *e) {
    int64_t most = r->ids ? 1000 : 256, next = 0;
    fflush(r->tokens);
    for (int64_t i = 0; i < e->count; i++) {
        const line_example *item = &e->items[i];
        if (item->at != next || item->prompt < 1 || item->tokens <= item->prompt + r->ends) abort();
        if (r->longest > 0 && item->tokens > r->longest) abort();
        if (r->needs_tasks && (!item->tasks || !item->tasks[0])) abort();
        for (int32_t t = 0; t < item->tokens; t++) {
            uint32_t id;
            if (pread(fileno(r->tokens), &id, sizeof id, (next + t) * (off_t)sizeof id) != sizeof id) abort();
            if (id >= most && !(r->ends && t == item->tokens - 1 && id == 999)) abort();
        }
        next += item->tokens;
    }
    if (next != r->written) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static FILE *spool;
    char path[MEMORY_PATH_BYTES];
    if (size == 0) return 0;
    if (!spool) spool = tmpfile();
    rewind(spool);
    example_lines r = {.vocabulary = 1000,
                       .ends = data[0] & 1,
                       .end = 999,
                       .longest = data[0] & 2 ? 9 : 0,
                       .needs_tasks = data[0] & 4,
                       .tokens = spool,
                       .largest = -1};
    line_examples e = {0};
    problems *list = problems_create();
    memory_file(data + 1, size - 1, path);
    exit_code code = example_lines_read(&r, path, DATA_TRAIN, &e, list);
    if ((code == EXIT_OK) != (problems_count(list) == 0)) abort();
    expect_examples(&r, &e);
    line_examples_free(&e);
    example_lines_free(&r);
    problems_destroy(list);
    return 0;
}

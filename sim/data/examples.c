/* examples.c - shards of examples, read and written. Records stay in their file like the tokens, and are
 * checked again as they are read. */
#define XXH_INLINE_ALL
#include "data/examples.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "data/shard.h"

static const char MAGIC[8] = {'C', 'O', 'H', 'O', 'R', 'T', 'E', 'X'};

typedef struct {
    char magic[8];
    uint32_t version, width;
    int64_t examples, tokens;
    uint64_t checksum;
} header;

typedef struct {
    int64_t first;
    int32_t prompt, tokens;
    int64_t line;
} record;

_Static_assert(sizeof(header) == EXAMPLES_HEADER_BYTES && sizeof(record) == EXAMPLES_RECORD_BYTES,
               "the file has no padding");

enum { CHECKSUM_AT = offsetof(header, checksum), RECORDS_AT_ONCE = 2048 };

bool examples_known(const char beginning[8]) {
    return memcmp(beginning, MAGIC, sizeof MAGIC) == 0;
}

/* ---- Opening ---- */

exit_code examples_layout(shard *s, int file, problems *list) {
    header h;
    if (s->bytes < (int64_t)sizeof h)
        return problem(list, EXIT_INPUT, "%s: has no whole header of a shard of examples (truncated?)",
                       s->path);
    exit_code code = shard_read_bytes(s, file, 0, sizeof h, &h, list);
    if (code != EXIT_OK) return code;
    if (h.version != EXAMPLES_VERSION)
        return problem(list, EXIT_INPUT,
                       "%s: a shard of examples of version %u; version %d is known: make it again with "
                       "`cohort data`",
                       s->path, h.version, EXAMPLES_VERSION);
    int64_t payload = s->bytes - (int64_t)sizeof h;
    bool counted = h.examples > 0 && h.examples <= payload / (int64_t)sizeof(record) && h.tokens > 0 &&
                   h.tokens <= payload && (h.width == 2 || h.width == 4);
    if (!counted || payload != h.examples * (int64_t)sizeof(record) + h.tokens * (int64_t)h.width)
        return problem(list, EXIT_INPUT,
                       "%s: the header announces %lld examples with %lld tokens of %u bytes, but %lld bytes "
                       "follow it (truncated?)",
                       s->path, (long long)h.examples, (long long)h.tokens, h.width, (long long)payload);
    s->width = (int)h.width;
    s->count = h.tokens;
    s->examples = h.examples;
    s->first_byte = (int64_t)sizeof h + h.examples * (int64_t)sizeof(record);
    return EXIT_OK;
}

static exit_code check_sum(const shard *s, int file, problems *list) {
    unsigned char bytes[1 << 14];
    uint64_t stored = 0;
    XXH3_state_t hash;
    XXH3_64bits_reset(&hash);
    exit_code code = shard_read_bytes(s, file, 0, EXAMPLES_HEADER_BYTES, bytes, list);
    if (code != EXIT_OK) return code;
    memcpy(&stored, bytes + CHECKSUM_AT, sizeof stored);
    XXH3_64bits_update(&hash, bytes, CHECKSUM_AT);
    for (int64_t at = EXAMPLES_HEADER_BYTES; at < s->bytes;) {
        int64_t n = s->bytes - at < (int64_t)sizeof bytes ? s->bytes - at : (int64_t)sizeof bytes;
        code = shard_read_bytes(s, file, at, n, bytes, list);
        if (code != EXIT_OK) return code;
        XXH3_64bits_update(&hash, bytes, (size_t)n);
        at += n;
    }
    if (XXH3_64bits_digest(&hash) == stored) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "%s: does not match its checksum: it is damaged; make it again with `cohort data`",
                   s->path);
}

static bool is_good(const shard *s, const record *r) {
    return r->first >= 0 && r->prompt > 0 && r->tokens > r->prompt && r->tokens <= s->count - r->first;
}

static exit_code check_records(shard *s, int file, problems *list) {
    record records[RECORDS_AT_ONCE];
    int64_t next = 0;
    for (int64_t first = 0; first < s->examples; first += RECORDS_AT_ONCE) {
        int64_t n = s->examples - first < RECORDS_AT_ONCE ? s->examples - first : RECORDS_AT_ONCE;
        exit_code code = shard_read_bytes(s, file, EXAMPLES_HEADER_BYTES + first * (int64_t)sizeof *records,
                                          n * (int64_t)sizeof *records, records, list);
        if (code != EXIT_OK) return code;
        for (int64_t i = 0; i < n; i++) {
            const record *r = &records[i];
            if (r->first != next || !is_good(s, r))
                return problem(
                    list, EXIT_INPUT,
                    "%s: example %lld is said to begin at token %lld with a prompt of %d tokens and "
                    "%d in all, which cannot be; make the shard again with `cohort data`",
                    s->path, (long long)(first + i), (long long)r->first, r->prompt, r->tokens);
            next += r->tokens;
            if (r->tokens > s->longest_example) s->longest_example = r->tokens;
            if (r->prompt > s->longest_prompt) s->longest_prompt = r->prompt;
        }
    }
    if (next == s->count) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "%s: its examples have %lld tokens, but there are %lld; make it again "
                   "with `cohort data`",
                   s->path, (long long)next, (long long)s->count);
}

exit_code examples_check(shard *s, int file, problems *list) {
    exit_code code = check_sum(s, file, list);
    return THEN(code, check_records(s, file, list));
}

/* ---- Reading ---- */

int64_t shard_examples(const shard *s) {
    return s->examples;
}

static exit_code read_example(const shard *s, int file, int64_t index, example *out, problems *list) {
    record r;
    exit_code code =
        shard_read_bytes(s, file, EXAMPLES_HEADER_BYTES + index * (int64_t)sizeof r, sizeof r, &r, list);
    if (code != EXIT_OK) return code;
    *out = (example){.first = r.first, .prompt = r.prompt, .tokens = r.tokens, .line = r.line};
    if (is_good(s, &r) && r.tokens <= s->longest_example && r.prompt <= s->longest_prompt) return EXIT_OK;
    return problem(
        list, EXIT_RUN,
        "%s: the record of example %lld has changed; a shard must stay as it is while it is in use: "
        "restore it, and go on from the last checkpoint",
        s->path, (long long)index);
}

exit_code shard_example(const shard *s, int64_t index, example *out, problems *list) {
    int file;
    exit_code code = shard_enter(s, &file, list);
    THEN(code, read_example(s, file, index, out, list));
    shard_leave(s, file);
    return code;
}

exit_code shard_examples_before(const shard *s, int64_t position, int64_t *count, problems *list) {
    int64_t low = 0, high = s->examples; /* examples below `low` begin before, those from `high` on do not */
    int file;
    exit_code code = shard_enter(s, &file, list);
    while (code == EXIT_OK && low < high) {
        int64_t middle = low + (high - low) / 2;
        example at;
        code = read_example(s, file, middle, &at, list);
        if (code == EXIT_OK && at.first < position)
            low = middle + 1;
        else
            high = middle;
    }
    shard_leave(s, file);
    *count = low;
    return code;
}

/* ---- Writing ---- */

static int put(examples_writer *w, const void *bytes, size_t size) {
    XXH3_64bits_update(w->hash, bytes, size);
    return fwrite(bytes, 1, size, w->file) == size ? 0 : -1;
}

int examples_begin(examples_writer *w, FILE *file, int64_t examples, int64_t tokens, int width) {
    header h = {
        .version = EXAMPLES_VERSION, .width = (uint32_t)width, .examples = examples, .tokens = tokens};
    memcpy(h.magic, MAGIC, sizeof MAGIC);
    *w = (examples_writer){.file = file, .width = width, .hash = XXH3_createState()};
    errno = ENOMEM;
    if (!w->hash) return -1;
    XXH3_64bits_reset(w->hash);
    if (put(w, &h, CHECKSUM_AT) != 0) return -1;
    return fwrite(&h.checksum, sizeof h.checksum, 1, file) == 1 ? 0 : -1;
}

int examples_put_record(examples_writer *w, int32_t prompt, int32_t tokens, int64_t line) {
    record r = {.first = w->next, .prompt = prompt, .tokens = tokens, .line = line};
    w->next += tokens;
    return put(w, &r, sizeof r);
}

int examples_put_tokens(examples_writer *w, const uint32_t *tokens, int64_t count) {
    uint16_t narrow[4096];
    if (w->width == 4) return put(w, tokens, (size_t)count * sizeof *tokens);
    for (int64_t first = 0; first < count; first += 4096) {
        size_t n = (size_t)(count - first < 4096 ? count - first : 4096);
        for (size_t i = 0; i < n; i++) narrow[i] = (uint16_t)tokens[first + (int64_t)i];
        if (put(w, narrow, n * sizeof *narrow) != 0) return -1;
    }
    return 0;
}

int examples_end(examples_writer *w) {
    if (!w->hash) return -1;
    uint64_t checksum = XXH3_64bits_digest(w->hash);
    XXH3_freeState(w->hash);
    w->hash = NULL;
    if (fseeko(w->file, CHECKSUM_AT, SEEK_SET) != 0) return -1;
    return fwrite(&checksum, sizeof checksum, 1, w->file) == 1 ? 0 : -1;
}

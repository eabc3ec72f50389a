/* examples.h - shards of examples: prompts and their responses as token ids, one example after the other, and
 * where each of them lies.
 *
 *   header   40 bytes: char magic[8] = "COHORTEX", uint32 version = 1, uint32 width (bytes a token: 2 or 4),
 *            int64 examples, int64 tokens, uint64 checksum
 *   records  [examples], 24 bytes each: int64 first (token), int32 prompt (tokens), int32 tokens (with the
 *            response), int64 line (of the text file that it was read from)
 *   tokens   [tokens] ids of that width
 *
 * Everything is little-endian. The checksum is XXH3-64 of all bytes before and behind it. Examples lie in
 * order and without gaps: first of example i + 1 is first + tokens of example i. Prompts and responses have a
 * token each at least.
 *
 * A window on an example has all its tokens but the last, and as targets all but the first; a target is
 * counted if it is of the response:
 *
 *   prompt p p p, response r r       tokens  p  p  p  r
 *                                    targets -  -  r  r       -: -1, not counted
 */
#ifndef COHORT_EXAMPLES_H
#define COHORT_EXAMPLES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "data/data.h"

enum { EXAMPLES_HEADER_BYTES = 40, EXAMPLES_RECORD_BYTES = 24, EXAMPLES_VERSION = 1 };

typedef struct {
    int64_t first;          /* token of the shard */
    int32_t prompt, tokens; /* tokens: of prompt and response together */
    int64_t line;
} example;

/* ---- Reading ---- */

/* Whether a file begins as a shard of examples. */
bool examples_known(const char beginning[8]);
/* For shard_open(): from the header the shard's layout; then checksum and records. */
exit_code examples_layout(shard *s, int file, problems *list);
exit_code examples_check(shard *s, int file, problems *list);

/* 0: the shard is running text. */
int64_t shard_examples(const shard *s);
exit_code shard_example(const shard *s, int64_t index, example *out, problems *list);
/* The number of examples that begin before token `position`. */
exit_code shard_examples_before(const shard *s, int64_t position, int64_t *count, problems *list);

/* ---- Writing ---- */

typedef struct {
    FILE *file; /* borrowed */
    int width;
    int64_t next; /* the first token of the next record */
    void *hash;   /* of what was written */
} examples_writer;

/* `file` is open for writing, at its beginning. Then come all records, in order, and all tokens;
 * examples_end() puts the checksum in its place and is called in any case. Each returns 0, or -1 with errno.
 */
int examples_begin(examples_writer *w, FILE *file, int64_t examples, int64_t tokens, int width);
int examples_put_record(examples_writer *w, int32_t prompt, int32_t tokens, int64_t line);
int examples_put_tokens(examples_writer *w, const uint32_t *tokens, int64_t count);
int examples_end(examples_writer *w);

#endif

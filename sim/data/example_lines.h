/* example_lines.h - JSON Lines of prompts and responses, as `cohort data` reads them: an object a line,
 *
 *   {"prompt": .., "response": .., "task": ..}
 *
 * prompt and response are both text, whose UTF-8 bytes are tokens, or both arrays of token ids; none may be
 * empty, and all lines of a corpus are alike. task is a name or a list of names, needed only where examples
 * are told apart by it. Other keys are passed over, and blank lines say nothing. */
#ifndef COHORT_EXAMPLE_LINES_H
#define COHORT_EXAMPLE_LINES_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "data/data.h"

typedef struct {
    uint64_t prompt_hash[2],
        hash[2];            /* XXH3, 128 bits, of the prompt's tokens; of all, and where the prompt ends */
    int64_t at;             /* of its first token in example_lines.tokens */
    int32_t prompt, tokens; /* tokens: of prompt and response together */
    int64_t line;
    data_part part; /* of the file that it stands in; DATA_SPLITS: still to be assigned */
    char *tasks;    /* "summary+german", owned; NULL: the line has none */
} line_example;

/* All examples of one source. */
typedef struct {
    line_example *items; /* [count] */
    int64_t count, room;
    int64_t longer; /* left out, because they have more tokens than example_lines.longest */
} line_examples;

typedef struct {
    /* given */
    int64_t vocabulary; /* ids must be below it; 0: any */
    bool ends;          /* every response gets the id `end` behind it */
    int64_t end;
    int64_t longest; /* tokens; 0: any */
    bool needs_tasks;
    FILE *tokens; /* uint32 ids of all examples, in the order in which they were read; borrowed */
    /* found */
    int64_t largest;           /* id; -1: none yet */
    int64_t written;           /* ids in `tokens` */
    bool any, ids;             /* there is an example; it has ids */
    char first[PATH_MAX + 32]; /* "FILE:LINE" of it */
    uint32_t *buffer;          /* [room] */
    int64_t room;
} example_lines;

/* The examples of a file, behind those that `out` has. Every line that is wrong is reported, up to a hundred
 * of a file. */
exit_code example_lines_read(example_lines *r, const char *path, data_part part, line_examples *out,
                             problems *list);
void example_lines_free(example_lines *r);
void line_examples_free(line_examples *e);

#endif

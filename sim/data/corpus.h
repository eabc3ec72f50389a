/* corpus.h - the text behind a corpus, for device_data.c. */
#ifndef COHORT_CORPUS_H
#define COHORT_CORPUS_H

#include "data/data.h"

/* A stretch of a source's text. */
typedef struct {
    const shard *text;
    int64_t first, count; /* tokens of `text` */
    /* of a shard of examples, else 0: those in this stretch, which has no others' tokens */
    int64_t first_example, examples;
    int source;
    double start, end; /* as of text_share (split.h) */
    bool shared;       /* other devices have some of it as their training text, too */
    shard *owned;      /* NULL, or `text`: made for this stretch, its holder closes it */
} text_range;

/* Where a corpus comes from, for messages. */
const char *corpus_path(const corpus *c);
/* How much text a source can give to devices that ask for a number of tokens: its shard, or the endless
 * synthetic text. */
int64_t corpus_text_tokens(const corpus *c, int source, data_part part);
/* Tokens [first, first + count) of that text; of examples those that begin there, whole: their tokens are the
 * stretch then, and there may be none. */
exit_code corpus_text(const corpus *c, int source, data_part part, int64_t first, int64_t count,
                      text_range *out, problems *list);
/* Leaves a stretch only its first examples, so many of those that it has. */
exit_code corpus_keep_examples(text_range *range, int64_t examples, problems *list);

#endif

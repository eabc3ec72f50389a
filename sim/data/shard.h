/* shard.h - shards as the other files of data/ make and read them. */
#ifndef COHORT_SHARD_H
#define COHORT_SHARD_H

#include "data/data.h"

struct shard {
    char *path;         /* owned; NULL: in memory */
    int file;           /* -1: opened for each read */
    int width;          /* bytes a token: 2 or 4 */
    int64_t bytes;      /* of the file, when it was opened */
    int64_t first_byte; /* of the first token */
    int64_t count;      /* tokens */
    uint32_t vocabulary;
    uint16_t *tokens; /* [count], owned, of a shard in memory */
    /* of a shard of examples (examples.h), else 0: how many, and the most tokens of one and of a prompt */
    int64_t examples;
    int32_t longest_example, longest_prompt;
};

/* Takes over `tokens` (malloc'd, [count]); NULL, and `tokens` freed, if there is no memory. */
shard *shard_of_memory(uint16_t *tokens_owned, int64_t count);

/* For several reads in a row: the shard's file, which shard_leave() gives back. -1: it is in memory. */
exit_code shard_enter(const shard *s, int *file, problems *list);
void shard_leave(const shard *s, int file);
/* Bytes [at, at + bytes) of the file. EXIT_RUN where they are gone. */
exit_code shard_read_bytes(const shard *s, int file, int64_t at, int64_t bytes, void *out, problems *list);

#endif

/* shard_files.h - which files of a folder are the shards of a corpus: train_<i>.bin, valid_<i>.bin,
 * test_<i>.bin, i in any number of digits. */
#ifndef COHORT_SHARD_FILES_H
#define COHORT_SHARD_FILES_H

#include <stdint.h>

#include "data/data.h"

typedef struct {
    int64_t number; /* of the source: train_007.bin has 7 */
    data_part part;
    char *name; /* owned */
} shard_file;

typedef struct {
    shard_file *files; /* [count], by number and part: three of each source */
    int64_t count;
    int sources;
} shard_files;

/* Refused: a folder without shards, a source without all three, numbers with gaps, too large, or given to two
 * files. */
exit_code shard_files_find(const char *folder, shard_files *out, problems *list);
void shard_files_free(shard_files *s);
/* About what a corpus keeps in memory of all shards in a folder, the list above included while it is opened.
 */
int64_t shard_files_bytes(const char *folder);

#endif

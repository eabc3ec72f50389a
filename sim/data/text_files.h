/* text_files.h - the files of one source of `cohort data`, in an order that only their content decides. */
#ifndef COHORT_TEXT_FILES_H
#define COHORT_TEXT_FILES_H

#include <stdint.h>

#include "data/data.h"
#include "support/problems.h"

/* What a source has and does not give to its shards. */
typedef struct {
    int empty, copies; /* files */
    int hidden;        /* files and folders */
} left_out;

typedef struct {
    uint64_t hash[2]; /* XXH3, 128 bits, of the content */
    int64_t bytes;
    data_part part; /* DATA_TRAIN until assigned */
    char *path;
} text_file;

typedef struct {
    /* [count], ordered by hash; files of equal content appear once, empty ones not at all */
    text_file *files;
    int count;
    int64_t bytes; /* of all files */
    left_out left_out;
} text_files;

/* `path` is a file, or a folder that is walked to the bottom; links are followed. Names that begin with a
 * dot, empty files and copies are left out, and counted. All else that is no text is refused, each file by
 * its name: pipes, links to nothing or back to a folder that they lie in, token shards, JSON Lines, and files
 * that are not made of characters. */
exit_code text_files_find(const char *path, text_files *out, problems *list);
void text_files_free(text_files *t);

/* The whole content (malloc'd); *bytes receives its size. */
exit_code text_file_read(const char *path, unsigned char **content, int64_t *bytes, problems *list);

#endif

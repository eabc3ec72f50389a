/* text_files.h - the files of one source of `cohort data`, in an order that only their content decides. */
#ifndef COHORT_TEXT_FILES_H
#define COHORT_TEXT_FILES_H

#include <stdint.h>

#include "data/data.h"
#include "problems.h"

typedef struct {
    uint64_t hash[2]; /* XXH3, 128 bits, of the content */
    int64_t bytes;
    data_part part; /* DATA_TRAIN until dealt */
    char *path;
} text_file;

typedef struct {
    text_file *files; /* [count], ordered by hash; files of equal content appear once, empty ones not at all */
    int count;
    int64_t bytes; /* of all files */
} text_files;

/* `path` is a file, or a folder that is walked to the bottom; names that begin with a dot are left out. */
exit_code text_files_find(const char *path, text_files *out, problems *list);
void text_files_free(text_files *t);

/* The whole content (malloc'd); *bytes receives its size. */
exit_code text_file_read(const char *path, unsigned char **content, int64_t *bytes, problems *list);

#endif

/* sources.h - sources.json beside the shards: {"sources": [{"name": .., "files": {..}, "tokens": {..},
 * "left_out": {..}}, ..]}. */
#ifndef COHORT_SOURCES_H
#define COHORT_SOURCES_H

#include <stdbool.h>
#include <stdint.h>

#include "data/data.h"
#include "data/text_files.h"

typedef struct {
    char *name;
    int64_t files[DATA_SPLITS], tokens[DATA_SPLITS]; /* -1: not stated */
    left_out left_out;                               /* 0 where not stated */
} source_note;

typedef struct {
    source_note *notes; /* [count] */
    int count;
} source_notes;

/* A folder without the file has no notes, which is no problem. */
exit_code sources_read(const char *folder, source_notes *out, problems *list);
void sources_free(source_notes *s);

#endif

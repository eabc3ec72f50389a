/* sources.h - sources.json beside the shards: {"sources": [{"name": .., "files": {..}, "tokens": {..},
 * "left_out": {..}}, ..]}; of examples "examples" in place of "files". */
#ifndef COHORT_SOURCES_H
#define COHORT_SOURCES_H

#include <stdbool.h>
#include <stdint.h>

#include "data/data.h"
#include "data/text_files.h"

typedef struct {
    char *name;
    /* -1: not stated; a source has files, or examples */
    int64_t files[DATA_SPLITS], examples[DATA_SPLITS], tokens[DATA_SPLITS];
    left_out left_out; /* 0 where not stated */
    int64_t longer;    /* examples that were left out */
} source_note;

typedef struct {
    source_note *notes; /* [count] */
    int count;
} source_notes;

/* A folder without the file has no notes, which is no problem. */
exit_code sources_read(const char *folder, source_notes *out, problems *list);
void sources_free(source_notes *s);

#endif

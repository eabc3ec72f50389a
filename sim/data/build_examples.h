/* build_examples.h - the part of `cohort data` that makes shards of examples (examples.h). */
#ifndef COHORT_BUILD_EXAMPLES_H
#define COHORT_BUILD_EXAMPLES_H

#include <jansson.h>
#include <stdbool.h>

#include "data/data.h"

/* A file named .jsonl or .ndjson, or a folder with train.jsonl, valid.jsonl or test.jsonl. */
bool examples_are_at(const char *path);
/* Such a folder: the files are the splits. */
bool examples_are_divided(const char *path);
/* Writes the shards of all sources into `folder`, appends their descriptions to `sources`, and tells how many
 * ids there are. */
exit_code build_examples(const data_build *o, const char *folder, json_t *sources, int64_t *vocabulary,
                         problems *list);

#endif

/* batch_folders.h - the folders of a result of several runs, and which of them has which population.
 *
 *   FOLDER/                   the result so far: complete, or nothing but config.yaml
 *   FOLDER/batches/config.yaml   all that is asked for: with it --resume goes on
 *   FOLDER/batches/0, 1, ...  each a result of some populations
 *   FOLDER/batches/merging    the merged result while it is written
 *   FOLDER/batches/merged     the same when it is whole: from here on its files replace those of FOLDER
 *   FOLDER/batches.done       what is no longer needed, on its way out
 *
 * A population is recognised by a hash of what determines its numbers (settings_point_hash). So it may have
 * another name, and another place in the configuration, than in the run that computed it. */
#ifndef COHORT_BATCH_FOLDERS_H
#define COHORT_BATCH_FOLDERS_H

#include <stdbool.h>

#include "result/merge.h"
#include "result/trace.h"
#include "run/folders.h"
#include "settings/settings.h"
#include "support/problems.h"

typedef struct {
    char path[FOLDER_PATH_BYTES];
    settings *settings; /* its config.yaml; owned */
    int number;         /* of the batch; -1: it is the result's own folder */
    bool complete;
    /* Its populations are not those of the configuration, or have another order or other names. */
    bool renamed;
    trace_state *states; /* [its populations] owned; zeros where it has no trace yet */
} found_part;

typedef struct {
    int n_parts;
    found_part *parts;     /* owned; the result's own folder is the first, if a run has begun in it */
    merge_source *sources; /* [n_populations] of the configuration; part -1: it is in no part; owned */
    bool batches;          /* there is a folder of batches */
    int next_number;       /* of the next batch */
} found_parts;

/* Finds the populations of `s` in `folder`. First it ends a replacement that was interrupted. With
 * retry_failed, populations of the result's own folder that diverged count as missing, unless a batch has
 * them. Refuses a result that has populations which `s` lacks, and batches that cannot be read. `out` is to
 * be freed whatever the code. */
exit_code batches_find(const settings *s, const char *folder, bool retry_failed, found_parts *out,
                       problems *list);
void found_parts_free(found_parts *found);

/* FOLDER/batches/NAME; NULL: the folder of batches itself. */
void batches_path(const char *folder, const char *name, char out[FOLDER_PATH_BYTES]);
/* Makes the folder of batches, and writes config.yaml there, and in `folder` where there is no result yet. */
exit_code batches_begin(const settings *s, const char *folder, bool has_result, problems *list);
/* Called when batches/merging is whole. Its files replace those of the result, and then the batches are
 * removed. If it is interrupted, the next batches_find() ends it. */
exit_code batches_replace(const char *folder, problems *list);

#endif

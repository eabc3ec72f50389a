/* folders.h - the files of a result. */
#ifndef COHORT_FOLDERS_H
#define COHORT_FOLDERS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/base.h"
#include "result/trace.h"
#include "run/run.h"
#include "settings/settings.h"
#include "support/cache.h"
#include "support/lock.h"
#include "support/problems.h"

typedef struct {
    char path[FOLDER_PATH_BYTES];
    bool fresh;        /* without --resume: nothing may be in it */
    bool finished;     /* with --resume: its summary is there */
    bool resumes;      /* with --resume: it has a checkpoint */
    run_lock lock;     /* from result_begin() to result_end() */
    bool tuned;        /* the folder may hold what run/tune.h writes */
    const char *whole; /* of a batch: the result that it is a part of; else NULL */
} result_folder;

/* Picks the folder: --out, with --resume the folder of a configuration that is a result's own, else
 * results/NAME-HASH. Refuses one that holds something unless it is to be resumed, with --resume one of
 * another configuration, one that another run writes to, and one that cannot be written. Writes nothing, so
 * that a run that cannot start leaves nothing. */
exit_code result_choose(const settings *s, const run_options *options, result_folder *out, problems *list);
/* Only the first of that: where the result is. */
exit_code result_find(const settings *s, const run_options *options, result_folder *out, problems *list);
/* Says in what they differ. old: of the result's config.yaml. */
exit_code result_refuse_settings(const settings *s, const settings *old, const result_folder *folder,
                                 problems *list);
/* Whole or not at all; what may follow a failure is --resume. */
exit_code result_write_text(const char *path, const char *text, problems *list);
exit_code result_write_config(const settings *s, const char *path, problems *list);
/* Makes the folder, locks it, and writes config.yaml. */
exit_code result_begin(const settings *s, result_folder *folder, problems *list);
/* base.json: the shape of a base that was loaded (its config.json), so that nothing outside the folder is
 * needed to read the result. */
exit_code result_keep_base(const settings *s, const base_shape *shape, const result_folder *folder,
                           problems *list);
void result_end(result_folder *folder);
/* FOLDER/NAME; false: it is too long. */
bool folder_join(char out[FOLDER_PATH_BYTES], const char *folder, const char *name);
/* The same of a folder that left room for it. */
void result_path(const result_folder *folder, const char *name, char out[FOLDER_PATH_BYTES]);

#endif

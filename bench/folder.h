/* folder.h - where a bench keeps its inputs and outputs. */
#ifndef COHORT_BENCH_FOLDER_H
#define COHORT_BENCH_FOLDER_H

#include "job.h"

/* keep NULL: a new temporary folder ($TMPDIR, else /tmp); else that folder, which must not exist.
 * folder_remove() of output_folder.h removes it. */
exit_code folder_make(const char *keep, char path[JOB_PATH_BYTES], problems *list);

#endif

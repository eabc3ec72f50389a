/* folder.h - where a bench keeps its inputs and outputs. */
#ifndef COHORT_BENCH_FOLDER_H
#define COHORT_BENCH_FOLDER_H

#include "support/problems.h"

enum { FOLDER_PATH_BYTES = 4096 };

/* keep NULL: a new temporary folder ($TMPDIR, else /tmp); else that folder, which must not exist.
 * folder_remove() of output_folder.h removes it. */
exit_code folder_make(const char *keep, char path[FOLDER_PATH_BYTES], problems *list);

#endif

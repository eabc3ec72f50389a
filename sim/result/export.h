/* export.h - any table of trace.h5 as tidy CSV: one observation a line, every column named, the same key
 * columns (population, seed, device, round) in all tables, so that they can be joined. A value that was not
 * measured has no line. */
#ifndef COHORT_TRACE_EXPORT_H
#define COHORT_TRACE_EXPORT_H

#include <stdio.h>

#include "support/problems.h"

/* A table of the result in `folder`, also of a run that is still going: to `path` (output_file.h), or, where
 * path is NULL, to `out`. An unknown name is refused with the list of names; so is a path that is a file of
 * the result itself, or whose name promises another format than CSV. */
exit_code trace_export(const char *folder, const char *table, FILE *out, const char *path, problems *list);
/* Every table the result has, as NAME.csv in the folder `out` (made with its parents if it is not there). */
exit_code trace_export_all(const char *folder, const char *out, problems *list);

#endif

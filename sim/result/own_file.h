/* own_file.h - what a command writes for a user must not be a file of a result. */
#ifndef COHORT_OWN_FILE_H
#define COHORT_OWN_FILE_H

#include "support/problems.h"

/* EXIT_INPUT where --out `path` is a file of the result in the folder `result`, however it is spelled, or one
 * that its run has yet to write; or where it is the file `result`. */
exit_code own_file_refuse(const char *command, const char *result, const char *path, problems *list);

#endif

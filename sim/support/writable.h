/* writable.h - whether a folder can be made at a path, asked before work is spent on what is to go there. */
#ifndef COHORT_WRITABLE_H
#define COHORT_WRITABLE_H

#include "support/problems.h"

/* Makes an entry in the nearest folder at or above `path` that exists, and removes it: permissions alone do
 * not say what root may do, or what a file system allows. `what` is what would be written ("the result").
 * EXIT_INPUT with the folder and the reason if it cannot. */
exit_code writable_check(const char *path, const char *what, problems *list);

#endif

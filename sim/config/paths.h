/* paths.h - what the paths of a configuration lead to. They are read from the current folder; a result keeps
 * them absolute, so that it can be used from any other. */
#ifndef COHORT_PATHS_H
#define COHORT_PATHS_H

#include "config/table.h"

/* A value that is a path: not absent, and not the row's word in place of one. */
bool setting_is_path(const setting_row *row, const void *base);
/* Where that path leads, absolute; NULL if it is none, or nothing is there. malloc'd. */
char *setting_path(const setting_row *row, const void *base);

#endif

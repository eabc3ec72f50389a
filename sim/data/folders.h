/* folders.h - a folder that appears whole or not at all. */
#ifndef COHORT_FOLDERS_H
#define COHORT_FOLDERS_H

#include <stdbool.h>
#include <stddef.h>

#include "problems.h"

/* True if nothing is at `path`, or an empty folder. */
bool folder_is_free(const char *path);
/* Creates the parents of `path` and an empty folder next to it, named in out[size]; rename() then puts it in place. */
exit_code folder_create_beside(const char *path, size_t size, char *out, problems *list);
/* Removes a folder and all that is in it. */
void folder_remove(const char *path);

#endif

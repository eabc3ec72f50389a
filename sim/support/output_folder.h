/* output_folder.h - a folder that a command fills: it appears whole or not at all.
 *
 * Where nothing is at the path yet, all is written to a folder beside it, which takes the path by one rename.
 * An empty folder of any sort (".", a link to one, a mount point) stays the folder it is: all is written to a
 * folder within it, and goes up when it is complete. */
#ifndef COHORT_OUTPUT_FOLDER_H
#define COHORT_OUTPUT_FOLDER_H

#include <stdbool.h>

#include "support/problems.h"

enum { OUTPUT_PATH_BYTES = 4096 };

typedef struct {
    char path[OUTPUT_PATH_BYTES]; /* as the user gave it, without slashes at its end */
    char work[OUTPUT_PATH_BYTES]; /* the folder to write to until the end */
    bool inside;                  /* `work` lies within `path`, else beside it */
    /* what stands at `path` already, of the same names, gives way; else it is an error */
    bool replaces;
} output_folder;

/* ".", "..", and the lost+found of a file system: entries that an empty folder may have. */
bool folder_is_nothing(const char *name);
/* True if nothing is at `path`, or an empty folder. */
bool folder_is_free(const char *path);
bool folder_is_there(const char *path);
/* mkdir -p. EXIT_INPUT with the folder that cannot be made. */
exit_code folder_create(const char *path, problems *list);
/* Removes a folder and all that is in it. */
void folder_remove(const char *path);

/* Whether a command may fill `path`: it is free and can be written. Asked before any work; `what` is what
 * would be written. */
exit_code output_folder_check(const char *path, const char *what, problems *list);
/* Makes the parents and out->work. */
exit_code output_folder_begin(const char *path, output_folder *out, problems *list);
/* `code` EXIT_OK: syncs what is in `work` as far as folders go, and puts it in its place. Otherwise removes
 * it. Returns the first failure.
 */
exit_code output_folder_end(const output_folder *folder, exit_code code, problems *list);

#endif

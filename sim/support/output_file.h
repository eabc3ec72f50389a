/* output_file.h - a file that a command writes where the user says: whole or not at all, and nobody else's
 * file is touched on the way.
 *
 * What stands at the path decides. A regular file, or nothing: a new file is written beside it, under a name
 * that nobody has, and takes its place by one rename; of a link, the file that it leads to. Anything else (a
 * device, a FIFO, /dev/fd/N, /dev/stdout) is opened and written in place. */
#ifndef COHORT_OUTPUT_FILE_H
#define COHORT_OUTPUT_FILE_H

#include <stdio.h>

#include "support/output_folder.h"
#include "support/problems.h"

typedef struct {
    FILE *stream;                    /* open from begin to end */
    char path[OUTPUT_PATH_BYTES];    /* as the user gave it */
    char target[OUTPUT_PATH_BYTES];  /* what it leads to */
    char partial[OUTPUT_PATH_BYTES]; /* what is written and then renamed; "": written in place */
} output_file;

/* Follows the links of `path`, also to a file that is not there yet. *descriptor: the open file of this
 * process that it names (N of /dev/fd/N), or -1. EXIT_INPUT where links lead in a circle, or the path is too
 * long. */
exit_code output_file_target(const char *path, char target[OUTPUT_PATH_BYTES], int *descriptor,
                             problems *list);

exit_code output_file_begin(const char *path, output_file *out, problems *list);
/* `code` EXIT_OK: everything is written and in its place. Otherwise nothing is left of it but what went to a
 * place that is no regular file. Returns the first failure. */
exit_code output_file_end(output_file *file, exit_code code, problems *list);

#endif

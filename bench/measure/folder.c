#include "measure/folder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

exit_code folder_make(const char *keep, char path[FOLDER_PATH_BYTES], problems *list) {
    const char *temporary = getenv("TMPDIR");
    if (keep)
        snprintf(path, FOLDER_PATH_BYTES, "%s", keep);
    else
        snprintf(path, FOLDER_PATH_BYTES, "%s/cohort-bench-XXXXXX", temporary ? temporary : "/tmp");
    if (keep ? mkdir(path, 0777) != 0 : !mkdtemp(path))
        return problem(list, EXIT_ENVIRONMENT, "%s: the folder cannot be made: %s", path, strerror(errno));
    char *real = realpath(path, NULL); /* configurations name it from elsewhere */
    if (!real) return problem(list, EXIT_ENVIRONMENT, "%s: %s", path, strerror(errno));
    snprintf(path, FOLDER_PATH_BYTES, "%s", real);
    free(real);
    return EXIT_OK;
}

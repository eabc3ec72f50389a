#include "support/writable.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Cuts `path` down to the part of it that exists. 0, or an errno. */
static int nearest_existing(char *path) {
    struct stat info;
    while (lstat(path, &info) != 0) {
        if ((errno != ENOENT && errno != ENOTDIR) || strcmp(path, ".") == 0) return errno;
        char *slash = strrchr(path, '/');
        if (!slash)
            strcpy(path, ".");
        else
            slash[slash == path] = '\0';
    }
    return 0;
}

/* 0, or an errno. */
static int try_entry(const char *folder) {
    char *entry;
    if (asprintf(&entry, "%s/.cohort-XXXXXX", folder) < 0) return ENOMEM;
    int failure = mkdtemp(entry) && rmdir(entry) == 0 ? 0 : errno;
    free(entry);
    return failure;
}

exit_code writable_check(const char *path, const char *what, problems *list) {
    struct stat info;
    exit_code code = EXIT_OK;
    char *part = malloc(strlen(path) + 2); /* room for "." */
    if (!part) return problem(list, EXIT_ENVIRONMENT, "%s: no memory", path);
    strcpy(part, path);
    int failure = nearest_existing(part);
    bool folder = failure == 0 && stat(part, &info) == 0 && S_ISDIR(info.st_mode);
    if (folder) failure = try_entry(part);
    if (failure)
        code = problem(list, EXIT_INPUT, "%s: %s cannot be written there: %s: %s", path, what, part,
                       strerror(failure));
    else if (!folder)
        code = problem(list, EXIT_INPUT, "%s: %s cannot be written there: %s is no folder", path, what, part);
    free(part);
    return code;
}

#include "settings/corpus_folder.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

char *corpus_folder(const char *name) {
    char *below = NULL;
    if (is_folder(name)) return strdup(name);
    if (name[0] == '/' || asprintf(&below, "data/%s", name) < 0) return NULL;
    if (is_folder(below)) return below;
    free(below);
    return NULL;
}

/* Shared libraries, and where pip lays them. */
#include "library.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *load(const char *path) {
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

/* The first that loads of those under PREFIX/lib. */
static void *load_from_python(const char *prefix, size_t length, const char *file) {
    char pattern[1024];
    glob_t found;
    void *library = NULL;
    int end = snprintf(pattern, sizeof pattern, "%.*s/lib/python3*/{site,dist}-packages/nvidia/*/lib/%s",
                       (int)length, prefix, file);
    if (end < 0 || (size_t)end >= sizeof pattern) return NULL;
    if (glob(pattern, GLOB_BRACE, NULL, &found) != 0) return NULL;
    for (size_t i = 0; i < found.gl_pathc && !library; i++) library = load(found.gl_pathv[i]);
    globfree(&found);
    return library;
}

/* A folder FOLDER/bin of PATH has its Python's packages in FOLDER/lib. */
static void *load_from_path(const char *file) {
    const char *path = getenv("PATH");
    void *library = NULL;
    while (path && *path && !library) {
        size_t length = strcspn(path, ":"), bare = length;
        while (bare > 1 && path[bare - 1] == '/') bare--;
        if (bare >= 4 && memcmp(path + bare - 4, "/bin", 4) == 0)
            library = load_from_python(path, bare - 4, file);
        path += length + (path[length] == ':');
    }
    return library;
}

void *ck_load_library(const char *file, const char *built_with, char *message, size_t size) {
    char user[512];
    const char *home = getenv("HOME");
    void *library = load(file);
    if (!library) library = load_from_path(file);
    if (!library && home && snprintf(user, sizeof user, "%s/.local", home) < (int)sizeof user)
        library = load_from_python(user, strlen(user), file);
    if (!library && built_with) library = load(built_with);
    if (!library)
        snprintf(message, size,
                 "%s was found neither by the loader (LD_LIBRARY_PATH) nor where pip puts it, "
                 "lib/python3*/site-packages/nvidia/*/lib beside "
                 "a bin folder of PATH or in ~/.local%s%s",
                 file, built_with ? ", nor at " : "", built_with ? built_with : "");
    return library;
}

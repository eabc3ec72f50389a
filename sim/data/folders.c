#include "data/folders.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_dots(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

bool folder_is_free(const char *path) {
    DIR *folder = opendir(path);
    if (!folder) return errno == ENOENT;
    bool empty = true;
    for (struct dirent *entry = readdir(folder); entry && empty; entry = readdir(folder)) empty = is_dots(entry->d_name);
    closedir(folder);
    return empty;
}

static int create_parents(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int failed = mkdir(path, 0777) != 0 && errno != EEXIST;
        *slash = '/';
        if (failed) return -1;
    }
    return 0;
}

exit_code folder_create_beside(const char *path, size_t size, char *out, problems *list) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    int written = snprintf(out, size, "%.*s.partial-XXXXXX", (int)length, path);
    if (written < 0 || (size_t)written >= size) return problem(list, EXIT_INPUT, "%s: the path is too long", path);
    if (create_parents(out) != 0 || !mkdtemp(out) || chmod(out, 0755) != 0)
        return problem(list, EXIT_ENVIRONMENT, "%s: a folder cannot be created there: %s", path, strerror(errno));
    return EXIT_OK;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place) {
    (void)status;
    (void)kind;
    (void)place;
    return remove(path);
}

void folder_remove(const char *path) {
    enum { OPEN_FOLDERS = 8 };
    nftw(path, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
}

#include "support/output_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/writable.h"

enum { TRIES = 1000 };

/* ---- Folders ---- */

bool folder_is_nothing(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, "lost+found") == 0;
}

bool folder_is_there(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool folder_is_free(const char *path) {
    DIR *folder = opendir(path);
    if (!folder) return errno == ENOENT;
    bool empty = true;
    for (struct dirent *entry = readdir(folder); entry && empty; entry = readdir(folder))
        empty = folder_is_nothing(entry->d_name);
    closedir(folder);
    return empty;
}

exit_code folder_create(const char *path, problems *list) {
    char part[OUTPUT_PATH_BYTES];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return problem(list, EXIT_INPUT, "%.60s...: the path is too long", path);
    for (char *end = part + 1;; end++) {
        if (*end != '/' && *end != '\0') continue;
        char kept = *end;
        *end = '\0';
        int why = mkdir(part, 0777) == 0 ? 0 : errno;
        if (why && !folder_is_there(part))
            return problem(list, EXIT_INPUT, "%s: cannot make the folder: %s", part,
                           strerror(why == EEXIST ? ENOTDIR : why));
        *end = kept;
        if (kept == '\0') return EXIT_OK;
    }
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

/* 0, or an errno. Some file systems cannot sync a folder and say so by EINVAL. */
static int sync_folder(const char *path) {
    int file = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file < 0) return errno;
    int failure = fsync(file) == 0 || errno == EINVAL ? 0 : errno;
    close(file);
    return failure;
}

/* ---- A folder to fill ---- */

exit_code output_folder_check(const char *path, const char *what, problems *list) {
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode))
        return problem(list, EXIT_INPUT, "%s: exists and is no folder; give a new or an empty folder for %s",
                       path, what);
    if (!folder_is_free(path))
        return problem(list, EXIT_INPUT, "%s: is not empty; give a new or an empty folder for %s", path,
                       what);
    return writable_check(path, what, list);
}

/* The folder that the path's last name stands in. */
static void parent_of(const char *path, char parent[OUTPUT_PATH_BYTES]) {
    const char *slash = strrchr(path, '/');
    snprintf(parent, OUTPUT_PATH_BYTES, "%.*s", slash ? (int)(slash - path + (slash == path)) : 1,
             slash ? path : ".");
}

/* A name that nobody has. */
static exit_code make_work(output_folder *folder, problems *list) {
    for (int i = 0; i < TRIES; i++) {
        int length = snprintf(folder->work, sizeof folder->work, "%s%s.partial-%ld-%d", folder->path,
                              folder->inside ? "/" : "", (long)getpid(), i);
        if (length >= (int)sizeof folder->work)
            return problem(list, EXIT_INPUT, "%.60s...: the path is too long", folder->path);
        if (mkdir(folder->work, 0777) == 0) return EXIT_OK;
        if (errno != EEXIST) break;
    }
    return problem(list, EXIT_ENVIRONMENT, "%s: a folder cannot be created there: %s", folder->path,
                   strerror(errno));
}

exit_code output_folder_begin(const char *path, output_folder *out, problems *list) {
    char parent[OUTPUT_PATH_BYTES];
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    *out = (output_folder){0};
    if (length >= sizeof out->path) return problem(list, EXIT_INPUT, "%.60s...: the path is too long", path);
    memcpy(out->path, path, length);
    parent_of(out->path, parent);
    exit_code code = folder_create(parent, list);
    out->inside = folder_is_there(out->path);
    return THEN(code, make_work(out, list));
}

/* ---- To its place ---- */

/* FOLDER/NAME, where names were made here and are short. */
static void join(char out[OUTPUT_PATH_BYTES + NAME_MAX + 2], const char *folder, const char *name) {
    snprintf(out, OUTPUT_PATH_BYTES + NAME_MAX + 2, "%s/%s", folder, name);
}

/* The entries from the last to the first name; those that stand there have gone before the first arrives, so
 * that old and new are never mixed. 0, or an errno. */
static int move_up(const output_folder *folder, struct dirent *const *entries, int n) {
    char from[OUTPUT_PATH_BYTES + NAME_MAX + 2], to[OUTPUT_PATH_BYTES + NAME_MAX + 2];
    struct stat info;
    for (int i = 0; i < n; i++) {
        join(to, folder->path, entries[i]->d_name);
        if (folder_is_nothing(entries[i]->d_name) || lstat(to, &info) != 0) continue;
        if (!folder->replaces) return EEXIST;
        if (unlink(to) != 0) return errno;
    }
    for (int i = n - 1; i >= 0; i--) {
        join(from, folder->work, entries[i]->d_name);
        join(to, folder->path, entries[i]->d_name);
        if (!folder_is_nothing(entries[i]->d_name) && rename(from, to) != 0) return errno;
    }
    return rmdir(folder->work) == 0 ? 0 : errno;
}

static int move_all_up(const output_folder *folder) {
    struct dirent **entries = NULL;
    int n = scandir(folder->work, &entries, NULL, alphasort);
    int failure = n < 0 ? errno : move_up(folder, entries, n);
    for (int i = 0; i < n; i++) free(entries[i]);
    free(entries);
    return failure;
}

/* Another process may have filled the path meanwhile. */
static int take_path(const output_folder *folder) {
    if (rename(folder->work, folder->path) == 0) return 0;
    if (!folder->replaces || (errno != ENOTEMPTY && errno != EEXIST)) return errno;
    if (renameat2(AT_FDCWD, folder->work, AT_FDCWD, folder->path, RENAME_EXCHANGE) != 0) return errno;
    folder_remove(folder->work);
    return 0;
}

exit_code output_folder_end(const output_folder *folder, exit_code code, problems *list) {
    char parent[OUTPUT_PATH_BYTES];
    int failure = 0;
    if (code == EXIT_OK) {
        parent_of(folder->path, parent);
        failure = sync_folder(folder->work);
        if (failure == 0) failure = folder->inside ? move_all_up(folder) : take_path(folder);
        if (failure == 0) failure = sync_folder(folder->inside ? folder->path : parent);
        if (failure)
            code = problem(list, EXIT_ENVIRONMENT, "%s: cannot be put in place: %s", folder->path,
                           strerror(failure));
    }
    if (code != EXIT_OK && folder->work[0]) folder_remove(folder->work);
    return code;
}

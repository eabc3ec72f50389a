#include "support/output_file.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_LINKS = 40, TRIES = 1000 };

/* ---- Where a path leads ---- */

/* The folder of `path`, with a slash at its end, or "". */
static int folder_bytes(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (int)(slash + 1 - path) : 0;
}

/* N, where `path` is the entry N of this process's open files; else -1. */
static int descriptor_of(const char *path) {
    char folder[OUTPUT_PATH_BYTES], real[PATH_MAX], own[PATH_MAX];
    const char *name = path + folder_bytes(path);
    snprintf(folder, sizeof folder, "%.*s", folder_bytes(path), path);
    if (!isdigit((unsigned char)name[0]) || name[strspn(name, "0123456789")] != '\0' || strlen(name) > 9)
        return -1;
    if (!realpath(folder, real) || !realpath("/proc/self/fd", own) || strcmp(real, own) != 0) return -1;
    return atoi(name);
}

exit_code output_file_target(const char *path, char target[OUTPUT_PATH_BYTES], int *descriptor,
                             problems *list) {
    char link[OUTPUT_PATH_BYTES], next[2 * OUTPUT_PATH_BYTES];
    struct stat there;
    *descriptor = -1;
    if (snprintf(target, OUTPUT_PATH_BYTES, "%s", path) >= OUTPUT_PATH_BYTES)
        return problem(list, EXIT_INPUT, "%.60s...: the path is too long", path);
    for (int i = 0; i < MOST_LINKS; i++) {
        *descriptor = descriptor_of(target);
        ssize_t length = *descriptor >= 0 ? -1 : readlink(target, link, sizeof link - 1);
        if (length < 0) return EXIT_OK;
        link[length] = '\0';
        int used =
            snprintf(next, sizeof next, "%.*s%s", link[0] == '/' ? 0 : folder_bytes(target), target, link);
        if (used >= OUTPUT_PATH_BYTES)
            return problem(list, EXIT_INPUT, "%s: leads to a path that is too long", path);
        if (stat(target, &there) == 0 && lstat(next, &there) != 0)
            return EXIT_OK; /* an open pipe of another process: its text is no path */
        memcpy(target, next, (size_t)used + 1);
    }
    return problem(list, EXIT_INPUT, "%s: cannot be written: %s", path, strerror(ELOOP));
}

/* ---- Opening ---- */

/* A new file beside the target, with its permissions where it is there already. -1 with errno. */
static int create_partial(output_file *file, const struct stat *old) {
    for (int i = 0; i < TRIES; i++) {
        int length = snprintf(file->partial, sizeof file->partial, "%s.partial-%ld-%d", file->target,
                              (long)getpid(), i);
        errno = ENAMETOOLONG;
        int descriptor = length >= (int)sizeof file->partial
                             ? -1
                             : open(file->partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor >= 0 && old && fchmod(descriptor, old->st_mode & 07777) != 0) {
            close(descriptor);
            unlink(file->partial);
            descriptor = -1;
        } else if (descriptor >= 0)
            return descriptor;
        else if (errno != EEXIST)
            break;
    }
    file->partial[0] = '\0';
    return -1;
}

static int open_target(output_file *file, int descriptor) {
    struct stat info;
    if (descriptor >= 0) return fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    bool there = stat(file->target, &info) == 0;
    if (there && S_ISDIR(info.st_mode)) {
        errno = EISDIR;
        return -1;
    }
    if (there && !S_ISREG(info.st_mode)) return open(file->target, O_WRONLY | O_CLOEXEC);
    return create_partial(file, there ? &info : NULL);
}

exit_code output_file_begin(const char *path, output_file *out, problems *list) {
    int named = -1;
    *out = (output_file){0};
    exit_code code = output_file_target(path, out->target, &named, list);
    if (code != EXIT_OK) return code;
    snprintf(out->path, sizeof out->path, "%s", path);
    int descriptor = open_target(out, named);
    out->stream = descriptor < 0 ? NULL : fdopen(descriptor, "w");
    if (out->stream) return EXIT_OK;
    code = problem(list, EXIT_INPUT, "%s: cannot be written: %s", path, strerror(errno));
    if (descriptor >= 0) close(descriptor);
    if (out->partial[0]) unlink(out->partial);
    return code;
}

exit_code output_file_end(output_file *file, exit_code code, problems *list) {
    errno = 0;
    bool written = fflush(file->stream) == 0 && !ferror(file->stream);
    if (fclose(file->stream) != 0) written = false;
    if (written && code == EXIT_OK && file->partial[0]) written = rename(file->partial, file->target) == 0;
    if (!written && code == EXIT_OK)
        code =
            problem(list, EXIT_RUN, "%s: cannot be written: %s", file->path, strerror(errno ? errno : EIO));
    if (code != EXIT_OK && file->partial[0]) unlink(file->partial);
    *file = (output_file){0};
    return code;
}

/* durable.c - fsync and rename, in the order that survives a power cut. */
#include "support/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *durable_temporary(const char *path) {
    size_t size = strlen(path) + sizeof ".tmp";
    char *temporary = malloc(size);
    if (temporary) snprintf(temporary, size, "%s.tmp", path);
    return temporary;
}

int durable_sync(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return errno;
    int status = fsync(file) ? errno : 0;
    close(file);
    /* Some file systems cannot sync a folder and say so by EINVAL: there is nothing more to be had from them.
     */
    return status == EINVAL ? 0 : status;
}

static int sync_folder_of(const char *path) {
    char *copy = strdup(path);
    if (!copy) return ENOMEM;
    int status = durable_sync(dirname(copy));
    free(copy);
    return status;
}

int durable_replace(const char *temporary, const char *path) {
    int status = durable_sync(temporary);
    if (status) return status;
    if (rename(temporary, path)) return errno;
    return sync_folder_of(path);
}

/* memory_file.h - a fuzzer's bytes as a file with a path, without a disk. */
#ifndef COHORT_MEMORY_FILE_H
#define COHORT_MEMORY_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MEMORY_PATH_BYTES = 40 };

/* The one file of this process now holds these bytes; `path` leads to it. */
static inline void memory_file(const void *bytes, size_t size, char path[MEMORY_PATH_BYTES]) {
    static int file = -1;
    if (file < 0) file = memfd_create("fuzz", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, 0) != 0 || pwrite(file, bytes, size, 0) != (ssize_t)size) abort();
    snprintf(path, MEMORY_PATH_BYTES, "/proc/self/fd/%d", file);
}

#endif

/* die_at.c - preloaded into a program, kills it (SIGKILL) at a chosen one of its calls that change files.
 *
 *   DIE_MATCH=TEXT   only calls on files whose path contains TEXT count
 *   DIE_CUT=1        only writes that cross pages count
 *   DIE_AT=N         the N-th of them, from 1, does not return: a write that crosses pages is cut at the
 *                    last, as the kernel may cut it
 *   DIE_SLOW=TEXT    every write to files whose path contains TEXT takes 20 ms longer
 *   DIE_COUNT=FILE   a program that ends in peace writes there how many there were
 */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, SLOW_US = 20000 };

static atomic_long calls;

static bool matches(const char *path) {
    const char *text = getenv("DIE_MATCH");
    return strstr(path, text ? text : "") != NULL;
}

static void find_path(int file, char path[4096]) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = readlink(link, path, 4095);
    path[n < 0 ? 0 : n] = '\0';
}

static bool file_matches(int file) {
    char path[4096];
    find_path(file, path);
    return path[0] == '/' && matches(path);
}

static void slow_down(int file) {
    const char *text = getenv("DIE_SLOW");
    char path[4096];
    if (!text) return;
    find_path(file, path);
    if (strstr(path, text)) usleep(SLOW_US);
}

/* A call that changes a file, but is no write across pages. */
static bool counts(bool matching) {
    return matching && !getenv("DIE_CUT");
}

static bool is_the_one(void) {
    const char *at = getenv("DIE_AT");
    long call = atomic_fetch_add(&calls, 1) + 1;
    return at && call == atol(at);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

typedef ssize_t (*pwrite_call)(int, const void *, size_t, off_t);
typedef ssize_t (*write_call)(int, const void *, size_t);

ssize_t pwrite(int file, const void *bytes, size_t size, off_t offset) {
    pwrite_call next = (pwrite_call)dlsym(RTLD_NEXT, "pwrite");
    /* up to the last page that it touches */
    off_t whole = (offset + (off_t)size) / PAGE_BYTES * PAGE_BYTES - offset;
    slow_down(file);
    bool crosses = whole > 0 && whole < (off_t)size, matching = file_matches(file);
    if ((counts(matching) || (matching && crosses)) && is_the_one()) {
        if (crosses && next(file, bytes, (size_t)whole, offset) < 0) perror("die_at");
        die();
    }
    return next(file, bytes, size, offset);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off_t offset) {
    return pwrite(file, bytes, size, offset);
}

ssize_t write(int file, const void *bytes, size_t size) {
    if (counts(file_matches(file)) && is_the_one()) die();
    return ((write_call)dlsym(RTLD_NEXT, "write"))(file, bytes, size);
}

int fsync(int file) {
    if (counts(file_matches(file)) && is_the_one()) die();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}

int ftruncate(int file, off_t size) {
    if (counts(file_matches(file)) && is_the_one()) die();
    return ((int (*)(int, off_t))dlsym(RTLD_NEXT, "ftruncate"))(file, size);
}

int ftruncate64(int file, off_t size) {
    return ftruncate(file, size);
}

int rename(const char *from, const char *to) {
    if (counts(matches(from)) && is_the_one()) die();
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(from, to);
}

int unlink(const char *path) {
    if (counts(matches(path)) && is_the_one()) die();
    return ((int (*)(const char *))dlsym(RTLD_NEXT, "unlink"))(path);
}

__attribute__((destructor)) static void tell(void) {
    const char *path = getenv("DIE_COUNT");
    FILE *out = path ? fopen(path, "w") : NULL;
    if (!out) return;
    fprintf(out, "%ld\n", atomic_load(&calls));
    fclose(out);
}

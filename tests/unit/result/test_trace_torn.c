/* test_trace_torn.c - a writer that is killed within a write. The kernel puts a page of the system at a time
 * into a file, so a write is whole, or cut between two pages; whatever of the trace was flushed before must
 * come back. */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "result/h5.h"
#include "unit/trace_fixture.h"

enum { SYSTEM_PAGE = 4096, ROUNDS = 4, MOST_ROUNDS = 300, AT_THE_END = 4 };

/* HDF5 itself loses some memory when it meets a damaged file. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libhdf5";
}

/* HDF5 writes through these, which stand before the system's. In the process that sets `cut_at` to n, the
 * n-th write that crosses pages is cut at the last of them, and kills it. */
static int cut_at, crossings;

ssize_t pwrite(int file, const void *bytes, size_t size, off_t offset) {
    ssize_t (*next)(int, const void *, size_t, off_t) =
        (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    off_t whole = (offset + (off_t)size) / SYSTEM_PAGE * SYSTEM_PAGE - offset;
    if (cut_at > 0 && whole > 0 && whole < (off_t)size && ++crossings == cut_at) {
        if (next(file, bytes, (size_t)whole, offset) < 0) _exit(9);
        kill(getpid(), SIGKILL);
    }
    return next(file, bytes, size, offset);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off_t offset) {
    return pwrite(file, bytes, size, offset);
}

/* Appends round after round, and tells each that is flushed, until it is killed. */
static void write_until_killed(const char *path, int devices, int windows, int told) {
    fixture f;
    fixture_create(&f, devices, windows);
    problems *list = fixture_problems();
    trace *t = NULL;
    if (trace_create(path, &f.header, &t, list) != EXIT_OK) _exit(1);
    for (int round = 1; round <= MOST_ROUNDS; round++) {
        metric_row row = fixture_row(&f, round);
        if (trace_append(t, &row, list) != EXIT_OK || trace_flush(t, list) != EXIT_OK) _exit(2);
        if (write(told, &round, sizeof round) != sizeof round) _exit(3);
    }
    _exit(AT_THE_END);
}

static int last_flushed(int told) {
    int round = 0, next;
    while (read(told, &next, sizeof next) == sizeof next) round = next;
    return round;
}

/* False if the writer came to its end before. */
static bool kill_and_resume(const char *path, int devices, int windows, int at) {
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    int child = fixture_fork();
    if (!child) {
        cut_at = at;
        write_until_killed(path, devices, windows, ends[1]);
    }
    close(ends[1]);
    int flushed = last_flushed(ends[0]), status = fixture_wait(child);
    close(ends[0]);
    if (status == AT_THE_END) return false;
    cr_assert_eq(status, 1000 + SIGKILL, "%d devices, cut %d: %d", devices, at, status);
    fixture f;
    fixture_create(&f, devices, windows);
    problems *list = fixture_problems();
    trace *t = NULL;
    cr_assert_eq(trace_resume(path, &f.header, flushed, &t, list), EXIT_OK,
                 "%d devices, cut %d, after round %d: %s", devices, at, flushed,
                 problems_count(list) ? problems_message(list, 0) : "");
    fixture_append(t, &f, flushed + 1, flushed + ROUNDS);
    cr_assert_eq(trace_close(t, list), EXIT_OK);
    cr_assert(fixture_holds(path, devices, flushed + ROUNDS), "%d devices, cut %d, after round %d", devices,
              at, flushed);
    return true;
}

/* From the file's making on, every write; then, as the file grows, some. */
static void cut_writes(int devices) {
    int cuts = 0;
    char *path = fixture_path(fixture_folder(), "trace.h5");
    alarm(240);
    for (int at = 1; at < 300; at += at < 30 ? 1 : 17, cuts++) {
        unlink(path);
        if (!kill_and_resume(path, devices, 2, at)) break;
    }
    cr_assert_gt(cuts, 30, "only %d writes cross a page", cuts);
}

Test(trace_torn, what_was_flushed_before_a_cut_write_comes_back) {
    cut_writes(5);
}

Test(trace_torn, what_was_flushed_before_a_cut_write_comes_back_with_wider_rows) {
    cut_writes(67);
}

Test(trace_torn, what_was_flushed_before_a_cut_write_comes_back_with_rows_of_pages) {
    cut_writes(301);
}

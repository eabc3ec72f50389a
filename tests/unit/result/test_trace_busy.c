/* test_trace_busy.c - a file that another program has open for writing is in use, not damaged, whoever reads
 * it. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "result/export.h"
#include "result/h5.h"
#include "unit/trace_fixture.h"

enum { DEVICES = 4, ROUNDS = 2, RELEASED_AFTER_MS = 400 };

static fixture made;
static char *folder, *trace_path, *checkpoint_path;
static int64_t counts[DEVICES];
static uint8_t stopped[DEVICES];

static checkpoint state_of(void) {
    return (checkpoint){.round = ROUNDS,
                        .n_devices = DEVICES,
                        .state = {counts, counts, counts, counts, counts, counts, stopped}};
}

static void make_result(void) {
    problems *list = fixture_problems();
    trace *t = NULL;
    checkpoint c = state_of();
    folder = fixture_folder();
    trace_path = fixture_path(folder, "trace.h5");
    checkpoint_path = fixture_path(folder, "checkpoint.h5");
    fixture_create(&made, DEVICES, 0);
    cr_assert_eq(trace_create(trace_path, &made.header, &t, list), EXIT_OK);
    fixture_append(t, &made, 1, ROUNDS);
    cr_assert_eq(trace_close(t, list), EXIT_OK);
    cr_assert_eq(checkpoint_write(checkpoint_path, &c, list), EXIT_OK);
}

/* ---- Whoever reads ---- */

static exit_code look(problems *list) {
    return trace_look(trace_path, list);
}

static exit_code info(problems *list) {
    return trace_print_info(folder, list);
}

static exit_code export_one(problems *list) {
    return trace_export(folder, "loss", NULL, "/dev/null", list);
}

static exit_code resume(problems *list) {
    trace *t = NULL;
    exit_code code = trace_resume(trace_path, &made.header, ROUNDS, &t, list);
    return code == EXIT_OK ? trace_close(t, list) : code;
}

static void count_rows(void *rows, const metric_row *row) {
    (void)row;
    ++*(int *)rows;
}

static exit_code read_losses(problems *list) {
    const metric_shape shape = {.populations = 1, .devices = DEVICES};
    metric_row row;
    int rows = 0;
    cr_assert(metric_row_create(&row, &shape));
    exit_code code = trace_read_devices(trace_path, ROUNDS, &row, count_rows, &rows, list);
    cr_expect(code != EXIT_OK || rows == ROUNDS, "%d rows", rows);
    metric_row_destroy(&row);
    return code;
}

static exit_code peek(problems *list) {
    checkpoint c = {0};
    return checkpoint_peek(checkpoint_path, &c, list);
}

static exit_code restore(problems *list) {
    checkpoint c = state_of();
    return checkpoint_read(checkpoint_path, &c, list);
}

static const struct {
    const char *name;
    exit_code (*read)(problems *list);
    bool of_checkpoint;
} READERS[] = {{"look", look, false},          {"info", info, false},     {"export", export_one, false},
               {"losses", read_losses, false}, {"resume", resume, false}, {"peek", peek, true},
               {"restore", restore, true}};
enum { N_READERS = sizeof READERS / sizeof *READERS };

/* Each reader once. */
static void expect_all(exit_code expected) {
    for (int i = 0; i < N_READERS; i++) {
        problems *list = problems_create();
        exit_code code = READERS[i].read(list);
        const char *said = problems_count(list) ? problems_message(list, 0) : "";
        cr_expect_eq(code, expected, "%s: %d, %s", READERS[i].name, code, said);
        if (expected == EXIT_ENVIRONMENT) {
            cr_expect_not_null(strstr(said, READERS[i].of_checkpoint ? checkpoint_path : trace_path),
                               "%s: %s", READERS[i].name, said);
            cr_expect_not_null(strstr(said, "another program has it open for writing"), "%s: %s",
                               READERS[i].name, said);
        }
        cr_expect_eq(strstr(said, "damaged") != NULL, expected == EXIT_INPUT, "%s: %s", READERS[i].name,
                     said);
        problems_destroy(list);
    }
}

static int lock(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert(file >= 0 && flock(file, LOCK_EX | LOCK_NB) == 0);
    return file;
}

Test(trace_busy, locked_files_are_in_use) {
    make_result();
    expect_all(EXIT_OK);
    int files[] = {lock(trace_path), lock(checkpoint_path)};
    expect_all(EXIT_ENVIRONMENT);
    for (int i = 0; i < 2; i++) close(files[i]);
    expect_all(EXIT_OK);
}

/* For a moment only, as another reader's tool does it. */
Test(trace_busy, file_that_is_soon_released_is_waited_for) {
    make_result();
    for (int i = 0; i < N_READERS; i++) {
        int ready[2], child;
        char byte = 0;
        cr_assert_eq(pipe(ready), 0);
        if ((child = fixture_fork()) == 0) {
            lock(READERS[i].of_checkpoint ? checkpoint_path : trace_path);
            if (write(ready[1], &byte, 1) != 1) _exit(1);
            usleep(RELEASED_AFTER_MS * 1000);
            _exit(0);
        }
        cr_assert_eq(read(ready[0], &byte, 1), 1);
        problems *list = fixture_problems();
        cr_expect_eq(READERS[i].read(list), EXIT_OK, "%s: %s", READERS[i].name,
                     problems_count(list) ? problems_message(list, 0) : "");
        cr_expect_eq(fixture_wait(child), 0);
        close(ready[0]);
        close(ready[1]);
    }
}

/* What a program leaves that was killed while it had the files open: HDF5's own mark, without a lock. */
static void open_and_die(void) {
    int child = fixture_fork();
    if (child == 0) {
        const char *const paths[] = {trace_path, checkpoint_path};
        h5_enter();
        for (int i = 0; i < 2; i++) {
            hid_t file = H5Fopen(paths[i], H5F_ACC_RDWR, H5P_DEFAULT);
            if (file < 0 || H5Fflush(file, H5F_SCOPE_GLOBAL) < 0) _exit(1);
        }
        _exit(0);
    }
    cr_assert_eq(fixture_wait(child), 0);
}

Test(trace_busy, marked_files_are_in_use_and_the_mark_is_explained) {
    make_result();
    open_and_die();
    expect_all(EXIT_ENVIRONMENT);
    problems *list = fixture_problems();
    look(list);
    cr_expect_not_null(strstr(problems_message(list, 0), "h5clear --status"), "%s",
                       problems_message(list, 0));
}

Test(trace_busy, cut_file_is_damaged) {
    make_result();
    cr_assert_eq(truncate(trace_path, 3000), 0);
    cr_assert_eq(truncate(checkpoint_path, 3000), 0);
    expect_all(EXIT_INPUT);
}

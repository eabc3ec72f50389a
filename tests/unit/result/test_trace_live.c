/* test_trace_live.c - a trace is read while it grows, and survives the death of its writer at any moment. */
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "result/h5.h"
#include "unit/trace_fixture.h"

enum { DEVICES = 5, WINDOWS = 2, FOREVER = 1000000 };

static void nap(long milliseconds) {
    const struct timespec t = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* A child that appends rounds first..last, waiting `pause` ms after each, and tells every flushed round
 * through a pipe. */
static int start_writer(const char *path, int first, int last, int pause, int *progress) {
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    int child = fixture_fork();
    if (child) {
        close(ends[1]);
        *progress = ends[0];
        return child;
    }
    fixture f;
    fixture_create(&f, DEVICES, WINDOWS);
    problems *list = fixture_problems();
    trace *t = NULL;
    if (trace_resume(path, &f.header, first - 1, &t, list) != EXIT_OK) _exit(1);
    for (int round = first; round <= last; round++) {
        metric_row row = fixture_row(&f, round);
        if (trace_append(t, &row, list) != EXIT_OK || trace_flush(t, list) != EXIT_OK) _exit(2);
        if (write(ends[1], &round, sizeof round) != sizeof round) _exit(3);
        if (pause) nap(pause);
    }
    _exit(trace_close(t, list));
}

static int wait_for_round(int progress, int wanted) {
    int round = 0;
    while (round < wanted && read(progress, &round, sizeof round) == sizeof round) continue;
    return round;
}

Test(trace_live, rows_appear_while_the_run_goes_on) {
    alarm(120);
    int progress, child;
    char *path = fixture_path(fixture_folder(), "trace.h5");
    child = start_writer(path, 1, FOREVER, 1, &progress);
    cr_assert_geq(wait_for_round(progress, 3), 3);
    h5_error error = {0};
    h5_enter();
    hid_t file = h5_open_file(path, true, &error);
    cr_assert_geq(file, 0, "%s", error.text);
    hid_t rounds = H5Dopen2(file, "/rounds", H5P_DEFAULT), loss = H5Dopen2(file, "/loss/train", H5P_DEFAULT);
    hsize_t before = 0, after = 0, loss_rows[2] = {0};
    hid_t space = H5Dget_space(rounds);
    H5Sget_simple_extent_dims(space, &before, NULL);
    cr_assert_geq(before, 3);
    wait_for_round(progress, (int)before + 40);
    cr_assert_geq(H5Drefresh(rounds), 0);
    cr_assert_geq(H5Drefresh(loss), 0);
    H5Sget_simple_extent_dims(H5Dget_space(rounds), &after, NULL);
    H5Sget_simple_extent_dims(H5Dget_space(loss), loss_rows, NULL);
    cr_assert_geq(after, before + 40);
    cr_assert_geq(loss_rows[0], after, "/rounds counts complete rows only");
    double *values = fixture_array((int64_t)loss_rows[0] * DEVICES, sizeof *values);
    cr_assert_geq(H5Dread(loss, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), 0);
    for (hsize_t r = 0; r < after; r++)
        for (int d = 0; d < DEVICES; d++)
            cr_assert_eq(values[r * DEVICES + (hsize_t)d], fixture_loss(0, (int)r + 1, d));
    h5_leave();
    kill(child, SIGKILL);
    cr_assert_eq(fixture_wait(child), 1000 + SIGKILL);
}

static void resume_to(const char *path, int rounds, int last, exit_code expected, char *message,
                      size_t size) {
    fixture f;
    fixture_create(&f, DEVICES, WINDOWS);
    problems *list = fixture_problems();
    trace *t = NULL;
    exit_code code = trace_resume(path, &f.header, rounds, &t, list);
    cr_assert_eq(code, expected, "%d: %s", code, problems_count(list) ? problems_message(list, 0) : "");
    if (message) snprintf(message, size, "%s", problems_count(list) ? problems_message(list, 0) : "");
    if (code == EXIT_OK) {
        fixture_append(t, &f, rounds + 1, last);
        cr_assert_eq(trace_close(t, list), EXIT_OK);
    }
}

static void same_tables(const char *one, const char *two, int rounds) {
    static const struct {
        const char *path;
        size_t row_values;
    } tables[] = {{"/loss/train", DEVICES},
                  {"/loss/valid", DEVICES},
                  {"/loss/test", DEVICES},
                  {"/loss/test_after", DEVICES},
                  {"/routing/gate_mean", DEVICES * FIXTURE_LAYERS * FIXTURE_EXPERTS},
                  {"/routing/token_share", DEVICES * FIXTURE_LAYERS * FIXTURE_EXPERTS},
                  {"/routing/tokens/gates", WINDOWS * FIXTURE_SEQUENCE * FIXTURE_LAYERS * FIXTURE_EXPERTS},
                  {"/routing/tokens/ids", WINDOWS * FIXTURE_SEQUENCE},
                  {"/traffic/bytes_up", DEVICES},
                  {"/traffic/bytes_down", DEVICES},
                  {"/time/total", 1},
                  {"/rounds", 1}};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        hsize_t dims_one[5] = {0}, dims_two[5] = {0};
        double *a = fixture_read(one, tables[i].path, H5T_NATIVE_DOUBLE, dims_one);
        double *b = fixture_read(two, tables[i].path, H5T_NATIVE_DOUBLE, dims_two);
        cr_assert(a && b, "%s", tables[i].path);
        cr_assert(dims_one[0] == (hsize_t)rounds && dims_two[0] == (hsize_t)rounds, "%s: %d and %d rows",
                  tables[i].path, (int)dims_one[0], (int)dims_two[0]);
        for (size_t j = 0; j < (size_t)rounds * tables[i].row_values; j++)
            cr_assert(a[j] == b[j] || (isnan(a[j]) && isnan(b[j])), "%s value %zu: %g, %g", tables[i].path, j,
                      a[j], b[j]);
    }
}

/* Kills the writer after a random time, goes on from the last round it told of, again and again; then
 * compares with a run that nobody disturbed. */
Test(trace_live, killed_at_random_moments_and_resumed_it_equals_an_undisturbed_one) {
    alarm(120);
    enum { KILLS = 12, EXTRA = 20 };
    char *folder = fixture_folder(), *path = fixture_path(folder, "trace.h5"),
         *whole = fixture_path(folder, "whole.h5");
    int done = 0;
    srand(7);
    for (int i = 0; i < KILLS; i++) {
        int progress, round, child = start_writer(path, done + 1, FOREVER, 0, &progress);
        done = wait_for_round(progress, done + 1 + rand() % 10);
        nap(rand() % 5);
        kill(child, SIGKILL);
        cr_assert_eq(fixture_wait(child), 1000 + SIGKILL);
        while (read(progress, &round, sizeof round) == sizeof round) done = round;
        close(progress);
        done = done > 2 && i % 3 == 0 ? done - 1 : done; /* the checkpoint may be older than the trace */
        cr_assert_gt(done, 0);
    }
    resume_to(path, done, done + EXTRA, EXIT_OK, NULL, 0);
    resume_to(whole, 0, done + EXTRA, EXIT_OK, NULL, 0);
    same_tables(path, whole, done + EXTRA);
}

Test(trace_live, resuming_keeps_exactly_the_rounds_of_the_checkpoint) {
    char *path = fixture_path(fixture_folder(), "trace.h5");
    hsize_t dims[5];
    resume_to(path, 0, 9, EXIT_OK, NULL, 0);
    resume_to(path, 4, 4, EXIT_OK, NULL, 0);
    fixture_read(path, "/rounds", H5T_NATIVE_INT32, dims);
    cr_assert_eq(dims[0], 4);
    cr_assert(fixture_holds(path, DEVICES, 4));
    cr_assert_neq(access(path, F_OK), -1);
}

Test(trace_live, resuming_keeps_the_time_of_creation) {
    fixture f;
    fixture_create(&f, DEVICES, 0);
    char *path = fixture_path(fixture_folder(), "trace.h5");
    problems *list = fixture_problems();
    trace *t = NULL;
    cr_assert_eq(trace_create(path, &f.header, &t, list), EXIT_OK);
    fixture_append(t, &f, 1, 2);
    trace_close(t, list);
    f.header.created_utc = "2030-01-01T00:00:00Z";
    cr_assert_eq(trace_resume(path, &f.header, 2, &t, list), EXIT_OK);
    trace_close(t, list);
    h5_error error = {0};
    h5_enter();
    hid_t file = h5_open_file(path, false, &error);
    cr_assert_str_eq(fixture_keep(h5_read_text(file, "created_utc", &error)), "2024-01-02T03:04:05Z");
    H5Fclose(file);
    h5_leave();
}

Test(trace_live, a_trace_with_fewer_rounds_than_the_checkpoint_is_refused_and_kept) {
    char message[1000], *path = fixture_path(fixture_folder(), "trace.h5");
    resume_to(path, 0, 3, EXIT_OK, NULL, 0);
    resume_to(path, 5, 0, EXIT_INPUT, message, sizeof message);
    cr_assert(strstr(message, "up to round 3") && strstr(message, "after round 5"), "%s", message);
    cr_assert(fixture_holds(path, DEVICES, 3));
}

Test(trace_live, a_missing_trace_is_named) {
    char message[1000], *path = fixture_path(fixture_folder(), "trace.h5");
    resume_to(path, 5, 0, EXIT_INPUT, message, sizeof message);
    cr_assert(strstr(message, path), "%s", message);
}

Test(trace_live, another_shape_is_refused) {
    fixture f;
    fixture_create(&f, DEVICES + 1, WINDOWS);
    char *path = fixture_path(fixture_folder(), "trace.h5");
    resume_to(path, 0, 3, EXIT_OK, NULL, 0);
    problems *list = fixture_problems();
    trace *t = NULL;
    cr_assert_eq(trace_resume(path, &f.header, 3, &t, list), EXIT_INPUT);
    cr_assert(strstr(problems_message(list, 0), "another configuration"), "%s", problems_message(list, 0));
}

Test(trace_live, a_file_that_is_no_trace_is_refused) {
    char message[1000], *path = fixture_path(fixture_folder(), "trace.h5");
    FILE *out = fopen(path, "w");
    fputs("not a trace", out);
    fclose(out);
    resume_to(path, 2, 0, EXIT_INPUT, message, sizeof message);
    cr_assert(strstr(message, "not a trace, or damaged"), "%s", message);
}

/* test_trace_disk.c - a full disk ends a run with a message and exit code 4, and takes nothing that was
 * complete. The limit on a file's size stands for the disk: writes beyond it fail as on a full one. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "result/h5.h"
#include "unit/trace_fixture.h"

enum { DEVICES = 64, MOST_ROUNDS = 5000 };

/* After a failed write HDF5 is left alone, with what it holds: leaks are not looked for here. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "detect_leaks=0";
}

static void limit_files_to(rlim_t bytes) {
    const struct rlimit limit = {bytes, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
}

static void write_text(const char *path, const char *text) {
    FILE *out = fopen(path, "w");
    fputs(text, out);
    fclose(out);
}

static char *read_text(const char *path) {
    char *text = fixture_array(4096, 1);
    FILE *in = fopen(path, "r");
    if (in) {
        size_t n = fread(text, 1, 4095, in);
        text[n] = '\0';
        fclose(in);
    }
    return text;
}

static uint64_t digest(const char *path) {
    uint64_t sum = 0;
    FILE *in = fopen(path, "rb");
    for (int byte = fgetc(in); byte != EOF; byte = fgetc(in))
        sum = (sum ^ (uint64_t)byte) * UINT64_C(1099511628211);
    fclose(in);
    return sum;
}

/* Room has come back, but the file is no longer written, nor closed. */
static void expect_no_more_writing(const char *path, fixture *f, trace *t, problems *list) {
    limit_files_to(RLIM_INFINITY);
    const uint64_t before = digest(path);
    metric_row row = fixture_row(f, MOST_ROUNDS);
    if (trace_append(t, &row, list) != EXIT_RUN || trace_flush(t, list) != EXIT_RUN ||
        trace_close(t, list) != EXIT_RUN)
        _exit(13);
    if (problems_count(list) != 1 || problems_code(list) != EXIT_RUN) _exit(14);
    if (digest(path) != before) _exit(15);
}

/* Leaves by exit(), as main does: HDF5's own exit handler must not run. */
static void run_until_full(const char *path, const char *report, rlim_t bytes, bool wait_for_each) {
    fixture f;
    fixture_create(&f, DEVICES, 2);
    problems *list = fixture_problems();
    trace *t = NULL;
    if (trace_create(path, &f.header, &t, list) != EXIT_OK) _exit(11);
    fixture_append(t, &f, 1, 4);
    if (trace_flush(t, list) != EXIT_OK) _exit(12);
    FILE *out = fopen(report, "w");
    limit_files_to(bytes);
    int round = 5;
    exit_code code = EXIT_OK;
    for (; round < MOST_ROUNDS && code == EXIT_OK; round++) {
        metric_row row = fixture_row(&f, round);
        code = trace_append(t, &row, list);
        if (wait_for_each && code == EXIT_OK) code = trace_flush(t, list);
    }
    fprintf(out, "%d %d %s", round, problems_count(list),
            problems_count(list) ? problems_message(list, 0) : "");
    fclose(out);
    expect_no_more_writing(path, &f, t, list);
    exit(code);
}

static void full_disk(rlim_t bytes, bool wait_for_each) {
    char *folder = fixture_folder(), *path = fixture_path(folder, "trace.h5"),
         *report = fixture_path(folder, "report");
    int child = fixture_fork();
    if (!child) run_until_full(path, report, bytes, wait_for_each);
    int status = fixture_wait(child);
    char *text = read_text(report);
    int round = 0, messages = 0, complete = -1;
    cr_assert_eq(status, EXIT_RUN, "exit status %d; %s", status, text);
    cr_assert_eq(sscanf(text, "%d %d", &round, &messages), 2);
    cr_assert_eq(messages, 1);
    cr_assert(strstr(text, "File too large"), "%s", text);
    const char *up_to = strstr(text, "rounds up to ");
    cr_assert(up_to && sscanf(up_to, "rounds up to %d", &complete) == 1, "%s", text);
    cr_assert(complete >= 4 && complete < round, "%d rounds whole, failed at %d", complete, round);
    cr_assert(fixture_holds(path, DEVICES, complete), "%s", text);
    fixture f;
    fixture_create(&f, DEVICES, 2);
    problems *list = fixture_problems();
    trace *t = NULL;
    cr_assert_eq(trace_resume(path, &f.header, complete, &t, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
    fixture_append(t, &f, complete + 1, complete + 3);
    cr_assert_eq(trace_close(t, list), EXIT_OK);
    cr_assert(fixture_holds(path, DEVICES, complete + 3));
}

Test(trace_disk, full_while_appending) {
    alarm(120);
    full_disk(300 * 1024, true);
}

Test(trace_disk, full_behind_the_caller) {
    alarm(120);
    full_disk(300 * 1024 + 1, false);
}

Test(trace_disk, full_at_every_offset_of_a_round) {
    alarm(120);
    for (rlim_t bytes = 200 * 1024; bytes < 200 * 1024 + 16 * 1500; bytes += 1500) full_disk(bytes, true);
}

static int try_to_create(const char *path, rlim_t bytes) {
    fixture f;
    fixture_create(&f, DEVICES, 2);
    problems *list = fixture_problems();
    trace *t = NULL;
    limit_files_to(bytes);
    exit_code code = trace_create(path, &f.header, &t, list);
    if (code != EXIT_OK && problems_count(list) != 1) _exit(21);
    exit(code);
}

Test(trace_disk, full_from_the_start_leaves_no_trace) {
    char *path = fixture_path(fixture_folder(), "trace.h5");
    int child = fixture_fork();
    if (!child) try_to_create(path, 2048);
    cr_assert_eq(fixture_wait(child), EXIT_RUN);
    cr_assert_eq(access(path, F_OK), -1);
}

static int try_to_resume(const char *path, int rounds, rlim_t bytes) {
    fixture f;
    fixture_create(&f, DEVICES, 2);
    problems *list = fixture_problems();
    trace *t = NULL;
    limit_files_to(bytes);
    exit(trace_resume(path, &f.header, rounds, &t, list));
}

Test(trace_disk, full_while_resuming_keeps_the_old_trace) {
    fixture f;
    fixture_create(&f, DEVICES, 2);
    char *path = fixture_path(fixture_folder(), "trace.h5");
    problems *list = fixture_problems();
    trace *t = NULL;
    cr_assert_eq(trace_create(path, &f.header, &t, list), EXIT_OK);
    fixture_append(t, &f, 1, 100);
    cr_assert_eq(trace_close(t, list), EXIT_OK);
    int child = fixture_fork();
    if (!child) try_to_resume(path, 100, 150 * 1024);
    cr_assert_eq(fixture_wait(child), EXIT_RUN);
    cr_assert(fixture_holds(path, DEVICES, 100));
}

static checkpoint checkpoint_of(int round, float *values, int64_t *counts, uint8_t *stopped, int64_t n) {
    for (int64_t i = 0; i < n; i++) values[i] = (float)(round + i);
    return (checkpoint){.config_hash = "abc",
                        .round = round,
                        .n_parameters = n,
                        .parameters = values,
                        .moment1 = values,
                        .moment2 = values,
                        .n_devices = 2,
                        .state = {counts, counts, counts, counts, counts, counts, stopped}};
}

Test(trace_disk, a_checkpoint_that_does_not_fit_leaves_the_one_before) {
    enum { N = 20000 };
    static float values[N];
    int64_t counts[2] = {3, 4};
    uint8_t stopped[2] = {0, 1};
    char *folder = fixture_folder(), *path = fixture_path(folder, "checkpoint.h5");
    problems *list = fixture_problems();
    checkpoint c = checkpoint_of(1, values, counts, stopped, N);
    cr_assert_eq(checkpoint_write(path, &c, list), EXIT_OK);
    int child = fixture_fork();
    if (!child) {
        limit_files_to(100 * 1024);
        c = checkpoint_of(2, values, counts, stopped, N);
        exit_code code = checkpoint_write(path, &c, list);
        if (problems_count(list) != 1 || !strstr(problems_message(list, 0), "File too large")) _exit(31);
        exit(code);
    }
    cr_assert_eq(fixture_wait(child), EXIT_RUN);
    c = checkpoint_of(0, values, counts, stopped, N);
    cr_assert_eq(checkpoint_read(path, &c, list), EXIT_OK);
    cr_assert_eq(c.round, 1);
    cr_assert_eq(values[N - 1], (float)N);
    cr_assert_eq(access(fixture_path(folder, "checkpoint.h5.tmp"), F_OK), -1);
}

Test(trace_disk, a_summary_that_does_not_fit_leaves_none) {
    char *folder = fixture_folder(), *path = fixture_path(folder, "summary.csv");
    write_text(fixture_path(folder, "summary.csv.tmp"), "left over");
    int child = fixture_fork();
    if (!child) {
        problems *list = fixture_problems();
        const summary_row row = {
            .population = "a", .method = "local", .split = "natural", .evaluation = "in_distribution"};
        limit_files_to(100);
        exit(summary_write(path, &row, 1, list));
    }
    cr_assert_eq(fixture_wait(child), EXIT_RUN);
    cr_assert_eq(access(path, F_OK), -1);
}

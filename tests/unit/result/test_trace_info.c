/* test_trace_info.c - what `cohort info` says of a finished result, of one that a run is still writing, and
 * of none. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "unit/trace_fixture.h"

enum { DEVICES = 4 };

/* What trace_print_info prints, from a child of its own. */
static char *info_of(const char *folder, int *code) {
    char *path = fixture_path(fixture_folder(), "stdout"), *text = fixture_array(8192, 1);
    int child = fixture_fork();
    if (!child) {
        problems *list = fixture_problems();
        if (!freopen(path, "w", stdout)) _exit(1);
        exit_code status = trace_print_info(folder, list);
        if (problems_count(list)) printf("%s", problems_message(list, 0));
        fflush(stdout);
        _exit(status);
    }
    *code = fixture_wait(child);
    FILE *in = fopen(path, "r");
    cr_assert_not_null(in);
    text[fread(text, 1, 8191, in)] = '\0';
    fclose(in);
    return text;
}

static trace *start(const char *folder, fixture *f, int rounds) {
    problems *list = fixture_problems();
    trace *t = NULL;
    cr_assert_eq(trace_create(fixture_path(folder, "trace.h5"), &f->header, &t, list), EXIT_OK);
    fixture_append(t, f, 1, rounds);
    cr_assert_eq(trace_flush(t, list), EXIT_OK);
    return t;
}

static void expect(const char *text, const char *part) {
    cr_expect(strstr(text, part), "no \"%s\" in:\n%s", part, text);
}

/* Round 5 is the last, round 4 the last evaluated: mean losses of devices 0, 1 and 2, 3. */
Test(trace_info, a_finished_result) {
    int code;
    char *folder = fixture_folder(), row[200];
    problems *list = fixture_problems();
    fixture f;
    fixture_create(&f, DEVICES, 1);
    cr_assert_eq(trace_close(start(folder, &f, 5), list), EXIT_OK);
    const summary_row summary = {
        .population = "a", .method = "local", .split = "natural", .evaluation = "in_distribution"};
    cr_assert_eq(summary_write(fixture_path(folder, "summary.csv"), &summary, 1, list), EXIT_OK);
    char *text = info_of(folder, &code);
    cr_assert_eq(code, EXIT_OK, "%s", text);
    expect(text, "git_revision    0123abc");
    expect(text, "base            gpt2, 4 layers");
    expect(text, "hardware        a machine");
    expect(text, "populations     2, 4 devices");
    expect(text, "rounds so far   5, last evaluated after round 4");
    expect(text, "state           finished");
    snprintf(row, sizeof row, "%7s %7d %7s %4d %8.4f %8.4f %8.4f %8.4f\n", "42", 2, "1G1S", 8,
             fixture_loss(0, 5, 0) + 5e-7, fixture_loss(1, 4, 0), fixture_loss(2, 4, 0),
             fixture_loss(3, 4, 0));
    expect(text, row);
    expect(text, "local, poor");
}

Test(trace_info, a_running_result) {
    int code;
    char *folder = fixture_folder();
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    int child = fixture_fork();
    if (!child) {
        fixture f;
        fixture_create(&f, DEVICES, 1);
        start(folder, &f, 1);
        if (write(ends[1], "x", 1) != 1) _exit(1);
        pause();
    }
    char ready;
    cr_assert_eq(read(ends[0], &ready, 1), 1);
    char *text = info_of(folder, &code);
    kill(child, SIGKILL);
    fixture_wait(child);
    cr_assert_eq(code, EXIT_OK, "%s", text);
    expect(text, "rounds so far   1\n");
    expect(text, "still running, or stopped");
    expect(text, "       -        -        -\n");
}

Test(trace_info, a_folder_without_a_trace) {
    int code;
    char *folder = fixture_folder();
    expect(info_of(folder, &code), "holds no readable trace.h5");
    cr_assert_eq(code, EXIT_INPUT);
}

Test(trace_info, a_damaged_trace) {
    int code;
    char *folder = fixture_folder();
    FILE *out = fopen(fixture_path(folder, "trace.h5"), "w");
    fputs("not a trace", out);
    fclose(out);
    expect(info_of(folder, &code), "not a trace, or damaged");
    cr_assert_eq(code, EXIT_INPUT);
}

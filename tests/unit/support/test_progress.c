/* Progress on a pipe, on a terminal and where quiet: what reaches stderr. */
#include <criterion/criterion.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/progress.h"

/* Runs 40 quick units with stderr on `to`. */
static void show(int to, bool quiet) {
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    dup2(to, STDERR_FILENO);
    progress *p = progress_start("train", 40, quiet);
    for (int i = 1; i <= 40; i++) progress_update(p, i, "loss %.2f", 1.0 / i);
    progress_finish(p);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
}

static char *shown_on_a_pipe(bool quiet) {
    static char text[65536];
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    show(ends[1], quiet);
    close(ends[1]);
    ssize_t n = read(ends[0], text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    close(ends[0]);
    return text;
}

Test(progress, pipe_gets_few_plain_lines_and_the_last_state) {
    char *text = shown_on_a_pipe(false);
    cr_assert_not_null(strstr(text, "train 40/40  loss 0.03\n"), "%s", text);
    cr_assert_null(strpbrk(text, "\r\033"));
    cr_assert_leq(strlen(text), 200, "quick units are not worth a line each: %s", text);
}

Test(progress, quiet_says_nothing) {
    cr_assert_str_eq(shown_on_a_pipe(true), "");
}

/* What reaches a terminal of so many columns, up to the end of the line. */
static const char *shown_on_a_terminal(int columns, void (*shower)(int terminal)) {
    static char text[16384];
    int controller, terminal;
    struct winsize size = {.ws_row = 24, .ws_col = (unsigned short)columns};
    cr_assert_eq(openpty(&controller, &terminal, NULL, NULL, &size), 0);
    shower(terminal);
    size_t n = 0;
    while (n < 2 || text[n - 1] != '\n') { /* the kernel hands a terminal's text over in pieces */
        ssize_t more = read(controller, text + n, sizeof text - 1 - n);
        cr_assert_gt(more, 0, "the line is never ended");
        n += (size_t)more;
    }
    text[n] = '\0';
    cr_assert_str_eq(text + n - 2, "\r\n", "the line is ended");
    close(controller);
    close(terminal);
    return text;
}

static void show_quick(int terminal) {
    show(terminal, false);
}

Test(progress, terminal_gets_a_bar_redrawn_in_place) {
    const char *text = shown_on_a_terminal(60, show_quick);
    cr_assert_not_null(strstr(text, "[########################] 40/40"), "%s", text);
    int redraws = 0;
    for (const char *p = text; (p = strchr(p, '\033')); p++) redraws++;
    cr_assert(redraws >= 2 && redraws <= 20, "%d redraws of 40 quick units", redraws);
}

/* A run as it shows itself, half done: two draws, of which the second knows how long a unit takes. */
static void show_a_run(int terminal) {
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    dup2(terminal, STDERR_FILENO);
    progress *p = progress_start("train", 2000, false);
    for (int i = 999; i <= 1000; i++) {
        progress_update(p, i, "round %d/%d  %.1f k tokens/s  loss %.3f", 100, 200, 31.4, 2.718);
        usleep(150000);
    }
    progress_finish(p);
    dup2(saved, STDERR_FILENO);
    close(saved);
}

Test(progress, the_time_left_is_seen_on_narrow_terminals) {
    static const struct {
        int columns;
        const char *bar, *detail;
    } cases[] = {{200, "[############............] 1000/2000", "loss 2.718"},
                 {80, "train [##", "1000/2000  round 100/200  31.4 k tokens/s  loss 2.718"},
                 {60, "train 1000/2000", "round 100/200  31.4"},
                 {20, "train ", " "}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *last = strrchr(shown_on_a_terminal(cases[i].columns, show_a_run), '\033');
        cr_assert_not_null(last);
        last += strlen("\033[K");
        size_t shown = strcspn(last, "\r\n");
        cr_expect_lt(shown, (size_t)cases[i].columns, "%d columns: %s", cases[i].columns, last);
        cr_expect_not_null(strstr(last, " left\r\n"), "%d columns: %s", cases[i].columns, last);
        cr_expect_not_null(strstr(last, cases[i].bar), "%d columns: %s", cases[i].columns, last);
        cr_expect_not_null(strstr(last, cases[i].detail), "%d columns: %s", cases[i].columns, last);
    }
}

Test(progress, nothing_is_a_valid_progress) {
    progress_update(NULL, 1, "%d", 1);
    progress_finish(NULL);
}

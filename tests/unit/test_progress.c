/* Progress on a pipe, on a terminal and where quiet: what reaches stderr. */
#include <criterion/criterion.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "progress.h"

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

Test(progress, terminal_gets_a_bar_redrawn_in_place) {
    int controller, terminal;
    char text[8192];
    struct winsize size = {.ws_row = 24, .ws_col = 60};
    cr_assert_eq(openpty(&controller, &terminal, NULL, NULL, &size), 0);
    show(terminal, false);
    size_t n = 0;
    while (n < 2 || text[n - 1] != '\n') { /* the kernel hands a terminal's text over in pieces */
        ssize_t more = read(controller, text + n, sizeof text - 1 - n);
        cr_assert_gt(more, 0, "the line is never ended");
        n += (size_t)more;
    }
    text[n] = '\0';
    cr_assert_not_null(strstr(text, "[########################] 40/40"), "%s", text);
    int redraws = 0;
    for (char *p = text; (p = strchr(p, '\033')); p++) redraws++;
    cr_assert(redraws >= 2 && redraws <= 20, "%d redraws of 40 quick units", redraws);
    cr_assert_str_eq(text + n - 2, "\r\n", "the line is ended");
}

Test(progress, nothing_is_a_valid_progress) {
    progress_update(NULL, 1, "%d", 1);
    progress_finish(NULL);
}

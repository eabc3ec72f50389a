/* progress.c - a bar on a terminal, plain lines on a pipe. */
#include "support/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static const double REDRAW_SECONDS = 0.1, LINE_SECONDS = 5.0;
enum { BAR_CELLS = 24, LEAST_CELLS = 4, LINE_BYTES = 512 };

struct progress {
    char label[32], detail[256];
    int64_t total, done;
    int64_t first_done; /* of the first update: a resumed run starts in the middle */
    double first_seconds, last_seconds;
    int64_t last_done; /* as last shown */
    bool terminal, updated;
};

static double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

progress *progress_start(const char *label, int64_t total, bool quiet) {
    progress *p = quiet ? NULL : calloc(1, sizeof *p);
    if (!p) return NULL;
    snprintf(p->label, sizeof p->label, "%s", label);
    p->total = total > 0 ? total : 1;
    /* whoever started this process shows what it writes on one */
    p->terminal = isatty(STDERR_FILENO) || getenv("COHORT_TERMINAL");
    p->last_seconds = now_seconds();
    p->last_done = -1;
    return p;
}

/* Assumes that the units to come take as long as those since the first update. */
static void format_left(const progress *p, double now, char *out, size_t bytes) {
    out[0] = '\0';
    if (p->done <= p->first_done || p->done >= p->total) return;
    double each = (now - p->first_seconds) / (double)(p->done - p->first_done);
    int64_t left = (int64_t)(each * (double)(p->total - p->done) + 0.5);
    if (left >= 3600)
        snprintf(out, bytes, "  %lldh%02lldm left", (long long)(left / 3600), (long long)(left / 60 % 60));
    else
        snprintf(out, bytes, "  %lld:%02lld left", (long long)(left / 60), (long long)(left % 60));
}

static int terminal_columns(void) {
    struct winsize size;
    const char *told = getenv("COHORT_TERMINAL");
    int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : told ? atoi(told) : 0;
    return columns > 0 ? columns : 80;
}

/* "[###...] " in at most `room` columns, "" where that is too little to see anything. */
static void bar_text(const progress *p, int room, char out[BAR_CELLS + 4]) {
    int cells = room - 3 < BAR_CELLS ? room - 3 : BAR_CELLS;
    if (cells < LEAST_CELLS) cells = 0;
    int64_t full = p->done >= p->total ? cells : cells * p->done / p->total;
    char *at = out;
    if (cells > 0) *at++ = '[';
    for (int i = 0; i < cells; i++) *at++ = i < full ? '#' : '.';
    strcpy(at, cells > 0 ? "] " : "");
}

/* On a narrow terminal the bar gives way first, then the details; the time left stays. */
static void draw_bar(const progress *p, const char *left) {
    char cells[BAR_CELLS + 4], state[LINE_BYTES], line[2 * LINE_BYTES];
    int columns = terminal_columns() - 1;
    snprintf(state, sizeof state, "%lld/%lld  %s", (long long)p->done, (long long)p->total, p->detail);
    int room = columns - (int)(strlen(p->label) + 1 + strlen(left));
    bar_text(p, room - (int)strlen(state), cells);
    room -= (int)strlen(cells);
    snprintf(line, sizeof line, "%s %s%.*s%s", p->label, cells, room > 0 ? room : 0, state, left);
    fprintf(stderr, "\r\033[K%.*s", columns, line);
    fflush(stderr);
}

static void draw(progress *p, double now) {
    char left[48];
    format_left(p, now, left, sizeof left);
    if (p->terminal)
        draw_bar(p, left);
    else
        fprintf(stderr, "%s %lld/%lld  %s%s\n", p->label, (long long)p->done, (long long)p->total, p->detail,
                left);
    p->last_seconds = now;
    p->last_done = p->done;
}

static bool is_due(const progress *p, double now) {
    bool last = p->done >= p->total && p->last_done < p->done;
    if (p->terminal) return last || p->last_done < 0 || now - p->last_seconds >= REDRAW_SECONDS;
    return last || (p->done > p->last_done && now - p->last_seconds >= LINE_SECONDS);
}

void progress_update(progress *p, int64_t done, const char *format, ...) {
    if (!p) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->detail, sizeof p->detail, format, arguments);
    va_end(arguments);
    double now = now_seconds();
    p->done = done;
    if (!p->updated) {
        p->updated = true;
        p->first_done = done;
        p->first_seconds = now;
    }
    if (is_due(p, now)) draw(p, now);
}

void progress_finish(progress *p) {
    if (!p) return;
    if (p->updated && p->last_done != p->done) draw(p, now_seconds());
    if (p->terminal && p->updated) fputc('\n', stderr);
    free(p);
}

void progress_note(bool quiet, const char *format, ...) {
    if (quiet) return;
    va_list arguments;
    va_start(arguments, format);
    fputs("cohort: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

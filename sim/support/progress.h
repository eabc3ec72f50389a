/* progress.h - how far a long command is: a bar on a terminal, plain lines on a pipe, nothing where quiet.
 * Writes to stderr. */
#ifndef COHORT_PROGRESS_H
#define COHORT_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct progress progress;

/* label: what is being done ("train"); total: units of work (rounds, steps). NULL is a valid progress that
 * shows nothing, so the result needs no check. */
progress *progress_start(const char *label, int64_t total, bool quiet);
/* done: units finished so far; format: what else to show ("%.1f k tokens/s loss %.3f"). Cheap: redraws at
 * most ten times a second on a terminal; on a pipe prints at most a line per unit and per 5 seconds (the last
 * unit always). */
void progress_update(progress *p, int64_t done, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Ends the line and frees; leaves the last state readable. */
void progress_finish(progress *p);

/* One line on stderr. */
void progress_note(bool quiet, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif

/* pipeline.h - waves take turns: while one computes, the next is filled on the host and its packs arrive
 * (slots.h).
 *
 *   host      fill 0 | start 0, fill 1 | finish 0, start 1, fill 2 | finish 1, start 2, ...
 *   compute            run 0 ......      update 0, run 1 .......     update 1, run 2 ...
 *   copies    fetch 0          fetch 1              home 0, fetch 2             home 1, ...
 *
 * The host waits once a wave, when it finishes it: its losses decide what is updated. A population that stops
 * then takes its devices out of the wave that was filled meanwhile, as if they had never been in it. */
#ifndef COHORT_PIPELINE_H
#define COHORT_PIPELINE_H

#include "engine/session.h"

typedef struct {
    const char *what; /* for messages */
    ck_program *program;
    packs_use use;
    float *gradients; /* NULL: none are wanted */
    /* The wave's run was issued: issues what brings its numbers to the host. */
    ck_status (*started)(session *s, wave_buffer *w, const void *context);
    /* They are there: issues what follows the run. */
    ck_status (*finished)(session *s, wave_buffer *w, const void *context);
    const void *context;
} wave_work;

/* session.filling is full: it starts, after the one that runs was finished, and session.filling is the other
 * one, empty. */
exit_code pipeline_turn(session *s, const wave_work *work, problems *list);
/* Starts session.filling and finishes all; the last updates may be under way on the session's stream, behind
 * which packs are at home. */
exit_code pipeline_end(session *s, const wave_work *work, problems *list);
/* session.filling alone, from start to end, with the devices in it that have stopped. */
exit_code pipeline_once(session *s, const wave_work *work, problems *list);
/* What became of filling a wave: after a failure all waves are awaited and emptied, so that nothing is left
 * that could write to them. */
exit_code pipeline_check(session *s, exit_code code);

#endif

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

#include "kernels.h"
#include "population/fleet.h"
#include "store/slots.h"
#include "store/waves.h"
#include "support/problems.h"

typedef struct {
    const fleet *fleet; /* with a backend and a stream */
    slots slots;
    /* They take turns. Callers add devices and windows to the one that is being filled (waves.h). */
    wave_buffer *filling, *running;
} pipeline;

/* After fleet_allocate(). After a failure, too, it is to be destroyed. */
exit_code pipeline_create(pipeline *p, const fleet *f, const wave_limits *limits, problems *list);
void pipeline_destroy(pipeline *p); /* of zeros is fine */

typedef struct {
    const char *what; /* for messages */
    ck_program *program;
    packs_use use;
    float *gradients; /* NULL: none are wanted */
    /* Called when the wave's run was issued. Issues the copies that bring its numbers to the host. */
    ck_status (*started)(void *context, wave_buffer *w);
    /* Called when these numbers are there. Issues what follows the run. */
    ck_status (*finished)(void *context, wave_buffer *w);
    void *context;
} wave_work;

/* Called when p->filling is full. Finishes the wave that runs, and starts the full one. Then p->filling is
 * the other buffer, which is empty. */
exit_code pipeline_turn(pipeline *p, const wave_work *work, problems *list);
/* Starts p->filling and finishes all waves. The last updates may still run on the fleet's stream. Work that
 * is issued to that stream later finds all packs at home. */
exit_code pipeline_end(pipeline *p, const wave_work *work, problems *list);
/* Runs p->filling alone, from start to end. Devices in it that have stopped stay in it. */
exit_code pipeline_once(pipeline *p, const wave_work *work, problems *list);
/* Takes and returns the code of filling a wave. After a failure it awaits and empties all waves, so that
 * nothing is left that could write to them. */
exit_code pipeline_check(pipeline *p, exit_code code);

#endif

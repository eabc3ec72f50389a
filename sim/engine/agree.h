/* agree.h - what the processes of a run tell each other when they meet (agreement_meet()), and what they
 * know from it. A process that is alone meets itself. Only agree.c writes the members of an agreement. */
#ifndef COHORT_AGREE_H
#define COHORT_AGREE_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "collective/collective.h"
#include "population/fleet.h"
#include "support/problems.h"

typedef enum { DIVERGED_IN_TRAINING, DIVERGED_IN_ROUTER_STEP, DIVERGED_IN_EVALUATION } divergence_kind;

/* Where numbers of a population were first seen not to be finite. */
typedef struct {
    int32_t device; /* index into fleet.devices; -1: nowhere */
    int32_t layer;  /* -1: in the output */
    int32_t kind;
} divergence;

/* Of expert steps. */
typedef struct {
    double seconds, tokens, flops;
    double loss; /* sum over devices of their means */
    int64_t devices;
} step_numbers;

typedef struct {
    ck_collective *collective;
    fleet *fleet;
    /* What all know since they met: */
    bool stop;             /* a signal came to one of them */
    double expert_seconds; /* of the expert steps since the session began; each took as long as its slowest
                              * process */
    double expert_tokens, expert_flops;
    double step_loss; /* mean over all devices of the last expert step */
    /* What this process has to tell when they meet next: */
    const volatile sig_atomic_t *interrupted; /* a signal asks it to stop; NULL: nobody does */
    step_numbers own_step;
    divergence *diverged; /* [populations] that it saw */
    unsigned char *own_status, *every_status;
} agreement;

/* After a failure, too, it is to be destroyed. */
exit_code agreement_create(agreement *a, ck_collective *collective, fleet *f, problems *list);
/* The totals of the expert steps stay readable. */
void agreement_destroy(agreement *a);
void agreement_watch(agreement *a, const volatile sig_atomic_t *interrupted);

/* A device's part of an expert step: loss, its mean. */
void agreement_count_step(agreement *a, double tokens, double flops, double loss);
void agreement_time_step(agreement *a, double seconds);
/* Stops a device's population, because a number is not finite; layer: the first that saw it, -1: the output
 * alone. When the processes meet next it stops in all of them, with a message. */
void agreement_diverged(agreement *a, int device_index, int layer, divergence_kind kind);

/* Where the run stands, for messages. */
typedef struct {
    int round;          /* the current one, from 1 */
    const char *result; /* its folder, borrowed; NULL: none */
    int saved_round;    /* of the last checkpoint there; 0: none yet */
} run_position;

/* The processes meet, each with the code of what it did since they last met: EXIT_OK where all are well. */
exit_code agreement_meet(agreement *a, const run_position *at, exit_code code, problems *list);

#endif

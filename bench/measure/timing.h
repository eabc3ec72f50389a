/* timing.h - samples until they agree.
 *
 * A subject is anything that can be asked to work n times and to say how long that took: a copy of a world, a program in another process.
 * Subjects that are compared are sampled in turn, so that a machine that is slow for a while is slow for all of them. */
#ifndef COHORT_BENCH_TIMING_H
#define COHORT_BENCH_TIMING_H

#include <stdbool.h>
#include <stdint.h>

#include "statistics.h"

typedef struct {
    double noise;          /* spread at which samples have settled, see statistics.h */
    double seconds;        /* time allowed for a subject */
    double sample_seconds; /* a sample is as many iterations as take about this long */
    int least_samples;
} timing_rule;

typedef struct {
    int count, room;
    double *seconds, *cpu_seconds; /* [count] of one iteration: by the backend's clock; of all of the process' threads */
    int64_t iterations;            /* of the next sample */
    statistics real;
    bool settled, failed;
} timing;

typedef struct {
    void *who;
    /* n iterations: seconds of all of them, and the process' CPU seconds; false: it failed and has said why */
    bool (*work)(void *who, int64_t n, double *seconds, double *cpu_seconds);
    timing t;
} subject;

/* A subject that fails takes no further part. */
void timing_measure(subject *subjects, int n, const timing_rule *rule);
void timing_free(timing *t);

#endif

/* timing.h - undisturbed samples until they agree.
 *
 * A subject is anything that can be asked to work n times and to say how long that took: a copy of a rig, a
 * program in another process. Subjects that are compared are sampled in turn, so that a machine that is slow
 * for a while is slow for all of them.
 *
 * A sample is disturbed where another program had cores that its threads wanted: it then measures the
 * scheduler, and many such samples may well agree. Disturbed samples are kept and marked, but neither settle
 * nor count in the statistics, unless there is no other. */
#ifndef COHORT_BENCH_TIMING_H
#define COHORT_BENCH_TIMING_H

#include <stdbool.h>
#include <stdint.h>

#include "measure/statistics.h"
#include "measure/usage.h"

typedef struct {
    double noise;          /* spread at which samples have settled, see statistics.h */
    double seconds;        /* time allowed for a subject */
    double sample_seconds; /* a sample is as many iterations as take about this long */
    int least_samples;
} timing_rule;

typedef struct {
    double seconds; /* by the backend's clock */
    usage used;
} sample;

typedef struct {
    int count, room, undisturbed;
    /* [count] of one iteration: by the backend's clock; of all of the process' threads */
    double *seconds, *cpu_seconds;
    bool *disturbed;    /* [count] */
    int64_t iterations; /* of the next sample */
    statistics real;    /* of the seconds that count, see timing_judged() */
    bool settled, failed;
} timing;

typedef struct {
    void *who;
    /* n iterations, measured all together; false: it failed and has said why */
    bool (*work)(void *who, int64_t n, sample *out);
    int threads; /* of the processor that do the work; 0: a GPU does it, whom nobody disturbs */
    timing t;
} subject;

/* A subject that fails takes no further part. */
void timing_measure(subject *subjects, int n, const timing_rule *rule);
void timing_free(timing *t);

/* Whether others took so much from the threads that it could be more than the noise that the rule allows. */
bool timing_disturbed(const sample *s, int threads, const timing_rule *rule);
/* Of [count] values, those of undisturbed samples; all if there is none. Returns how many. */
int timing_judged(const timing *t, const double *values, double *out);
/* a_i / b_i of pairs of which both count. */
statistics timing_ratio(const timing *a, const timing *b);

#endif

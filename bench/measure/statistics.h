/* statistics.h - what a bench says about its samples.
 *
 *   spread        (q75 - q25) / (2 |median|): half of the samples lie within about median (1 +- spread).
 *                 Quartiles are interpolated between neighbours, so of few samples none is ignored, and of
 *                 five or more one disturbed sample is
 *   paired ratio  median_i (a_i / b_i) with its own spread; a_i and b_i were measured one after the other, so
 *                 that a machine that is slow for a while is slow for both
 *   settled       the spread has come down to a limit after enough samples, or time is out */
#ifndef COHORT_BENCH_STATISTICS_H
#define COHORT_BENCH_STATISTICS_H

typedef struct {
    int count;
    double median, min, max, spread; /* NaN where count is 0 */
} statistics;

/* The mean of the two middle values where count is even; NaN if count is 0 or a value is NaN. */
double statistics_median(const double *x, int count);
statistics statistics_of(const double *x, int count);
statistics statistics_of_ratio(const double *a, const double *b, int count);

typedef struct {
    int least_samples;
    double spread;  /* enough when at most this */
    double seconds; /* time allowed in all */
} settling;

typedef enum { STATISTICS_GO_ON, STATISTICS_SETTLED, STATISTICS_TIMED_OUT } settling_state;

/* A spread of less than least_samples, or of NaN, never counts as settled. */
settling_state statistics_settled(const statistics *s, const settling *rule, double elapsed_seconds);

#endif

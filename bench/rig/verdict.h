/* verdict.h - right or wrong: arrays against a float64 reference.
 *
 *   an array is wrong if ||out - ref|| > tolerance ||ref||
 *   an element is wrong if |out - ref| > 5 tolerance (|ref| + rms(ref)), or if out is not finite; where an
 *   array is wrong although none of its elements is, all of them are */
#ifndef COHORT_BENCH_VERDICT_H
#define COHORT_BENCH_VERDICT_H

#include <stdbool.h>
#include <stdint.h>

static const double TOLERANCE_F32 = 1e-5, TOLERANCE_BF16 = 1e-2;

typedef struct {
    double tolerance;
    char context[192]; /* what messages begin with; the caller's */
    int comparisons, failures;
    int64_t checked, wrong; /* elements */
    double error;           /* largest ||out - ref|| / ||ref|| of a comparison */
    uint64_t bits;          /* of all that was compared, hashed: equal for runs with the same results */
    char where[128];        /* the first comparison with a wrong element */
    char message[1024];     /* the first failures, a line each */
    bool impossible;        /* the reference itself could not be made: no memory */
} verdict;

bool verdict_passed(const verdict *v); /* something was compared and nothing is wrong */
/* out and ref are [count]; what: named if wrong. */
void verdict_compare(verdict *v, const char *what, const float *out, const double *ref, int64_t count);
void verdict_near(verdict *v, const char *what, const float *out, const double *ref, int64_t count,
                  double tolerance);
/* Counts elements that are not finite, of an output that is not compared as a whole. */
void verdict_finite(verdict *v, const char *what, const float *out, int64_t count);
/* One element that must be exactly so. */
void verdict_exact(verdict *v, const char *what, bool right);
/* Something else is wrong. */
void verdict_fail(verdict *v, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ||out - ref|| / ||ref||; where ref is all zero: 0 if out is too, else infinite. NaN in either: infinite. */
double verdict_error(const float *out, const double *ref, int64_t count);

#endif

/* verdict.h - right or wrong: the count of elements that differ from a float64 reference.
 *
 *   an element is wrong if |out - ref| > 5 tolerance (|ref| + rms(ref)), or if out is not finite
 *   if ||out - ref|| > tolerance ||ref|| although no element is, all of them are
 *
 * Tolerance: 1e-5 in f32, 1e-2 in bf16. */
#ifndef COHORT_BENCH_VERDICT_H
#define COHORT_BENCH_VERDICT_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    double tolerance;
    int64_t checked, wrong;
    double error;    /* largest ||out - ref|| / ||ref|| of a comparison */
    char where[128]; /* the first comparison with a wrong element */
    bool impossible; /* the reference itself could not be made: no memory */
} verdict;

bool verdict_passed(const verdict *v); /* something was checked and nothing is wrong */
/* out and ref are [count]; what: named if wrong. */
void verdict_compare(verdict *v, const char *what, const float *out, const double *ref, int64_t count);
/* Counts elements that are not finite, of an output that is not compared as a whole. */
void verdict_finite(verdict *v, const char *what, const float *out, int64_t count);
/* One element that must be exactly so. */
void verdict_exact(verdict *v, const char *what, bool right);

#endif

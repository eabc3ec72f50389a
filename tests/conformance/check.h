/* check.h - what a conformance case answers: passed or not, and the first few reasons. No test framework, so
 * that any runner can use it. */
#ifndef COHORT_CONFORMANCE_CHECK_H
#define COHORT_CONFORMANCE_CHECK_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int comparisons, failures;
    uint64_t bits;      /* of all that check_near() was given, hashed: equal for runs with the same results */
    char message[1024]; /* the first failures, a line each */
} check;

void check_fail(check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool check_passed(const check *c); /* something was compared and nothing failed */

/* ||out - ref|| / ||ref||; where ref is all zero: 0 if out is too, else infinite. NaN anywhere in out:
 *     infinite. */
double check_error(const float *out, const double *ref, int64_t count);
/* Counts a comparison and fails it above `tolerance`. `where` names backend, case, device and tensor. */
void check_near(check *c, const char *where, const float *out, const double *ref, int64_t count,
                double tolerance);

#endif

/* student.h - Student's t distribution, for confidence intervals of means of few values. */
#ifndef COHORT_STUDENT_H
#define COHORT_STUDENT_H

/* P(T <= t) with `freedom` (>= 1) degrees of freedom. */
double student_below(double t, int freedom);
/* The t of which P(T <= t) = p, 0 < p < 1. */
double student_quantile(double p, int freedom);

#endif

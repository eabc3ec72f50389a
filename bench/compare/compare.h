/* compare.h - one run of the microbenchmarks against another.
 *
 *   ratio r = median_B / median_A; each side's middle half is median (1 +- spread)
 *   faster    r < 1 - threshold and the middle halves do not overlap
 *   slower    r > 1 + threshold and they do not overlap
 *   same      |r - 1| <= threshold and both spreads are at most the threshold
 *   unclear   otherwise */
#ifndef COHORT_BENCH_COMPARE_H
#define COHORT_BENCH_COMPARE_H

#include <stdio.h>

#include "measure/statistics.h"
#include "support/problems.h"

typedef enum { COMPARE_SAME, COMPARE_FASTER, COMPARE_SLOWER, COMPARE_UNCLEAR } comparison;

/* Of B against A. */
comparison compare_statistics(const statistics *a, const statistics *b, double threshold);
const char *comparison_name(comparison c);

/* Files as --json writes them. Disturbed samples have no say: a case that has hardly any other is unclear.
 * Prints a line for each case of either file; counts those that are slower. */
exit_code compare_files(FILE *out, const char *path_a, const char *path_b, double threshold, int *slower,
                        problems *list);

#endif

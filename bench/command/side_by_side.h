/* side_by_side.h - the command lines of `cohort-bench peers` and `cohort-bench steps`. */
#ifndef COHORT_BENCH_SIDE_BY_SIDE_H
#define COHORT_BENCH_SIDE_BY_SIDE_H

#include "support/problems.h"

exit_code side_by_side_peers(int n, char **arguments, problems *list);
exit_code side_by_side_steps(int n, char **arguments, problems *list);
extern const char SIDE_BY_SIDE_HELP[];

#endif

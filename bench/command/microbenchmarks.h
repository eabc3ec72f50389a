/* microbenchmarks.h - the command lines of `cohort-bench kernels`, `all-reduce` and `--compare`. */
#ifndef COHORT_BENCH_MICROBENCHMARKS_H
#define COHORT_BENCH_MICROBENCHMARKS_H

#include "support/problems.h"

exit_code microbenchmarks_run(int n, char **arguments, problems *list);
exit_code microbenchmarks_all_reduce(int n, char **arguments, problems *list);
exit_code microbenchmarks_compare(int n, char **arguments, problems *list);
extern const char MICROBENCHMARKS_HELP[];

#endif

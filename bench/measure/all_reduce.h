/* all_reduce.h - `cohort-bench all-reduce`: the sum of a packed buffer over processes, as nccl-tests
 * tabulates it.
 *
 *   algbw = bytes / time        busbw = algbw 2 (n - 1) / n: what a link carries if every byte travels no
 *                               more often than it must
 *
 * Time is that of the slowest process. Every element of every process is held against the float64 sum. */
#ifndef COHORT_BENCH_ALL_REDUCE_H
#define COHORT_BENCH_ALL_REDUCE_H

#include "measure/result.h"

typedef struct {
    const char *backend; /* NULL: auto */
    int threads;
    double most_bytes; /* sizes are 4 KiB, then four times as much, up to this */
    timing_rule rule;
    const char *json;
    FILE *out; /* of process 0; NULL: stdout */
} all_reduce_options;

/* Under mpirun all processes call it; process 0 prints and writes. */
exit_code all_reduce_run(const all_reduce_options *options, problems *list);

#endif

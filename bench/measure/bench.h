/* bench.h - `cohort-bench kernels`: every case at every point of its sweeps is verified, then timed. */
#ifndef COHORT_BENCH_BENCH_H
#define COHORT_BENCH_BENCH_H

#include <stdio.h>

#include "measure/result.h"
#include "rig/case.h"

enum { BENCH_MOST_SWEEPS = 64, BENCH_MOST_PEERS = 8 };

typedef struct {
    const char *backend; /* NULL: auto */
    int threads;         /* 0: one per core */
    timing_rule rule;    /* see BENCH_RULE */
    bool cold;           /* also beyond the cache */
    int n_sweeps;        /* 0: one with all defaults */
    const sweep *sweeps;
    const char *json, *csv; /* files to write, NULL: none */
    bool peers;             /* also the same work in PyTorch */
    const char *python;     /* NULL: found */
    int n_peers;
    const char *peer[BENCH_MOST_PEERS]; /* MODULE:FUNCTION of other kernels, see peers/kernels.py */
    FILE *out;                          /* the table; NULL: stdout */
} bench_options;

extern const timing_rule BENCH_RULE;

/* cases: ended by NULL. EXIT_RUN if a result is wrong, EXIT_INPUT if a filter selects nothing. */
exit_code bench_run(const bench_options *options, const op_case *const *cases, problems *list);
/* Names, directions and floors of all cases, and the axes. */
void bench_list(FILE *out, const op_case *const *cases);

/* A case at a point: r is filled but for peers. */
typedef struct bench_peers bench_peers;
exit_code bench_point(const bench_options *options, const context *c, ck_backend *backend, bench_peers *peers,
                      const op_case *which, const point *at, result *r, problems *list);

#endif

/* result.h - what a run of the microbenchmarks found, and its three forms: a table, JSON, CSV. */
#ifndef COHORT_BENCH_RESULT_H
#define COHORT_BENCH_RESULT_H

#include <stdio.h>

#include "measure/timing.h"
#include "rig/point.h"
#include "rig/verdict.h"
#include "support/output_file.h"

enum { RESULT_NAME_BYTES = 224, RESULT_MOST_TIMES = 12 };

/* One way of doing the work, measured. */
typedef struct {
    char label[96]; /* "warm", "cold", or a peer's name */
    bool peer;
    char reason[160]; /* of a peer: why it has no time; empty: it is wrong, or has one */
    verdict right;    /* a peer's own; else the case's */
    timing t;         /* without samples where it is wrong or failed */
} measured;

typedef struct {
    char name[RESULT_NAME_BYTES]; /* route/forward/T4096/... */
    const char *family;           /* the case's name */
    point at;
    unsigned axes;
    verdict right;
    double bytes, flops, floor_seconds; /* floor 0: no ceilings were measured */
    double fma_seconds;                 /* FLOPs / FMA peak; 0: that was not measured */
    /* of a whole model, else 0; FLOP/s that its MFU is a share of, 0: not measured */
    double model_flops, product_rate;
    int n_times;
    measured times[RESULT_MOST_TIMES];
    char note[192]; /* why something is missing; empty: nothing is */
    bool skipped;   /* an impossible point, or one that does not fit: not an error */
} result;

typedef struct {
    const char *backend, *hardware, *revision;
    load_average load; /* before anything was measured */
    int threads;
    double copy_rate;      /* bytes/s; 0: not measured */
    ck_ceiling ceiling[2]; /* of f32 and bf16 */
    size_t cache_bytes;
    timing_rule rule;
} context;

void table_begin(FILE *out, const context *c);
void table_row(FILE *out, const result *r);
/* Closing lines: what is wrong, what did not settle. */
void table_end(FILE *out, const result *all, int n);

/* Google Benchmark's format: "context", and for every measurement its samples as repetitions and their
 * aggregates. Its compare.py weighs every repetition the same in OVERALL_GEOMEAN; so that it weighs every
 * measurement the same, all have as many repetitions as the one with the fewest samples: undisturbed ones
 * first, else spread evenly over the time. Aggregates are of all undisturbed samples. */
exit_code result_write_json(output_file *out, const context *c, const result *all, int n, problems *list);
/* One line a measurement. */
void result_write_csv(output_file *out, const context *c, const result *all, int n);

void result_free(result *r);

#endif

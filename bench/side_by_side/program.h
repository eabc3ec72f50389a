/* program.h - runs one program of a side-by-side and reads what it printed:
 *
 *   {"step": 0, "loss": [nats per token of each device]}     for each step
 *   {"step_seconds": [..], "start_bytes": .., "peak_bytes": .., "threads": {..}, "version": ".."}
 *
 * Bytes are resident memory, at its peak and before the program read its inputs; all programs read them in
 * the same place (/proc/self/status). */
#ifndef COHORT_BENCH_PROGRAM_H
#define COHORT_BENCH_PROGRAM_H

#include <jansson.h>

#include "measure/process.h"
#include "side_by_side/job.h"

typedef struct {
    int steps, devices;
    double *loss;    /* [steps, devices] */
    double *seconds; /* [steps] */
    double start_bytes, peak_bytes;
    json_t *end; /* the last line */
} program_result;

/* Runs and reads. steps: lines expected; a program that ends badly or prints less is reported with its last
 * words. */
exit_code program_run(const char *const *arguments, const char *const *environment, const char *out,
                      int steps, int devices, program_result *result, problems *list);
void program_free(program_result *r);

typedef struct {
    double largest; /* of |a - b|; NaN if a value is */
    int step, device;
} difference;

difference program_difference(const program_result *a, const program_result *b);
/* Tokens a second at the median step after the warm-up. */
double program_rate(const program_result *r, const job *j);

#endif

/* job.h - the work that every program of a side-by-side does, and the folder it is read from.
 *
 *   job.json                     sizes and constants, for the PyTorch programs
 *   run.yaml, control.yaml       the same as configurations of Cohort; control.yaml starts from
 *                                adapters_control/
 *   base/                        config.json, model.safetensors: random weights
 *   adapters/                    adapters_0_<device>.safetensors: no factor is 0, so that every term of the
 *                                model matters
 *   adapters_control/            the same with the router's rows in reverse order: a program that reads these
 *                                is wrong
 *   tokens/                      train_<device>.bin (valid and test are too short to be used for more than a
 *                                window)
 *   windows.csv                  the windows of every step (sim/data/windows.h) */
#ifndef COHORT_BENCH_JOB_H
#define COHORT_BENCH_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "support/problems.h"

typedef struct {
    const char *name;
    base_shape base; /* base_complete() gives the rest */
    int devices, batch, sequence, steps;
    int warmup; /* first steps that are not timed */
    int generalists, specialists, rank, attention_rank, top_k;
    double alpha; /* scale = alpha / sqrt(rank) */
    double learning_rate, final_learning_rate_ratio, weight_decay, beta1, beta2, epsilon;
    uint64_t seed;
} job;

/* A known shape with its default devices and batch; false: unknown. */
bool job_find(const char *name, job *out);
extern const char JOB_NAMES[]; /* for messages */

double job_tokens_a_step(const job *j);
/* Fills an existing, empty folder. */
exit_code job_write(const job *j, const char *folder, problems *list);

#endif

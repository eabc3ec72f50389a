/* steps.h - Cohort's own side of a side-by-side, as a program of its own, so that its memory is measured as
 * the others' is. */
#ifndef COHORT_BENCH_STEPS_H
#define COHORT_BENCH_STEPS_H

#include "support/problems.h"

/* Takes the expert steps of a configuration that job_write() made, and prints a JSON line for each and a last
 * one. threads 0: one per core; most_steps 0: all. */
exit_code steps_run(const char *config, int threads, int most_steps, problems *list);

#endif

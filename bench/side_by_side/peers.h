/* peers.h - the same whole expert steps in Cohort and in PyTorch programs (bench/peers/), one after another
 * on one machine. (Single operations in PyTorch: measure/peers.h.) */
#ifndef COHORT_BENCH_PEERS_H
#define COHORT_BENCH_PEERS_H

#include "support/problems.h"

typedef struct {
    const char *shape;
    int devices, batch, steps; /* 0: the shape's */
    int rounds;                /* at most; fewer if the ratios settle */
    double minutes;            /* no round starts after them */
    int threads;               /* 0: one per core */
    const char *json;          /* NULL, or a file for the results */
    const char *python;        /* NULL: $COHORT_PYTHON, else python3 */
    const char *keep;          /* NULL, or a new folder where inputs and outputs stay */
} peers_options;

/* Prints the table. EXIT_RUN if a program failed or its losses disagree with Cohort's; without PyTorch it
 * says so and is EXIT_OK. */
exit_code peers_run(const peers_options *options, problems *list);

#endif

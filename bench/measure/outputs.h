/* outputs.h - the results of a run, kept to hold others against them: another recording of the same work, a
 * peer. */
#ifndef COHORT_BENCH_OUTPUTS_H
#define COHORT_BENCH_OUTPUTS_H

#include "rig/verdict.h"
#include "rig/world.h"

typedef struct {
    double *tensor[TENSORS], *buffer[BUFFERS], *pack[PACK_MEMORIES][MOST_CHECKED]; /* NULL: no output */
} outputs;

/* Of what world_download() read; INNER arrays are left out. */
outputs outputs_take(const world *w);
/* What was read since against what was taken. */
void outputs_compare(const world *w, verdict *v, const outputs *known);
void outputs_free(outputs *o);

#endif

/* outputs.h - the results of a run, kept to hold others against them: another recording of the same work, a
 * peer. */
#ifndef COHORT_BENCH_OUTPUTS_H
#define COHORT_BENCH_OUTPUTS_H

#include "rig/rig.h"
#include "rig/verdict.h"

typedef struct {
    double *tensor[TENSORS], *buffer[BUFFERS], *pack[PACK_MEMORIES][MOST_CHECKED]; /* NULL: no output */
} outputs;

/* Of what rig_download() read; INNER arrays are left out. */
outputs outputs_take(const rig *r);
/* What was read since against what was taken. */
void outputs_compare(const rig *r, verdict *v, const outputs *known);
void outputs_free(outputs *o);

#endif

/* merge_parts.h - what merge*.c share: parts that are open. */
#ifndef COHORT_RESULT_MERGE_PARTS_H
#define COHORT_RESULT_MERGE_PARTS_H

#include "result/export_tables.h"
#include "result/merge.h"
#include "result/trace.h"

typedef struct {
    const merge_part *given;
    fleet *fleet;        /* its devices, for the places of their packs; owned */
    checkpoint saved;    /* without packs; its arrays are owned */
    export_source trace; /* opened and closed by merge_trace.c */
    bool traced;         /* trace is to be closed */
    bool used;           /* some population comes from it */
    /* where its populations, devices and recorded windows go; -1: nowhere; owned */
    int *population_to, *device_to, *window_to;
} open_part;

typedef struct {
    const settings *settings;
    const merge_source *sources; /* [n_populations] */
    fleet *fleet;                /* of the result */
    open_part *parts;            /* [n_parts] */
    int n_parts;
    const char *out;
} merging;

exit_code merge_trace(merging *m, problems *list);
exit_code merge_checkpoint(merging *m, problems *list);

#endif

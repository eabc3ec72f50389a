/* once.h - a run of all populations of a configuration at once, from start to end: a result, or a batch of
 * one (run/batches.h). */
#ifndef COHORT_ONCE_H
#define COHORT_ONCE_H

#include "run/run.h"

/* What a batch has of the result that it will be merged into. */
typedef struct {
    const char *result; /* its folder, which messages name; NULL: this run is no batch */
    const char *label;  /* of the progress; NULL: "train". What has one prints no closing report */
} run_batch;

/* options.retry_failed is not for here. *too_large, of all processes alike: it was refused because it does
 * not fit into memory; nothing was written then. */
exit_code run_once(const settings *s, const run_options *options, const run_batch *batch, bool *too_large,
                   problems *list);

#endif

/* once.h - one run of all populations of a configuration together, from start to end. It makes a whole
 * result, or a batch of a result (run/batches.h). */
#ifndef COHORT_ONCE_H
#define COHORT_ONCE_H

#include "run/run.h"

/* What the run needs to know if it is a batch, which will be merged into a result. */
typedef struct {
    const char *result; /* its folder, which messages name; NULL: this run is no batch */
    const char *label;  /* of the progress; NULL: "train". What has one prints no closing report */
} run_batch;

/* Does not read options.retry_failed. *too_large becomes true, in all processes, if the run was refused
 * because it does not fit into memory; then nothing was written. */
exit_code run_once(const settings *s, const run_options *options, const run_batch *batch, bool *too_large,
                   problems *list);

#endif

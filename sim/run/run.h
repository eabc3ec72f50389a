/* run.h - a run from start to end: rounds of two-level training over all populations at once, evaluation,
 * aggregation, trace. */
#ifndef COHORT_RUN_H
#define COHORT_RUN_H

#include <stdbool.h>

#include "collective/collective.h"
#include "settings/settings.h"
#include "support/problems.h"

typedef struct {
    /* result folder; NULL: results/<config name>-<hash prefix> under the current directory */
    const char *out;
    bool resume, quiet;
    bool retry_failed; /* with resume: populations of a complete result that diverged run again */
    bool tuned;        /* what tune.h writes may be in the folder already */
    /* of the progress; such a run is part of another one and prints no closing report; NULL: "train" */
    const char *label;
    ck_collective *collective; /* the processes of the run; NULL: this one alone */
} run_options;

/* Runs all populations: at once if they fit into memory, else in batches (run/batches.h). With resume it
 * runs the populations that the result lacks. Of several processes, all execute the run: each has its share
 * of the devices, and only process 0 reads and writes files and prints. */
exit_code run_execute(const settings *s, const run_options *options, problems *list);
/* CPU threads for process number `process` of `processes` on this machine: its share of the threads in the
 * settings, or of the machine's cores. 0: ck_open() decides. */
int run_threads(const settings *s, int process, int processes);

/* `cohort check`: prints the populations, parameters per device (shared, private), bytes a round, and the
 * memory plan of each of `processes` processes. If there is one process and not all populations fit at once,
 * it prints a plan for each batch. measured: also prints how long a run takes (measure.h). */
exit_code run_check(const settings *s, int processes, bool measured, problems *list);

#endif

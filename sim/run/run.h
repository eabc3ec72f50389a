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

/* All populations at once where they fit into memory, and else in batches (run/batches.h); with resume the
 * populations that the result lacks. Of several processes, all execute the run: each has its share of the
 * devices, and process 0 alone reads, writes and speaks. */
exit_code run_execute(const settings *s, const run_options *options, problems *list);
/* CPU threads of one of so many processes on a machine: its share of those that the settings, or the
 * machine's cores, give to all. 0: as ck_open() likes. */
int run_threads(const settings *s, int process, int processes);

/* `cohort check`: populations, parameters per device (shared, private), bytes a round, and the memory plan of
 * each of so many processes; of one that is alone, batch by batch where not all populations fit at once. Where
 * it is to be measured, how long a run takes (measure.h). */
exit_code run_check(const settings *s, int processes, bool measured, problems *list);

#endif

/* run.h - a run from start to end: rounds of two-level training over all populations at once, evaluation, aggregation, trace. */
#ifndef COHORT_RUN_H
#define COHORT_RUN_H

#include <stdbool.h>

#include "base/base.h"
#include "collective/collective.h"
#include "config/settings.h"
#include "problems.h"

typedef struct {
    const char *out; /* result folder; NULL: results/<config name>-<hash prefix> under the current directory */
    bool resume, quiet;
    ck_collective *collective; /* the processes of the run; NULL: this one alone */
} run_options;

/* Of several processes, all execute the run: each has its share of the devices, and process 0 alone reads, writes and speaks. */
exit_code run_execute(const settings *s, const run_options *options, problems *list);
/* CPU threads of one of so many processes on a machine: its share of those that the settings, or the machine's cores, give to all. 0: as
 * ck_open() likes. */
int run_threads(const settings *s, int process, int processes);

/* `cohort check`: populations, parameters per device (shared, private), bytes a round, and the memory plan of each of so many processes. */
exit_code run_check(const settings *s, int processes, problems *list);

/* The base's shape, before there is a base; refused where the run's windows do not fit it. */
exit_code run_base_shape(const settings *s, base_shape *out, problems *list);
/* Reads a base that is there already (base.checkpoint, or made before) for what may be wrong with it, as run_obtain_base() will. */
exit_code run_read_base(const settings *s, problems *list);
/* Whether run_obtain_base() will have to train it. */
bool run_trains_base(const settings *s);

/* `cohort pretrain`, and what run does first where the config describes a base: loads the checkpoint, or finds the base in the cache
 * ($COHORT_CACHE, else $XDG_CACHE_HOME/cohort, else ~/.cache/cohort) under the hash of its settings, or pre-trains and stores it. out:
 * NULL, or a folder that gets a copy. */
exit_code run_obtain_base(const settings *s, ck_backend *backend, bool quiet, const char *out, base_model **model, problems *list);

#endif

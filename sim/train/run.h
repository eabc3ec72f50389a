/* run.h - a run from start to end: rounds of two-level training over all populations at once, evaluation, aggregation, trace. */
#ifndef COHORT_RUN_H
#define COHORT_RUN_H

#include <stdbool.h>

#include "base/base.h"
#include "config/settings.h"
#include "problems.h"

typedef struct {
    const char *out; /* result folder; NULL: results/<config name>-<hash prefix> under the current directory */
    bool resume, quiet;
} run_options;

exit_code run_execute(const settings *s, const run_options *options, problems *list);

/* `cohort check`: populations, parameters per device (shared, private), bytes a round, and the memory plan. */
exit_code run_check(const settings *s, problems *list);

/* The base's shape, before there is a base. */
exit_code run_base_shape(const settings *s, base_shape *out, problems *list);
/* The base at base.checkpoint. */
exit_code run_load_checkpoint(const settings *s, base_model **model, problems *list);
/* Whether run_obtain_base() will have to train it. */
bool run_trains_base(const settings *s);

/* `cohort pretrain`, and what run does first where the config describes a base: loads the checkpoint, or finds the base in the cache
 * ($COHORT_CACHE, else $XDG_CACHE_HOME/cohort, else ~/.cache/cohort) under the hash of its settings, or pre-trains and stores it. out:
 * NULL, or a folder that gets a copy. */
exit_code run_obtain_base(const settings *s, ck_backend *backend, bool quiet, const char *out, base_model **model, problems *list);

#endif

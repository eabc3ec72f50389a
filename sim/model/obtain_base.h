/* obtain_base.h - the base of a run: a checkpoint, one that was made before, or one that is pre-trained now.
 */
#ifndef COHORT_OBTAIN_BASE_H
#define COHORT_OBTAIN_BASE_H

#include <stdbool.h>

#include "base/base.h"
#include "kernels.h"
#include "settings/settings.h"
#include "support/problems.h"

/* The base's shape, before there is a base; refused where the run's windows do not fit it. */
exit_code run_base_shape(const settings *s, base_shape *out, problems *list);
/* Reads a base that is there already (base.checkpoint, or made before) for what may be wrong with it, as
 * run_obtain_base() will. *model is the caller's; NULL where there is none yet. */
exit_code run_read_base(const settings *s, base_model **model, problems *list);
/* Whether run_obtain_base() will have to train it. */
bool run_trains_base(const settings *s);

/* `cohort pretrain`, and what run does first where the config describes a base: loads the checkpoint, or
 * finds the base in the cache ($COHORT_CACHE, else $XDG_CACHE_HOME/cohort, else ~/.cache/cohort) under the
 * hash of its settings, or pre-trains and stores it. out: NULL, or a folder that gets a copy. */
exit_code run_obtain_base(const settings *s, ck_backend *backend, bool quiet, const char *out,
                          base_model **model, problems *list);

#endif

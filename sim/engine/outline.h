/* outline.h - whether a configuration can be run on this machine, and in how much memory. `check` and `run`
 * both ask here. */
#ifndef COHORT_OUTLINE_H
#define COHORT_OUTLINE_H

#include "base/base.h"
#include "collective/collective.h"
#include "engine/plan.h"
#include "population/fleet.h"
#include "settings/settings.h"
#include "support/problems.h"

typedef struct {
    base_shape shape;
    fleet *fleet; /* with its text open; owned */
    run_plan plan;
} run_outline;

/* Checks all that can be checked before a base is loaded, or pre-trained for minutes: the base's shape, the
 * populations, memory and text. `out` must be zeros. It is to be freed, also after a failure. */
exit_code outline_make(const settings *s, ck_collective *collective, ck_backend *backend, run_outline *out,
                       problems *list);
/* Writes whether the memory plan admits the run in all processes, which call this together. The text is not
 * open, so its memory is estimated. That the run does not fit is no failure; only other problems are. */
exit_code outline_fits(const settings *s, ck_collective *collective, ck_backend *backend, bool *fits,
                       problems *list);
/* *known becomes true in all processes if it is true in any of them. All call it. */
exit_code outline_any(ck_collective *collective, bool *known, problems *list);
void outline_free(run_outline *o); /* one of zeros is fine */

#endif

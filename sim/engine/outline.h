/* outline.h - what a configuration comes to on this machine: the one place where `check` and `run` find out
 * whether it can be run. */
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

/* All that can be refused before a base is loaded, or pre-trained for minutes: the base's shape, populations,
 * memory, text. `out` is zeros; after a failure, too, it is to be freed. */
exit_code outline_make(const settings *s, ck_collective *collective, ck_backend *backend, run_outline *out,
                       problems *list);
/* Whether the memory plan admits it, as far as can be said before its text is open, in all of several
 * processes, which call it together. A failure is one of another sort. */
exit_code outline_fits(const settings *s, ck_collective *collective, ck_backend *backend, bool *fits,
                       problems *list);
/* What a process knows becomes what all know: whether it is true in any. */
exit_code outline_any(ck_collective *collective, bool *known, problems *list);
void outline_free(run_outline *o); /* one of zeros is fine */

#endif

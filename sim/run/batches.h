/* batches.h - populations of one result that are not run at the same time.
 *
 *   too large for memory -> batches of as many populations as fit, in their order
 *   the configuration has populations that the result lacks -> these alone
 *   --retry-failed -> the populations that diverged, alone
 *
 * Each batch is a whole run (once.h) in a folder of its own (batch_folders.h). When none is missing any more,
 * all become one result, as if they had been run together. */
#ifndef COHORT_BATCHES_H
#define COHORT_BATCHES_H

#include "collective/collective.h"
#include "run/batch_folders.h"
#include "settings/settings.h"
#include "support/problems.h"

/* Batches that populations which[0 .. n - 1] come to, at most `most` in each; *first: how many are in the
 * first. All of several processes call it. Refuses, by name, a population that does not fit alone. */
exit_code batches_divide(const settings *s, ck_collective *collective, const int *which, int n, int most,
                         int *first, int *batches, problems *list);

/* Merges what was found, all complete, into the result. `rows`: of its summary.csv [n_populations]; pointers
 * into the settings. */
exit_code batches_merge(const settings *s, const char *folder, const found_parts *found, summary_row *rows,
                        problems *list);

#endif

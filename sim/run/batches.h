/* batches.h - populations of one result that are not run at the same time. There are three such cases:
 *
 * - The populations do not fit into memory together. They run in batches of as many as fit, in their order.
 * - The configuration has populations that the result lacks. The new populations run alone. - With
 * --retry-failed, the populations that diverged run again, alone.
 *
 * Each batch is a whole run (once.h) in a folder of its own (batch_folders.h). When no population is missing
 * any more, the batches are merged into one result, as if all had been run together. */
#ifndef COHORT_BATCHES_H
#define COHORT_BATCHES_H

#include "collective/collective.h"
#include "run/batch_folders.h"
#include "settings/settings.h"
#include "support/problems.h"

/* Divides populations which[0 .. n - 1] into batches of at most `most`. *batches: how many batches there
 * are; *first: how many populations the first one has. Of several processes, all call it. Refuses a
 * population that does not fit alone, by its name. */
exit_code batches_divide(const settings *s, ck_collective *collective, const int *which, int n, int most,
                         int *first, int *batches, problems *list);

/* Merges the parts that were found, which must all be complete, into the result. Writes rows [n_populations]
 * of its summary.csv, which point into the settings. */
exit_code batches_merge(const settings *s, const char *folder, const found_parts *found, summary_row *rows,
                        problems *list);

#endif

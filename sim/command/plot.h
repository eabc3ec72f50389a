/* plot.h - `cohort plot`: hands a result to results/plot.py. */
#ifndef COHORT_PLOT_H
#define COHORT_PLOT_H

#include "support/problems.h"

/* Draws the figures of the result in `folder` into `out` (NULL: folder/figures). The script prints the files
 * it wrote. Without a Python that has matplotlib and h5py it says what is missing where, and how to get it.
 */
exit_code plot_result(const char *folder, const char *out, problems *list);

#endif

/* plot.h - `cohort plot`: hands a result to results/plot.py. */
#ifndef COHORT_PLOT_H
#define COHORT_PLOT_H

#include "support/problems.h"

/* NULL: the script chooses. All are borrowed. */
typedef struct {
    const char *out;    /* folder of the figures; NULL: that of the result, /figures */
    const char *metric; /* column of summary.csv */
    const char *axis;   /* key of a setting */
} plot_options;

/* Draws the figures of the result in `folder`. The script prints the files it wrote, and which figures the
 * result has not. Without a Python that has matplotlib and h5py it says what is missing where, and how to get
 * it. */
exit_code plot_result(const char *folder, const plot_options *options, problems *list);

#endif

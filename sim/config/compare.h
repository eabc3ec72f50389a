/* compare.h - in what two configurations differ. */
#ifndef COHORT_COMPARE_H
#define COHORT_COMPARE_H

#include "settings/settings.h"

/* The keys whose values differ and change numbers, as "train.batch (2 there, 3 here),
 * populations.1.experts.rank (4 there, 8 here)": of `there` and `here`, at most a dozen. Malloc'd; empty
 * where they do not differ. What lies at a path is not looked at. */
char *settings_differences(const settings *there, const settings *here);

#endif

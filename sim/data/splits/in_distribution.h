/* in_distribution.h - device i has the source i mod S: for splits that do so in some of the parts. */
#ifndef COHORT_IN_DISTRIBUTION_H
#define COHORT_IN_DISTRIBUTION_H

#include "data/split.h"

int in_distribution_source(const partition *p, int device);
int in_distribution_distinct(const partition *p, data_part part);
int in_distribution_shares(const partition *p, int device, data_part part, text_share *out);

#endif

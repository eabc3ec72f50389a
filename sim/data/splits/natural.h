/* natural.h - each device has a source of its own: for splits that do so in some of the parts. */
#ifndef COHORT_NATURAL_H
#define COHORT_NATURAL_H

#include "data/split.h"

bool natural_repeats(const partition *p, int device, data_part part);
int natural_shares(const partition *p, int device, data_part part, text_share *out);

#endif

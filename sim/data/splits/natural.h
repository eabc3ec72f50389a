/* natural.h - functions of the split natural, for other splits whose devices have a source of their own. */
#ifndef COHORT_NATURAL_H
#define COHORT_NATURAL_H

#include "data/split.h"

bool natural_repeats(const partition *p, int device, data_part part);
int natural_shares(const partition *p, int device, data_part part, text_share *out);

#endif

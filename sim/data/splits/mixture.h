/* mixture.h - the tokens of a device's sources by their weights: for splits that mix sources. */
#ifndef COHORT_MIXTURE_H
#define COHORT_MIXTURE_H

#include <stdbool.h>

#include "data/split.h"

/* Of n shares, with their source, weight above 0, and number of holders (slots): writes their tokens, in
 * proportion to the weights, rounded by largest remainders, and sorts them by source. Where all text is asked
 * for, they are the most that the sources hold in that mixture, of training text each holder's equal part of
 * them. Returns how many shares are left: a source that would give less than a window gives nothing, and the
 * others then have its tokens; not so where the whole mixture must be kept. */
int mixture_tokens(const partition *p, int device, data_part part, bool whole, text_share *shares, int n);

#endif

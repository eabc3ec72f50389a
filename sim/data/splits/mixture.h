/* mixture.h - the tokens of a device's sources by their weights: for splits that mix sources. */
#ifndef COHORT_MIXTURE_H
#define COHORT_MIXTURE_H

#include <stdbool.h>

#include "data/split.h"

/* Writes the tokens of n shares, whose source, weight (above 0) and number of holders (slots) are given. The
 * tokens are in proportion to the weights, rounded by largest remainders. Where all text is asked for, they
 * are the most that the sources can give in that proportion; of training text, a source gives each of its
 * holders an equal part at most.
 *
 * A source that would give less than a window gives nothing, and the others then have its tokens. With
 * `whole`, every source keeps its share instead. Sorts the shares that are left by source, and returns how
 * many they are. */
int mixture_tokens(const partition *p, int device, data_part part, bool whole, text_share *shares, int n);

#endif

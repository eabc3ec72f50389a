/* dirichlet.h - the mixtures of the dirichlet split. */
#ifndef COHORT_DIRICHLET_H
#define COHORT_DIRICHLET_H

#include <stdint.h>

#include "data/split.h"

/* Writes the weights of a device's shares, out [sources]. They sum to 1, and are drawn from Dirichlet(alpha,
 * .., alpha). Equal arguments always give equal weights. */
void dirichlet_mixture(uint64_t seed, int device, double alpha, int sources, text_share *out);

#endif

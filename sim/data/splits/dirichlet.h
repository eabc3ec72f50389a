/* dirichlet.h - the mixtures of the dirichlet split. */
#ifndef COHORT_DIRICHLET_H
#define COHORT_DIRICHLET_H

#include <stdint.h>

#include "data/split.h"

/* The weights of a device's shares [sources], which sum to 1: Dirichlet(alpha, .., alpha), a function of the
 * other arguments alone. */
void dirichlet_mixture(uint64_t seed, int device, double alpha, int sources, text_share *out);

#endif

/* check_populations.h - what `cohort check` prints of the populations, before the memory plan. */
#ifndef COHORT_CHECK_POPULATIONS_H
#define COHORT_CHECK_POPULATIONS_H

#include "population/fleet.h"

/* The table of all populations of a fleet whose text is open, and below it what differs between their devices. */
void check_print_populations(const fleet *f);

#endif

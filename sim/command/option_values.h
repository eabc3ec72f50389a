/* option_values.h - values of options, from what was typed; a value that is wrong is reported. */
#ifndef COHORT_OPTION_VALUES_H
#define COHORT_OPTION_VALUES_H

#include <stdint.h>

#include "support/problems.h"

/* A whole number from `least` to `most`, every character of it. */
uint64_t read_whole(const char *command, const char *option, const char *text, uint64_t least, uint64_t most,
                    problems *list);
/* Of `cohort data`: above 0, below 1. */
double read_share(const char *option, const char *text, problems *list);
/* Of `cohort generate`: at least 0. */
double read_temperature(const char *text, problems *list);

#endif

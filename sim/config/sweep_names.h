/* sweep_names.h - what the points of a sweep are called. */
#ifndef COHORT_SWEEP_NAMES_H
#define COHORT_SWEEP_NAMES_H

#include "config/walk.h"

/* Whether a template ("{method}-a{data.dirichlet}"; NULL is fine) names only keys of a population, each in
 * braces; reports what is wrong. */
bool sweep_name_check(const node *written, problems *list);

/* The name of `p` by a template that was found good; NULL: made of its values on the axes of `s`, as in
 * "fedavg-dirichlet0.1-rank4". In a value, what cannot stand in a name becomes "_". malloc'd. */
char *sweep_name(const settings *s, const char *written, const population_settings *p);

#endif

/* sweep_names.h - what the points of a sweep are called. */
#ifndef COHORT_SWEEP_NAMES_H
#define COHORT_SWEEP_NAMES_H

#include "config/walk.h"

/* Whether a template such as "{method}-a{data.dirichlet}" is right: what stands in braces is a key of a
 * population. NULL is right, too. Reports what is wrong. */
bool sweep_name_check(const node *written, problems *list);

/* The name of `p`, malloc'd. `written` is a template that sweep_name_check() accepts. If it is NULL, the
 * name is made of the values of `p` on the axes of `s`: "fedavg-dirichlet0.1-rank4". Characters of a value
 * that cannot stand in a name become "_". */
char *sweep_name(const settings *s, const char *written, const population_settings *p);

#endif

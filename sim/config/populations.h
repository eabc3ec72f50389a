/* populations.h - the list `populations`: each entry starts from the run's defaults, and becomes one
 * population for each seed. */
#ifndef COHORT_POPULATIONS_H
#define COHORT_POPULATIONS_H

#include "config/walk.h"

/* Appends to s->populations; top: the run's level, already walked. */
void populations_read(settings *s, const level *top, const node *entries, problems *list);

/* Gives a split's parameter its default where it is not written, and takes it from populations of another
 * split. */
void resolve_splits(population_settings *p);

/* Where this level says keys of its data, for messages of later (settings.h). */
void keep_data_lines(const level *of);

/* attention.rank stands for all linears of attention: it is 0 where this level gives some of them a LoRA one
 * by one, and these are 0 where it writes attention.rank. */
void resolve_loras(const level *of);
/* A linear of attention to which this level gives a LoRA of its own; CK_NO_SITE: none. */
ck_site attention_linear_written(const level *of);

/* Checks of one population before expansion (check.c). */
void check_population(const settings *s, const level *of);

/* Checks of the run, and of populations against each other (check.c). */
void check_run(const settings *s, const level *top);

#endif

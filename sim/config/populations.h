/* populations.h - the list `populations`: each entry starts from the run's defaults, and becomes one
 * population for each seed. */
#ifndef COHORT_POPULATIONS_H
#define COHORT_POPULATIONS_H

#include "config/walk.h"

/* Appends to s->populations; top: the run's level, already walked. */
void populations_read(settings *s, const level *top, const node *entries, problems *list);

/* ---- One of them: an entry of the list, or a point of a sweep ---- */

/* Fills of->defaults, which population_free() frees, from the run's defaults and the keys of `entry`. */
void population_read(const settings *s, const level *top, const node *entry, level *of);
/* Reports the keys that it must have and has not; but not `except`, if that is not NULL. */
void population_require(const level *of, const char *except);
/* The seeds that `entry` asks for: of its key seeds, or its one. malloc'd; none after reporting. */
uint64_t *population_seeds(const level *of, const node *entry, int *n);
/* Adds a copy with this seed to s->populations. */
void population_append(settings *s, const population_settings *from, uint64_t seed);

/* Gives a split's parameter its default where it is not written, and takes it from populations of another
 * split; so of data.sources where devices have no source of their own. */
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

/* Parameters of a split or a method that nothing reads (check_parameters.c). */
void check_parameters(const settings *s, const level *of);
/* Of devices that join late, in a population and in the run (held_out.c). */
void check_held_out(const settings *s, const level *of);
void check_held_out_of_run(const settings *s, const level *top);

/* Checks of the run, and of populations against each other (check.c); those behind the first n_listed are of a
 * sweep, which has compared them already. */
void check_run(const settings *s, const level *top, int n_listed);

#endif

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
/* Reports each key that a population must have and this one lacks, except the key `except` (NULL: no
 * exception). */
void population_require(const level *of, const char *except);
/* The seeds that `entry` asks for, by its key `seeds` or its key `seed`; malloc'd. After a report of what is
 * wrong there are none. */
uint64_t *population_seeds(const level *of, const node *entry, int *n);
/* Adds a copy with this seed to s->populations. */
void population_append(settings *s, const population_settings *from, uint64_t seed);

/* Resolves the parameters of splits. The parameter of the population's own split gets its default where it
 * is not written. Parameters of other splits become 0, and data.sources is removed where devices have no
 * source of their own. */
void resolve_splits(population_settings *p);

/* Notes the lines where this level has keys of its data, for messages that come later (settings.h). */
void keep_data_lines(const level *of);

/* attention.rank stands for all linears of attention. If this level gives only some of them a LoRA, one by
 * one, attention.rank becomes 0. If it writes only attention.rank, above 0, the ranks of the single linears
 * become 0. */
void resolve_loras(const level *of);
/* A linear of attention to which this level gives a LoRA of its own; CK_NO_SITE: none. */
ck_site attention_linear_written(const level *of);

/* Checks of one population before expansion (check.c). */
void check_population(const settings *s, const level *of);

/* Parameters of a split or a method that nothing reads (check_parameters.c). */
void check_parameters(const settings *s, const level *of);
/* Checks of devices that join late, in a population and in the run (held_out.c). */
void check_held_out(const settings *s, const level *of);
void check_held_out_of_run(const settings *s, const level *top);

/* Checks of the run, and of populations against each other (check.c). The first n_listed populations are
 * listed one by one. The others are of a sweep, which has compared them already. */
void check_run(const settings *s, const level *top, int n_listed);

#endif

/* table_compare.h - means over seeds, differences between populations of equal seeds, and which is best. */
#ifndef COHORT_TABLE_COMPARE_H
#define COHORT_TABLE_COMPARE_H

#include <stdbool.h>

#include "result/table_data.h"

/* A metric over a group's seeds. */
typedef struct {
    int n;        /* seeds that have a value */
    int missing;  /* seeds that have none */
    int diverged; /* of these, seeds whose population diverged, so that it has no last test loss */
    double mean;  /* NaN: no seed has a value */
    double std;   /* of a sample, with n - 1; NaN: n is below 2 */
} over_seeds;
over_seeds over_seeds_of(const table_group *group, const char *measure);
bool table_diverged(const table_member *member);

/* value(a) - value(b) over the seeds in which both have a value. */
typedef struct {
    int pairs;
    double mean; /* NaN: no pairs */
    /* its 95 % confidence interval, mean -+ t(0.975, pairs - 1) s / sqrt(pairs); NaN: fewer than two */
    double low, high;
} paired_difference;
paired_difference paired_of(const table_group *a, const table_group *b, const char *measure);
bool table_has_seed(const table_group *group, const char *seed);

/* Whether the devices of two groups have equal text. Groups are compared only where they do. */
bool table_of_equal_text(const table_group *a, const table_group *b);

typedef enum { MARK_NONE, MARK_BEST, MARK_NEAR } table_mark;
/* Writes marks [n_groups]. Groups compete if they have equal text and, where `column` is not NULL, an equal
 * value of it. A group that lacks the value of a seed gets no mark. Of the others the one of the lowest mean
 * is best. Near are those with the same mean, and those whose paired difference to the best has an interval
 * that holds 0. A group without competitor gets no mark. */
void table_find_marks(const table_data *data, const char *measure, const char *column, table_mark *marks);

/* Which group each group is compared with: baselines [n_groups], indices. `name` is that of a population, or
 * else of a method. If several groups have it, the one with equal text is taken. If several of these have
 * equal text, the one is taken that is equal in all settings but those by which methods differ. -1: several
 * groups have the name, and none of them is equal in that. A group is its own baseline if it is one of
 * several that fit. EXIT_INPUT where no group has the name, where several fit another group, or where a
 * group and its baseline have no seed in common. */
exit_code table_find_baselines(const table_data *data, const char *name, int *baselines, problems *list);

#endif

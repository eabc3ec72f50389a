/* table_compare.h - means over seeds, differences between populations of equal seeds, and which is best. */
#ifndef COHORT_TABLE_COMPARE_H
#define COHORT_TABLE_COMPARE_H

#include <stdbool.h>

#include "result/table_data.h"

/* A metric over a group's seeds. */
typedef struct {
    int n;       /* seeds that have a value */
    int missing; /* that have none, of which so many diverged: they have no test loss in the last round */
    int diverged;
    double mean; /* NaN: no seed has one */
    double std;  /* of a sample: n - 1; NaN: fewer than two */
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

/* Whether two groups are of equal text: they are not compared unless they are. */
bool table_of_equal_text(const table_group *a, const table_group *b);

typedef enum { MARK_NONE, MARK_BEST, MARK_NEAR } table_mark;
/* Of the groups with equal text, and an equal value of `column` where it is not NULL: the one of the lowest
 * mean that lacks no seed's value is best; near are those whose paired difference to it has an interval that
 * holds 0. marks [n_groups]; none where only one group competes. */
void table_find_marks(const table_data *data, const char *measure, const char *column, table_mark *marks);

/* Which group each is compared with: [n_groups] indices, -1: several fit, of which
 * none has equal text. `name` is a population, or
 * else a method; EXIT_INPUT where there is none, where several fit, or where no seed is in both. */
exit_code table_find_baselines(const table_data *data, const char *name, int *baselines, problems *list);

#endif

/* tune.h - the map `tune`: numbers of populations that are tried before a run, and chosen by validation loss.
 *
 *     tune:
 *       train.learning_rate: [5e-4, 1e-3, 2e-3, 4e-3]   # a key of populations, and its values; several are crossed
 *       rounds: 5                                       # of a trial; without it a quarter of train.rounds
 *       per: method                                     # or population: one choice for each name
 *
 * A group is what gets one choice: the populations of a method, or those of a name. Its first population is
 * tried with each combination of the values; all trials are populations of one configuration. */
#ifndef COHORT_TUNE_H
#define COHORT_TUNE_H

#include "config/tree.h"
#include "config/walk.h"

/* Most combinations: each is a population for every group, and a reading of the whole configuration. */
enum { TUNE_MOST = 64, TUNE_MOST_KEYS = 6 /* of two values each */ };

typedef struct {
    char *path; /* never a short form */
    int n;
    char **values; /* [n] as value_text() writes them; all different, in the order written */
} tune_key;

/* Of settings with a map `tune`; owns all it points to but names. Combination c of keys is counted with the
 * last key fastest. */
typedef struct tuning {
    int rounds;   /* of a trial */
    bool by_name; /* groups are populations of a name, not of a method */
    int n_keys;
    tune_key *keys;
    int n_combinations;
    /* [n_combinations] the whole configuration with each of them, in which populations have the same places.
     * The first is NULL: the settings that are tuned have its values. */
    settings **variants;
    int n_groups;
    int *first_of; /* [n_groups] the first population of each, which is tried; ascending */
    int *group_of; /* [n_populations] */
    /* The configuration of the trials: combination c of group g is population g * n_combinations + c. Its
     * learning rates go down over its own rounds. Its axes are the keys. */
    settings *trials;
} tuning;

/* The name of a method or of populations, of the settings that are tuned. */
const char *tune_group(const settings *s, int group);
/* The value of a key (by index) in a combination. */
const char *tune_value(const tuning *t, int combination, int key);
/* "train.learning_rate 0.001, experts.rank 4"; malloc'd. */
char *tune_combination_text(const tuning *t, int combination);
/* Whether the first value in which they differ is smaller in a: that one is chosen of two equally good ones. */
bool tune_is_smaller(const tuning *t, int a, int b);
/* Gives all populations of every group their combination, chosen [n_groups]; after that the settings are like
 * any other, without tuning. */
void tune_choose(settings *s, const int *chosen);
void tuning_destroy(tuning *t); /* NULL is fine */

/* ---- Reading ---- */

typedef struct {
    const setting_row *row;
    const node *values; /* a list of numbers */
    place where;
    char label[MAX_KEY + 8]; /* "tune.train.learning_rate" */
} tune_axis;

/* What is written; points into the tree. */
typedef struct {
    int n_keys; /* 0: there is no map */
    tune_axis keys[TUNE_MOST_KEYS];
    int rounds; /* 0: not written */
    place rounds_where;
    bool by_name;
} tune_plan;

/* False after reporting what is wrong; then it has no keys. tune: NULL is fine. */
bool tune_plan_read(const node *tune, tune_plan *out, problems *list);
int tune_plan_combinations(const tune_plan *plan);
/* A map of the keys in dots, which populations read after their own. Its entries are the caller's to free. */
node tune_plan_combination(const tune_plan *plan, int combination);
/* Reads such a map into a population, as keys of it; refuses those that it has written itself. */
void tune_read_into(const node *combination, level *of);
/* Trials are at most as long as the run. */
void tune_check_rounds(const tune_plan *plan, const settings *s, problems *list);

/* The tuning of settings that were read with the first combination; its variants but the first are still to be
 * put in place. */
tuning *tuning_create(const tune_plan *plan, const settings *s);
/* Makes the trials of s->tuning, when all variants are there. */
void tuning_add_trials(settings *s);

#endif

/* walk.h - fills settings from a tree of keys, row by row, reporting every problem on the way. */
#ifndef COHORT_WALK_H
#define COHORT_WALK_H

#include <stdbool.h>

#include "config/table.h"
#include "config/tree.h"

enum { MAX_ROWS = 256, MAX_KEY = 160 };

/* One level of the configuration being filled: the run, or one population. */
typedef struct {
    settings *run;                 /* NULL in a population */
    population_settings *defaults; /* the population being filled; at the top level the defaults of all */
    const char *label;             /* "" or "populations.3.": what keys are called in messages */
    place where;                   /* of the whole level */
    place given[MAX_ROWS];         /* where the key of each row is written; source NULL: nowhere */
    const char *called[MAX_ROWS];  /* what messages call that key; NULL: label and path; borrowed */
    /* At the top level: a map that every population reads after its own keys (tune.h); NULL: none. Borrowed */
    const node *tuned;
    problems *list;
} level;

/* Reads every key below `map` but those in `except` ("populations" at the top; NULL-terminated). A key may be
 * dotted: "data.split: iid" is "data: {split: iid}". */
void walk_level(level *to, const node *map, const char *const *except);

/* Where a key was written, else where its section or the level begins: the place for a message about it. */
place level_place(const level *of, const char *path);
bool level_has(const level *of, const char *path);
/* level_label(): what a message calls a key of this level. level_call() sets that for a key that is not
 * written. */
void level_label(const level *of, const char *path, char out[MAX_KEY]);
void level_call(level *of, const char *path, const char *label);

/* Whether the paths of some rows begin with `path` and a dot: "data", "train.router". */
bool walk_is_section(const char *path);
/* Whether the key of an entry is in the map already, before it. Reports it if it is. */
bool walk_is_repeated(const node *map, int index, const char *label, problems *list);
/* The row of a key that a population may have. NULL after reporting what the key is instead, or which key is
 * most similar. */
const setting_row *walk_key_of_population(const char *path, place where, const char *label, problems *list);

#endif

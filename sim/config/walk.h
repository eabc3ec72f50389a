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
    place given[MAX_ROWS];         /* where each row was written; source NULL: nowhere */
    problems *list;
} level;

/* Reads every key below `map` but those in `except` ("populations" at the top; NULL-terminated). */
void walk_level(level *to, const node *map, const char *const *except);

/* Where a key was written, else where its section or the level begins: the place for a message about it. */
place level_place(const level *of, const char *path);
bool level_has(const level *of, const char *path);

#endif

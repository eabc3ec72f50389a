/* sweep_plan.h - the shape of a sweep: its axes and points as they are written, before any value is read. */
#ifndef COHORT_SWEEP_PLAN_H
#define COHORT_SWEEP_PLAN_H

#include "config/tree.h"

/* An axis: one key, or several that change together. */
typedef struct {
    node keys; /* a map of dotted keys, each with a list of n_values */
    int n_values;
    place where;
    char label[32]; /* "sweep.cross.1" */
} sweep_axis;

/* Maps own their keys and labels; values are of the tree that it was made from, which must outlive it. */
typedef struct {
    place where; /* of the grid */
    node common; /* dotted keys that all points have; among them seeds, if the sweep has them */
    bool has_grid;
    int n_axes, n_points;
    sweep_axis *axes;
    node *points; /* maps of dotted keys: those that are written one by one */
} sweep_plan;

/* False after reporting what has the wrong form: then there is nothing to expand, but still something to
 * free. */
bool sweep_plan_read(const node *sweep, sweep_plan *out, problems *list);
void sweep_plan_free(sweep_plan *plan);

int sweep_plan_size(
    const sweep_plan *plan); /* points of the grid, then those one by one; at most SWEEP_MOST */
/* A map of all keys of a point. Its entries are the caller's to free, what they point to is borrowed. */
node sweep_plan_point(const sweep_plan *plan, int index);

#endif

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

/* The maps own their keys and labels. The values belong to the tree that the plan was made from, which must
 * outlive the plan. */
typedef struct {
    place where; /* where `cross` is written, or else the sweep */
    node common; /* dotted keys that all points have; includes `seeds`, if the sweep has it */
    bool has_grid;
    int n_axes, n_points;
    sweep_axis *axes;
    node *points; /* maps of dotted keys: those that are written one by one */
} sweep_plan;

/* False after reporting what has the wrong form: then the plan must not be expanded. It is to be freed in
 * any case. */
bool sweep_plan_read(const node *sweep, sweep_plan *out, problems *list);
void sweep_plan_free(sweep_plan *plan);

/* How many points there are, at most SWEEP_MOST: those of the grid, and then those written one by one. */
int sweep_plan_size(const sweep_plan *plan);
/* A map of all keys of a point. The caller frees its entries; what they point to is borrowed. */
node sweep_plan_point(const sweep_plan *plan, int index);

#endif

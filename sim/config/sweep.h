/* sweep.h - the map `sweep`: populations that are the points of a grid. Each point is read as an entry of
 * `populations` is, so that any key of a population can be an axis.
 *
 *     sweep:
 *       population: {devices: 4}                             # keys that all points have
 *       cross:                                               # all combinations, the last axis fastest
 *         - {method: [local, fedavg, comigs]}                # an axis: a key, and its values
 *         - {data.dirichlet: [0.1, 1]}
 *         - {zip: {generalists: [1, 2], specialists: [1, 0]}}   # keys that change together
 *       points: [{method: fedsa, data.dirichlet: 1}]         # points one by one
 *       seeds: [42, 45]                                      # of every point
 *       name: "{method}-a{data.dirichlet}-{generalists}g"    # without it: made from the axes
 *       exclude: [{method: local, data.dirichlet: 0.1}]      # points whose values are these
 *       axes: [method]                                       # of populations that are listed
 */
#ifndef COHORT_SWEEP_H
#define COHORT_SWEEP_H

#include "config/walk.h"

/* Most populations of a sweep. A result's config.yaml lists them one by one, and a configuration has at most
 * 200,000 values (yaml.c): so many leave 40 values for each. */
enum { SWEEP_MOST = 5000 };

/* Whether it makes populations, or only names the axes of listed ones; NULL: there is none. */
bool sweep_has_points(const node *sweep);

/* Appends its points to s->populations and its axes to s->axes; top: the run's level, already walked. What is
 * wrong with a value is said once, in its own line; what is wrong with points, with the names of them. */
void sweep_read(settings *s, const level *top, const node *sweep);

#endif

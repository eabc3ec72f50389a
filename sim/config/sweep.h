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

/* The most populations that a sweep may have. The config.yaml of a result lists them one by one, and a
 * configuration has at most 200,000 values (yaml.c). So 5,000 populations can have 40 values each. */
enum { SWEEP_MOST = 5000 };

/* True if the sweep makes populations; false if it only names the axes of populations that are listed, or if
 * it is NULL. */
bool sweep_has_points(const node *sweep);

/* Appends the points of the sweep to s->populations and its axes to s->axes. top: the run's level, already
 * walked. A value that is wrong by itself is reported once, with the line where it is written. A wrong
 * combination of values is reported with the names of the points that have it. */
void sweep_read(settings *s, const level *top, const node *sweep);

#endif

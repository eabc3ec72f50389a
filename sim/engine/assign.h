/* assign.h - the devices of a run, assigned to its processes by what they cost. */
#ifndef COHORT_ASSIGN_H
#define COHORT_ASSIGN_H

#include "collective/collective.h"
#include "population/fleet.h"

/* FLOPs of a device's share of a round: tokens of its expert steps, of its router bursts on average, and of
 * evaluations (a forward pass is a third of a step), times the FLOPs of a token. */
double assign_cost(const settings *s, const base_shape *base, const fleet *f, int device_index);

/* A fleet of which `place` has its own devices. */
exit_code fleet_create_at(process_place place, const settings *s, const base_shape *base, fleet **out,
                          problems *list);
/* The same, as one of the processes of a collective, over which it aggregates. */
exit_code fleet_create_among(ck_collective *c, const settings *s, const base_shape *base, fleet **out,
                             problems *list);

#endif

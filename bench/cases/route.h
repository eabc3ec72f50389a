/* route.h - the router on any arrays of a rig, for cases of several operations. */
#ifndef COHORT_BENCH_ROUTE_H
#define COHORT_BENCH_ROUTE_H

#include "rig/case.h"

/* Flags of route_forward. TWO_LAYERS: also the layer below, on the arrays LOWER_*. FACTOR: also the factor of
 * the bias. HIDDEN: also what routers with a hidden layer keep for their gradients. */
enum { ROUTE_STATISTICS = 1, ROUTE_TWO_LAYERS = 2, ROUTE_FACTOR = 4, ROUTE_HIDDEN = 32 };

typedef struct {
    tensor_id x, zh, gates;
    tensor_id factor, hidden; /* factor: of the bias; both only where the case has named them */
    int layer;
} route_arrays;
route_arrays route_upper(const rig *r); /* those of the rig's layer */
route_arrays route_lower(const rig *r); /* of the layer below */

void route_record(const rig *r, rig_copy *c, route_arrays a);
void route_reference(view *v, route_arrays a);
/* The chosen experts exactly, then zh, gates and factor as view_judge() does. */
void route_judge(view *v, route_arrays a);

#endif

/* routing.h - the test windows whose tokens and gates are recorded at each evaluation. Only routing_create()
 * changes members; recording fills the memory of `gates`. */
#ifndef COHORT_ROUTING_H
#define COHORT_ROUTING_H

#include "engine/plan.h"
#include "population/fleet.h"
#include "support/problems.h"

typedef struct {
    int n;
    int *devices, *owners; /* [n] whose window it is, and the process that records it */
    int n_local;
    int *local;   /* [n_local] those that this process records */
    float *gates; /* host [plan.record.max_tokens, layers, CK_MAX_EXPERTS], of a wave */
} routing_windows;

/* Spread evenly over the devices that have a router; where there are more windows than such devices, they
 * take turns. After a failure, too, it is to be destroyed. */
exit_code routing_create(routing_windows *r, const fleet *f, const run_plan *plan, int layers,
                         problems *list);
void routing_destroy(routing_windows *r); /* of zeros is fine */

#endif

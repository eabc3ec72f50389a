/* method.h - a method says who owns each tensor, what the router learns from, and when the shared tensors are combined.
 * One file per method; methods.c holds the list. Adding one: write methods/NAME.c, add it to the list, document it in the README. */
#ifndef COHORT_METHOD_H
#define COHORT_METHOD_H

#include <stdbool.h>

#include "config/settings.h"
#include "kernels.h"

typedef enum {
    ROUTER_ABSENT,          /* gates: mean */
    ROUTER_FROM_VALIDATION, /* bursts on validation batches, own AdamW and constant learning rate (DESIGN: two levels) */
    ROUTER_WITH_EXPERTS     /* same train batch, same AdamW step and cosine as the experts */
} router_learning;

typedef struct {
    bool generalists, specialists, attention, router; /* averaged over the population's devices after every round */
} sharing;

typedef struct {
    const char *name;
    const char *summary; /* a line for `cohort help methods` */
    const char *source;  /* paper and place of the formula */
    int default_generalists, default_specialists;
    ck_gates gates;
    router_learning router;
    aggregate_weights
        weights; /* of devices in an average, unless aggregate.weights says otherwise; WEIGHTS_OF_METHOD: it averages nothing */
    bool pooled; /* one device that holds all devices' data, batch times the number of devices */
    sharing (*shares)(int generalists, int specialists);
} method;

const method *method_find(const char *name); /* NULL if unknown */
const method *const *method_list(int *count);
const char *aggregate_weights_text(aggregate_weights weights); /* "uniform", "tokens", or "" for none */

#endif

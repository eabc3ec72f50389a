/* method.h - a method says which parts of a pack are shared, what learns from which text, and how the shared
 * tensors are combined.
 *
 * To add one: write methods/NAME.c, with the formula and its source on top, and add NAME to the list in
 * methods.c. */
#ifndef COHORT_METHOD_H
#define COHORT_METHOD_H

#include <stdbool.h>

#include "kernels.h"
#include "schedule/schedule.h"
#include "settings/settings.h"

typedef struct {
    const char *name;
    const char *summary; /* a line for `cohort help methods` */
    const char *source;  /* paper and place of the formula */
    int default_generalists, default_specialists;
    ck_gates gates;
    schedule_list schedule; /* who learns what from which text, in which order */
    schedule_list released; /* the same where the population is as released; NULL: no other */
    /* Of devices in an average, unless aggregate.weights says otherwise. WEIGHTS_OF_METHOD: it averages
     * nothing. */
    aggregate_weights weights;
    bool pooled; /* one device that holds all devices' data, batch times the number of devices */
    /* Whether a part of a pack is averaged over the population's devices after every round; a device's
     * generalists come first. */
    bool (*shares)(const ck_part *part, int generalists);
    /* mu of a term mu / 2 |theta - theta^t|^2 of a device's loss in steps that train experts: theta are its
     * shared parts, theta^t what they were at the round's start. 0, or NULL: there is none. */
    double (*proximal)(const population_settings *p);
    /* Key of a number that this method alone reads, and what it is where it is not written; NULL: none. */
    const char *parameter;
    double parameter_default;
} method;

const method *method_find(const char *name); /* NULL if unknown */
const method *const *method_list(int *count);
const char *aggregate_weights_text(aggregate_weights weights); /* "uniform", "tokens", or "" for none */

#endif

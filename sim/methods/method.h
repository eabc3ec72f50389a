/* method.h - a method says which parts of a pack are shared, what learns from which text, and how the
 * devices weigh in the mean of the shared parts.
 *
 * To add one: write methods/NAME.c, with the formula and its source on top, and add NAME to the list in
 * methods.c. methods/README.md says what needs more than that. */
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
    schedule_list
        released; /* the same for a population that is as released; NULL: `schedule` holds for it, too */
    /* How devices weigh in a mean, unless aggregate.weights says otherwise. WEIGHTS_OF_METHOD: the method
     * averages nothing. */
    aggregate_weights weights;
    bool pooled; /* one device that holds all devices' data, batch times the number of devices */
    /* Whether a part of a pack is averaged over the population's devices after every round; a device's
     * generalists come first. */
    bool (*shares)(const ck_part *part, int generalists);
    /* The weight mu of a proximal term, mu / 2 |theta - theta^t|^2, in the loss of a device in steps that
     * train experts. theta are the shared parts of the device, and theta^t is their value at the start of
     * the round. There is no such term where mu is 0 or the function is NULL. */
    double (*proximal)(const population_settings *p);
    /* The key of a number that only this method reads (a VALUE_DOUBLE in config/table.c), and its value
     * where the key is not written. NULL: there is no such key. */
    const char *parameter;
    double parameter_default;
} method;

/* A predicate `shares`: all parts but the router. */
bool method_shares_all(const ck_part *part, int generalists);

const method *method_find(const char *name); /* NULL if unknown */
const method *const *method_list(int *count);
const char *aggregate_weights_text(aggregate_weights weights); /* "uniform", "tokens", or "" for none */

#endif

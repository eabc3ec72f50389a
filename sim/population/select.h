/* select.h - some devices of a fleet, as a user names them. */
#ifndef COHORT_SELECT_H
#define COHORT_SELECT_H

#include <stdbool.h>
#include <stdint.h>

#include "population/fleet.h"
#include "support/problems.h"

/* All devices, or those that match every field that is set. */
typedef struct {
    const char *population; /* NULL: any */
    bool one_seed;
    uint64_t seed;
    int device; /* index in its population; -1: any */
} device_selection;

bool device_is_selected(const fleet *f, const device_selection *wanted, const device *d);
int devices_selected(const fleet *f, const device_selection *wanted);
/* EXIT_INPUT, saying what `where` (a result's folder, a configuration) has, so that the next attempt can be
 * right. */
exit_code devices_none_selected(const fleet *f, const char *where, problems *list);

#endif

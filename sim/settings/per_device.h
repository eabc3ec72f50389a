/* per_device.h - a setting that is one number for all devices of a population, or a list with one for each.
 * Which numbers it has, whole ones or others, is its row's type in the table of settings. */
#ifndef COHORT_PER_DEVICE_H
#define COHORT_PER_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    union { /* without a list: the number of every device; with a list: its largest number */
        int64_t value;
        double real;
    };
    int n;  /* 0: no list; else the population's devices */
    union { /* [n], owned; once a population is resolved, not all of them are equal */
        int64_t *list;
        double *reals;
    };
} per_device;

/* Of a device of the population, counted from 0. */
static inline int64_t per_device_at(const per_device *x, int device) {
    return device < x->n ? x->list[device] : x->value;
}
static inline double per_device_real_at(const per_device *x, int device) {
    return device < x->n ? x->reals[device] : x->real;
}

/* Replaces a list by one number if it has that number for each of `devices` devices. Both mean the same. */
void per_device_reduce(per_device *x, int devices);
void per_device_free(per_device *x); /* then it is one number, 0 */

#endif

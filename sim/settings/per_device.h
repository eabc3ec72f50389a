/* per_device.h - a setting that is one whole number for all devices of a population, or a list with one for
 * each. */
#ifndef COHORT_PER_DEVICE_H
#define COHORT_PER_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int64_t value; /* of every device where the list is empty, else the largest of the list */
    int n;         /* 0: no list; else the population's devices */
    int64_t *list; /* [n], owned; of a resolved population not all equal */
} per_device;

/* Of a device of the population, counted from 0. */
static inline int64_t per_device_at(const per_device *x, int device) {
    return device < x->n ? x->list[device] : x->value;
}

bool per_device_equal(const per_device *a, const per_device *b); /* as they are written */
/* Makes a list of equal numbers, one for each of so many devices, that one number: both say the same. */
void per_device_reduce(per_device *x, int devices);

#endif

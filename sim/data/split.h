/* split.h - how the text of the sources is divided among the devices of a population.
 *
 * To add one: write data/splits/NAME.c, with its formula on top, and add NAME to the list in splits.h. */
#ifndef COHORT_SPLIT_H
#define COHORT_SPLIT_H

#include <stdbool.h>
#include <stdint.h>

#include "data/data.h"

/* What a device has of one source in one of its parts. */
typedef struct {
    int source;
    /* 0, where shares are equal: all that the source has, of training text its slots' equal share */
    int64_t tokens;
    /* where shares are equal: of so many holders of the source, the device is this one */
    int slot, slots;
    double weight, remainder, room; /* for the split's own use */
} text_share;

typedef struct {
    /* True: shares differ from device to device, whatever the settings ask for. Their stretches then lie one after the other in the order of
     * devices, and windows fall on all positions of a part alike. False: stretches lie by slot, and windows
     * fall on stretches alike, whatever their lengths. */
    bool unequal;
    /* A key with a number above 0 that only this split reads, and what it is where it is not written; NULL:
     * none. */
    const char *parameter;
    double parameter_default;
    /* The one source of the device's training text; NULL: devices have several. */
    int (*source)(const partition *p, int device);
    /* How many devices' texts differ in a part, the first ones; NULL: all. */
    int (*distinct)(const partition *p, data_part part);
    /* Writes what a device has of each source [sources] in rising order of sources, and returns of how many
     * it has any: at least 1. */
    int (*shares)(const partition *p, int device, data_part part, text_share *out);
} data_split;

const data_split *split_of(const data_settings *d);
const char *split_name(int index); /* of data_settings.split */
int split_count(void);
const data_split *split_at(int index);

#endif

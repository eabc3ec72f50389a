/* sharing.h - which devices of a population average which parts of their packs.
 *
 * Devices may differ in their experts. A part is averaged over the devices that hold it: generalist g over
 * those with more than g generalists, with weights that sum to 1 over them. What methods average beside
 * generalists, all devices must hold, and whatever is averaged must have one shape. */
#ifndef COHORT_SHARING_H
#define COHORT_SHARING_H

#include "population/fleet.h"

/* Devices of one shape with as many generalists are a class: they have the same parts, and average the same.
 * Parts that the same classes hold are a set. */
typedef struct {
    const fleet *fleet;
    const population *population;
    int n_classes;
    int *classes; /* [n_classes] index of the first device of each, in the order of devices */
    int n_sets;
    bool *holds; /* [n_sets, n_classes] */
    bool *room;  /* [n_classes] for its functions' own use */
} sharing;

/* False without memory; sharing_destroy() either way. */
bool sharing_find(const fleet *f, const population *p, sharing *out);
void sharing_destroy(sharing *s);
int sharing_class(const sharing *s, const device *d);
/* Whether the device holds the parts of a set. */
bool sharing_holds(const sharing *s, int set, const device *d);
/* How many of the population's devices do, and how many of these are not held out. */
int sharing_holders(const sharing *s, int set);
int sharing_senders(const sharing *s, int set);
/* The ranges of a class's packs that belong to a set, in floats; at most ck_part_count(). Returns their
 * number, which is the same for all classes that hold the set, as are their counts. */
int sharing_ranges(const sharing *s, int set, int which, int64_t *offset, int64_t *count);

/* Refuses devices that cannot be averaged: which they are, how they differ, and what would work. */
exit_code sharing_check(const fleet *f, const population *p, problems *list);

#endif

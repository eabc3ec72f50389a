/* sharing.h - which devices of a population average which parts of their packs.
 *
 * Devices may differ in their experts. A device *holds* a part if it has the part and the method averages it
 * there. A part is averaged over the devices that hold it: generalist g over those with more than g
 * generalists, a LoRA that every token uses over those whose own one the method averages. The weights sum to
 * 1 over those of them that are not held out. Of specialists and routers, all devices must hold what the
 * method averages. A part must have the same shape on all devices that hold it. */
#ifndef COHORT_SHARING_H
#define COHORT_SHARING_H

#include "population/fleet.h"

/* Devices of the same shape that have equally many generalists are a class: they have the same parts, and
 * hold the same ones. A set is all parts that are held by the same classes. A set becomes one ck_group, or
 * none where there is nothing to average. */
typedef struct {
    const fleet *fleet;
    const population *population;
    int n_classes;
    int *classes; /* [n_classes] index of the first device of each, in the order of devices */
    int n_sets;
    bool *holds; /* [n_sets, n_classes] */
    bool *room;  /* [n_classes] work space of the functions below */
} sharing;

/* False without memory; sharing_destroy() either way. */
bool sharing_find(const fleet *f, const population *p, sharing *out);
void sharing_destroy(sharing *s);
/* The class of a device of this population. */
int sharing_class(const sharing *s, const device *d);
/* Whether the device holds the parts of a set. */
bool sharing_holds(const sharing *s, int set, const device *d);
/* How many devices of the population hold a set, those that are held out included
 * (schedule/participation.h). */
int sharing_holders(const sharing *s, int set);
/* How many devices hold a set and are not held out. */
int sharing_senders(const sharing *s, int set);
/* Writes the ranges of floats that belong to a set in the pack of a device of class `which`. Returns how
 * many there are, at most ck_part_count(). All classes that hold the set have equally many ranges, of the
 * same counts, at other offsets. */
int sharing_ranges(const sharing *s, int set, int which, int64_t *offset, int64_t *count);

/* Refuses a population whose devices cannot be averaged. The message says which devices differ, in what, and
 * what would work. */
exit_code sharing_check(const fleet *f, const population *p, problems *list);

#endif

/* split.h - how the text of the sources is divided among the devices of a population.
 *
 * A split divides training text, and valid and test text where data.evaluation is in_distribution. Where it
 * is out_of_distribution, the split iid divides those two.
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
    int64_t tokens;
    /* of so many holders of the source, the device is this one (slot: where shares are equal) */
    int slot, slots;
    /* Of a split that moves: of the windows of training text, the share of this source in the first round and
     * in the last. */
    double start, end;
    double weight, remainder, room; /* for the split's own use */
} text_share;

typedef struct {
    /* True: shares differ from device to device, whatever the settings ask for; windows fall on all positions
     * of a part alike. False: shares differ where the settings ask for different amounts alone, and windows
     * fall on stretches alike, whatever their lengths. */
    bool unequal;
    /* A key with a number above 0 that only this split reads, and what it is where it is not written; NULL:
     * none. */
    const char *parameter;
    double parameter_default;
    /* Devices have a source of their own (partition_source), which data.sources can set. */
    bool has_own;
    /* The training text of a device is of several sources, else of its own alone. */
    bool mixes;
    /* In training, windows fall on sources by shares that change from round to round. */
    bool moves;
    /* Its parameter is a number of sources, or it needs so many: the least that the corpus must have; NULL:
     * one. */
    int (*least_sources)(const data_settings *d);
    /* What the tokens of a device's training text are multiplied by; NULL: 1. */
    double (*factor)(const data_settings *d, uint64_t seed, int device);
    /* Fills p->prepared once, before any shares; false without memory. NULL: nothing to do. */
    bool (*prepare)(partition *p);
    /* Whether an earlier device has the same text of that part; NULL: none has. */
    bool (*repeats)(const partition *p, int device, data_part part);
    /* Writes what a device has of each source [sources] in rising order of sources, and returns of how many
     * it has any: at least 1. */
    int (*shares)(const partition *p, int device, data_part part, text_share *out);
} data_split;

/* Of training text; */
const data_split *split_of(const data_settings *d);
/* and of any part. */
const data_split *split_of_part(const data_settings *d, data_part part);
const char *split_name(int index); /* of data_settings.split */
const char *evaluation_name(data_evaluation evaluation);
int split_count(void);
const data_split *split_at(int index);

#endif

/* split.h - how the text of the sources is divided among the devices of a population.
 *
 * A split divides training text, and valid and test text where data.evaluation is in_distribution. Where it
 * is out_of_distribution, the split iid divides those two.
 *
 * To add one: write data/splits/NAME.c, with its formula on top, and add NAME to the list in splits.h.
 * sim/README.md says more. */
#ifndef COHORT_SPLIT_H
#define COHORT_SPLIT_H

#include <stdbool.h>
#include <stdint.h>

#include "data/data.h"

/* What a device has of one source in one of its parts (training, validation or test text). */
typedef struct {
    int source;
    int64_t tokens;
    /* The source has `slots` holders, and the device is number `slot` of them. slot is read only where the
     * split is not `unequal`. */
    int slot, slots;
    /* Only of a split that moves: the share of the windows of training text that are of this source, in the
     * first round and in the last one. */
    double start, end;
    double weight, remainder, room; /* for the split's own use; mixture.c uses them */
} text_share;

typedef struct {
    /* True: devices have different amounts of a source, whatever the settings ask for. A window then falls
     * on every position of a part with the same probability. False: the amounts differ only where the
     * settings ask for different ones. A window then falls on every stretch of a part with the same
     * probability, whatever the stretch's length. */
    bool unequal;
    /* The key of a number that only this split reads, and the value where the key is not written. The number
     * is above 0. NULL: the split has no such key. */
    const char *parameter;
    double parameter_default;
    /* Every device has a source of its own (partition_source), which data.sources can set. */
    bool has_own;
    /* True: the training text of a device is of several sources. False: it is of the device's own source
     * alone. */
    bool mixes;
    /* Each training window is of a source that is drawn with probabilities which change from round to round:
     * from `start` to `end` of text_share. */
    bool moves;
    /* How many sources the corpus must have at least; NULL: one. */
    int (*least_sources)(const data_settings *d);
    /* A factor by which the number of tokens of a device's training text is multiplied; NULL: 1. */
    double (*factor)(const data_settings *d, uint64_t seed, int device);
    /* Fills p->prepared once, before any shares; false without memory. NULL: nothing to do. */
    bool (*prepare)(partition *p);
    /* Whether a device with a lower number has the same text of that part; NULL: it never does. */
    bool (*repeats)(const partition *p, int device, data_part part);
    /* Writes a text_share for each source of which the device has text, in rising order of sources. `out`
     * has room for all sources. Returns how many there are, at least 1. */
    int (*shares)(const partition *p, int device, data_part part, text_share *out);
} data_split;

/* The split of training text. */
const data_split *split_of(const data_settings *d);
/* The split of any part. */
const data_split *split_of_part(const data_settings *d, data_part part);
const char *split_name(int index); /* of data_settings.split */
const char *evaluation_name(data_evaluation evaluation);
int split_count(void);
const data_split *split_at(int index);

#endif

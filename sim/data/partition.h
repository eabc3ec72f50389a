/* partition.h - which stretches of the sources' text a device holds. */
#ifndef COHORT_PARTITION_H
#define COHORT_PARTITION_H

#include <stdbool.h>
#include <stdint.h>

#include "data/corpus.h"
#include "data/data.h"
#include "data/split.h"

/* Of `slots` holders of a text of `total` tokens, holder `slot` begins here. While slots * wanted <= total
 * their stretches are disjoint and lie side by side, from a random position on; beyond that they are spread
 * evenly and overlap. Needs wanted <= total. */
int64_t partition_first(int64_t total, int64_t wanted, int slot, int slots, const rng_key *key);
/* The same for stretches of unequal lengths: those before it take `before` tokens, all of them `all`. */
int64_t partition_first_after(int64_t total, int64_t wanted, int64_t before, int64_t all, const rng_key *key);

/* Of unequal amounts: the tokens that devices take of each source [sources], all together and those before
 * `next`. */
typedef struct {
    int next;
    int64_t *before, *all;
} partition_sums;

/* Where data.sources says which source a device has. */
typedef struct {
    int source, slot;
} own_source;

struct partition {
    const corpus *corpus;
    const data_settings *settings;
    const data_split *splits[DATA_SPLITS]; /* what divides each part */
    /* Whether all holders of a source have equally much of it, so that their stretches lie by slot; else they
     * lie one after the other in the order of devices. */
    bool even[DATA_SPLITS];
    own_source *own; /* [devices]; NULL: device i of S sources has source i mod S */
    int *holders;    /* [sources] devices that have it as their own; NULL with `own` */
    void *prepared;  /* the split's own, freed with the partition */
    uint64_t seed;
    int devices;
    text_share *shares, *others;    /* [sources] room for what one device has */
    partition_sums sums[DATA_TEST]; /* of training and validation text; empty where `even` */
};

/* A device's own source, which number it is among the devices that have it, and how many these are. */
int partition_source(const partition *p, int device);
int partition_slot(const partition *p, int device);
int partition_holders(const partition *p, int source);

/* The tokens of a part that the settings ask for on a device, before fraction and factor; 0, of all devices
 * alike: all there are. */
int64_t partition_asked(const data_settings *d, data_part part, int device);
bool partition_wants_all(const data_settings *d, data_part part);
/* The tokens that a device wants of a part; 0: all there are. */
int64_t partition_wanted(const partition *p, int device, data_part part);
/* What the tokens of a device's part are multiplied by, where all are asked for. */
double partition_scale(const partition *p, int device, data_part part);
/* The tokens of a device that has a part of one source alone: what it wants, or where all is asked for the
 * source's text, of training text its share among so many holders. */
int64_t partition_tokens(const partition *p, int device, data_part part, int source, int slots);
/* True if all devices have the same of a source's text in this part: the whole split, or the test text. */
bool partition_is_common(const partition *p, data_part part);
/* The tokens of a source that devices can have in this part. */
int64_t partition_held(const partition *p, int source, data_part part);

/* A part of a device's text. */
typedef struct {
    text_range *ranges; /* [count] */
    int count, room;
    int64_t tokens; /* of all ranges */
} part_text;

/* Appends the stretches of a part that `device` has. */
exit_code partition_take(partition *p, int device, data_part part, part_text *out, problems *list);

#endif

/* partition.h - which stretch of a source's text a device holds. */
#ifndef COHORT_PARTITION_H
#define COHORT_PARTITION_H

#include <stdbool.h>
#include <stdint.h>

#include "data/corpus.h"
#include "data/data.h"

/* Of `slots` holders of a text of `total` tokens, holder `slot` begins here. While slots * wanted <= total their stretches are disjoint
 * and lie side by side, from a random position on; beyond that they are spread evenly and overlap. Needs wanted <= total. */
int64_t partition_first(int64_t total, int64_t wanted, int slot, int slots, const rng_key *key);

typedef struct {
    const corpus *corpus;
    const data_settings *settings;
    uint64_t seed;
    int devices;
} partition;

/* The tokens of a part that the settings ask for; 0: all there are. */
int64_t partition_wanted(const data_settings *d, data_part part);
/* True if the part is a mixture of all sources instead of the device's own. */
bool partition_is_mixed(const data_settings *d, data_part part);
/* True if some devices' training texts overlap, because `source` has too little for all of its devices. */
bool partition_overlaps(const partition *p, int source);

/* The stretch of its own source that `device` sees, and its share of `source` in a mixed part. */
exit_code partition_own(const partition *p, int device, data_part part, text_range *out, problems *list);
exit_code partition_mixed(const partition *p, int device, int source, data_part part, text_range *out, problems *list);

#endif

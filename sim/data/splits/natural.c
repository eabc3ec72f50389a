/* Natural: each device has one source, in training, validation and test text. There are S sources and N
 * devices. Device i has source i mod S, unless data.sources names another one.
 *
 *   source(i) = i mod S      slot(i) = floor(i / S), of the ceil((N - source(i)) / S) devices of that source
 */
#include "data/splits/natural.h"

#include "data/partition.h"

/* Where all devices of a source have the same text, each but the first repeats that of the first. */
bool natural_repeats(const partition *p, int device, data_part part) {
    return partition_is_common(p, part) && partition_slot(p, device) > 0;
}

int natural_shares(const partition *p, int device, data_part part, text_share *out) {
    int source = partition_source(p, device), slots = partition_holders(p, source);
    *out = (text_share){.source = source,
                        .tokens = partition_tokens(p, device, part, source, slots),
                        .slot = partition_slot(p, device),
                        .slots = slots};
    return 1;
}

const data_split split_natural = {
    .has_own = true,
    .repeats = natural_repeats,
    .shares = natural_shares,
};

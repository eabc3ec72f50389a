/* Natural: each device has one source, in all parts; of S sources device i of N has source i mod S.
 *
 *   source(i) = i mod S      slot(i) = floor(i / S), of the ceil((N - source(i)) / S) devices of that source
 */
#include "data/splits/natural.h"

#include "data/partition.h"

/* Where text is common to all devices of a source, the first of them stands for all. */
bool natural_repeats(const partition *p, int device, data_part part) {
    return partition_is_common(p, part) && device >= corpus_sources(p->corpus);
}

int natural_shares(const partition *p, int device, data_part part, text_share *out) {
    int sources = corpus_sources(p->corpus), source = device % sources;
    *out = (text_share){.source = source,
                        .tokens = partition_wanted(p->settings, part),
                        .slot = device / sources,
                        .slots = (p->devices - source + sources - 1) / sources};
    return 1;
}

const data_split split_natural = {
    .repeats = natural_repeats,
    .shares = natural_shares,
};

/* In distribution: of S sources, device i of N has source i mod S, in all parts.
 *
 *   source(i) = i mod S      slot(i) = floor(i / S), of the ceil((N - source(i)) / S) devices of that source
 */
#include "data/splits/in_distribution.h"

#include "data/partition.h"

int in_distribution_source(const partition *p, int device) {
    return device % corpus_sources(p->corpus);
}

/* Where text is common to all devices of a source, one device of each source stands for them. */
int in_distribution_distinct(const partition *p, data_part part) {
    int sources = corpus_sources(p->corpus);
    return partition_is_common(p, part) && sources < p->devices ? sources : p->devices;
}

int in_distribution_shares(const partition *p, int device, data_part part, text_share *out) {
    int sources = corpus_sources(p->corpus), source = device % sources;
    *out = (text_share){.source = source,
                        .tokens = partition_wanted(p->settings, part, device),
                        .slot = device / sources,
                        .slots = (p->devices - source + sources - 1) / sources};
    return 1;
}

const data_split split_in_distribution = {
    .source = in_distribution_source,
    .distinct = in_distribution_distinct,
    .shares = in_distribution_shares,
};

/* Out of distribution: training text of one source, as in distribution; validation and test text have equal
 * parts of all S sources.
 *
 *   of t tokens, source s gives floor(t / S), and one more where s < t mod S */
#include "data/partition.h"
#include "data/splits/in_distribution.h"

static int distinct(const partition *p, data_part part) {
    if (part == DATA_TRAIN) return in_distribution_distinct(p, part);
    return partition_is_common(p, part) ? 1 : p->devices;
}

static int shares(const partition *p, int device, data_part part, text_share *out) {
    if (part == DATA_TRAIN) return in_distribution_shares(p, device, part, out);
    int sources = corpus_sources(p->corpus);
    int64_t all = partition_wanted(p->settings, part, device);
    for (int s = 0; s < sources; s++)
        out[s] = (text_share){
            .source = s, .tokens = all / sources + (s < all % sources), .slot = device, .slots = p->devices};
    return sources;
}

const data_split split_out_of_distribution = {
    .source = in_distribution_source,
    .distinct = distinct,
    .shares = shares,
};

/* Independent and identically distributed: all text of every device has equal parts of all S sources. It is
 * also how the valid and test text of every other split is divided where data.evaluation is
 * out_of_distribution.
 *
 *   of t tokens, source s gives floor(t / S), and one more where s < t mod S */
#include "data/partition.h"

static bool repeats(const partition *p, int device, data_part part) {
    return partition_is_common(p, part) && device > 0;
}

static int shares(const partition *p, int device, data_part part, text_share *out) {
    int sources = corpus_sources(p->corpus);
    int64_t all = partition_wanted(p, device, part);
    for (int s = 0; s < sources; s++)
        out[s] = (text_share){.source = s,
                              .tokens = partition_wants_all(p->settings, part)
                                            ? partition_tokens(p, device, part, s, p->devices)
                                            : all / sources + (s < all % sources),
                              .slot = device,
                              .slots = p->devices};
    return sources;
}

const data_split split_iid = {
    .mixes = true,
    .repeats = repeats,
    .shares = shares,
};

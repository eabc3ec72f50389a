/* Drift: each device begins with its own source, as in the split natural, and moves towards the next one. In
 * round r of R, counted from 0, a window of training text is of the next source with probability
 *
 *   d(r) = data.drift r / (R - 1),   and d = data.drift where there is one round,
 *
 * else of its own. The position within the source is drawn as in any other split. The device holds as much
 * of both sources as it reads on average over the rounds: of t tokens, t data.drift / 2 are of the next
 * source, at least a window. Valid and test text have the mixture of the last round: of t tokens, t
 * data.drift are of the next source. */
#include <math.h>

#include "data/partition.h"
#include "data/splits/mixture.h"

static double share_of_next(const partition *p, int device, data_part part) {
    double drift = p->settings->drift;
    int64_t wanted = partition_wanted(p, device, part);
    if (part != DATA_TRAIN) return drift;
    return wanted > 0 ? fmin(0.5, fmax(drift / 2, (p->settings->sequence + 1) / (double)wanted)) : drift / 2;
}

static int shares(const partition *p, int device, data_part part, text_share *out) {
    int sources = corpus_sources(p->corpus), own = partition_source(p, device), next = (own + 1) % sources,
        before = (own + sources - 1) % sources, n = 0;
    double drift = p->settings->drift, of_next = share_of_next(p, device, part);
    text_share here = {.source = own,
                       .slots = partition_holders(p, own) + partition_holders(p, before),
                       .weight = 1 - of_next,
                       .start = 1,
                       .end = 1 - drift},
               there = {.source = next,
                        .slots = partition_holders(p, next) + partition_holders(p, own),
                        .weight = of_next,
                        .start = 0,
                        .end = drift};
    if (of_next < 1) out[n++] = here;
    out[n++] = there;
    return mixture_tokens(p, device, part, part == DATA_TRAIN, out, n);
}

static int least_sources(const data_settings *d) {
    (void)d;
    return 2;
}

const data_split split_drift = {
    .unequal = true,
    .has_own = true,
    .mixes = true,
    .moves = true,
    .parameter = "data.drift",
    .parameter_default = 1.0,
    .least_sources = least_sources,
    .shares = shares,
};

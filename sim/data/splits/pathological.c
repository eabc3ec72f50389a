/* Pathological: each device has k of the S sources (data.pathological), and equal parts of them, as the
 * devices of McMahan et al. (arXiv 1602.05629, section 3) have few classes each.
 *
 * There, shards of one class each are dealt at random. Here sources are dealt like packs of cards: a pack has
 * each source once and is shuffled by a key of its own, and devices in their order take k cards each; the
 * next pack is opened where one is used up. A card that the device has already changes places with the next
 * card in the pack that the device does not have. So a device has exactly k sources, the numbers of devices
 * of two sources differ by one at most, and a device's sources do not depend on how many devices come after
 * it. */
#include <stdlib.h>
#include <string.h>

#include "data/partition.h"
#include "data/splits/mixture.h"

/* The sources [k] of a device. p->prepared is one array: how many holders each source has [S], a pack of
 * cards [S], and the sources of all devices [devices, k]. */
static const int *dealt_to(const partition *p, int device) {
    return (const int *)p->prepared + 2 * corpus_sources(p->corpus) +
           (size_t)device * p->settings->pathological;
}

static void shuffle(uint64_t seed, uint64_t pack, int *cards, int n) {
    rng_key key = {seed, RNG_SHARED, RNG_MIXTURE, pack};
    for (int i = 0; i < n; i++) cards[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)rng_below(&key, (uint64_t)i, (uint64_t)i + 1), card = cards[i];
        cards[i] = cards[j];
        cards[j] = card;
    }
}

static bool is_among(int card, const int *hand, int n) {
    for (int i = 0; i < n; i++)
        if (hand[i] == card) return true;
    return false;
}

/* Makes the first `wanted` cards of a new pack cards that the hand of n cards does not have. */
static void exchange(int *cards, int wanted, const int *hand, int n) {
    int other = wanted;
    for (int i = 0; i < wanted; i++) {
        if (!is_among(cards[i], hand, n)) continue;
        while (is_among(cards[other], hand, n)) other++;
        int card = cards[i];
        cards[i] = cards[other];
        cards[other] = card;
    }
}

static bool deal(partition *p) {
    int sources = corpus_sources(p->corpus), k = p->settings->pathological, at = sources;
    int *holders = calloc(2 * (size_t)sources + (size_t)p->devices * (size_t)k, sizeof *holders);
    if (!holders) return false;
    p->prepared = holders;
    int *cards = holders + sources, *hand = cards + sources;
    uint64_t pack = 0;
    for (int device = 0; device < p->devices; device++, hand += k)
        for (int n = 0; n < k; n++) {
            if (at == sources) {
                shuffle(p->seed, pack++, cards, sources);
                exchange(cards, k - n, hand, n);
                at = 0;
            }
            hand[n] = cards[at++];
            holders[hand[n]]++;
        }
    return true;
}

static int shares(const partition *p, int device, data_part part, text_share *out) {
    int k = p->settings->pathological;
    const int *holders = p->prepared, *hand = dealt_to(p, device);
    for (int i = 0; i < k; i++)
        out[i] = (text_share){.source = hand[i], .slots = holders[hand[i]], .weight = 1.0};
    return mixture_tokens(p, device, part, true, out, k);
}

static int least_sources(const data_settings *d) {
    return d->pathological;
}

const data_split split_pathological = {
    .unequal = true,
    .mixes = true,
    .parameter = "data.pathological",
    .parameter_default = 2,
    .least_sources = least_sources,
    .prepare = deal,
    .shares = shares,
};

/* mixture.c - the tokens of a device's sources by their weights. */
#include "data/splits/mixture.h"

#include <math.h>
#include <stdlib.h>

#include "data/partition.h"

static double sum_of_weights(const text_share *shares, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += shares[i].weight;
    return sum;
}

static int by_weight(const void *a, const void *b) { /* falling */
    const text_share *x = a, *y = b;
    return x->weight != y->weight ? (x->weight < y->weight) - (x->weight > y->weight) : x->source - y->source;
}

static int by_remainder(const void *a, const void *b) { /* falling */
    const text_share *x = a, *y = b;
    return x->remainder != y->remainder ? (x->remainder < y->remainder) - (x->remainder > y->remainder)
                                        : x->source - y->source;
}

static int by_source(const void *a, const void *b) {
    return ((const text_share *)a)->source - ((const text_share *)b)->source;
}

/* Writes `room` of each share: how many tokens for a weight of 1 the sources of this share and of all before
 * it can give, which is the least of what each of them can give. */
static void measure_room(const partition *p, int device, data_part part, text_share *shares, int n) {
    double least = INFINITY, scale = partition_scale(p, device, part);
    for (int i = 0; i < n; i++) {
        int64_t held = partition_held(p, shares[i].source, part);
        if (part == DATA_TRAIN) held /= shares[i].slots;
        least = fmin(least, scale * (double)held / shares[i].weight);
        shares[i].room = least;
    }
}

/* The tokens of n shares together, whose weights sum to `weight`. 1e-6 is added because a product that
 * should be a whole number may be just below it. */
static int64_t tokens_of_part(const partition *p, int device, data_part part, const text_share *shares, int n,
                              double weight) {
    return partition_wants_all(p->settings, part) ? (int64_t)(weight * shares[n - 1].room + 1e-6)
                                                  : partition_wanted(p, device, part);
}

static void round_shares(int64_t tokens, text_share *shares, int n) {
    double sum = sum_of_weights(shares, n);
    int64_t left = tokens;
    for (int i = 0; i < n; i++) {
        double exact = (double)tokens * (shares[i].weight / sum);
        shares[i].tokens = (int64_t)exact;
        shares[i].remainder = exact - floor(exact);
        left -= shares[i].tokens;
    }
    qsort(shares, (size_t)n, sizeof *shares, by_remainder);
    for (int i = 0; i < left; i++) shares[i].tokens++;
}

/* The share of the least weight is left out first, because its tokens may make the others large enough. */
int mixture_tokens(const partition *p, int device, data_part part, bool whole, text_share *shares, int n) {
    qsort(shares, (size_t)n, sizeof *shares, by_weight);
    measure_room(p, device, part, shares, n);
    double sum = sum_of_weights(shares, n);
    int64_t tokens = tokens_of_part(p, device, part, shares, n, sum);
    while (n > 1 && !whole && (double)tokens * (shares[n - 1].weight / sum) < p->settings->sequence + 1) {
        sum -= shares[--n].weight;
        tokens = tokens_of_part(p, device, part, shares, n, sum);
    }
    round_shares(tokens, shares, n);
    qsort(shares, (size_t)n, sizeof *shares, by_source);
    return n;
}

/* Dirichlet over sources (Hsu, Qi, Brown, arXiv 1909.06335, with sources in place of labels and a uniform
 * prior): all text of device i is a mixture q_i of the S sources.
 *
 *   q_i ~ Dirichlet(alpha, .., alpha):   q_is = g_s / sum_r g_r,   g_s ~ Gamma(alpha, 1)
 *   Gamma(alpha) = Gamma(alpha + 1) U^(1 / alpha)                  (Marsaglia & Tsang 2000, section 6)
 *
 * E q_is = 1 / S and Var q_is = (S - 1) / (S^2 (S alpha + 1)): a small alpha gives a device one source, a
 * large one all alike. Of t tokens source s gives t q_is, rounded to whole tokens by largest remainders. A
 * source that would give less than a window gives nothing; the others then have its tokens, in the
 * proportions of q_i. Where all text is asked for, t is the most that the sources hold in that mixture, of
 * training text each device's equal part of them. */
#include "data/splits/dirichlet.h"

#include <math.h>
#include <stdlib.h>

#include "data/partition.h"

/* alpha ln g of source s: finite for every alpha, however small. */
static double scaled_log_gamma(uint64_t seed, int device, double alpha, int source) {
    rng_key gamma = {seed, device, RNG_MIXTURE, 2 * (uint64_t)source},
            boost = {seed, device, RNG_MIXTURE, 2 * (uint64_t)source + 1};
    return alpha * log(rng_gamma(&gamma, alpha + 1)) + log(rng_open_unit(&boost, 0));
}

static double sum_of_weights(const text_share *shares, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += shares[i].weight;
    return sum;
}

void dirichlet_mixture(uint64_t seed, int device, double alpha, int sources, text_share *out) {
    double most = -INFINITY;
    for (int s = 0; s < sources; s++) {
        out[s] = (text_share){.source = s, .weight = scaled_log_gamma(seed, device, alpha, s)};
        most = fmax(most, out[s].weight);
    }
    for (int s = 0; s < sources; s++) out[s].weight = exp((out[s].weight - most) / alpha);
    double sum = sum_of_weights(out, sources);
    for (int s = 0; s < sources; s++) out[s].weight /= sum;
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

/* Into room: of the first shares up to each, the most tokens for a weight of 1 that their sources hold. */
static void measure_room(const partition *p, data_part part, text_share *shares, int n) {
    double least = INFINITY;
    for (int i = 0; i < n; i++) {
        int64_t held = partition_held(p, shares[i].source, part);
        if (part == DATA_TRAIN) held /= p->devices;
        least = fmin(least, (double)held / shares[i].weight);
        shares[i].room = least;
    }
}

/* The tokens of n shares of this weight together. The addend makes good what rounding may take from a whole
 * number. */
static int64_t tokens_of_part(const partition *p, data_part part, const text_share *shares, int n,
                              double weight) {
    int64_t wanted = partition_wanted(p->settings, part);
    return wanted > 0 ? wanted : (int64_t)(weight * shares[n - 1].room + 1e-6);
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

/* The least share goes first: what it leaves to the others may make them large enough. */
static int shares_of_device(const partition *p, int device, data_part part, text_share *out) {
    int n = corpus_sources(p->corpus);
    dirichlet_mixture(p->seed, device, p->settings->dirichlet, n, out);
    qsort(out, (size_t)n, sizeof *out, by_weight);
    measure_room(p, part, out, n);
    double sum = sum_of_weights(out, n);
    int64_t tokens = tokens_of_part(p, part, out, n, sum);
    while (n > 1 && (double)tokens * (out[n - 1].weight / sum) < p->settings->sequence + 1) {
        sum -= out[--n].weight;
        tokens = tokens_of_part(p, part, out, n, sum);
    }
    round_shares(tokens, out, n);
    qsort(out, (size_t)n, sizeof *out, by_source);
    return n;
}

const data_split split_dirichlet = {
    .unequal = true,
    .mixes = true,
    .parameter = "data.dirichlet",
    .parameter_default = 1.0,
    .shares = shares_of_device,
};

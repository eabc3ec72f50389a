/* Dirichlet over sources (Hsu, Qi, Brown, arXiv 1909.06335, with sources in place of labels and a uniform
 * prior): all text of device i is a mixture q_i of the S sources.
 *
 *   q_i ~ Dirichlet(alpha, .., alpha):   q_is = g_s / sum_r g_r,   g_s ~ Gamma(alpha, 1)
 *   Gamma(alpha) = Gamma(alpha + 1) U^(1 / alpha)                  (Marsaglia & Tsang 2000, section 6)
 *
 * E q_is = 1 / S and Var q_is = (S - 1) / (S^2 (S alpha + 1)): a small alpha gives a device one source, a
 * large one all alike. Of t tokens source s gives t q_is, rounded to whole tokens by largest remainders. A
 * source that would give less than a window gives nothing; the others then have its tokens, in the
 * proportions of q_i. Where all text is asked for, t is the largest number for which no source has to give
 * more than it holds. Of training text a source gives each device an equal part at most. */
#include "data/splits/dirichlet.h"

#include <math.h>

#include "data/partition.h"
#include "data/splits/mixture.h"

/* alpha ln g_s. It is finite even where alpha is so small that g_s itself would be 0. */
static double scaled_log_gamma(uint64_t seed, int device, double alpha, int source) {
    rng_key gamma = {seed, device, RNG_MIXTURE, 2 * (uint64_t)source},
            boost = {seed, device, RNG_MIXTURE, 2 * (uint64_t)source + 1};
    return alpha * log(rng_gamma(&gamma, alpha + 1)) + log(rng_open_unit(&boost, 0));
}

void dirichlet_mixture(uint64_t seed, int device, double alpha, int sources, text_share *out) {
    double most = -INFINITY;
    for (int s = 0; s < sources; s++) {
        out[s] = (text_share){.source = s, .weight = scaled_log_gamma(seed, device, alpha, s)};
        most = fmax(most, out[s].weight);
    }
    for (int s = 0; s < sources; s++) out[s].weight = exp((out[s].weight - most) / alpha);
    double sum = 0;
    for (int s = 0; s < sources; s++) sum += out[s].weight;
    for (int s = 0; s < sources; s++) out[s].weight /= sum;
}

static int shares_of_device(const partition *p, int device, data_part part, text_share *out) {
    int n = corpus_sources(p->corpus);
    dirichlet_mixture(p->seed, device, p->settings->dirichlet, n, out);
    for (int s = 0; s < n; s++) out[s].slots = p->devices;
    return mixture_tokens(p, device, part, false, out, n);
}

const data_split split_dirichlet = {
    .unequal = true,
    .mixes = true,
    .parameter = "data.dirichlet",
    .parameter_default = 1.0,
    .shares = shares_of_device,
};

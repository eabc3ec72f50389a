/* markov.h - the Markov chains of the synthetic corpus.
 *
 * Topic t over V tokens: from token v, one of b distinct successors n_1(v), .., n_b(v) with probability
 * p_j(v) ~ Dirichlet(1, .., 1).
 *   n_1 is the same in all topics: one random cycle through all tokens,
 *       so that every chain reaches every token.
 *   For about half of the tokens the whole row (successors and probabilities) is the same in all topics:
 *       what devices can learn together.
 *   The other rows are the topic's own: what a device's specialists can learn.
 *
 * pi = pi P stationary distribution, by power iteration of (P + I) / 2 in double (the lazy chain has no
 * period) h = sum_v pi(v) sum_j p_j(v) (-ln p_j(v)) entropy rate, nats per token H = sum_v pi(v) (-ln pi(v))
 * entropy of a first token */
#ifndef COHORT_MARKOV_H
#define COHORT_MARKOV_H

#include <stdint.h>

#include "support/problems.h"

typedef struct {
    int vocabulary, branching;
    uint16_t *successors; /* [vocabulary, branching] */
    double *cumulative;   /* [vocabulary, branching], of the row's probabilities; the last is 1 */
    double *stationary;   /* [vocabulary], cumulative; the last is 1 */
    double rate, entropy; /* h and H above */
} markov_chain;

exit_code markov_create(uint64_t seed, int topic, int vocabulary, int branching, markov_chain *out,
                        problems *list);
void markov_destroy(markov_chain *m);

/* A token by the stationary distribution, and a successor of `token`; u is uniform on 32 bits. */
int markov_first(const markov_chain *m, uint32_t u);
int markov_next(const markov_chain *m, int token, uint32_t u);
/* The probability that `next` follows `token`; 0 where it is no successor. */
double markov_probability(const markov_chain *m, int token, int next);

#endif

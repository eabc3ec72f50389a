/* synthetic.h - text of known entropy: segments of SYNTHETIC_SEGMENT tokens, each from one topic's Markov
 * chain (markov.h).
 *
 * Source t's text is endless and made of blocks of SYNTHETIC_BLOCK tokens, each a function of
 * (synthetic.seed, t, part, block) alone. A segment's topic is t with probability `purity`, else uniform over
 * all T topics, so topic k has the share
 *   s_k = purity [k = t] + (1 - purity) / T.
 * Where a block begins or the topic changes, the first token is drawn from the new topic's stationary
 * distribution; all others follow the chain. So every token of a topic-k run is stationary, and with S =
 * SYNTHETIC_BLOCK / SYNTHETIC_SEGMENT the entropy per token, topics known, is exactly
 *   h_t = sum_k s_k [ rate_k + (entropy_k - rate_k) (1 + (S - 1)(1 - s_k)) / SYNTHETIC_BLOCK ].
 * Knowing the topics can only help, so h_t is a lower bound on any model's expected loss (tight at purity 1;
 * below that a model pays, in addition, for finding out the topic of a segment from its tokens). */
#ifndef COHORT_SYNTHETIC_H
#define COHORT_SYNTHETIC_H

#include "data/data.h"
#include "data/markov.h"

enum { SYNTHETIC_SEGMENT = 128, SYNTHETIC_BLOCK = 16384 };
/* length of a source's text; only what is asked for is made */
static const int64_t SYNTHETIC_TOKENS = INT64_C(1) << 40;

typedef struct {
    int topics;
    double purity;
    uint64_t seed;
    markov_chain *chains; /* [topics] */
} synthetic_text;

/* Checks the settings, vocabulary included; *out is NULL on failure. */
exit_code synthetic_create(const data_settings *d, int vocabulary, synthetic_text **out, problems *list);
void synthetic_destroy(synthetic_text *s);
double synthetic_entropy(const synthetic_text *s, int source);

/* Tokens [first, first + count) of a source's text, in memory. */
exit_code synthetic_range(const synthetic_text *s, int source, data_part part, int64_t first, int64_t count,
                          shard **out, problems *list);

#endif

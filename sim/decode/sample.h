/* sample.h - the next token from its logits. */
#ifndef COHORT_SAMPLE_H
#define COHORT_SAMPLE_H

#include <stdint.h>

#include "support/rng.h"

typedef struct {
    double temperature; /* 0: the largest logit (of equal ones the lower id) */
    int32_t top_k;      /* of the largest logits only (of equal ones the lower ids); 0: of all */
} sample_rule;

/* Token i with probability exp(z_i / temperature) / sum over the kept; key and index name the one random
 * number that is drawn, so the choice depends on nothing else. scratch [vocabulary]. -1: a logit that counts
 * is not finite. */
int32_t sample_token(const sample_rule *rule, const float *logits, int32_t vocabulary, const rng_key *key,
                     uint64_t index, float *scratch);

#endif

#include "data/synthetic.h"

#include <stdlib.h>

#include "data/shard.h"

enum { SEGMENTS = SYNTHETIC_BLOCK / SYNTHETIC_SEGMENT, MOST_TOKENS = 65536, BLOCKS_WORTH_THREADS = 8 };

static exit_code check_settings(const data_settings *d, int vocabulary, problems *list) {
    exit_code code = EXIT_OK;
    int tokens = d->synthetic.vocabulary;
    if (d->synthetic.topics < 1)
        code = problem(list, EXIT_INPUT, "data.synthetic.topics is %d; at least 1 is needed",
                       d->synthetic.topics);
    if (tokens < 2 || tokens > MOST_TOKENS || tokens > vocabulary)
        code =
            problem(list, EXIT_INPUT,
                    "data.synthetic.vocabulary is %d; it must be between 2 and the base's vocabulary of %d",
                    tokens, vocabulary < MOST_TOKENS ? vocabulary : MOST_TOKENS);
    if (d->synthetic.branching < 1 || d->synthetic.branching > tokens)
        code =
            problem(list, EXIT_INPUT,
                    "data.synthetic.branching is %d; it must be between 1 and data.synthetic.vocabulary (%d)",
                    d->synthetic.branching, tokens);
    if (!(d->synthetic.purity >= 0 && d->synthetic.purity <= 1))
        code = problem(list, EXIT_INPUT, "data.synthetic.purity is %g; it must be between 0 and 1",
                       d->synthetic.purity);
    return code;
}

exit_code synthetic_create(const data_settings *d, int vocabulary, synthetic_text **out, problems *list) {
    *out = NULL;
    exit_code code = check_settings(d, vocabulary, list);
    if (code != EXIT_OK) return code;
    synthetic_text *s = calloc(1, sizeof *s);
    markov_chain *chains = calloc((size_t)d->synthetic.topics, sizeof *chains);
    if (!s || !chains) {
        free(s);
        free(chains);
        return problem(list, EXIT_ENVIRONMENT, "data.synthetic: no memory for %d topics",
                       d->synthetic.topics);
    }
    *s = (synthetic_text){d->synthetic.topics, d->synthetic.purity, d->synthetic.seed, chains};
    for (int t = 0; t < s->topics && code == EXIT_OK; t++)
        code = markov_create(s->seed, t, d->synthetic.vocabulary, d->synthetic.branching, &chains[t], list);
    if (code == EXIT_OK)
        *out = s;
    else
        synthetic_destroy(s);
    return code;
}

void synthetic_destroy(synthetic_text *s) {
    if (!s) return;
    for (int t = 0; t < s->topics; t++) markov_destroy(&s->chains[t]);
    free(s->chains);
    free(s);
}

double synthetic_entropy(const synthetic_text *s, int source) {
    double sum = 0;
    for (int k = 0; k < s->topics; k++) {
        const markov_chain *m = &s->chains[k];
        double share = (k == source ? s->purity : 0) + (1 - s->purity) / s->topics;
        double starts = (1 + (SEGMENTS - 1) * (1 - share)) / SYNTHETIC_BLOCK;
        sum += share * (m->rate + (m->entropy - m->rate) * starts);
    }
    return sum;
}

static int topic_of_segment(const synthetic_text *s, int source, const rng_key *key, int segment) {
    double u = (double)rng_below(key, 2 * (uint64_t)segment, UINT64_C(1) << 53) * 0x1p-53;
    return u < s->purity ? source : (int)rng_below(key, 2 * (uint64_t)segment + 1, (uint64_t)s->topics);
}

/* The words of a block's stream are its tokens' draws, the pairs its segments' topics. */
static void write_block(const synthetic_text *s, int source, data_part part, int64_t block, uint16_t *out) {
    rng_key key = {s->seed, source, RNG_CORPUS, (uint64_t)part << 36 | (uint64_t)block};
    int topic = -1, token = 0;
    for (int i = 0; i < SYNTHETIC_BLOCK; i++) {
        int before = topic;
        if (i % SYNTHETIC_SEGMENT == 0) topic = topic_of_segment(s, source, &key, i / SYNTHETIC_SEGMENT);
        uint32_t u = rng_u32(&key, (uint64_t)i);
        const markov_chain *m = &s->chains[topic];
        token = topic == before ? markov_next(m, token, u) : markov_first(m, u);
        out[i] = (uint16_t)token;
    }
}

exit_code synthetic_range(const synthetic_text *s, int source, data_part part, int64_t first, int64_t count,
                          shard **out, problems *list) {
    uint16_t *tokens = malloc((size_t)count * sizeof *tokens);
    *out = NULL;
    if (!tokens)
        return problem(list, EXIT_ENVIRONMENT, "data.synthetic: no memory for %lld tokens of text",
                       (long long)count);
    int64_t last = first + count, first_block = first / SYNTHETIC_BLOCK,
            end_block = (last + SYNTHETIC_BLOCK - 1) / SYNTHETIC_BLOCK;
/* A device's text is a block or two: waking the threads for it would take longer. */
#pragma omp parallel for schedule(dynamic) if (end_block - first_block >= BLOCKS_WORTH_THREADS)
    for (int64_t block = first_block; block < end_block; block++) {
        uint16_t text[SYNTHETIC_BLOCK];
        int64_t start = block * SYNTHETIC_BLOCK;
        write_block(s, source, part, block, text);
        int64_t from = start > first ? start : first;
        int64_t to = start + SYNTHETIC_BLOCK < last ? start + SYNTHETIC_BLOCK : last;
        for (int64_t i = from; i < to; i++) tokens[i - first] = text[i - start];
    }
    *out = shard_of_memory(tokens, count);
    return *out ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "data.synthetic: no memory for a shard");
}

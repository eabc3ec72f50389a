#include "data/markov.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "support/rng.h"

/* steps of RNG_CORPUS from here on are rows of chains, below it text */
static const uint64_t ROWS = UINT64_C(1) << 39;
static const uint64_t CYCLE = (UINT64_C(1) << 39) - 1;

enum { MOST_ITERATIONS = 1000000 };

/* order[] becomes a random order of all tokens; n_1(order[i]) = order[i + 1]. */
static void random_cycle(uint64_t seed, int vocabulary, int *order, int *next) {
    rng_key key = {seed, RNG_SHARED, RNG_CORPUS, CYCLE};
    for (int i = 0; i < vocabulary; i++) order[i] = i;
    for (int i = vocabulary - 1; i > 0; i--) {
        int j = (int)rng_below(&key, (uint64_t)i, (uint64_t)i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    for (int i = 0; i < vocabulary; i++) next[order[i]] = order[(i + 1) % vocabulary];
}

/* Whose row it is: RNG_SHARED for the rows that all topics have in common. */
static rng_key row_key(uint64_t seed, int topic, int token) {
    rng_key key = {seed, RNG_SHARED, RNG_CORPUS, ROWS + (uint64_t)token};
    if (rng_u32(&key, 0) & 1) key.device = topic;
    return key;
}

static void choose_successors(const rng_key *key, const markov_chain *m, int on_cycle, uint16_t *row) {
    uint64_t draw = 0;
    row[0] = (uint16_t)on_cycle;
    for (int n = 1; n < m->branching;) {
        uint16_t candidate = (uint16_t)rng_below(key, draw++, (uint64_t)m->vocabulary);
        bool taken = false;
        for (int j = 0; j < n && !taken; j++) taken = row[j] == candidate;
        if (!taken) row[n++] = candidate;
    }
}

/* Exponential weights, normalised: uniform over all distributions on the row's successors. */
static void choose_probabilities(const rng_key *key, int branching, double *cumulative) {
    double sum = 0;
    for (int j = 0; j < branching; j++) {
        double uniform = ((double)rng_u32(key, (uint64_t)j + 1) + 0.5) * 0x1p-32;
        sum += -log(uniform);
        cumulative[j] = sum;
    }
    for (int j = 0; j < branching; j++) cumulative[j] /= sum;
    cumulative[branching - 1] = 1;
}

static double row_probability(const markov_chain *m, int token, int j) {
    const double *row = m->cumulative + (int64_t)token * m->branching;
    return j == 0 ? row[0] : row[j] - row[j - 1];
}

/* One step of the lazy chain; returns the L1 distance moved. */
static double lazy_step(const markov_chain *m, const double *from, double *to) {
    double moved = 0;
    for (int v = 0; v < m->vocabulary; v++) to[v] = from[v] / 2;
    for (int v = 0; v < m->vocabulary; v++)
        for (int j = 0; j < m->branching; j++)
            to[m->successors[(int64_t)v * m->branching + j]] += from[v] * row_probability(m, v, j) / 2;
    for (int v = 0; v < m->vocabulary; v++) moved += fabs(to[v] - from[v]);
    return moved;
}

/* Leaves pi in `pi`; `spare` is scratch. Both [vocabulary]. */
static void find_stationary(const markov_chain *m, double *pi, double *spare) {
    size_t bytes = (size_t)m->vocabulary * sizeof *pi;
    for (int v = 0; v < m->vocabulary; v++) pi[v] = 1.0 / m->vocabulary;
    for (int i = 0; i < MOST_ITERATIONS; i++) {
        double moved = lazy_step(m, pi, spare);
        memcpy(pi, spare, bytes);
        if (moved < 1e-13) break;
    }
}

static double minus_p_log_p(double p) {
    return p > 0 ? -p * log(p) : 0;
}

static void measure(markov_chain *m, const double *pi) {
    m->rate = m->entropy = 0;
    for (int v = 0; v < m->vocabulary; v++) {
        double of_row = 0;
        for (int j = 0; j < m->branching; j++) of_row += minus_p_log_p(row_probability(m, v, j));
        m->rate += pi[v] * of_row;
        m->entropy += minus_p_log_p(pi[v]);
    }
}

static void accumulate(const double *pi, int n, double *cumulative) {
    double sum = 0;
    for (int v = 0; v < n; v++) cumulative[v] = sum += pi[v];
    for (int v = 0; v < n; v++) cumulative[v] /= sum;
}

exit_code markov_create(uint64_t seed, int topic, int vocabulary, int branching, markov_chain *m,
                        problems *list) {
    size_t rows = (size_t)vocabulary, entries = rows * (size_t)branching;
    int *cycle = malloc(2 * rows * sizeof *cycle);
    double *pi = malloc(2 * rows * sizeof *pi);
    exit_code code = EXIT_OK;
    *m = (markov_chain){.vocabulary = vocabulary, .branching = branching};
    m->successors = malloc(entries * sizeof *m->successors);
    m->cumulative = malloc(entries * sizeof *m->cumulative);
    m->stationary = malloc(rows * sizeof *m->stationary);
    if (!cycle || !pi || !m->successors || !m->cumulative || !m->stationary) {
        code = problem(list, EXIT_ENVIRONMENT,
                       "data.synthetic: no memory for a topic of %d tokens with %d successors each",
                       vocabulary, branching);
        goto cleanup;
    }
    random_cycle(seed, vocabulary, cycle, cycle + rows);
    for (int v = 0; v < vocabulary; v++) {
        rng_key key = row_key(seed, topic, v);
        choose_successors(&key, m, cycle[rows + (size_t)v], m->successors + (int64_t)v * branching);
        choose_probabilities(&key, branching, m->cumulative + (int64_t)v * branching);
    }
    find_stationary(m, pi, pi + rows);
    measure(m, pi);
    accumulate(pi, vocabulary, m->stationary);
cleanup:
    if (code != EXIT_OK) markov_destroy(m);
    free(pi);
    free(cycle);
    return code;
}

void markov_destroy(markov_chain *m) {
    free(m->successors);
    free(m->cumulative);
    free(m->stationary);
    *m = (markov_chain){0};
}

/* The first index whose cumulative probability is above u; the last one is always 1. */
static int look_up(const double *cumulative, int n, uint32_t u) {
    double x = (double)u * 0x1p-32;
    int low = 0, high = n - 1;
    while (low < high) {
        int middle = (low + high) / 2;
        if (cumulative[middle] > x)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

int markov_first(const markov_chain *m, uint32_t u) {
    return look_up(m->stationary, m->vocabulary, u);
}

int markov_next(const markov_chain *m, int token, uint32_t u) {
    int64_t row = (int64_t)token * m->branching;
    return m->successors[row + look_up(m->cumulative + row, m->branching, u)];
}

double markov_probability(const markov_chain *m, int token, int next) {
    for (int j = 0; j < m->branching; j++)
        if (m->successors[(int64_t)token * m->branching + j] == next) return row_probability(m, token, j);
    return 0;
}

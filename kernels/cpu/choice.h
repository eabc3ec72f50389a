/* choice.h - the experts that a token chooses by its logits: K = min(k, E) of them, the lower index wins
 * ties. */
#ifndef COHORT_KERNELS_CPU_CHOICE_H
#define COHORT_KERNELS_CPU_CHOICE_H

#include "../pack.h"
#include "vector.h"

typedef struct {
    int experts, kept;
    uint32_t chosen; /* bit e: expert e is kept */
    int best, last,
        runner_up; /* of the kept the first and the last; the first that is not, -1: all are kept */
} choice;

static inline int best_of_others(const float *z, int experts, uint32_t taken) {
    int best = -1;
    for (int e = 0; e < experts; e++)
        if (!(taken >> e & 1) && (best < 0 || z[e] > z[best])) best = e;
    return best;
}

static inline choice choose(const float *z, int experts, int top_k) {
    choice c = {.experts = experts, .kept = top_k < experts ? top_k : experts, .best = -1};
    for (int i = 0; i < c.kept; i++) {
        c.last = best_of_others(z, experts, c.chosen);
        c.chosen |= 1u << c.last;
        if (i == 0) c.best = c.last;
    }
    c.runner_up = best_of_others(z, experts, c.chosen);
    return c;
}

/* softmax over the members of a set; others 0. */
static inline void softmax_over(const float *z, int experts, uint32_t members, float largest, float *w) {
    float sum = 0;
    for (int e = 0; e < experts; e++) {
        w[e] = members >> e & 1 ? vec_exp(z[e] - largest) : 0.0f;
        sum += w[e];
    }
    for (int e = 0; e < experts; e++) w[e] /= sum;
}

#endif

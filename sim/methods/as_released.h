/* as_released.h - where the code that the CoMiGS authors released differs from their paper (`as_released:
 * true`): all of it is in as_released.c. Each function gives the paper's rule where as_released is false. */
#ifndef COHORT_AS_RELEASED_H
#define COHORT_AS_RELEASED_H

#include "methods/method.h"

/* schedule_two_levels() as released: the levels leak. Experts and router have an optimiser each, every
 * backward pass adds to the gradients G of both, and each optimiser clears only its own:
 *
 *   G^own <- G^own + g^own, AdamW on G^own, G^own <- 0        G^other <- G^other + g^other
 *
 * So a burst's first router step takes all training gradients since the burst before, and the expert step
 * after a burst takes all of its validation gradients. Bursts run on every device: those of a device with one
 * expert, which has no router to learn, still leave their gradients to it. */
int released_two_levels(const schedule_query *q, schedule_entry entries[SCHEDULE_MOST]);
/* A method's schedule, or the released variant where it has one. */
schedule_list released_schedule(const method *m, bool as_released);

/* Whether expert e, which is private, starts equal on all devices. As released, a device's first act is to
 * copy what its run's strategy lists from the server: in `local` all experts, in a CoMiGS run of specialists
 * alone the first of them. */
bool released_start_is_shared(const method *m, bool as_released, int e);

/* c_e of the load balance of G generalists and S specialists, E = G + S:
 *   c_g = G / (pi E), c_s = S / ((1 - pi) E); 1 where G or S is 0
 *   as released: c_0 = 1 / (pi E), c_e = (E - 1) / ((1 - pi) E), whatever the experts are */
double released_balance(bool as_released, double importance, int generalists, int specialists, int e);

/* exp(loss); as released, e is 2.71828. */
double released_perplexity(bool as_released, double loss);

#endif

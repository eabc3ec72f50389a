/* participation.h - which devices take part in which rounds, and how. The engine, the averages, the ledger of
 * traffic and the totals of a schedule ask here, and nowhere else.
 *
 * Held-out devices (held_out.devices: n, held_out.rounds: r) are the last n of a population. They are absent
 * until the last r of the run's rounds. From then on they start every round from the average of the others
 * and train as all do, but what they learn enters no average: the others never learn that they exist. */
#ifndef COHORT_PARTICIPATION_H
#define COHORT_PARTICIPATION_H

#include <stdbool.h>

#include "settings/settings.h"

typedef struct {
    bool present;  /* takes the round's steps, and is evaluated after them */
    bool sends;    /* what it shares enters the average that ends the round */
    bool receives; /* gets that average: at the end of a round that it was in, or before its first */
} participation;

/* Of the device `index` of a population, in a round of so many (counted from 1). */
participation schedule_participation(const population_settings *p, int index, int round, int rounds);
/* Whether its first round is the next one. */
static inline bool schedule_joins_next(participation in_round) {
    return in_round.receives && !in_round.present;
}
/* The first round in which it is present, from 1. */
int schedule_first_round(const population_settings *p, int index, int rounds);
/* Whether it is one of those that the population's means leave out. */
bool schedule_is_held_out(const population_settings *p, int index);

#endif

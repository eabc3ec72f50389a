/* participation.h - which devices take part in which rounds, and how. Nothing else in the program decides
 * it: the engine, the averages, the counts of traffic and the totals of a schedule all ask here.
 *
 * Held-out devices (held_out.devices: n, held_out.rounds: r) are the last n of a population. They are absent
 * until the last r of the run's rounds. From then on they start every round from the average of the others
 * and train as all do. What they learn enters no average, so the other devices are the same without them. */
#ifndef COHORT_PARTICIPATION_H
#define COHORT_PARTICIPATION_H

#include <stdbool.h>

#include "settings/settings.h"

typedef struct {
    bool present;  /* takes the round's steps, and is evaluated after them */
    bool sends;    /* what it shares enters the average that ends the round */
    bool receives; /* gets that average: at the end of a round that it was in, or before its first */
} participation;

/* Of the device `index` of a population, in round `round` (counted from 1) of a run of `rounds` rounds. */
participation schedule_participation(const population_settings *p, int index, int round, int rounds);
/* Whether the first round of the device is the one after this. */
static inline bool schedule_joins_next(participation in_round) {
    return in_round.receives && !in_round.present;
}
/* The first round in which it is present, from 1. */
int schedule_first_round(const population_settings *p, int index, int rounds);
/* Whether the device is held out. The means of its population leave it out. */
bool schedule_is_held_out(const population_settings *p, int index);

#endif

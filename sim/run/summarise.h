/* summarise.h - the rows of summary.csv, one for each population, from the numbers of all rounds. */
#ifndef COHORT_SUMMARY_H
#define COHORT_SUMMARY_H

#include "engine/session.h"
#include "result/trace.h"

/* What is known of a population after some rounds; all zeros before the first round. Means are over the
 * devices that have a value in that round. */
typedef struct {
    /* the evaluated round of the lowest mean validation loss, the earlier one of equals; 0: none has one */
    int best_round;
    double best_valid;    /* nats per token */
    double test_ppl_best; /* of that round, before its aggregation */
    int64_t bytes;        /* up and down, of all rounds */
    int rounds_to_target; /* the first evaluated round with a mean test loss of at most the target; 0: none */
    int64_t bytes_to_target; /* of the rounds up to and with that one */
} population_course;

/* Adds a round, which comes after those before; courses [n_populations]. */
void course_add(const fleet *f, const metric_row *row, population_course *courses);

/* After the last round, whose numbers the session has; NaN for populations that stopped. courses, rows
 * [n_populations]; pointers into the session's settings. */
void summarise(const session *s, const population_course *courses, summary_row *rows);

/* The same from a closed trace that has all rounds. So the summary does not depend on who computed them: one
 * run or a resumed one, one process or several, or several runs whose results were merged. Of the session it
 * needs the settings, the fleet and the states of the devices. It reads the trace into the session's
 * numbers. */
exit_code summarise_trace(session *s, const char *trace_path, summary_row *rows, problems *list);

#endif

/* rounds.h - the rounds of a run, from the first (or the one after the checkpoint) to the last. */
#ifndef COHORT_ROUNDS_H
#define COHORT_ROUNDS_H

#include <stdbool.h>

#include "engine/session.h"
#include "result/trace.h"
#include "run/folders.h"

typedef struct {
    session *session;
    trace *trace;           /* NULL: another process writes it */
    checkpoint *checkpoint; /* its round is where the run stands */
    const result_folder *folder;
    const char *label; /* of the progress */
    bool quiet;
} rounds;

/* Runs the rounds after checkpoint->round. The losses of the last round are then in session->numbers. The
 * last round writes no checkpoint, because that is written after the summary. */
exit_code rounds_run(rounds *r, problems *list);

#endif

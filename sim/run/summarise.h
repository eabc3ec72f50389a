/* summary.h - what a run amounts to: a row per population. */
#ifndef COHORT_SUMMARY_H
#define COHORT_SUMMARY_H

#include "engine/session.h"
#include "result/trace.h"

/* After the last round; NaN for populations that stopped. rows [n_populations]; pointers into the session's
 * settings. */
void summarise(const session *s, summary_row *rows);

#endif

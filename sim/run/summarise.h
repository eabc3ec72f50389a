/* summary.h - what a run amounts to: a row per population. */
#ifndef COHORT_SUMMARY_H
#define COHORT_SUMMARY_H

#include "engine/session.h"
#include "result/trace.h"

/* test_ppl_mean: mean over devices of exp(test loss) (as released: 2.71828^(test loss)) before the last
 * aggregation; after: after it. NaN for populations that stopped. rows [n_populations]; pointers into the
 * session's settings. */
void summarise(const session *s, summary_row *rows);

#endif

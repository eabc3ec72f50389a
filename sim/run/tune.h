/* tune.h - a run whose configuration has `tune`: what is to be chosen is tried first.
 *
 *   FOLDER/tuning       the trials: a result like any other
 *   FOLDER/tuning.csv   what was tried and chosen (result/tuned.h)
 *   FOLDER/...          the run with the chosen values, whose config.yaml has no `tune`
 *
 * The lowest mean validation loss after the last round of the trials is chosen, of equal ones the smaller
 * value; never a trial that diverged. What tuning.csv says is not chosen again: with resume only groups that it
 * lacks are tried. */
#ifndef COHORT_RUN_TUNE_H
#define COHORT_RUN_TUNE_H

#include "run/run.h"

/* As run_execute(), which it is for settings without `tune`; others are changed to what was chosen. All of
 * several processes call it. */
exit_code tune_and_run(settings *s, const run_options *options, problems *list);

/* For `cohort check`: prints what would be tried, and of one process how its trials fit into memory. Nothing
 * without `tune`. */
exit_code tune_check(const settings *s, int processes, problems *list);

#endif

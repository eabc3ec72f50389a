/* peers.h - single operations in PyTorch, beside the microbenchmarks, by a process of its own that stays for
 * the whole run (peers/kernels.py). (Whole expert steps in PyTorch: side_by_side/peers.h.)
 *
 * For each point it is given the inputs as files, says which ways it knows to do the work ("forms"), runs
 * each once for its outputs to be verified, and then takes its samples in turn with Cohort's. Requests and
 * answers are lines of text over two pipes:
 *
 *   load FOLDER      -> N, then N lines "ready LABEL" or "no LABEL: reason"
 *   check I FOLDER   -> "done" once the outputs of form I lie in FOLDER, or "failed REASON"
 *   time I COUNT     -> "time SECONDS CPU_SECONDS" of COUNT iterations, or "failed REASON" */
#ifndef COHORT_BENCH_PEERS_PROCESS_H
#define COHORT_BENCH_PEERS_PROCESS_H

#include "measure/bench.h"
#include "rig/rig.h"

/* *out NULL, with the advice printed to standard error: no Python with PyTorch was found, the run goes on
 * without. */
exit_code peers_open(bench_peers **out, const bench_options *options, const context *c, problems *list);
void peers_close(bench_peers *p); /* NULL is fine */

/* Verifies every form against what the rig's case says of right and wrong; those that are right become
 * subjects. Returns how many. */
int peers_begin(bench_peers *p, rig *g, const result *r, subject *subjects, int room);
/* Adds every form to the result: with the samples of its subject, or with what was wrong. */
void peers_end(bench_peers *p, result *r, subject *subjects);

#endif

/* report.h - what a run says on the terminal besides its progress: the closing table, the files, notes. */
#ifndef COHORT_REPORT_H
#define COHORT_REPORT_H

#include <stdbool.h>

#include "engine/session.h"
#include "result/trace.h"
#include "run/folders.h"

/* A note per population whose devices share training text for want of it. */
void report_overlaps(bool quiet, const fleet *f);
/* Its family and sizes, a line. */
void report_base(const base_shape *shape);
/* A row per population: perplexity over devices before and after the last aggregation, and of the round that
 * the validation loss would choose, where that differs; traffic of the whole run. */
void report_table(const summary_row *rows, int n);
/* Tokens a second of the expert steps, and their FLOPs as shares of the ceiling: all of all processes. What
 * was not measured has no share.
 */
void report_speed(const session *s, const ck_ceiling *ceiling);
/* The result's files with their sizes. */
void report_files(const result_folder *folder);

#endif

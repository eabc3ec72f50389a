/* processes.h - the processes of a distributed run, in the terms of this folder: they come to the same code,
 * and process 0 to all rows.
 *
 * Every phase of a run is: each process does its part, then all call processes_agree(). Nobody begins the
 * next phase unless all are well, so a process that fails never leaves the others waiting. */
#ifndef COHORT_PROCESSES_H
#define COHORT_PROCESSES_H

#include <stddef.h>

#include "collective/collective.h"
#include "support/problems.h"

/* The end of a phase: EXIT_OK if all processes bring it; else the code of the first that failed, whose
 * messages process 0 gets, with its name before them. The messages of further ones are dropped: as a rule
 * they say the same of their own devices. */
exit_code processes_agree(ck_collective *c, exit_code code, problems *list);

/* A failed call of a collective as a message; the run cannot go on. */
exit_code processes_problem(ck_collective *c, ck_status status, problems *list);

/* Every process gets the text of process 0, whose *text is its own; that of the others is NULL before, and
 * theirs to free. */
exit_code processes_share_text(ck_collective *c, char **text, size_t *bytes, problems *list);

/* Rows of which each process has its own: row i lies at values + i * stride. */
typedef struct {
    void *values;
    size_t row_bytes, stride;
} process_rows;

/* Process 0 gets the rows of all, owner [n_rows] says whose they are. One message a process, whatever the
 * number of tables. */
exit_code processes_gather(ck_collective *c, int n_rows, const int *owner, const process_rows *tables,
                           int n_tables, problems *list);

#endif

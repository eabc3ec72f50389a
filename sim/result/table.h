/* table.h - `cohort table`: results side by side, means over seeds and paired differences between
 * populations, from the summary.csv of one or more results.
 *
 *   table_data      reads the summaries, and puts populations that differ only in the seed into a group
 *   table_compare   means, differences, which group is best, which is the baseline of which
 *   table_layout    which group stands in which row and column
 *   table_print     fills a grid with texts; table_grid prints that as text, Markdown or LaTeX
 *   table_notes     what stands below the table; the table as CSV */
#ifndef COHORT_TABLE_OF_RESULTS_H
#define COHORT_TABLE_OF_RESULTS_H

#include <stdio.h>

#include "support/problems.h"

typedef enum { TABLE_TEXT, TABLE_MARKDOWN, TABLE_LATEX, TABLE_CSV } table_form;

typedef struct {
    int n_results;
    const char *const *results; /* folders of results, or files like summary.csv */
    /* names of columns with commas between them; NULL: test_ppl_mean */
    const char *metrics;
    const char *rows;     /* likewise: settings that make the rows; NULL: population, or method in a pivot */
    const char *columns;  /* a setting whose values are the columns; NULL: metrics are */
    const char *baseline; /* a population, or a method; NULL: no differences */
    table_form form;
} table_request;

/* Everything that can be wrong with a request is reported before the first line is written. */
exit_code table_write(const table_request *request, FILE *out, problems *list);

#endif

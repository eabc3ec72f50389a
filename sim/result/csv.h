/* csv.h - cells of a CSV file (RFC 4180). */
#ifndef COHORT_CSV_H
#define COHORT_CSV_H

#include <stdio.h>

#include "support/problems.h"

/* Quoted where it holds a comma, a quote or a line break. */
void csv_text(FILE *out, const char *text);

/* A file in memory, the first line of which names its columns. Every row has a cell for each of them. */
typedef struct {
    char *path;   /* as it was opened, owned like the next four */
    char *text;   /* all names and cells */
    char **names; /* [n_columns] into text */
    char **cells; /* [n_rows, n_columns] into text */
    int *lines;   /* [n_rows] where each row begins, from 1 */
    int n_columns, n_rows;
} csv_file;
/* EXIT_INPUT, with the line, where it cannot be read, a row has another number of cells, a quote is not
 * closed, or a name stands twice. */
exit_code csv_read(const char *path, csv_file *out, problems *list);
void csv_free(csv_file *file);                          /* of zeros is fine */
int csv_column(const csv_file *file, const char *name); /* -1: there is none */

#endif

/* table_layout.h - which population stands where in a table. */
#ifndef COHORT_TABLE_LAYOUT_H
#define COHORT_TABLE_LAYOUT_H

#include "result/table.h"
#include "result/table_data.h"

typedef struct {
    const char **keys; /* [n_keys] the settings that make the rows; owned, like the next four */
    char *words;       /* what keys point into, where they were asked for */
    int *groups;       /* [n_rows, n_columns] index of the group there; -1: none */
    int *rows;         /* [n_rows] index of some group of each row */
    int *columns;      /* [n_columns] index of some group of each column */
    int n_keys, n_rows, n_columns;
    const char *column; /* the setting that makes the columns; NULL: there is one column */
} table_layout;

/* Gives every group a place. Where no rows were asked for, they are made by the population, or by the method
 * if there are columns, and by each further setting that tells apart groups which would share a place.
 * EXIT_INPUT for a name that is no setting, and where two groups would share a place nevertheless. */
exit_code table_lay_out(const table_data *data, const table_request *request, table_layout *out,
                        problems *list);
void table_layout_free(table_layout *layout); /* of zeros is fine */

/* The next name of a list NAME,NAME,...; NULL after the last one. Moves *at behind it, and replaces the
 * comma by a zero. */
char *table_next_name(char **at);
/* Reports that the file has no column `name`: names the most similar column among those that `fits` accepts,
 * or else all of these. Returns EXIT_INPUT. */
exit_code table_refuse_column(const csv_file *file, const char *option, const char *name,
                              bool (*fits)(const char *), const char *what, problems *list);

#endif

/* table_layout.h - which population stands where in a table. */
#ifndef COHORT_TABLE_LAYOUT_H
#define COHORT_TABLE_LAYOUT_H

#include "result/table.h"
#include "result/table_data.h"

typedef struct {
    const char **keys; /* [n_keys] the settings that make the rows; owned, like the next four */
    char *words;       /* what keys point into, where they were asked for */
    int *groups;       /* [n_rows, n_columns] index of the group there; -1: none */
    int *rows;         /* [n_rows] a group of each row */
    int *columns;      /* [n_columns] a group of each column */
    int n_keys, n_rows, n_columns;
    const char *column; /* the setting that makes the columns; NULL: there is one column */
} table_layout;

/* Without a request for rows: population, or method where there are columns, and then each setting that tells
 * apart what would share a place. EXIT_INPUT for a name that is no setting, and where populations that differ
 * in more than the seed would share a place. */
exit_code table_lay_out(const table_data *data, const table_request *request, table_layout *out,
                        problems *list);
void table_layout_free(table_layout *layout); /* of zeros is fine */

/* NAME,NAME,...: the next name of `*at`, ended by a zero; NULL after the last. Changes the text. */
char *table_next_name(char **at);
/* Names the nearest of the file's columns that `fits`; EXIT_INPUT. */
exit_code table_refuse_column(const csv_file *file, const char *option, const char *name,
                              bool (*fits)(const char *), const char *what, problems *list);

#endif

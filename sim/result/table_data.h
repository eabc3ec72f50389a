/* table_data.h - populations of several summaries, those that differ only in the seed together. */
#ifndef COHORT_TABLE_DATA_H
#define COHORT_TABLE_DATA_H

#include <stdbool.h>

#include "result/csv.h"
#include "support/problems.h"

typedef struct {
    const csv_file *file;
    int row;
    const char *seed;
} table_member;

/* Populations that have all settings in common but the seed. */
typedef struct {
    table_member *members; /* [n], owned; in the order of the files */
    int n;
} table_group;

typedef struct {
    csv_file *files; /* [n_files], owned; all have the settings of the first as columns, and no others */
    int n_files;
    table_group *groups; /* [n_groups], owned; in the order of their first members */
    int n_groups;
} table_data;

/* EXIT_INPUT for what cannot be read, settings that one file lacks, and a population that is there twice. */
exit_code table_read(const char *const *results, int n, table_data *out, problems *list);
void table_free(table_data *data); /* of zeros is fine */

/* Whether a column has a setting: it is not measured, and it is not the seed. */
bool table_is_setting(const char *column);
/* The value of a setting, which all members of a group have in common; "" where there is no such column. */
const char *table_setting(const table_group *group, const char *column);
/* A cell of one member; NULL: its file has no such column. */
const char *table_text(const table_member *member, const char *column);
/* The number of a cell; NaN where it is empty or not finite. */
double table_value(const table_member *member, const char *column);

#endif

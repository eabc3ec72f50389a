/* table_parts.h - a table that is ready to be printed. */
#ifndef COHORT_TABLE_PARTS_H
#define COHORT_TABLE_PARTS_H

#include "result/table_compare.h"
#include "result/table_layout.h"

typedef struct {
    table_data data;
    table_layout layout;
    char *words;          /* what metrics point into; owned, like the next three */
    const char **metrics; /* [n_metrics] */
    table_mark *marks;    /* [n_metrics, groups] */
    int *baselines;       /* [groups]; -1: compared with none */
    int n_metrics;
    const char *baseline; /* NULL: nothing is compared */
} table_parts;

static inline table_mark table_mark_of(const table_parts *t, int measure, int group) {
    return t->marks[measure * t->data.n_groups + group];
}

/* The table as text, Markdown or LaTeX, and the notes below it. */
exit_code table_print(const table_parts *t, table_form form, FILE *out, problems *list);
/* A line for each group and metric, with all digits, in the units of summary.csv. */
void table_print_csv(const table_parts *t, FILE *out);
/* What stands below the table: how to read it, what has no value, and which seeds have no pair. */
void table_print_notes(const table_parts *t, table_form form, FILE *out);

#endif

/* table_grid.h - a table of texts, and its forms. */
#ifndef COHORT_TABLE_GRID_H
#define COHORT_TABLE_GRID_H

#include <stdbool.h>
#include <stdio.h>

#include "result/table.h"
#include "result/table_compare.h"

typedef struct {
    char *text; /* owned; NULL: empty */
    table_mark mark;
} grid_cell;

/* The first row is the heading. */
typedef struct {
    int rows, columns;
    int texts;        /* so many columns at the left are texts, all others numbers */
    grid_cell *cells; /* [rows, columns], owned */
} grid;

bool grid_create(grid *g, int rows, int columns, int texts);
void grid_free(grid *g); /* of zeros is fine */
/* Writes a text into a cell, as printf() does. Without memory the cell stays empty. */
void grid_set(grid *g, int row, int column, table_mark mark, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* The marks of best and near cells are "*" and "~" in aligned text, bold and italic in Markdown, bold and
 * underlined in LaTeX. */
void grid_print(const grid *g, table_form form, FILE *out);

#endif

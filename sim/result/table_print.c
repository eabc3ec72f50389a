#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "result/table_grid.h"
#include "result/table_parts.h"
#include "result/trace.h"

enum { CELL_BYTES = 128 };

/* ---- Cells ---- */

/* How a metric is shown: bytes as megabytes. */
typedef struct {
    const char *unit;
    double scale;
    int digits; /* behind the point */
} looks;

static looks looks_of(const char *measure) {
    const char *unit = summary_column_of(measure).unit;
    if (strcmp(unit, "bytes") == 0) return (looks){"MB", 1e-6, 2};
    if (strcmp(unit, "rounds") == 0) return (looks){unit, 1.0, 1};
    return (looks){unit, 1.0, *unit ? 4 : 3};
}

static void heading(const char *measure, char out[CELL_BYTES]) {
    looks l = looks_of(measure);
    snprintf(out, CELL_BYTES, *l.unit ? "%.80s (%s)" : "%.80s", measure, l.unit);
}

static void set_mean(const table_parts *t, int measure, int group, grid *g, int row, int column) {
    looks l = looks_of(t->metrics[measure]);
    over_seeds s = over_seeds_of(&t->data.groups[group], t->metrics[measure]);
    char text[CELL_BYTES], std[CELL_BYTES] = "", some[CELL_BYTES] = "";
    snprintf(text, sizeof text, "%.*f", l.digits, s.mean * l.scale);
    if (!isnan(s.std)) snprintf(std, sizeof std, " ± %.*f", l.digits, s.std * l.scale);
    if (s.missing > 0) snprintf(some, sizeof some, " (%d of %d)", s.n, s.n + s.missing);
    if (s.n > 0)
        grid_set(g, row, column, table_mark_of(t, measure, group), "%s%s%s", text, std, some);
    else
        grid_set(g, row, column, MARK_NONE, s.diverged == s.missing ? "diverged" : "none");
}

static void set_difference(const table_parts *t, int measure, int group, grid *g, int row, int column) {
    int other = t->baselines[group];
    looks l = looks_of(t->metrics[measure]);
    if (other == group || other < 0) {
        grid_set(g, row, column, MARK_NONE, other < 0 ? "none" : "baseline");
        return;
    }
    paired_difference d = paired_of(&t->data.groups[group], &t->data.groups[other], t->metrics[measure]);
    char interval[CELL_BYTES] = "";
    if (!isnan(d.low))
        snprintf(interval, sizeof interval, " [%+.*f, %+.*f]", l.digits, d.low * l.scale, l.digits,
                 d.high * l.scale);
    if (d.pairs > 0)
        grid_set(g, row, column, MARK_NONE, "%+.*f%s, %d", l.digits, d.mean * l.scale, interval, d.pairs);
    else
        grid_set(g, row, column, MARK_NONE, "no pairs");
}

static void difference_heading(const table_parts *t, char out[CELL_BYTES]) {
    snprintf(out, CELL_BYTES, "minus %.60s [95 %% interval], pairs", t->baseline);
}

/* ---- A table whose columns are metrics ---- */

/* Where all results say how much was sent, and it was not asked for by name. */
static bool shows_traffic(const table_parts *t) {
    for (int i = 0; i < t->data.n_files; i++)
        if (csv_column(&t->data.files[i], "bytes_up") < 0) return false;
    for (int m = 0; m < t->n_metrics; m++)
        if (strcmp(t->metrics[m], "bytes_up") == 0) return false;
    return true;
}

static void set_keys(const table_parts *t, grid *g, int row, int group) {
    for (int i = 0; i < t->layout.n_keys; i++)
        grid_set(g, row, i, MARK_NONE, "%s",
                 group < 0 ? t->layout.keys[i] : table_setting(&t->data.groups[group], t->layout.keys[i]));
}

static void set_headings(const table_parts *t, grid *g) {
    char text[CELL_BYTES];
    int column = t->layout.n_keys;
    set_keys(t, g, 0, -1);
    grid_set(g, 0, column++, MARK_NONE, "seeds");
    for (int m = 0; m < t->n_metrics; m++) {
        heading(t->metrics[m], text);
        grid_set(g, 0, column++, MARK_NONE, "%s", text);
        difference_heading(t, text);
        if (t->baseline) grid_set(g, 0, column++, MARK_NONE, "%s", text);
    }
    if (column < g->columns) grid_set(g, 0, column, MARK_NONE, "sent (MB)");
}

static exit_code print_metrics(const table_parts *t, table_form form, FILE *out, problems *list) {
    grid g;
    int columns = t->layout.n_keys + 1 + t->n_metrics * (t->baseline ? 2 : 1) + shows_traffic(t);
    if (!grid_create(&g, t->layout.n_rows + 1, columns, t->layout.n_keys))
        return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    set_headings(t, &g);
    for (int row = 0; row < t->layout.n_rows; row++) {
        int group = t->layout.groups[row], column = t->layout.n_keys;
        set_keys(t, &g, row + 1, group);
        grid_set(&g, row + 1, column++, MARK_NONE, "%d", t->data.groups[group].n);
        for (int m = 0; m < t->n_metrics; m++) {
            set_mean(t, m, group, &g, row + 1, column++);
            if (t->baseline) set_difference(t, m, group, &g, row + 1, column++);
        }
        if (column < columns)
            grid_set(&g, row + 1, column, MARK_NONE, "%.1f",
                     1e-6 * over_seeds_of(&t->data.groups[group], "bytes_up").mean);
    }
    grid_print(&g, form, out);
    grid_free(&g);
    return EXIT_OK;
}

/* ---- A table whose columns are values of a setting ---- */

static void print_title(const table_parts *t, int measure, bool difference, table_form form, FILE *out) {
    char text[CELL_BYTES], minus[CELL_BYTES] = "";
    heading(t->metrics[measure], text);
    if (difference) difference_heading(t, minus);
    fprintf(out, "%s%s%s%s, columns: %s\n\n", form == TABLE_LATEX ? "% " : "", text, difference ? " " : "",
            minus, t->layout.column);
}

static exit_code print_pivot(const table_parts *t, int measure, bool difference, table_form form, FILE *out,
                             problems *list) {
    const table_layout *l = &t->layout;
    grid g;
    if (!grid_create(&g, l->n_rows + 1, l->n_keys + l->n_columns, l->n_keys))
        return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    set_keys(t, &g, 0, -1);
    for (int column = 0; column < l->n_columns; column++)
        grid_set(&g, 0, l->n_keys + column, MARK_NONE, "%s",
                 table_setting(&t->data.groups[l->columns[column]], l->column));
    for (int row = 0; row < l->n_rows; row++) {
        set_keys(t, &g, row + 1, l->rows[row]);
        for (int column = 0; column < l->n_columns; column++) {
            int group = l->groups[row * l->n_columns + column];
            if (group >= 0)
                (difference ? set_difference : set_mean)(t, measure, group, &g, row + 1, l->n_keys + column);
        }
    }
    print_title(t, measure, difference, form, out);
    grid_print(&g, form, out);
    grid_free(&g);
    return EXIT_OK;
}

exit_code table_print(const table_parts *t, table_form form, FILE *out, problems *list) {
    exit_code code = t->layout.column ? EXIT_OK : print_metrics(t, form, out, list);
    for (int m = 0; m < t->n_metrics && t->layout.column; m++)
        for (int difference = 0; difference < (t->baseline ? 2 : 1); difference++) {
            if (m > 0 || difference) fputc('\n', out);
            THEN(code, print_pivot(t, m, difference, form, out, list));
        }
    if (code == EXIT_OK) table_print_notes(t, form, out);
    return code;
}

#include "result/table_grid.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

bool grid_create(grid *g, int rows, int columns, int texts) {
    *g = (grid){.rows = rows, .columns = columns, .texts = texts};
    g->cells = calloc((size_t)rows * (size_t)columns, sizeof *g->cells);
    return g->cells != NULL;
}

void grid_free(grid *g) {
    for (int i = 0; g->cells && i < g->rows * g->columns; i++) free(g->cells[i].text);
    free(g->cells);
    *g = (grid){0};
}

static const grid_cell *cell_at(const grid *g, int row, int column) {
    return &g->cells[row * g->columns + column];
}

void grid_set(grid *g, int row, int column, table_mark mark, const char *format, ...) {
    grid_cell *cell = &g->cells[row * g->columns + column];
    va_list arguments;
    free(cell->text);
    cell->mark = mark;
    va_start(arguments, format);
    if (vasprintf(&cell->text, format, arguments) < 0) cell->text = NULL;
    va_end(arguments);
}

static const char *text_of(const grid_cell *cell) {
    return cell->text ? cell->text : "";
}

/* Characters of UTF-8. */
static int width(const char *text) {
    int n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static bool has_marks(const grid *g, int column) {
    for (int row = 1; row < g->rows; row++)
        if (cell_at(g, row, column)->mark != MARK_NONE) return true;
    return false;
}

/* ---- Text ---- */

static void print_text(const grid *g, FILE *out) {
    static const char *const marks[] = {[MARK_NONE] = "  ", [MARK_BEST] = " *", [MARK_NEAR] = " ~"};
    for (int row = 0; row < g->rows; row++) {
        int blanks = 0; /* that are printed before the next text, so that no line ends in blanks */
        for (int column = 0; column < g->columns; column++) {
            const grid_cell *cell = cell_at(g, row, column);
            int widest = 0;
            for (int i = 0; i < g->rows; i++) {
                int other = width(text_of(cell_at(g, i, column)));
                widest = other > widest ? other : widest;
            }
            int margin = widest - width(text_of(cell));
            blanks += column > 0 ? 3 : 0;
            if (column >= g->texts) blanks += margin;
            if (*text_of(cell)) {
                fprintf(out, "%*s%s", blanks, "", text_of(cell));
                blanks = 0;
            } else if (column >= g->texts)
                blanks += widest - margin;
            if (column < g->texts) blanks += margin;
            if (has_marks(g, column) && cell->mark != MARK_NONE)
                fputs(marks[cell->mark], out);
            else if (has_marks(g, column))
                blanks += 2;
        }
        fputc('\n', out);
    }
}

/* ---- Markdown ---- */

static void print_escaped(const char *text, const char *special, FILE *out) {
    for (; *text; text++) {
        if (strchr(special, *text)) fputc('\\', out);
        fputc(*text, out);
    }
}

static void print_markdown(const grid *g, FILE *out) {
    static const char *const marks[] = {[MARK_NONE] = "", [MARK_BEST] = "**", [MARK_NEAR] = "_"};
    for (int row = 0; row < g->rows; row++) {
        for (int column = 0; column < g->columns; column++) {
            const grid_cell *cell = cell_at(g, row, column);
            fprintf(out, "%s %s", column ? " |" : "|", marks[cell->mark]);
            print_escaped(text_of(cell), "|*", out);
            fputs(marks[cell->mark], out);
        }
        fputs(" |\n", out);
        for (int column = 0; column < g->columns && row == 0; column++)
            fputs(column < g->texts ? "|---" : "|---:", out);
        if (row == 0) fputs("|\n", out);
    }
}

/* ---- LaTeX ---- */

static void print_latex_text(const char *text, bool number, FILE *out) {
    for (; *text; text++) {
        if (strncmp(text, "±", strlen("±")) == 0) {
            fputs("$\\pm$", out);
            text += strlen("±") - 1;
        } else if (number && *text == '-')
            fputs("$-$", out);
        else if (*text == '\\')
            fputs("\\textbackslash{}", out);
        else if (*text == '~' || *text == '^')
            fprintf(out, "\\%c{}", *text);
        else if (strchr("_%&#${}", *text))
            fprintf(out, "\\%c", *text);
        else
            fputc(*text, out);
    }
}

static void print_latex(const grid *g, FILE *out) {
    static const char *const marks[] = {
        [MARK_NONE] = "", [MARK_BEST] = "\\textbf{", [MARK_NEAR] = "\\underline{"};
    fputs("\\begin{tabular}{", out);
    for (int column = 0; column < g->columns; column++) fputc(column < g->texts ? 'l' : 'r', out);
    fputs("}\n\\hline\n", out);
    for (int row = 0; row < g->rows; row++) {
        for (int column = 0; column < g->columns; column++) {
            const grid_cell *cell = cell_at(g, row, column);
            fprintf(out, "%s%s", column ? " & " : "", marks[cell->mark]);
            print_latex_text(text_of(cell), row > 0 && column >= g->texts, out);
            if (cell->mark != MARK_NONE) fputc('}', out);
        }
        fputs(row == 0 ? " \\\\\n\\hline\n" : " \\\\\n", out);
    }
    fputs("\\hline\n\\end{tabular}\n", out);
}

void grid_print(const grid *g, table_form form, FILE *out) {
    switch (form) {
    case TABLE_TEXT:
        print_text(g, out);
        break;
    case TABLE_MARKDOWN:
        print_markdown(g, out);
        break;
    case TABLE_LATEX:
        print_latex(g, out);
        break;
    case TABLE_CSV:
        break;
    }
}

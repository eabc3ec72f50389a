/* csv_read.c - a CSV file into memory (RFC 4180): cells end with zeros in the file's own text. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "result/csv.h"

static char *read_text(const char *path, size_t *bytes, problems *list) {
    FILE *in = fopen(path, "r");
    size_t room = 1 << 16, n = 0;
    char *text = in ? malloc(room) : NULL;
    for (size_t got = 1; text && got > 0;) {
        got = fread(text + n, 1, room - n - 1, in);
        n += got;
        if (n + 1 < room) continue;
        char *larger = realloc(text, room *= 2);
        if (!larger) free(text);
        text = larger;
    }
    if (text && ferror(in)) {
        free(text);
        text = NULL;
    }
    if (!text) problem(list, EXIT_INPUT, "%s: cannot be read: %s", path, strerror(errno ? errno : ENOMEM));
    if (in) fclose(in);
    if (text) text[ *bytes = n] = '\0';
    return text;
}

typedef struct {
    char *at, *end;
    int line;
    bool ended; /* the cell read last was the last of its line */
    bool open;  /* a quote without its end */
} reader;

/* Moves what stands within quotes together, and returns where the cell begins; it ends with a zero. */
static char *next_cell(reader *r) {
    char *cell = r->at, *to = r->at;
    bool quoted = *r->at == '"';
    if (quoted) r->at++;
    for (; r->at < r->end; r->at++) {
        if (*r->at == '\n') r->line++;
        if (quoted && *r->at == '"' && r->at[1] != '"') {
            quoted = false;
            continue;
        }
        if (quoted && *r->at == '"') r->at++;
        if (!quoted && (*r->at == ',' || *r->at == '\n')) break;
        if (quoted || *r->at != '\r') *to++ = *r->at;
    }
    r->open = quoted;
    r->ended = r->at >= r->end || *r->at == '\n';
    if (r->at < r->end) r->at++;
    *to = '\0';
    return cell;
}

static int cells_at_most(const char *text) {
    int n = 1;
    for (; *text; text++) n += *text == ',' || *text == '\n';
    return n;
}

static exit_code read_names(csv_file *f, reader *r, problems *list) {
    do {
        char *name = next_cell(r);
        if (csv_column(f, name) >= 0)
            return problem(list, EXIT_INPUT, "%s: the column %s is there twice", f->path, name);
        f->names[f->n_columns++] = name;
    } while (!r->ended);
    return r->open ? problem(list, EXIT_INPUT, "%s:1: a quote is not closed", f->path) : EXIT_OK;
}

static exit_code read_row(csv_file *f, reader *r, problems *list) {
    int line = r->line, n = 0;
    char **cells = f->cells + (size_t)f->n_rows * (size_t)f->n_columns;
    do {
        char *cell = next_cell(r);
        if (n < f->n_columns) cells[n] = cell;
        n++;
    } while (!r->ended);
    if (r->open) return problem(list, EXIT_INPUT, "%s:%d: a quote is not closed", f->path, line);
    if (n != f->n_columns)
        return problem(list, EXIT_INPUT, "%s:%d: has %d cells, and the first line names %d columns", f->path,
                       line, n, f->n_columns);
    f->lines[f->n_rows++] = line;
    return EXIT_OK;
}

exit_code csv_read(const char *path, csv_file *out, problems *list) {
    *out = (csv_file){.path = strdup(path)};
    size_t bytes = 0;
    out->text = read_text(path, &bytes, list);
    if (!out->text) return EXIT_INPUT;
    if (strlen(out->text) != bytes || bytes == 0)
        return problem(list, EXIT_INPUT, "%s: %s", path, bytes == 0 ? "is empty" : "is no text");
    size_t most = (size_t)cells_at_most(out->text);
    out->names = calloc(most, sizeof *out->names);
    out->cells = calloc(most, sizeof *out->cells);
    out->lines = calloc(most, sizeof *out->lines);
    if (!out->path || !out->names || !out->cells || !out->lines)
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory for %zu bytes", path, bytes);
    reader r = {.at = out->text, .end = out->text + bytes, .line = 1};
    exit_code code = read_names(out, &r, list);
    while (code == EXIT_OK && r.at < r.end) code = read_row(out, &r, list);
    return code;
}

void csv_free(csv_file *file) {
    free(file->path);
    free(file->text);
    free(file->names);
    free(file->cells);
    free(file->lines);
    *file = (csv_file){0};
}

int csv_column(const csv_file *file, const char *name) {
    for (int i = 0; i < file->n_columns; i++)
        if (strcmp(file->names[i], name) == 0) return i;
    return -1;
}

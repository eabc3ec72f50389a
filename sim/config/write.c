/* write.c - settings as YAML, in the table's order. At the top level stand the first population's values; a
 * population writes only what differs from there. */
#include "config/write.h"
#include "config/config.h"

#include <stdlib.h>
#include <string.h>

#include "config/paths.h"
#include "config/tree.h"
#include "config/tune.h"

typedef struct {
    FILE *out;
    const write_options *options;
    int indent;
    bool first;       /* the next line opens a list entry */
    char section[96]; /* "base.pretrain.": of the line before */
} writer;

static void write_margin(writer *w, int depth) {
    int columns = w->indent + 2 * depth;
    if (w->first) {
        fprintf(w->out, "%*s- ", columns - 2, "");
        w->first = false;
    } else
        fprintf(w->out, "%*s", columns, "");
}

/* Opens the sections of `path` that the line before was not in; returns the depth, and the key's own name. */
static int open_sections(writer *w, const char *path, const char **name) {
    int depth = 0;
    const char *part = path;
    for (const char *dot; (dot = strchr(part, '.')); part = dot + 1, depth++) {
        size_t length = (size_t)(dot + 1 - path);
        if (strncmp(w->section, path, length) == 0) continue;
        write_margin(w, depth);
        fprintf(w->out, "%.*s:\n", (int)(dot - part), part);
        snprintf(w->section, sizeof w->section, "%.*s", (int)length, path);
    }
    snprintf(w->section, sizeof w->section, "%.*s", (int)(part - path), path);
    *name = part;
    return depth;
}

/* A path that leads nowhere stays as it is: it may be meant for another folder. */
static void write_value(writer *w, const setting_row *row, const void *base) {
    char hash[FINGERPRINT_BYTES], *path = w->options->contents ? NULL : setting_path(row, base);
    if (path)
        text_write(path, w->out);
    else if (w->options->contents && setting_is_path(row, base)) {
        write_fingerprint(row, base, hash);
        fputs(hash, w->out);
    } else
        value_write(row, base, w->out);
    free(path);
}

static void write_row(writer *w, const setting_row *row, const void *base) {
    const char *name = NULL;
    int depth = open_sections(w, row->path, &name);
    write_margin(w, depth);
    fprintf(w->out, "%s: ", name);
    write_value(w, row, base);
    fputc('\n', w->out);
}

static bool is_wanted(const writer *w, const setting_row *row, const settings *s) {
    const char *only = w->options->only;
    bool of_base = !row->in_population && strncmp(row->path, "base.", 5) == 0;
    if (row->type == VALUE_SEEDS || row->alias_of) return false;
    if (w->options->numbers_only && row->matter == MATTERS_NOT) return false;
    if (only && (strncmp(row->path, only, strlen(only)) != 0 || row->path[strlen(only)] != '.')) return false;
    return !(of_base && s->base.checkpoint && strcmp(row->path, "base.checkpoint") != 0);
}

/* What stands at the top level for the rows of populations. */
static population_settings top_values(const settings *s) {
    population_settings top = s->populations[0];
    top.data = s->data;
    return top;
}

static void write_top(writer *w, const settings *s, const population_settings *top) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++) {
        const void *base = rows[i].in_population ? (const void *)top : (const void *)s;
        if (rows[i].scope == SCOPE_POPULATION || !is_wanted(w, &rows[i], s) ||
            value_is_absent(&rows[i], base))
            continue;
        write_row(w, &rows[i], base);
    }
}

/* Whether a population's value can be left to the top level: as it would be written, so that a configuration
 * and what was written of it are taken alike. */
static bool is_top_value(const writer *w, const setting_row *row, const void *own, const void *top) {
    if (w->options->contents) return write_same_content(row, own, top);
    char *first = setting_path(row, own), *second = setting_path(row, top);
    bool same = first && second ? strcmp(first, second) == 0 : value_equal(row, own, top);
    free(first);
    free(second);
    return same;
}

static void write_population(writer *w, const settings *s, const population_settings *p,
                             const population_settings *top) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    w->first = true;
    for (int i = 0; i < count; i++) {
        if (rows[i].scope == SCOPE_RUN || !is_wanted(w, &rows[i], s) || value_is_absent(&rows[i], p))
            continue;
        if (rows[i].scope == SCOPE_BOTH && is_top_value(w, &rows[i], p, top)) continue;
        write_row(w, &rows[i], p);
    }
    w->section[0] = '\0';
}

static void write_axes(const settings *s, FILE *out) {
    if (s->n_axes == 0) return;
    fputs("sweep:\n  axes: [", out);
    for (int i = 0; i < s->n_axes; i++) {
        if (i > 0) fputs(", ", out);
        text_write(s->axes[i], out);
    }
    fputs("]\n", out);
}

/* For the hash alone: populations have values already. */
static void write_tuning(const tuning *t, FILE *out) {
    fprintf(out, "tune:\n  rounds: %d\n  per: %s\n", t->rounds, t->by_name ? "population" : "method");
    for (int k = 0; k < t->n_keys; k++) {
        fprintf(out, "  %s:\n", t->keys[k].path);
        for (int i = 0; i < t->keys[k].n; i++) fprintf(out, "    - %s\n", t->keys[k].values[i]);
    }
}

void write_settings(const settings *s, const write_options *options, FILE *out) {
    writer w = {.out = out, .options = options};
    population_settings top = top_values(s);
    write_top(&w, s, &top);
    if (options->only) return;
    if (!options->numbers_only) write_axes(s, out);
    if (options->numbers_only && s->tuning) write_tuning(s->tuning, out);
    fputs("populations:\n", out);
    w.indent = 4;
    w.section[0] = '\0';
    for (int i = 0; i < s->n_populations; i++) write_population(&w, s, &s->populations[i], &top);
}

/* ---- One population by itself ---- */

static void write_line(const setting_row *row, const void *base, bool contents, FILE *out) {
    write_options options = {.contents = contents};
    writer w = {.out = out, .options = &options};
    fprintf(out, "%s: ", row->path);
    if (contents)
        write_value(&w, row, base);
    else
        value_write(row, base, out);
    fputc('\n', out);
}

void write_point(const population_settings *p, bool seed, bool contents, FILE *out) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++) {
        const setting_row *row = &rows[i];
        bool left_out = strcmp(row->path, "name") == 0 || (!seed && strcmp(row->path, "seed") == 0);
        if (row->in_population && row->type != VALUE_SEEDS && !row->alias_of && row->matter != MATTERS_NOT &&
            !left_out && !value_is_absent(row, p))
            write_line(row, p, contents, out);
    }
}

void write_run_numbers(const settings *s, FILE *out) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++) {
        const setting_row *row = &rows[i];
        if (!row->in_population && row->matter != MATTERS_NOT && strncmp(row->path, "base.", 5) != 0 &&
            strcmp(row->path, "seed") != 0 && !value_is_absent(row, s))
            write_line(row, s, true, out);
    }
}

char *settings_to_yaml(const settings *s) {
    char *text = NULL;
    size_t bytes = 0;
    write_options everything = {0};
    FILE *out = config_memory(open_memstream(&text, &bytes));
    write_settings(s, &everything, out);
    fclose(out);
    return config_memory(text);
}

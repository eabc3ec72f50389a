/* subset.c - a configuration with some of its populations. */
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/populations.h"

/* Owns copies of all texts that the table knows. */
static void copy_texts(settings *to) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++) {
        if (rows[i].in_population || (rows[i].type != VALUE_TEXT && rows[i].type != VALUE_WORD)) continue;
        char **text = (char **)((char *)to + rows[i].offset);
        *text = config_text(*text);
    }
}

static int *copy_lines(const int *lines) {
    int count = 0;
    (void)table_rows(&count);
    size_t bytes = (size_t)count * sizeof *lines;
    return lines ? memcpy(config_memory(malloc(bytes)), lines, bytes) : NULL;
}

/* Texts and lists of the defaults, as of a population. */
static data_settings copy_data(const data_settings *data) {
    population_settings from = {.data = *data}, to;
    population_copy(&to, &from);
    return to.data;
}

static char **copy_axes(const settings *s) {
    char **axes = config_memory(calloc((size_t)s->n_axes + 1, sizeof *axes));
    for (int i = 0; i < s->n_axes; i++) axes[i] = config_text(s->axes[i]);
    return axes;
}

settings *settings_subset(const settings *s, int n, const int *populations) {
    settings *out = config_memory(malloc(sizeof *out));
    *out = *s;
    copy_texts(out);
    out->file = config_text(s->file);
    out->key_lines = copy_lines(s->key_lines);
    out->data = copy_data(&s->data);
    out->axes = copy_axes(s);
    out->tuning = NULL;
    out->n_populations = n;
    out->populations = config_memory(calloc((size_t)n, sizeof *out->populations));
    for (int i = 0; i < n; i++) population_copy(&out->populations[i], &s->populations[populations[i]]);
    return out;
}

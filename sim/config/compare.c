/* compare.c - walks the table over two configurations. A key of which all populations have one value is named
 * once, as the run's. */
#include "config/compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/table.h"
#include "config/write.h"

enum { MOST_NAMED = 12, MOST_SHOWN = 60 };

typedef struct {
    FILE *out;
    int found;
} report;

/* One difference; population -1: of the run, or of all its populations. */
static void name_key(report *r, int population, const char *key, const char *there, const char *here) {
    if (++r->found > MOST_NAMED) return;
    if (r->found > 1) fputs(", ", r->out);
    if (population >= 0) fprintf(r->out, "populations.%d.", population);
    fprintf(r->out, "%s (%.*s there, %.*s here)", key, MOST_SHOWN, *there ? there : "none", MOST_SHOWN,
            *here ? here : "none");
}

static void compare_values(report *r, const setting_row *row, int population, const void *there,
                           const void *here) {
    char *theirs = value_text(row, there), *ours = value_text(row, here);
    if (!write_same_content(row, there, here)) name_key(r, population, row->path, theirs, ours);
    free(theirs);
    free(ours);
}

/* A base that is loaded leaves its other keys empty. */
static bool counts(const setting_row *row, const settings *there, const settings *here) {
    bool loaded = there->base.checkpoint || here->base.checkpoint;
    bool shapes = !row->in_population && strncmp(row->path, "base.", 5) == 0 &&
                  strcmp(row->path, "base.checkpoint") != 0;
    return row->matter != MATTERS_NOT && row->type != VALUE_SEEDS && !row->alias_of && !(loaded && shapes);
}

static population_settings run_values(const settings *s) {
    population_settings values = s->populations[0];
    values.data = s->data;
    return values;
}

static void compare_run(report *r, const setting_row *row, const settings *there, const settings *here) {
    population_settings theirs = run_values(there), ours = run_values(here);
    compare_values(r, row, -1, row->in_population ? (const void *)&theirs : there,
                   row->in_population ? (const void *)&ours : here);
}

/* Whether all populations of `s` have one value. */
static bool is_shared(const setting_row *row, const settings *s) {
    bool shared = true;
    for (int i = 1; i < s->n_populations && shared; i++)
        shared = value_equal(row, &s->populations[0], &s->populations[i]);
    return shared;
}

static void compare_populations(report *r, const setting_row *row, const settings *there,
                                const settings *here) {
    bool together = row->scope == SCOPE_BOTH && is_shared(row, there) && is_shared(row, here);
    for (int i = 0; i < (together ? 1 : here->n_populations); i++)
        compare_values(r, row, together ? -1 : i, &there->populations[i], &here->populations[i]);
}

/* The first population that is another one: then nothing below it can be compared. */
static bool same_populations(report *r, const settings *there, const settings *here) {
    char theirs[160] = "none", ours[160] = "none";
    int i = 0;
    for (; i < there->n_populations && i < here->n_populations; i++) {
        const population_settings *a = &there->populations[i], *b = &here->populations[i];
        if (strcmp(a->name, b->name) != 0 || a->seed != b->seed) break;
    }
    if (i == there->n_populations && i == here->n_populations) return true;
    const population_settings *a = i < there->n_populations ? &there->populations[i] : NULL;
    const population_settings *b = i < here->n_populations ? &here->populations[i] : NULL;
    if (a) snprintf(theirs, sizeof theirs, "%s of seed %llu", a->name, (unsigned long long)a->seed);
    if (b) snprintf(ours, sizeof ours, "%s of seed %llu", b->name, (unsigned long long)b->seed);
    char key[32];
    snprintf(key, sizeof key, "populations.%d", i);
    name_key(r, -1, key, theirs, ours);
    return false;
}

char *settings_differences(const settings *there, const settings *here) {
    char *text = NULL;
    size_t bytes = 0;
    int count = 0;
    const setting_row *rows = table_rows(&count);
    report r = {.out = config_memory(open_memstream(&text, &bytes))};
    for (int i = 0; i < count; i++)
        if (rows[i].scope == SCOPE_RUN && counts(&rows[i], there, here))
            compare_run(&r, &rows[i], there, here);
    bool same = same_populations(&r, there, here);
    for (int i = 0; i < count && same; i++)
        if (rows[i].in_population && rows[i].scope != SCOPE_RUN && counts(&rows[i], there, here))
            compare_populations(&r, &rows[i], there, here);
    if (r.found > MOST_NAMED) fprintf(r.out, " and %d more", r.found - MOST_NAMED);
    fclose(r.out);
    return config_memory(text);
}

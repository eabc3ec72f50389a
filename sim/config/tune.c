/* tune.c - what is tried of a configuration, and the settings after the choice. */
#include "config/tune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/populations.h"

/* ---- Combinations ---- */

/* The last key changes fastest. */
static int index_of_value(const tuning *t, int combination, int key) {
    for (int k = t->n_keys - 1; k > key; k--) combination /= t->keys[k].n;
    return combination % t->keys[key].n;
}

const char *tune_value(const tuning *t, int combination, int key) {
    return t->keys[key].values[index_of_value(t, combination, key)];
}

char *tune_combination_text(const tuning *t, int combination) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = config_memory(open_memstream(&text, &bytes));
    for (int k = 0; k < t->n_keys; k++)
        fprintf(out, "%s%s %s", k > 0 ? ", " : "", t->keys[k].path, tune_value(t, combination, k));
    fclose(out);
    return config_memory(text);
}

bool tune_is_smaller(const tuning *t, int a, int b) {
    for (int k = 0; k < t->n_keys; k++) {
        double x = strtod(tune_value(t, a, k), NULL), y = strtod(tune_value(t, b, k), NULL);
        if (x != y) return x < y;
    }
    return false;
}

/* ---- The choice ---- */

void tuning_destroy(tuning *t) {
    if (!t) return;
    for (int k = 0; k < t->n_keys; k++) {
        for (int i = 0; i < t->keys[k].n; i++) free(t->keys[k].values[i]);
        free(t->keys[k].values);
        free(t->keys[k].path);
    }
    for (int c = 0; t->variants && c < t->n_combinations; c++) settings_destroy(t->variants[c]);
    settings_destroy(t->trials);
    free(t->variants);
    free(t->keys);
    free(t->first_of);
    free(t->group_of);
    free(t);
}

void tune_choose(settings *s, const int *chosen) {
    tuning *t = s->tuning;
    for (int i = 0; i < s->n_populations; i++) {
        const settings *variant = t->variants[chosen[t->group_of[i]]];
        if (!variant) continue;
        population_free(&s->populations[i]);
        population_copy(&s->populations[i], &variant->populations[i]);
    }
    s->tuning = NULL;
    tuning_destroy(t);
}

/* ---- Groups ---- */

static const char *group_name(const tuning *t, const population_settings *p) {
    return t->by_name ? p->name : p->method;
}

const char *tune_group(const settings *s, int group) {
    return group_name(s->tuning, &s->populations[s->tuning->first_of[group]]);
}

static void add_groups(tuning *t, const settings *s) {
    t->first_of = config_memory(calloc((size_t)s->n_populations, sizeof *t->first_of));
    t->group_of = config_memory(calloc((size_t)s->n_populations, sizeof *t->group_of));
    for (int i = 0; i < s->n_populations; i++) {
        const char *name = group_name(t, &s->populations[i]);
        int g = 0;
        while (g < t->n_groups && strcmp(group_name(t, &s->populations[t->first_of[g]]), name) != 0) g++;
        if (g == t->n_groups) t->first_of[t->n_groups++] = i;
        t->group_of[i] = g;
    }
}

/* ---- Reading ---- */

static void add_key(tuning *t, const setting_row *row, const node *values) {
    tune_key *key = &t->keys[t->n_keys++];
    population_settings p = {0};
    problems *none = problems_create();
    *key = (tune_key){.path = config_text(row->path), .n = values->count};
    key->values = config_memory(calloc((size_t)key->n, sizeof *key->values));
    for (int i = 0; i < key->n; i++) {
        value_read(row, values->entries[i].value, &p, row->path, none);
        key->values[i] = value_text(row, &p);
    }
    problems_destroy(none);
}

tuning *tuning_create(const tune_plan *plan, const settings *s) {
    tuning *t = config_memory(calloc(1, sizeof *t));
    t->by_name = plan->by_name;
    t->rounds = plan->rounds > 0 ? plan->rounds : s->rounds < 4 ? 1 : s->rounds / 4;
    t->keys = config_memory(calloc((size_t)plan->n_keys, sizeof *t->keys));
    for (int k = 0; k < plan->n_keys; k++) add_key(t, plan->keys[k].row, plan->keys[k].values);
    t->n_combinations = tune_plan_combinations(plan);
    t->variants = config_memory(calloc((size_t)t->n_combinations, sizeof(settings *)));
    add_groups(t, s);
    return t;
}

/* ---- Trials ---- */

enum { LONGEST_NAME = 64 };

/* "fedavg-0.002"; of a name that becomes too long only the number. */
static char *trial_name(const settings *s, int group, int combination) {
    const tuning *t = s->tuning;
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = config_memory(open_memstream(&text, &bytes));
    fputs(tune_group(s, group), out);
    for (int k = 0; k < t->n_keys; k++) {
        fputc('-', out);
        for (const char *p = tune_value(t, combination, k); *p; p++)
            if (*p != '+') fputc(*p, out);
    }
    fclose(out);
    config_memory(text);
    if (bytes > LONGEST_NAME) snprintf(text, bytes, "trial-%d", group * t->n_combinations + combination);
    return text;
}

/* Devices that join late do so in the same part of the trial as of the run. */
static void shorten_held_out(population_settings *p, int trial, int run) {
    int rounds = (int)((int64_t)p->held_out.rounds * trial / run);
    if (p->held_out.devices > 0) p->held_out.rounds = rounds > 0 ? rounds : 1;
}

static void name_axes(settings *trials, const tuning *t) {
    for (int i = 0; i < trials->n_axes; i++) free(trials->axes[i]);
    free(trials->axes);
    trials->axes = config_memory(calloc((size_t)t->n_keys + 1, sizeof *trials->axes));
    trials->n_axes = 0;
    if (!t->by_name) trials->axes[trials->n_axes++] = config_text("method");
    for (int k = 0; k < t->n_keys; k++) trials->axes[trials->n_axes++] = config_text(t->keys[k].path);
}

void tuning_add_trials(settings *s) {
    tuning *t = s->tuning;
    int n = t->n_groups * t->n_combinations;
    int *which = config_memory(calloc((size_t)n, sizeof *which));
    for (int i = 0; i < n; i++) which[i] = t->first_of[i / t->n_combinations];
    t->trials = settings_subset(s, n, which);
    t->trials->rounds = t->rounds;
    name_axes(t->trials, t);
    for (int i = 0; i < n; i++) {
        population_settings *p = &t->trials->populations[i];
        const settings *variant = t->variants[i % t->n_combinations];
        if (variant) {
            population_free(p);
            population_copy(p, &variant->populations[which[i]]);
        }
        shorten_held_out(p, t->rounds, s->rounds);
        free(p->name);
        p->name = trial_name(s, i / t->n_combinations, i % t->n_combinations);
    }
    free(which);
}

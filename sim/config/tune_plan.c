/* tune_plan.c - the map `tune` as it is written. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/nearest.h"
#include "config/tune.h"

/* ---- Keys ---- */

/* Losses on different text cannot be compared, and a target changes nothing. */
static bool is_no_matter_of_choice(const setting_row *row) {
    return strcmp(row->path, "devices") == 0 || strncmp(row->path, "data.", 5) == 0 ||
           strncmp(row->path, "held_out.", 9) == 0 || strcmp(row->path, "target_loss") == 0;
}

static bool is_number(const setting_row *row) {
    return row->type == VALUE_INT || row->type == VALUE_INT64 || row->type == VALUE_DOUBLE ||
           row->type == VALUE_COUNTS;
}

static const setting_row *find_key(const char *path, place where, const char *label, problems *list) {
    static const char *const own[] = {"rounds", "per"};
    const char *near = table_find(path, true) ? NULL : nearest_word(path, own, 2);
    if (near) {
        problem_at(list, where, label, "unknown key; did you mean tune.%s?", near);
        return NULL;
    }
    const setting_row *row = walk_key_of_population(path, where, label, list);
    if (!row) return NULL;
    if (row->alias_of) row = table_find(row->alias_of, true);
    if (!is_number(row))
        problem_at(list, where, label,
                   "is no number; only numbers can be tuned, such as train.learning_rate");
    else if (is_no_matter_of_choice(row))
        problem_at(list, where, label,
                   "is part of what populations are given or measured by, and no choice by validation loss; "
                   "make it an axis of a sweep");
    else
        return row;
    return NULL;
}

/* ---- Values ---- */

/* Whether the text of value i is already there. */
static bool is_there_already(char *const *texts, int i) {
    for (int k = 0; k < i; k++)
        if (strcmp(texts[k], texts[i]) == 0) return true;
    return false;
}

static bool check_values(const tune_axis *axis, problems *list) {
    const node *values = axis->values;
    bool good = true;
    population_settings scratch = {0};
    char **texts = config_memory(calloc((size_t)values->count, sizeof *texts));
    for (int i = 0; i < values->count; i++) {
        const node *value = values->entries[i].value;
        if (value->kind != NODE_SCALAR) {
            problem_at(list, value->where, axis->label, "entry %d is no number; write a list of numbers", i);
            good = false;
        } else
            good = value_read(axis->row, value, &scratch, axis->label, list) && good;
        texts[i] = good ? value_text(axis->row, &scratch) : config_text("");
        if (!good || !is_there_already(texts, i)) continue;
        problem_at(list, value->where, axis->label, "%s is written twice; remove one", texts[i]);
        good = false;
    }
    for (int i = 0; i < values->count; i++) free(texts[i]);
    free(texts);
    return good;
}

static bool has_values(const tune_axis *axis, problems *list) {
    if (axis->values->kind != NODE_LIST || axis->values->count < 2)
        problem_at(
            list, axis->where, axis->label,
            "must be a list of at least two numbers to choose from: [1e-3, 2e-3, 4e-3]; a single one is "
            "written as %s at the top level",
            axis->row->path);
    else if (axis->values->count > TUNE_MOST)
        problem_at(list, axis->where, axis->label, "has %d values; there can be at most %d",
                   axis->values->count, TUNE_MOST);
    else
        return check_values(axis, list);
    return false;
}

static bool is_known(const tune_plan *plan, const setting_row *row) {
    for (int k = 0; k < plan->n_keys; k++)
        if (plan->keys[k].row == row) return true;
    return false;
}

static bool read_key(tune_plan *plan, const node_entry *entry, const char *path, problems *list) {
    tune_axis axis = {.where = entry->where, .values = entry->value};
    snprintf(axis.label, sizeof axis.label, "tune.%s", path);
    axis.row = find_key(path, entry->where, axis.label, list);
    if (!axis.row) return false;
    if (is_known(plan, axis.row))
        problem_at(list, entry->where, axis.label, "is written twice; remove one");
    else if (plan->n_keys == TUNE_MOST_KEYS)
        problem_at(list, entry->where, axis.label, "is one key too many; at most %d can be tuned together",
                   TUNE_MOST_KEYS);
    else if (has_values(&axis, list)) {
        plan->keys[plan->n_keys++] = axis;
        return true;
    }
    return false;
}

/* ---- The map ---- */

static bool read_rounds(tune_plan *plan, const node_entry *entry, problems *list) {
    settings read = {0};
    plan->rounds_where = entry->where;
    bool good = value_read(table_find("train.rounds", false), entry->value, &read, "tune.rounds", list);
    plan->rounds = read.rounds;
    return good;
}

static bool read_per(tune_plan *plan, const node_entry *entry, problems *list) {
    const char *word = entry->value->kind == NODE_SCALAR ? entry->value->text : "";
    plan->by_name = strcmp(word, "population") == 0;
    if (plan->by_name || strcmp(word, "method") == 0) return true;
    problem_at(
        list, entry->where, "tune.per",
        "'%.80s' is neither method (one choice for all populations of a method) nor population (one for "
        "each name)",
        word);
    return false;
}

static bool read_map(tune_plan *plan, const node *map, const char *prefix, problems *list) {
    bool good = true;
    char path[MAX_KEY], label[MAX_KEY + 8], inner[MAX_KEY];
    for (int i = 0; i < map->count; i++) {
        const node_entry *entry = &map->entries[i];
        snprintf(path, sizeof path, "%s%s", prefix, entry->key);
        snprintf(label, sizeof label, "tune.%s", path);
        bool section = entry->value->kind == NODE_MAP && walk_is_section(path);
        snprintf(inner, sizeof inner, "%s%s.", prefix, entry->key);
        if (walk_is_repeated(map, i, label, list))
            good = false;
        else if (strcmp(path, "rounds") == 0)
            good = read_rounds(plan, entry, list) && good;
        else if (strcmp(path, "per") == 0)
            good = read_per(plan, entry, list) && good;
        else if (section)
            good = read_map(plan, entry->value, inner, list) && good;
        else
            good = read_key(plan, entry, path, list) && good;
    }
    return good;
}

static bool check_size(const tune_plan *plan, const node *tune, problems *list) {
    int64_t n = 1;
    for (int k = 0; k < plan->n_keys; k++) n *= plan->keys[k].values->count;
    if (n <= TUNE_MOST) return true;
    problem_at(list, tune->where, "tune", "the values make %lld combinations; there can be at most %d",
               (long long)n, TUNE_MOST);
    return false;
}

bool tune_plan_read(const node *tune, tune_plan *out, problems *list) {
    *out = (tune_plan){0};
    if (!tune) return true;
    bool good = tune->kind == NODE_MAP && read_map(out, tune, "", list);
    if (tune->kind != NODE_MAP || (good && out->n_keys == 0)) {
        problem_at(list, tune->where, "tune",
                   "must be a map with keys of populations and lists of their values: tune: "
                   "{train.learning_rate: [1e-3, 2e-3, 4e-3]}");
        good = false;
    }
    good = good && check_size(out, tune, list);
    if (!good) out->n_keys = 0;
    return good;
}

void tune_check_rounds(const tune_plan *plan, const settings *s, problems *list) {
    if (plan->rounds > s->rounds)
        problem_at(list, plan->rounds_where, "tune.rounds",
                   "a trial of %d rounds is longer than the run of %d (train.rounds); give at most as many",
                   plan->rounds, s->rounds);
}

/* ---- Combinations ---- */

int tune_plan_combinations(const tune_plan *plan) {
    int n = 1;
    for (int k = 0; k < plan->n_keys; k++) n *= plan->keys[k].values->count;
    return n;
}

node tune_plan_combination(const tune_plan *plan, int combination) {
    node map = {.kind = NODE_MAP, .count = plan->n_keys};
    map.entries = config_memory(calloc((size_t)plan->n_keys + 1, sizeof *map.entries));
    for (int k = plan->n_keys - 1; k >= 0; k--) {
        const tune_axis *axis = &plan->keys[k];
        map.entries[k] = (node_entry){.key = (char *)axis->row->path,
                                      .where = axis->where,
                                      .value = axis->values->entries[combination % axis->values->count].value,
                                      .label = axis->label};
        combination /= axis->values->count;
    }
    return map;
}

void tune_read_into(const node *combination, level *of) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    char label[MAX_KEY];
    bool written = false;
    for (int k = 0; k < combination->count; k++) {
        const setting_row *row = table_find(combination->entries[k].key, true);
        for (int i = 0; i < count; i++) {
            if (!rows[i].in_population || rows[i].offset != row->offset || !of->given[i].source) continue;
            level_label(of, rows[i].path, label);
            problem_at(of->list, of->given[i], label,
                       "is tuned, too (%s), and which value counts would be unclear; remove it here or there",
                       combination->entries[k].label);
            written = true;
        }
    }
    if (!written) walk_level(of, combination, NULL);
}

/* walk.c - every key of a map is a row of the table, a section that rows begin with, or a problem. */
#include "config/walk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/nearest.h"

static bool in_population(const level *of) {
    return !of->run;
}

static int row_index(const setting_row *row) {
    int count = 0;
    return (int)(row - table_rows(&count));
}

static bool begins_with(const char *path, const char *section) {
    size_t length = strlen(section);
    return strncmp(path, section, length) == 0 && path[length] == '.';
}

static bool may_stand(const setting_row *row, const level *of) {
    return row->scope != (in_population(of) ? SCOPE_RUN : SCOPE_POPULATION);
}

bool walk_is_section(const char *path) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++)
        if (begins_with(rows[i].path, path)) return true;
    return false;
}

/* ---- Unknown keys ---- */

/* The names that may follow `prefix` ("" or "train.") at this level. */
static int known_names(const level *of, const char *prefix, char names[][48], int capacity) {
    int count = 0, n = 0;
    const setting_row *rows = table_rows(&count);
    size_t skip = strlen(prefix);
    for (int i = 0; i < count; i++) {
        if (!may_stand(&rows[i], of) || strncmp(rows[i].path, prefix, skip) != 0) continue;
        const char *name = rows[i].path + skip;
        int length = (int)strcspn(name, ".");
        if (n > 0 && strncmp(names[n - 1], name, (size_t)length) == 0 && names[n - 1][length] == '\0')
            continue;
        if (n < capacity) snprintf(names[n++], sizeof names[0], "%.*s", length, name);
    }
    if (!in_population(of) && skip == 0 && n < capacity) snprintf(names[n++], sizeof names[0], "populations");
    if (!in_population(of) && skip == 0 && n < capacity) snprintf(names[n++], sizeof names[0], "sweep");
    if (!in_population(of) && skip == 0 && n < capacity) snprintf(names[n++], sizeof names[0], "tune");
    return n;
}

/* The row whose last name is `key` ("rounds" -> train.rounds), for keys in the wrong section. */
static const setting_row *row_of_last_name(const level *of, const char *key) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++) {
        const char *dot = strrchr(rows[i].path, '.');
        if (dot && may_stand(&rows[i], of) && strcmp(dot + 1, key) == 0) return &rows[i];
    }
    return NULL;
}

static void list_names(char names[][48], int n, char *out, size_t bytes) {
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < n && used < bytes; i++)
        used += (size_t)snprintf(out + used, bytes - used, "%s%s", i ? ", " : "", names[i]);
}

/* The longest section that a path begins with ("train.router." of "train.router.evry"), and what follows. */
static const char *split_path(const char *path, char prefix[MAX_KEY]) {
    const char *key = path;
    prefix[0] = '\0';
    for (const char *dot = strchr(path, '.'); dot; dot = strchr(dot + 1, '.')) {
        char section[MAX_KEY];
        snprintf(section, sizeof section, "%.*s", (int)(dot - path), path);
        if (!walk_is_section(section)) break;
        key = dot + 1;
        snprintf(prefix, MAX_KEY, "%.*s", (int)(key - path), path);
    }
    return key;
}

static void refuse_unknown(const level *of, place where, const char *path, const char *label) {
    char prefix[MAX_KEY], names[MAX_ROWS][48], known[1024];
    const char *words[MAX_ROWS], *key = split_path(path, prefix), *last = strrchr(key, '.');
    int n = known_names(of, prefix, names, MAX_ROWS);
    for (int i = 0; i < n; i++) words[i] = names[i];
    const char *near = nearest_word(key, words, n);
    const setting_row *elsewhere = row_of_last_name(of, last ? last + 1 : key);
    if (elsewhere && !(near && edit_distance(key, near) == 1))
        problem_at(of->list, where, label, "unknown key; did you mean %s%s?", of->label, elsewhere->path);
    else if (near)
        problem_at(of->list, where, label, "unknown key; did you mean %s%s%s?", of->label, prefix, near);
    else {
        list_names(names, n, known, sizeof known);
        problem_at(of->list, where, label, "unknown key; known here: %s", known);
    }
}

/* A key of the other level: says where it belongs, and why. */
static bool refuse_misplaced(const level *of, place where, const char *path, const char *label) {
    const setting_row *row = table_find(path, !in_population(of));
    if (row && in_population(of))
        problem_at(of->list, where, label, "a population cannot have its own%s%s; write %s at the top level",
                   row->why_run ? ": " : "", row->why_run ? row->why_run : "", path);
    else if (row)
        problem_at(of->list, where, label, "belongs to a population; write it in an entry of populations");
    return row != NULL;
}

/* ---- Walking ---- */

bool walk_is_repeated(const node *map, int index, const char *label, problems *list) {
    const node_entry *entry = &map->entries[index];
    for (int i = 0; i < index; i++) {
        if (strcmp(map->entries[i].key, entry->key) != 0) continue;
        place first = map->entries[i].where;
        if (first.line > 0)
            problem_at(list, entry->where, label, "is written twice, first in line %d; remove one",
                       first.line);
        else
            problem_at(list, entry->where, label, "is written twice, first by %s; remove one", first.source);
        return true;
    }
    return false;
}

static void read_row(level *to, const setting_row *row, const node_entry *entry, const char *label) {
    void *base = row->in_population ? (void *)to->defaults : (void *)to->run;
    to->given[row_index(row)] = entry->where;
    to->called[row_index(row)] = entry->label;
    if (row->type != VALUE_SEEDS) value_read(row, entry->value, base, label, to->list);
}

static void walk_map(level *to, const node *map, const char *prefix, const char *const *except);

static void walk_section(level *to, const node_entry *entry, const char *path, const char *label) {
    char prefix[MAX_KEY + 2];
    snprintf(prefix, sizeof prefix, "%s.", path);
    if (entry->value->kind == NODE_MAP)
        walk_map(to, entry->value, prefix, NULL);
    else
        problem_at(to->list, entry->value->where, label, "must be a map of keys ({key: value, ...}); %s",
                   node_is_null(entry->value) ? "it is empty: fill it or remove it"
                                              : "a value cannot stand here");
}

static bool is_among(const char *key, const char *const *words) {
    for (; words && *words; words++)
        if (strcmp(key, *words) == 0) return true;
    return false;
}

/* A section none of whose keys may stand at this level: "base" in a population. */
static bool is_foreign_section(const level *of, const char *path) {
    char prefix[MAX_KEY + 2], names[1][48];
    snprintf(prefix, sizeof prefix, "%s.", path);
    return known_names(of, prefix, names, 1) == 0;
}

static void label_of_entry(const level *to, const node_entry *entry, const char *prefix, char out[MAX_KEY]) {
    if (entry->label)
        snprintf(out, MAX_KEY, "%s", entry->label);
    else
        snprintf(out, MAX_KEY, "%s%s%s", to->label, prefix, entry->key);
}

static void walk_entry(level *to, const node_entry *entry, const char *prefix) {
    char path[MAX_KEY], label[MAX_KEY];
    snprintf(path, sizeof path, "%s%s", prefix, entry->key);
    label_of_entry(to, entry, prefix, label);
    const setting_row *row = table_find(path, in_population(to));
    if (row)
        read_row(to, row, entry, label);
    else if (walk_is_section(path) && is_foreign_section(to, path))
        problem_at(to->list, entry->where, label,
                   "a population cannot have its own %s: it belongs to the run; write it at the top level",
                   path);
    else if (walk_is_section(path))
        walk_section(to, entry, path, label);
    else if (!refuse_misplaced(to, entry->where, path, label))
        refuse_unknown(to, entry->where, path, label);
}

static void walk_map(level *to, const node *map, const char *prefix, const char *const *except) {
    char label[MAX_KEY];
    for (int i = 0; i < map->count; i++) {
        label_of_entry(to, &map->entries[i], prefix, label);
        if (walk_is_repeated(map, i, label, to->list) || is_among(map->entries[i].key, except)) continue;
        walk_entry(to, &map->entries[i], prefix);
    }
}

void walk_level(level *to, const node *map, const char *const *except) {
    walk_map(to, map, "", except);
}

bool level_has(const level *of, const char *path) {
    const setting_row *row = table_find(path, in_population(of));
    return row && of->given[row_index(row)].source;
}

place level_place(const level *of, const char *path) {
    const setting_row *row = table_find(path, in_population(of));
    return row && of->given[row_index(row)].source ? of->given[row_index(row)] : of->where;
}

void level_label(const level *of, const char *path, char out[MAX_KEY]) {
    const setting_row *row = table_find(path, in_population(of));
    const char *called = row ? of->called[row_index(row)] : NULL;
    if (called)
        snprintf(out, MAX_KEY, "%s", called);
    else
        snprintf(out, MAX_KEY, "%s%s", of->label, path);
}

void level_call(level *of, const char *path, const char *label) {
    const setting_row *row = table_find(path, in_population(of));
    if (row && !of->given[row_index(row)].source) of->called[row_index(row)] = label;
}

const setting_row *walk_key_of_population(const char *path, place where, const char *label, problems *list) {
    const setting_row *row = table_find(path, true);
    level of = {.label = "", .where = where, .list = list};
    if (row) return row;
    if (walk_is_section(path))
        problem_at(list, where, label, "is a section of keys, not a key; write one of them, as in %s.KEY",
                   path);
    else if (!refuse_misplaced(&of, where, path, label))
        refuse_unknown(&of, where, path, label);
    return NULL;
}

/* sweep_plan.c - from the map `sweep` to axes and points with dotted keys. */
#include "config/sweep_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/sweep.h"

/* ---- Maps of dotted keys ---- */

static void add_entry(node *map, node_entry entry) {
    map->entries = config_memory(realloc(map->entries, (size_t)(map->count + 1) * sizeof *map->entries));
    map->entries[map->count++] = entry;
}

static char *joined(const char *first, const char *second) {
    char *text = config_memory(malloc(strlen(first) + strlen(second) + 1));
    strcpy(text, first);
    return strcat(text, second);
}

/* Adds the keys of `map` to `out`, with dots where the map has sections: {data: {dirichlet: 1}} becomes
 * {data.dirichlet: 1}. label: what stands before a key in messages. */
static void add_keys(const node *map, const char *prefix, const char *label, node *out) {
    for (int i = 0; i < map->count; i++) {
        const node_entry *from = &map->entries[i];
        char *path = joined(prefix, from->key);
        if (from->value->kind == NODE_MAP && walk_is_section(path)) {
            char *section = joined(path, ".");
            add_keys(from->value, section, label, out);
            free(section);
            free(path);
        } else
            add_entry(out, (node_entry){.key = path,
                                        .where = from->where,
                                        .value = from->value,
                                        .label = joined(label, path)});
    }
}

static void free_keys(node *map) {
    for (int i = 0; i < map->count; i++) {
        free(map->entries[i].key);
        free((char *)map->entries[i].label);
    }
    free(map->entries);
}

/* ---- Axes ---- */

static bool refuse_several(const sweep_axis *axis, problems *list) {
    const node_entry *keys = axis->keys.entries;
    problem_at(
        list, axis->where, axis->label,
        "has %d keys; give each an axis of its own (- {%s: [..]} and - {%s: [..]}), or let them change "
        "together: - {zip: {%s: [..], %s: [..]}}",
        axis->keys.count, keys[0].key, keys[1].key, keys[0].key, keys[1].key);
    return false;
}

/* Reports a key without a list of values. If the key itself is unknown, only that is reported. */
static bool check_values(const node_entry *key, problems *list) {
    const node *values = key->value;
    if (values->kind == NODE_LIST && values->count > 0) return true;
    if (!walk_key_of_population(key->key, key->where, key->label, list)) return false;
    problem_at(list, values->where, key->label, "%s; write a list of values: [.., ..]%s",
               values->kind == NODE_LIST ? "has no values" : "is an axis, which has a list of values",
               values->kind == NODE_SCALAR ? "; a key that is the same for all points belongs in population"
                                           : "");
    return false;
}

static bool check_lengths(const sweep_axis *axis, problems *list) {
    const node_entry *first = &axis->keys.entries[0];
    for (int i = 1; i < axis->keys.count; i++) {
        const node_entry *key = &axis->keys.entries[i];
        if (key->value->count == first->value->count) continue;
        problem_at(list, key->value->where, key->label,
                   "has %d value%s, and %s has %d; keys of a zip change together, so each must have as many",
                   key->value->count, key->value->count == 1 ? "" : "s", first->key, first->value->count);
        return false;
    }
    return true;
}

static bool read_zip(const node *written, sweep_axis *axis, problems *list) {
    char label[48];
    const node *zip = tree_get(written, "zip");
    snprintf(label, sizeof label, "%s.zip.", axis->label);
    if (written->count > 1) {
        problem_at(list, axis->where, axis->label,
                   "has keys beside zip; put them into it, or give them an axis of their own");
        return false;
    }
    if (zip->kind != NODE_MAP || zip->count == 0) {
        problem_at(
            list, zip->where, axis->label,
            "zip must be a map of keys that change together: {generalists: [1, 2], specialists: [1, 0]}");
        return false;
    }
    add_keys(zip, "", label, &axis->keys);
    return true;
}

static bool read_axis(const node *written, int index, sweep_axis *axis, problems *list) {
    char label[40];
    bool good = true;
    snprintf(axis->label, sizeof axis->label, "sweep.cross.%d", index);
    snprintf(label, sizeof label, "%s.", axis->label);
    axis->where = written->where;
    axis->keys.kind = NODE_MAP;
    if (written->kind != NODE_MAP || written->count == 0) {
        problem_at(list, written->where, axis->label,
                   "is no axis; write a key and its values: {method: [local, fedavg]}");
        return false;
    }
    if (tree_get(written, "zip")) {
        if (!read_zip(written, axis, list)) return false;
    } else
        add_keys(written, "", label, &axis->keys);
    if (axis->keys.count == 0) {
        problem_at(list, written->where, axis->label, "has no key; write one and its values, or remove it");
        return false;
    }
    if (axis->keys.count > 1 && !tree_get(written, "zip")) return refuse_several(axis, list);
    for (int i = 0; i < axis->keys.count; i++) good &= check_values(&axis->keys.entries[i], list);
    if (!good || !check_lengths(axis, list)) return false;
    axis->n_values = axis->keys.entries[0].value->count;
    return true;
}

/* ---- The map ---- */

static bool refuse_form(const node *value, const char *label, const char *form, problems *list) {
    problem_at(list, value->where, label, "%s; it must be %s",
               value->kind == NODE_LIST && value->count == 0 ? "is empty" : "has another form", form);
    return false;
}

/* NULL: the map has no such key. */
static const node_entry *entry_of(const node *map, const char *key) {
    for (int i = 0; i < map->count; i++)
        if (strcmp(map->entries[i].key, key) == 0) return &map->entries[i];
    return NULL;
}

static bool read_cross(const node_entry *entry, sweep_plan *plan, problems *list) {
    bool good = true;
    if (!entry) return true;
    const node *cross = entry->value;
    plan->where = entry->where;
    plan->has_grid = true;
    if (cross->kind != NODE_LIST || cross->count == 0)
        return refuse_form(cross, "sweep.cross",
                           "a list of axes, each with one key: [{method: [local, fedavg]}, {rank: [4, 8]}]",
                           list);
    plan->axes = config_memory(calloc((size_t)cross->count, sizeof *plan->axes));
    plan->n_axes = cross->count;
    for (int i = 0; i < cross->count; i++)
        good &= read_axis(cross->entries[i].value, i, &plan->axes[i], list);
    return good;
}

static bool read_points(const node *points, sweep_plan *plan, problems *list) {
    char label[32];
    bool good = true;
    if (!points) return true;
    if (points->kind != NODE_LIST || points->count == 0)
        return refuse_form(points, "sweep.points", "a list of points: [{method: local, rank: 4}]", list);
    plan->points = config_memory(calloc((size_t)points->count, sizeof *plan->points));
    plan->n_points = points->count;
    for (int i = 0; i < points->count; i++) {
        const node *point = points->entries[i].value;
        snprintf(label, sizeof label, "sweep.points.%d.", i);
        plan->points[i] = (node){.kind = NODE_MAP, .where = point->where};
        if (point->kind == NODE_MAP)
            add_keys(point, "", label, &plan->points[i]);
        else {
            label[strlen(label) - 1] = '\0';
            good = refuse_form(point, label, "a map of keys: {method: local, rank: 4}", list);
        }
    }
    return good;
}

static bool read_common(const node *sweep, sweep_plan *plan, problems *list) {
    const node *population = tree_get(sweep, "population");
    const node_entry *seeds = entry_of(sweep, "seeds");
    plan->common.kind = NODE_MAP;
    if (population && population->kind != NODE_MAP)
        return refuse_form(population, "sweep.population", "a map of keys that all points have: {devices: 4}",
                           list);
    if (population) add_keys(population, "", "sweep.population.", &plan->common);
    if (seeds)
        add_entry(&plan->common, (node_entry){.key = config_text("seeds"),
                                              .where = seeds->where,
                                              .value = seeds->value,
                                              .label = config_text("sweep.seeds")});
    return true;
}

/* ---- The number of populations ---- */

/* How many seeds the sweep gives to every point, 1 if none. */
static int seeds_of(const sweep_plan *plan) {
    const node *seeds = tree_get(&plan->common, "seeds");
    return seeds && seeds->kind == NODE_LIST && seeds->count > 0 ? seeds->count : 1;
}

/* "1,234,567" */
static void count_text(double count, char out[48]) {
    char digits[32];
    size_t used = 0;
    snprintf(digits, sizeof digits, count < 1e15 ? "%.0f" : "%.3g", count);
    size_t n = strlen(digits);
    for (size_t i = 0; i < n; i++) {
        if (count < 1e15 && i > 0 && (n - i) % 3 == 0) out[used++] = ',';
        out[used++] = digits[i];
    }
    out[used] = '\0';
}

static bool refuse_size(const sweep_plan *plan, double total, const sweep_axis *axis, problems *list) {
    char all[48], most[48];
    const node *seeds = tree_get(&plan->common, "seeds");
    count_text(total, all);
    count_text(SWEEP_MOST, most);
    if (axis)
        problem_at(
            list, axis->where, axis->label,
            "with the %d values of %s the sweep has %s populations in all; there can be at most %s; take "
            "fewer values, or several configurations",
            axis->n_values, axis->keys.entries[0].key, all, most);
    else
        problem_at(list, seeds ? seeds->where : plan->where, seeds ? "sweep.seeds" : "sweep.points",
                   "with them the sweep has %s populations in all; there can be at most %s; take fewer, or "
                   "several configurations",
                   all, most);
    return false;
}

/* The message names the first axis that makes the grid too large. If the grid is not too large, it names no
 * axis. */
static bool check_size(const sweep_plan *plan, problems *list) {
    const sweep_axis *made_by = NULL;
    double grid = plan->has_grid ? 1.0 : 0.0;
    for (int i = 0; i < plan->n_axes; i++) {
        grid *= plan->axes[i].n_values;
        if (!made_by && grid > SWEEP_MOST) made_by = &plan->axes[i];
    }
    double total = (grid + plan->n_points) * seeds_of(plan);
    return total <= SWEEP_MOST || refuse_size(plan, total, made_by, list);
}

bool sweep_plan_read(const node *sweep, sweep_plan *out, problems *list) {
    *out = (sweep_plan){.where = sweep->where};
    bool common = read_common(sweep, out, list), cross = read_cross(entry_of(sweep, "cross"), out, list),
         points = read_points(tree_get(sweep, "points"), out, list);
    return common && cross && points && check_size(out, list);
}

void sweep_plan_free(sweep_plan *plan) {
    for (int i = 0; i < plan->n_axes; i++) free_keys(&plan->axes[i].keys);
    for (int i = 0; i < plan->n_points; i++) free_keys(&plan->points[i]);
    free_keys(&plan->common);
    free(plan->axes);
    free(plan->points);
}

/* ---- Points ---- */

static int grid_size(const sweep_plan *plan) {
    int points = plan->has_grid ? 1 : 0;
    for (int i = 0; i < plan->n_axes; i++) points *= plan->axes[i].n_values;
    return points;
}

int sweep_plan_size(const sweep_plan *plan) {
    return grid_size(plan) + plan->n_points;
}

node sweep_plan_point(const sweep_plan *plan, int index) {
    int grid = grid_size(plan), stride = grid;
    node point = {.kind = NODE_MAP, .where = plan->where};
    for (int i = 0; i < plan->common.count; i++) add_entry(&point, plan->common.entries[i]);
    if (index >= grid) {
        const node *from = &plan->points[index - grid];
        point.where = from->where;
        for (int i = 0; i < from->count; i++) add_entry(&point, from->entries[i]);
        return point;
    }
    for (int i = 0; i < plan->n_axes; i++) {
        const sweep_axis *axis = &plan->axes[i];
        stride /= axis->n_values;
        for (int k = 0; k < axis->keys.count; k++) {
            node_entry entry = axis->keys.entries[k];
            entry.value = entry.value->entries[index / stride % axis->n_values].value;
            add_entry(&point, entry);
        }
    }
    return point;
}

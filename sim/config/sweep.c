/* sweep.c - makes populations of the points of a sweep: reads them, names them, leaves out those that are
 * excluded, and refuses points that are the same. */
#include "config/sweep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/nearest.h"
#include "config/populations.h"
#include "config/sweep_names.h"
#include "config/sweep_plan.h"

typedef struct {
    population_settings values;
    level of; /* which of them are written */
    bool broken, used;
} exclusion;

/* A problem that points of the sweep have. It is said once, however many points have it. */
typedef struct {
    char *text;
    char *name; /* of the first point that has it; NULL: a value is wrong by itself, whatever the point */
    int more;   /* points of other names that have it, too */
} remark;

typedef struct {
    settings *s;
    const level *top;
    sweep_plan plan;
    const node *name; /* NULL: made from the axes */
    int n_exclusions, n_remarks, first, n_excluded;
    exclusion *exclusions;
    remark *remarks;
    problems *list;
} reader;

/* ---- The map ---- */

bool sweep_has_points(const node *sweep) {
    return sweep && (sweep->kind != NODE_MAP || tree_get(sweep, "cross") || tree_get(sweep, "points") ||
                     !tree_get(sweep, "axes"));
}

static void refuse_key(const node_entry *entry, const char *const *names, int n, const char *label,
                       problems *list) {
    const char *near = nearest_word(entry->key, names, n);
    if (near)
        problem_at(list, entry->where, label, "unknown key; did you mean sweep.%s?", near);
    else
        problem_at(list, entry->where, label,
                   "unknown key; known here: population, cross, points, seeds, name, exclude, axes%s",
                   table_find(entry->key, true) ? "; what all points have is written in population" : "");
}

static void check_keys(const node *sweep, problems *list) {
    static const char *const names[] = {"axes", "cross", "points", "population", "seeds", "name", "exclude"};
    enum { N_NAMES = sizeof names / sizeof *names };
    char label[MAX_KEY];
    bool points = tree_get(sweep, "cross") || tree_get(sweep, "points"), axes = tree_get(sweep, "axes");
    for (int i = 0; i < sweep->count; i++) {
        const node_entry *entry = &sweep->entries[i];
        int known = 0;
        snprintf(label, sizeof label, "sweep.%s", entry->key);
        if (walk_is_repeated(sweep, i, label, list)) continue;
        while (known < N_NAMES && strcmp(entry->key, names[known]) != 0) known++;
        if (known == N_NAMES)
            refuse_key(entry, names, N_NAMES, label, list);
        else if (known > 0 && axes && !points)
            problem_at(
                list, entry->where, label,
                "is of the points of a sweep, and there are none; write cross or points, or remove it");
    }
    if (!points && !axes)
        problem_at(
            list, sweep->where, "sweep",
            "has no points; write axes in cross, or points: sweep: {cross: [{method: [local, fedavg]}], "
            "population: {devices: 4}}");
}

/* ---- Axes ---- */

static bool has_axis(const settings *s, const char *path) {
    for (int i = 0; i < s->n_axes; i++)
        if (strcmp(s->axes[i], path) == 0) return true;
    return false;
}

/* Adds nothing for a text that is no key. The error is reported where the values of the key are read. */
static void add_axis(settings *s, const char *key) {
    const setting_row *row = table_find(key, true);
    if (!row || strcmp(key, "name") == 0) return;
    const char *path = row->type == VALUE_SEEDS ? "seed" : row->alias_of ? row->alias_of : row->path;
    if (has_axis(s, path)) return;
    s->axes = config_memory(realloc(s->axes, (size_t)(s->n_axes + 1) * sizeof *s->axes));
    s->axes[s->n_axes++] = config_text(path);
}

static void add_axes_of_plan(settings *s, const sweep_plan *plan) {
    for (int i = 0; i < plan->n_axes; i++)
        for (int k = 0; k < plan->axes[i].keys.count; k++) add_axis(s, plan->axes[i].keys.entries[k].key);
    for (int i = 0; i < plan->n_points; i++)
        for (int k = 0; k < plan->points[i].count; k++) add_axis(s, plan->points[i].entries[k].key);
}

static void add_written_axes(settings *s, const node *axes, problems *list) {
    char label[32];
    if (!axes) return;
    if (axes->kind != NODE_LIST)
        problem_at(list, axes->where, "sweep.axes",
                   "must be a list of keys of populations: [method, data.dirichlet]");
    for (int i = 0; axes->kind == NODE_LIST && i < axes->count; i++) {
        const node *key = axes->entries[i].value;
        snprintf(label, sizeof label, "sweep.axes.%d", i);
        if (key->kind != NODE_SCALAR)
            problem_at(list, key->where, label, "must be a key of a population, as data.dirichlet");
        else if (walk_key_of_population(key->text, key->where, label, list))
            add_axis(s, key->text);
    }
}

/* ---- Problems of points ---- */

static void remark_on(reader *r, const char *text, const char *name) {
    for (int i = 0; i < r->n_remarks; i++)
        if (strcmp(r->remarks[i].text, text) == 0 && !r->remarks[i].name == !name) {
            r->remarks[i].more += name && strcmp(name, r->remarks[i].name) != 0;
            return;
        }
    r->remarks = config_memory(realloc(r->remarks, (size_t)(r->n_remarks + 1) * sizeof *r->remarks));
    r->remarks[r->n_remarks++] = (remark){.text = config_text(text), .name = config_text(name)};
}

/* Takes over the list `said`, which is destroyed. */
static void remark_on_all(reader *r, problems *said, const char *name) {
    for (int i = 0; i < problems_count(said); i++) remark_on(r, problems_message(said, i), name);
    problems_destroy(said);
}

static void say_remarks(reader *r) {
    for (int i = 0; i < r->n_remarks; i++) {
        remark *m = &r->remarks[i];
        if (!m->name)
            problem(r->list, EXIT_INPUT, "%s", m->text);
        else if (m->more == 0)
            problem(r->list, EXIT_INPUT, "%s (the point '%.80s')", m->text, m->name);
        else
            problem(r->list, EXIT_INPUT, "%s (the point '%.80s' and %d more)", m->text, m->name, m->more);
        free(m->text);
        free(m->name);
    }
    free(r->remarks);
}

/* ---- Exclusion ---- */

static void read_exclusion(reader *r, const node *written, int index) {
    char label[32], keys[34];
    exclusion *e = &r->exclusions[r->n_exclusions++];
    int before = problems_count(r->list);
    snprintf(label, sizeof label, "sweep.exclude.%d", index);
    snprintf(keys, sizeof keys, "%s.", label);
    population_copy(&e->values, r->top->defaults);
    e->of = (level){.defaults = &e->values, .label = keys, .where = written->where, .list = r->list};
    if (written->kind == NODE_MAP && written->count > 0)
        walk_level(&e->of, written, NULL);
    else
        problem_at(r->list, written->where, label,
                   "must be a map of keys: {method: local, data.dirichlet: 0.1}");
    if (level_has(&e->of, "seeds"))
        problem_at(r->list, level_place(&e->of, "seeds"), label,
                   "seeds is no value of a population; write seed, once for each");
    e->of.label = "";
    e->broken = problems_count(r->list) > before;
}

static void read_exclusions(reader *r, const node *written) {
    if (!written) return;
    if (written->kind != NODE_LIST || written->count == 0) {
        problem_at(r->list, written->where, "sweep.exclude",
                   "must be a list of maps: [{method: local, data.dirichlet: 0.1}]");
        return;
    }
    r->exclusions = config_memory(calloc((size_t)written->count, sizeof *r->exclusions));
    for (int i = 0; i < written->count; i++) read_exclusion(r, written->entries[i].value, i);
}

/* Whether a population has all the values that the exclusion writes. */
static bool is_meant(const exclusion *e, const population_settings *p) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++)
        if (rows[i].in_population && rows[i].type != VALUE_SEEDS && e->of.given[i].source &&
            !value_equal(&rows[i], &e->values, p))
            return false;
    return true;
}

/* All exclusions that mean the point count as used, so none is reported as useless because another one means
 * the same points. */
static bool is_excluded(reader *r, const population_settings *p) {
    bool excluded = false;
    for (int i = 0; i < r->n_exclusions; i++) {
        if (r->exclusions[i].broken || !is_meant(&r->exclusions[i], p)) continue;
        r->exclusions[i].used = true;
        excluded = true;
    }
    r->n_excluded += excluded;
    return excluded;
}

static void end_exclusions(reader *r, bool judge) {
    char label[32];
    for (int i = 0; i < r->n_exclusions; i++) {
        exclusion *e = &r->exclusions[i];
        snprintf(label, sizeof label, "sweep.exclude.%d", i);
        if (judge && !e->used)
            problem_at(r->list, e->of.where, label,
                       "excludes nothing: no point has these values; correct it or remove it");
        population_free(&e->values);
    }
    free(r->exclusions);
}

/* ---- Points ---- */

/* Appends a population for each seed of a point that is not excluded. Returns whether there is any. */
static bool append_seeds(reader *r, const level *of, const uint64_t *seeds, int n) {
    population_settings *p = of->defaults;
    bool named = level_has(of, "name"), any = false;
    for (int i = 0; i < n; i++) {
        p->seed = seeds[i];
        if (!named) {
            free(p->name);
            p->name = sweep_name(r->s, r->name ? r->name->text : NULL, p);
        }
        if (is_excluded(r, p)) continue;
        any = true;
        population_append(r->s, p, seeds[i]);
    }
    return any;
}

static void read_point(reader *r, int index) {
    population_settings p;
    int n_seeds = 0;
    problems *values = problems_create(), *together = problems_create();
    node point = sweep_plan_point(&r->plan, index);
    level of = {.defaults = &p, .label = "", .where = point.where, .list = values};
    population_read(r->s, r->top, &point, &of);
    of.label = "sweep.population.";
    level_call(&of, "name", "sweep.name");
    population_require(&of, "name");
    uint64_t *seeds = population_seeds(&of, &point, &n_seeds);
    bool any = append_seeds(r, &of, seeds, n_seeds);
    of.list = together;
    if (any && problems_count(values) == 0) check_population(r->s, &of);
    remark_on_all(r, values, NULL);
    remark_on_all(r, together, p.name);
    free(seeds);
    free(point.entries);
    population_free(&p);
}

/* ---- Points that are the same ---- */

/* "method local, data.dirichlet 0.1, seed 42" */
static char *values_text(const settings *s, const population_settings *p) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = config_memory(open_memstream(&text, &bytes));
    for (int i = 0; i < s->n_axes; i++) {
        char *value = value_plain(table_find(s->axes[i], true), p);
        if (strcmp(s->axes[i], "seed") != 0) fprintf(out, "%s %.80s, ", s->axes[i], *value ? value : "none");
        free(value);
    }
    fprintf(out, "seed %llu", (unsigned long long)p->seed);
    fclose(out);
    return config_memory(text);
}

static void refuse_duplicate(const reader *r, const population_settings *p, const population_settings *q,
                             int more) {
    char others[48] = "", *values = values_text(r->s, q);
    place where = {.source = q->line > 0 ? r->top->where.source : "--set", .line = q->line};
    if (more > 0) snprintf(others, sizeof others, "; %d more are written twice, too", more);
    problem_at(r->list, where, "sweep",
               "the points '%.80s' and '%.80s' are one and the same (%s); write it once%s", p->name, q->name,
               values, others);
    free(values);
}

static void refuse_name(const reader *r, const population_settings *p, const population_settings *q,
                        int more) {
    char others[48] = "", *one = values_text(r->s, p), *other = values_text(r->s, q);
    place where = {.source = q->line > 0 ? r->top->where.source : "--set", .line = q->line};
    if (more > 0) snprintf(others, sizeof others, "; so it is with %d more", more);
    problem_at(
        r->list, r->name ? r->name->where : where, "sweep.name",
        "different points have the name '%.80s': (%s) and (%s); put keys that tell them apart into the "
        "template%s",
        p->name, one, other, others);
    free(one);
    free(other);
}

/* The first pair of points that was found to be alike in a way that is wrong, and how many such points there
 * are. */
typedef struct {
    const population_settings *p, *q;
    int found;
} alike;

static bool find(alike *kind, const population_settings *p, const population_settings *q) {
    if (kind->found++ == 0) kind->p = p, kind->q = q;
    return true;
}

/* Refuses points that are the same, and different points with the same name. Of each kind only the first
 * pair is reported in full. Points that differ only in their seeds may have the same name. */
static void compare_points(const reader *r) {
    int n = r->s->n_populations - r->first;
    alike same = {0}, names = {0};
    char(*hashes)[SETTINGS_HASH_BYTES] = config_memory(calloc((size_t)n + 1, sizeof *hashes));
    for (int i = 0; i < n; i++) {
        const population_settings *q = &r->s->populations[r->first + i];
        bool found = false;
        settings_values_hash(q, hashes[i]);
        for (int j = 0; j < i && !found; j++) {
            const population_settings *p = &r->s->populations[r->first + j];
            bool equal = strcmp(hashes[j], hashes[i]) == 0;
            if (equal && p->seed == q->seed)
                found = find(&same, p, q);
            else if (!equal && strcmp(p->name, q->name) == 0)
                found = find(&names, p, q);
        }
    }
    if (same.found > 0) refuse_duplicate(r, same.p, same.q, same.found - 1);
    if (names.found > 0) refuse_name(r, names.p, names.q, names.found - 1);
    free(hashes);
}

/* ---- The whole sweep ---- */

static void read_points(reader *r, const node *exclude) {
    int before = problems_count(r->list), n = sweep_plan_size(&r->plan);
    read_exclusions(r, exclude);
    r->first = r->s->n_populations;
    for (int i = 0; i < n; i++) read_point(r, i);
    say_remarks(r);
    bool good = problems_count(r->list) == before;
    if (good && r->n_excluded > 0 && r->s->n_populations == r->first)
        problem_at(r->list, r->plan.where, "sweep.exclude", "excludes all points; leave some");
    else if (good)
        compare_points(r);
    end_exclusions(r, good);
}

void sweep_read(settings *s, const level *top, const node *sweep) {
    reader r = {.s = s, .top = top, .list = top->list};
    if (sweep->kind != NODE_MAP) {
        problem_at(
            r.list, sweep->where, "sweep",
            "must be a map of keys: sweep: {cross: [{method: [local, fedavg]}], population: {devices: 4}}");
        return;
    }
    check_keys(sweep, r.list);
    r.name = tree_get(sweep, "name");
    bool named = sweep_name_check(r.name, r.list), good = sweep_plan_read(sweep, &r.plan, r.list);
    add_axes_of_plan(s, &r.plan);
    bool points = r.plan.has_grid || r.plan.n_points > 0;
    if (good && named && points) read_points(&r, tree_get(sweep, "exclude"));
    add_written_axes(s, tree_get(sweep, "axes"), r.list);
    sweep_plan_free(&r.plan);
}

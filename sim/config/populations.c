/* populations.c - entries of `populations`, expanded over their seeds. */
#include "config/populations.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/tune.h"
#include "data/split.h"
#include "methods/method.h"

/* The row's value is in memory of its own, and in no other row's. */
static bool owns_memory(const setting_row *row) {
    bool owned = row->type == VALUE_TEXT || row->type == VALUE_WORD || table_is_per_device(row);
    return row->in_population && owned && !row->alias_of;
}

void population_copy(population_settings *to, const population_settings *from) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    *to = *from;
    for (int i = 0; i < count; i++) {
        void *at = (char *)to + rows[i].offset;
        if (!owns_memory(&rows[i])) continue;
        if (!table_is_per_device(&rows[i])) {
            *(char **)at = config_text(*(char **)at);
            continue;
        }
        per_device *x = at;
        const int64_t *list = x->list;
        if (x->n == 0) continue;
        x->list = config_memory(malloc((size_t)x->n * sizeof *list));
        memcpy(x->list, list, (size_t)x->n * sizeof *list);
    }
}

void population_free(population_settings *p) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++) {
        void *at = (char *)p + rows[i].offset;
        if (!owns_memory(&rows[i])) continue;
        if (table_is_per_device(&rows[i]))
            per_device_free(at);
        else
            free(*(char **)at);
    }
}

void population_append(settings *s, const population_settings *from, uint64_t seed) {
    s->populations =
        config_memory(realloc(s->populations, (size_t)(s->n_populations + 1) * sizeof *s->populations));
    population_settings *p = &s->populations[s->n_populations++];
    population_copy(p, from);
    p->seed = seed;
    p->number = s->n_populations - 1;
}

/* The seeds of a list; those that are none are said and left out. */
static uint64_t *listed_seeds(const level *of, const node *seeds, const char *label, int *n) {
    uint64_t *out = config_memory(malloc((size_t)seeds->count * sizeof *out));
    for (int i = 0; i < seeds->count; i++)
        if (value_read_seed(seeds->entries[i].value, &out[*n]))
            ++*n;
        else
            problem_at(of->list, seeds->entries[i].where, label,
                       "entry %d is not a seed; a seed is a whole number, 0 to 2^64 - 1", i);
    return out;
}

uint64_t *population_seeds(const level *of, const node *entry, int *n) {
    char label[MAX_KEY];
    const node *seeds = tree_get(entry, "seeds");
    level_label(of, "seeds", label);
    *n = 0;
    if (!seeds) {
        uint64_t *one = config_memory(malloc(sizeof *one));
        one[(*n)++] = of->defaults->seed;
        return one;
    }
    if (seeds->kind != NODE_LIST || seeds->count == 0)
        problem_at(of->list, seeds->where, label,
                   "must be a list of seeds ([42, 45, 47]); for a single one write seed");
    else if (level_has(of, "seed"))
        problem_at(of->list, seeds->where, label, "seed and seeds are both written; keep one");
    else
        return listed_seeds(of, seeds, label, n);
    return NULL;
}

void resolve_splits(population_settings *p) {
    if (!split_of(&p->data)->has_own) {
        per_device_free(&p->data.sources);
        p->data.sources.value = -1;
    }
    for (int i = 0; i < split_count(); i++) {
        const data_split *s = split_at(i);
        if (!s->parameter) continue;
        const setting_row *row = table_find(s->parameter, true);
        void *value = (char *)p + row->offset;
        if (i == p->data.split && !value_is_absent(row, p)) continue;
        double resolved = i == p->data.split ? s->parameter_default : 0;
        if (row->type == VALUE_INT)
            *(int *)value = (int)resolved;
        else
            *(double *)value = resolved;
    }
}

/* A number that one method alone reads: others have none. */
static void resolve_method_parameters(population_settings *p, const method *how) {
    int count = 0;
    const method *const *methods = method_list(&count);
    for (int i = 0; i < count; i++) {
        const setting_row *row = methods[i]->parameter ? table_find(methods[i]->parameter, true) : NULL;
        if (!row) continue;
        if (methods[i] != how)
            value_remove(row, p);
        else if (value_is_absent(row, p))
            *(double *)((char *)p + row->offset) = how->parameter_default;
    }
}

void keep_data_lines(const level *of) {
    data_settings *d = &of->defaults->data;
    const char *parameter = split_of(d)->parameter;
    if (level_has(of, "data.corpus")) d->corpus_line = level_place(of, "data.corpus").line;
    if (level_has(of, "data.sources")) d->sources_line = level_place(of, "data.sources").line;
    if (level_has(of, "data.split")) d->split_key = "data.split";
    if (parameter && level_has(of, parameter)) d->split_key = parameter;
    if (d->split_key && level_has(of, d->split_key)) d->split_line = level_place(of, d->split_key).line;
}

ck_site attention_linear_written(const level *of) {
    char key[MAX_KEY];
    for (ck_site site = 0; site < CK_SITES; site++) {
        snprintf(key, sizeof key, "lora.%s", settings_linear(site));
        if (settings_is_of_attention(site) && level_has(of, key) && of->defaults->lora.rank[site] > 0)
            return site;
    }
    return CK_NO_SITE;
}

void resolve_loras(const level *of) {
    population_settings *p = of->defaults;
    bool together = level_has(of, "attention.rank"), apart = attention_linear_written(of) != CK_NO_SITE;
    if (apart && !together) p->attention_rank = 0;
    for (ck_site site = 0; site < CK_SITES && together && p->attention_rank > 0 && !apart; site++)
        if (settings_is_of_attention(site)) p->lora.rank[site] = 0;
}

static void resolve_lists(population_settings *p) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++)
        if (rows[i].in_population && table_is_per_device(&rows[i]))
            per_device_reduce((per_device *)((char *)p + rows[i].offset), p->devices);
}

/* What follows from other keys, where it is not written. */
static void resolve(const settings *s, const level *of) {
    population_settings *p = of->defaults;
    const method *how = p->method ? method_find(p->method) : NULL;
    if (level_has(of, "adapters")) p->adapters_line = level_place(of, "adapters").line;
    keep_data_lines(of);
    if (!level_has(of, "seed")) p->seed = s->seed;
    if (p->train.router.batch == 0) p->train.router.batch = p->train.batch;
    if (p->train.router.learning_rate == 0) p->train.router.learning_rate = p->train.learning_rate;
    if (how && (p->weights == WEIGHTS_OF_METHOD || how->weights == WEIGHTS_OF_METHOD))
        p->weights = how->weights;
    resolve_splits(p);
    resolve_method_parameters(p, how);
    resolve_loras(of);
    if (p->held_out.devices == 0) p->held_out.rounds = 0;
    for (int site = 0; site < CK_SITES; site++)
        if (p->lora.alpha[site] == 0) p->lora.alpha[site] = p->experts.alpha;
    if (p->tied.alpha == 0) p->tied.alpha = p->experts.alpha;
    if (how && p->generalists.value < 0) p->generalists.value = how->default_generalists;
    if (how && p->specialists.value < 0) p->specialists.value = how->default_specialists;
    resolve_lists(p);
}

void population_require(const level *of, const char *except) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    char label[MAX_KEY];
    for (int i = 0; i < count; i++) {
        if (!rows[i].required || of->given[i].source || (except && strcmp(rows[i].path, except) == 0))
            continue;
        level_label(of, rows[i].path, label);
        problem_at(of->list, of->where, label, "is missing; give %s", rows[i].help);
    }
}

void population_read(const settings *s, const level *top, const node *entry, level *of) {
    population_settings *p = of->defaults;
    population_copy(p, top->defaults);
    p->line = of->where.line;
    walk_level(of, entry, NULL);
    if (top->tuned) tune_read_into(top->tuned, of);
    resolve(s, of);
}

static void read_entry(settings *s, const level *top, const node *entry, int index, problems *list) {
    char label[32];
    population_settings p;
    int n_seeds = 0;
    snprintf(label, sizeof label, "populations.%d.", index);
    level of = {.defaults = &p, .label = label, .where = entry->where, .list = list};
    population_read(s, top, entry, &of);
    population_require(&of, NULL);
    check_population(s, &of);
    uint64_t *seeds = population_seeds(&of, entry, &n_seeds);
    for (int i = 0; i < n_seeds; i++) population_append(s, &p, seeds[i]);
    free(seeds);
    population_free(&p);
}

void populations_read(settings *s, const level *top, const node *entries, problems *list) {
    char label[32];
    if (!entries || entries->kind != NODE_LIST || entries->count == 0) {
        problem_at(
            list, entries ? entries->where : top->where, "populations",
            "%s; write a list with at least one entry such as {name: mine, method: comigs, devices: 4}%s",
            entries ? "is not a list of populations" : "is missing", entries ? "" : ", or a sweep");
        return;
    }
    for (int i = 0; i < entries->count; i++) {
        const node *entry = entries->entries[i].value;
        if (entry->kind == NODE_MAP) {
            read_entry(s, top, entry, i, list);
            continue;
        }
        snprintf(label, sizeof label, "populations.%d", i);
        problem_at(list, entry->where, label,
                   "is not a map; write for example {name: mine, method: comigs, devices: 4}");
    }
}

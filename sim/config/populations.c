/* populations.c - entries of `populations`, expanded over their seeds. */
#include "config/populations.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/split.h"
#include "methods/method.h"

void population_copy(population_settings *to, const population_settings *from) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    *to = *from;
    for (int i = 0; i < count; i++) {
        if (!rows[i].in_population || (rows[i].type != VALUE_TEXT && rows[i].type != VALUE_WORD)) continue;
        char **text = (char **)((char *)to + rows[i].offset);
        *text = config_text(*text);
    }
    if (from->n_specialists_list == 0) return;
    size_t bytes = (size_t)from->n_specialists_list * sizeof *from->specialists_list;
    to->specialists_list = config_memory(malloc(bytes));
    memcpy(to->specialists_list, from->specialists_list, bytes);
}

void population_free(population_settings *p) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++)
        if (rows[i].in_population && (rows[i].type == VALUE_TEXT || rows[i].type == VALUE_WORD))
            free(*(char **)((char *)p + rows[i].offset));
    free(p->specialists_list);
}

/* A copy of `from` with this seed, at the end of the list. */
static void append(settings *s, const population_settings *from, uint64_t seed) {
    s->populations =
        config_memory(realloc(s->populations, (size_t)(s->n_populations + 1) * sizeof *s->populations));
    population_settings *p = &s->populations[s->n_populations++];
    population_copy(p, from);
    p->seed = seed;
    p->number = s->n_populations - 1;
}

static void append_seeds(settings *s, const level *of, const node *seeds) {
    char label[MAX_KEY];
    snprintf(label, sizeof label, "%sseeds", of->label);
    if (seeds->kind != NODE_LIST || seeds->count == 0) {
        problem_at(of->list, seeds->where, label,
                   "must be a list of seeds ([42, 45, 47]); for a single one write seed");
        return;
    }
    if (level_has(of, "seed")) {
        problem_at(of->list, seeds->where, label, "seed and seeds are both written; keep one");
        return;
    }
    for (int i = 0; i < seeds->count; i++) {
        uint64_t seed = 0;
        if (value_read_seed(seeds->entries[i].value, &seed))
            append(s, of->defaults, seed);
        else
            problem_at(of->list, seeds->entries[i].where, label,
                       "entry %d is not a seed; a seed is a whole number, 0 to 2^64 - 1", i);
    }
}

void resolve_splits(population_settings *p) {
    for (int i = 0; i < split_count(); i++) {
        const data_split *s = split_at(i);
        if (!s->parameter) continue;
        double *value = (double *)((char *)p + table_find(s->parameter, true)->offset);
        if (i != p->data.split)
            *value = 0;
        else if (*value == 0)
            *value = s->parameter_default;
    }
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

/* What follows from other keys, where it is not written. */
static void resolve(const settings *s, const level *of) {
    population_settings *p = of->defaults;
    const method *how = p->method ? method_find(p->method) : NULL;
    if (level_has(of, "adapters")) p->adapters_line = level_place(of, "adapters").line;
    if (level_has(of, "data.corpus")) p->data.corpus_line = level_place(of, "data.corpus").line;
    if (!level_has(of, "seed")) p->seed = s->seed;
    if (p->train.router.batch == 0) p->train.router.batch = p->train.batch;
    if (p->train.router.learning_rate == 0) p->train.router.learning_rate = p->train.learning_rate;
    if (how && (p->weights == WEIGHTS_OF_METHOD || how->weights == WEIGHTS_OF_METHOD))
        p->weights = how->weights;
    resolve_splits(p);
    resolve_loras(of);
    for (int site = 0; site < CK_SITES; site++)
        if (p->lora.alpha[site] == 0) p->lora.alpha[site] = p->experts.alpha;
    if (p->tied.alpha == 0) p->tied.alpha = p->experts.alpha;
    if (how && p->generalists < 0) p->generalists = how->default_generalists;
    if (how && p->specialists < 0) p->specialists = how->default_specialists;
}

static void require_keys(const level *of) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    char label[MAX_KEY];
    for (int i = 0; i < count; i++) {
        if (!rows[i].required || of->given[i].source) continue;
        snprintf(label, sizeof label, "%s%s", of->label, rows[i].path);
        problem_at(of->list, of->where, label, "is missing; give %s", rows[i].help);
    }
}

static void read_population(settings *s, const level *top, const node *entry, int index, problems *list) {
    char label[32];
    population_settings p;
    snprintf(label, sizeof label, "populations.%d.", index);
    population_copy(&p, top->defaults);
    p.line = entry->where.line;
    p.generalists = p.specialists = -1;
    level of = {.defaults = &p, .label = label, .where = entry->where, .list = list};
    walk_level(&of, entry, NULL);
    require_keys(&of);
    resolve(s, &of);
    check_population(s, &of);
    const node *seeds = tree_get(entry, "seeds");
    if (seeds)
        append_seeds(s, &of, seeds);
    else
        append(s, &p, p.seed);
    population_free(&p);
}

void populations_read(settings *s, const level *top, const node *entries, problems *list) {
    char label[32];
    if (!entries || entries->kind != NODE_LIST || entries->count == 0) {
        problem_at(
            list, entries ? entries->where : top->where, "populations",
            "%s; write a list with at least one entry such as {name: mine, method: comigs, devices: 4}",
            entries ? "is not a list of populations" : "is missing");
        return;
    }
    for (int i = 0; i < entries->count; i++) {
        const node *entry = entries->entries[i].value;
        if (entry->kind == NODE_MAP) {
            read_population(s, top, entry, i, list);
            continue;
        }
        snprintf(label, sizeof label, "populations.%d", i);
        problem_at(list, entry->where, label,
                   "is not a map; write for example {name: mine, method: comigs, devices: 4}");
    }
}

/* check.c - what keys must satisfy together. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/nearest.h"
#include "config/populations.h"
#include "data/data.h"
#include "data/split.h"
#include "kernels.h"
#include "methods/method.h"

/* ---- A population ---- */

static void report(const level *of, const char *path, const char *message) {
    char label[MAX_KEY];
    level_label(of, path, label);
    problem_at(of->list, level_place(of, path), label, "%s", message);
}

static void check_name(const level *of) {
    const char *name = of->defaults->name;
    char message[256];
    if (!name) return;
    size_t good = 0;
    while (isalnum((unsigned char)name[good]) || (name[good] && strchr("._-", name[good]))) good++;
    if (name[good] == '\0' && good <= 64) return;
    snprintf(message, sizeof message,
             "'%.80s' is no name; use at most 64 letters, digits, dots, dashes and underscores", name);
    report(of, "name", message);
}

static void check_method(const level *of) {
    const char *name = of->defaults->method;
    const char *names[64];
    char message[512];
    int count = 0;
    if (!name || method_find(name)) return;
    const method *const *methods = method_list(&count);
    if (count > 64) count = 64;
    for (int i = 0; i < count; i++) names[i] = methods[i]->name;
    const char *near = nearest_word(name, names, count);
    int used = snprintf(message, sizeof message, "'%.80s' is no method; ", name);
    if (near) used += snprintf(message + used, sizeof message - (size_t)used, "did you mean %s? ", near);
    snprintf(message + used, sizeof message - (size_t)used, "`cohort help methods` lists them");
    report(of, "method", message);
}

static bool has_lora(const population_settings *p) {
    int ranks = p->attention_rank + p->tied.rank + p->tied.vector;
    for (int site = 0; site < CK_SITES; site++) ranks += p->lora.rank[site];
    return ranks > 0;
}

/* Device -1: every one. */
static void check_experts(const level *of, int device) {
    const population_settings *p = of->defaults;
    char message[256], who[48] = "a device";
    int generalists = (int)per_device_at(&p->generalists, device < 0 ? 0 : device),
        specialists = (int)per_device_at(&p->specialists, device < 0 ? 0 : device),
        rank = (int)per_device_at(&p->rank, device < 0 ? 0 : device), experts = generalists + specialists;
    if (generalists < 0 || specialists < 0 || rank < 0) return; /* refused already */
    if (device >= 0) snprintf(who, sizeof who, "device %d", device);
    if (experts < 1 && !has_lora(p)) {
        snprintf(
            message, sizeof message,
            "%s has no experts and no LoRA, so nothing of it would learn; give generalists, specialists, "
            "attention.rank or lora",
            who);
        report(of, level_has(of, "specialists") ? "specialists" : "generalists", message);
    } else if (experts > CK_MAX_EXPERTS) {
        snprintf(message, sizeof message,
                 "%s has %d experts (%d generalists + %d specialists); it can have at most %d", who, experts,
                 generalists, specialists, CK_MAX_EXPERTS);
        report(of, level_has(of, "specialists") ? "specialists" : "generalists", message);
    } else if (experts * rank > CK_MAX_RANK_SUM) {
        snprintf(message, sizeof message,
                 "the ranks of the %d experts of %s sum to %d; the sum must be at most %d", experts, who,
                 experts * rank, CK_MAX_RANK_SUM);
        report(of, level_has(of, "rank") ? "rank" : "experts.rank", message);
    }
}

static void check_all_experts(const level *of) {
    const population_settings *p = of->defaults;
    const per_device *lists[] = {&p->generalists, &p->specialists, &p->rank};
    int n = 0;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        if (lists[i]->value < 0) return; /* without a method there is no default */
        if (lists[i]->n > n) n = lists[i]->n;
    }
    if (n == 0) check_experts(of, -1);
    for (int i = 0; i < n; i++) check_experts(of, i);
}

/* One model has one shape: where a method pools all devices' data, lists can speak of their data alone. */
static bool is_of_shape(const setting_row *row) {
    return strncmp(row->path, "data.", 5) != 0;
}

/* Lists that are here for devices: whether their lengths fit. */
static void check_lists(const level *of) {
    const population_settings *p = of->defaults;
    const method *how = p->method ? method_find(p->method) : NULL;
    int count = 0;
    const setting_row *rows = table_rows(&count);
    char message[256];
    for (int i = 0; i < count; i++) {
        const per_device *x = (const per_device *)((const char *)p + rows[i].offset);
        bool other_name =
            rows[i].alias_of ? !level_has(of, rows[i].path) : level_has(of, "rank") && x == &p->rank;
        if (!rows[i].in_population || !table_is_per_device(&rows[i]) || x->n == 0 || other_name) continue;
        if (p->devices > 0 && x->n != p->devices)
            snprintf(message, sizeof message,
                     "the list has %d entries for %d devices; write one for each device, or a single number",
                     x->n, p->devices);
        else if (how && how->pooled && is_of_shape(&rows[i]))
            snprintf(message, sizeof message,
                     "method %s trains one model on the text of all devices, which cannot differ from device "
                     "to device; write a single number",
                     how->name);
        else
            continue;
        report(of, rows[i].path, message);
    }
}

/* Of running text: a window is of neighbours. An example is a window, whatever its length. */
static void check_tokens(const level *of, const char *path, int64_t tokens) {
    char message[256];
    int sequence = of->defaults->data.sequence;
    if (tokens <= 0 || tokens > sequence || corpus_is_of_examples(of->defaults->data.corpus)) return;
    snprintf(message, sizeof message,
             "%lld tokens hold no window of %d and its next token (data.sequence); give at least %d",
             (long long)tokens, sequence, sequence + 1);
    report(of, path, message);
}

/* All of a source's text cannot stand beside a part of it. */
static void check_amounts(const level *of, const char *path, const per_device *tokens) {
    char message[256];
    if (tokens->n == 0) check_tokens(of, path, tokens->value);
    for (int i = 0; i < tokens->n; i++) {
        check_tokens(of, path, tokens->list[i]);
        if (tokens->list[i] != 0) continue;
        snprintf(message, sizeof message,
                 "entry %d is 0, which stands for all text where it is the only number; give each device the "
                 "tokens that it is to have",
                 i);
        report(of, path, message);
    }
}

/* What a fraction leaves of the training text; said of the first device that has too little. */
static void check_fraction(const level *of) {
    const data_settings *d = &of->defaults->data;
    int listed = d->fraction.n > d->tokens_per_device.n ? d->fraction.n : d->tokens_per_device.n;
    char message[256];
    for (int i = 0; i < (listed > 0 ? listed : 1) && !corpus_is_of_examples(d->corpus); i++) {
        int64_t all = per_device_at(&d->tokens_per_device, i);
        double fraction = per_device_real_at(&d->fraction, i);
        int64_t tokens = data_scaled(all, fraction);
        if (all <= d->sequence || tokens > d->sequence || fraction <= 0) continue;
        snprintf(message, sizeof message,
                 "%g leaves %lld of %lld tokens, which hold no window of %d and its next token "
                 "(data.sequence); leave at least %d",
                 fraction, (long long)tokens, (long long)all, d->sequence, d->sequence + 1);
        report(of, "data.fraction", message);
        return;
    }
}

static void check_data(const level *of) {
    const data_settings *d = &of->defaults->data;
    char message[256];
    check_amounts(of, "data.tokens_per_device", &d->tokens_per_device);
    check_fraction(of);
    check_amounts(of, "data.valid_tokens_per_device", &d->valid_tokens_per_device);
    check_amounts(of, "data.test_tokens_per_device", &d->test_tokens_per_device);
    if (d->synthetic.branching <= d->synthetic.vocabulary) return;
    snprintf(
        message, sizeof message,
        "%d ids cannot follow a state of a corpus with %d ids; it must be at most data.synthetic.vocabulary",
        d->synthetic.branching, d->synthetic.vocabulary);
    report(of, "data.synthetic.branching", message);
}

/* Keys a population did not write itself were checked once, at the top level. */
static bool wrote_data(const level *of) {
    static const char *const paths[] = {"data.tokens_per_device",       "data.fraction",
                                        "data.valid_tokens_per_device", "data.test_tokens_per_device",
                                        "data.synthetic.vocabulary",    "data.synthetic.branching"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (level_has(of, paths[i])) return true;
    return false;
}

static bool is_synthetic(const char *name) {
    return strcmp(name, "synthetic") == 0;
}

/* Every id of the corpus must be an id of the base. */
static void check_vocabulary(const settings *s, const level *of) {
    const data_settings *d = &of->defaults->data;
    char message[256];
    if (s->base.checkpoint || !is_synthetic(d->corpus) || d->synthetic.vocabulary <= s->base.vocabulary)
        return;
    snprintf(message, sizeof message,
             "the corpus has %d ids, the base only %d; give base.vocabulary at least %d",
             d->synthetic.vocabulary, s->base.vocabulary, d->synthetic.vocabulary);
    report(of, "data.synthetic.vocabulary", message);
}

/* ---- What is counted in 32 bits ---- */

static void check_window_tokens(const level *of, const char *path, int64_t windows, int sequence,
                                const char *what) {
    char message[256];
    if (windows <= INT32_MAX / sequence) return;
    snprintf(message, sizeof message, "%s has %lld windows of %d tokens; it must have at most %d tokens",
             what, (long long)windows, sequence, INT32_MAX);
    report(of, path, message);
}

static void check_step_count(const level *of, const char *path, int64_t steps, const char *what) {
    char message[256];
    if (steps <= INT32_MAX) return;
    snprintf(message, sizeof message, "%s takes %lld steps; it must take at most %d", what, (long long)steps,
             INT32_MAX);
    report(of, path, message);
}

static void check_steps_of_population(const settings *s, const level *of) {
    const population_settings *p = of->defaults;
    const train_settings *t = &p->train;
    const method *how = p->method ? method_find(p->method) : NULL;
    int64_t together = how && how->pooled && p->devices > 0 ? p->devices : 1,
            steps = (int64_t)s->rounds * s->local_steps;
    check_window_tokens(of, "train.batch", t->batch * together, p->data.sequence, "an expert step");
    if (t->router.batch != t->batch)
        check_window_tokens(of, "train.router.batch", t->router.batch * together, p->data.sequence,
                            "a router step");
    if (steps <= INT32_MAX)
        check_step_count(of, "train.router.steps", steps / t->router.every * t->router.steps, "a router");
}

static void check_steps_of_run(const settings *s, const level *top) {
    const base_settings *b = &s->base;
    int64_t a_step = (int64_t)b->pretrain.batch * b->pretrain.sequence;
    check_step_count(top, level_has(top, "train.rounds") ? "train.rounds" : "train.local_steps",
                     (int64_t)s->rounds * s->local_steps, "a device");
    if (s->base.checkpoint) return;
    check_window_tokens(top, "base.pretrain.batch", b->pretrain.batch, b->pretrain.sequence,
                        "a step of pre-training");
    check_step_count(top, "base.pretrain.tokens", b->pretrain.tokens / a_step, "pre-training");
}

/* ---- All of a population ---- */

static void check_alias(const level *of) {
    if (level_has(of, "rank") && level_has(of, "experts.rank"))
        report(of, "rank", "is short for experts.rank, and both are written; keep one");
}

static void check_loras(const level *of) {
    char message[256];
    ck_site site = attention_linear_written(of);
    if (!level_has(of, "attention.rank") || of->defaults->attention_rank == 0 || site == CK_NO_SITE) return;
    snprintf(message, sizeof message,
             "gives all linears of attention a LoRA, and lora.%s gives this one another; keep one of the two",
             settings_linear(site));
    report(of, "attention.rank", message);
}

static void check_tied(const level *of) {
    char message[320];
    if (settings_names_linear(of->defaults->tied.linears, CK_NO_SITE)) return;
    int used = snprintf(message, sizeof message,
                        "'%.80s' is neither all nor a list of linears; those that there can be are",
                        of->defaults->tied.linears);
    for (ck_site site = 0; site < CK_SITES; site++)
        used += snprintf(message + used, sizeof message - (size_t)used, " %s", settings_linear(site));
    report(of, "tied.linears", message);
}

void check_population(const settings *s, const level *of) {
    check_name(of);
    check_method(of);
    check_lists(of);
    check_all_experts(of);
    check_alias(of);
    check_loras(of);
    if (level_has(of, "tied.linears")) check_tied(of);
    check_steps_of_population(s, of);
    check_parameters(s, of);
    check_held_out(s, of);
    if (wrote_data(of)) check_data(of);
    check_vocabulary(s, of);
}

/* ---- The run ---- */

static void check_family(const settings *s, const level *top) {
    const base_settings *b = &s->base;
    char message[256];
    if (b->family == FAMILY_GPT2 && level_has(top, "base.rope_theta"))
        report(
            top, "base.rope_theta",
            "is of the family llama, but base.family is gpt2; write base.family: llama, or remove this key");
    if (b->family == FAMILY_GPT2 && b->kv_heads != b->heads) {
        snprintf(
            message, sizeof message,
            "a gpt2 has as many heads of keys as heads, %d; write base.family: llama, or remove this key",
            b->heads);
        report(top, "base.kv_heads", message);
    } else if (b->heads % b->kv_heads != 0) {
        snprintf(message, sizeof message,
                 "%d heads of keys and values do not divide %d heads; every one is read by as many heads",
                 b->kv_heads, b->heads);
        report(top, level_has(top, "base.kv_heads") ? "base.kv_heads" : "base.heads", message);
    }
    if (b->family != FAMILY_LLAMA || b->width % b->heads != 0 || b->width / b->heads % 2 == 0) return;
    snprintf(message, sizeof message,
             "%d heads make each %d wide; a head of a llama must have an even width, whose halves rotary "
             "positions turn",
             b->heads, b->width / b->heads);
    report(top, level_has(top, "base.heads") ? "base.heads" : "base.width", message);
}

static void check_shape(const settings *s, const level *top) {
    char message[256];
    if (s->base.width % s->base.heads != 0) {
        snprintf(message, sizeof message,
                 "%d heads do not divide the width %d; choose heads so that every head has width / heads "
                 "dimensions",
                 s->base.heads, s->base.width);
        report(top, level_has(top, "base.heads") ? "base.heads" : "base.width", message);
    }
    if (top->defaults->data.sequence > s->base.context) {
        snprintf(
            message, sizeof message,
            "windows of %d tokens do not fit the base's context of %d; make base.context at least as long",
            top->defaults->data.sequence, s->base.context);
        report(top, level_has(top, "data.sequence") ? "data.sequence" : "base.context", message);
    }
    if (s->base.pretrain.sequence > s->base.context) {
        snprintf(
            message, sizeof message,
            "windows of %d tokens do not fit the base's context of %d; make base.context at least as long",
            s->base.pretrain.sequence, s->base.context);
        report(top, level_has(top, "base.pretrain.sequence") ? "base.pretrain.sequence" : "base.context",
               message);
    }
}

static void check_pretraining_text(const settings *s, const level *top) {
    const data_settings *d = &top->defaults->data;
    char message[256];
    bool needed = s->base.pretrain.tokens > 0 && is_synthetic(s->base.pretrain.text);
    if (needed && !is_synthetic(d->corpus) && !level_has(top, "base.pretrain.text")) {
        snprintf(
            message, sizeof message,
            "is missing, and the corpus '%.100s' is real text; name the folder of shards to pre-train on",
            d->corpus);
        report(top, "base.pretrain.text", message);
    }
    if (!needed || d->synthetic.vocabulary <= s->base.vocabulary) return;
    snprintf(message, sizeof message,
             "%d ids are fewer than the %d of the synthetic text it is pre-trained on; give at least %d",
             s->base.vocabulary, d->synthetic.vocabulary, d->synthetic.vocabulary);
    report(top, "base.vocabulary", message);
}

static void check_checkpoint(const level *top) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++)
        if (!rows[i].in_population && strncmp(rows[i].path, "base.", 5) == 0 &&
            strcmp(rows[i].path, "base.checkpoint") != 0 && top->given[i].source)
            report(top, rows[i].path,
                   "the base comes from base.checkpoint, which says this itself; remove one of the two");
}

static int compare_populations(const void *a, const void *b) {
    const population_settings *p = *(const population_settings *const *)a,
                              *q = *(const population_settings *const *)b;
    int names = strcmp(p->name ? p->name : "", q->name ? q->name : "");
    if (names) return names;
    if (p->seed != q->seed) return p->seed < q->seed ? -1 : 1;
    return p < q ? -1 : 1;
}

/* A name and a seed are how results tell populations apart. */
static void check_distinct(const settings *s, const level *top, int n_listed) {
    if (s->n_populations < 2) return;
    const population_settings **sorted =
        config_memory(calloc((size_t)s->n_populations, sizeof(population_settings *)));
    for (int i = 0; i < s->n_populations; i++) sorted[i] = &s->populations[i];
    qsort(sorted, (size_t)s->n_populations, sizeof *sorted, compare_populations);
    for (int i = 1; i < s->n_populations; i++) {
        const population_settings *p = sorted[i - 1], *q = sorted[i];
        bool of_sweep = p - s->populations >= n_listed && q - s->populations >= n_listed;
        if (of_sweep || !p->name || !q->name || strcmp(p->name, q->name) != 0 || p->seed != q->seed) continue;
        place where = {.source = q->line > 0 ? top->where.source : "--set", .line = q->line};
        char first[32] = "there";
        if (p->line > 0) snprintf(first, sizeof first, "in line %d", p->line);
        problem_at(top->list, where, "populations",
                   "'%s' with seed %llu is already %s; give one another name or seed", q->name,
                   (unsigned long long)q->seed, first);
    }
    free(sorted);
}

static void check_devices(const settings *s, const level *top) {
    int64_t devices = 0;
    for (int i = 0; i < s->n_populations; i++) devices += s->populations[i].devices;
    if (devices > INT32_MAX)
        problem_at(top->list, top->where, "populations",
                   "they have %lld devices together; there can be at most %d", (long long)devices, INT32_MAX);
}

void check_run(const settings *s, const level *top, int n_listed) {
    check_data(top);
    check_steps_of_run(s, top);
    check_parameters(s, top);
    check_held_out_of_run(s, top);
    check_loras(top);
    check_tied(top);
    if (s->base.checkpoint)
        check_checkpoint(top);
    else {
        check_family(s, top);
        check_shape(s, top);
        check_pretraining_text(s, top);
    }
    check_distinct(s, top, n_listed);
    check_devices(s, top);
}

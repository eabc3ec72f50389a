/* settings.c - from a file and overrides to resolved settings. */
#include "config/config.h"

#include <stdlib.h>
#include <string.h>

#include "config/populations.h"
#include "config/sweep.h"
#include "config/table.h"
#include "config/tree.h"
#include "config/tune.h"
#include "config/walk.h"

static void set_defaults(settings *s, population_settings *defaults) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++)
        value_set_default(&rows[i], rows[i].in_population ? (void *)defaults : (void *)s);
}

static int larger(int a, int b) {
    return a > b ? a : b;
}

/* A base that is loaded brings its own shape. */
static void forget_shape(base_settings *b) {
    base_settings loaded = {.checkpoint = b->checkpoint};
    free(b->pretrain.text);
    *b = loaded;
}

/* Llama's MLP has three matrices where GPT-2's has two: at 8/3 of the width they are as large. */
static int usual_ffn(const base_settings *b) {
    return b->family == FAMILY_GPT2 ? 4 * b->width : (8 * b->width + 95) / 96 * 32;
}

/* What follows from other keys, where it is not written. */
static void resolve_base(settings *s, const level *top) {
    base_settings *b = &s->base;
    const data_settings *d = &top->defaults->data;
    bool synthetic = strcmp(d->corpus, "synthetic") == 0 ||
                     (b->pretrain.tokens > 0 && strcmp(b->pretrain.text, "synthetic") == 0);
    if (!level_has(top, "base.pretrain.seed")) b->pretrain.seed = s->seed;
    if (b->pretrain.sequence == 0) b->pretrain.sequence = d->sequence;
    if (b->kv_heads == 0) b->kv_heads = b->heads;
    if (b->ffn == 0) b->ffn = usual_ffn(b);
    if (b->family == FAMILY_LLAMA && b->rope_theta == 0) b->rope_theta = 10000;
    if (b->context == 0) b->context = larger(d->sequence, b->pretrain.sequence);
    if (b->vocabulary == 0) b->vocabulary = synthetic ? d->synthetic.vocabulary : 256;
}

enum { NOT_WRITTEN = -1 };

static void keep_lines(settings *s, const level *top) {
    int count = 0;
    (void)table_rows(&count);
    s->key_lines = config_memory(malloc((size_t)count * sizeof *s->key_lines));
    for (int i = 0; i < count; i++) s->key_lines[i] = top->given[i].source ? top->given[i].line : NOT_WRITTEN;
}

void settings_prefix_line(const settings *s, const char *key, int line, int first, problems *list) {
    if (line > 0)
        problems_prefix(list, first, "%s:%d: %s: ", s->file, line, key);
    else if (line == 0)
        problems_prefix(list, first, "--set %s: ", key);
    else
        problems_prefix(list, first, "%s: %s: ", s->file, key);
}

void settings_prefix(const settings *s, const char *key, int first, problems *list) {
    int count = 0;
    const setting_row *row = table_find(key, false);
    settings_prefix_line(s, key, row && s->key_lines ? s->key_lines[row - table_rows(&count)] : NOT_WRITTEN,
                         first, list);
}

/* tuned: level.tuned */
static void read_tree(settings *s, const node *tree, const char *path, const node *tuned, problems *list) {
    static const char *const not_rows[] = {"populations", "sweep", "tune", NULL};
    population_settings defaults = {0};
    level top = {
        .run = s, .defaults = &defaults, .label = "", .where = {.source = path, .line = 1}, .list = list};
    top.tuned = tuned;
    set_defaults(s, &defaults);
    walk_level(&top, tree, not_rows);
    keep_lines(s, &top);
    resolve_base(s, &top);
    resolve_loras(&top);
    defaults.adapters_line = level_place(&top, "adapters").line;
    keep_data_lines(&top);
    const node *populations = tree_get(tree, "populations"), *sweep = tree_get(tree, "sweep");
    if (populations || !sweep_has_points(sweep)) populations_read(s, &top, populations, list);
    int n_listed = s->n_populations;
    if (sweep) sweep_read(s, &top, sweep);
    check_run(s, &top, n_listed);
    /* not before: populations of another split than the run's have its parameter from here */
    resolve_splits(&defaults);
    if (s->base.checkpoint) forget_shape(&s->base);
    s->data = defaults.data;
    defaults.data = (data_settings){0};
    population_free(&defaults);
}

static settings *read_settings(const node *tree, const char *path, const tune_plan *plan, int combination,
                               problems *list) {
    settings *s = config_memory(calloc(1, sizeof *s));
    node tuned = tune_plan_combination(plan, combination);
    s->file = config_text(path);
    read_tree(s, tree, path, plan->n_keys > 0 ? &tuned : NULL, list);
    free(tuned.entries);
    return s;
}

/* The configuration is read once more with each combination: what follows from a tuned key is then as if that
 * had been written. */
static void read_tuning(settings *s, const node *tree, const char *path, const tune_plan *plan,
                        problems *list) {
    int before = problems_count(list);
    tune_check_rounds(plan, s, list);
    s->tuning = tuning_create(plan, s);
    for (int c = 1; c < s->tuning->n_combinations && problems_count(list) == before; c++) {
        settings *variant = s->tuning->variants[c] = read_settings(tree, path, plan, c, list);
        if (problems_count(list) == before && variant->n_populations != s->n_populations)
            problem_at(list, (place){.source = path, .line = 1}, "sweep.exclude",
                       "leaves other points with other values of a key that is tuned; exclude by other keys");
    }
    if (problems_count(list) == before) tuning_add_trials(s);
}

exit_code settings_load(const char *path, int n_overrides, const char *const *overrides, settings **out,
                        problems *list) {
    size_t bytes = 0;
    char *text = settings_read(path, &bytes, list);
    *out = NULL;
    exit_code code = text ? settings_parse(path, text, bytes, n_overrides, overrides, out, list) : EXIT_INPUT;
    free(text);
    return code;
}

exit_code settings_parse(const char *path, const char *text, size_t bytes, int n_overrides,
                         const char *const *overrides, settings **out, problems *list) {
    int before = problems_count(list);
    *out = NULL;
    node *tree = tree_parse(path, text, bytes, list);
    if (!tree) return EXIT_INPUT;
    for (int i = 0; i < n_overrides; i++) tree_override(tree, overrides[i], list);
    tune_plan plan;
    tune_plan_read(tree_get(tree, "tune"), &plan, list);
    settings *s = read_settings(tree, path, &plan, 0, list);
    if (plan.n_keys > 0 && problems_count(list) == before) read_tuning(s, tree, path, &plan, list);
    tree_destroy(tree);
    if (problems_count(list) > before) {
        settings_destroy(s);
        return EXIT_INPUT;
    }
    *out = s;
    return EXIT_OK;
}

void settings_destroy(settings *s) {
    if (!s) return;
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++)
        if (!rows[i].in_population && (rows[i].type == VALUE_TEXT || rows[i].type == VALUE_WORD))
            free(*(char **)((char *)s + rows[i].offset));
    for (int i = 0; i < s->n_populations; i++) population_free(&s->populations[i]);
    free(s->populations);
    for (int i = 0; i < s->n_axes; i++) free(s->axes[i]);
    free(s->axes);
    population_settings defaults = {.data = s->data};
    population_free(&defaults);
    tuning_destroy(s->tuning);
    free(s->key_lines);
    free(s->file);
    free(s);
}

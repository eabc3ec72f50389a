#include "run/tune.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "config/populations.h"
#include "config/tune.h"
#include "engine/outline.h"
#include "result/tuned.h"
#include "run/folders.h"
#include "support/durable.h"
#include "support/processes.h"
#include "support/progress.h"

typedef struct {
    settings *settings;
    const tuning *tuning;
    const run_options *options;
    ck_collective *collective;
    bool first, quiet;
    char folder[FOLDER_PATH_BYTES], trials[FOLDER_PATH_BYTES];
    int *chosen; /* [n_groups] the combination; -1: it is still to be tried */
} tuner;

enum { UNKNOWN = -1 };

static void join(const char *folder, const char *name, char out[FOLDER_PATH_BYTES]) {
    (void)folder_join(out, folder, name); /* result_find() left room for the longest name */
}

/* ---- What was chosen before ---- */

static bool has_keys(const tuner *w, const csv_file *table) {
    const tuning *t = w->tuning;
    bool same =
        tuned_keys(table) == t->n_keys && strcmp(table->names[0], t->by_name ? "population" : "method") == 0;
    for (int k = 0; k < t->n_keys && same; k++)
        same = strcmp(table->names[TUNED_BEFORE + k], t->keys[k].path) == 0;
    return same;
}

static bool is_row_of(const tuner *w, const csv_file *table, int row, int group, int combination) {
    char *const *cells = table->cells + (size_t)row * (size_t)table->n_columns;
    bool same = strcmp(cells[0], tune_group(w->settings, group)) == 0 &&
                atoi(tuned_from_end(table, row, 3)) == w->tuning->rounds;
    for (int k = 0; k < w->tuning->n_keys && same; k++)
        same = strcmp(cells[TUNED_BEFORE + k], tune_value(w->tuning, combination, k)) == 0;
    return same;
}

static int count_rows(const tuner *w, const csv_file *table, int group) {
    int n = 0;
    for (int row = 0; row < table->n_rows; row++)
        n +=
            strcmp(table->cells[(size_t)row * (size_t)table->n_columns], tune_group(w->settings, group)) == 0;
    return n;
}

/* Whether the rows of a group are those of its trials. */
static bool match_group(tuner *w, const csv_file *table, int group) {
    int matching = 0;
    for (int c = 0; c < w->tuning->n_combinations; c++)
        for (int row = 0; row < table->n_rows; row++) {
            if (!is_row_of(w, table, row, group, c)) continue;
            matching++;
            if (tuned_is_chosen(table, row)) w->chosen[group] = c;
        }
    int n = count_rows(w, table, group);
    return n == 0 || (n == matching && n == w->tuning->n_combinations && w->chosen[group] != UNKNOWN);
}

static exit_code match_table(tuner *w, const csv_file *table, problems *list) {
    for (int g = 0; g < w->tuning->n_groups; g++) w->chosen[g] = UNKNOWN;
    if (table->n_rows == 0) return EXIT_OK;
    bool same = has_keys(w, table);
    int group = 0;
    while (same && group < w->tuning->n_groups && match_group(w, table, group)) group++;
    if (same && group == w->tuning->n_groups) return EXIT_OK;
    return problem(
        list, EXIT_INPUT,
        "%s: is of another tuning than the configuration's: %s%s other keys, values or rounds were "
        "tried; resume with the same tune, or choose another --out",
        table->path, same ? "for " : "", same ? tune_group(w->settings, group) : "");
}

static exit_code read_table(tuner *w, csv_file *table, problems *list) {
    exit_code code = tuned_read(w->folder, table, list);
    return THEN(code, match_table(w, table, list));
}

/* ---- The trials ---- */

static bool has_population(const settings *s, const population_settings *p) {
    for (int i = 0; i < s->n_populations; i++)
        if (strcmp(s->populations[i].name, p->name) == 0 && s->populations[i].seed == p->seed) return true;
    return false;
}

/* Those that ran before, as they are in the result, and those of new groups behind them. */
static exit_code add_new_trials(tuner *w, char *text, size_t bytes, settings **out, problems *list) {
    char path[FOLDER_PATH_BYTES];
    const settings *trials = w->tuning->trials;
    join(w->trials, "config.yaml", path);
    exit_code code = settings_parse(path, text, bytes, 0, NULL, out, list);
    for (int i = 0; i < trials->n_populations && code == EXIT_OK; i++) {
        bool is_new = w->chosen[i / w->tuning->n_combinations] == UNKNOWN;
        if (is_new && !has_population(*out, &trials->populations[i]))
            population_append(*out, &trials->populations[i], trials->populations[i].seed);
    }
    return code;
}

static bool any_known(const tuner *w) {
    for (int g = 0; g < w->tuning->n_groups; g++)
        if (w->chosen[g] != UNKNOWN) return true;
    return false;
}

/* Owned. The result of trials may be read by process 0 alone. */
static exit_code settings_of_trials(tuner *w, settings **out, problems *list) {
    const tuning *t = w->tuning;
    char path[FOLDER_PATH_BYTES], *text = NULL;
    size_t bytes = 0;
    bool before = any_known(w);
    join(w->trials, "config.yaml", path);
    exit_code code = EXIT_OK;
    if (w->first && before && access(path, F_OK) == 0 && !(text = settings_read(path, &bytes, list)))
        code = EXIT_INPUT;
    code = processes_agree(w->collective, code, list);
    if (before) THEN(code, processes_share_text(w->collective, &text, &bytes, list));
    if (code == EXIT_OK && bytes > 0)
        code = add_new_trials(w, text, bytes, out, list);
    else if (code == EXIT_OK) {
        int n = 0, *which = config_memory(calloc((size_t)t->trials->n_populations, sizeof *which));
        for (int i = 0; i < t->trials->n_populations; i++)
            if (w->chosen[i / t->n_combinations] == UNKNOWN) which[n++] = i;
        *out = settings_subset(t->trials, n, which);
        free(which);
    }
    free(text);
    return processes_agree(w->collective, code, list);
}

/* A trial that diverged is one that is not chosen. */
static exit_code run_trials(tuner *w, problems *list) {
    settings *trials = NULL;
    bool complete = false;
    char summary[FOLDER_PATH_BYTES];
    exit_code code = settings_of_trials(w, &trials, list);
    int before = problems_count(list);
    const run_options options = {.out = w->trials,
                                 .resume = true,
                                 .quiet = w->options->quiet,
                                 .label = "tune",
                                 .collective = w->collective};
    THEN(code, run_execute(trials, &options, list));
    settings_destroy(trials);
    if (code == EXIT_INTERRUPTED) {
        problems_drop(list, before);
        return problem(list, code,
                       "interrupted before the values of tune were all tried, and saved; go on with the same "
                       "command, --out %s and --resume",
                       w->folder);
    }
    if (code != EXIT_RUN) return code;
    join(w->trials, "summary.csv", summary);
    if (w->first) complete = summary_is_there(summary);
    exit_code shared = outline_any(w->collective, &complete, list);
    if (shared != EXIT_OK || !complete) return code;
    problems_drop(list, before);
    return EXIT_OK;
}

/* ---- The choice: process 0 ---- */

/* Its validation loss in the result of the trials, as it is written there; NULL: it is not there. */
static const char *loss_of(const tuner *w, const csv_file *summary, int group, int combination) {
    const tuning *t = w->tuning;
    const population_settings *p = &t->trials->populations[group * t->n_combinations + combination];
    int name = csv_column(summary, "population"), seed = csv_column(summary, "seed"),
        loss = csv_column(summary, "valid_loss_mean");
    for (int row = 0; row < summary->n_rows && name >= 0 && seed >= 0 && loss >= 0; row++) {
        char *const *cells = summary->cells + (size_t)row * (size_t)summary->n_columns;
        if (strcmp(cells[name], p->name) == 0 && strtoull(cells[seed], NULL, 10) == p->seed)
            return cells[loss];
    }
    return NULL;
}

static exit_code choose(tuner *w, const csv_file *summary, int group, int *best, problems *list) {
    const tuning *t = w->tuning;
    double lowest = INFINITY;
    *best = UNKNOWN;
    for (int c = 0; c < t->n_combinations; c++) {
        const char *cell = loss_of(w, summary, group, c);
        if (!cell)
            return problem(
                list, EXIT_INPUT,
                "%s: lacks the trial %s, or its valid_loss_mean; remove the folder %s, and tune anew",
                summary->path, t->trials->populations[group * t->n_combinations + c].name, w->trials);
        double loss = cell[0] ? strtod(cell, NULL) : NAN;
        if (loss < lowest || (loss == lowest && *best != UNKNOWN && tune_is_smaller(t, c, *best))) {
            lowest = loss;
            *best = c;
        }
    }
    if (*best != UNKNOWN) return EXIT_OK;
    return problem(
        list, EXIT_RUN,
        "tune: all %d trials of %s diverged, so that there is nothing to choose; try smaller values, "
        "with another --out",
        t->n_combinations, tune_group(w->settings, group));
}

static void write_rows(const tuner *w, const csv_file *summary, int group, int best, FILE *out) {
    const tuning *t = w->tuning;
    for (int c = 0; c < t->n_combinations; c++) {
        csv_text(out, tune_group(w->settings, group));
        for (int k = 0; k < t->n_keys; k++) fprintf(out, ",%s", tune_value(t, c, k));
        fprintf(out, ",%d,%s,%d\n", t->rounds, loss_of(w, summary, group, c), c == best);
    }
}

static void write_table(const tuner *w, const csv_file *old, const csv_file *summary, const int *best,
                        FILE *out) {
    const tuning *t = w->tuning;
    fputs(t->by_name ? "population" : "method", out);
    for (int k = 0; k < t->n_keys; k++) fprintf(out, ",%s", t->keys[k].path);
    fputs(",rounds,valid_loss,chosen\n", out);
    for (int row = 0; row < old->n_rows; row++)
        for (int i = 0; i < old->n_columns; i++) {
            csv_text(out, old->cells[row * old->n_columns + i]);
            fputc(i + 1 < old->n_columns ? ',' : '\n', out);
        }
    for (int g = 0; g < t->n_groups; g++)
        if (w->chosen[g] == UNKNOWN) write_rows(w, summary, g, best[g], out);
}

static exit_code save_table(const tuner *w, const csv_file *old, const csv_file *summary, const int *best,
                            problems *list) {
    char path[FOLDER_PATH_BYTES], *text = NULL;
    size_t bytes = 0;
    join(w->folder, TUNING_TABLE, path);
    FILE *out = config_memory(open_memstream(&text, &bytes));
    write_table(w, old, summary, best, out);
    fclose(out);
    exit_code code = result_write_text(path, config_memory(text), list);
    free(text);
    return code;
}

/* Of the groups that have none yet. */
static exit_code choose_all(tuner *w, csv_file *table, problems *list) {
    const tuning *t = w->tuning;
    char path[FOLDER_PATH_BYTES];
    csv_file summary = {0};
    int *best = config_memory(calloc((size_t)t->n_groups, sizeof *best));
    join(w->trials, "summary.csv", path);
    exit_code code = csv_read(path, &summary, list);
    for (int g = 0; g < t->n_groups && code != EXIT_INPUT; g++) {
        exit_code chosen = w->chosen[g] == UNKNOWN ? choose(w, &summary, g, &best[g], list) : EXIT_OK;
        THEN(code, chosen);
    }
    THEN(code, save_table(w, table, &summary, best, list));
    csv_free(&summary);
    free(best);
    csv_free(table);
    return THEN(code, read_table(w, table, list));
}

/* ---- What is said ---- */

/* Of few values one is always at the edge. */
static void note_edges(const tuner *w, int group) {
    const tuning *t = w->tuning;
    for (int k = 0; k < t->n_keys; k++) {
        const char *text = tune_value(t, w->chosen[group], k);
        double value = strtod(text, NULL), least = INFINITY, most = -INFINITY;
        for (int i = 0; i < t->keys[k].n; i++) {
            least = fmin(least, strtod(t->keys[k].values[i], NULL));
            most = fmax(most, strtod(t->keys[k].values[i], NULL));
        }
        if (t->keys[k].n > 2 && (value == least || value == most))
            progress_note(w->quiet, "%s: %s %s is the %s value tried; a better one may lie beyond it",
                          tune_group(w->settings, group), t->keys[k].path, text,
                          value == least ? "smallest" : "largest");
    }
}

/* As of a key that the method does not have, or of a router in trials that are too short for its training. */
static void note_equals(const tuner *w, const csv_file *table, int chosen, int group) {
    int equal = 0;
    for (int row = 0; row < table->n_rows; row++)
        for (int c = 0; c < w->tuning->n_combinations; c++)
            equal += is_row_of(w, table, row, group, c) &&
                     strcmp(tuned_from_end(table, row, 2), tuned_from_end(table, chosen, 2)) == 0;
    if (equal > 1)
        progress_note(
            w->quiet,
            "%s: %d of its trials have this same loss: what is tuned may change nothing here within "
            "%d rounds; the smallest values were chosen",
            tune_group(w->settings, group), equal, w->tuning->rounds);
    else
        note_edges(w, group);
}

static void say_choices(const tuner *w, const csv_file *table) {
    for (int g = 0; g < w->tuning->n_groups; g++)
        for (int row = 0; row < table->n_rows; row++) {
            if (!is_row_of(w, table, row, g, w->chosen[g])) continue;
            char *text = tuned_text(table, row);
            progress_note(w->quiet, "%s", text ? text : "out of memory");
            note_equals(w, table, row, g);
            free(text);
        }
}

/* ---- All of it ---- */

static exit_code share_choices(tuner *w, problems *list) {
    if (ck_processes(w->collective) == 1) return EXIT_OK;
    size_t bytes = (size_t)w->tuning->n_groups * sizeof *w->chosen;
    return processes_problem(w->collective, ck_collective_broadcast(w->collective, w->chosen, bytes), list);
}

static bool all_known(const tuner *w) {
    for (int g = 0; g < w->tuning->n_groups; g++)
        if (w->chosen[g] == UNKNOWN) return false;
    return true;
}

static exit_code tune(tuner *w, problems *list) {
    csv_file table = {0};
    exit_code code = processes_agree(w->collective, w->first ? read_table(w, &table, list) : EXIT_OK, list);
    THEN(code, share_choices(w, list));
    if (code == EXIT_OK && !all_known(w)) {
        code = run_trials(w, list);
        if (w->first) THEN(code, choose_all(w, &table, list));
        code = processes_agree(w->collective, code, list);
        THEN(code, share_choices(w, list));
    }
    if (code == EXIT_OK && w->first) say_choices(w, &table);
    csv_free(&table);
    return code;
}

/* Process 0 chooses it, and tells the others: it has the name that the settings have before the choice. */
static exit_code find_folder(tuner *w, problems *list) {
    result_folder folder = {0};
    exit_code code = EXIT_OK;
    if (w->first)
        code = w->options->resume ? result_find(w->settings, w->options, &folder, list)
                                  : result_choose(w->settings, w->options, &folder, list);
    code = processes_agree(w->collective, code, list);
    memcpy(w->folder, folder.path, sizeof w->folder);
    if (code == EXIT_OK && ck_processes(w->collective) > 1)
        code = processes_problem(w->collective,
                                 ck_collective_broadcast(w->collective, w->folder, sizeof w->folder), list);
    join(w->folder, TUNING_NAME, w->trials);
    return code;
}

exit_code tune_and_run(settings *s, const run_options *options, problems *list) {
    if (!s->tuning) return run_execute(s, options, list);
    tuner w = {.settings = s,
               .tuning = s->tuning,
               .options = options,
               .collective = options->collective ? options->collective : ck_collective_local()};
    run_options tuned = *options;
    w.first = ck_process(w.collective) == 0;
    w.quiet = options->quiet || !w.first;
    w.chosen = config_memory(calloc((size_t)s->tuning->n_groups, sizeof *w.chosen));
    exit_code code = find_folder(&w, list);
    THEN(code, tune(&w, list));
    if (code == EXIT_OK) tune_choose(s, w.chosen);
    tuned.out = w.folder;
    tuned.tuned = true;
    THEN(code, run_execute(s, &tuned, list));
    free(w.chosen);
    return code;
}

/* summary.c - summary.csv: a row per population, whole or absent. Numbers have nine significant digits, text
 * that holds a comma, a quote or a line break is quoted (RFC 4180), a value that does not exist is an empty
 * cell. Columns of a sweep's axes come last, and of other settings that make populations' text differ. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/table.h"
#include "result/bank.h"
#include "result/csv.h"
#include "result/trace.h"
#include "support/durable.h"

static void put_number(FILE *out, double value) {
    if (!isnan(value)) fprintf(out, "%.9g", value);
}

static void put_population(FILE *out, const summary_row *row) {
    csv_text(out, row->population);
}
static void put_method(FILE *out, const summary_row *row) {
    csv_text(out, row->method);
}
static void put_devices(FILE *out, const summary_row *row) {
    fprintf(out, "%d", row->devices);
}
static void put_seed(FILE *out, const summary_row *row) {
    fprintf(out, "%" PRIu64, row->seed);
}
static void put_per_device(FILE *out, const per_device *x) {
    if (x->n > 0)
        bank_cell(out, x->list, x->n);
    else
        bank_cell(out, &x->value, 1);
}
static void put_generalists(FILE *out, const summary_row *row) {
    put_per_device(out, &row->generalists);
}
static void put_specialists(FILE *out, const summary_row *row) {
    put_per_device(out, &row->specialists);
}
static void put_rank(FILE *out, const summary_row *row) {
    put_per_device(out, &row->rank);
}
static void put_tokens(FILE *out, const summary_row *row) {
    put_per_device(out, &row->tokens_per_device);
}
static void put_split(FILE *out, const summary_row *row) {
    csv_text(out, row->split);
}
static void put_evaluation(FILE *out, const summary_row *row) {
    csv_text(out, row->evaluation);
}
static void put_entropy(FILE *out, const summary_row *row) {
    put_number(out, row->entropy_mean);
}
static void put_held_out_first(FILE *out, const summary_row *row) {
    put_number(out, row->held_out > 0 ? row->held_out_first : NAN);
}
static void put_held_out_last(FILE *out, const summary_row *row) {
    put_number(out, row->held_out > 0 ? row->held_out_last : NAN);
}
static void put_weights(FILE *out, const summary_row *row) {
    if (row->weights) fputs(row->weights, out);
}
static void put_ppl_best(FILE *out, const summary_row *row) {
    if (row->best_round > 0) put_number(out, row->test_ppl_best);
}
static void put_best_round(FILE *out, const summary_row *row) {
    if (row->best_round > 0) fprintf(out, "%d", row->best_round);
}
static void put_rounds_to_target(FILE *out, const summary_row *row) {
    if (row->rounds_to_target > 0) fprintf(out, "%d", row->rounds_to_target);
}
static void put_bytes_to_target(FILE *out, const summary_row *row) {
    if (row->rounds_to_target > 0) fprintf(out, "%" PRId64, row->bytes_to_target);
}

/* The columns in their order, which scripts know. Those without a function belong to a metric or a device
 * state; what these have beside them follows at the end. */
static const struct {
    const char *name;
    void (*put)(FILE *out, const summary_row *row);
    summary_column what; /* of those with a function */
} placed[] = {
    {"population", put_population, {0}},
    {"method", put_method, {0}},
    {"devices", put_devices, {0}},
    {"test_ppl_mean", NULL, {0}},
    {"test_ppl_std", NULL, {0}},
    {"bytes_up", NULL, {0}},
    {"bytes_down", NULL, {0}},
    {"test_ppl_after", NULL, {0}},
    {"seed", put_seed, {0}},
    {"generalists", put_generalists, {0}},
    {"specialists", put_specialists, {0}},
    {"rank", put_rank, {0}},
    {"tokens_per_device", put_tokens, {0}},
    {"split", put_split, {0}},
    {"test_loss_mean", NULL, {0}},
    {"entropy_mean", put_entropy, {SUMMARY_DESCRIBING, "nats/token"}},
    {"aggregate_weights", put_weights, {0}},
    {"valid_loss_mean", NULL, {0}},
    {"test_ppl_best", put_ppl_best, {SUMMARY_MEASURED, ""}},
    {"best_round", put_best_round, {SUMMARY_DESCRIBING, "rounds"}},
    {"rounds_to_target", put_rounds_to_target, {SUMMARY_MEASURED, "rounds"}},
    {"bytes_to_target", put_bytes_to_target, {SUMMARY_MEASURED, "bytes"}},
    {"evaluation", put_evaluation, {0}},
};
enum { N_PLACED = sizeof placed / sizeof *placed };

/* A column of a metric, or of a device state. */
typedef struct {
    const char *name;
    bool of_state;
    metric_id metric;
    int which; /* of the metric's columns */
    device_state_id state;
} measured_column;
enum { MOST_MEASURED = METRIC_COUNT * METRIC_COLUMNS + DEVICE_STATES };

static int list_measured(measured_column out[MOST_MEASURED]) {
    int n = 0;
    for (metric_id id = 0; id < METRIC_COUNT; id++)
        for (int i = 0; i < METRIC_COLUMNS && metrics[id].columns[i].name; i++)
            out[n++] = (measured_column){.name = metrics[id].columns[i].name, .metric = id, .which = i};
    for (device_state_id id = 0; id < DEVICE_STATES; id++)
        if (device_states[id].column)
            out[n++] = (measured_column){.name = device_states[id].column, .of_state = true, .state = id};
    return n;
}

static void put_measured(FILE *out, const measured_column *c, const summary_row *row) {
    if (c->of_state)
        fprintf(out, "%" PRId64, row->of_state[c->state]);
    else
        put_number(out, row->of_metric[c->metric][c->which]);
}

/* Columns behind these, where a population has devices that join late. */
static const struct {
    const char *name;
    void (*put)(FILE *out, const summary_row *row);
} of_held_out[] = {{"held_out_ppl_first", put_held_out_first}, {"held_out_ppl_last", put_held_out_last}};
enum { N_HELD_OUT = sizeof of_held_out / sizeof *of_held_out };

static bool any_held_out(const summary_row *rows, int n) {
    for (int i = 0; i < n; i++)
        if (rows[i].held_out > 0) return true;
    return false;
}

static bool is_placed(const char *name) {
    for (int i = 0; i < N_PLACED; i++)
        if (strcmp(placed[i].name, name) == 0) return true;
    return false;
}

static const char *unit_of(const measured_column *c) {
    if (c->of_state) return "bytes";
    switch (metrics[c->metric].columns[c->which].kind) {
    case SUMMARY_MEAN:
        return metrics[c->metric].units;
    case SUMMARY_PERPLEXITY:
    case SUMMARY_PERPLEXITY_STD:
        break;
    }
    return "";
}

summary_column summary_column_of(const char *name) {
    measured_column measured[MOST_MEASURED];
    int n = list_measured(measured);
    for (int i = 0; i < n; i++)
        if (strcmp(measured[i].name, name) == 0)
            return (summary_column){SUMMARY_MEASURED, unit_of(&measured[i])};
    for (int i = 0; i < N_PLACED; i++)
        if (strcmp(placed[i].name, name) == 0) return placed[i].what;
    for (int i = 0; i < N_HELD_OUT; i++)
        if (strcmp(of_held_out[i].name, name) == 0) return (summary_column){SUMMARY_MEASURED, ""};
    return (summary_column){SUMMARY_SETTING, NULL};
}

/* ---- Axes, and what else populations differ in ---- */

static bool has_column(const char *axis) {
    static const char *const named_otherwise[][2] = {{"experts.rank", "rank"},
                                                     {"data.tokens_per_device", "tokens_per_device"},
                                                     {"data.split", "split"},
                                                     {"data.evaluation", "evaluation"},
                                                     {"aggregate.weights", "aggregate_weights"}};
    for (size_t i = 0; i < sizeof named_otherwise / sizeof *named_otherwise; i++)
        if (strcmp(named_otherwise[i][0], axis) == 0) return is_placed(named_otherwise[i][1]);
    return is_placed(axis);
}

static bool is_axis(const settings *run, const char *path) {
    for (int i = 0; i < run->n_axes; i++)
        if (strcmp(run->axes[i], path) == 0) return true;
    return false;
}

/* Whether a setting says what text devices have, or which of them the means are over. */
static bool is_of_text(const setting_row *setting) {
    return strncmp(setting->path, "data.", 5) == 0 || strcmp(setting->path, "held_out.devices") == 0;
}

static bool differs(const settings *run, const setting_row *setting) {
    char *first = value_plain(setting, &run->populations[0]);
    bool equal = true;
    for (int i = 1; i < run->n_populations && equal; i++) {
        char *other = value_plain(setting, &run->populations[i]);
        equal = strcmp(first, other) == 0;
        free(other);
    }
    free(first);
    return !equal;
}

/* The columns behind all others: the axes, then what else makes populations' text differ, so that nobody
 * compares them as if it were one. Owned by the caller; NULL without memory. */
static const setting_row **list_appended(const settings *run, int *n_out) {
    int n = 0, count = 0;
    const setting_row *all = table_rows(&count);
    const setting_row **out = calloc((size_t)count, sizeof *out); /* an axis is a key, and there once */
    if (!out) return NULL;
    for (int i = 0; run && i < run->n_axes; i++)
        if (!has_column(run->axes[i])) out[n++] = table_find(run->axes[i], true);
    for (int i = 0; run && i < count; i++)
        if (all[i].in_population && !all[i].alias_of && is_of_text(&all[i]) && !has_column(all[i].path) &&
            !is_axis(run, all[i].path) && differs(run, &all[i]))
            out[n++] = &all[i];
    *n_out = n;
    return out;
}

static void put_appended(FILE *out, const setting_row *const appended[], int n, const summary_row *row) {
    for (int i = 0; i < n; i++) {
        char *value = value_plain(appended[i], row->own);
        fputc(',', out);
        csv_text(out, value);
        free(value);
    }
}

/* ---- Lines ---- */

static void put_header(FILE *out, const measured_column *measured, int n, bool held_out,
                       const setting_row *const appended[], int n_appended) {
    for (int i = 0; i < N_PLACED; i++) fprintf(out, "%s%s", i > 0 ? "," : "", placed[i].name);
    for (int i = 0; i < n; i++)
        if (!is_placed(measured[i].name)) fprintf(out, ",%s", measured[i].name);
    for (int i = 0; held_out && i < N_HELD_OUT; i++) fprintf(out, ",%s", of_held_out[i].name);
    for (int i = 0; i < n_appended; i++) fprintf(out, ",%s", appended[i]->path);
    fputc('\n', out);
}

static void put_row(FILE *out, const measured_column *measured, int n, bool held_out,
                    const summary_row *row) {
    for (int i = 0; i < N_PLACED; i++) {
        if (i > 0) fputc(',', out);
        if (placed[i].put) placed[i].put(out, row);
        for (int j = 0; j < n && !placed[i].put; j++)
            if (strcmp(measured[j].name, placed[i].name) == 0) put_measured(out, &measured[j], row);
    }
    for (int i = 0; i < n; i++) {
        if (is_placed(measured[i].name)) continue;
        fputc(',', out);
        put_measured(out, &measured[i], row);
    }
    for (int i = 0; held_out && i < N_HELD_OUT; i++) {
        fputc(',', out);
        of_held_out[i].put(out, row);
    }
}

/* 0 or an errno. */
static int write_rows(const char *path, const summary_row *rows, int n) {
    int n_appended = 0;
    const setting_row **appended = list_appended(n > 0 ? rows[0].run : NULL, &n_appended);
    FILE *out = appended ? fopen(path, "w") : NULL;
    if (!out) {
        int status = appended ? errno : ENOMEM;
        free(appended);
        return status;
    }
    measured_column measured[MOST_MEASURED];
    int n_measured = list_measured(measured);
    bool held_out = any_held_out(rows, n);
    put_header(out, measured, n_measured, held_out, appended, n_appended);
    for (int i = 0; i < n; i++) {
        put_row(out, measured, n_measured, held_out, &rows[i]);
        put_appended(out, appended, n_appended, &rows[i]);
        fputc('\n', out);
    }
    free(appended);
    int status = 0;
    if (fflush(out))
        status = errno;
    else if (ferror(out))
        status = EIO;
    if (fclose(out) && !status) status = errno;
    return status;
}

exit_code summary_write(const char *path, const summary_row *rows, int n, problems *list) {
    char *temporary = durable_temporary(path);
    int status = temporary ? write_rows(temporary, rows, n) : ENOMEM;
    if (!status) status = durable_replace(temporary, path);
    if (status && temporary) unlink(temporary);
    free(temporary);
    if (!status) return EXIT_OK;
    return problem(list, EXIT_RUN,
                   "%s: cannot be written (%s); make room or repair the disk, then go on with --resume", path,
                   strerror(status));
}

bool summary_is_there(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && info.st_size > 0;
}

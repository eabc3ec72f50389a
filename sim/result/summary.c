/* summary.c - summary.csv: a row per population, whole or absent. Numbers have nine significant digits, text
 * that holds a comma, a quote or a line break is quoted (RFC 4180), a value that does not exist is an empty
 * cell. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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
static void put_generalists(FILE *out, const summary_row *row) {
    fprintf(out, "%d", row->generalists);
}
static void put_specialists(FILE *out, const summary_row *row) {
    if (row->specialists_list)
        bank_cell(out, row->specialists_list, row->devices);
    else
        fprintf(out, "%d", row->specialists);
}
static void put_rank(FILE *out, const summary_row *row) {
    fprintf(out, "%d", row->rank);
}
static void put_tokens(FILE *out, const summary_row *row) {
    fprintf(out, "%" PRId64, row->tokens_per_device);
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
static void put_weights(FILE *out, const summary_row *row) {
    if (row->weights) fputs(row->weights, out);
}

/* The columns in their order, which scripts know. Those without a function belong to a metric or a device
 * state; what these have beside them follows at the end. */
static const struct {
    const char *name;
    void (*put)(FILE *out, const summary_row *row);
} placed[] = {
    {"population", put_population},
    {"method", put_method},
    {"devices", put_devices},
    {"test_ppl_mean", NULL},
    {"test_ppl_std", NULL},
    {"bytes_up", NULL},
    {"bytes_down", NULL},
    {"test_ppl_after", NULL},
    {"seed", put_seed},
    {"generalists", put_generalists},
    {"specialists", put_specialists},
    {"rank", put_rank},
    {"tokens_per_device", put_tokens},
    {"split", put_split},
    {"test_loss_mean", NULL},
    {"entropy_mean", put_entropy},
    {"aggregate_weights", put_weights},
    {"evaluation", put_evaluation},
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

static bool is_placed(const char *name) {
    for (int i = 0; i < N_PLACED; i++)
        if (strcmp(placed[i].name, name) == 0) return true;
    return false;
}

static void put_header(FILE *out, const measured_column *measured, int n) {
    for (int i = 0; i < N_PLACED; i++) fprintf(out, "%s%s", i > 0 ? "," : "", placed[i].name);
    for (int i = 0; i < n; i++)
        if (!is_placed(measured[i].name)) fprintf(out, ",%s", measured[i].name);
    fputc('\n', out);
}

static void put_row(FILE *out, const measured_column *measured, int n, const summary_row *row) {
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
    fputc('\n', out);
}

/* 0 or an errno. */
static int write_rows(const char *path, const summary_row *rows, int n) {
    FILE *out = fopen(path, "w");
    if (!out) return errno;
    measured_column measured[MOST_MEASURED];
    int n_measured = list_measured(measured);
    put_header(out, measured, n_measured);
    for (int i = 0; i < n; i++) put_row(out, measured, n_measured, &rows[i]);
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

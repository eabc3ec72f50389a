/* gather.c - the numbers of all devices to process 0, which writes them. Tables are [devices, ...]: of each
 * process its own devices' rows count. Where a population has stopped, process 0 knows it too: nothing that
 * others left in its rows comes through. */
#include <math.h>

#include "engine/session.h"
#include "support/processes.h"

static exit_code gather(session *s, const process_rows *tables, int n, problems *list) {
    return processes_gather(s->collective, s->fleet->n_devices, s->fleet->owner, tables, n, list);
}

static process_rows rows_of(void *values, size_t bytes) {
    return (process_rows){.values = values, .row_bytes = bytes, .stride = bytes};
}

exit_code session_gather_texts(session *s, problems *list) {
    const process_rows text = {
        .values = &s->fleet->devices[0].text, .row_bytes = sizeof(device_text), .stride = sizeof(device)};
    const fleet *f = s->fleet;
    const process_rows tables[] = {text, rows_of(f->mixtures, (size_t)f->most_sources * sizeof *f->mixtures)};
    return gather(s, tables, 2, list);
}

/* One metric's rows: a device's, or a recorded window's. */
static process_rows metric_rows(const session *s, metric_id id, int rows) {
    return rows_of(s->numbers.values[id], metric_bytes(id, &s->numbers.shape) / (size_t)rows);
}

static bool is_of_devices(metric_axes axes) {
    switch (axes) {
    case METRIC_OF_DEVICE:
    case METRIC_OF_EXPERT:
    case METRIC_OF_TRAIN_WINDOW:
    case METRIC_OF_VALID_WINDOW:
        return true;
    case METRIC_OF_RUN:
    case METRIC_OF_POPULATION:
    case METRIC_OF_TOKEN:
    case METRIC_OF_TOKEN_EXPERT:
        break;
    }
    return false;
}

static bool is_of_windows(metric_axes axes) {
    return axes == METRIC_OF_TOKEN || axes == METRIC_OF_TOKEN_EXPERT;
}

/* The metrics of one kind that this round has. */
static int list_metrics(const session *s, bool (*is_of)(metric_axes), int rows,
                        process_rows out[METRIC_COUNT]) {
    int n = 0;
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        bool measured = s->numbers.evaluated || metrics[id].when == METRIC_EACH_ROUND;
        if (measured && is_of(metrics[id].axes) && s->numbers.values[id]) out[n++] = metric_rows(s, id, rows);
    }
    return n;
}

static exit_code gather_devices(session *s, problems *list) {
    process_rows tables[METRIC_COUNT + 3];
    int n = list_metrics(s, is_of_devices, s->fleet->n_devices, tables);
    tables[n++] = (process_rows){
        .values = &s->fleet->devices[0].joined_loss, .row_bytes = sizeof(double), .stride = sizeof(device)};
    if (s->sampled.size.train_steps > 0) {
        tables[n++] = rows_of(s->sampled.first_train, sizeof *s->sampled.first_train);
        tables[n++] = rows_of(s->sampled.first_valid, sizeof *s->sampled.first_valid);
    }
    return gather(s, tables, n, list);
}

exit_code session_gather_steps(session *s, problems *list) {
    s->numbers.evaluated = false;
    return gather_devices(s, list);
}

exit_code session_gather_round(session *s, problems *list) {
    process_rows tables[METRIC_COUNT];
    exit_code code = gather_devices(s, list);
    if (code != EXIT_OK || !s->numbers.evaluated || s->routing.n == 0) return code;
    int n = list_metrics(s, is_of_windows, s->routing.n, tables);
    return processes_gather(s->collective, s->routing.n, s->routing.owners, tables, n, list);
}

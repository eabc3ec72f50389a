/* gather.c - the numbers of all devices to process 0, which writes them. Tables are [devices, ...]: of each process its own devices' rows
 * count. Where a population has stopped, process 0 knows it too: nothing that others left in its rows comes through. */
#include <math.h>

#include "processes.h"
#include "train/session.h"

static exit_code gather(session *s, const process_rows *tables, int n, problems *list) {
    return processes_gather(s->collective, s->fleet->n_devices, s->fleet->owner, tables, n, list);
}

static process_rows rows_of(void *values, size_t bytes) {
    return (process_rows){.values = values, .row_bytes = bytes, .stride = bytes};
}

exit_code session_gather_texts(session *s, problems *list) {
    const process_rows text = {.values = &s->fleet->devices[0].text, .row_bytes = sizeof(device_text), .stride = sizeof(device)};
    return gather(s, &text, 1, list);
}

static int step_tables(const session *s, process_rows out[5]) {
    const sampled_windows *w = &s->sampled;
    const trace_sampling *size = &w->size;
    out[0] = rows_of(s->numbers.train, sizeof *s->numbers.train);
    if (size->train_steps == 0) return 1;
    out[1] = rows_of(w->train, (size_t)size->train_steps * (size_t)size->train_batch * sizeof *w->train);
    out[2] = rows_of(w->valid, (size_t)size->valid_steps * (size_t)size->valid_batch * sizeof *w->valid);
    out[3] = rows_of(w->first_train, sizeof *w->first_train);
    out[4] = rows_of(w->first_valid, sizeof *w->first_valid);
    return 5;
}

exit_code session_gather_steps(session *s, problems *list) {
    process_rows tables[5];
    return gather(s, tables, step_tables(s, tables), list);
}

static int evaluation_tables(const session *s, process_rows out[5]) {
    const round_numbers *n = &s->numbers;
    size_t experts = (size_t)s->base.shape.layers * (size_t)s->max_experts * sizeof(float);
    out[0] = rows_of(n->valid, sizeof *n->valid);
    out[1] = rows_of(n->test, sizeof *n->test);
    out[2] = rows_of(n->test_after, sizeof *n->test_after);
    out[3] = rows_of(n->gate_mean, experts);
    out[4] = rows_of(n->token_share, experts);
    return 5;
}

static exit_code gather_windows(session *s, problems *list) {
    size_t tokens = (size_t)s->sequence, per_token = (size_t)s->base.shape.layers * (size_t)s->max_experts;
    const process_rows tables[2] = {rows_of(s->numbers.routing_ids, tokens * sizeof *s->numbers.routing_ids),
                                    rows_of(s->numbers.routing_gates, tokens * per_token * sizeof *s->numbers.routing_gates)};
    return processes_gather(s->collective, s->n_routing_windows, s->routing_owners, tables, 2, list);
}

exit_code session_gather_round(session *s, bool evaluated, problems *list) {
    process_rows tables[10];
    int n = step_tables(s, tables);
    if (evaluated) n += evaluation_tables(s, tables + n);
    exit_code code = gather(s, tables, n, list);
    return code == EXIT_OK && evaluated && s->n_routing_windows > 0 ? gather_windows(s, list) : code;
}

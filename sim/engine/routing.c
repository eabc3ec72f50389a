/* routing.c - tokens and gates of the recorded windows, into numbers. */
#include "engine/routing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/session.h"
#include "support/processes.h"

static void choose(routing_windows *r, const fleet *f, const int *routed, int n) {
    for (int w = 0; w < r->n; w++) {
        r->devices[w] = routed[r->n < n ? (int64_t)w * n / r->n : w % n];
        r->owners[w] = f->owner[r->devices[w]];
        if (r->owners[w] == f->place.process) r->local[r->n_local++] = w;
    }
}

exit_code routing_create(routing_windows *r, const fleet *f, const run_plan *plan, int layers,
                         problems *list) {
    *r = (routing_windows){.n = plan->n_routing_windows};
    if (r->n == 0) return EXIT_OK;
    size_t windows = (size_t)r->n, values = (size_t)plan->record.max_tokens * (size_t)layers * CK_MAX_EXPERTS;
    r->devices = calloc(windows, sizeof *r->devices);
    r->owners = calloc(windows, sizeof *r->owners);
    r->local = calloc(windows, sizeof *r->local);
    r->gates = malloc(values * sizeof *r->gates);
    int *routed = malloc((size_t)f->n_devices * sizeof *routed), n = 0;
    bool ok = r->devices && r->owners && r->local && r->gates && routed;
    for (int i = 0; ok && i < f->n_devices; i++)
        if (f->shapes[f->devices[i].shape].router_rows > 0) routed[n++] = i;
    if (ok) choose(r, f, routed, n);
    free(routed);
    return ok ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for the recorded windows");
}

void routing_destroy(routing_windows *r) {
    free(r->devices);
    free(r->owners);
    free(r->local);
    free(r->gates);
    *r = (routing_windows){0};
}

/* ---- Recording ---- */

/* A device may own several of the windows: its own first, second ... evaluation window. */
static int window_of(const session *s, int w) {
    int nth = 0;
    for (int i = 0; i < w; i++) nth += s->routing.devices[i] == s->routing.devices[w];
    return nth;
}

static bool routing_window_fits(const session *s, int w) {
    return wave_fits(s->waves.filling, 1, s->settings->data.sequence,
                     wave_pack(s->fleet, s->routing.devices[w], 0));
}

/* An example may be shorter than a window: there is no token behind it. */
static void record_ids(session *s, int w, int q) {
    const wave_buffer *from = s->waves.filling;
    int sequence = s->settings->data.sequence;
    int32_t *ids = metric_ints(&s->numbers, METRIC_ROUTING_IDS) + (int64_t)w * sequence;
    int64_t first = from->first_token[q], n = from->first_token[q + 1] - first;
    memcpy(ids, from->tokens + first, (size_t)n * sizeof *ids);
    for (int64_t t = n; t < sequence; t++) ids[t] = -1;
}

static exit_code add_routing_window(session *s, int w, problems *list) {
    int index = s->routing.devices[w];
    const device_data *data = s->fleet->devices[index].data;
    int windows = device_data_fixed_count(data, DATA_TEST, s->settings->evaluate.windows);
    data_window window;
    exit_code code = device_data_fixed(data, DATA_TEST, window_of(s, w) % windows, windows,
                                       s->settings->data.sequence, &window, list);
    wave_add_device(s->waves.filling, s->fleet, index, 0);
    THEN(code, wave_add_window(s->waves.filling, &window, list));
    if (code == EXIT_OK) record_ids(s, w, s->waves.filling->n_sequences - 1);
    return pipeline_check(&s->waves, code);
}

/* One window's gates from [tokens, layers, CK_MAX_EXPERTS] to [sequence, layers, experts]. */
static void copy_gates(session *s, int window, const float *from, int64_t tokens) {
    const device *d = &s->fleet->devices[s->routing.devices[window]];
    const metric_shape *shape = &s->numbers.shape;
    int experts = session_has(s, d) ? device_experts(d) : 0;
    int64_t rows = (int64_t)shape->sequence * shape->layers, there = tokens * shape->layers;
    float *to = metric_floats(&s->numbers, METRIC_ROUTING_GATES) + window * rows * shape->experts;
    for (int64_t row = 0; row < rows; row++)
        for (int e = 0; e < shape->experts; e++)
            to[row * shape->experts + e] = row < there && e < experts ? from[row * CK_MAX_EXPERTS + e] : NAN;
}

static int64_t token_gates(const session *s) {
    return (int64_t)s->programs.base.shape.layers * CK_MAX_EXPERTS;
}

/* What is recorded: the windows of routing.local from `first` on. */
typedef struct {
    session *session;
    int first;
} recording;

static ck_status record_started(void *context, wave_buffer *w) {
    const session *s = ((const recording *)context)->session;
    size_t bytes = (size_t)(w->first_token[w->n_sequences] * token_gates(s)) * sizeof(float);
    return ck_download(s->stream, s->routing.gates, s->programs.record_outputs.gate_record, bytes);
}

static ck_status record_finished(void *context, wave_buffer *w) {
    const recording *r = context;
    session *s = r->session;
    for (int q = 0; q < w->n_sequences; q++)
        copy_gates(s, s->routing.local[r->first + q], s->routing.gates + w->first_token[q] * token_gates(s),
                   w->first_token[q + 1] - w->first_token[q]);
    return CK_OK;
}

static exit_code record_local(session *s, problems *list) {
    recording r = {.session = s};
    const wave_work work = {.what = "recording the routing",
                            .program = s->programs.record,
                            .started = record_started,
                            .finished = record_finished,
                            .context = &r};
    exit_code code = EXIT_OK;
    for (int end = 0; r.first < s->routing.n_local && code == EXIT_OK; r.first = end) {
        while (code == EXIT_OK && end < s->routing.n_local && end - r.first < s->plan.record.max_sequences &&
               routing_window_fits(s, s->routing.local[end]))
            code = add_routing_window(s, s->routing.local[end++], list);
        THEN(code, pipeline_once(&s->waves, &work, list));
    }
    return code;
}

exit_code session_record_routing(session *s, problems *list) {
    return processes_agree(s->collective, record_local(s, list), list);
}

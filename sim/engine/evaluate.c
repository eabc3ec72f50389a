/* evaluate.c - losses and routing statistics on fixed windows. Losses are means over the tokens that count,
 * routing statistics over all.
 *
 * An evaluation's windows may be split over waves: every number is kept per window and summed in window
 * order, so the split changes no bit. gate_mean is the mean weight of an expert over tokens, token_share the
 * share of tokens whose first choice it is. */
#include <math.h>
#include <string.h>

#include "engine/pipeline.h"
#include "engine/session.h"
#include "support/processes.h"

static bool takes_part(const device *d, const evaluation_order *order) {
    return !d->stopped && (!order->only_averaged || d->bytes_a_round > 0);
}

static float *device_experts(const session *s, float *table, int device_index) {
    return table + (int64_t)device_index * s->base.shape.layers * s->max_experts;
}

/* Adds a window's sums [layers, CK_MAX_EXPERTS] to a device's row [layers, max_experts]. */
static void add_statistics(const session *s, int device_index, int window, const float *sums, float *table) {
    int layers = s->base.shape.layers,
        experts = s->fleet->shapes[s->fleet->devices[device_index].shape].n_experts;
    float *row = device_experts(s, table, device_index);
    const float *from = sums + (int64_t)window * layers * CK_MAX_EXPERTS;
    for (int l = 0; l < layers; l++)
        for (int e = 0; e < experts; e++) row[l * s->max_experts + e] += from[l * CK_MAX_EXPERTS + e];
}

/* What is evaluated, and the losses that it adds to. */
typedef struct {
    const evaluation_order *order;
    double *loss; /* [devices] */
} evaluation;

static ck_status evaluation_started(session *s, wave_buffer *w, const void *context) {
    const evaluation *e = context;
    const model_outputs *out = &s->evaluation_outputs;
    size_t n = (size_t)w->n_sequences,
           statistics = n * (size_t)s->base.shape.layers * CK_MAX_EXPERTS * sizeof(float);
    (void)ck_download(s->stream, w->loss, out->loss, n * sizeof(float));
    if (e->order->routing) (void)ck_download(s->stream, s->host.gate_sum, out->gate_sum, statistics);
    if (e->order->routing) (void)ck_download(s->stream, s->host.top1_count, out->top1_count, statistics);
    return ck_stream_status(s->stream);
}

static ck_status evaluation_finished(session *s, wave_buffer *w, const void *context) {
    const evaluation *e = context;
    for (int i = 0; i < w->n_devices; i++) {
        int index = w->device_index[i];
        if (w->fault[i] >= 0) session_diverged(s, index, w->fault[i], DIVERGED_IN_EVALUATION);
        s->evaluated[index].tokens += wave_tokens(w, i);
        s->evaluated[index].counted += wave_counted(w, i);
        for (int q = w->first_sequence[i]; q < w->first_sequence[i + 1]; q++) {
            e->loss[index] += w->loss[q];
            if (!e->order->routing) continue;
            add_statistics(s, index, q, s->host.gate_sum, metric_floats(&s->numbers, METRIC_GATE_MEAN));
            add_statistics(s, index, q, s->host.top1_count, metric_floats(&s->numbers, METRIC_TOKEN_SHARE));
        }
    }
    return CK_OK;
}

static exit_code add_device(session *s, int device_index, const wave_work *work, problems *list) {
    const device *d = &s->fleet->devices[device_index];
    const evaluation *e = work->context;
    int windows = device_data_fixed_count(d->data, e->order->part, s->settings->evaluate.windows);
    bool in_wave = false;
    exit_code code = EXIT_OK;
    for (int i = 0; i < windows && !d->stopped && code == EXIT_OK; i++) {
        data_window window;
        code = device_data_fixed(d->data, e->order->part, i, windows, s->sequence, &window, list);
        if (code != EXIT_OK) return pipeline_check(s, code);
        if (!wave_fits(s->filling, 1, window.tokens, in_wave ? 0 : wave_pack(s->fleet, device_index, 0))) {
            code = pipeline_turn(s, work, list);
            in_wave = false;
        }
        if (code != EXIT_OK || d->stopped) break;
        if (!in_wave) wave_add_device(s->filling, s->fleet, device_index, 0);
        in_wave = true;
        code = pipeline_check(s, wave_add_window(s->filling, &window, list));
    }
    return code;
}

/* NaN where a device has no value. */
static void clear_row(session *s, int device_index, int experts) {
    float *mean = device_experts(s, metric_floats(&s->numbers, METRIC_GATE_MEAN), device_index),
          *share = device_experts(s, metric_floats(&s->numbers, METRIC_TOKEN_SHARE), device_index);
    for (int l = 0; l < s->base.shape.layers; l++)
        for (int e = 0; e < s->max_experts; e++)
            mean[l * s->max_experts + e] = share[l * s->max_experts + e] = e < experts ? 0.0F : NAN;
}

static void clear_tables(session *s) {
    for (int d = 0; d < s->fleet->n_devices; d++)
        clear_row(s, d, s->fleet->shapes[s->fleet->devices[d].shape].n_experts);
}

static void divide_row(session *s, int device_index, double tokens) {
    float *mean = device_experts(s, metric_floats(&s->numbers, METRIC_GATE_MEAN), device_index),
          *share = device_experts(s, metric_floats(&s->numbers, METRIC_TOKEN_SHARE), device_index);
    for (int i = 0; i < s->base.shape.layers * s->max_experts; i++) {
        mean[i] = (float)(mean[i] / tokens);
        share[i] = (float)(share[i] / tokens);
    }
}

/* The devices of this process. */
static exit_code evaluate_local(session *s, const evaluation_order *order, double *loss, problems *list) {
    const fleet *f = s->fleet;
    const evaluation e = {.order = order, .loss = loss};
    const wave_work work = {.what = "evaluation",
                            .program = s->evaluation,
                            .started = evaluation_started,
                            .finished = evaluation_finished,
                            .context = &e};
    exit_code code = EXIT_OK;
    for (int i = 0; i < f->n_local; i++) {
        s->evaluated[f->local[i]] = (evaluated_tokens){0, 0};
        if (takes_part(&f->devices[f->local[i]], order)) loss[f->local[i]] = 0.0;
    }
    for (int i = 0; i < f->n_local && code == EXIT_OK; i++)
        if (takes_part(&f->devices[f->local[i]], order)) code = add_device(s, f->local[i], &work, list);
    if (code == EXIT_OK) code = pipeline_end(s, &work, list);
    if (code != EXIT_OK) return code;
    for (int i = 0; i < f->n_local; i++) {
        int index = f->local[i];
        if (!takes_part(&f->devices[index], order)) continue;
        loss[index] /= (double)s->evaluated[index].counted;
        if (order->routing) divide_row(s, index, (double)s->evaluated[index].tokens);
        if (!isfinite(loss[index])) session_diverged(s, index, -1, DIVERGED_IN_EVALUATION);
    }
    return EXIT_OK;
}

exit_code session_evaluate(session *s, evaluation_order order, metric_id into, problems *list) {
    double *loss = metric_doubles(&s->numbers, into);
    if (order.routing) clear_tables(s);
    exit_code code = session_agree(s, evaluate_local(s, &order, loss, list), list);
    for (int i = 0; i < s->fleet->n_devices; i++) {
        if (!s->fleet->devices[i].stopped) continue;
        loss[i] = NAN;
        if (order.routing) clear_row(s, i, 0);
    }
    return code;
}

/* A device may own several of the windows: its own first, second ... evaluation window. */
static int window_of(const session *s, int w) {
    int nth = 0;
    for (int i = 0; i < w; i++) nth += s->routing_devices[i] == s->routing_devices[w];
    return nth;
}

static bool routing_window_fits(const session *s, int w) {
    return wave_fits(s->filling, 1, s->sequence, wave_pack(s->fleet, s->routing_devices[w], 0));
}

/* An example may be shorter than a window: there is no token behind it. */
static void record_ids(session *s, int w, int q) {
    const wave_buffer *from = s->filling;
    int32_t *ids = metric_ints(&s->numbers, METRIC_ROUTING_IDS) + (int64_t)w * s->sequence;
    int64_t first = from->first_token[q], n = from->first_token[q + 1] - first;
    memcpy(ids, from->tokens + first, (size_t)n * sizeof *ids);
    for (int64_t t = n; t < s->sequence; t++) ids[t] = -1;
}

static exit_code add_routing_window(session *s, int w, problems *list) {
    int index = s->routing_devices[w];
    const device_data *data = s->fleet->devices[index].data;
    int windows = device_data_fixed_count(data, DATA_TEST, s->settings->evaluate.windows);
    data_window window;
    exit_code code =
        device_data_fixed(data, DATA_TEST, window_of(s, w) % windows, windows, s->sequence, &window, list);
    wave_add_device(s->filling, s->fleet, index, 0);
    if (code == EXIT_OK) code = wave_add_window(s->filling, &window, list);
    if (code == EXIT_OK) record_ids(s, w, s->filling->n_sequences - 1);
    return pipeline_check(s, code);
}

/* One window's gates from [tokens, layers, CK_MAX_EXPERTS] to [sequence, layers, max_experts]. */
static void copy_gates(session *s, int window, const float *from, int64_t tokens) {
    const device *d = &s->fleet->devices[s->routing_devices[window]];
    int experts = d->stopped ? 0 : s->fleet->shapes[d->shape].n_experts;
    int64_t rows = (int64_t)s->sequence * s->base.shape.layers, there = tokens * s->base.shape.layers;
    float *to = metric_floats(&s->numbers, METRIC_ROUTING_GATES) + window * rows * s->max_experts;
    for (int64_t row = 0; row < rows; row++)
        for (int e = 0; e < s->max_experts; e++)
            to[row * s->max_experts + e] = row < there && e < experts ? from[row * CK_MAX_EXPERTS + e] : NAN;
}

static int64_t token_gates(const session *s) {
    return (int64_t)s->base.shape.layers * CK_MAX_EXPERTS;
}

static ck_status record_started(session *s, wave_buffer *w, const void *context) {
    (void)context;
    size_t bytes = (size_t)(w->first_token[w->n_sequences] * token_gates(s)) * sizeof(float);
    return ck_download(s->stream, s->host.gate_record, s->record_outputs.gate_record, bytes);
}

/* context: the first of the wave's windows, in my_windows. */
static ck_status record_finished(session *s, wave_buffer *w, const void *context) {
    int first = *(const int *)context;
    for (int q = 0; q < w->n_sequences; q++)
        copy_gates(s, s->my_windows[first + q], s->host.gate_record + w->first_token[q] * token_gates(s),
                   w->first_token[q + 1] - w->first_token[q]);
    return CK_OK;
}

static exit_code record_local(session *s, problems *list) {
    int first = 0, end = 0;
    const wave_work work = {.what = "recording the routing",
                            .program = s->record,
                            .started = record_started,
                            .finished = record_finished,
                            .context = &first};
    exit_code code = EXIT_OK;
    for (; first < s->n_my_windows && code == EXIT_OK; first = end) {
        while (code == EXIT_OK && end < s->n_my_windows && end - first < s->plan.record.max_sequences &&
               routing_window_fits(s, s->my_windows[end]))
            code = add_routing_window(s, s->my_windows[end++], list);
        if (code == EXIT_OK) code = pipeline_once(s, &work, list);
    }
    return code;
}

exit_code session_record_routing(session *s, problems *list) {
    return processes_agree(s->collective, record_local(s, list), list);
}

/* evaluate.c - losses and routing statistics on fixed windows.
 *
 * An evaluation's windows may be split over waves: every number is kept per window and summed in window order, so the split changes
 * no bit. gate_mean is the mean weight of an expert over tokens, token_share the share of tokens whose first choice it is. */
#include <math.h>
#include <string.h>

#include "kernel_problem.h"
#include "processes.h"
#include "train/session.h"

static bool takes_part(const device *d, const evaluation_order *order) {
    return !d->stopped && (!order->only_averaged || d->bytes_a_round > 0);
}

static float *device_experts(const session *s, float *table, int device_index) {
    return table + (int64_t)device_index * s->base.shape.layers * s->max_experts;
}

/* Adds a window's sums [layers, CK_MAX_EXPERTS] to a device's row [layers, max_experts]. */
static void add_statistics(const session *s, int device_index, int window, const float *sums, float *table) {
    int layers = s->base.shape.layers, experts = s->fleet->shapes[s->fleet->devices[device_index].shape].n_experts;
    float *row = device_experts(s, table, device_index);
    const float *from = sums + (int64_t)window * layers * CK_MAX_EXPERTS;
    for (int l = 0; l < layers; l++)
        for (int e = 0; e < experts; e++) row[l * s->max_experts + e] += from[l * CK_MAX_EXPERTS + e];
}

static void collect(session *s, const evaluation_order *order, double *loss) {
    const wave_buffer *w = s->wave;
    for (int i = 0; i < w->n_devices; i++) {
        int index = w->device_index[i];
        if (w->fault[i] >= 0) session_diverged(s, index, w->fault[i], DIVERGED_IN_EVALUATION);
        for (int q = w->first_sequence[i]; q < w->first_sequence[i + 1]; q++) {
            loss[index] += w->loss[q];
            if (!order->routing) continue;
            add_statistics(s, index, q, s->host.gate_sum, s->numbers.gate_mean);
            add_statistics(s, index, q, s->host.top1_count, s->numbers.token_share);
        }
    }
}

static exit_code run_wave(session *s, const evaluation_order *order, double *loss, problems *list) {
    if (s->wave->n_devices == 0) return EXIT_OK;
    ck_wave wave = wave_view(s->wave, s->fleet, NULL);
    size_t n = (size_t)wave.n_sequences, statistics = n * (size_t)s->base.shape.layers * CK_MAX_EXPERTS * sizeof(float);
    const model_outputs *out = &s->evaluation_outputs;
    ck_status status = ck_run(s->evaluation, s->stream, &wave);
    if (status == CK_OK) status = ck_download(s->stream, s->wave->loss, out->loss, n * sizeof(float));
    if (status == CK_OK && order->routing) status = ck_download(s->stream, s->host.gate_sum, out->gate_sum, statistics);
    if (status == CK_OK && order->routing) status = ck_download(s->stream, s->host.top1_count, out->top1_count, statistics);
    if (status == CK_OK) status = ck_wait(s->stream);
    if (status == CK_OK) collect(s, order, loss);
    wave_clear(s->wave);
    return kernel_problem(list, s->backend, status, "evaluation");
}

static exit_code add_device(session *s, int device_index, const evaluation_order *order, double *loss, problems *list) {
    const device *d = &s->fleet->devices[device_index];
    int windows = s->settings->evaluate.windows;
    exit_code code = EXIT_OK;
    for (int i = 0; i < windows && code == EXIT_OK; i++) {
        bool full = !wave_fits(s->wave, 1, s->sequence, 0);
        if (full) code = run_wave(s, order, loss, list);
        if (code != EXIT_OK) break;
        if (i == 0 || full) wave_add_device(s->wave, s->fleet, device_index, 0);
        int32_t *tokens, *targets;
        wave_add_window(s->wave, s->sequence, &tokens, &targets);
        device_data_fixed(d->data, order->part, i, windows, s->sequence, tokens, targets);
    }
    return code;
}

static void clear_tables(session *s) {
    int64_t n = (int64_t)s->fleet->n_devices * s->base.shape.layers * s->max_experts;
    for (int64_t i = 0; i < n; i++) s->numbers.gate_mean[i] = s->numbers.token_share[i] = NAN;
    for (int d = 0; d < s->fleet->n_devices; d++) {
        int experts = s->fleet->shapes[s->fleet->devices[d].shape].n_experts;
        for (int l = 0; !s->fleet->devices[d].stopped && l < s->base.shape.layers; l++)
            for (int e = 0; e < experts; e++) {
                int64_t at = ((int64_t)d * s->base.shape.layers + l) * s->max_experts + e;
                s->numbers.gate_mean[at] = s->numbers.token_share[at] = 0.0F;
            }
    }
}

static void divide_tables(session *s, double tokens) {
    int64_t n = (int64_t)s->fleet->n_devices * s->base.shape.layers * s->max_experts;
    for (int64_t i = 0; i < n; i++) {
        s->numbers.gate_mean[i] = (float)(s->numbers.gate_mean[i] / tokens);
        s->numbers.token_share[i] = (float)(s->numbers.token_share[i] / tokens);
    }
}

/* The devices of this process. */
static exit_code evaluate_mine(session *s, const evaluation_order *order, double *loss, problems *list) {
    const fleet *f = s->fleet;
    double tokens = (double)s->settings->evaluate.windows * s->sequence;
    exit_code code = EXIT_OK;
    for (int i = 0; i < f->n_mine; i++)
        if (takes_part(&f->devices[f->mine[i]], order)) loss[f->mine[i]] = 0.0;
    for (int i = 0; i < f->n_mine && code == EXIT_OK; i++)
        if (takes_part(&f->devices[f->mine[i]], order)) code = add_device(s, f->mine[i], order, loss, list);
    if (code == EXIT_OK) code = run_wave(s, order, loss, list);
    if (code != EXIT_OK) return code;
    if (order->routing) divide_tables(s, tokens);
    for (int i = 0; i < f->n_mine; i++) {
        int index = f->mine[i];
        if (!takes_part(&f->devices[index], order)) continue;
        loss[index] /= tokens;
        if (!isfinite(loss[index])) session_diverged(s, index, -1, DIVERGED_IN_EVALUATION);
    }
    return EXIT_OK;
}

exit_code session_evaluate(session *s, evaluation_order order, double *loss, problems *list) {
    if (order.routing) clear_tables(s);
    exit_code code = session_agree(s, evaluate_mine(s, &order, loss, list), list);
    for (int i = 0; i < s->fleet->n_devices; i++)
        if (s->fleet->devices[i].stopped) loss[i] = NAN;
    return code;
}

/* A device may own several of the windows: its own first, second ... evaluation window. */
static int window_of(const session *s, int w) {
    int nth = 0;
    for (int i = 0; i < w; i++) nth += s->routing_devices[i] == s->routing_devices[w];
    return nth % s->settings->evaluate.windows;
}

/* first, end: into my_windows. */
static void add_routing_windows(session *s, int first, int end) {
    for (int i = first; i < end; i++) {
        int w = s->my_windows[i];
        const device *d = &s->fleet->devices[s->routing_devices[w]];
        int32_t *tokens, *targets;
        wave_add_device(s->wave, s->fleet, s->routing_devices[w], 0);
        wave_add_window(s->wave, s->sequence, &tokens, &targets);
        device_data_fixed(d->data, DATA_TEST, window_of(s, w), s->settings->evaluate.windows, s->sequence, tokens, targets);
        memcpy(s->numbers.routing_ids + (int64_t)w * s->sequence, tokens, (size_t)s->sequence * sizeof *tokens);
    }
}

/* One window's gates from [tokens, layers, CK_MAX_EXPERTS] to [tokens, layers, max_experts]. */
static void copy_gates(session *s, int window, const float *from) {
    const device *d = &s->fleet->devices[s->routing_devices[window]];
    int experts = d->stopped ? 0 : s->fleet->shapes[d->shape].n_experts;
    int64_t rows = (int64_t)s->sequence * s->base.shape.layers;
    float *to = s->numbers.routing_gates + window * rows * s->max_experts;
    for (int64_t row = 0; row < rows; row++)
        for (int e = 0; e < s->max_experts; e++) to[row * s->max_experts + e] = e < experts ? from[row * CK_MAX_EXPERTS + e] : NAN;
}

static ck_status record_chunk(session *s, int first, int end) {
    add_routing_windows(s, first, end);
    ck_wave wave = wave_view(s->wave, s->fleet, NULL);
    int64_t window = (int64_t)s->sequence * s->base.shape.layers * CK_MAX_EXPERTS;
    size_t bytes = (size_t)(end - first) * (size_t)window * sizeof(float);
    ck_status status = ck_run(s->record, s->stream, &wave);
    if (status == CK_OK) status = ck_download(s->stream, s->host.gate_record, s->record_outputs.gate_record, bytes);
    if (status == CK_OK) status = ck_wait(s->stream);
    for (int i = first; i < end && status == CK_OK; i++) copy_gates(s, s->my_windows[i], s->host.gate_record + (i - first) * window);
    wave_clear(s->wave);
    return status;
}

exit_code session_record_routing(session *s, problems *list) {
    ck_status status = CK_OK;
    int chunk = s->plan.record.max_sequences;
    for (int first = 0; first < s->n_my_windows && status == CK_OK; first += chunk)
        status = record_chunk(s, first, first + chunk < s->n_my_windows ? first + chunk : s->n_my_windows);
    return processes_agree(s->collective, kernel_problem(list, s->backend, status, "recording the routing"), list);
}

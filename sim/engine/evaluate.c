/* evaluate.c - losses and routing statistics on fixed windows. Losses are means over the tokens that count,
 * routing statistics over all.
 *
 * An evaluation's windows may be split over waves: every number is kept per window and summed in window
 * order, so the split changes no bit. gate_mean is the mean weight of an expert over tokens, token_share the
 * share of tokens whose first choice it is. */
#include <math.h>
#include <stdlib.h>

#include "engine/session.h"
#include "support/processes.h"

exit_code evaluation_sums_create(evaluation_sums *sums, const run_plan *plan, int layers, int devices,
                                 problems *list) {
    size_t values = (size_t)plan->limits.max_sequences * (size_t)layers * CK_MAX_EXPERTS;
    sums->gate_sum = malloc(values * sizeof *sums->gate_sum);
    sums->top1_count = malloc(values * sizeof *sums->top1_count);
    sums->tokens = calloc((size_t)devices, sizeof *sums->tokens);
    return sums->gate_sum && sums->top1_count && sums->tokens
               ? EXIT_OK
               : problem(list, EXIT_ENVIRONMENT, "out of memory for the numbers of a wave");
}

void evaluation_sums_destroy(evaluation_sums *sums) {
    free(sums->gate_sum);
    free(sums->top1_count);
    free(sums->tokens);
    *sums = (evaluation_sums){0};
}

/* Whether there is a number of the device. */
static bool is_there(const session *s, const device *d, const evaluation_order *order) {
    participation in_round = fleet_participation(s->fleet, d, s->at.round);
    return !d->stopped && (in_round.present || (order->after && in_round.receives));
}

/* Whether it is measured now: after the aggregation, devices that have not changed are not. */
static bool takes_part(const session *s, const device *d, const evaluation_order *order) {
    bool joins = schedule_joins_next(fleet_participation(s->fleet, d, s->at.round));
    if (!is_there(s, d, order)) return false;
    return joins || (!order->joining && (!order->after || d->bytes_a_round > 0));
}

/* A device's row [layers, experts]. */
static float *row_of(const metric_row *numbers, metric_id table, int device_index) {
    const metric_shape *shape = &numbers->shape;
    return metric_floats(numbers, table) + (int64_t)device_index * shape->layers * shape->experts;
}

/* Adds a window's sums [layers, CK_MAX_EXPERTS] to a row of so many experts. */
static void add_statistics(const metric_shape *shape, int experts, const float *sums, float *row) {
    for (int l = 0; l < shape->layers; l++)
        for (int e = 0; e < experts; e++) row[l * shape->experts + e] += sums[l * CK_MAX_EXPERTS + e];
}

/* What is evaluated, and the losses that it adds to. */
typedef struct {
    session *session;
    const evaluation_order *order;
    double *loss; /* [devices] */
} evaluation;

static ck_status evaluation_started(void *context, wave_buffer *w) {
    const evaluation *e = context;
    const session *s = e->session;
    const model_outputs *out = &s->programs.evaluation_outputs;
    size_t n = (size_t)w->n_sequences,
           statistics = n * (size_t)s->programs.base.shape.layers * CK_MAX_EXPERTS * sizeof(float);
    (void)ck_download(s->stream, w->loss, out->loss, n * sizeof(float));
    if (e->order->routing) (void)ck_download(s->stream, s->sums.gate_sum, out->gate_sum, statistics);
    if (e->order->routing) (void)ck_download(s->stream, s->sums.top1_count, out->top1_count, statistics);
    return ck_stream_status(s->stream);
}

/* Adds the gates of the wave's window q to the device's rows. */
static void add_window(session *s, int device_index, int q) {
    const metric_shape *shape = &s->numbers.shape;
    int experts = device_experts(&s->fleet->devices[device_index]);
    int64_t at = (int64_t)q * shape->layers * CK_MAX_EXPERTS;
    add_statistics(shape, experts, s->sums.gate_sum + at,
                   row_of(&s->numbers, METRIC_GATE_MEAN, device_index));
    add_statistics(shape, experts, s->sums.top1_count + at,
                   row_of(&s->numbers, METRIC_TOKEN_SHARE, device_index));
}

static ck_status evaluation_finished(void *context, wave_buffer *w) {
    const evaluation *e = context;
    session *s = e->session;
    for (int i = 0; i < w->n_devices; i++) {
        int index = w->device_index[i];
        if (w->fault[i] >= 0) agreement_diverged(&s->agreed, index, w->fault[i], DIVERGED_IN_EVALUATION);
        s->sums.tokens[index].tokens += wave_tokens(w, i);
        s->sums.tokens[index].counted += wave_counted(w, i);
        for (int q = w->first_sequence[i]; q < w->first_sequence[i + 1]; q++) {
            e->loss[index] += w->loss[q];
            if (e->order->routing) add_window(s, index, q);
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
        code =
            device_data_fixed(d->data, e->order->part, i, windows, s->settings->data.sequence, &window, list);
        if (code != EXIT_OK) return pipeline_check(&s->waves, code);
        if (!wave_fits(s->waves.filling, 1, window.tokens,
                       in_wave ? 0 : wave_pack(s->fleet, device_index, 0))) {
            code = pipeline_turn(&s->waves, work, list);
            in_wave = false;
        }
        if (code != EXIT_OK || d->stopped) break;
        if (!in_wave) wave_add_device(s->waves.filling, s->fleet, device_index, 0);
        in_wave = true;
        code = pipeline_check(&s->waves, wave_add_window(s->waves.filling, &window, list));
    }
    return code;
}

/* NaN where a device has no value. */
static void clear_row(metric_row *numbers, int device_index, int experts) {
    float *mean = row_of(numbers, METRIC_GATE_MEAN, device_index),
          *share = row_of(numbers, METRIC_TOKEN_SHARE, device_index);
    int most = numbers->shape.experts;
    for (int l = 0; l < numbers->shape.layers; l++)
        for (int e = 0; e < most; e++) mean[l * most + e] = share[l * most + e] = e < experts ? 0.0F : NAN;
}

static void divide_row(metric_row *numbers, int device_index, double tokens) {
    float *mean = row_of(numbers, METRIC_GATE_MEAN, device_index),
          *share = row_of(numbers, METRIC_TOKEN_SHARE, device_index);
    for (int i = 0; i < numbers->shape.layers * numbers->shape.experts; i++) {
        mean[i] = (float)(mean[i] / tokens);
        share[i] = (float)(share[i] / tokens);
    }
}

/* The devices of this process. */
static exit_code evaluate_local(session *s, const evaluation_order *order, double *loss, problems *list) {
    const fleet *f = s->fleet;
    evaluation e = {.session = s, .order = order, .loss = loss};
    const wave_work work = {.what = "evaluation",
                            .program = s->programs.evaluation,
                            .started = evaluation_started,
                            .finished = evaluation_finished,
                            .context = &e};
    exit_code code = EXIT_OK;
    for (int i = 0; i < f->n_local; i++) {
        s->sums.tokens[f->local[i]] = (evaluated_tokens){0, 0};
        if (takes_part(s, &f->devices[f->local[i]], order)) loss[f->local[i]] = 0.0;
    }
    for (int i = 0; i < f->n_local && code == EXIT_OK; i++)
        if (takes_part(s, &f->devices[f->local[i]], order)) code = add_device(s, f->local[i], &work, list);
    THEN(code, pipeline_end(&s->waves, &work, list));
    if (code != EXIT_OK) return code;
    for (int i = 0; i < f->n_local; i++) {
        int index = f->local[i];
        if (!takes_part(s, &f->devices[index], order)) continue;
        loss[index] /= (double)s->sums.tokens[index].counted;
        if (order->routing) divide_row(&s->numbers, index, (double)s->sums.tokens[index].tokens);
        if (!isfinite(loss[index])) agreement_diverged(&s->agreed, index, -1, DIVERGED_IN_EVALUATION);
    }
    return EXIT_OK;
}

exit_code session_evaluate(session *s, evaluation_order order, metric_id into, problems *list) {
    double *loss = metric_doubles(&s->numbers, into);
    for (int i = 0; order.routing && i < s->fleet->n_devices; i++)
        clear_row(&s->numbers, i, device_experts(&s->fleet->devices[i]));
    exit_code code = agreement_meet(&s->agreed, &s->at, evaluate_local(s, &order, loss, list), list);
    for (int i = 0; i < s->fleet->n_devices; i++) {
        if (is_there(s, &s->fleet->devices[i], &order)) continue;
        loss[i] = NAN;
        if (order.routing) clear_row(&s->numbers, i, 0);
    }
    return code;
}

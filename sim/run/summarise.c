#include "run/summarise.h"

#include <math.h>

#include "data/split.h"
#include "methods/as_released.h"

static double mean(const population *p, const double *values) {
    double sum = 0.0;
    for (int i = 0; i < p->n_devices; i++) sum += values[p->first_device + i] / p->n_devices;
    return sum;
}

static double perplexity(const population *p, const double *loss) {
    double sum = 0.0;
    for (int i = 0; i < p->n_devices; i++)
        sum += released_perplexity(p->settings->as_released, loss[p->first_device + i]);
    return sum / p->n_devices;
}

static double perplexity_std(const population *p, const double *loss) {
    double center = perplexity(p, loss), squares = 0.0;
    for (int i = 0; i < p->n_devices; i++)
        squares +=
            pow(released_perplexity(p->settings->as_released, loss[p->first_device + i]) - center, 2.0);
    return sqrt(squares / p->n_devices);
}

static double of_column(const population *p, summary_kind kind, const double *values) {
    switch (kind) {
    case SUMMARY_MEAN:
        return mean(p, values);
    case SUMMARY_PERPLEXITY:
        return perplexity(p, values);
    case SUMMARY_PERPLEXITY_STD:
        return perplexity_std(p, values);
    }
    return NAN;
}

static void set_measured(const session *s, const population *p, summary_row *row) {
    for (metric_id id = 0; id < METRIC_COUNT; id++)
        for (int i = 0; i < METRIC_COLUMNS && metrics[id].columns[i].name; i++)
            row->of_metric[id][i] =
                of_column(p, metrics[id].columns[i].kind, metric_doubles(&s->numbers, id));
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++)
        for (device_state_id id = 0; id < DEVICE_STATES; id++) {
            int64_t value = 0;
            if (!device_states[id].column) continue;
            device_state_get(&s->fleet->devices[i], id, &value);
            row->of_state[id] += value;
        }
}

/* A list in the settings has one number for each device, unless one device stands for all of them. */
static void set_bank(const session *s, const population *p, summary_row *row) {
    const population_settings *ps = p->settings;
    row->generalists = s->fleet->devices[p->first_device].generalists;
    row->specialists = s->fleet->devices[p->first_device].specialists;
    if (ps->n_specialists_list == p->n_devices) row->specialists_list = ps->specialists_list;
}

static summary_row row_of(const session *s, const population *p) {
    const population_settings *ps = p->settings;
    summary_row row = {.population = ps->name,
                       .method = p->method->name,
                       .devices = p->n_devices,
                       .seed = ps->seed,
                       .rank = ps->rank,
                       .tokens_per_device = ps->data.tokens_per_device,
                       .split = split_name(ps->data.split),
                       .evaluation = evaluation_name(ps->data.evaluation)};
    set_measured(s, p, &row);
    row.weights =
        s->fleet->devices[p->first_device].bytes_a_round > 0 ? aggregate_weights_text(ps->weights) : "";
    set_bank(s, p, &row);
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++)
        row.entropy_mean += s->fleet->devices[i].text.entropy / p->n_devices;
    return row;
}

void summarise(const session *s, summary_row *rows) {
    for (int i = 0; i < s->fleet->n_populations; i++) rows[i] = row_of(s, &s->fleet->populations[i]);
}

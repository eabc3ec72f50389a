#include "run/summarise.h"

#include <math.h>

#include "data/split.h"
#include "methods/as_released.h"

static void mean_and_std(const population *p, const double *loss, double *mean, double *std) {
    double sum = 0.0, squares = 0.0;
    for (int i = 0; i < p->n_devices; i++)
        sum += released_perplexity(p->settings->as_released, loss[p->first_device + i]);
    *mean = sum / p->n_devices;
    for (int i = 0; i < p->n_devices; i++)
        squares += pow(released_perplexity(p->settings->as_released, loss[p->first_device + i]) - *mean, 2.0);
    *std = sqrt(squares / p->n_devices);
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
                       .split = split_name(ps->data.split)};
    double unused;
    mean_and_std(p, metric_doubles(&s->numbers, METRIC_TEST_LOSS), &row.test_ppl_mean, &row.test_ppl_std);
    mean_and_std(p, metric_doubles(&s->numbers, METRIC_TEST_AFTER), &row.test_ppl_after, &unused);
    row.weights =
        s->fleet->devices[p->first_device].bytes_a_round > 0 ? aggregate_weights_text(ps->weights) : "";
    set_bank(s, p, &row);
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++) {
        row.bytes_up += s->fleet->devices[i].bytes_up;
        row.bytes_down += s->fleet->devices[i].bytes_down;
        row.test_loss_mean += metric_doubles(&s->numbers, METRIC_TEST_LOSS)[i] / p->n_devices;
        row.entropy_mean += s->fleet->devices[i].text.entropy / p->n_devices;
    }
    return row;
}

void summarise(const session *s, summary_row *rows) {
    for (int i = 0; i < s->fleet->n_populations; i++) rows[i] = row_of(s, &s->fleet->populations[i]);
}

#include "train/summary.h"

#include <math.h>

double device_entropy(const session *s, int device_index) {
    const device *d = &s->fleet->devices[device_index];
    const population *p = &s->fleet->populations[d->population];
    int source = d->text.source, sources = corpus_sources(p->text);
    if (source >= 0 && p->settings->data.split == SPLIT_IN_DISTRIBUTION) return corpus_entropy(p->text, source);
    double sum = 0.0;
    for (int i = 0; i < sources; i++) sum += corpus_entropy(p->text, i);
    return sum / sources;
}

/* The released CoMiGS code writes e as 2.71828. */
static double perplexity(const population *p, double loss) {
    return p->settings->as_released ? pow(2.71828, loss) : exp(loss);
}

static void mean_and_std(const population *p, const double *loss, double *mean, double *std) {
    double sum = 0.0, squares = 0.0;
    for (int i = 0; i < p->n_devices; i++) sum += perplexity(p, loss[p->first_device + i]);
    *mean = sum / p->n_devices;
    for (int i = 0; i < p->n_devices; i++) squares += pow(perplexity(p, loss[p->first_device + i]) - *mean, 2.0);
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
                       .split = ps->data.split == SPLIT_IN_DISTRIBUTION ? "in_distribution" : "out_of_distribution"};
    double unused;
    mean_and_std(p, s->numbers.test, &row.test_ppl_mean, &row.test_ppl_std);
    mean_and_std(p, s->numbers.test_after, &row.test_ppl_after, &unused);
    row.weights = s->fleet->devices[p->first_device].bytes_a_round > 0 ? aggregate_weights_text(ps->weights) : "";
    set_bank(s, p, &row);
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++) {
        row.bytes_up += s->bytes_up[i];
        row.bytes_down += s->bytes_down[i];
        row.test_loss_mean += s->numbers.test[i] / p->n_devices;
        row.entropy_mean += device_entropy(s, i) / p->n_devices;
    }
    return row;
}

void summarise(const session *s, summary_row *rows) {
    for (int i = 0; i < s->fleet->n_populations; i++) rows[i] = row_of(s, &s->fleet->populations[i]);
}

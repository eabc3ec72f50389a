#include "train/deal.h"

#include <stdlib.h>

#include "train/model.h"

double deal_cost(const settings *s, const base_shape *base, const fleet *f, int device_index) {
    const device *d = &f->devices[device_index];
    const population *p = &f->populations[d->population];
    const ck_shape *shape = &f->shapes[d->shape];
    const train_settings *t = &p->settings->train;
    double windows = (double)s->local_steps * fleet_expert_batch(p);
    if (d->bursts) windows += (double)s->local_steps / t->router.every * t->router.steps * fleet_router_batch(p);
    double evaluations = d->bytes_a_round > 0 ? 3.0 : 2.0; /* test and validation text, and test text again after an aggregation */
    windows += evaluations * s->evaluate.windows / (3.0 * s->evaluate.every);
    return windows * s->data.sequence * model_flops_per_token(base, shape, s->data.sequence);
}

exit_code fleet_create_at(process_place place, const settings *s, const base_shape *base, fleet **out, problems *list) {
    exit_code code = fleet_create(s, base, out, list);
    if (code != EXIT_OK || place.processes == 1) return code;
    fleet *f = *out;
    double *cost = malloc((size_t)f->n_devices * sizeof *cost);
    if (!cost) code = problem(list, EXIT_ENVIRONMENT, "out of memory to deal %d devices to processes", f->n_devices);
    for (int i = 0; cost && i < f->n_devices; i++) cost[i] = deal_cost(s, base, f, i);
    if (code == EXIT_OK) code = fleet_deal(f, place, cost, list);
    free(cost);
    if (code == EXIT_OK) return EXIT_OK;
    fleet_destroy(f);
    *out = NULL;
    return code;
}

exit_code fleet_create_among(ck_collective *c, const settings *s, const base_shape *base, fleet **out, problems *list) {
    process_place place = {.process = ck_process(c), .processes = ck_processes(c), .on_machine = ck_local_processes(c)};
    exit_code code = fleet_create_at(place, s, base, out, list);
    if (code == EXIT_OK) (*out)->collective = c;
    return code;
}

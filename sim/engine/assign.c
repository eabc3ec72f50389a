#include "engine/assign.h"

#include <stdlib.h>

#include "model/model.h"
#include "population/variants.h"

double assign_cost(const settings *s, const base_shape *base, const fleet *f, int device_index) {
    const device *d = &f->devices[device_index];
    const ck_shape *shape = &f->shapes[d->shape];
    const schedule_totals *all = fleet_totals(f, d);
    double windows = 0.0;
    for (int part = 0; part < DATA_SPLITS; part++)
        windows += (double)all->steps[part] / s->rounds * all->batch[part];
    /* test and validation text, and test text again after an aggregation */
    double evaluations = d->bytes_a_round > 0 ? 3.0 : 2.0;
    int absent = schedule_first_round(f->populations[d->population].settings, d->index, s->rounds) - 1;
    double evaluated = (double)(s->rounds - absent) / s->rounds; /* share of the rounds */
    windows += evaluated * evaluations * s->evaluate.windows / (3.0 * s->evaluate.every);
    return windows * s->data.sequence * model_flops_per_token(base, shape, s->data.sequence);
}

exit_code fleet_create_at(process_place place, const settings *s, const base_shape *base, fleet **out,
                          problems *list) {
    exit_code code = fleet_create(s, base, out, list);
    if (code == EXIT_OK) code = variants_open(*out, base, list);
    if (code != EXIT_OK || place.processes == 1) return code;
    fleet *f = *out;
    double *cost = malloc((size_t)f->n_devices * sizeof *cost);
    if (!cost)
        code =
            problem(list, EXIT_ENVIRONMENT, "out of memory to assign %d devices to processes", f->n_devices);
    for (int i = 0; cost && i < f->n_devices; i++) cost[i] = assign_cost(s, base, f, i);
    THEN(code, fleet_assign(f, place, cost, list));
    free(cost);
    if (code == EXIT_OK) return EXIT_OK;
    fleet_destroy(f);
    *out = NULL;
    return code;
}

exit_code fleet_create_among(ck_collective *c, const settings *s, const base_shape *base, fleet **out,
                             problems *list) {
    process_place place = {
        .process = ck_process(c), .processes = ck_processes(c), .on_machine = ck_local_processes(c)};
    exit_code code = fleet_create_at(place, s, base, out, list);
    if (code == EXIT_OK) (*out)->collective = c;
    return code;
}

/* Which process has which device, and where its pack lies there.
 *
 * By falling cost, each to the process with the least so far: at most 4/3 - 1/(3P) times the best possible
 * load (Graham 1969). Every process computes the same, so nothing needs to be sent. */
#include <stdlib.h>

#include "population/parts.h"

typedef struct {
    double cost;
    int device;
} lot;

/* Dearest first; equal ones in the order of the devices. */
static int by_cost(const void *a, const void *b) {
    const lot *x = a, *y = b;
    if (x->cost != y->cost) return x->cost > y->cost ? -1 : 1;
    return (x->device > y->device) - (x->device < y->device);
}

static int least_loaded(const double *load, int processes) {
    int least = 0;
    for (int p = 1; p < processes; p++)
        if (load[p] < load[least]) least = p;
    return least;
}

static bool choose_owners(fleet *f, const double *cost) {
    lot *lots = malloc((size_t)f->n_devices * sizeof *lots);
    double *load = calloc((size_t)f->place.processes, sizeof *load);
    for (int i = 0; lots && load && i < f->n_devices; i++) lots[i] = (lot){cost[i], i};
    if (lots && load) qsort(lots, (size_t)f->n_devices, sizeof *lots, by_cost);
    for (int i = 0; lots && load && i < f->n_devices; i++) {
        int process = least_loaded(load, f->place.processes);
        f->owner[lots[i].device] = process;
        load[process] += lots[i].cost;
    }
    free(lots);
    free(load);
    return lots && load;
}

void packs_place(fleet *f) {
    f->n_local = 0;
    f->n_parameters = f->n_carried = f->all_parameters = f->all_carried = 0;
    for (int i = 0; i < f->n_devices; i++) {
        device *d = &f->devices[i];
        int64_t floats = f->shapes[d->shape].total;
        bool own = f->owner[i] == f->place.process;
        d->pack = own ? f->n_parameters : -1;
        d->carried = own && d->carries ? f->n_carried : -1;
        f->all_parameters += floats;
        f->all_carried += d->carries ? floats : 0;
        if (!own) continue;
        f->local[f->n_local++] = i;
        f->n_parameters += floats;
        f->n_carried += d->carries ? floats : 0;
    }
}

exit_code fleet_assign(fleet *f, process_place place, const double *cost, problems *list) {
    f->place = place;
    if (!choose_owners(f, cost))
        return problem(list, EXIT_ENVIRONMENT, "out of memory to assign %d devices to processes",
                       f->n_devices);
    packs_place(f);
    groups_destroy(f);
    return groups_create(f, list);
}

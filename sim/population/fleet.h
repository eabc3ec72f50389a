/* fleet.h - all devices of all populations of a run, and their adapters packed in one buffer.
 *
 *   settings --expand--> populations --own--> devices --point into--> packs (parameters, moment1, moment2)
 *
 * A device's pack is laid out by its ck_shape; devices of equal shape share one. Which ranges of a pack are averaged over a
 * population is its list of shared tensors (fleet_groups). */
#ifndef COHORT_FLEET_H
#define COHORT_FLEET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "config/settings.h"
#include "data/data.h"
#include "kernels.h"
#include "methods/method.h"
#include "problems.h"

typedef struct {
    int population, index;  /* index within the population */
    int shape;              /* index into fleet.shapes */
    int64_t pack;           /* offset in floats into fleet.parameters, moment1, moment2 */
    device_data *data;
    int generalists, specialists;
    int64_t parameters_shared, parameters_private;
    int64_t bytes_a_round;  /* sent and received each round (4 B a value); 0 where nothing is shared */
    int64_t expert_steps, router_steps; /* AdamW counts */
    bool stopped;           /* diverged: takes no further part */
} device;

typedef struct {
    const population_settings *settings;
    const method *method;
    sharing shares;
    int first_device, n_devices;
} population;

typedef struct {
    ck_backend *backend;
    ck_stream *stream;
    int n_populations, n_devices, n_shapes;
    population *populations;
    device *devices;
    ck_shape *shapes;
    int64_t n_parameters;   /* floats of all packs */
    float *parameters, *moment1, *moment2; /* backend memory [n_parameters]; NULL until fleet_allocate() */
    int n_groups;
    ck_group *groups;       /* one per population that shares anything and has more than one device */
    int64_t n_packed;       /* floats of all groups' packed buffers */
    float *packed;          /* backend memory [n_packed] */
    int n_corpora; corpus **corpora; /* one per distinct data section, shared by populations */
} fleet;

/* Builds populations, devices, shapes and groups and opens their data; allocates no parameters (so `check` is cheap). */
exit_code fleet_create(const settings *s, const base_shape *base, fleet **out, problems *list);
/* Allocates and initialises the packs on the backend: A ~ Kaiming-uniform(sqrt 5), B = 0, R ~ N(0, 0.02^2). Shared tensors are keyed by
 * (seed, tensor), private ones by (seed, device, tensor): populations of equal seed start from the same tensors. */
exit_code fleet_allocate(fleet *f, ck_backend *backend, ck_stream *stream, problems *list);
void fleet_destroy(fleet *f);

/* One aggregation: packed sum over each population's devices (fixed order), then spread. Populations of which all devices stopped, and
 * stopped devices, take no part. */
exit_code fleet_aggregate(fleet *f, problems *list);

#endif

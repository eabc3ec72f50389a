/* fleet.h - all devices of all populations of a run, and their adapters packed in one buffer.
 *
 *   settings --expand--> populations --own--> devices --point into--> packs (parameters, moment1, moment2)
 *
 * Every process of a run knows all devices, but has the packs and the text of its own only (fleet_assign).
 *
 * A device's pack is laid out by its ck_shape; devices of equal shape share one. Which parts are
 * averaged, and over which devices: sharing.h. */
#ifndef COHORT_FLEET_H
#define COHORT_FLEET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "collective/collective.h"
#include "data/data.h"
#include "kernels.h"
#include "methods/method.h"
#include "schedule/participation.h"
#include "settings/settings.h"
#include "support/problems.h"

/* What of its text concerns others than its steps. */
typedef struct {
    int source;    /* of its training text; -1: of several */
    bool overlaps; /* with other devices' training text */
    /* tokens of its longest stretch of training text: of its largest source, where it is not pooled */
    int64_t longest;
    double entropy;              /* of its test text, nats per token; NaN if unknown */
    int64_t tokens[DATA_SPLITS]; /* of its parts */
    int64_t train_examples;      /* 0: running text */
} device_text;

typedef struct device {
    int population, index; /* index within the population */
    int shape;             /* index into fleet.shapes */
    /* offset in floats into fleet.parameters, moment1, moment2; -1: another process has it */
    int64_t pack;
    /* offset in floats into fleet.carried; -1: another process's, or its gradients end with their step */
    int64_t carried;
    bool carries;      /* gradients from step to step */
    device_data *data; /* NULL: another process has it */
    /* known once its text is open: of all devices to process 0, of its own to any other */
    device_text text;
    int generalists, specialists;
    int rank; /* of each of its experts */
    int64_t parameters_shared, parameters_private;
    /* sent and received each round (4 B a value); 0 where nothing is shared */
    int64_t bytes_a_round;
    int64_t bytes_up, bytes_down;       /* so far */
    int64_t expert_steps, router_steps; /* AdamW counts */
    int64_t variant_version;            /* of its population's base variant that it has received; 0: none */
    double joined_loss; /* of a late device: on test text, before its first step; NaN: not measured */
    bool stopped;       /* diverged: takes no further part */
} device;

/* 0: the MLP of the base as it is, or with LoRAs that every token uses. */
static inline int device_experts(const device *d) {
    return d->generalists + d->specialists;
}

typedef struct {
    const population_settings *settings;
    const method *method;
    /* [held out][routed] of a device that is there from the start and of one that is held out, each without a
     * router and with one */
    schedule_totals totals[2][2];
    int first_device, n_devices;
    int n_senders; /* the first of them: those that are not held out */
    const corpus *text;
} population;

/* Which devices hold the set of parts of a ck_group (sharing.h). */
typedef struct {
    int population;
    int first; /* the first device that holds it, in whichever process; its layout is 0 */
    /* [n_local] devices of this process that hold it, rising: the group's packs and layouts are theirs */
    int n_local, *local;
} group_holders;

/* Where this process stands among those of its run. */
typedef struct {
    int process, processes, on_machine; /* on_machine: how many share this machine, itself included */
} process_place;

/* Where the packs lie on a backend with memory of its own: in it, or some of them far (kernels.h); waves then
 * get them through slots (store/slots.h). */
typedef enum { PACKS_NEAR, MOMENTS_FAR, PACKS_FAR } packs_memory;

typedef struct {
    ck_backend *backend;
    ck_stream *stream;
    packs_memory packs_at; /* for fleet_allocate() */
    /* what aggregation sums over: this process alone, unless fleet_assign() is followed by setting another */
    ck_collective *collective;
    process_place place;
    int *owner; /* [n_devices] the process of each device */
    int n_local;
    int *local;       /* [n_local] this process's devices, rising */
    const char *file; /* the configuration's path, for messages */
    const settings *settings;
    int vocabulary;      /* of the base */
    int64_t local_steps; /* of the whole run */
    int n_populations, n_devices, n_shapes;
    population *populations;
    device *devices;
    ck_shape *shapes;
    int64_t n_parameters;                  /* floats of this process's packs */
    float *parameters, *moment1, *moment2; /* backend memory [n_parameters]; NULL until fleet_allocate() */
    /* floats of the packs among them that carry gradients from step to step */
    int64_t n_carried;
    float *carried;                      /* backend memory [n_carried]; NULL without any */
    int64_t all_parameters, all_carried; /* of all processes */
    int n_groups;
    /* of populations that have not stopped: one for each set of parts (sharing.h) that two or more devices
     * average, or that one device has under a proximal term */
    ck_group *groups;
    group_holders *holders;    /* [n_groups] */
    int64_t n_packed;          /* floats of all groups' packed buffers */
    float *packed;             /* backend memory [n_packed]: what devices received last (anchors.c) */
    struct variants *variants; /* population/variants.h; NULL: no population has one */
    int most_sources;          /* of any corpus */
    /* [n_devices, most_sources] tokens of each source of its population's corpus in a device's training text;
     * known as device.text is */
    int64_t *mixtures;
    int n_corpora;
    corpus **corpora; /* one per distinct data section, shared by populations */
} fleet;

/* Builds populations, devices, shapes and groups: enough for the memory plan. All devices are this process's.
 */
exit_code fleet_create(const settings *s, const base_shape *base, fleet **out, problems *list);
/* Leaves this process the devices that are its own among several: by falling cost (any unit, [n_devices];
 * equal ones in their order), each to the process that has the least so far. Before text is opened or memory
 * allocated. */
exit_code fleet_assign(fleet *f, process_place place, const double *cost, problems *list);
/* Whether two sections of data are of one text, which populations then share. */
bool fleet_same_text(const data_settings *a, const data_settings *b);
/* About what the text of all devices takes once it is open: the devices' own parts, and what they share. */
typedef struct {
    size_t devices, corpora; /* bytes */
} fleet_text_bytes;
fleet_text_bytes fleet_measure_text(const fleet *f);
/* Opens the text of all devices, and looks for the adapters' folder: before a base is trained for minutes. */
exit_code fleet_open_data(fleet *f, problems *list);
/* Where devices of a source share training text because there is too little of it: which (out[bytes]); false
 * where none do. */
bool fleet_describe_overlap(const fleet *f, const population *p, size_t bytes, char *out);
/* Gives devices their weights in averages by the text that they hold, where aggregate.weights asks for it;
 * they weigh the same until then. Called by all processes, once the text of all devices is open. */
exit_code fleet_weigh(fleet *f, problems *list);
/* Allocates and initialises the packs on the backend: A ~ Kaiming-uniform(sqrt 5), B = 0, R ~ N(0, 0.02^2).
 * Generalists, the LoRAs of no expert and whatever is averaged are keyed by (seed, tensor), specialists and
 * routers by (seed, device, tensor): populations of equal seed start from the same tensors, and what is
 * averaged starts equal on all devices. */
exit_code fleet_allocate(fleet *f, ck_backend *backend, ck_stream *stream, problems *list);
void fleet_destroy(fleet *f);
int64_t fleet_largest_pack(const fleet *f); /* floats */
/* Host memory that fleet_allocate() needs meanwhile, on a backend of so many threads; and what a fleet's
 * lists take of each device. */
size_t fleet_initial_bytes(const fleet *f, int threads);
enum {
    FLEET_DEVICE_BYTES = sizeof(device) + 3 * sizeof(int) + sizeof(int64_t) + sizeof(int32_t) + sizeof(float)
};

/* The aggregation that ends round `round` (counted from 1). The shared parts of the devices that send are
 * summed with their weights, in the order of devices, process by process, and the mean is written to the
 * devices that receive (schedule/participation.h). Populations that have stopped take no part; the same
 * populations must have stopped in all processes. Packs that lie far are read and written in place: once a
 * round 4 B each way go over the bus for each shared value of each device. */
exit_code fleet_aggregate(fleet *f, int round, problems *list);
/* The layout of a device of this process in a group; -1: it does not average what is in it. */
int32_t fleet_layout(const fleet *f, int group, int device_index);

/* Anchors of proximal terms (methods/method.h). An anchor is what the devices of a population received last.
 * There is one copy for all of them. It lies in `packed`, and fleet_aggregate() replaces it.
 *
 * mu of a population; 0: it has no such term. */
double population_proximal(const population *p);
/* Sets the anchor of each population to the shared parts of its devices. All devices of a population must be
 * equal in these, as they are when a round begins. All processes call it. It does nothing where no
 * population has a proximal term. */
exit_code fleet_set_anchors(fleet *f, problems *list);
/* All anchors, for a checkpoint within a round: 0 bytes without any; to and from a host buffer of so many. */
size_t fleet_anchor_bytes(const fleet *f);
exit_code fleet_save_anchors(const fleet *f, void *out, problems *list);
exit_code fleet_restore_anchors(fleet *f, const void *saved, problems *list);

/* Stops all devices of a population (one of them diverged). */
void fleet_stop(fleet *f, int which);

/* What a device does in a round of the run (from 1). */
participation fleet_participation(const fleet *f, const device *d, int round);
/* What a device does at a local step of the run (counted from 0, over all rounds): entries, of which there
 * are as many as it returns; 0: it is absent. */
int fleet_schedule(const fleet *f, const device *d, int64_t local_step,
                   schedule_entry entries[SCHEDULE_MOST]);
/* The same of the whole run. */
const schedule_totals *fleet_totals(const fleet *f, const device *d);

/* Whether a part of the device's pack is averaged over the population's devices. */
bool population_shares(const population *p, const device *d, const ck_part *part);
/* Writes a new device's pack [shape->total], from random numbers. */
void fleet_init_pack(const population *p, const device *d, const ck_shape *shape, float *pack);
/* The same of any device: from the folder that fleet.adapters names, where it does. */
exit_code fleet_initial_pack(const fleet *f, const device *d, float *pack, problems *list);

#endif

/* plan.h - how large waves are and what a run takes in memory, decided before anything large is allocated. */
#ifndef COHORT_PLAN_H
#define COHORT_PLAN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/base.h"
#include "kernels.h"
#include "population/fleet.h"
#include "settings/settings.h"
#include "store/waves.h"
#include "support/problems.h"

typedef struct {
    wave_limits limits;
    ck_capacity step, evaluation, record;
    int n_routing_windows; /* of settings.trace, 0 where no device has a router */
    /* bytes */
    size_t base;     /* frozen weights */
    size_t variants; /* of the base, of populations */
    /* parameters, both AdamW moments and carried gradients of all devices, and the averages */
    size_t packs;
    /* of packs on their way through the host, into a checkpoint or from their initial values */
    size_t passing;
    size_t slots;       /* of the waves' packs, where packs lie far; on the GPU */
    size_t gradients;   /* of one wave */
    size_t activations; /* and workspaces of the programs */
    size_t buffers;     /* tokens, losses, routing statistics, the round's numbers */
    size_t resident;    /* libraries and text: what is taken already, and what they will take */
    size_t training;    /* sum of all these, without what lies in a GPU's memory */
    /* the most memory at times when there are no devices: while the base is made, before, or during a
     * measurement, after; includes `resident` */
    size_t outside;
    const char *why_outside;
    size_t total, limit; /* total: the larger of training and outside */
    bool refused;        /* it does not fit: fewer populations might */
    /* A backend with memory of its own (a GPU) has there the base, variants, gradients, activations and
     * buffers, and of the packs what fits. For packs that do not fit it has slots. */
    size_t near_total, near_limit; /* near_limit: SIZE_MAX where all memory is the host's */
    packs_memory packs_at;
    /* what a full wave of an expert step, and any other, moves over the bus, both ways together */
    size_t updated_traffic, read_traffic;
} run_plan;

/* Refuses so many devices that not even a list of them fits into memory. Called before there is a fleet.
 * on_machine: processes that share the memory of the machine. */
exit_code plan_admits_devices(const settings *s, int on_machine, problems *list);

/* Picks the largest wave (settings.wave_tokens, else a default) that fits settings.memory_limit and what is
 * free, while the base is not there yet. Refuses what cannot fit and says how many devices can. The text of a
 * fleet counts as resident where it is open, else as what it will take. */
exit_code plan_make(const settings *s, ck_backend *backend, const base_shape *base, const fleet *f,
                    run_plan *out, problems *list);

/* Opens the text of a fleet that fits without it, then plans with what the text takes. Text that the base
 * still has to be trained on is looked at too, so that all that is missing is reported together. */
exit_code plan_with_text(const settings *s, ck_backend *backend, const base_shape *base, fleet *f,
                         run_plan *out, problems *list);

#endif

/* schedule.h - the steps that a method asks of its devices, and their order. The engine carries them out and
 * knows no method.
 *
 * A round has `train.local_steps` local steps, counted over all rounds from 0. At each of them a device has
 * one or more entries, in order: the first is its step on training text, others follow it (CoMiGS: a burst of
 * router steps on validation text). A method has a function that lists them (methods/method.h), put together
 * from those below. The plan, the assignment of devices to processes and the sampling ask the totals, never a
 * setting of their own. */
#ifndef COHORT_SCHEDULE_H
#define COHORT_SCHEDULE_H

#include "data/data.h"
#include "kernels.h"
#include "settings/settings.h"

enum { SCHEDULE_MOST = 2 }; /* entries of a device at one local step */

/* `steps` AdamW steps, one after another. */
typedef struct {
    uint32_t learn; /* CK_LEARN_*: the classes of parts that they update */
    /* the classes whose gradients they compute: those in learn, and others, whose gradients wait in
     * fleet.carried for a later step */
    uint32_t leaves;
    data_part text;
    int batch, steps;                                 /* windows a step */
    double learning_rate, weight_decay;               /* of all parts but the router */
    double router_learning_rate, router_weight_decay; /* of the router, whatever else learns */
    /* the router's AdamW counts its own steps, not those of the experts */
    bool own_router_count;
} schedule_entry;

/* What an entry may depend on: never on what other devices do, nor on the process. */
typedef struct {
    const train_settings *train;
    int64_t local_step, local_steps; /* this one, and how many the run has */
    int64_t taken;                   /* of them, by the device before this one */
    int pooled;                      /* devices whose batches are one: 1, or all of the population's */
    bool routed;                     /* the device has a router */
} schedule_query;

/* For a device that is in the round; returns how many, at least 1. */
typedef int (*schedule_list)(const schedule_query *q, schedule_entry entries[SCHEDULE_MOST]);

/* One step on training text. The rate is a cosine from learning_rate to its last value
 * (train.final_learning_rate_ratio). */
schedule_entry schedule_train(const schedule_query *q, uint32_t learn);
/* A burst: train.router.steps steps of the router alone, on validation text, at a constant rate. It is due
 * after every train.router.every-th local step that the device takes. */
bool schedule_burst_is_due(const schedule_query *q);
schedule_entry schedule_burst(const schedule_query *q);

/* Experts alone: one entry, schedule_train() of everything but the router. */
int schedule_experts(const schedule_query *q, schedule_entry entries[SCHEDULE_MOST]);
/* Experts, then where it is due a burst of the router (Fan et al., ICML 2025, algorithm 1). */
int schedule_two_levels(const schedule_query *q, schedule_entry entries[SCHEDULE_MOST]);

double cosine_rate(double first, double last, int64_t step, int64_t steps);

/* Of a device in a whole run. The arrays have a value for each part of the text. */
typedef struct {
    int64_t steps[DATA_SPLITS];  /* in the run */
    int most_steps[DATA_SPLITS]; /* in any round */
    int batch[DATA_SPLITS];      /* the largest */
    bool carries;                /* some gradients are collected by a later step */
} schedule_totals;
/* Of a run with `rounds` rounds of local_steps each. The device takes part from round `first` on (counted
 * from 1) to the end. local_step and taken of the query are not read. */
schedule_totals schedule_count(schedule_list list, const schedule_query *q, int first, int rounds,
                               int local_steps);
int schedule_largest_batch(const schedule_totals *totals);

#endif

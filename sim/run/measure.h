/* measure.h - how long a run will take: a few of its steps and an evaluation, timed on part of its devices, and
 * counted up to the whole. */
#ifndef COHORT_MEASURE_H
#define COHORT_MEASURE_H

#include "base/base.h"
#include "engine/plan.h"
#include "population/fleet.h"
#include "settings/settings.h"
#include "support/problems.h"

/* What is to be computed, in FLOPs as model_flops_per_token() counts those of expert steps. An evaluation takes
 * about a third of what stands here. */
typedef struct {
    double train;      /* steps on training text */
    double router;     /* steps on validation text */
    double evaluation; /* windows that are evaluated */
} run_work;

/* What a run allocates at most, of all its processes together; bytes. */
typedef struct {
    size_t host, gpu; /* gpu: 0 without one */
} run_memory;
run_memory measure_memory(const run_plan *plan);

/* Of a whole run, all its devices, whose text is open. */
run_work measure_work(const settings *s, const base_shape *base, const fleet *f);

/* What a measurement found; seconds for each FLOP of run_work. */
typedef struct {
    run_work seconds;
    double pretraining; /* seconds of the whole pre-training; 0: the base is there, or random */
    int steps;          /* expert steps that were timed */
    double spent;       /* seconds of the whole measurement */
    int threads;
    bool on_gpu;
} run_rates;

/* Times a few seconds of steps: on as many devices as do a step in about one, with windows and batches cut where
 * one device takes longer, and learning rates so small that nothing diverges. base: what the run starts from, or
 * NULL for random weights; it is freed. Writes nothing, and takes no more memory than the run of these plans, of one
 * process or of several on this machine; refused (EXIT_ENVIRONMENT) where it would. */
exit_code measure_run(const settings *s, const base_shape *shape, base_model *base, run_memory most,
                      run_rates *out, problems *list);

/* Of the rounds. */
double measured_seconds(const run_work *work, const run_rates *rates);
/* "40 seconds", "12 minutes", "3.5 hours", "6 days" */
enum { DURATION_BYTES = 48 };
void duration_text(double seconds, char out[DURATION_BYTES]);

#endif

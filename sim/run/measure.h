/* measure.h - how long a run will take. A few of its steps and an evaluation are timed on some of its
 * devices, and the time of the whole run is computed from that. */
#ifndef COHORT_MEASURE_H
#define COHORT_MEASURE_H

#include "base/base.h"
#include "engine/plan.h"
#include "population/fleet.h"
#include "settings/settings.h"
#include "support/problems.h"

/* What is to be computed, in FLOPs that are counted as for expert steps (model_flops_per_token()). An
 * evaluation takes only about a third of the number here. */
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

/* Times a few seconds of steps, on as many devices as do a step in about one second. If one device alone
 * takes longer, its windows and batches are cut. Learning rates are so small that nothing diverges. base:
 * the base of the run, or NULL for random weights; it is freed. Writes nothing. most: the memory that the
 * run takes in all its processes on this machine; a measurement that would need more is refused
 * (EXIT_ENVIRONMENT). */
exit_code measure_run(const settings *s, const base_shape *shape, base_model *base, run_memory most,
                      run_rates *out, problems *list);

/* How long the rounds of a run take, in seconds. */
double measured_seconds(const run_work *work, const run_rates *rates);
/* "40 seconds", "12 minutes", "3.5 hours", "6 days" */
enum { DURATION_BYTES = 48 };
void duration_text(double seconds, char out[DURATION_BYTES]);

#endif

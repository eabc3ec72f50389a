#include "run/measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/assign.h"
#include "engine/outline.h"
#include "engine/session.h"
#include "model/model.h"
#include "model/obtain_base.h"
#include "model/pretrain.h"
#include "support/kernel_open.h"

enum { MOST_STEPS = 12, MOST_EVALUATIONS = 3, LOCAL_STEPS = 64 };

/* FLOPs that a step may have, so that it takes about a second or less; seconds after which none is begun. */
static const double FLOPS_A_THREAD = 1e10, FLOPS_OF_A_GPU = 2e13;
static const double STEPS_SECONDS = 1.5, EVALUATION_SECONDS = 0.3, PRETRAINING_SECONDS = 1.0;

/* ---- Work ---- */

static double window_flops(const settings *s, const base_shape *base, const fleet *f, const device *d) {
    return s->data.sequence * model_flops_per_token(base, &f->shapes[d->shape], s->data.sequence);
}

static int evaluated_rounds(const settings *s, const fleet *f, const device *d) {
    int n = 0;
    for (int round = 1; round <= s->rounds; round++)
        n += (round % s->evaluate.every == 0 || round == s->rounds) &&
             fleet_participation(f, d, round).present;
    return n;
}

/* Test and validation text, and test text again where an aggregation changed the device. */
static double evaluated_windows(const settings *s, const device *d) {
    double test = device_data_fixed_count(d->data, DATA_TEST, s->evaluate.windows),
           valid = device_data_fixed_count(d->data, DATA_VALID, s->evaluate.windows);
    return test + valid + (d->bytes_a_round > 0 ? test : 0.0);
}

run_work measure_work(const settings *s, const base_shape *base, const fleet *f) {
    run_work work = {0};
    for (int i = 0; i < f->n_devices; i++) {
        const device *d = &f->devices[i];
        const schedule_totals *all = fleet_totals(f, d);
        double a_window = window_flops(s, base, f, d);
        work.train += (double)all->steps[DATA_TRAIN] * all->batch[DATA_TRAIN] * a_window;
        work.router += (double)all->steps[DATA_VALID] * all->batch[DATA_VALID] * a_window;
        work.evaluation += evaluated_rounds(s, f, d) * evaluated_windows(s, d) * a_window;
    }
    return work;
}

double measured_seconds(const run_work *work, const run_rates *rates) {
    return work->train * rates->seconds.train + work->router * rates->seconds.router +
           work->evaluation * rates->seconds.evaluation;
}

void duration_text(double seconds, char out[DURATION_BYTES]) {
    static const struct {
        double seconds;
        const char *name;
    } units[] = {{1.0, "second"}, {60.0, "minute"}, {3600.0, "hour"}, {86400.0, "day"}};
    int unit = 0;
    while (unit < 3 && seconds >= 1.5 * units[unit + 1].seconds) unit++;
    double n = seconds / units[unit].seconds;
    n = n < 10.0 && unit > 0 ? round(2.0 * n) / 2.0 : fmax(round(n), 1.0);
    snprintf(out, DURATION_BYTES, "%g %s%s", n, units[unit].name, n == 1.0 ? "" : "s");
}

/* ---- The part of the run that is timed ---- */

/* Everybody is there from the start, and a router step follows every expert step. */
static void reduce(const settings *s, settings *part, population_settings *populations) {
    *part = *s;
    part->populations = populations;
    part->rounds = 1;
    part->local_steps = LOCAL_STEPS;
    part->trace.routing_windows = part->trace.sampling_windows = 0;
    part->data.windows = NULL;
    for (int i = 0; i < s->n_populations; i++) {
        population_settings *p = &populations[i];
        *p = s->populations[i];
        p->held_out.devices = 0;
        p->adapters = "none";
        p->data.windows = NULL;
        p->train.learning_rate = p->train.router.learning_rate = 1e-6;
        p->train.router.every = 1;
        p->train.router.steps = p->train.router.steps > 0 ? 1 : 0;
    }
}

/* Batches are cut where a single device does more than `most` FLOPs in a step, but never below a window for
 * each thread. */
static void cut_batches(settings *part, const base_shape *base, const fleet *f, double most, int threads) {
    for (int i = 0; i < part->n_populations; i++) {
        train_settings *t = &part->populations[i].train;
        const device *d = &f->devices[f->populations[i].first_device];
        double windows = floor(most / window_flops(part, base, f, d));
        int fit = windows > threads ? (int)fmin(windows, 65536.0) : threads;
        if (t->batch > fit) t->batch = fit;
        if (t->router.batch > t->batch) t->router.batch = t->batch;
    }
    int largest = 1;
    for (int i = 0; i < part->n_populations; i++)
        if (part->populations[i].train.batch > largest) largest = part->populations[i].train.batch;
    if (part->evaluate.windows > 3 * largest) part->evaluate.windows = 3 * largest;
}

/* Of all devices at a local step. */
static double step_flops(const settings *s, const base_shape *base, const fleet *f) {
    double flops = 0.0;
    for (int i = 0; i < f->n_devices; i++)
        flops +=
            fleet_totals(f, &f->devices[i])->batch[DATA_TRAIN] * window_flops(s, base, f, &f->devices[i]);
    return flops;
}

typedef struct {
    settings settings;
    population_settings *populations; /* owned */
    run_outline outline;
} part_of_run;

static void part_free(part_of_run *p) {
    outline_free(&p->outline);
    free(p->populations);
}

/* The share of the devices that one of several processes would have, so that it does a step in a second; of these
 * the last, which never has the largest device alone. */
static exit_code choose_part(const settings *s, const base_shape *shape, ck_backend *backend, double most,
                             part_of_run *p, problems *list) {
    fleet *all = NULL;
    p->outline.shape = *shape;
    p->populations = calloc((size_t)s->n_populations, sizeof *p->populations);
    if (!p->populations) return problem(list, EXIT_ENVIRONMENT, "out of memory");
    reduce(s, &p->settings, p->populations);
    exit_code code = fleet_create(&p->settings, shape, &all, list);
    if (code != EXIT_OK) return code;
    cut_batches(&p->settings, shape, all, most, ck_threads(backend));
    fleet_destroy(all);
    code = fleet_create(&p->settings, shape, &all, list);
    if (code != EXIT_OK) return code;
    double shares = fmin(floor(step_flops(&p->settings, shape, all) / most), (double)all->n_devices);
    fleet_destroy(all);
    int n = shares > 1.0 ? (int)shares : 1;
    code = fleet_create_at((process_place){.process = n - 1, .processes = n, .on_machine = 1}, &p->settings,
                           shape, &p->outline.fleet, list);
    return THEN(code, plan_with_text(&p->settings, backend, shape, p->outline.fleet, &p->outline.plan, list));
}

run_memory measure_memory(const run_plan *plan) {
    return (run_memory){.host = plan->training - plan->resident,
                        .gpu = plan->near_limit < SIZE_MAX ? plan->near_total : 0};
}

static exit_code check_memory(run_memory most, const run_plan *part, problems *list) {
    run_memory needed = measure_memory(part);
    if (needed.host <= most.host && needed.gpu <= most.gpu) return EXIT_OK;
    return problem(list, EXIT_ENVIRONMENT, "a measurement would take more memory than the run");
}

/* ---- Timing ---- */

/* What this process's devices do in the entries at `place` of the local step. */
static double flops_at(const session *s, int64_t local_step, int place) {
    const fleet *f = s->fleet;
    double flops = 0.0;
    for (int i = 0; i < f->n_local; i++) {
        const device *d = &f->devices[f->local[i]];
        schedule_entry entries[SCHEDULE_MOST];
        int n = fleet_schedule(f, d, local_step, entries);
        if (place < n && !d->stopped)
            flops += (double)entries[place].steps * entries[place].batch *
                     window_flops(s->settings, &s->programs.base.shape, f, d);
    }
    return flops;
}

/* Seconds and FLOPs so far. The first of several is not counted: it finds memory untouched. */
typedef struct {
    double seconds, flops;
    int n;
} timing;

static void add_timing(timing *t, double seconds, double flops) {
    *t = t->n == 1 ? (timing){seconds, flops, 2} : (timing){t->seconds + seconds, t->flops + flops, t->n + 1};
}

static double rate_of(const timing *t) {
    return t->flops > 0.0 ? t->seconds / t->flops : 0.0;
}

static exit_code time_steps(session *s, run_rates *out, problems *list) {
    timing train = {0}, router = {0};
    double begin = run_clock();
    exit_code code = EXIT_OK;
    session_begin_round(s);
    while (train.n < MOST_STEPS && code == EXIT_OK && (train.n == 0 || run_clock() - begin < STEPS_SECONDS)) {
        int64_t local_step = s->steps.taken;
        double start = run_clock();
        code = session_local_step(s, list);
        double middle = run_clock(), flops = flops_at(s, local_step, 1);
        THEN(code, session_follow_ups(s, list));
        add_timing(&train, middle - start, flops_at(s, local_step, 0));
        if (flops > 0.0) add_timing(&router, run_clock() - middle, flops);
    }
    out->seconds.train = rate_of(&train);
    out->seconds.router = router.n > 0 ? rate_of(&router) : out->seconds.train;
    out->steps = train.n;
    return code;
}

static exit_code time_evaluations(session *s, run_rates *out, problems *list) {
    timing t = {0};
    double flops = 0.0, begin = run_clock();
    exit_code code = EXIT_OK;
    for (int i = 0; i < s->fleet->n_local; i++) {
        const device *d = &s->fleet->devices[s->fleet->local[i]];
        flops += device_data_fixed_count(d->data, DATA_TEST, s->settings->evaluate.windows) *
                 window_flops(s->settings, &s->programs.base.shape, s->fleet, d);
    }
    while (t.n < MOST_EVALUATIONS && code == EXIT_OK &&
           (t.n == 0 || run_clock() - begin < EVALUATION_SECONDS)) {
        double start = run_clock();
        code = session_evaluate(s, (evaluation_order){.part = DATA_TEST, .routing = true}, METRIC_TEST_LOSS,
                                list);
        add_timing(&t, run_clock() - start, flops);
    }
    out->seconds.evaluation = rate_of(&t);
    return code;
}

static exit_code time_part(part_of_run *p, ck_backend *backend, base_model *base, run_rates *out,
                           problems *list) {
    session *s = NULL;
    exit_code code =
        session_create_among(ck_collective_local(), &p->settings, backend, &p->outline, base, &s, list);
    if (code != EXIT_OK) return code;
    s->at.round = 1;
    code = time_steps(s, out, list);
    THEN(code, time_evaluations(s, out, list));
    session_destroy(s);
    return code;
}

exit_code measure_run(const settings *s, const base_shape *shape, base_model *base, run_memory most_memory,
                      run_rates *out, problems *list) {
    ck_backend *backend = NULL;
    part_of_run part = {0};
    double begin = run_clock();
    *out = (run_rates){0};
    exit_code code = kernel_open(s->backend, s->threads, &backend, list);
    out->on_gpu = most_memory.gpu > 0;
    if (code == EXIT_OK) out->threads = ck_threads(backend);
    double most = out->on_gpu ? FLOPS_OF_A_GPU : FLOPS_A_THREAD * out->threads;
    if (run_trains_base(s))
        THEN(code, pretrain_measure(s, backend, most, PRETRAINING_SECONDS, &out->pretraining, list));
    THEN(code, choose_part(s, shape, backend, most, &part, list));
    THEN(code, check_memory(most_memory, &part.outline.plan, list));
    if (!base) THEN(code, base_random(shape, 1, &base, list));
    if (code == EXIT_OK)
        code = time_part(&part, backend, base, out, list);
    else
        base_destroy(base);
    part_free(&part);
    ck_close(backend);
    out->spent = run_clock() - begin;
    return code;
}

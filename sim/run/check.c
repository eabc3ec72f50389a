/* check.c - `cohort check`: what a run would be, without running it. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "engine/assign.h"
#include "engine/outline.h"
#include "engine/plan.h"
#include "model/obtain_base.h"
#include "model/pretrain.h"
#include "population/variants.h"
#include "run/batches.h"
#include "run/check_populations.h"
#include "run/measure.h"
#include "run/report.h"
#include "run/run.h"
#include "run/tune.h"
#include "support/kernel_open.h"

typedef struct {
    run_plan plan;
    int devices;
} process_plan;

static double mib(size_t bytes) {
    return (double)bytes / (1024.0 * 1024.0);
}

static const char *packs_text(const run_plan *plan) {
    if (plan->near_limit == SIZE_MAX) return "";
    static const char *const texts[] = {[PACKS_NEAR] = ", on the GPU",
                                        [MOMENTS_FAR] = ", the moments in host memory",
                                        [PACKS_FAR] = ", in host memory"};
    return texts[plan->packs_at];
}

/* What prefetching has to hide behind a wave's computation. */
static void print_traffic(const run_plan *plan) {
    if (plan->updated_traffic == 0) return;
    printf("\n  A full wave of an expert step moves %.1f MiB over the bus", mib(plan->updated_traffic));
    if (plan->read_traffic > 0)
        printf(", one of a router step or an evaluation %.1f MiB", mib(plan->read_traffic));
    printf("\n");
}

static void print_plan(const run_plan *plan) {
    printf("\nMemory plan (waves of at most %d windows, %lld tokens)\n\n", plan->limits.max_sequences,
           (long long)plan->limits.max_tokens);
    printf("  %12.1f MiB  base\n", mib(plan->base));
    if (plan->variants > 0) printf("  %12.1f MiB  variants of the base\n", mib(plan->variants));
    printf("  %12.1f MiB  adapters and AdamW moments of the devices%s\n", mib(plan->packs), packs_text(plan));
    if (plan->slots > 0) printf("  %12.1f MiB  room for those of two waves, on the GPU\n", mib(plan->slots));
    printf("  %12.1f MiB  adapters on their way into a checkpoint\n", mib(plan->passing));
    printf("  %12.1f MiB  gradients of a wave\n", mib(plan->gradients));
    printf("  %12.1f MiB  activations\n", mib(plan->activations));
    printf("  %12.1f MiB  tokens, losses, statistics\n", mib(plan->buffers));
    printf("  %12.1f MiB  libraries and text\n", mib(plan->resident));
    if (plan->outside > plan->training)
        printf("  %12.1f MiB  more outside the rounds: %s\n", mib(plan->outside - plan->training),
               plan->why_outside);
    if (plan->near_limit < SIZE_MAX)
        printf("  %12.1f MiB  on the GPU, of %.1f MiB that can be had\n", mib(plan->near_total),
               mib(plan->near_limit));
    printf("  %12.1f MiB  in total%s", mib(plan->total),
           plan->near_limit < SIZE_MAX ? " in host memory" : "");
    if (plan->limit < SIZE_MAX)
        printf(" of %.1f MiB that can be had\n", mib(plan->limit));
    else
        printf("\n");
    print_traffic(plan);
}

static exit_code plan_process(const settings *s, const base_shape *shape, process_place at, process_plan *out,
                              problems *list) {
    fleet *f = NULL;
    ck_backend *backend = NULL;
    int before = problems_count(list), threads = run_threads(s, at.process, at.processes);
    exit_code code = kernel_open(s->backend, threads, &backend, list);
    THEN(code, fleet_create_at(at, s, shape, &f, list));
    THEN(code, plan_make(s, backend, shape, f, &out->plan, list));
    if (code == EXIT_OK) out->devices = f->n_local;
    problems_prefix(list, before, "process %d of %d: ", at.process, at.processes);
    fleet_destroy(f);
    ck_close(backend);
    return code;
}

/* As if all ran on this machine, with its memory between them. Planned before the text of all devices is
 * open, which no process has. */
static exit_code plan_processes(const settings *s, int n, process_plan *plans, run_outline *o,
                                problems *list) {
    exit_code code = run_base_shape(s, &o->shape, list);
    THEN(code, plan_admits_devices(s, n, list));
    for (int p = 0; p < n && code == EXIT_OK; p++)
        code = plan_process(s, &o->shape, (process_place){.process = p, .processes = n, .on_machine = n},
                            &plans[p], list);
    THEN(code, fleet_create(s, &o->shape, &o->fleet, list));
    THEN(code, variants_open(o->fleet, &o->shape, list));
    THEN(code, fleet_open_data(o->fleet, list));
    exit_code text = code == EXIT_OK && run_trains_base(s) ? pretrain_check_text(s, list) : EXIT_OK;
    return THEN(code, text);
}

static exit_code plan_alone(const settings *s, process_plan *plan, run_outline *o, problems *list) {
    ck_backend *backend = NULL;
    exit_code code = kernel_open(s->backend, s->threads, &backend, list);
    THEN(code, outline_make(s, ck_collective_local(), backend, o, list));
    plan->plan = o->plan;
    ck_close(backend);
    return code;
}

static void print_plans(const process_plan *plans, int n) {
    for (int p = 0; p < n; p++) {
        if (n > 1)
            printf("\nProcess %d of %d, with %d device%s\n", p, n, plans[p].devices,
                   plans[p].devices == 1 ? "" : "s");
        print_plan(&plans[p].plan);
    }
}

/* What a run would read before its first step; a base that has still to be trained is not there to fold into.
 */
static exit_code read_base(const settings *s, const fleet *f, base_model **base, problems *list) {
    exit_code code = run_read_base(s, base, list);
    return code == EXIT_OK && *base ? variants_check(f, *base, list) : code;
}

/* Once for all seeds of a population. */
static void print_variants(const fleet *f) {
    const char *last = "";
    for (int i = 0; i < f->n_populations; i++) {
        const population_settings *p = f->populations[i].settings;
        if (!p->variant || strcmp(p->name, last) == 0) continue;
        last = p->name;
        printf("\n%s has a variant of the base, %s: %.1f MiB, which each of its devices receives once\n",
               p->name, p->variant, mib((size_t)variants_first_bytes(f, i)));
    }
}

static void print_time(const run_work *work, const run_rates *rates) {
    char rounds[DURATION_BYTES], before[DURATION_BYTES + 40] = "", base[DURATION_BYTES];
    duration_text(measured_seconds(work, rates), rounds);
    duration_text(rates->pretraining, base);
    if (rates->pretraining > 0.0)
        snprintf(before, sizeof before, ", and %s more to pre-train the base", base);
    printf("\nA run takes about %s ", rounds);
    if (rates->on_gpu)
        printf("on the GPU");
    else
        printf("on %d thread%s", rates->threads, rates->threads == 1 ? "" : "s");
    printf(" (measured %d step%s in %.1f s)%s\n", rates->steps, rates->steps == 1 ? "" : "s", rates->spent,
           before);
}

static run_memory memory_of(const process_plan *plans, int n) {
    run_memory all = {0, 0};
    for (int p = 0; p < n; p++) {
        run_memory one = measure_memory(&plans[p].plan);
        all.host += one.host;
        all.gpu += one.gpu;
    }
    return all;
}

/* The devices make room for those that are timed. What goes wrong here is no fault of the configuration. */
static void measure_time(const settings *s, run_outline *o, run_memory most, base_model *base) {
    run_work work = measure_work(s, &o->shape, o->fleet);
    base_shape shape = o->shape;
    run_rates rates;
    problems *list = problems_create();
    outline_free(o);
    fflush(stdout);
    if (measure_run(s, &shape, base, most, &rates, list) == EXIT_OK && problems_count(list) == 0)
        print_time(&work, &rates);
    else
        printf("\nHow long a run takes was not measured: %s\n",
               problems_count(list) > 0 ? problems_message(list, 0) : "it failed");
    problems_destroy(list);
}

static exit_code check_at_once(const settings *s, int processes, bool measured, const char *heading,
                               bool *too_large, problems *list) {
    run_outline o = {0};
    base_model *base = NULL;
    process_plan *plans = calloc((size_t)processes, sizeof *plans);
    exit_code code = plans ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for the plans");
    THEN(code,
         processes > 1 ? plan_processes(s, processes, plans, &o, list) : plan_alone(s, plans, &o, list));
    THEN(code, read_base(s, o.fleet, &base, list));
    if (code == EXIT_OK) {
        fputs(heading, stdout);
        report_base(&o.shape);
        putchar('\n');
        check_print_populations(o.fleet);
        print_variants(o.fleet);
        print_plans(plans, processes);
        report_overlaps(false, o.fleet);
    }
    *too_large = processes == 1 && o.plan.refused;
    if (code == EXIT_OK && measured)
        measure_time(s, &o, memory_of(plans, processes), base);
    else
        base_destroy(base);
    outline_free(&o);
    free(plans);
    return code;
}

/* One after the other, as they would run: smaller where one is refused that had been expected to fit. */
static exit_code check_batches(const settings *s, bool measured, problems *list) {
    int *which = calloc((size_t)s->n_populations, sizeof *which), size = 0, batches = 0;
    int all = 0, most = INT_MAX, before = problems_count(list);
    exit_code code = which ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for the populations");
    for (int i = 0; which && i < s->n_populations; i++) which[i] = i;
    for (int at = 0, n = 1; at < s->n_populations && code == EXIT_OK;) {
        char heading[192];
        bool too_large = false;
        code = batches_divide(s, ck_collective_local(), which + at, s->n_populations - at, most, &size,
                              &batches, list);
        if (code != EXIT_OK) break;
        if (n + batches - 1 > all) all = n + batches - 1;
        snprintf(heading, sizeof heading, "%s\nBatch %d of %d, %d of %d populations\n\n",
                 at > 0 ? "" : "The populations do not fit into memory all at once: they run in batches\n", n,
                 all, size, s->n_populations);
        settings *some = settings_subset(s, size, which + at);
        code = check_at_once(some, 1, measured, heading, &too_large, list);
        settings_destroy(some);
        bool again = too_large && size > 1;
        if (again) problems_drop(list, before);
        if (again) code = EXIT_OK;
        most = again ? size - 1 : most;
        at += again ? 0 : size;
        n += !again;
    }
    free(which);
    return code;
}

exit_code run_check(const settings *s, int processes, bool measured, problems *list) {
    bool too_large = false;
    exit_code code = tune_check(s, processes, list);
    int before = problems_count(list);
    THEN(code, check_at_once(s, processes, measured, "", &too_large, list));
    if (!too_large || s->n_populations == 1) return code;
    problems_drop(list, before);
    return check_batches(s, measured, list);
}

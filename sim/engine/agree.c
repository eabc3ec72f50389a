/* agree.c - where the processes of a run meet: after every expert step, round of router bursts and
 * evaluation.
 *
 * Each brings how it fared, whether a signal came to it, the populations that it saw diverge and its part of
 * the step's numbers; all leave with the same: the run goes on, stops or fails as one, and a population stops
 * everywhere at once. A process that is alone meets itself.
 */
#include "engine/agree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/processes.h"

/* What a process brings; followed by a divergence for each population. */
typedef struct {
    int32_t code, stop;
    step_numbers step;
} process_status;

static size_t status_bytes(const agreement *a) {
    size_t bytes = sizeof(process_status) + (size_t)a->fleet->n_populations * sizeof(divergence);
    return (bytes + _Alignof(process_status) - 1) / _Alignof(process_status) * _Alignof(process_status);
}

static const process_status *status_of(const agreement *a, int process) {
    return (const process_status *)(a->every_status + (size_t)process * status_bytes(a));
}

static const divergence *divergences_of(const agreement *a, int process) {
    return (const divergence *)(status_of(a, process) + 1);
}

exit_code agreement_create(agreement *a, ck_collective *collective, fleet *f, problems *list) {
    *a = (agreement){.collective = collective, .fleet = f};
    size_t processes = (size_t)ck_processes(a->collective);
    a->diverged = malloc((size_t)a->fleet->n_populations * sizeof *a->diverged);
    a->own_status = calloc(1, status_bytes(a));
    a->every_status = calloc(processes, status_bytes(a));
    if (!a->diverged || !a->own_status || !a->every_status)
        return problem(list, EXIT_ENVIRONMENT, "out of memory for what the processes tell");
    for (int i = 0; i < a->fleet->n_populations; i++) a->diverged[i].device = -1;
    return EXIT_OK;
}

void agreement_destroy(agreement *a) {
    free(a->diverged);
    free(a->own_status);
    free(a->every_status);
    *a = (agreement){.collective = a->collective,
                     .expert_seconds = a->expert_seconds,
                     .expert_tokens = a->expert_tokens,
                     .expert_flops = a->expert_flops};
}

void agreement_watch(agreement *a, const volatile sig_atomic_t *interrupted) {
    a->interrupted = interrupted;
}

/* ---- Steps ---- */

void agreement_count_step(agreement *a, double tokens, double flops, double loss) {
    a->own_step.loss += loss;
    a->own_step.devices++;
    a->own_step.tokens += tokens;
    a->own_step.flops += flops;
}

void agreement_time_step(agreement *a, double seconds) {
    a->own_step.seconds = seconds;
}

/* ---- Divergence ---- */

void agreement_diverged(agreement *a, int device_index, int layer, divergence_kind kind) {
    const device *d = &a->fleet->devices[device_index];
    if (d->stopped) return;
    a->diverged[d->population] = (divergence){.device = device_index, .layer = layer, .kind = kind};
    fleet_stop(a->fleet, d->population);
}

static void describe_layer(int layer, char out[32]) {
    if (layer >= 0)
        snprintf(out, 32, "layer %d", layer);
    else
        snprintf(out, 32, "the output");
}

static void describe_checkpoint(const run_position *at, char *out, size_t bytes) {
    if (at->saved_round > 0)
        snprintf(out, bytes,
                 "%s/checkpoint.h5 keeps its adapters as they were after round %d, its last good checkpoint",
                 at->result, at->saved_round);
    else
        snprintf(out, bytes, "there was no checkpoint of it yet");
}

static void report_divergence(const agreement *a, const run_position *at, const divergence *seen,
                              problems *list) {
    static const char *const what[] = {[DIVERGED_IN_TRAINING] = "the training loss",
                                       [DIVERGED_IN_ROUTER_STEP] = "the validation loss of a router step",
                                       [DIVERGED_IN_EVALUATION] = "the loss of an evaluation"};
    const device *d = &a->fleet->devices[seen->device];
    const population_settings *p = a->fleet->populations[d->population].settings;
    char where[32], saved[4200];
    describe_layer(seen->layer, where);
    describe_checkpoint(at, saved, sizeof saved);
    problem(list, EXIT_RUN,
            "population '%s' (seed %llu): %s of device %d is not finite in round %d, first seen in %s; the "
            "population stops, the others go "
            "on; %s; a lower learning rate may help",
            p->name, (unsigned long long)p->seed, what[seen->kind], d->index, at->round, where, saved);
}

/* The first device that any process names; NULL: none. */
static const divergence *first_divergence(const agreement *a, int which) {
    const divergence *first = NULL;
    for (int p = 0; p < ck_processes(a->collective); p++) {
        const divergence *seen = &divergences_of(a, p)[which];
        if (seen->device >= 0 && (!first || seen->device < first->device)) first = seen;
    }
    return first;
}

static void stop_diverged(agreement *a, const run_position *at, problems *list) {
    for (int i = 0; i < a->fleet->n_populations; i++) {
        const divergence *first = first_divergence(a, i);
        a->diverged[i].device = -1;
        if (!first) continue;
        report_divergence(a, at, first, list);
        if (!a->fleet->devices[a->fleet->populations[i].first_device].stopped) fleet_stop(a->fleet, i);
    }
}

/* ---- Meeting ---- */

/* The step took as long as its slowest process. */
static void add_step_numbers(agreement *a) {
    step_numbers all = {0};
    for (int p = 0; p < ck_processes(a->collective); p++) {
        const step_numbers *one = &status_of(a, p)->step;
        if (one->seconds > all.seconds) all.seconds = one->seconds;
        all.tokens += one->tokens;
        all.flops += one->flops;
        all.loss += one->loss;
        all.devices += one->devices;
    }
    a->expert_seconds += all.seconds;
    a->expert_tokens += all.tokens;
    a->expert_flops += all.flops;
    if (all.devices > 0) a->step_loss = all.loss / all.devices;
    a->own_step = (step_numbers){0};
}

static bool anybody_failed(const agreement *a) {
    for (int p = 0; p < ck_processes(a->collective); p++)
        if (status_of(a, p)->code != EXIT_OK) return true;
    return false;
}

exit_code agreement_meet(agreement *a, const run_position *at, exit_code code, problems *list) {
    process_status own = {
        .code = (int32_t)code, .stop = a->interrupted && *a->interrupted, .step = a->own_step};
    memcpy(a->own_status, &own, sizeof own);
    memcpy(a->own_status + sizeof own, a->diverged, (size_t)a->fleet->n_populations * sizeof *a->diverged);
    if (ck_collective_broken(a->collective)) return code;
    ck_status status = ck_collective_exchange(a->collective, a->own_status, status_bytes(a), a->every_status);
    if (status != CK_OK) return processes_problem(a->collective, status, list);
    stop_diverged(a, at, list);
    add_step_numbers(a);
    for (int p = 0; p < ck_processes(a->collective); p++) a->stop |= status_of(a, p)->stop != 0;
    return anybody_failed(a) ? processes_agree(a->collective, code, list) : EXIT_OK;
}

/* agree.c - where the processes of a run meet: after every expert step, round of router bursts and
 * evaluation.
 *
 * Each brings how it fared, whether a signal came to it, the populations that it saw diverge and its part of
 * the step's numbers; all leave with the same: the run goes on, stops or fails as one, and a population stops
 * everywhere at once. A process that is alone meets itself.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/session.h"
#include "support/processes.h"

/* What a process brings; followed by a divergence for each population. */
typedef struct {
    int32_t code, stop;
    step_numbers step;
} process_status;

static size_t status_bytes(const session *s) {
    size_t bytes = sizeof(process_status) + (size_t)s->fleet->n_populations * sizeof(divergence);
    return (bytes + _Alignof(process_status) - 1) / _Alignof(process_status) * _Alignof(process_status);
}

static const process_status *status_of(const session *s, int process) {
    return (const process_status *)(s->every_status + (size_t)process * status_bytes(s));
}

static const divergence *divergences_of(const session *s, int process) {
    return (const divergence *)(status_of(s, process) + 1);
}

exit_code session_create_status(session *s, problems *list) {
    size_t processes = (size_t)ck_processes(s->collective);
    s->diverged = malloc((size_t)s->fleet->n_populations * sizeof *s->diverged);
    s->own_status = calloc(1, status_bytes(s));
    s->every_status = calloc(processes, status_bytes(s));
    if (!s->diverged || !s->own_status || !s->every_status)
        return problem(list, EXIT_ENVIRONMENT, "out of memory for what the processes tell");
    for (int i = 0; i < s->fleet->n_populations; i++) s->diverged[i].device = -1;
    return EXIT_OK;
}

void session_destroy_status(session *s) {
    free(s->diverged);
    free(s->own_status);
    free(s->every_status);
}

/* ---- Divergence ---- */

void session_diverged(session *s, int device_index, int layer, divergence_kind kind) {
    const device *d = &s->fleet->devices[device_index];
    if (d->stopped) return;
    s->diverged[d->population] = (divergence){.device = device_index, .layer = layer, .kind = kind};
    fleet_stop(s->fleet, d->population);
}

static void describe_layer(int layer, char out[32]) {
    if (layer >= 0)
        snprintf(out, 32, "layer %d", layer);
    else
        snprintf(out, 32, "the output");
}

static void describe_checkpoint(const session *s, char *out, size_t bytes) {
    if (s->saved_round > 0)
        snprintf(out, bytes,
                 "%s/checkpoint.h5 keeps its adapters as they were after round %d, its last good checkpoint",
                 s->result, s->saved_round);
    else
        snprintf(out, bytes, "there was no checkpoint of it yet");
}

static void report_divergence(const session *s, const divergence *seen, problems *list) {
    static const char *const what[] = {[DIVERGED_IN_TRAINING] = "the training loss",
                                       [DIVERGED_IN_ROUTER_STEP] = "the validation loss of a router step",
                                       [DIVERGED_IN_EVALUATION] = "the loss of an evaluation"};
    const device *d = &s->fleet->devices[seen->device];
    const population_settings *p = s->fleet->populations[d->population].settings;
    char where[32], saved[4200];
    describe_layer(seen->layer, where);
    describe_checkpoint(s, saved, sizeof saved);
    problem(list, EXIT_RUN,
            "population '%s' (seed %llu): %s of device %d is not finite in round %d, first seen in %s; the "
            "population stops, the others go "
            "on; %s; a lower learning rate may help",
            p->name, (unsigned long long)p->seed, what[seen->kind], d->index, s->round, where, saved);
}

/* The first device that any process names; NULL: none. */
static const divergence *first_divergence(const session *s, int which) {
    const divergence *first = NULL;
    for (int p = 0; p < ck_processes(s->collective); p++) {
        const divergence *seen = &divergences_of(s, p)[which];
        if (seen->device >= 0 && (!first || seen->device < first->device)) first = seen;
    }
    return first;
}

static void stop_diverged(session *s, problems *list) {
    for (int i = 0; i < s->fleet->n_populations; i++) {
        const divergence *first = first_divergence(s, i);
        s->diverged[i].device = -1;
        if (!first) continue;
        report_divergence(s, first, list);
        if (!s->fleet->devices[s->fleet->populations[i].first_device].stopped) fleet_stop(s->fleet, i);
    }
}

/* ---- Meeting ---- */

/* The step took as long as its slowest process. */
static void add_step_numbers(session *s) {
    step_numbers all = {0};
    for (int p = 0; p < ck_processes(s->collective); p++) {
        const step_numbers *one = &status_of(s, p)->step;
        if (one->seconds > all.seconds) all.seconds = one->seconds;
        all.tokens += one->tokens;
        all.flops += one->flops;
        all.loss += one->loss;
        all.devices += one->devices;
    }
    s->expert_seconds += all.seconds;
    s->expert_tokens += all.tokens;
    s->expert_flops += all.flops;
    if (all.devices > 0) s->step_loss = all.loss / all.devices;
    s->step_part = (step_numbers){0};
}

static bool anybody_failed(const session *s) {
    for (int p = 0; p < ck_processes(s->collective); p++)
        if (status_of(s, p)->code != EXIT_OK) return true;
    return false;
}

exit_code session_agree(session *s, exit_code code, problems *list) {
    process_status own = {
        .code = (int32_t)code, .stop = s->interrupted && *s->interrupted, .step = s->step_part};
    memcpy(s->own_status, &own, sizeof own);
    memcpy(s->own_status + sizeof own, s->diverged, (size_t)s->fleet->n_populations * sizeof *s->diverged);
    if (ck_collective_broken(s->collective)) return code;
    ck_status status = ck_collective_exchange(s->collective, s->own_status, status_bytes(s), s->every_status);
    if (status != CK_OK) return processes_problem(s->collective, status, list);
    stop_diverged(s, list);
    add_step_numbers(s);
    for (int p = 0; p < ck_processes(s->collective); p++) s->stop |= status_of(s, p)->stop != 0;
    return anybody_failed(s) ? processes_agree(s->collective, code, list) : EXIT_OK;
}

#include "run/checkpoints.h"
#include "config/config.h"

#include <stdlib.h>
#include <string.h>

#include "run/pack_walk.h"
#include "support/kernel_problem.h"
#include "support/processes.h"

exit_code checkpoints_create(const session *s, checkpoint *out, problems *list) {
    size_t floats = (size_t)s->fleet->n_parameters, devices = (size_t)s->fleet->n_devices;
    memset(out, 0, sizeof *out);
    settings_hash(s->settings, out->config_hash);
    out->n_parameters = s->fleet->all_parameters;
    out->n_carried = s->fleet->all_carried;
    out->n_devices = s->fleet->n_devices;
    out->parameters = malloc(floats * sizeof *out->parameters + 1);
    out->moment1 = malloc(floats * sizeof *out->moment1 + 1);
    out->moment2 = malloc(floats * sizeof *out->moment2 + 1);
    out->carried = malloc((size_t)s->fleet->n_carried * sizeof *out->carried + 1);
    out->device_expert_steps = malloc(devices * sizeof *out->device_expert_steps);
    out->device_router_steps = malloc(devices * sizeof *out->device_router_steps);
    out->bytes_up = malloc(devices * sizeof *out->bytes_up);
    out->bytes_down = malloc(devices * sizeof *out->bytes_down);
    out->stopped = malloc(devices * sizeof *out->stopped);
    if (out->parameters && out->moment1 && out->moment2 && out->carried && out->device_expert_steps && out->device_router_steps &&
        out->bytes_up && out->bytes_down && out->stopped)
        return EXIT_OK;
    checkpoints_destroy(out);
    return problem(list, EXIT_ENVIRONMENT, "out of memory for a checkpoint of %lld parameters", (long long)s->fleet->n_parameters);
}

void checkpoints_destroy(checkpoint *c) {
    free(c->parameters);
    free(c->moment1);
    free(c->moment2);
    free(c->carried);
    free(c->device_expert_steps);
    free(c->device_router_steps);
    free(c->bytes_up);
    free(c->bytes_down);
    free(c->stopped);
    free(c->unfinished);
    memset(c, 0, sizeof *c);
}

/* A population that stopped keeps what the checkpoint before held of it (zeros and no steps, where there was none): what it is now is of
 * no use. */
static bool keeps_the_last(const session *s, const population *p) {
    return s->fleet->devices[p->first_device].stopped;
}

/* ---- Packs: those of a population's devices in this process are neighbours ---- */

typedef struct {
    int64_t first, count; /* floats */
} span;

static span packs_of(const fleet *f, const population *p) {
    span all = {0, 0};
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++) {
        if (f->devices[i].pack < 0) continue;
        if (all.count == 0) all.first = f->devices[i].pack;
        all.count += f->shapes[f->devices[i].shape].total;
    }
    return all;
}

static span carried_of(const fleet *f, const population *p) {
    span all = {0, 0};
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++) {
        if (f->devices[i].carried < 0) continue;
        if (all.count == 0) all.first = f->devices[i].carried;
        all.count += f->shapes[f->devices[i].shape].total;
    }
    return all;
}

static ck_status take(const session *s, float *host, const float *memory, span which) {
    if (which.count == 0) return CK_OK;
    return ck_download(s->stream, host + which.first, memory + which.first, (size_t)which.count * sizeof *host);
}

static ck_status take_population(const session *s, const population *p, checkpoint *c) {
    const fleet *f = s->fleet;
    span packs = packs_of(f, p);
    ck_status status = take(s, c->parameters, f->parameters, packs);
    if (status == CK_OK) status = take(s, c->moment1, f->moment1, packs);
    if (status == CK_OK) status = take(s, c->moment2, f->moment2, packs);
    return status == CK_OK ? take(s, c->carried, f->carried, carried_of(f, p)) : status;
}

static ck_status give(const session *s, float *memory, const float *host, int64_t floats) {
    return floats == 0 ? CK_OK : ck_upload(s->stream, memory, host, (size_t)floats * sizeof *host);
}

/* ---- Saving ---- */

/* Nothing good was ever saved of it. */
static void clear_population(const session *s, const population *p, checkpoint *c) {
    span packs = packs_of(s->fleet, p), carried = carried_of(s->fleet, p);
    float *arrays[] = {c->parameters, c->moment1, c->moment2};
    for (int i = 0; i < 3; i++) memset(arrays[i] + packs.first, 0, (size_t)packs.count * sizeof(float));
    memset(c->carried + carried.first, 0, (size_t)carried.count * sizeof(float));
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++) c->device_expert_steps[i] = c->device_router_steps[i] = 0;
}

static void take_devices(const session *s, const population *p, bool keep_steps, checkpoint *c) {
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++) {
        const device *d = &s->fleet->devices[i];
        c->bytes_up[i] = s->bytes_up[i];
        c->bytes_down[i] = s->bytes_down[i];
        c->stopped[i] = d->stopped;
        if (keep_steps) continue;
        c->device_expert_steps[i] = d->expert_steps;
        c->device_router_steps[i] = d->router_steps;
    }
}

/* Counts of all devices to process 0, and the largest. */
static exit_code gather_devices(const session *s, checkpoint *c, problems *list) {
    const process_rows tables[2] = {{c->device_expert_steps, sizeof *c->device_expert_steps, sizeof *c->device_expert_steps},
                                    {c->device_router_steps, sizeof *c->device_router_steps, sizeof *c->device_router_steps}};
    exit_code code = processes_gather(s->collective, c->n_devices, s->fleet->owner, tables, 2, list);
    c->router_step = 0;
    for (int i = 0; i < c->n_devices; i++)
        if (c->device_router_steps[i] > c->router_step) c->router_step = c->device_router_steps[i];
    return code;
}

/* ---- A round that is not over: its losses so far, its windows so far ---- */

static size_t losses_bytes(const session *s) {
    return (size_t)s->fleet->n_devices * sizeof(double);
}

static bool is_within_a_round(const session *s, int round) {
    return s->local_step != (int64_t)round * s->settings->local_steps;
}

static exit_code take_unfinished(const session *s, int round, checkpoint *c, problems *list) {
    free(c->unfinished);
    c->unfinished = NULL;
    c->n_unfinished = 0;
    if (ck_process(s->collective) != 0 || !is_within_a_round(s, round)) return EXIT_OK;
    size_t losses = losses_bytes(s), bytes = losses + sampling_bytes(&s->sampled);
    c->unfinished = malloc(bytes);
    if (!c->unfinished) return problem(list, EXIT_ENVIRONMENT, "out of memory for a checkpoint within a round");
    c->n_unfinished = (int64_t)bytes;
    memcpy(c->unfinished, metric_doubles(&s->numbers, METRIC_TRAIN_LOSS), losses);
    sampling_pack(&s->sampled, c->unfinished + losses);
    return EXIT_OK;
}

static exit_code give_unfinished(session *s, const checkpoint *c, const char *path, problems *list) {
    size_t losses = losses_bytes(s), bytes = losses + sampling_bytes(&s->sampled);
    bool within = c->expert_step != (int64_t)c->round * s->settings->local_steps;
    if ((size_t)c->n_unfinished != (within ? bytes : 0))
        return problem(list, EXIT_INPUT, "%s: has %lld expert steps after round %d, but not the row that belongs to them; it is damaged",
                       path, (long long)c->expert_step, c->round);
    if (!within) return EXIT_OK;
    memcpy(metric_doubles(&s->numbers, METRIC_TRAIN_LOSS), c->unfinished, losses);
    sampling_unpack(&s->sampled, c->unfinished + losses);
    return EXIT_OK;
}

/* This process's devices to the host. */
static exit_code take_all(session *s, int round, checkpoint *c, problems *list) {
    const fleet *f = s->fleet;
    ck_status status = CK_OK;
    for (int i = 0; i < f->n_populations; i++) {
        const population *p = &f->populations[i];
        bool keep = keeps_the_last(s, p);
        if (keep && c->expert_step == 0) clear_population(s, p, c);
        if (!keep && status == CK_OK) status = take_population(s, p, c);
        take_devices(s, p, keep, c);
    }
    if (status == CK_OK) status = ck_wait(s->stream);
    exit_code code = processes_agree(s->collective, kernel_problem(list, s->backend, status, "reading the adapters back"), list);
    if (code == EXIT_OK) code = gather_devices(s, c, list);
    if (code == EXIT_OK && is_within_a_round(s, round)) code = session_gather_steps(s, list);
    if (code != EXIT_OK) return code;
    c->round = round;
    c->expert_step = s->local_step;
    return processes_agree(s->collective, take_unfinished(s, round, c, list), list);
}

/* Process 0 writes or reads the file, while the others send or get their packs. */
static exit_code pass_packs(session *s, pack_direction direction, checkpoint *c, const char *path, problems *list) {
    pack_walk walk;
    exit_code code = EXIT_OK;
    pack_walk_begin(&walk, direction, s, c);
    if (ck_process(s->collective) == 0)
        code = direction == PACKS_TO_PROCESS_0 ? checkpoint_write(path, c, list) : checkpoint_read(path, c, list);
    exit_code walked = pack_walk_end(&walk, list);
    return processes_agree(s->collective, code == EXIT_OK ? walked : code, list);
}

exit_code checkpoints_save(session *s, int round, checkpoint *c, const char *path, problems *list) {
    exit_code code = take_all(s, round, c, list);
    return code == EXIT_OK ? pass_packs(s, PACKS_TO_PROCESS_0, c, path, list) : code;
}

/* ---- Going on ---- */

static void give_devices(session *s, const checkpoint *c, problems *list) {
    for (int i = 0; i < c->n_devices; i++) {
        device *d = &s->fleet->devices[i];
        d->expert_steps = c->device_expert_steps[i];
        d->router_steps = c->device_router_steps[i];
        s->bytes_up[i] = c->bytes_up[i];
        s->bytes_down[i] = c->bytes_down[i];
        if (!c->stopped[i] || d->stopped) continue;
        const population_settings *p = s->fleet->populations[d->population].settings;
        problem(list, EXIT_RUN, "population '%s' (seed %llu) stopped by round %d because a loss was not finite", p->name,
                (unsigned long long)p->seed, c->round);
        fleet_stop(s->fleet, d->population);
    }
}

/* What else a checkpoint holds, to all. */
static exit_code broadcast_numbers(session *s, checkpoint *c, problems *list) {
    struct {
        int64_t round, expert_step, router_step, n_unfinished;
    } counts = {c->round, c->expert_step, c->router_step, c->n_unfinished};
    size_t devices = (size_t)c->n_devices;
    ck_collective *all = s->collective;
    ck_status status = ck_collective_broadcast(all, &counts, sizeof counts);
    c->round = (int)counts.round;
    c->expert_step = counts.expert_step;
    c->router_step = counts.router_step;
    c->n_unfinished = counts.n_unfinished;
    if (status == CK_OK && ck_process(all) != 0 && counts.n_unfinished > 0) c->unfinished = malloc((size_t)counts.n_unfinished);
    exit_code code =
        counts.n_unfinished > 0 && !c->unfinished ? problem(list, EXIT_ENVIRONMENT, "out of memory for the checkpoint") : EXIT_OK;
    code = processes_agree(all, code, list);
    if (code != EXIT_OK) return code;
    if (status == CK_OK) status = ck_collective_broadcast(all, c->device_expert_steps, devices * sizeof *c->device_expert_steps);
    if (status == CK_OK) status = ck_collective_broadcast(all, c->device_router_steps, devices * sizeof *c->device_router_steps);
    if (status == CK_OK) status = ck_collective_broadcast(all, c->bytes_up, devices * sizeof *c->bytes_up);
    if (status == CK_OK) status = ck_collective_broadcast(all, c->bytes_down, devices * sizeof *c->bytes_down);
    if (status == CK_OK) status = ck_collective_broadcast(all, c->stopped, devices * sizeof *c->stopped);
    if (status == CK_OK) status = ck_collective_broadcast(all, c->unfinished, (size_t)c->n_unfinished);
    return processes_problem(all, status, list);
}

static exit_code place_all(session *s, checkpoint *c, problems *list) {
    const fleet *f = s->fleet;
    ck_status status = give(s, f->parameters, c->parameters, f->n_parameters);
    if (status == CK_OK) status = give(s, f->moment1, c->moment1, f->n_parameters);
    if (status == CK_OK) status = give(s, f->moment2, c->moment2, f->n_parameters);
    if (status == CK_OK) status = give(s, f->carried, c->carried, f->n_carried);
    if (status == CK_OK) status = ck_wait(s->stream);
    s->local_step = c->expert_step;
    s->saved_round = c->round;
    give_devices(s, c, list);
    return kernel_problem(list, s->backend, status, "placing the checkpoint's adapters");
}

exit_code checkpoints_restore(session *s, checkpoint *c, const char *path, problems *list) {
    exit_code code = pass_packs(s, PACKS_TO_OWNERS, c, path, list);
    if (code == EXIT_OK) code = broadcast_numbers(s, c, list);
    if (code == EXIT_OK) code = give_unfinished(s, c, path, list);
    if (code == EXIT_OK) code = place_all(s, c, list);
    return processes_agree(s->collective, code, list);
}

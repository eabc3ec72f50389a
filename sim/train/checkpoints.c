#include "train/checkpoints.h"

#include <stdlib.h>
#include <string.h>

#include "kernel_problem.h"

exit_code checkpoints_create(const session *s, checkpoint *out, problems *list) {
    size_t floats = (size_t)s->fleet->n_parameters, devices = (size_t)s->fleet->n_devices;
    memset(out, 0, sizeof *out);
    settings_hash(s->settings, out->config_hash);
    out->n_parameters = s->fleet->n_parameters;
    out->n_carried = s->fleet->n_carried;
    out->n_devices = s->fleet->n_devices;
    out->parameters = malloc(floats * sizeof *out->parameters);
    out->moment1 = malloc(floats * sizeof *out->moment1);
    out->moment2 = malloc(floats * sizeof *out->moment2);
    out->carried = malloc((size_t)out->n_carried * sizeof *out->carried + 1);
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

/* A population that stopped keeps what the checkpoint before held of it: what it is now is of no use. */
static bool keeps_the_last(const session *s, const checkpoint *c, const population *p) {
    return c->expert_step > 0 && s->fleet->devices[p->first_device].stopped;
}

/* ---- Packs: those of a population are neighbours ---- */

typedef struct {
    int64_t first, count; /* floats */
} span;

static span packs_of(const fleet *f, const population *p) {
    const device *last = &f->devices[p->first_device + p->n_devices - 1];
    int64_t first = f->devices[p->first_device].pack;
    return (span){first, last->pack + f->shapes[last->shape].total - first};
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

static void take_devices(const session *s, const population *p, bool keep_steps, checkpoint *c) {
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++) {
        const device *d = &s->fleet->devices[i];
        c->bytes_up[i] = s->bytes_up[i];
        c->bytes_down[i] = s->bytes_down[i];
        c->stopped[i] = d->stopped;
        if (!keep_steps) {
            c->device_expert_steps[i] = d->expert_steps;
            c->device_router_steps[i] = d->router_steps;
        }
        if (c->device_router_steps[i] > c->router_step) c->router_step = c->device_router_steps[i];
    }
}

/* ---- A round that is not over: its losses so far, its windows so far ---- */

static size_t losses_bytes(const session *s) {
    return (size_t)s->fleet->n_devices * sizeof *s->numbers.train;
}

static exit_code take_unfinished(const session *s, int round, checkpoint *c, problems *list) {
    free(c->unfinished);
    c->unfinished = NULL;
    c->n_unfinished = 0;
    if (s->expert_step == (int64_t)round * s->settings->local_steps) return EXIT_OK;
    size_t losses = losses_bytes(s), bytes = losses + sampling_bytes(s->settings, s->fleet);
    c->unfinished = malloc(bytes);
    if (!c->unfinished) return problem(list, EXIT_ENVIRONMENT, "out of memory for a checkpoint within a round");
    c->n_unfinished = (int64_t)bytes;
    memcpy(c->unfinished, s->numbers.train, losses);
    sampling_pack(&s->sampled, c->unfinished + losses);
    return EXIT_OK;
}

static exit_code give_unfinished(session *s, const checkpoint *c, const char *path, problems *list) {
    size_t losses = losses_bytes(s), bytes = losses + sampling_bytes(s->settings, s->fleet);
    bool within = c->expert_step != (int64_t)c->round * s->settings->local_steps;
    if ((size_t)c->n_unfinished != (within ? bytes : 0))
        return problem(list, EXIT_INPUT, "%s: has %lld expert steps after round %d, but not the row that belongs to them; it is damaged",
                       path, (long long)c->expert_step, c->round);
    if (!within) return EXIT_OK;
    memcpy(s->numbers.train, c->unfinished, losses);
    sampling_unpack(&s->sampled, c->unfinished + losses);
    return EXIT_OK;
}

exit_code checkpoints_save(const session *s, int round, checkpoint *c, const char *path, problems *list) {
    const fleet *f = s->fleet;
    ck_status status = CK_OK;
    c->router_step = 0;
    for (int i = 0; i < f->n_populations; i++) {
        const population *p = &f->populations[i];
        bool keep = keeps_the_last(s, c, p);
        if (!keep && status == CK_OK) status = take_population(s, p, c);
        take_devices(s, p, keep, c);
    }
    if (status == CK_OK) status = ck_wait(s->stream);
    exit_code code = kernel_problem(list, s->backend, status, "reading the adapters back");
    if (code == EXIT_OK) code = take_unfinished(s, round, c, list);
    if (code != EXIT_OK) return code;
    c->round = round;
    c->expert_step = s->expert_step;
    return checkpoint_write(path, c, list);
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

exit_code checkpoints_restore(session *s, checkpoint *c, const char *path, problems *list) {
    const fleet *f = s->fleet;
    exit_code code = checkpoint_read(path, c, list);
    if (code == EXIT_OK) code = give_unfinished(s, c, path, list);
    if (code != EXIT_OK) return code;
    ck_status status = give(s, f->parameters, c->parameters, f->n_parameters);
    if (status == CK_OK) status = give(s, f->moment1, c->moment1, f->n_parameters);
    if (status == CK_OK) status = give(s, f->moment2, c->moment2, f->n_parameters);
    if (status == CK_OK) status = give(s, f->carried, c->carried, f->n_carried);
    if (status == CK_OK) status = ck_wait(s->stream);
    s->expert_step = c->expert_step;
    s->saved_round = c->round;
    give_devices(s, c, list);
    return kernel_problem(list, s->backend, status, "placing the checkpoint's adapters");
}

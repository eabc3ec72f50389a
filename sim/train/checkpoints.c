#include "train/checkpoints.h"

#include <stdlib.h>
#include <string.h>

#include "kernel_problem.h"

exit_code checkpoints_create(const session *s, checkpoint *out, problems *list) {
    size_t floats = (size_t)s->fleet->n_parameters, devices = (size_t)s->fleet->n_devices;
    memset(out, 0, sizeof *out);
    settings_hash(s->settings, out->config_hash);
    out->n_parameters = s->fleet->n_parameters;
    out->n_devices = s->fleet->n_devices;
    out->parameters = malloc(floats * sizeof *out->parameters);
    out->moment1 = malloc(floats * sizeof *out->moment1);
    out->moment2 = malloc(floats * sizeof *out->moment2);
    out->device_expert_steps = malloc(devices * sizeof *out->device_expert_steps);
    out->device_router_steps = malloc(devices * sizeof *out->device_router_steps);
    out->bytes_up = malloc(devices * sizeof *out->bytes_up);
    out->bytes_down = malloc(devices * sizeof *out->bytes_down);
    out->stopped = malloc(devices * sizeof *out->stopped);
    if (out->parameters && out->moment1 && out->moment2 && out->device_expert_steps && out->device_router_steps && out->bytes_up &&
        out->bytes_down && out->stopped)
        return EXIT_OK;
    checkpoints_destroy(out);
    return problem(list, EXIT_ENVIRONMENT, "out of memory for a checkpoint of %lld parameters", (long long)s->fleet->n_parameters);
}

void checkpoints_destroy(checkpoint *c) {
    free(c->parameters);
    free(c->moment1);
    free(c->moment2);
    free(c->device_expert_steps);
    free(c->device_router_steps);
    free(c->bytes_up);
    free(c->bytes_down);
    free(c->stopped);
    memset(c, 0, sizeof *c);
}

static void take_devices(const session *s, checkpoint *c) {
    c->router_step = 0;
    for (int i = 0; i < c->n_devices; i++) {
        const device *d = &s->fleet->devices[i];
        c->device_expert_steps[i] = d->expert_steps;
        c->device_router_steps[i] = d->router_steps;
        c->bytes_up[i] = s->bytes_up[i];
        c->bytes_down[i] = s->bytes_down[i];
        c->stopped[i] = d->stopped;
        if (d->router_steps > c->router_step) c->router_step = d->router_steps;
    }
}

exit_code checkpoints_save(const session *s, int round, checkpoint *c, const char *path, problems *list) {
    const fleet *f = s->fleet;
    size_t bytes = (size_t)f->n_parameters * sizeof(float);
    ck_status status = ck_download(s->stream, c->parameters, f->parameters, bytes);
    if (status == CK_OK) status = ck_download(s->stream, c->moment1, f->moment1, bytes);
    if (status == CK_OK) status = ck_download(s->stream, c->moment2, f->moment2, bytes);
    if (status == CK_OK) status = ck_wait(s->stream);
    exit_code code = kernel_problem(list, s->backend, status, "reading the adapters back");
    if (code != EXIT_OK) return code;
    c->round = round;
    c->expert_step = s->expert_step;
    take_devices(s, c);
    return checkpoint_write(path, c, list);
}

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
    size_t bytes = (size_t)f->n_parameters * sizeof(float);
    exit_code code = checkpoint_read(path, c, list);
    if (code != EXIT_OK) return code;
    ck_status status = ck_upload(s->stream, f->parameters, c->parameters, bytes);
    if (status == CK_OK) status = ck_upload(s->stream, f->moment1, c->moment1, bytes);
    if (status == CK_OK) status = ck_upload(s->stream, f->moment2, c->moment2, bytes);
    if (status == CK_OK) status = ck_wait(s->stream);
    s->expert_step = c->expert_step;
    give_devices(s, c, list);
    return kernel_problem(list, s->backend, status, "placing the checkpoint's adapters");
}

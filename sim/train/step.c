/* step.c - one step of two-level training (DESIGN: learning), for all populations at once.
 *
 *   experts, every step      theta_i <- AdamW(theta_i; grad of mean loss on a train batch)      cosine learning rate
 *   routers, every tau       phi_i   <- AdamW(phi_i; grad of mean loss on a validation batch)   constant rate, s times
 *
 * Each step computes and applies only the gradients of its own level; a method whose router learns with the experts takes both at the
 * expert step. As released, the levels leak: every backward pass adds to the gradients G of both, and an optimiser clears only its own,
 *
 *   G^own <- G^own + g^own, AdamW on G^own, G^own <- 0        G^other <- G^other + g^other
 *
 * so a burst's first router step takes the training gradients since the burst before, and the expert step after a burst all of its
 * validation gradients. What waits is fleet.carried. A device's windows of a step are never split over waves, and its update follows its
 * wave at once, so gradients exist for one wave only. */
#include <math.h>
#include <time.h>

#include "kernel_problem.h"
#include "train/session.h"

typedef enum { STEP_EXPERTS, STEP_ROUTERS } step_kind;

double cosine_rate(double first, double last, int64_t step, int64_t steps) {
    return last + 0.5 * (first - last) * (1.0 + cos(M_PI * (double)step / (double)steps));
}

double run_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const population *population_of(const session *s, const device *d) {
    return &s->fleet->populations[d->population];
}

static bool has_router(const session *s, const device *d) {
    return s->fleet->shapes[d->shape].router_rows > 0;
}

/* The groups that this step's optimiser updates. */
static uint32_t learns(const session *s, const device *d, step_kind kind) {
    if (kind == STEP_ROUTERS) return CK_LEARN_ROUTER;
    bool both = population_of(s, d)->method->router == ROUTER_WITH_EXPERTS && has_router(s, d);
    return both ? CK_LEARN_EXPERTS | CK_LEARN_ROUTER : CK_LEARN_EXPERTS;
}

/* The groups whose gradients its backward pass leaves. */
static uint32_t differentiates(const session *s, const device *d, step_kind kind) {
    return d->carried >= 0 ? CK_LEARN_EXPERTS | CK_LEARN_ROUTER : learns(s, d, kind);
}

/* hyper[0] experts, hyper[1] router; step counts the updates of the parameters that this step changes. */
static void set_hyper(const session *s, const device *d, step_kind kind, ck_adamw_device *update) {
    const train_settings *t = &population_of(s, d)->settings->train;
    int64_t steps = (int64_t)s->settings->rounds * s->settings->local_steps;
    double rate = cosine_rate(t->learning_rate, t->learning_rate * t->final_learning_rate_ratio, d->expert_steps, steps);
    ck_adamw_hyper hyper = {.learning_rate = (float)rate,
                            .weight_decay = (float)t->weight_decay,
                            .beta1 = (float)t->beta1,
                            .beta2 = (float)t->beta2,
                            .epsilon = (float)t->epsilon,
                            .step = (int32_t)(d->expert_steps + 1)};
    update->hyper[0] = update->hyper[1] = hyper;
    if (kind == STEP_EXPERTS) return;
    update->hyper[1].learning_rate = (float)(t->router.learning_rate > 0.0 ? t->router.learning_rate : t->learning_rate);
    update->hyper[1].weight_decay = (float)t->router.weight_decay;
    update->hyper[1].step = (int32_t)(d->router_steps + 1);
}

static void fill_windows(session *s, const device *d, step_kind kind, int batch) {
    for (int i = 0; i < batch; i++) {
        int32_t *tokens, *targets;
        wave_add_window(s->wave, s->sequence, &tokens, &targets);
        data_part part = kind == STEP_EXPERTS ? DATA_TRAIN : DATA_VALID;
        int64_t step = kind == STEP_EXPERTS ? d->expert_steps : d->router_steps,
                *offset = sampling_place(&s->sampled, s->fleet, d, part, i);
        device_data_sample(d->data, part, (uint64_t)step, i, s->sequence, tokens, targets, offset);
    }
}

/* Mean loss of the wave's device i; a value that is not finite stops its population. */
static double check_loss(session *s, int i, step_kind kind) {
    const wave_buffer *w = s->wave;
    double sum = 0.0;
    for (int q = w->first_sequence[i]; q < w->first_sequence[i + 1]; q++) sum += w->loss[q];
    divergence_kind seen = kind == STEP_EXPERTS ? DIVERGED_IN_TRAINING : DIVERGED_IN_ROUTER_STEP;
    if (w->fault[i] >= 0 || !isfinite(sum)) session_diverged(s, w->device_index[i], w->fault[i], seen);
    return sum / (double)(w->first_token[w->first_sequence[i + 1]] - w->first_token[w->first_sequence[i]]);
}

static void count_expert_step(session *s, device *d, int device_index, double loss, int sequences) {
    double tokens = (double)sequences * s->sequence;
    s->numbers.train[device_index] += loss / s->settings->local_steps;
    s->step_part.loss += loss;
    s->step_part.devices++;
    s->step_part.tokens += tokens;
    s->step_part.flops += tokens * model_flops_per_token(&s->base.shape, &s->fleet->shapes[d->shape], s->sequence);
}

typedef struct {
    int updates, carries; /* entries of session.updates and session.carries */
} step_counts;

static step_counts collect_updates(session *s, step_kind kind) {
    const wave_buffer *w = s->wave;
    step_counts n = {0, 0};
    for (int i = 0; i < w->n_devices; i++) {
        device *d = &s->fleet->devices[w->device_index[i]];
        double loss = check_loss(s, i, kind);
        if (d->stopped) continue;
        ck_adamw_device *update = &s->updates[n.updates++];
        update->parameters = update->moments = d->pack;
        update->gradients = w->devices[i].gradients;
        update->shape = d->shape;
        update->learn = learns(s, d, kind);
        set_hyper(s, d, kind, update);
        if (d->carried >= 0)
            s->carries[n.carries++] =
                (ck_carry_device){.carried = d->carried, .gradients = update->gradients, .shape = d->shape, .learn = update->learn};
        if (kind == STEP_EXPERTS) count_expert_step(s, d, w->device_index[i], loss, w->first_sequence[i + 1] - w->first_sequence[i]);
        if (kind == STEP_EXPERTS)
            d->expert_steps++;
        else
            d->router_steps++;
    }
    return n;
}

static ck_status update_devices(session *s, step_counts n) {
    fleet *f = s->fleet;
    ck_status status = CK_OK;
    if (n.carries > 0) status = ck_carry_devices(s->stream, f->carried, s->gradients, f->shapes, s->carries, n.carries);
    if (status == CK_OK && n.updates > 0)
        status = ck_adamw_devices(s->stream, f->parameters, f->moment1, f->moment2, s->gradients, f->shapes, s->updates, n.updates);
    return status;
}

static exit_code run_wave(session *s, step_kind kind, problems *list) {
    fleet *f = s->fleet;
    if (s->wave->n_devices == 0) return EXIT_OK;
    ck_wave wave = wave_view(s->wave, f, s->gradients);
    ck_status status = ck_run(s->step, s->stream, &wave);
    size_t bytes = (size_t)s->wave->n_sequences * sizeof(float);
    if (status == CK_OK) status = ck_download(s->stream, s->wave->loss, s->step_outputs.loss, bytes);
    if (status == CK_OK) status = ck_wait(s->stream);
    if (status == CK_OK) status = update_devices(s, collect_updates(s, kind));
    if (status == CK_OK) status = ck_wait(s->stream);
    wave_clear(s->wave);
    return kernel_problem(list, s->backend, status, kind == STEP_EXPERTS ? "expert step" : "router step");
}

static int batch_of(const session *s, const device *d, step_kind kind) {
    const population *p = population_of(s, d);
    return kind == STEP_EXPERTS ? fleet_expert_batch(p) : fleet_router_batch(p);
}

/* Adds a device's step to the wave, after running the wave if it is full. */
static exit_code add_device(session *s, int device_index, step_kind kind, problems *list) {
    const device *d = &s->fleet->devices[device_index];
    int batch = batch_of(s, d, kind);
    exit_code code = EXIT_OK;
    if (!wave_fits(s->wave, batch, (int64_t)batch * s->sequence, s->fleet->shapes[d->shape].total)) code = run_wave(s, kind, list);
    if (code != EXIT_OK || d->stopped) return code;
    wave_add_device(s->wave, s->fleet, device_index, differentiates(s, d, kind));
    fill_windows(s, d, kind, batch);
    return EXIT_OK;
}

exit_code session_expert_step(session *s, problems *list) {
    const fleet *f = s->fleet;
    double start = run_clock();
    exit_code code = EXIT_OK;
    for (int i = 0; i < f->n_mine && code == EXIT_OK; i++)
        if (!f->devices[f->mine[i]].stopped) code = add_device(s, f->mine[i], STEP_EXPERTS, list);
    if (code == EXIT_OK) code = run_wave(s, STEP_EXPERTS, list);
    s->expert_step++;
    s->step_part.seconds = run_clock() - start;
    return session_agree(s, code, list);
}

static bool wants_router_step(const session *s, const device *d, int step) {
    const population *p = population_of(s, d);
    return !d->stopped && p->method->router == ROUTER_FROM_VALIDATION && has_router(s, d) &&
           s->expert_step % p->settings->train.router.every == 0 && step < p->settings->train.router.steps;
}

/* Of any process: all come to the same answer. */
static bool bursts_are_due(const session *s) {
    for (int i = 0; i < s->fleet->n_devices; i++)
        if (wants_router_step(s, &s->fleet->devices[i], 0)) return true;
    return false;
}

static exit_code burst(session *s, problems *list) {
    const fleet *f = s->fleet;
    exit_code code = EXIT_OK;
    bool any = true;
    for (int step = 0; any && code == EXIT_OK; step++) {
        any = false;
        for (int i = 0; i < f->n_mine && code == EXIT_OK; i++) {
            if (!wants_router_step(s, &f->devices[f->mine[i]], step)) continue;
            any = true;
            code = add_device(s, f->mine[i], STEP_ROUTERS, list);
        }
        if (code == EXIT_OK) code = run_wave(s, STEP_ROUTERS, list);
    }
    return code;
}

exit_code session_router_bursts(session *s, problems *list) {
    return bursts_are_due(s) ? session_agree(s, burst(s, list), list) : EXIT_OK;
}

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
 * wave before the next one runs, so gradients exist for one wave only. */
#include <math.h>
#include <time.h>

#include "train/pipeline.h"
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

static data_part part_of(step_kind kind) {
    return kind == STEP_EXPERTS ? DATA_TRAIN : DATA_VALID;
}

static exit_code fill_windows(session *s, const device *d, step_kind kind, int batch, problems *list) {
    int64_t step = kind == STEP_EXPERTS ? d->expert_steps : d->router_steps;
    exit_code code = EXIT_OK;
    for (int i = 0; i < batch && code == EXIT_OK; i++) {
        int32_t *tokens, *targets;
        int q = wave_add_window(s->filling, s->sequence, &tokens, &targets);
        code = device_data_sample(d->data, part_of(kind), (uint64_t)step, i, s->sequence, tokens, targets, &s->filling->offset[q], list);
    }
    return pipeline_check(s, code);
}

/* What a wave that runs has drawn. */
static void record_windows(session *s, const wave_buffer *w, step_kind kind) {
    for (int i = 0; i < w->n_devices; i++)
        for (int q = w->first_sequence[i]; q < w->first_sequence[i + 1]; q++) {
            const device *d = &s->fleet->devices[w->device_index[i]];
            int64_t *place = sampling_place(&s->sampled, s->fleet, d, part_of(kind), q - w->first_sequence[i]);
            if (place) *place = w->offset[q];
        }
}

/* Mean loss of the wave's device i; a value that is not finite stops its population. */
static double check_loss(session *s, const wave_buffer *w, int i, step_kind kind) {
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

/* Experts are updated where the wave has them, routers where they live (slots.h). */
static void place_update(const session *s, const device *d, const ck_wave_device *in_wave, step_kind kind, ck_adamw_device *update) {
    packs_memory at = kind == STEP_EXPERTS ? s->fleet->packs_at : PACKS_NEAR;
    update->parameters = at == PACKS_FAR ? in_wave->gradients : d->pack;
    update->moments = at == PACKS_NEAR ? d->pack : in_wave->gradients;
    update->gradients = in_wave->gradients;
}

static step_counts collect_updates(session *s, const wave_buffer *w, step_kind kind) {
    step_counts n = {0, 0};
    for (int i = 0; i < w->n_devices; i++) {
        device *d = &s->fleet->devices[w->device_index[i]];
        double loss = check_loss(s, w, i, kind);
        if (d->stopped) continue;
        ck_adamw_device *update = &s->updates[n.updates++];
        place_update(s, d, &w->devices[i], kind, update);
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

static ck_status update_devices(session *s, const wave_buffer *w, step_kind kind, step_counts n) {
    fleet *f = s->fleet;
    packs_view packs = kind == STEP_EXPERTS ? slots_packs(&s->slots, w) : (packs_view){f->parameters, f->moment1, f->moment2};
    ck_status status = CK_OK;
    if (n.carries > 0) status = ck_carry_devices(s->stream, f->carried, s->gradients, f->shapes, s->carries, n.carries);
    if (status == CK_OK && n.updates > 0)
        status =
            ck_adamw_devices(s->stream, packs.parameters, packs.moment1, packs.moment2, s->gradients, f->shapes, s->updates, n.updates);
    return status;
}

static ck_status step_started(session *s, wave_buffer *w, const void *kind) {
    record_windows(s, w, *(const step_kind *)kind);
    return ck_download(s->stream, w->loss, s->step_outputs.loss, (size_t)w->n_sequences * sizeof(float));
}

static ck_status step_finished(session *s, wave_buffer *w, const void *kind) {
    step_kind which = *(const step_kind *)kind;
    return update_devices(s, w, which, collect_updates(s, w, which));
}

static wave_work step_work(const session *s, const step_kind *kind) {
    return (wave_work){.what = *kind == STEP_EXPERTS ? "expert step" : "router step",
                       .program = s->step,
                       .use = *kind == STEP_EXPERTS ? PACKS_UPDATED : PACKS_READ,
                       .gradients = s->gradients,
                       .started = step_started,
                       .finished = step_finished,
                       .context = kind};
}

static int batch_of(const session *s, const device *d, step_kind kind) {
    const population *p = population_of(s, d);
    return kind == STEP_EXPERTS ? fleet_expert_batch(p) : fleet_router_batch(p);
}

/* Adds a device's step to the wave, after starting the wave if it is full. */
static exit_code add_device(session *s, int device_index, const wave_work *work, problems *list) {
    const device *d = &s->fleet->devices[device_index];
    step_kind kind = *(const step_kind *)work->context;
    uint32_t learn = differentiates(s, d, kind);
    int batch = batch_of(s, d, kind);
    exit_code code = EXIT_OK;
    if (!wave_fits(s->filling, batch, (int64_t)batch * s->sequence, wave_pack(s->fleet, device_index, learn)))
        code = pipeline_turn(s, work, list);
    if (code != EXIT_OK || d->stopped) return code;
    wave_add_device(s->filling, s->fleet, device_index, learn);
    return fill_windows(s, d, kind, batch, list);
}

exit_code session_expert_step(session *s, problems *list) {
    const fleet *f = s->fleet;
    const step_kind kind = STEP_EXPERTS;
    const wave_work work = step_work(s, &kind);
    double start = run_clock();
    exit_code code = EXIT_OK;
    for (int i = 0; i < f->n_mine && code == EXIT_OK; i++)
        if (!f->devices[f->mine[i]].stopped) code = add_device(s, f->mine[i], &work, list);
    if (code == EXIT_OK) code = pipeline_end(s, &work, list);
    s->expert_step++;
    s->step_part.seconds = run_clock() - start;
    return session_agree(s, code, list);
}

static bool wants_router_step(const session *s, const device *d, int step) {
    const population *p = population_of(s, d);
    return !d->stopped && d->bursts && s->expert_step % p->settings->train.router.every == 0 && step < p->settings->train.router.steps;
}

/* Of any process: all come to the same answer. */
static bool bursts_are_due(const session *s) {
    for (int i = 0; i < s->fleet->n_devices; i++)
        if (wants_router_step(s, &s->fleet->devices[i], 0)) return true;
    return false;
}

static exit_code burst(session *s, problems *list) {
    const fleet *f = s->fleet;
    const step_kind kind = STEP_ROUTERS;
    const wave_work work = step_work(s, &kind);
    exit_code code = EXIT_OK;
    bool any = true;
    for (int step = 0; any && code == EXIT_OK; step++) {
        any = false;
        for (int i = 0; i < f->n_mine && code == EXIT_OK; i++) {
            if (!wants_router_step(s, &f->devices[f->mine[i]], step)) continue;
            any = true;
            code = add_device(s, f->mine[i], &work, list);
        }
        if (code == EXIT_OK) code = pipeline_end(s, &work, list);
    }
    return code;
}

exit_code session_router_bursts(session *s, problems *list) {
    return bursts_are_due(s) ? session_agree(s, burst(s, list), list) : EXIT_OK;
}

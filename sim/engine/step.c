/* step.c - carries out the schedule's entries (schedule/schedule.h), for all populations at once.
 *
 *   theta <- AdamW(theta; grad of mean loss on a batch)      of the classes of parts that an entry trains
 *
 * Entries of one place in their devices' lists run together in waves. A device's windows of a step are never
 * split over waves, and its update follows its wave before the next one runs, so gradients exist for one
 * wave only. A proximal term of the loss adds its gradient before the update. An entry may leave gradients
 * that it does not use itself; they wait in fleet.carried for the step that uses them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/session.h"
#include "support/rng.h"

/* The step that is being taken. Of each device it is step number `step` of the entry number `place` in the
 * device's list of entries at local_step. */
typedef struct {
    int64_t local_step;
    int place, step;
} step_position;

double run_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* False where the device has nothing to do there. */
static bool entry_of(const session *s, const device *d, const step_position *at, schedule_entry *entry) {
    schedule_entry entries[SCHEDULE_MOST];
    int n = fleet_schedule(s->fleet, d, at->local_step, entries);
    if (d->stopped || at->place >= n || at->step >= entries[at->place].steps) return false;
    *entry = entries[at->place];
    return true;
}

static int64_t steps_taken(const device *d, data_part text) {
    return text == DATA_VALID ? d->router_steps : d->expert_steps;
}

/* hyper[0] experts, hyper[1] router; a step counts the updates of the parameters that it changes. */
static void set_hyper(const session *s, const device *d, const schedule_entry *e, ck_adamw_device *update) {
    const train_settings *t = &s->fleet->populations[d->population].settings->train;
    ck_adamw_hyper hyper = {.learning_rate = (float)e->learning_rate,
                            .weight_decay = (float)e->weight_decay,
                            .beta1 = (float)t->beta1,
                            .beta2 = (float)t->beta2,
                            .epsilon = (float)t->epsilon,
                            .step = (int32_t)(d->expert_steps + 1)};
    update->hyper[0] = update->hyper[1] = hyper;
    update->hyper[1].learning_rate = (float)e->router_learning_rate;
    update->hyper[1].weight_decay = (float)e->router_weight_decay;
    if (e->own_router_count) update->hyper[1].step = (int32_t)(d->router_steps + 1);
}

exit_code step_lists_create(step_lists *l, const fleet *f, const run_plan *plan, problems *list) {
    size_t sequences = (size_t)plan->limits.max_sequences;
    l->updates = malloc(sequences * sizeof *l->updates);
    l->carries = malloc(sequences * sizeof *l->carries);
    if (!l->updates || !l->carries)
        return problem(list, EXIT_ENVIRONMENT, "out of memory for the updates of a wave");
    return proximal_terms_create(&l->proximal, f, plan->limits.max_sequences, list);
}

void step_lists_destroy(step_lists *l) {
    free(l->updates);
    free(l->carries);
    proximal_terms_destroy(&l->proximal);
    *l = (step_lists){0};
}

static exit_code fill_windows(session *s, const device *d, const schedule_entry *e, problems *list) {
    uint64_t step = (uint64_t)steps_taken(d, e->text);
    exit_code code = EXIT_OK;
    for (int i = 0; i < e->batch && code == EXIT_OK; i++) {
        data_window window;
        code = device_data_sample(d->data, e->text, step, i, s->settings->data.sequence, &window, list);
        THEN(code, wave_add_window(s->waves.filling, &window, list));
    }
    return pipeline_check(&s->waves, code);
}

/* Keyed like the windows of the step. */
static ck_noise noise_of(const session *s, const device *d, const schedule_entry *e) {
    rng_key key = {.seed = s->fleet->populations[d->population].settings->seed,
                   .device = d->index,
                   .purpose = e->text == DATA_VALID ? RNG_ROUTER_NOISE : RNG_TRAIN_NOISE,
                   .step = (uint64_t)steps_taken(d, e->text)};
    rng_origin origin = rng_normal_origin(&key);
    ck_noise noise;
    memcpy(noise.key, origin.key, sizeof noise.key);
    memcpy(noise.counter, origin.counter, sizeof noise.counter);
    return noise;
}

/* What a wave that runs has drawn. */
static void record_windows(session *s, const wave_buffer *w, const step_position *at) {
    for (int i = 0; i < w->n_devices; i++) {
        const device *d = &s->fleet->devices[w->device_index[i]];
        schedule_entry e;
        if (!entry_of(s, d, at, &e)) continue;
        for (int q = w->first_sequence[i]; q < w->first_sequence[i + 1]; q++) {
            int64_t *place = sampling_place(&s->sampled, s->fleet, d, e.text, q - w->first_sequence[i]);
            if (place) *place = w->place[q];
        }
    }
}

/* Mean loss of the wave's device i over its counted tokens. Its population stops if that is not finite. */
static double check_loss(session *s, const wave_buffer *w, int i, data_part text) {
    double sum = 0.0;
    for (int q = w->first_sequence[i]; q < w->first_sequence[i + 1]; q++) sum += w->loss[q];
    divergence_kind seen = text == DATA_TRAIN ? DIVERGED_IN_TRAINING : DIVERGED_IN_ROUTER_STEP;
    if (w->fault[i] >= 0 || !isfinite(sum))
        agreement_diverged(&s->agreed, w->device_index[i], w->fault[i], seen);
    return sum / (double)wave_counted(w, i);
}

/* Of the wave's device i. */
static void count_training_step(session *s, const wave_buffer *w, int i, double loss) {
    const device *d = &s->fleet->devices[w->device_index[i]];
    double flops = 0.0;
    metric_doubles(&s->numbers, METRIC_TRAIN_LOSS)[w->device_index[i]] += loss / s->settings->local_steps;
    for (int q = w->first_sequence[i]; q < w->first_sequence[i + 1]; q++) {
        int64_t tokens = w->first_token[q + 1] - w->first_token[q];
        flops += (double)tokens *
                 model_flops_per_token(&s->programs.base.shape, &s->fleet->shapes[d->shape], (int)tokens);
    }
    agreement_count_step(&s->agreed, (double)wave_tokens(w, i), flops, loss);
}

typedef struct {
    int updates, carries; /* entries of session.steps */
} step_counts;

typedef struct {
    session *session;
    step_position at;
    packs_use use;
} step_work;

/* Experts are updated where the wave has them, a router alone where it lives (slots.h). */
static packs_use use_of(uint32_t learn) {
    return learn & CK_LEARN_EXPERTS ? PACKS_UPDATED : PACKS_READ;
}

static void place_update(const session *s, const device *d, const ck_wave_device *in_wave, uint32_t learn,
                         ck_adamw_device *update) {
    packs_memory at = use_of(learn) == PACKS_UPDATED ? s->fleet->packs_at : PACKS_NEAR;
    update->parameters = at == PACKS_FAR ? in_wave->gradients : d->pack;
    update->moments = at == PACKS_NEAR ? d->pack : in_wave->gradients;
    update->gradients = in_wave->gradients;
    update->shape = d->shape;
    update->learn = learn;
}

static step_counts collect_updates(session *s, const wave_buffer *w, const step_position *at) {
    step_counts n = {0, 0};
    proximal_terms_clear(&s->steps.proximal);
    for (int i = 0; i < w->n_devices; i++) {
        device *d = &s->fleet->devices[w->device_index[i]];
        schedule_entry e;
        if (!entry_of(s, d, at, &e)) continue;
        double loss = check_loss(s, w, i, e.text);
        if (d->stopped) continue;
        ck_adamw_device *update = &s->steps.updates[n.updates++];
        place_update(s, d, &w->devices[i], e.learn, update);
        set_hyper(s, d, &e, update);
        proximal_terms_add(&s->steps.proximal, s->fleet, d, update);
        if (d->carried >= 0)
            s->steps.carries[n.carries++] = (ck_carry_device){.carried = d->carried,
                                                              .gradients = update->gradients,
                                                              .shape = d->shape,
                                                              .learn = update->learn};
        if (e.text == DATA_TRAIN) count_training_step(s, w, i, loss);
        ++*(e.text == DATA_TRAIN ? &d->expert_steps : &d->router_steps);
    }
    return n;
}

static ck_status update_devices(session *s, const wave_buffer *w, packs_use use, step_counts n) {
    fleet *f = s->fleet;
    packs_view packs = use == PACKS_UPDATED ? slots_packs(&s->waves.slots, w)
                                            : (packs_view){f->parameters, f->moment1, f->moment2};
    const proximal_terms *near = &s->steps.proximal;
    if (near->n_groups > 0)
        (void)ck_group_proximal(s->stream, packs.parameters, near->groups, near->n_groups, f->packed,
                                s->programs.gradients);
    if (n.carries > 0)
        (void)ck_carry_devices(s->stream, f->carried, s->programs.gradients, f->shapes, s->steps.carries,
                               n.carries);
    if (n.updates > 0)
        (void)ck_adamw_devices(s->stream, packs.parameters, packs.moment1, packs.moment2,
                               s->programs.gradients, f->shapes, s->steps.updates, n.updates);
    return ck_stream_status(s->stream);
}

static ck_status step_started(void *context, wave_buffer *w) {
    const step_work *work = context;
    session *s = work->session;
    record_windows(s, w, &work->at);
    return ck_download(s->stream, w->loss, s->programs.step_outputs.loss,
                       (size_t)w->n_sequences * sizeof(float));
}

static ck_status step_finished(void *context, wave_buffer *w) {
    const step_work *work = context;
    session *s = work->session;
    return update_devices(s, w, work->use, collect_updates(s, w, &work->at));
}

static wave_work wave_work_of(step_work *work) {
    return (wave_work){.what = work->use == PACKS_UPDATED ? "expert step" : "router step",
                       .program = work->session->programs.step,
                       .use = work->use,
                       .gradients = work->session->programs.gradients,
                       .started = step_started,
                       .finished = step_finished,
                       .context = work};
}

/* Adds a device's step to the wave, after starting the wave if it is full. */
static exit_code add_device(session *s, int device_index, const schedule_entry *e, const wave_work *work,
                            problems *list) {
    const device *d = &s->fleet->devices[device_index];
    exit_code code = EXIT_OK;
    if (!wave_fits(s->waves.filling, e->batch, (int64_t)e->batch * s->settings->data.sequence,
                   wave_pack(s->fleet, device_index, e->leaves)))
        code = pipeline_turn(&s->waves, work, list);
    if (code != EXIT_OK || d->stopped) return code;
    wave_add_device(s->waves.filling, s->fleet, device_index, e->leaves);
    s->waves.filling->devices[s->waves.filling->n_devices - 1].noise = noise_of(s, d, e);
    return fill_windows(s, d, e, list);
}

/* The classes that devices learn there; 0: no device has anything to do. It asks the devices of all
 * processes, so that every process has the same answer. */
static uint32_t learned_at(const session *s, const step_position *at) {
    uint32_t learn = 0;
    schedule_entry e;
    for (int i = 0; i < s->fleet->n_devices; i++)
        if (entry_of(s, &s->fleet->devices[i], at, &e)) learn |= e.learn;
    return learn;
}

/* One step of this process's devices that have one there. */
static exit_code take_step(session *s, const step_position *at, uint32_t learn, problems *list) {
    const fleet *f = s->fleet;
    step_work step = {s, *at, use_of(learn)};
    const wave_work work = wave_work_of(&step);
    exit_code code = EXIT_OK;
    schedule_entry e;
    for (int i = 0; i < f->n_local && code == EXIT_OK; i++)
        if (entry_of(s, &f->devices[f->local[i]], at, &e)) code = add_device(s, f->local[i], &e, &work, list);
    return THEN(code, pipeline_end(&s->waves, &work, list));
}

void session_begin_round(session *s) {
    metric_sums_clear(&s->numbers);
    sampling_clear(&s->sampled, s->fleet);
}

exit_code session_local_step(session *s, problems *list) {
    const step_position at = {s->steps.taken, 0, 0};
    double start = run_clock();
    exit_code code = take_step(s, &at, learned_at(s, &at), list);
    s->steps.taken++;
    agreement_time_step(&s->agreed, run_clock() - start);
    return agreement_meet(&s->agreed, &s->at, code, list);
}

exit_code session_follow_ups(session *s, problems *list) {
    exit_code code = EXIT_OK;
    bool any = false;
    for (step_position at = {s->steps.taken - 1, 1, 0}; at.place < SCHEDULE_MOST; at.place++) {
        uint32_t learn;
        for (at.step = 0; code == EXIT_OK && (learn = learned_at(s, &at)) != 0; at.step++) {
            any = true;
            code = take_step(s, &at, learn, list);
        }
    }
    return any ? agreement_meet(&s->agreed, &s->at, code, list) : code;
}

#include "engine/checkpoints.h"
#include "config/config.h"

#include <stdlib.h>
#include <string.h>

#include "engine/pack_walk.h"
#include "population/variants.h"
#include "support/kernel_problem.h"
#include "support/processes.h"

exit_code checkpoints_create(const session *s, checkpoint *out, problems *list) {
    memset(out, 0, sizeof *out);
    settings_hash(s->settings, out->config_hash);
    out->n_parameters = s->fleet->all_parameters;
    out->n_carried = s->fleet->all_carried;
    out->n_devices = s->fleet->n_devices;
    out->piece = calloc((size_t)pack_walk_floats(s->fleet), sizeof *out->piece);
    if (checkpoint_states_create(out) && out->piece) return EXIT_OK;
    checkpoints_destroy(out);
    return problem(list, EXIT_ENVIRONMENT, "out of memory for a checkpoint of %d devices",
                   s->fleet->n_devices);
}

void checkpoints_destroy(checkpoint *c) {
    checkpoint_states_free(c);
    free(c->piece);
    free(c->unfinished);
    free(c->variants);
    memset(c, 0, sizeof *c);
}

size_t checkpoints_bytes(const fleet *f) {
    return (size_t)pack_walk_floats(f) * sizeof(float) + (size_t)f->n_devices * device_state_all_bytes() +
           fleet_anchor_bytes(f);
}

/* Process 0 writes or reads the file, while the others send or get their packs. */
static exit_code pass_packs(session *s, pack_direction direction, checkpoint *c, const char *path,
                            problems *list) {
    pack_walk walk;
    exit_code code = EXIT_OK;
    pack_walk_begin(&walk, direction, s->fleet, c);
    if (ck_process(s->collective) == 0)
        code = direction == PACKS_TO_PROCESS_0 ? checkpoint_write(path, c, list)
                                               : checkpoint_read(path, c, list);
    exit_code walked = pack_walk_end(&walk, list);
    return processes_agree(s->collective, code == EXIT_OK ? walked : code, list);
}

/* ---- Populations that stopped ---- */

typedef struct {
    int64_t first, count; /* floats; packs of a population's devices in this process are neighbours */
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

static bool is_stopped(const session *s, const population *p) {
    return s->fleet->devices[p->first_device].stopped;
}

static bool stopped_since(const session *s, const population *p, const checkpoint *c) {
    return is_stopped(s, p) && !checkpoint_stopped(c)[p->first_device];
}

static ck_status clear(const session *s, float *memory, span which) {
    return which.count == 0 ? CK_OK
                            : ck_zero(s->stream, memory + which.first, (size_t)which.count * sizeof *memory);
}

/* Nothing good was ever saved of it. */
static exit_code clear_population(const session *s, const population *p, problems *list) {
    const fleet *f = s->fleet;
    span packs = packs_of(f, p);
    ck_status status = clear(s, f->parameters, packs);
    THEN(status, clear(s, f->moment1, packs));
    THEN(status, clear(s, f->moment2, packs));
    THEN(status, clear(s, f->carried, carried_of(f, p)));
    THEN(status, ck_wait(s->stream));
    return kernel_problem(list, s->backend, status, "clearing the adapters of a population that stopped");
}

/* What the packs of a population that stopped are now is of no use, and nobody works on them any more: they
 * become what the checkpoint before holds of them (zeros, where there was none), so that the next one has it
 * too. */
static exit_code bring_back_stopped(session *s, checkpoint *c, const char *path, problems *list) {
    const fleet *f = s->fleet;
    bool any = false;
    exit_code code = EXIT_OK;
    for (int i = 0; i < f->n_populations; i++) {
        if (!stopped_since(s, &f->populations[i], c)) continue;
        any = true;
        if (c->expert_step == 0 && code == EXIT_OK) code = clear_population(s, &f->populations[i], list);
    }
    if (!any || c->expert_step == 0) return any ? processes_agree(s->collective, code, list) : code;
    free(c->unfinished);
    free(c->variants);
    c->unfinished = c->variants = NULL;
    return pass_packs(s, STOPPED_PACKS_TO_OWNERS, c, path, list);
}

/* ---- Saving ---- */

static void *state_at(const checkpoint *c, device_state_id id, int device_index) {
    return (char *)c->state[id] + (size_t)device_index * device_state_bytes(id);
}

/* Where the packs stay as the checkpoint before has them, so does what belongs to them. */
static void save_devices(const session *s, const population *p, bool packs_stay, checkpoint *c) {
    for (device_state_id id = 0; id < DEVICE_STATES; id++) {
        if (packs_stay && device_states[id].with_packs) continue;
        for (int i = p->first_device; i < p->first_device + p->n_devices; i++)
            device_state_get(&s->fleet->devices[i], id, state_at(c, id, i));
    }
}

/* Counts of all devices to process 0, and the largest. */
static exit_code gather_devices(const session *s, checkpoint *c, problems *list) {
    process_rows tables[DEVICE_STATES];
    int n = 0;
    for (device_state_id id = 0; id < DEVICE_STATES; id++)
        if (device_states[id].of_owner)
            tables[n++] = (process_rows){c->state[id], device_state_bytes(id), device_state_bytes(id)};
    exit_code code = processes_gather(s->collective, c->n_devices, s->fleet->owner, tables, n, list);
    const int64_t *steps = checkpoint_counts(c, STATE_ROUTER_STEPS);
    c->router_step = 0;
    for (int i = 0; i < c->n_devices; i++)
        if (steps[i] > c->router_step) c->router_step = steps[i];
    return code;
}

/* ---- A round that is not over: its sums so far, its windows so far, its anchors ---- */

static bool is_within_a_round(const session *s, int round) {
    return s->steps.taken != (int64_t)round * s->settings->local_steps;
}

static exit_code save_unfinished(const session *s, int round, checkpoint *c, problems *list) {
    free(c->unfinished);
    c->unfinished = NULL;
    c->n_unfinished = 0;
    if (ck_process(s->collective) != 0 || !is_within_a_round(s, round)) return EXIT_OK;
    size_t sums = metric_sums_bytes(&s->numbers.shape), windows = sampling_bytes(&s->sampled),
           bytes = sums + windows + fleet_anchor_bytes(s->fleet);
    c->unfinished = malloc(bytes);
    if (!c->unfinished)
        return problem(list, EXIT_ENVIRONMENT, "out of memory for a checkpoint within a round");
    c->n_unfinished = (int64_t)bytes;
    metric_sums_pack(&s->numbers, c->unfinished);
    sampling_pack(&s->sampled, c->unfinished + sums);
    return fleet_save_anchors(s->fleet, c->unfinished + sums + windows, list);
}

static exit_code restore_unfinished(session *s, const checkpoint *c, const char *path, problems *list) {
    size_t sums = metric_sums_bytes(&s->numbers.shape), windows = sampling_bytes(&s->sampled),
           bytes = sums + windows + fleet_anchor_bytes(s->fleet);
    bool within = c->expert_step != (int64_t)c->round * s->settings->local_steps;
    if ((size_t)c->n_unfinished != (within ? bytes : 0))
        return problem(
            list, EXIT_INPUT,
            "%s: has %lld expert steps after round %d, but not the row that belongs to them; it is damaged",
            path, (long long)c->expert_step, c->round);
    if (!within) return fleet_set_anchors(s->fleet, list);
    metric_sums_unpack(&s->numbers, c->unfinished);
    sampling_unpack(&s->sampled, c->unfinished + sums);
    return fleet_restore_anchors(s->fleet, c->unfinished + sums + windows, list);
}

static exit_code save_variants(const session *s, checkpoint *c, problems *list) {
    free(c->variants);
    c->variants = NULL;
    c->n_variants = 0;
    return ck_process(s->collective) == 0 ? variants_save(s->fleet, &c->variants, &c->n_variants, list)
                                          : EXIT_OK;
}

/* What it holds besides the packs. */
static exit_code take_numbers(session *s, int round, checkpoint *c, problems *list) {
    const fleet *f = s->fleet;
    for (int i = 0; i < f->n_populations; i++)
        save_devices(s, &f->populations[i], is_stopped(s, &f->populations[i]), c);
    exit_code code = gather_devices(s, c, list);
    if (is_within_a_round(s, round)) THEN(code, session_gather_steps(s, list));
    if (code != EXIT_OK) return code;
    c->round = round;
    c->expert_step = s->steps.taken;
    code = save_unfinished(s, round, c, list);
    THEN(code, save_variants(s, c, list));
    return processes_agree(s->collective, code, list);
}

exit_code checkpoints_save(session *s, int round, checkpoint *c, const char *path, problems *list) {
    exit_code code = bring_back_stopped(s, c, path, list);
    THEN(code, take_numbers(s, round, c, list));
    THEN(code, pass_packs(s, PACKS_TO_PROCESS_0, c, path, list));
    if (code == EXIT_OK) s->at.saved_round = round;
    return code;
}

/* ---- Going on ---- */

static void restore_devices(session *s, const checkpoint *c, problems *list) {
    for (int i = 0; i < c->n_devices; i++) {
        device *d = &s->fleet->devices[i];
        for (device_state_id id = 0; id < DEVICE_STATES; id++)
            if (id != STATE_STOPPED) device_state_set(d, id, state_at(c, id, i));
        if (!checkpoint_stopped(c)[i] || d->stopped) continue;
        const population_settings *p = s->fleet->populations[d->population].settings;
        problem(list, EXIT_RUN,
                "population '%s' (seed %llu) stopped by round %d because a loss was not finite", p->name,
                (unsigned long long)p->seed, c->round);
        fleet_stop(s->fleet, d->population);
    }
}

/* What else a checkpoint holds, to all. */
static exit_code broadcast_numbers(session *s, checkpoint *c, problems *list) {
    struct {
        int64_t round, expert_step, router_step, n_unfinished, n_variants;
    } counts = {c->round, c->expert_step, c->router_step, c->n_unfinished, c->n_variants};
    size_t devices = (size_t)c->n_devices;
    ck_collective *all = s->collective;
    ck_status status = ck_collective_broadcast(all, &counts, sizeof counts);
    c->round = (int)counts.round;
    c->expert_step = counts.expert_step;
    c->router_step = counts.router_step;
    c->n_unfinished = counts.n_unfinished;
    c->n_variants = counts.n_variants;
    if (status == CK_OK && ck_process(all) != 0 && counts.n_unfinished > 0)
        c->unfinished = malloc((size_t)counts.n_unfinished);
    if (status == CK_OK && ck_process(all) != 0 && counts.n_variants > 0)
        c->variants = malloc((size_t)counts.n_variants);
    exit_code code = (counts.n_unfinished > 0 && !c->unfinished) || (counts.n_variants > 0 && !c->variants)
                         ? problem(list, EXIT_ENVIRONMENT, "out of memory for the checkpoint")
                         : EXIT_OK;
    code = processes_agree(all, code, list);
    if (code != EXIT_OK) return code;
    for (device_state_id id = 0; id < DEVICE_STATES; id++)
        THEN(status, ck_collective_broadcast(all, c->state[id], devices * device_state_bytes(id)));
    THEN(status, ck_collective_broadcast(all, c->unfinished, (size_t)c->n_unfinished));
    THEN(status, ck_collective_broadcast(all, c->variants, (size_t)c->n_variants));
    return processes_problem(all, status, list);
}

exit_code checkpoints_restore(session *s, checkpoint *c, const char *path, problems *list) {
    exit_code code = pass_packs(s, PACKS_TO_OWNERS, c, path, list);
    THEN(code, broadcast_numbers(s, c, list));
    THEN(code, restore_unfinished(s, c, path, list));
    THEN(code, variants_restore(s->fleet, c->variants, c->n_variants, path, list));
    if (code == EXIT_OK) {
        s->steps.taken = c->expert_step;
        s->at.saved_round = c->round;
        restore_devices(s, c, list);
    }
    return processes_agree(s->collective, code, list);
}

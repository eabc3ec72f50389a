/* A population that stops keeps in the checkpoint what it was when it was last good. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/checkpoints.h"
#include "unit/small_run.h"

static const char *const TWO = "  - {name: bad, method: comigs, devices: 2, as_released: true}\n  - {name: "
                               "good, method: local, devices: 2}\n";

static void expert_step(small_run *r) {
    small_check(session_local_step(r->session, r->problems), r->problems, "expert step");
}

static void poison(small_run *r, int device_index) {
    fleet *f = r->session->fleet;
    const device *d = &f->devices[device_index];
    const ck_shape *s = &f->shapes[d->shape];
    float value = NAN;
    cr_assert_eq(ck_upload(r->session->stream, f->parameters + d->pack + s->layer_stride + s->b2, &value,
                           sizeof value),
                 CK_OK);
}

static void save(small_run *r, int round, checkpoint *c, const char *path) {
    small_check(checkpoints_save(r->session, round, c, path, r->problems), r->problems, "saving");
}

static size_t pack_bytes(const small_run *r, int device_index) {
    const fleet *f = r->session->fleet;
    return (size_t)f->shapes[f->devices[device_index].shape].total * sizeof(float);
}

/* The three arrays of all packs, as a checkpoint has them. */
typedef struct {
    float *array[3];
    const fleet *fleet;
} saved_packs;

static saved_packs read_back(const small_run *r, const checkpoint *c, const char *path) {
    saved_packs all = {.fleet = r->session->fleet};
    checkpoint found = *c;
    for (int i = 0; i < 3; i++)
        cr_assert_not_null(all.array[i] = malloc((size_t)c->n_parameters * sizeof(float)));
    found.carried = malloc((size_t)c->n_carried * sizeof(float) + 1);
    cr_assert(checkpoint_states_create(&found) && found.carried);
    found.parameters = all.array[0], found.moment1 = all.array[1], found.moment2 = all.array[2];
    small_check(checkpoint_read(path, &found, r->problems), r->problems, "reading back");
    free(found.carried);
    checkpoint_states_free(&found);
    return all;
}

static void free_packs(saved_packs *all) {
    for (int i = 0; i < 3; i++) free(all->array[i]);
}

static bool same_pack(const saved_packs *a, const saved_packs *b, int device_index) {
    const device *d = &a->fleet->devices[device_index];
    size_t bytes = (size_t)a->fleet->shapes[d->shape].total * sizeof(float);
    for (int i = 0; i < 3; i++)
        if (memcmp(a->array[i] + d->pack, b->array[i] + d->pack, bytes) != 0) return false;
    return true;
}

Test(divergence, the_checkpoint_keeps_what_was_last_good) {
    char path[5000];
    small_run r = small_open(TWO, 0, NULL);
    checkpoint c;
    r.session->at.result = small_folder();
    snprintf(path, sizeof path, "%s/checkpoint.h5", small_folder());
    small_check(checkpoints_create(r.session, &c, r.problems), r.problems, "checkpoint");
    expert_step(&r);
    save(&r, 1, &c, path);
    saved_packs first = read_back(&r, &c, path);
    r.session->at.round = 2;
    poison(&r, 1);
    expert_step(&r);
    cr_assert_eq(problems_count(r.problems), 1);
    const char *message = problems_message(r.problems, 0);
    cr_expect(strstr(message, "'bad'") && strstr(message, "device 1") && strstr(message, "in round 2"), "%s",
              message);
    cr_expect(strstr(message, "first seen in the output") && strstr(message, "/checkpoint.h5") &&
                  strstr(message, "after round 1"),
              "%s", message);
    save(&r, 2, &c, path);
    saved_packs second = read_back(&r, &c, path);
    cr_expect(same_pack(&first, &second, 0) && same_pack(&first, &second, 1), "what was last good is gone");
    cr_expect(!same_pack(&first, &second, 2) && !same_pack(&first, &second, 3),
              "the other population is not saved");
    const uint8_t *stopped = checkpoint_stopped(&c);
    cr_expect(stopped[0] && stopped[1] && !stopped[2] && !stopped[3]);
    cr_expect_eq(checkpoint_counts(&c, STATE_EXPERT_STEPS)[1], 1, "the steps that belong to these adapters");
    cr_expect_eq(checkpoint_counts(&c, STATE_EXPERT_STEPS)[3], 2);
    expert_step(&r);
    save(&r, 3, &c, path);
    saved_packs third = read_back(&r, &c, path);
    cr_expect(same_pack(&first, &third, 0) && same_pack(&first, &third, 1),
              "what was last good is gone with the next checkpoint");
    cr_expect(!same_pack(&second, &third, 3), "the other population is not saved again");
    free_packs(&first);
    free_packs(&second);
    free_packs(&third);
    checkpoints_destroy(&c);
    small_close(&r);
}

/* Zeros and no steps. */
Test(divergence, a_checkpoint_of_what_was_never_good_holds_nothing) {
    char path[5000];
    small_run r = small_open(TWO, 0, NULL);
    checkpoint c;
    snprintf(path, sizeof path, "%s/checkpoint.h5", small_folder());
    small_check(checkpoints_create(r.session, &c, r.problems), r.problems, "checkpoint");
    poison(&r, 0);
    expert_step(&r);
    save(&r, 1, &c, path);
    saved_packs all = read_back(&r, &c, path);
    const device *good = &r.session->fleet->devices[2];
    for (int i = 0; i < 3; i++) {
        for (int64_t j = 0; j < good->pack; j++)
            cr_assert_eq(all.array[i][j], 0.0F, "array %d, value %lld", i, (long long)j);
        float largest = 0.0F;
        for (int64_t j = good->pack; j < c.n_parameters; j++)
            largest = fmaxf(largest, fabsf(all.array[i][j]));
        cr_expect_gt(largest, 0.0F, "array %d of the other population", i);
    }
    cr_expect_eq(checkpoint_counts(&c, STATE_EXPERT_STEPS)[0], 0);
    cr_expect_eq(checkpoint_counts(&c, STATE_EXPERT_STEPS)[2], 1);
    free_packs(&all);
    checkpoints_destroy(&c);
    small_close(&r);
}

Test(divergence, without_a_checkpoint_the_message_says_so) {
    small_run r = small_open(TWO, 0, NULL);
    poison(&r, 0);
    expert_step(&r);
    cr_assert_eq(problems_count(r.problems), 1);
    cr_expect_not_null(strstr(problems_message(r.problems, 0), "there was no checkpoint of it yet"), "%s",
                       problems_message(r.problems, 0));
    small_close(&r);
}

/* A value that is not finite in A1 of a layer without a router is seen in that layer. */
Test(divergence, the_layer_is_named_without_a_router) {
    small_run r = small_open("  - {name: l, method: local, devices: 1}\n", 0, NULL);
    fleet *f = r.session->fleet;
    const ck_shape *s = &f->shapes[0];
    float value = INFINITY;
    cr_assert_eq(
        ck_upload(r.session->stream, f->parameters + s->layer_stride + s->route, &value, sizeof value),
        CK_OK);
    expert_step(&r);
    cr_assert_eq(problems_count(r.problems), 1);
    cr_expect_not_null(strstr(problems_message(r.problems, 0), "first seen in layer 1"), "%s",
                       problems_message(r.problems, 0));
    small_close(&r);
}

/* ---- A population stops while the next wave is filled already ---- */

/* One device a wave: the second of the population was drawn before the first is seen to diverge. */
static const char *const SMALL_WAVES[] = {"wave_tokens=16", "train.batch=1", "trace.sampling_windows=true",
                                          "evaluate.windows=1"};
static const char *const THREE =
    "  - {name: bad, method: comigs, devices: 3}\n  - {name: good, method: local, devices: 2}\n";

static float *packs_after_a_step(small_run *r, bool poisoned) {
    if (poisoned) poison(r, 0);
    session_begin_round(r->session);
    expert_step(r);
    return small_download(r, r->session->fleet->parameters, r->session->fleet->n_parameters);
}

Test(divergence, devices_of_the_next_wave_are_as_if_never_drawn) {
    small_run r = small_open(THREE, 4, SMALL_WAVES);
    session *s = r.session;
    float *start = small_download(&r, s->fleet->parameters, s->fleet->n_parameters),
          *end = packs_after_a_step(&r, true);
    cr_assert_eq(s->plan.limits.max_sequences, 1, "%d windows a wave", s->plan.limits.max_sequences);
    cr_expect_neq(s->sampled.train[0], -1, "the windows of the device that diverged");
    for (int i = 1; i < 3; i++) {
        const device *d = &s->fleet->devices[i];
        cr_expect(d->stopped && d->expert_steps == 0);
        cr_expect_eq(s->sampled.train[(int64_t)i * s->sampled.size.train_steps], -1,
                     "windows of device %d, which never ran", i);
        cr_expect_eq(memcmp(start + d->pack, end + d->pack, pack_bytes(&r, i)), 0, "device %d was updated",
                     i);
        cr_expect_eq(metric_doubles(&s->numbers, METRIC_TRAIN_LOSS)[i], 0.0, "device %d has a loss", i);
    }
    cr_expect_eq(problems_count(r.problems), 1);
    free(start);
    free(end);
    small_close(&r);
}

Test(divergence, devices_after_them_do_not_notice) {
    small_run healthy = small_open(THREE, 4, SMALL_WAVES), ill = small_open(THREE, 4, SMALL_WAVES);
    float *a = packs_after_a_step(&healthy, false), *b = packs_after_a_step(&ill, true);
    for (int i = 3; i < 5; i++) {
        const device *d = &ill.session->fleet->devices[i];
        cr_expect_eq(d->expert_steps, 1);
        cr_expect_eq(memcmp(a + d->pack, b + d->pack, pack_bytes(&ill, i)), 0, "device %d", i);
        cr_expect_eq(metric_doubles(&healthy.session->numbers, METRIC_TRAIN_LOSS)[i],
                     metric_doubles(&ill.session->numbers, METRIC_TRAIN_LOSS)[i], "the loss of device %d", i);
    }
    free(a);
    free(b);
    small_close(&healthy);
    small_close(&ill);
}

/* Also where it shows in an evaluation: no device of it has a number, whichever wave it was in. */
Test(divergence, in_an_evaluation_nothing_of_the_population_is_left) {
    small_run r = small_open(THREE, 4, SMALL_WAVES);
    session *s = r.session;
    poison(&r, 1);
    small_check(session_evaluate(s, (evaluation_order){.part = DATA_TEST, .routing = true}, METRIC_TEST_LOSS,
                                 r.problems),
                r.problems, "");
    int64_t row = (int64_t)s->programs.base.shape.layers * s->numbers.shape.experts;
    for (int i = 0; i < 5; i++) {
        double loss = metric_doubles(&s->numbers, METRIC_TEST_LOSS)[i];
        cr_expect_eq(isnan(loss) != 0, i < 3, "the loss of device %d is %g", i, loss);
        cr_expect_eq(isnan(metric_floats(&s->numbers, METRIC_GATE_MEAN)[i * row]) != 0, i < 3,
                     "the gates of device %d", i);
    }
    small_close(&r);
}

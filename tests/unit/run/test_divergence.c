/* A population that stops keeps in the checkpoint what it was when it was last good. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run/checkpoints.h"
#include "unit/small_run.h"

static const char *const TWO =
    "  - {name: bad, method: comigs, devices: 2, as_released: true}\n  - {name: good, method: local, devices: 2}\n";

static void expert_step(small_run *r) {
    small_check(session_local_step(r->session, r->problems), r->problems, "expert step");
}

static void poison(small_run *r, int device_index) {
    fleet *f = r->session->fleet;
    const device *d = &f->devices[device_index];
    const ck_shape *s = &f->shapes[d->shape];
    float value = NAN;
    cr_assert_eq(ck_upload(r->session->stream, f->parameters + d->pack + s->layer_stride + s->b2, &value, sizeof value), CK_OK);
}

static void save(small_run *r, int round, checkpoint *c, const char *path) {
    small_check(checkpoints_save(r->session, round, c, path, r->problems), r->problems, "saving");
    r->session->saved_round = round;
}

static const float *pack_of(const small_run *r, const checkpoint *c, int device_index) {
    return c->parameters + r->session->fleet->devices[device_index].pack;
}

static size_t pack_bytes(const small_run *r, int device_index) {
    const fleet *f = r->session->fleet;
    return (size_t)f->shapes[f->devices[device_index].shape].total * sizeof(float);
}

static float *copy_pack(const small_run *r, const checkpoint *c, int device_index) {
    float *copy = malloc(pack_bytes(r, device_index));
    cr_assert_not_null(copy);
    return memcpy(copy, pack_of(r, c, device_index), pack_bytes(r, device_index));
}

Test(divergence, the_checkpoint_keeps_what_was_last_good) {
    char path[5000];
    small_run r = small_open(TWO, 0, NULL);
    checkpoint c;
    r.session->result = small_folder();
    snprintf(path, sizeof path, "%s/checkpoint.h5", small_folder());
    small_check(checkpoints_create(r.session, &c, r.problems), r.problems, "checkpoint");
    expert_step(&r);
    save(&r, 1, &c, path);
    float *bad = copy_pack(&r, &c, 1), *good = copy_pack(&r, &c, 3);
    r.session->round = 2;
    poison(&r, 1);
    expert_step(&r);
    cr_assert_eq(problems_count(r.problems), 1);
    const char *message = problems_message(r.problems, 0);
    cr_expect(strstr(message, "'bad'") && strstr(message, "device 1") && strstr(message, "in round 2"), "%s", message);
    cr_expect(strstr(message, "first seen in the output") && strstr(message, "/checkpoint.h5") && strstr(message, "after round 1"), "%s",
              message);
    save(&r, 2, &c, path);
    cr_expect_eq(memcmp(bad, pack_of(&r, &c, 1), pack_bytes(&r, 1)), 0, "what was last good is gone");
    cr_expect_neq(memcmp(good, pack_of(&r, &c, 3), pack_bytes(&r, 3)), 0, "the other population is not saved");
    cr_expect(c.stopped[0] && c.stopped[1] && !c.stopped[2] && !c.stopped[3]);
    cr_expect_eq(c.device_expert_steps[1], 1, "the steps that belong to these adapters");
    cr_expect_eq(c.device_expert_steps[3], 2);
    free(bad);
    free(good);
    checkpoints_destroy(&c);
    small_close(&r);
}

Test(divergence, without_a_checkpoint_the_message_says_so) {
    small_run r = small_open(TWO, 0, NULL);
    poison(&r, 0);
    expert_step(&r);
    cr_assert_eq(problems_count(r.problems), 1);
    cr_expect_not_null(strstr(problems_message(r.problems, 0), "there was no checkpoint of it yet"), "%s", problems_message(r.problems, 0));
    small_close(&r);
}

/* A value that is not finite in A1 of a layer without a router is seen in that layer. */
Test(divergence, the_layer_is_named_without_a_router) {
    small_run r = small_open("  - {name: l, method: local, devices: 1}\n", 0, NULL);
    fleet *f = r.session->fleet;
    const ck_shape *s = &f->shapes[0];
    float value = INFINITY;
    cr_assert_eq(ck_upload(r.session->stream, f->parameters + s->layer_stride + s->route, &value, sizeof value), CK_OK);
    expert_step(&r);
    cr_assert_eq(problems_count(r.problems), 1);
    cr_expect_not_null(strstr(problems_message(r.problems, 0), "first seen in layer 1"), "%s", problems_message(r.problems, 0));
    small_close(&r);
}

/* ---- A population stops while the next wave is filled already ---- */

/* One device a wave: the second of the population was drawn before the first is seen to diverge. */
static const char *const SMALL_WAVES[] = {"wave_tokens=16", "train.batch=1", "trace.sampling_windows=true", "evaluate.windows=1"};
static const char *const THREE = "  - {name: bad, method: comigs, devices: 3}\n  - {name: good, method: local, devices: 2}\n";

static float *packs_after_a_step(small_run *r, bool poisoned) {
    if (poisoned) poison(r, 0);
    session_begin_round(r->session);
    expert_step(r);
    return small_download(r, r->session->fleet->parameters, r->session->fleet->n_parameters);
}

Test(divergence, devices_of_the_next_wave_are_as_if_never_drawn) {
    small_run r = small_open(THREE, 4, SMALL_WAVES);
    session *s = r.session;
    float *start = small_download(&r, s->fleet->parameters, s->fleet->n_parameters), *end = packs_after_a_step(&r, true);
    cr_assert_eq(s->plan.limits.max_sequences, 1, "%d windows a wave", s->plan.limits.max_sequences);
    cr_expect_neq(s->sampled.train[0], -1, "the windows of the device that diverged");
    for (int i = 1; i < 3; i++) {
        const device *d = &s->fleet->devices[i];
        cr_expect(d->stopped && d->expert_steps == 0);
        cr_expect_eq(s->sampled.train[(int64_t)i * s->sampled.size.train_steps], -1, "windows of device %d, which never ran", i);
        cr_expect_eq(memcmp(start + d->pack, end + d->pack, pack_bytes(&r, i)), 0, "device %d was updated", i);
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
    small_check(session_evaluate(s, (evaluation_order){.part = DATA_TEST, .routing = true}, METRIC_TEST_LOSS, r.problems), r.problems, "");
    int64_t row = (int64_t)s->base.shape.layers * s->max_experts;
    for (int i = 0; i < 5; i++) {
        double loss = metric_doubles(&s->numbers, METRIC_TEST_LOSS)[i];
        cr_expect_eq(isnan(loss) != 0, i < 3, "the loss of device %d is %g", i, loss);
        cr_expect_eq(isnan(metric_floats(&s->numbers, METRIC_GATE_MEAN)[i * row]) != 0, i < 3, "the gates of device %d", i);
    }
    small_close(&r);
}

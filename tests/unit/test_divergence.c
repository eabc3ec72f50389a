/* A population that stops keeps in the checkpoint what it was when it was last good. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "small_run.h"
#include "train/checkpoints.h"

static const char *const TWO =
    "  - {name: bad, method: comigs, devices: 2, as_released: true}\n  - {name: good, method: local, devices: 2}\n";

static void expert_step(small_run *r) {
    small_check(session_expert_step(r->session, r->problems), r->problems, "expert step");
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

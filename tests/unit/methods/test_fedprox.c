/* FedProx: a step's gradient is that of the text and of mu / 2 |theta - theta^t|^2, where theta^t is what the shared
 * parts were at the round's start, in whichever wave a device is and after a resume. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/checkpoints.h"
#include "unit/small_run.h"

enum { LOCAL_STEPS = 3, MU = 4 };

/* The others have packs and averages of other sizes before and between. */
#define NEIGHBOURS "  - {name: c, method: comigs, devices: 2, specialists: [1, 2]}\n"
static const char *const AVERAGED = NEIGHBOURS "  - {name: f, method: fedavg, devices: 3}\n" NEIGHBOURS,
                         *const HELD = NEIGHBOURS
                         "  - {name: f, method: fedprox, devices: 3, fedprox: {mu: 4}}\n" NEIGHBOURS,
                         *const FREE = NEIGHBOURS
                         "  - {name: f, method: fedprox, devices: 3, fedprox: {mu: 0}}\n" NEIGHBOURS;

static void step(small_run *r) {
    small_check(session_local_step(r->session, r->problems), r->problems, "expert step");
    small_check(session_follow_ups(r->session, r->problems), r->problems, "bursts");
}

static void rest_of_round(small_run *r, int steps) {
    for (int i = 0; i < steps; i++) step(r);
    int round = (int)((r->session->steps.taken + LOCAL_STEPS - 1) / LOCAL_STEPS);
    small_check(fleet_aggregate(r->session->fleet, round, r->problems), r->problems, "aggregation");
}

static float *parameters(const small_run *r) {
    return small_download(r, r->session->fleet->parameters, r->session->fleet->n_parameters);
}

static float *moments(const small_run *r) {
    return small_download(r, r->session->fleet->moment1, r->session->fleet->n_parameters);
}

static small_run open_named(const char *populations, int n, const char *const *overrides) {
    static char renamed[1024];
    /* names must differ: the second population c becomes d */
    snprintf(renamed, sizeof renamed, "%s", populations);
    char *second = strstr(renamed + 1, "name: c,");
    second = second ? strstr(second + 1, "name: c,") : NULL;
    if (second) second[6] = 'd';
    return small_open(renamed, n, overrides);
}

static bool same_after_rounds(const char *a, const char *b, const char *override_of_b) {
    small_run first = open_named(a, 0, NULL),
              second = open_named(b, override_of_b ? 1 : 0, (const char *const[]){override_of_b});
    for (int i = 0; i < 2; i++) {
        rest_of_round(&first, LOCAL_STEPS);
        rest_of_round(&second, LOCAL_STEPS);
    }
    float *one = parameters(&first), *other = parameters(&second);
    bool same = memcmp(one, other, (size_t)first.session->fleet->n_parameters * sizeof *one) == 0;
    free(one);
    free(other);
    small_close(&first);
    small_close(&second);
    return same;
}

Test(fedprox, without_mu_it_is_fedavg_to_the_bit) {
    cr_expect(same_after_rounds(AVERAGED, FREE, NULL));
    cr_expect_not(same_after_rounds(AVERAGED, HELD, NULL), "the comparison sees nothing");
}

Test(fedprox, waves_and_threads_change_no_bit) {
    cr_expect(same_after_rounds(HELD, HELD, "wave_tokens=16"));
    cr_expect(same_after_rounds(HELD, HELD, "threads=1"));
}

static void copy_state(const small_run *from, small_run *to) {
    const fleet *a = from->session->fleet;
    fleet *b = to->session->fleet;
    const float *source[] = {a->parameters, a->moment1, a->moment2};
    float *place[] = {b->parameters, b->moment1, b->moment2};
    for (int i = 0; i < 3; i++) {
        float *values = small_download(from, source[i], a->n_parameters);
        size_t bytes = (size_t)a->n_parameters * sizeof *values;
        cr_assert_eq(ck_upload(to->session->stream, place[i], values, bytes), CK_OK);
        cr_assert_eq(ck_wait(to->session->stream), CK_OK);
        free(values);
    }
}

/* From one state, a step with the term and one without: what it adds to the gradient, of all values. */
static void expect_pull(small_run *held, small_run *averaged, const float *anchor) {
    const fleet *f = held->session->fleet;
    copy_state(held, averaged);
    float *before = parameters(held);
    step(held);
    step(averaged);
    float *with_term = moments(held), *without = moments(averaged);
    double beta1 = held->settings->populations[0].train.beta1, difference = 0.0, size = 0.0, strayed = 0.0;
    for (int i = 0; i < f->n_devices; i++) {
        const device *d = &f->devices[i];
        bool has_term = f->populations[d->population].settings->fedprox_mu == (double)MU &&
                        strcmp(f->populations[d->population].method->name, "fedprox") == 0;
        for (int64_t j = d->pack; j < d->pack + f->shapes[d->shape].total; j++) {
            double added = ((double)with_term[j] - (double)without[j]) / (1.0 - beta1),
                   expected = has_term ? MU * ((double)before[j] - (double)anchor[j]) : 0.0;
            difference += pow(added - expected, 2.0);
            size += pow(expected, 2.0);
            strayed += has_term ? 0.0 : fabs(added);
        }
    }
    cr_expect_gt(size, 1e-4, "the devices are at the anchor");
    cr_expect_leq(sqrt(difference / size), 1e-5, "relative difference %g", sqrt(difference / size));
    cr_expect_eq(strayed, 0.0, "a device of another method is pulled");
    free(before);
    free(with_term);
    free(without);
}

/* In each of two rounds: its first step begins at the anchor, the next two are pulled to it. */
static void expect_pulls(const char *with_term, const char *without) {
    small_run held = open_named(with_term, 0, NULL), averaged = open_named(without, 0, NULL);
    for (int round = 0; round < 2; round++) {
        float *anchor = parameters(&held);
        copy_state(&held, &averaged);
        step(&held);
        step(&averaged);
        float *one = parameters(&held), *other = parameters(&averaged);
        cr_expect_eq(memcmp(one, other, (size_t)held.session->fleet->n_parameters * sizeof *one), 0,
                     "round %d: a device at its anchor is pulled", round);
        for (int i = 1; i < LOCAL_STEPS; i++) expect_pull(&held, &averaged, anchor);
        rest_of_round(&held, 0);
        free(anchor);
        free(one);
        free(other);
    }
    small_close(&held);
    small_close(&averaged);
}

Test(fedprox, a_step_takes_the_gradient_of_the_term) {
    expect_pulls(HELD, AVERAGED);
}

/* Nothing is averaged, but the device is held near where its round began. */
Test(fedprox, a_device_alone_is_held_too) {
    expect_pulls("  - {name: f, method: fedprox, devices: 1, fedprox: {mu: 4}}\n",
                 "  - {name: f, method: fedavg, devices: 1}\n");
}

/* Every generalist has an anchor of its own, one of them of a single device; the last device joins in round 2 at
 * what the others agree on. */
#define LATE "devices: 5, generalists: [3, 1, 2, 1, 2], held_out: {devices: 1, rounds: 1}"
static const char *const LATE_HELD =
    NEIGHBOURS "  - {name: f, method: fedprox, " LATE ", fedprox: {mu: 4}}\n" NEIGHBOURS;

Test(fedprox, banks_that_differ_and_a_device_that_joins_late) {
    expect_pulls(LATE_HELD, NEIGHBOURS "  - {name: f, method: fedavg, " LATE "}\n" NEIGHBOURS);
    cr_expect(same_after_rounds(LATE_HELD, LATE_HELD, "wave_tokens=16"));
}

/* ---- Resuming */

/* The parameters at the end of round 2 of a run that was saved after so many of its steps, and went on in another
 * session; forgetful: without what it knows of the anchors. */
static float *resumed(const char *populations, int steps_of_round, bool forgetful, size_t *bytes) {
    small_run first = open_named(populations, 0, NULL), second = open_named(populations, 0, NULL);
    checkpoint saved = {0}, read = {0};
    char path[5000];
    snprintf(path, sizeof path, "%.4000s/held.h5", small_folder());
    small_check(checkpoints_create(first.session, &saved, first.problems), first.problems, "checkpoint");
    rest_of_round(&first, LOCAL_STEPS);
    for (int i = 0; i < steps_of_round; i++) step(&first);
    small_check(checkpoints_save(first.session, 1, &saved, path, first.problems), first.problems, "saving");
    small_check(checkpoints_create(second.session, &read, second.problems), second.problems, "checkpoint");
    small_check(checkpoints_restore(second.session, &read, path, second.problems), second.problems,
                "restoring");
    fleet *f = second.session->fleet;
    if (forgetful)
        cr_assert_eq(ck_zero(second.session->stream, f->packed, (size_t)f->n_packed * sizeof(float)), CK_OK);
    rest_of_round(&second, LOCAL_STEPS - steps_of_round);
    float *end = parameters(&second);
    *bytes = (size_t)f->n_parameters * sizeof *end;
    checkpoints_destroy(&saved);
    checkpoints_destroy(&read);
    small_close(&first);
    small_close(&second);
    return end;
}

static void expect_resumed(const char *populations) {
    small_run whole = open_named(populations, 0, NULL);
    for (int i = 0; i < 2; i++) rest_of_round(&whole, LOCAL_STEPS);
    float *expected = parameters(&whole);
    for (int steps = 0; steps < 2; steps++) {
        size_t bytes;
        float *found = resumed(populations, steps, false, &bytes),
              *other = resumed(populations, steps, true, &bytes);
        cr_expect_eq(memcmp(expected, found, bytes), 0, "after %d steps of a round", steps);
        cr_expect_neq(memcmp(expected, other, bytes), 0, "the comparison sees nothing");
        free(found);
        free(other);
    }
    free(expected);
    small_close(&whole);
}

Test(fedprox, a_resumed_run_has_the_same_bits) {
    expect_resumed(HELD);
    expect_resumed(LATE_HELD);
}

Test(fedprox, the_plan_counts_the_anchors_that_a_checkpoint_copies) {
    small_run held = open_named(HELD, 0, NULL), averaged = open_named(AVERAGED, 0, NULL);
    const fleet *f = held.session->fleet;
    cr_expect_eq(fleet_anchor_bytes(f), (size_t)f->n_packed * sizeof(float));
    cr_expect_eq(fleet_anchor_bytes(averaged.session->fleet), 0);
    cr_expect_eq(held.session->plan.passing,
                 averaged.session->plan.passing + (size_t)f->n_packed * sizeof(float));
    small_close(&held);
    small_close(&averaged);
}

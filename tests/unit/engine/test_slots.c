/* Packs that lie far and come to a wave's slot: the same steps to the bit as with packs that are used where
 * they lie. Here both memories are the host's, and every copy is done when it is issued;
 * tests/cli/test_cuda.sh has streams that are late. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "unit/small_run.h"

/* Waves of two devices of three populations, one of which has other shapes, and one carried gradients. */
static const char *const ALL = "  - {name: routed, method: comigs, devices: 3, specialists: [1, 2, 1]}\n"
                               "  - {name: released, method: comigs, devices: 2, as_released: true}\n"
                               "  - {name: averaged, method: fedavg, devices: 4}\n";
static const char *const SMALL_WAVES[] = {"wave_tokens=32", "train.batch=1", "evaluate.windows=3",
                                          "trace.routing_windows=5"};

static small_run open_at(packs_memory packs_at) {
    small_run r = small_open(ALL, 4, SMALL_WAVES);
    session *s = r.session;
    s->fleet->packs_at = packs_at;
    small_check(slots_create(&s->waves.slots, s->fleet, s->plan.limits.max_packs, r.problems), r.problems,
                "slots");
    return r;
}

static void round_of(small_run *r) {
    session *s = r->session;
    for (int step = 0; step < 3; step++) {
        small_check(session_local_step(s, r->problems), r->problems, "expert step");
        small_check(session_follow_ups(s, r->problems), r->problems, "bursts");
    }
    small_check(session_evaluate(s, (evaluation_order){.part = DATA_TEST, .routing = true}, METRIC_TEST_LOSS,
                                 r->problems),
                r->problems, "evaluation");
    small_check(session_record_routing(s, r->problems), r->problems, "record");
    small_check(fleet_aggregate(s->fleet, 1, r->problems), r->problems, "aggregation");
}

static void expect_same_array(const small_run *a, const small_run *b, const float *x, const float *y,
                              int64_t floats, const char *what) {
    float *left = small_download(a, x, floats), *right = small_download(b, y, floats);
    int64_t first = 0;
    while (first < floats && memcmp(&left[first], &right[first], sizeof *left) == 0) first++;
    cr_expect_eq(first, floats, "%s: value %lld is %g, not %g", what, (long long)first, right[first],
                 left[first]);
    free(left);
    free(right);
}

static void expect_same_runs(const small_run *a, const small_run *b) {
    const fleet *f = a->session->fleet, *g = b->session->fleet;
    expect_same_array(a, b, f->parameters, g->parameters, f->n_parameters, "parameters");
    expect_same_array(a, b, f->moment1, g->moment1, f->n_parameters, "first moments");
    expect_same_array(a, b, f->moment2, g->moment2, f->n_parameters, "second moments");
    expect_same_array(a, b, f->carried, g->carried, f->n_carried, "carried gradients");
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        const metric_row *m = &a->session->numbers, *n = &b->session->numbers;
        if (m->values[id])
            cr_expect_eq(memcmp(m->values[id], n->values[id], metric_bytes(id, &m->shape)), 0, "%s",
                         metrics[id].path);
    }
}

static void compare_with_near(packs_memory packs_at) {
    small_run near = open_at(PACKS_NEAR), far = open_at(packs_at);
    cr_assert_gt(near.session->routing.n, near.session->plan.limits.max_sequences,
                 "the record has several waves too");
    for (int round = 0; round < 2; round++) {
        round_of(&near);
        round_of(&far);
        expect_same_runs(&near, &far);
    }
    small_close(&near);
    small_close(&far);
}

Test(slots, moments_that_come_and_go_change_no_bit) {
    compare_with_near(MOMENTS_FAR);
}

Test(slots, packs_that_come_and_go_change_no_bit) {
    compare_with_near(PACKS_FAR);
}

/* A device between two others in the wave has stopped: its neighbours are two copies, and it keeps what it
 * had. */
Test(slots, packs_with_a_gap_between_them_are_copied_apart) {
    small_run near = open_at(PACKS_NEAR), far = open_at(PACKS_FAR);
    near.session->fleet->devices[1].stopped = far.session->fleet->devices[1].stopped = true;
    round_of(&near);
    round_of(&far);
    expect_same_runs(&near, &far);
    cr_expect_eq(far.session->fleet->devices[1].expert_steps, 0);
    cr_expect_eq(far.session->fleet->devices[2].expert_steps, 3);
    small_close(&near);
    small_close(&far);
}

/* What is planned is what is allocated. */
Test(slots, take_what_was_planned) {
    for (packs_memory at = PACKS_NEAR; at <= PACKS_FAR; at++) {
        small_run r = small_open(ALL, 4, SMALL_WAVES);
        const int64_t floats = 4096;
        size_t before = ck_allocated_bytes(r.backend);
        r.session->fleet->packs_at = at;
        small_check(slots_create(&r.session->waves.slots, r.session->fleet, floats, r.problems), r.problems,
                    "slots");
        size_t taken = ck_allocated_bytes(r.backend) - before, planned = slots_bytes(at, floats);
        cr_expect(taken >= planned && taken <= planned + 6 * 128, "%zu bytes are planned, %zu taken", planned,
                  taken);
        small_close(&r);
    }
    cr_expect_eq(slots_traffic(PACKS_NEAR, PACKS_UPDATED, 100), 0);
    cr_expect_eq(slots_traffic(MOMENTS_FAR, PACKS_UPDATED, 100), 1600);
    cr_expect_eq(slots_traffic(MOMENTS_FAR, PACKS_READ, 100), 0);
    cr_expect_eq(slots_traffic(PACKS_FAR, PACKS_UPDATED, 100), 2400);
    cr_expect_eq(slots_traffic(PACKS_FAR, PACKS_READ, 100), 400);
}

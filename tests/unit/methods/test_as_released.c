/* as_released: each deviation of the released CoMiGS code shows, and none of it without being asked for. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/checkpoints.h"
#include "run/rounds.h"
#include "run/summarise.h"
#include "unit/small_run.h"

static const char *const STRICT =
    "  - {name: c, method: comigs, devices: 2, generalists: 1, specialists: [1, 2]}\n";
static const char *const RELEASED =
    "  - {name: c, method: comigs, devices: 2, generalists: 1, specialists: [1, 2], as_released: true}\n";
static const double BETA1 = 0.9; /* the default of train.beta1 */

/* Visits the router's values, or all the others, of a device's pack. */
static bool is_router(const ck_shape *s, int64_t at) {
    int64_t in_layer = at % s->layer_stride - s->route;
    return in_layer >= 0 && in_layer < (int64_t)s->router_rows * s->width;
}

static void expert_step(small_run *r) {
    small_check(session_local_step(r->session, r->problems), r->problems, "expert step");
}

static void bursts(small_run *r) {
    small_check(session_follow_ups(r->session, r->problems), r->problems, "bursts");
}

static float *moments(const small_run *r) {
    return small_download(r, r->session->fleet->moment1, r->session->fleet->n_parameters);
}

static float *carried(const small_run *r) {
    return small_download(r, r->session->fleet->carried, r->session->fleet->n_carried);
}

/* Values of one group of a device that differ from 0. */
static int nonzero(const small_run *r, int device_index, const float *all, int64_t first, bool router) {
    const ck_shape *s = &r->session->fleet->shapes[r->session->fleet->devices[device_index].shape];
    int n = 0;
    for (int64_t i = 0; i < s->total; i++) n += is_router(s, i) == router && all[first + i] != 0.0F;
    return n;
}

/* ---- The leak ---- */

Test(leak, nothing_is_carried_unless_asked_for) {
    small_run r = small_open("  - {name: c, method: comigs, devices: 2}\n  - {name: f, method: fedavg, "
                             "devices: 2, as_released: true}\n"
                             "  - {name: p, method: pfedmoe, devices: 2, as_released: true}\n",
                             0, NULL);
    cr_expect_eq(r.session->fleet->n_carried, 0, "only a router with an optimiser of its own can leak");
    cr_expect_null(r.session->fleet->carried);
    for (int i = 0; i < r.session->fleet->n_devices; i++)
        cr_expect_eq(r.session->fleet->devices[i].carried, -1);
    cr_expect_eq(r.settings->populations[0].as_released, 0, "the default");
    small_close(&r);
}

/* pFedMoE of the same seed begins with the same tensors and windows, and its first moment of the router after
 * a step is (1 - beta1) g. */
Test(leak, expert_steps_leave_the_routers_training_gradients_behind) {
    small_run leaking = small_open("  - {name: c, method: comigs, devices: 1, as_released: true}\n", 0, NULL);
    small_run joint = small_open("  - {name: p, method: pfedmoe, devices: 1}\n", 0, NULL);
    expert_step(&leaking);
    expert_step(&joint);
    const ck_shape *s = &leaking.session->fleet->shapes[0];
    float *left = carried(&leaking), *moment = moments(&joint);
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < s->total; i++) {
        if (!is_router(s, i)) continue;
        difference += pow(left[i] - moment[i] / (1.0 - BETA1), 2.0);
        size += pow(left[i], 2.0);
    }
    cr_expect_gt(size, 0.0);
    cr_expect_leq(sqrt(difference / size), 1e-5, "relative difference %g", sqrt(difference / size));
    cr_expect_eq(nonzero(&leaking, 0, left, 0, false), 0, "its own gradients are used up");
    free(left);
    free(moment);
    small_close(&leaking);
    small_close(&joint);
}

/* Until the first burst both runs hold the same parameters: they differ by what was left behind, to the last
 * of two training steps. */
Test(leak, a_bursts_first_router_step_takes_all_training_gradients) {
    const char *one_step[] = {"train.router.steps=1"};
    small_run strict = small_open(STRICT, 1, one_step), leaking = small_open(RELEASED, 1, one_step);
    for (int i = 0; i < 2; i++) {
        expert_step(&strict);
        expert_step(&leaking);
    }
    float *left = carried(&leaking);
    bursts(&strict);
    bursts(&leaking);
    const fleet *f = leaking.session->fleet;
    float *valid = moments(&strict), *both = moments(&leaking), *after = carried(&leaking);
    for (int d = 0; d < 2; d++) {
        const ck_shape *s = &f->shapes[f->devices[d].shape];
        double difference = 0.0, size = 0.0;
        for (int64_t i = 0; i < s->total; i++) {
            if (!is_router(s, i)) continue;
            int64_t at = f->devices[d].pack + i;
            difference += pow((both[at] - valid[at]) / (1.0 - BETA1) - left[f->devices[d].carried + i], 2.0);
            size += pow(left[f->devices[d].carried + i], 2.0);
        }
        cr_expect_gt(size, 0.0);
        cr_expect_leq(sqrt(difference / size), 1e-4, "device %d: relative difference %g", d,
                      sqrt(difference / size));
        cr_expect_eq(nonzero(&leaking, d, after, f->devices[d].carried, true), 0,
                     "device %d: the router's are used up", d);
        cr_expect_gt(nonzero(&leaking, d, after, f->devices[d].carried, false), 1000,
                     "device %d: the experts' wait", d);
    }
    free(left);
    free(valid);
    free(both);
    free(after);
    small_close(&strict);
    small_close(&leaking);
}

/* The step after a burst, once as it is and once with what was left behind taken away. */
static small_run before_third_step(const char *entry) {
    const char *three_steps[] = {"train.router.steps=3"};
    small_run r = small_open(entry, 1, three_steps);
    expert_step(&r);
    expert_step(&r);
    bursts(&r);
    return r;
}

static void expect_leak_into_experts(const char *entry) {
    small_run r = before_third_step(entry), without = before_third_step(entry);
    fleet *f = r.session->fleet;
    float *left = carried(&r);
    cr_assert_eq(ck_zero(without.session->stream, without.session->fleet->carried,
                         (size_t)f->n_carried * sizeof(float)),
                 CK_OK);
    expert_step(&r);
    expert_step(&without);
    float *with_leak = moments(&r), *alone = moments(&without), *after = carried(&r);
    for (int d = 0; d < 2; d++) {
        const ck_shape *s = &f->shapes[f->devices[d].shape];
        double difference = 0.0, size = 0.0;
        for (int64_t i = 0; i < s->total; i++) {
            if (is_router(s, i)) continue;
            int64_t at = f->devices[d].pack + i;
            difference +=
                pow((with_leak[at] - alone[at]) / (1.0 - BETA1) - left[f->devices[d].carried + i], 2.0);
            size += pow(left[f->devices[d].carried + i], 2.0);
        }
        cr_expect_gt(size, 0.0);
        cr_expect_leq(sqrt(difference / size), 1e-4, "device %d: relative difference %g", d,
                      sqrt(difference / size));
        cr_expect_eq(nonzero(&r, d, after, f->devices[d].carried, false), 0,
                     "device %d: the experts' are used up", d);
        if (s->router_rows > 0)
            cr_expect_gt(nonzero(&r, d, after, f->devices[d].carried, true), 32,
                         "device %d: the router's wait", d);
        cr_expect_eq(f->devices[d].router_steps, 3);
    }
    free(left);
    free(with_leak);
    free(alone);
    free(after);
    small_close(&r);
    small_close(&without);
}

Test(leak, the_expert_step_after_a_burst_takes_its_validation_gradients) {
    expect_leak_into_experts(RELEASED);
}

/* The released client runs its bursts whatever the number of experts: they are all that a device with one
 * expert sees of them. */
Test(leak, bursts_reach_devices_with_one_expert) {
    expect_leak_into_experts("  - {name: c, method: comigs, devices: 2, generalists: 1, specialists: [0, 1], "
                             "as_released: true}\n");
    expect_leak_into_experts(
        "  - {name: c, method: comigs, devices: 2, generalists: 1, specialists: 0, as_released: true}\n");
    small_run strict =
        before_third_step("  - {name: c, method: comigs, devices: 2, generalists: 1, specialists: [0, 1]}\n");
    cr_expect_eq(strict.session->fleet->devices[0].router_steps, 0, "there is no router to learn");
    cr_expect_eq(strict.session->fleet->devices[1].router_steps, 3);
    cr_expect_eq(strict.session->fleet->n_carried, 0);
    small_close(&strict);
}

/* What step.c promises of strict runs, turned round. */
static float *experts_after_three_steps(const char *entry, const char *valid_tokens) {
    const char *overrides[] = {valid_tokens};
    small_run r = small_open(entry, 1, overrides);
    expert_step(&r);
    expert_step(&r);
    bursts(&r);
    expert_step(&r);
    float *parameters = small_download(&r, r.session->fleet->parameters, r.session->fleet->n_parameters);
    const ck_shape *s = &r.session->fleet->shapes[0];
    /* of device 0, what the third step made of them: B1 grows from 0 */
    float *experts = calloc((size_t)s->total, sizeof *experts);
    cr_assert_not_null(experts);
    for (int64_t i = 0; i < s->total; i++) experts[i] = is_router(s, i) ? 0.0F : parameters[i];
    free(parameters);
    small_close(&r);
    return experts;
}

Test(leak, validation_text_reaches_the_experts) {
    float *a = experts_after_three_steps(RELEASED, "data.valid_tokens_per_device=300");
    float *b = experts_after_three_steps(RELEASED, "data.valid_tokens_per_device=200");
    cr_expect_neq(memcmp(a, b, 1000 * sizeof *a), 0, "other validation text changed no expert");
    free(a);
    free(b);
}

/* ---- Resuming with gradients that wait ---- */

typedef struct {
    small_run run;
    checkpoint state;
    char path[5000];
} saved_run;

static void open_saved(saved_run *s) {
    /* the burst is the last thing of a round: the experts' gradients wait */
    const char *overrides[] = {"train.router.every=3"};
    s->run = small_open(RELEASED, 1, overrides);
    snprintf(s->path, sizeof s->path, "%s/leak.h5", small_folder());
    small_check(checkpoints_create(s->run.session, &s->state, s->run.problems), s->run.problems,
                "checkpoint");
}

static void one_round(saved_run *s) {
    for (int i = 0; i < 3; i++) {
        expert_step(&s->run);
        bursts(&s->run);
    }
}

static float *final_parameters(saved_run *s) {
    one_round(s);
    return small_download(&s->run, s->run.session->fleet->parameters, s->run.session->fleet->n_parameters);
}

static void close_saved(saved_run *s) {
    checkpoints_destroy(&s->state);
    small_close(&s->run);
}

Test(leak, waiting_gradients_are_in_the_checkpoint) {
    static saved_run whole, resumed, forgetful;
    open_saved(&whole);
    one_round(&whole);
    small_check(checkpoints_save(whole.run.session, 1, &whole.state, whole.path, whole.run.problems),
                whole.run.problems, "saving");
    size_t bytes = (size_t)whole.run.session->fleet->n_parameters * sizeof(float);
    float *expected = final_parameters(&whole);
    open_saved(&resumed);
    small_check(checkpoints_restore(resumed.run.session, &resumed.state, resumed.path, resumed.run.problems),
                resumed.run.problems, "restoring");
    float *found = final_parameters(&resumed);
    cr_expect_eq(memcmp(expected, found, bytes), 0, "a resumed run differs");
    open_saved(&forgetful);
    small_check(
        checkpoints_restore(forgetful.run.session, &forgetful.state, forgetful.path, forgetful.run.problems),
        forgetful.run.problems, "restoring");
    const fleet *f = forgetful.run.session->fleet;
    cr_assert_eq(ck_zero(forgetful.run.session->stream, f->carried, (size_t)f->n_carried * sizeof(float)),
                 CK_OK);
    float *other = final_parameters(&forgetful);
    cr_expect_neq(memcmp(expected, other, bytes), 0, "the comparison sees nothing");
    free(expected);
    free(found);
    free(other);
    close_saved(&whole);
    close_saved(&resumed);
    close_saved(&forgetful);
}

/* ---- Initial tensors ---- */

/* Values of expert e's A1 in layer 0 that devices 0 and 1 of a population do not share. */
static int unequal(const small_run *r, int which, int e) {
    const fleet *f = r->session->fleet;
    const device *a = &f->devices[f->populations[which].first_device], *b = a + 1;
    const ck_shape *s = &f->shapes[a->shape];
    int64_t at = s->route + (int64_t)(s->router_rows + s->rank_first[e]) * s->width,
            n = (int64_t)s->rank[e] * s->width;
    float *all = small_download(r, f->parameters, f->n_parameters);
    int differ = 0;
    for (int64_t i = 0; i < n; i++) differ += all[a->pack + at + i] != all[b->pack + at + i];
    free(all);
    return differ;
}

Test(as_released, devices_start_as_the_server_did) {
    small_run r = small_open(
        "  - {name: a, method: local, devices: 2}\n  - {name: b, method: local, devices: 2, as_released: "
        "true}\n"
        "  - {name: c, method: comigs, generalists: 0, specialists: 2, devices: 2}\n"
        "  - {name: d, method: comigs, generalists: 0, specialists: 2, devices: 2, as_released: true}\n"
        "  - {name: e, method: comigs, devices: 2, as_released: true}\n",
        0, NULL);
    for (int e = 0; e < 2; e++) {
        cr_expect_gt(unequal(&r, 0, e), 60, "local: expert %d", e);
        cr_expect_eq(unequal(&r, 1, e), 0, "local as released: expert %d", e);
        cr_expect_gt(unequal(&r, 2, e), 60, "2S: expert %d", e);
    }
    cr_expect_eq(unequal(&r, 3, 0), 0, "2S as released: the first expert is the server's");
    cr_expect_gt(unequal(&r, 3, 1), 60, "2S as released: the second is the device's");
    cr_expect_eq(unequal(&r, 4, 0), 0, "1G1S: the generalist");
    cr_expect_gt(unequal(&r, 4, 1), 60, "1G1S: the specialist");
    small_close(&r);
}

/* ---- Load balance ---- */

static void expect_balance(const small_run *r, int which, const double *c) {
    const fleet *f = r->session->fleet;
    const ck_shape *s = &f->shapes[f->devices[f->populations[which].first_device].shape];
    for (int e = 0; e < s->n_experts; e++) {
        double expected = 0.01 * s->n_experts * c[e] / s->n_layers;
        cr_expect_float_eq(s->balance[e], expected, 1e-7, "population %d, expert %d: %g, expected %g", which,
                           e, (double)s->balance[e], expected);
    }
}

/* pi = 1/2: a generalist's share is pi over all generalists in the paper's form, but only expert 0 counts as
 * one in the released code. */
Test(as_released, only_expert_0_counts_as_a_generalist_of_the_load_balance) {
    small_run r = small_open(
        "  - {name: a, method: comigs, generalists: 2, specialists: 2, devices: 1}\n"
        "  - {name: b, method: comigs, generalists: 2, specialists: 2, devices: 1, as_released: true}\n"
        "  - {name: c, method: comigs, generalists: 0, specialists: 4, devices: 1}\n"
        "  - {name: d, method: comigs, generalists: 0, specialists: 4, devices: 1, as_released: true}\n"
        "  - {name: e, method: comigs, generalists: 1, specialists: 3, devices: 1}\n"
        "  - {name: f, method: comigs, generalists: 1, specialists: 3, devices: 1, as_released: true}\n",
        0, NULL);
    const double even[] = {1, 1, 1, 1}, first[] = {0.5, 1.5, 1.5, 1.5};
    const double *expected[] = {even, first, even, first, first, first};
    for (int i = 0; i < 6; i++) expect_balance(&r, i, expected[i]);
    small_close(&r);
}

/* ---- Perplexity ---- */

Test(as_released, perplexity_has_five_digits_of_e) {
    small_run r = small_open("  - {name: a, method: local, devices: 1}\n  - {name: b, method: local, "
                             "devices: 1, as_released: true}\n",
                             0, NULL);
    summary_row rows[2];
    population_course courses[2] = {0};
    double *test = metric_doubles(&r.session->numbers, METRIC_TEST_LOSS),
           *after = metric_doubles(&r.session->numbers, METRIC_TEST_AFTER),
           *valid = metric_doubles(&r.session->numbers, METRIC_VALID_LOSS);
    *metric_ints(&r.session->numbers, METRIC_ROUND) = 1;
    for (int i = 0; i < 2; i++) valid[i] = test[i] = after[i] = 4.0;
    course_add(r.session->fleet, &r.session->numbers, courses);
    summarise(r.session, courses, rows);
    cr_expect_float_eq(rows[0].of_metric[METRIC_TEST_LOSS][0], 54.598150033144236, 1e-12);
    cr_expect_float_eq(rows[1].of_metric[METRIC_TEST_LOSS][0], pow(2.71828, 4.0), 1e-12);
    cr_expect_float_eq(rows[1].of_metric[METRIC_TEST_AFTER][0], pow(2.71828, 4.0), 1e-12);
    cr_expect_lt(rows[1].of_metric[METRIC_TEST_LOSS][0], rows[0].of_metric[METRIC_TEST_LOSS][0] - 1e-4);
    cr_expect_eq(rows[1].test_ppl_best, rows[1].of_metric[METRIC_TEST_LOSS][0]);
    cr_expect_eq(rows[1].of_metric[METRIC_TEST_LOSS][2], 4.0, "losses are what they are");
    small_close(&r);
}

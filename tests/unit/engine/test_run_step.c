/* Two-level training: who changes what. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "unit/small_run.h"

typedef struct {
    float *parameters, *moment1, *moment2;
} snapshot;

static snapshot take(const small_run *r) {
    const fleet *f = r->session->fleet;
    return (snapshot){small_download(r, f->parameters, f->n_parameters),
                      small_download(r, f->moment1, f->n_parameters),
                      small_download(r, f->moment2, f->n_parameters)};
}

static void drop(snapshot *s) {
    free(s->parameters);
    free(s->moment1);
    free(s->moment2);
}

static bool is_router(const ck_shape *s, int64_t at) {
    int64_t in_layer = at % s->layer_stride - s->route;
    return in_layer >= 0 && in_layer < (int64_t)s->router_rows * s->width;
}

typedef struct {
    int router, others; /* floats of which a parameter or a moment changed a bit */
} changes;

static changes compare(const fleet *f, int device_index, const snapshot *a, const snapshot *b) {
    const device *d = &f->devices[device_index];
    const ck_shape *s = &f->shapes[d->shape];
    changes c = {0, 0};
    for (int64_t i = 0; i < s->total; i++) {
        int64_t at = d->pack + i;
        bool changed = memcmp(&a->parameters[at], &b->parameters[at], sizeof(float)) != 0 ||
                       memcmp(&a->moment1[at], &b->moment1[at], sizeof(float)) != 0 ||
                       memcmp(&a->moment2[at], &b->moment2[at], sizeof(float)) != 0;
        if (is_router(s, i))
            c.router += changed;
        else
            c.others += changed;
    }
    return c;
}

static const char *const COMIGS =
    "  - {name: c, method: comigs, devices: 2, generalists: 1, specialists: [1, 2]}\n";

Test(step, experts_and_routers_never_touch_each_other) {
    small_run r = small_open(COMIGS, 0, NULL);
    session *s = r.session;
    snapshot start = take(&r);
    small_check(session_local_step(s, r.problems), r.problems, "expert step");
    small_check(session_follow_ups(s, r.problems), r.problems, "no burst is due");
    small_check(session_local_step(s, r.problems), r.problems, "expert step");
    snapshot trained = take(&r);
    small_check(session_follow_ups(s, r.problems), r.problems, "burst");
    snapshot routed = take(&r);
    for (int i = 0; i < 2; i++) {
        changes by_experts = compare(s->fleet, i, &start, &trained),
                by_router = compare(s->fleet, i, &trained, &routed);
        cr_expect_eq(by_experts.router, 0, "device %d: expert steps changed %d router values", i,
                     by_experts.router);
        cr_expect_gt(by_experts.others, 1000, "device %d: expert steps changed %d values", i,
                     by_experts.others);
        cr_expect_eq(by_router.others, 0, "device %d: router steps changed %d expert values", i,
                     by_router.others);
        cr_expect_gt(by_router.router, 32, "device %d: router steps changed %d values", i, by_router.router);
        cr_expect_eq(s->fleet->devices[i].expert_steps, 2);
        cr_expect_eq(s->fleet->devices[i].router_steps, 2);
    }
    drop(&start);
    drop(&trained);
    drop(&routed);
    small_close(&r);
}

/* The same comparison sees a router that does learn with the experts, so it would see a wrong mask. */
Test(step, pfedmoe_learns_both_at_once) {
    small_run r = small_open("  - {name: p, method: pfedmoe, devices: 1}\n", 0, NULL);
    snapshot start = take(&r);
    for (int i = 0; i < 2; i++)
        small_check(session_local_step(r.session, r.problems), r.problems, "expert step");
    small_check(session_follow_ups(r.session, r.problems), r.problems, "bursts");
    snapshot trained = take(&r);
    changes c = compare(r.session->fleet, 0, &start, &trained);
    cr_expect_gt(c.router, 32, "%d router values changed", c.router);
    cr_expect_gt(c.others, 1000, "%d expert values changed", c.others);
    cr_expect_eq(r.session->fleet->devices[0].router_steps, 0, "it has no bursts");
    drop(&start);
    drop(&trained);
    small_close(&r);
}

/* Validation text decides about routers alone, training text about experts alone. */
static snapshot after_steps(const char *const *overrides, int n) {
    small_run r = small_open("  - {name: c, method: comigs, devices: 1}\n", n, overrides);
    for (int i = 0; i < 2; i++)
        small_check(session_local_step(r.session, r.problems), r.problems, "expert step");
    small_check(session_follow_ups(r.session, r.problems), r.problems, "burst");
    snapshot s = take(&r);
    small_close(&r);
    return s;
}

Test(step, validation_text_does_not_reach_the_experts) {
    small_run shape_of = small_open("  - {name: c, method: comigs, devices: 1}\n", 0, NULL);
    const char *other_valid[] = {"data.valid_tokens_per_device=200"},
               *other_train[] = {"data.tokens_per_device=500"};
    snapshot a = after_steps(NULL, 0), b = after_steps(other_valid, 1), c = after_steps(other_train, 1);
    changes valid = compare(shape_of.session->fleet, 0, &a, &b),
            train = compare(shape_of.session->fleet, 0, &a, &c);
    cr_expect_eq(valid.others, 0, "other validation text changed %d expert values", valid.others);
    cr_expect_gt(valid.router, 32, "other validation text changed only %d router values", valid.router);
    cr_expect_gt(train.others, 1000, "other training text changed only %d expert values", train.others);
    drop(&a);
    drop(&b);
    drop(&c);
    small_close(&shape_of);
}

static void restore(small_run *r, const snapshot *s) {
    const fleet *f = r->session->fleet;
    size_t bytes = (size_t)f->n_parameters * sizeof(float);
    cr_assert_eq(ck_upload(r->session->stream, f->parameters, s->parameters, bytes), CK_OK);
    cr_assert_eq(ck_upload(r->session->stream, f->moment1, s->moment1, bytes), CK_OK);
    cr_assert_eq(ck_upload(r->session->stream, f->moment2, s->moment2, bytes), CK_OK);
    cr_assert_eq(ck_wait(r->session->stream), CK_OK);
}

static void until_burst(small_run *r) {
    for (int i = 0; i < 2; i++)
        small_check(session_local_step(r->session, r->problems), r->problems, "expert step");
    small_check(session_follow_ups(r->session, r->problems), r->problems, "burst");
}

/* Two runs whose bursts read different validation text and then go on from the same parameters and moments:
 * how many values differ after the next expert step. All that can still tell them apart are gradients that
 * outlived the burst. */
static changes told_apart_by_an_old_burst(const char *populations) {
    const char *other_valid[] = {"data.valid_tokens_per_device=200"};
    small_run a = small_open(populations, 0, NULL), b = small_open(populations, 1, other_valid);
    until_burst(&a);
    until_burst(&b);
    snapshot routed = take(&a), other = take(&b);
    cr_expect_gt(compare(a.session->fleet, 0, &routed, &other).router, 32, "the bursts were not the same");
    restore(&b, &routed);
    small_check(session_local_step(a.session, a.problems), a.problems, "expert step");
    small_check(session_local_step(b.session, b.problems), b.problems, "expert step");
    snapshot after_a = take(&a), after_b = take(&b);
    cr_expect_gt(compare(a.session->fleet, 0, &routed, &after_a).others, 1000, "the step did something");
    changes c = compare(a.session->fleet, 0, &after_a, &after_b);
    drop(&routed);
    drop(&other);
    drop(&after_a);
    drop(&after_b);
    small_close(&a);
    small_close(&b);
    return c;
}

Test(step, validation_text_does_not_reach_the_expert_step_after_a_burst) {
    changes c = told_apart_by_an_old_burst("  - {name: c, method: comigs, devices: 1}\n");
    cr_expect_eq(c.others, 0, "%d expert values knew the burst's text", c.others);
    cr_expect_eq(c.router, 0, "%d router values knew the burst's text", c.router);
}

/* The same comparison sees the leak of the released code, so it would see one that nobody asked for. */
Test(step, as_released_validation_text_reaches_the_expert_step_after_a_burst) {
    changes c = told_apart_by_an_old_burst("  - {name: c, method: comigs, devices: 1, as_released: true}\n");
    cr_expect_gt(c.others, 1000, "only %d expert values knew the burst's text", c.others);
    cr_expect_eq(c.router, 0, "%d router values changed in an expert step", c.router);
}

Test(step, rates_fall_along_a_cosine) {
    cr_expect_float_eq(cosine_rate(2e-3, 2e-4, 0, 200), 2e-3, 1e-12);
    cr_expect_float_eq(cosine_rate(2e-3, 2e-4, 100, 200), 1.1e-3, 1e-12);
    cr_expect_float_eq(cosine_rate(2e-3, 2e-4, 200, 200), 2e-4, 1e-12);
}

/* AdamW's first step moves every parameter with a gradient by the learning rate, so B (which begins at 0, and
 * is not decayed then) shows it. */
Test(step, first_update_has_the_learning_rate_of_its_level) {
    const char *overrides[] = {"train.learning_rate=0.01", "train.router.learning_rate=0.003",
                               "train.router.every=1", "train.router.steps=1", "train.router.weight_decay=0"};
    small_run r = small_open("  - {name: c, method: comigs, devices: 1}\n", 5, overrides);
    session *s = r.session;
    const ck_shape *shape = &s->fleet->shapes[0];
    snapshot start = take(&r);
    small_check(session_local_step(s, r.problems), r.problems, "expert step");
    small_check(session_follow_ups(s, r.problems), r.problems, "burst");
    snapshot end = take(&r);
    double b = 0.0, router = 0.0;
    for (int64_t i = 0; i < (int64_t)shape->rank_sum * shape->width; i++)
        b = fmax(b, fabs(end.parameters[shape->b2 + i]));
    for (int64_t i = 0; i < (int64_t)shape->router_rows * shape->width; i++)
        router =
            fmax(router, fabs((double)end.parameters[shape->route + i] - start.parameters[shape->route + i]));
    cr_expect_float_eq(b, 0.01, 1e-4, "B2 moved by %g", b);
    cr_expect_float_eq(router, 0.003, 1e-4, "the router moved by %g", router);
    drop(&start);
    drop(&end);
    small_close(&r);
}

Test(step, a_diverged_population_stops_and_the_others_go_on) {
    small_run r = small_open(
        "  - {name: bad, method: local, devices: 2}\n  - {name: good, method: local, devices: 2}\n", 0, NULL);
    session *s = r.session;
    float poison = NAN;
    const device *d = &s->fleet->devices[1];
    int64_t at = d->pack + s->fleet->shapes[d->shape].layer_stride + s->fleet->shapes[d->shape].b2;
    cr_assert_eq(ck_upload(s->stream, s->fleet->parameters + at, &poison, sizeof poison), CK_OK);
    small_check(session_local_step(s, r.problems), r.problems, "expert step");
    cr_assert_eq(problems_count(r.problems), 1);
    const char *message = problems_message(r.problems, 0);
    cr_expect(strstr(message, "'bad'") && strstr(message, "device 1") && strstr(message, "round 1"), "%s",
              message);
    cr_expect(s->fleet->devices[0].stopped && s->fleet->devices[1].stopped);
    small_check(session_local_step(s, r.problems), r.problems, "expert step");
    cr_expect_eq(problems_count(r.problems), 1, "it is said once");
    cr_expect_eq(s->fleet->devices[2].expert_steps, 2);
    cr_expect_eq(s->fleet->devices[1].expert_steps, 0);
    small_close(&r);
}

/* Two experts, both kept: how many router values of a device differ after three steps under other settings of
 * the load balance. */
static int router_values_moved_by(const char *populations, const char *setting) {
    small_run a = small_open(populations, 0, NULL), b = small_open(populations, 1, &setting);
    for (int i = 0; i < 3; i++) {
        small_check(session_local_step(a.session, a.problems), a.problems, "expert step");
        small_check(session_follow_ups(a.session, a.problems), a.problems, "burst");
        small_check(session_local_step(b.session, b.problems), b.problems, "expert step");
        small_check(session_follow_ups(b.session, b.problems), b.problems, "burst");
    }
    snapshot after_a = take(&a), after_b = take(&b);
    changes c = compare(a.session->fleet, 0, &after_a, &after_b);
    drop(&after_a);
    drop(&after_b);
    small_close(&a);
    small_close(&b);
    return c.router;
}

Test(step, the_load_balance_of_two_kept_experts_acts_where_its_weights_differ) {
    const char *const methods[] = {"  - {name: p, method: pfedmoe, devices: 1}\n",
                                   "  - {name: c, method: comigs, devices: 1}\n"};
    for (int i = 0; i < 2; i++) {
        cr_expect_gt(router_values_moved_by(methods[i], "experts.balance_importance=0.9"), 32,
                     "method %d ignores pi", i);
        cr_expect_eq(router_values_moved_by(methods[i], "experts.balance=0"), 0,
                     "method %d: at pi = 0.5 the term is constant", i);
    }
}

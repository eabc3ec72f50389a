/* The learning schedule, step by step against the AdamW of the oracle:
 *
 *   experts, and a router that learns with them   rate(t) = r eta + (1 - r) eta (1 + cos(pi t / T)) / 2
 *       decay of train
 *   a router that learns from validation text     constant rate
 *       decay of train.router
 *
 * Each update is replayed in float64 from the state before it and the gradients that the step left. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "oracle/oracle.h"
#include "unit/small_run.h"

static const char *const ALL = "  - {name: c, method: comigs, devices: 1}\n"
                               "  - {name: p, method: pfedmoe, devices: 1}\n"
                               "  - {name: l, method: local, devices: 1}\n";
enum { COMIGS, PFEDMOE, LOCAL, DEVICES, STEPS = 6 };

static const char *const OVERRIDES[] = {"train.learning_rate=0.01",
                                        "train.final_learning_rate_ratio=0.1",
                                        "train.weight_decay=0.2",
                                        "train.beta1=0.8",
                                        "train.beta2=0.9",
                                        "train.epsilon=1e-8",
                                        "train.router.weight_decay=0.5",
                                        "train.router.every=2",
                                        "train.router.steps=1",
                                        "train.router.learning_rate=0.003"};
enum { N_OVERRIDES = sizeof OVERRIDES / sizeof *OVERRIDES };

/* By hand: 0.001 + 0.0045 (1 + cos(pi t / 6)). */
static const double RATES[STEPS] = {0.01, 0.0093971143, 0.00775, 0.0055, 0.00325, 0.0016028857};

typedef struct {
    float *parameters, *moment1, *moment2;
} state;

static state take(const small_run *r) {
    const fleet *f = r->session->fleet;
    return (state){small_download(r, f->parameters, f->n_parameters),
                   small_download(r, f->moment1, f->n_parameters),
                   small_download(r, f->moment2, f->n_parameters)};
}

static void drop(state *s) {
    free(s->parameters);
    free(s->moment1);
    free(s->moment2);
}

typedef enum { EXPERTS, ROUTER } group;

static group group_of(const ck_shape *s, int64_t at) {
    int64_t in_layer = at % s->layer_stride - s->route;
    return in_layer >= 0 && in_layer < (int64_t)s->router_rows * s->width ? ROUTER : EXPERTS;
}

static ck_adamw_hyper hyper(double rate, double decay, int step) {
    return (ck_adamw_hyper){.learning_rate = (float)rate,
                            .weight_decay = (float)decay,
                            .beta1 = 0.8F,
                            .beta2 = 0.9F,
                            .epsilon = 1e-8F,
                            .step = step};
}

/* What a step did, between two states. */
typedef struct {
    const small_run *run;
    state before, after;
    float *gradients; /* of its only wave */
} taken_step;

static taken_step step_taken(const small_run *r, exit_code (*step)(session *, problems *)) {
    session *s = r->session;
    taken_step t = {.run = r, .before = take(r)};
    for (int i = 0; i < DEVICES; i++) s->steps.updates[i].parameters = -1;
    small_check(step(s, r->problems), r->problems, "step");
    t.after = take(r);
    t.gradients = small_download(r, s->programs.gradients, s->plan.limits.max_packs);
    return t;
}

static void forget(taken_step *t) {
    drop(&t->before);
    drop(&t->after);
    free(t->gradients);
}

static const ck_adamw_device *update_of(const taken_step *t, int device_index) {
    const session *s = t->run->session;
    for (int i = 0; i < DEVICES; i++)
        if (s->steps.updates[i].parameters == s->fleet->devices[device_index].pack)
            return &s->steps.updates[i];
    cr_assert_fail("device %d was not in the step's only wave", device_index);
    return NULL;
}

/* Largest distance of a group's parameters from the oracle's, in learning rates. */
static double distance(const taken_step *t, int device_index, group which, ck_adamw_hyper expected) {
    const device *d = &t->run->session->fleet->devices[device_index];
    const ck_shape *shape = &t->run->session->fleet->shapes[d->shape];
    double *p = oracle_from_floats(t->before.parameters + d->pack, shape->total);
    double *m = oracle_from_floats(t->before.moment1 + d->pack, shape->total);
    double *v = oracle_from_floats(t->before.moment2 + d->pack, shape->total);
    double *g = oracle_from_floats(t->gradients + update_of(t, device_index)->gradients, shape->total);
    double largest = 0.0;
    int moved = 0;
    oracle_adamw((oracle_adamw_arrays){p, m, v, g}, shape->total, &expected);
    for (int64_t i = 0; i < shape->total; i++) {
        if (group_of(shape, i) != which) continue;
        largest = fmax(largest, fabs(t->after.parameters[d->pack + i] - p[i]));
        moved += t->after.parameters[d->pack + i] != t->before.parameters[d->pack + i];
    }
    cr_expect_geq(moved, 32, "device %d: only %d values moved", device_index, moved);
    free(p);
    free(m);
    free(v);
    free(g);
    return largest / (double)expected.learning_rate;
}

static void expect_near(double distance, int device_index, int step, const char *what) {
    cr_expect_leq(distance, 2e-3, "device %d, step %d: %s are %g learning rates from the schedule",
                  device_index, step, what, distance);
}

static void expert_step_follows_the_cosine(const small_run *r, int step) {
    taken_step t = step_taken(r, session_local_step);
    ck_adamw_hyper expected = hyper(RATES[step], 0.2, step + 1);
    for (int i = 0; i < DEVICES; i++) expect_near(distance(&t, i, EXPERTS, expected), i, step, "experts");
    expect_near(distance(&t, PFEDMOE, ROUTER, expected), PFEDMOE, step,
                "the rows of a router that learns with them");
    forget(&t);
}

static void burst_has_the_rate(const small_run *r, int burst, double rate) {
    taken_step t = step_taken(r, session_follow_ups);
    expect_near(distance(&t, COMIGS, ROUTER, hyper(rate, 0.5, burst + 1)), COMIGS, burst,
                "the router's rows");
    forget(&t);
}

static void follow_schedule(const char *const *overrides, double router_rate) {
    small_run r = small_open(ALL, N_OVERRIDES, overrides);
    cr_assert_eq(r.session->fleet->n_devices, DEVICES);
    for (int step = 0; step < STEPS; step++) {
        expert_step_follows_the_cosine(&r, step);
        if (step % 2 == 1) burst_has_the_rate(&r, step / 2, router_rate);
    }
    small_close(&r);
}

Test(schedule, experts_fall_along_the_cosine_and_routers_keep_their_rate) {
    follow_schedule(OVERRIDES, 0.003);
}

Test(schedule, a_router_without_a_rate_keeps_the_first_one_of_the_experts) {
    const char *overrides[N_OVERRIDES];
    for (int i = 0; i < N_OVERRIDES - 1; i++) overrides[i] = OVERRIDES[i];
    overrides[N_OVERRIDES - 1] = "train.router.learning_rate=0";
    follow_schedule(overrides, 0.01);
}

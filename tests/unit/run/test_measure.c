/* How long a run will take: what there is to compute, and what a measurement makes of it. */
#include <criterion/criterion.h>
#include <math.h>

#include "model/model.h"
#include "model/pretrain.h"
#include "run/measure.h"
#include "unit/small_run.h"

static const char *const POPULATIONS = "  - {name: c, method: comigs, devices: 3}\n"
                                       "  - {name: l, method: local, devices: 2, train: {batch: 5}}\n";

static run_work work_of(const char *populations, const char *rounds, const char *every) {
    const char *overrides[] = {rounds, every};
    small_run r = small_open(populations, 2, overrides);
    run_work work = measure_work(r.settings, &r.session->programs.base.shape, r.session->fleet);
    small_close(&r);
    return work;
}

/* 2 rounds of 3 steps; comigs: 2 windows, and 3 bursts of 2 router steps; local: 5 windows. 4 windows of test and of
 * validation text, and of test text again after an average. */
Test(measure, work_by_hand) {
    small_run r = small_open(POPULATIONS, 0, NULL);
    const base_shape *base = &r.session->programs.base.shape;
    const fleet *f = r.session->fleet;
    run_work work = measure_work(r.settings, base, f);
    double comigs = 16 * model_flops_per_token(base, &f->shapes[f->devices[0].shape], 16),
           local = 16 * model_flops_per_token(base, &f->shapes[f->devices[3].shape], 16);
    cr_expect_float_eq(work.train, 3 * 6 * 2 * comigs + 2 * 6 * 5 * local, 1e-9 * work.train);
    cr_expect_float_eq(work.router, 3 * 6 * 2 * comigs + 0 * local, 1e-9 * work.router);
    cr_expect_float_eq(work.evaluation, 2 * (3 * 12 * comigs + 2 * 8 * local), 1e-9 * work.evaluation);
    const run_rates rates = {.seconds = {.train = 1e-6, .router = 2e-6, .evaluation = 0.5e-6}};
    cr_expect_float_eq(measured_seconds(&work, &rates),
                       1e-6 * work.train + 2e-6 * work.router + 0.5e-6 * work.evaluation, 1e-9);
    small_close(&r);
}

Test(measure, twice_the_rounds_are_twice_the_work) {
    run_work once = work_of(POPULATIONS, "train.rounds=4", "evaluate.every=2"),
             twice = work_of(POPULATIONS, "train.rounds=8", "evaluate.every=2");
    cr_expect_float_eq(twice.train / once.train, 2.0, 1e-12);
    cr_expect_float_eq(twice.router / once.router, 2.0, 1e-12);
    cr_expect_float_eq(twice.evaluation / once.evaluation, 2.0, 1e-12);
}

/* A device is not there for half of the rounds. */
Test(measure, absent_devices_have_nothing_to_do) {
    static const char
        *const late = "  - {name: l, method: local, devices: 2, held_out: {devices: 1, rounds: 2}}\n",
               *const all = "  - {name: l, method: local, devices: 2}\n";
    run_work part = work_of(late, "train.rounds=4", "evaluate.every=1"),
             whole = work_of(all, "train.rounds=4", "evaluate.every=1");
    cr_expect_float_eq(part.train / whole.train, 0.75, 1e-12);
    cr_expect_float_eq(part.evaluation / whole.evaluation, 0.75, 1e-12);
}

/* Of a run with all that a device can have, and devices that are more than fit a second. */
Test(measure, a_measurement_has_a_rate_of_everything) {
    small_run r = small_open("  - {name: c, method: comigs, devices: 6, as_released: true}\n"
                             "  - {name: l, method: local, devices: 3, held_out: {devices: 1, rounds: 1}}\n"
                             "  - {name: p, method: centralized, devices: 3}\n",
                             0, NULL);
    run_rates rates;
    base_model *base = NULL;
    cr_assert_eq(base_random(&r.session->programs.base.shape, 3, &base, r.problems), EXIT_OK);
    for (int given = 0; given < 2; given++) {
        small_check(measure_run(r.settings, &r.session->programs.base.shape, given ? base : NULL,
                                measure_memory(&r.session->plan), &rates, r.problems),
                    r.problems, "measuring");
        cr_expect(rates.steps >= 1 && rates.threads >= 1 && !rates.on_gpu);
        cr_expect(rates.seconds.train > 0.0 && rates.seconds.router > 0.0 && rates.seconds.evaluation > 0.0);
        cr_expect_eq(rates.pretraining, 0.0, "a random base needs none");
        cr_expect(rates.spent > 0.0);
    }
    /* A run that may take nothing is not measured. */
    problems *list = problems_create();
    cr_expect_eq(
        measure_run(r.settings, &r.session->programs.base.shape, NULL, (run_memory){0, 0}, &rates, list),
        EXIT_ENVIRONMENT);
    cr_expect_eq(problems_count(list), 1);
    problems_destroy(list);
    small_close(&r);
}

Test(measure, durations_in_words) {
    static const struct {
        double seconds;
        const char *text;
    } expected[] = {{0.0, "1 second"},        {1.4, "1 second"},      {40.2, "40 seconds"},
                    {89.0, "89 seconds"},     {90.0, "1.5 minutes"},  {120.0, "2 minutes"},
                    {725.0, "12 minutes"},    {12600.0, "3.5 hours"}, {86400.0, "24 hours"},
                    {6.2 * 86400.0, "6 days"}};
    char text[DURATION_BYTES];
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        duration_text(expected[i].seconds, text);
        cr_expect_str_eq(text, expected[i].text, "%g s", expected[i].seconds);
    }
}

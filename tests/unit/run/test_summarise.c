/* What the rounds of a population amount to: its best round by validation, and its way to a target loss. */
#include <criterion/criterion.h>
#include <math.h>

#include "run/summarise.h"

enum { POPULATIONS = 2, DEVICES = 3 };

/* Two devices with a target of 2 nats, and one alone without. */
static population_settings own[POPULATIONS] = {{.target_loss = 2.0}, {.target_loss = 0.0}};
static population populations[POPULATIONS] = {
    {.settings = &own[0], .first_device = 0, .n_devices = 2, .n_senders = 2},
    {.settings = &own[1], .first_device = 2, .n_devices = 1, .n_senders = 1}};
static const fleet FLEET = {.n_populations = POPULATIONS, .populations = populations, .n_devices = DEVICES};

static population_course courses[POPULATIONS];
static metric_row row;

static void begin(void) {
    const metric_shape shape = {.populations = POPULATIONS, .devices = DEVICES, .layers = 1, .experts = 1};
    cr_assert(metric_row_create(&row, &shape));
    for (int i = 0; i < POPULATIONS; i++) courses[i] = (population_course){0};
}

/* Each device sends 10 bytes and receives 5. */
static void take(int round, const double valid[DEVICES], const double test[DEVICES]) {
    *metric_ints(&row, METRIC_ROUND) = round;
    for (int i = 0; i < DEVICES; i++) {
        metric_doubles(&row, METRIC_VALID_LOSS)[i] = valid[i];
        metric_doubles(&row, METRIC_TEST_LOSS)[i] = test[i];
        metric_longs(&row, METRIC_BYTES_UP)[i] = 10;
        metric_longs(&row, METRIC_BYTES_DOWN)[i] = 5;
    }
    course_add(&FLEET, &row, courses);
}

static const double NOT_EVALUATED[DEVICES] = {NAN, NAN, NAN};

Test(course, best_is_the_first_round_of_the_lowest_mean_validation_loss, .init = begin) {
    take(1, NOT_EVALUATED, NOT_EVALUATED);
    take(2, (double[]){3, 1, 4}, (double[]){1, 2, 3});
    take(3, NOT_EVALUATED, NOT_EVALUATED);
    take(4, (double[]){1, 2, 3}, (double[]){1.5, 2.5, 2});
    take(6, (double[]){2, 1, 5}, (double[]){0.5, 0.5, 1}); /* as low as round 4; and better on test text */
    take(8, (double[]){2, 2, 6}, (double[]){0, 0, 0});
    cr_expect_eq(courses[0].best_round, 4);
    cr_expect_float_eq(courses[0].test_ppl_best, (exp(1.5) + exp(2.5)) / 2, 1e-12);
    cr_expect_eq(courses[1].best_round, 4);
    cr_expect_float_eq(courses[1].test_ppl_best, exp(2), 1e-12);
}

Test(course, means_are_over_devices_that_have_a_loss, .init = begin) {
    take(2, (double[]){3, NAN, NAN}, (double[]){2.5, NAN, NAN});
    take(4, (double[]){2, NAN, NAN}, (double[]){1.5, NAN, NAN});
    take(6, (double[]){2, 3, NAN}, (double[]){1, 1, NAN});
    cr_expect_eq(courses[0].best_round, 4);
    cr_expect_float_eq(courses[0].test_ppl_best, exp(1.5), 1e-12);
    cr_expect_eq(courses[0].rounds_to_target, 4);
    cr_expect_eq(courses[1].best_round, 0, "a population without a loss has no best round");
}

/* A population whose last device is held out: its loss counts in nothing, its bytes do. */
Test(course, held_out_devices_are_left_out, .init = begin) {
    populations[0].n_senders = 1;
    take(2, (double[]){3, NAN, 1}, (double[]){2.5, NAN, 1});
    take(4, (double[]){2, 9, 1}, (double[]){1.5, 9, 1});
    take(6, (double[]){3, 0, 1}, (double[]){1.75, 0, 1});
    cr_expect_eq(courses[0].best_round, 4);
    cr_expect_float_eq(courses[0].test_ppl_best, exp(1.5), 1e-12);
    cr_expect_eq(courses[0].rounds_to_target, 4);
    cr_expect_eq(courses[0].bytes_to_target, 2 * 2 * 15);
    populations[0].n_senders = 2;
}

Test(course, of_a_population_that_stopped_the_rounds_before_count, .init = begin) {
    take(2, (double[]){3, 3, 1}, (double[]){2.5, 2.5, 1});
    take(4, (double[]){NAN, NAN, 2}, (double[]){NAN, NAN, 1});
    cr_expect_eq(courses[0].best_round, 2);
    cr_expect_float_eq(courses[0].test_ppl_best, exp(2.5), 1e-12);
    cr_expect_eq(courses[0].rounds_to_target, 0);
}

/* Every round's bytes count, evaluated or not; a loss equal to the target reaches it; later rounds change
 * nothing. */
Test(course, target_is_reached_in_the_first_evaluated_round_at_or_below_it, .init = begin) {
    take(1, NOT_EVALUATED, NOT_EVALUATED);
    take(2, (double[]){9, 9, 9}, (double[]){1, 3.5, 1});
    take(3, NOT_EVALUATED, NOT_EVALUATED);
    take(4, (double[]){9, 9, 9}, (double[]){1, 3, 1});
    take(6, (double[]){9, 9, 9}, (double[]){1, 1, 1});
    cr_expect_eq(courses[0].rounds_to_target, 4);
    cr_expect_eq(courses[0].bytes_to_target, 4 * 2 * 15);
    cr_expect_eq(courses[0].bytes, 5 * 2 * 15);
    cr_expect_eq(courses[1].rounds_to_target, 0, "without a target none is reached");
}

/* The bench's statistics against values computed by hand. */
#include <criterion/criterion.h>
#include <math.h>

/* bench/ is a program, not a library: its one file of arithmetic is taken in whole. */
#include "../bench/measure/statistics.c"

enum { ROUNDING = 12 };

static void expect(double value, double wanted) {
    cr_assert(fabs(value - wanted) <= 1e-12 * fabs(wanted), "%.*g instead of %.*g", ROUNDING, value, ROUNDING,
              wanted);
}

Test(statistics, median_of_odd_and_even_counts) {
    expect(statistics_median((double[]){3}, 1), 3);
    expect(statistics_median((double[]){9, 1, 4}, 3), 4);
    expect(statistics_median((double[]){9, 1, 4, 2}, 4), 3);
    expect(statistics_median((double[]){-5, -1, -3, 10, 7}, 5), -1);
}

Test(statistics, median_leaves_its_samples_in_place) {
    double x[3] = {9, 1, 4};
    statistics_median(x, 3);
    cr_assert(x[0] == 9 && x[1] == 1 && x[2] == 4);
}

Test(statistics, nothing_and_nan_have_no_median) {
    cr_assert(isnan(statistics_median(NULL, 0)));
    cr_assert(isnan(statistics_median((double[]){1, NAN, 2}, 3)));
    statistics none = statistics_of(NULL, 0);
    cr_assert(none.count == 0 && isnan(none.median) && isnan(none.min) && isnan(none.max) &&
              isnan(none.spread));
}

/* Sorted 10, 11, 12, 19: quartiles at places 0.75 and 2.25 are 10.75 and 13.75, the median is 11.5. */
Test(statistics, spread_is_half_the_distance_of_the_quartiles) {
    statistics s = statistics_of((double[]){10, 12, 11, 19}, 4);
    cr_assert_eq(s.count, 4);
    expect(s.median, 11.5);
    expect(s.min, 10);
    expect(s.max, 19);
    expect(s.spread, 1.5 / 11.5);
}

Test(statistics, spread_has_no_sign_and_no_unit) {
    expect(statistics_of((double[]){-1, -2, -3}, 3).spread, 0.25);
    expect(statistics_of((double[]){1e-9, 2e-9, 3e-9}, 3).spread, 0.25);
    expect(statistics_of((double[]){7}, 1).spread, 0);
    expect(statistics_of((double[]){7, 9}, 2).spread, 0.0625);
}

/* Of five samples one may be disturbed: the mean would move by 180 %. Of three, two that agree may do so by
 * chance. */
Test(statistics, one_outlier_of_five_does_not_widen_the_spread_but_one_of_three_does) {
    expect(statistics_of((double[]){99, 100, 101, 100, 1000}, 5).spread, 0.005);
    expect(statistics_of((double[]){180, 120, 182}, 3).spread, 31.0 / 360);
}

/* The machine is slow in two of three turns, in the last one only for b: the ratio of the medians would be
 * 2.4. */
Test(statistics, ratio_is_taken_pair_by_pair) {
    statistics s = statistics_of_ratio((double[]){40, 22, 24}, (double[]){10, 5.5, 12}, 3);
    expect(s.median, 4);
    expect(s.min, 2);
    expect(s.max, 4);
    expect(s.spread, 0.125);
    cr_assert_eq(statistics_of_ratio(NULL, NULL, 0).count, 0);
}

Test(statistics, settles_on_a_small_spread_of_enough_samples) {
    settling rule = {.least_samples = 3, .spread = 0.02, .seconds = 60};
    statistics quiet = {.count = 3, .spread = 0.02}, noisy = {.count = 9, .spread = 0.0201},
               few = {.count = 2, .spread = 0};
    statistics none = {.count = 3, .spread = NAN};
    cr_assert_eq(statistics_settled(&quiet, &rule, 1), STATISTICS_SETTLED);
    cr_assert_eq(statistics_settled(&noisy, &rule, 59), STATISTICS_GO_ON);
    cr_assert_eq(statistics_settled(&few, &rule, 59), STATISTICS_GO_ON);
    cr_assert_eq(statistics_settled(&none, &rule, 59), STATISTICS_GO_ON);
}

Test(statistics, time_runs_out_but_not_on_a_settled_result) {
    settling rule = {.least_samples = 3, .spread = 0.02, .seconds = 60};
    statistics quiet = {.count = 3, .spread = 0.01}, noisy = {.count = 9, .spread = 0.3};
    cr_assert_eq(statistics_settled(&noisy, &rule, 60), STATISTICS_TIMED_OUT);
    cr_assert_eq(statistics_settled(&quiet, &rule, 61), STATISTICS_SETTLED);
}

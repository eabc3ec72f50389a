/* Verdicts of --compare on made samples. */
#include <criterion/criterion.h>

/* bench/ is a program: its arithmetic is taken in whole. */
#include "../bench/compare/compare.c"

static comparison compare(double a, double spread_a, double b, double spread_b) {
    statistics of_a = {.count = 10, .median = a, .spread = spread_a},
               of_b = {.count = 10, .median = b, .spread = spread_b};
    return compare_statistics(&of_a, &of_b, 0.02);
}

static void expect(comparison got, comparison wanted) {
    cr_assert_eq(got, wanted, "%s instead of %s", comparison_name(got), comparison_name(wanted));
}

Test(bench_compare, apart_beyond_the_threshold_is_faster_or_slower) {
    expect(compare(100, 0.01, 110, 0.01), COMPARE_SLOWER);
    expect(compare(100, 0.01, 90, 0.01), COMPARE_FASTER);
    expect(compare(100, 0.3, 300, 0.3), COMPARE_SLOWER);
}

Test(bench_compare, quiet_and_near_is_the_same) {
    expect(compare(100, 0.01, 101, 0.02), COMPARE_SAME);
    expect(compare(100, 0, 100, 0), COMPARE_SAME);
    expect(compare(100, 0.001, 101.9, 0.001), COMPARE_SAME);
}

Test(bench_compare, what_noise_could_hide_is_unclear) {
    expect(compare(100, 0.1, 110, 0.1), COMPARE_UNCLEAR);
    expect(compare(100, 0.1, 100, 0.1), COMPARE_UNCLEAR);
    expect(compare(100, 0.02, 103, 0.02), COMPARE_UNCLEAR);
}

Test(bench_compare, it_reads_the_same_from_both_ends) {
    expect(compare(90, 0.01, 100, 0.01), COMPARE_SLOWER);
    expect(compare(110, 0.01, 100, 0.01), COMPARE_FASTER);
}

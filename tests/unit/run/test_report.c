/* The closing table and the line on speed: shares of what was measured, none of what was not. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "run/report.h"

static void report(const ck_ceiling *ceiling, char *text, size_t size) {
    session s = {.agreed = {.expert_seconds = 2, .expert_tokens = 5000, .expert_flops = 50e9},
                 .collective = ck_collective_local()};
    cr_assert_eq(ck_open("cpu", 1, &s.backend), CK_OK);
    cr_redirect_stdout();
    report_speed(&s, ceiling);
    fflush(stdout);
    FILE *out = cr_get_redirected_stdout();
    text[fread(text, 1, size - 1, out)] = '\0';
    ck_close(s.backend);
}

static void expect(const char *text, const char *part) {
    cr_expect(strstr(text, part) != NULL, "no '%s' in '%s'", part, text);
}

Test(report, speed_has_both_shares) {
    char text[1024];
    report(&(ck_ceiling){.product = 50e9, .fma = 100e9, .product_of = "Cohort's", .note = "a note"}, text,
           sizeof text);
    expect(text, "2.5 k tokens/s, 25.0 GFLOP/s: 50 % of the best sgemm rate (50.0 GFLOP/s, Cohort's), 25 % "
                 "of the FMA peak (100.0 GFLOP/s); ");
    expect(text, "\na note\n");
}

Test(report, a_rate_that_was_not_measured_is_not_printed) {
    char text[1024];
    report(&(ck_ceiling){.fma = 100e9}, text, sizeof text);
    expect(
        text,
        "the best sgemm rate was not measured, for want of memory, 25 % of the FMA peak (100.0 GFLOP/s); ");
    cr_expect(!strstr(text, " 0 %") && !strstr(text, "(0.0"), "a rate of nothing in '%s'", text);
}

Test(report, a_gpu_has_no_fma_peak) {
    char text[1024];
    report(&(ck_ceiling){.product = 50e9, .product_of = "cuBLASLt"}, text, sizeof text);
    expect(text, "50 % of the best sgemm rate (50.0 GFLOP/s, cuBLASLt); ");
    cr_expect(!strstr(text, "FMA"), "an FMA peak in '%s'", text);
}

static void report_rows(const summary_row *rows, int n, char *text, size_t size) {
    cr_redirect_stdout();
    report_table(rows, n);
    fflush(stdout);
    FILE *out = cr_get_redirected_stdout();
    text[fread(text, 1, size - 1, out)] = '\0';
}

static summary_row row_of(const char *name, double last, double best, int round) {
    return (summary_row){.population = name,
                         .method = "local",
                         .devices = 2,
                         .seed = 42,
                         .entropy_mean = NAN,
                         .best_round = round,
                         .test_ppl_best = best,
                         .of_metric = {[METRIC_TEST_LOSS] = {last, 0.5}, [METRIC_TEST_AFTER] = {last}}};
}

/* Of a population that overfits, and of one that diverged. */
Test(report, the_best_round_stands_where_it_is_not_the_last) {
    const summary_row rows[] = {row_of("over", 9.25, 8.125, 6), row_of("last", 7, 7, 20),
                                row_of("gone", NAN, 11.5, 2)};
    char text[2048];
    report_rows(rows, 3, text, sizeof text);
    expect(text, "      9.250         8.125 (6)       0.00");
    expect(text, "      7.000                         0.00");
    expect(text, "          -        11.500 (2)       0.00");
    expect(text, "best (round): the test perplexity of the round with the lowest validation loss");
}

Test(report, no_column_of_best_rounds_where_all_are_the_last) {
    const summary_row rows[] = {row_of("last", 7, 7, 20), row_of("none", NAN, 0, 0)};
    char text[2048];
    report_rows(rows, 2, text, sizeof text);
    cr_expect(!strstr(text, "best"), "%s", text);
}

/* The closing line on speed: shares of what was measured, none of what was not. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
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

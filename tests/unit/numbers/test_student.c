/* Student's t against printed tables (Abramowitz and Stegun, table 26.10, and its closed forms). */
#include <criterion/criterion.h>
#include <math.h>

#include "numbers/student.h"

Test(student, quantiles_are_those_of_printed_tables) {
    static const struct {
        int freedom;
        double p, t;
    } cases[] = {{1, 0.975, 12.706},  {2, 0.975, 4.303},   {3, 0.975, 3.182},   {4, 0.975, 2.776},
                 {5, 0.975, 2.571},   {9, 0.975, 2.262},   {10, 0.95, 1.812},   {30, 0.975, 2.042},
                 {60, 0.975, 2.000},  {120, 0.975, 1.980}, {3, 0.9995, 12.924}, {5, 0.995, 4.032},
                 {120, 0.995, 2.617}, {7, 0.9, 1.415},     {20, 0.75, 0.687}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_float_eq(student_quantile(cases[i].p, cases[i].freedom), cases[i].t, 5.01e-4, "t(%g, %d)",
                           cases[i].p, cases[i].freedom);
}

/* v = 1: tan(pi (p - 1/2)); v = 2: 2 (p - 1/2) sqrt(2 / (4 p (1 - p))). */
Test(student, quantiles_of_one_and_two_degrees_have_closed_forms) {
    static const double ps[] = {0.0005, 0.01, 0.3, 0.5, 0.6, 0.9, 0.975, 0.99999};
    for (size_t i = 0; i < sizeof ps / sizeof *ps; i++) {
        double p = ps[i], one = tan(M_PI * (p - 0.5)),
               two = 2.0 * (p - 0.5) * sqrt(2.0 / (4.0 * p * (1.0 - p)));
        cr_expect_float_eq(student_quantile(p, 1), one, 1e-9 * (1.0 + fabs(one)), "t(%g, 1)", p);
        cr_expect_float_eq(student_quantile(p, 2), two, 1e-9 * (1.0 + fabs(two)), "t(%g, 2)", p);
    }
}

/* Both sides of where the continued fraction changes ends. v = 4: 1/2 + 3/8 s (1 - s^2 / 12 ...) with
 * s = t / sqrt(1 + t^2 / 4). */
Test(student, distribution_function_has_its_closed_form_at_four) {
    for (double t = -8.0; t <= 8.0; t += 0.125) {
        double s = t / sqrt(1.0 + t * t / 4.0),
               expected = 0.5 + 0.375 * s * (1.0 - t * t / 12.0 / (1.0 + t * t / 4.0));
        cr_expect_float_eq(student_below(t, 4), expected, 1e-13, "P(T <= %g)", t);
    }
}

Test(student, many_degrees_are_nearly_normal) {
    cr_expect_float_eq(student_quantile(0.975, 1000000), 1.959964, 5e-6);
    cr_expect_float_eq(student_below(1.0, 1000000), 0.5 * (1.0 + erf(sqrt(0.5))), 1e-6);
    cr_expect_float_eq(student_below(student_quantile(0.83, 17), 17), 0.83, 1e-13);
}

/* test_vector.c - the vectorised exponential and GELU against libm in double. */
#include <criterion/criterion.h>
#include <math.h>

#include "cpu/vector.h"

static double gelu_of(double u) {
    return 0.5 * u * (1.0 + tanh(sqrt(2.0 / M_PI) * (u + 0.044715 * u * u * u)));
}

static double gelu_slope_of(double u) {
    double t = tanh(sqrt(2.0 / M_PI) * (u + 0.044715 * u * u * u));
    return 0.5 * (1.0 + t) + 0.5 * u * (1.0 - t * t) * sqrt(2.0 / M_PI) * (1.0 + 3.0 * 0.044715 * u * u);
}

Test(vector, exp_is_right_to_1e_6_over_its_range) {
    double worst = 0.0;
    for (float x = -87.0F; x <= 88.0F; x += 0.000731F) {
        double error = fabs((double)vec_exp(x) / exp((double)x) - 1.0);
        if (error > worst) worst = error;
    }
    cr_assert_leq(worst, 1e-6, "largest relative error %g", worst);
}

Test(vector, exp_of_extremes) {
    cr_assert_eq(vec_exp(0.0F), 1.0F);
    cr_assert_leq(vec_exp(-1000.0F), 1.7e-38F, "far below its range exp is next to nothing, not garbage");
    cr_assert_leq(vec_exp(-INFINITY), 1.7e-38F);
    cr_assert(isfinite(vec_exp(1000.0F)), "above its range exp saturates");
    cr_assert(isnan(vec_exp(NAN)), "a NaN must not be hidden");
}

Test(vector, gelu_and_its_slope_are_right_to_1e_6) {
    double worst = 0.0, worst_slope = 0.0;
    for (float u = -12.0F; u <= 12.0F; u += 0.000113F) {
        float slope, value = vec_gelu_slope(u, &slope);
        double scale = fmax(1.0, fabs((double)u));
        worst = fmax(worst, fabs((double)value - gelu_of((double)u)) / scale);
        worst = fmax(worst, fabs((double)vec_gelu(u) - gelu_of((double)u)) / scale);
        worst_slope = fmax(worst_slope, fabs((double)slope - gelu_slope_of((double)u)));
    }
    cr_assert_leq(worst, 1e-6, "gelu: largest error %g", worst);
    cr_assert_leq(worst_slope, 2e-6, "gelu': largest error %g", worst_slope);
}

Test(vector, gelu_keeps_nan) {
    float slope;
    cr_assert(isnan(vec_gelu(NAN)));
    cr_assert(isnan(vec_gelu_slope(NAN, &slope)));
    cr_assert(isnan(slope));
}

Test(vector, silu_and_its_slope_are_right_to_1e_6) {
    double worst = 0.0, worst_slope = 0.0;
    for (float u = -100.0F; u <= 100.0F; u += 0.00113F) {
        double sigma = 1 / (1 + exp(-(double)u)), scale = fmax(1.0, fabs((double)u));
        float slope, value = vec_silu_slope(u, &slope);
        worst = fmax(worst, fabs((double)value - (double)u * sigma) / scale);
        worst = fmax(worst, fabs((double)vec_silu(u) - (double)u * sigma) / scale);
        worst_slope = fmax(worst_slope, fabs((double)slope - sigma * (1 + (double)u * (1 - sigma))));
    }
    cr_assert_leq(worst, 1e-6, "silu: largest error %g", worst);
    cr_assert_leq(worst_slope, 1e-6, "silu': largest error %g", worst_slope);
    float slope;
    cr_assert(isnan(vec_silu(NAN)) && isnan(vec_silu_slope(NAN, &slope)) && isnan(slope),
              "a NaN must not be hidden");
}

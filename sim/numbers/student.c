/* student.c - P(T <= t) = 1 - I_x(v / 2, 1 / 2) / 2 for t >= 0, with x = v / (v + t^2) and the regularised
 * incomplete beta function I (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.1); its
 * continued fraction is 26.5.8 there. */
#include "numbers/student.h"

#include <float.h>
#include <math.h>

/* The fraction 1 / (1 + d1 / (1 + d2 / ...)), from its end on: of so many terms the last changes no digit for
 * x < (a + 1) / (a + b + 2). */
static double fraction(double x, double a, double b) {
    enum { TERMS = 400 };
    double value = 1.0;
    for (int m = TERMS; m >= 0; m--) {
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        double even = (m + 1) * (b - m - 1) * x / ((a + 2 * m + 1) * (a + 2 * m + 2));
        value = 1.0 + odd / (1.0 + even / value);
    }
    return 1.0 / value;
}

/* y: 1 - x, exact where x is near 1 */
static double incomplete_beta(double x, double y, double a, double b) {
    if (x <= 0.0) return 0.0;
    if (y <= 0.0) return 1.0;
    double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log(y));
    if (x < (a + 1.0) / (a + b + 2.0)) return front * fraction(x, a, b) / a;
    return 1.0 - front * fraction(y, b, a) / b;
}

double student_below(double t, int freedom) {
    double v = freedom, square = t * t,
           tail = incomplete_beta(v / (v + square), square / (v + square), v / 2.0, 0.5) / 2.0;
    return t < 0.0 ? tail : 1.0 - tail;
}

/* By bisection: the distribution function grows. */
double student_quantile(double p, int freedom) {
    if (p < 0.5) return -student_quantile(1.0 - p, freedom);
    double low = 0.0, high = 1.0;
    while (student_below(high, freedom) < p && high < DBL_MAX / 4.0) high *= 2.0;
    for (int i = 0; i < 200 && low < high; i++) {
        double middle = low + (high - low) / 2.0;
        if (middle == low || middle == high) break;
        *(student_below(middle, freedom) < p ? &low : &high) = middle;
    }
    return p > 0.5 ? high : 0.0;
}

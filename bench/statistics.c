#include "statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of_sorted(const double *x, int count) {
    return count % 2 ? x[count / 2] : 0.5 * (x[count / 2 - 1] + x[count / 2]);
}

double statistics_median(const double *x, int count) {
    double median = NAN;
    double *sorted = count > 0 ? malloc((size_t)count * sizeof *sorted) : NULL;
    if (!sorted) return NAN;
    memcpy(sorted, x, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, ascending);
    int ordered = 1; /* a NaN compares equal to everything, so no order can be trusted */
    for (int i = 0; i < count; i++) ordered &= !isnan(x[i]);
    if (ordered) median = median_of_sorted(sorted, count);
    free(sorted);
    return median;
}

static double spread_of(const double *x, int count, double median) {
    double *distance = count > 0 ? malloc((size_t)count * sizeof *distance) : NULL;
    if (!distance) return NAN;
    for (int i = 0; i < count; i++) distance[i] = fabs(x[i] - median);
    double spread = statistics_median(distance, count) / fabs(median);
    free(distance);
    return spread;
}

statistics statistics_of(const double *x, int count) {
    statistics s = {.count = count, .median = statistics_median(x, count), .min = NAN, .max = NAN};
    s.spread = spread_of(x, count, s.median);
    for (int i = 0; i < count; i++) {
        s.min = fmin(s.min, x[i]); /* fmin and fmax pass over the NaN they begin with */
        s.max = fmax(s.max, x[i]);
    }
    return s;
}

statistics statistics_of_ratio(const double *a, const double *b, int count) {
    double *ratio = count > 0 ? malloc((size_t)count * sizeof *ratio) : NULL;
    if (!ratio) return statistics_of(NULL, 0);
    for (int i = 0; i < count; i++) ratio[i] = a[i] / b[i];
    statistics s = statistics_of(ratio, count);
    free(ratio);
    return s;
}

settling_state statistics_settled(const statistics *s, const settling *rule, double elapsed_seconds) {
    if (s->count >= rule->least_samples && s->spread <= rule->spread) return STATISTICS_SETTLED;
    return elapsed_seconds >= rule->seconds ? STATISTICS_TIMED_OUT : STATISTICS_GO_ON;
}

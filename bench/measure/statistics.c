#include "measure/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value below which a share of the sorted samples lies, linear between neighbours. */
static double quantile(const double *x, int count, double share) {
    double place = share * (count - 1);
    int below = (int)place;
    return below + 1 < count ? x[below] + (place - below) * (x[below + 1] - x[below]) : x[count - 1];
}

/* NULL if there is nothing to sort: no samples, or a NaN, which has no place in an order. */
static double *sorted_copy(const double *x, int count) {
    for (int i = 0; i < count; i++)
        if (isnan(x[i])) return NULL;
    double *sorted = count > 0 ? malloc((size_t)count * sizeof *sorted) : NULL;
    if (!sorted) return NULL;
    memcpy(sorted, x, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, ascending);
    return sorted;
}

statistics statistics_of(const double *x, int count) {
    statistics s = {.count = count, .median = NAN, .min = NAN, .max = NAN, .spread = NAN};
    double *sorted = sorted_copy(x, count);
    if (!sorted) return s;
    s.median = quantile(sorted, count, 0.5);
    s.min = sorted[0];
    s.max = sorted[count - 1];
    s.spread = 0.5 * (quantile(sorted, count, 0.75) - quantile(sorted, count, 0.25)) / fabs(s.median);
    free(sorted);
    return s;
}

double statistics_median(const double *x, int count) {
    return statistics_of(x, count).median;
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

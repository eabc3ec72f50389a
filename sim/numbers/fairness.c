/* fairness.c - how unequally a population's devices are served, by their test losses x_1 <= ... <= x_n before
 * the aggregation.
 *
 *   worst decile   mean of the ceil(n / 10) largest losses
 *   Gini           sum_ij |x_i - x_j| / (2 n^2 mean x) = 2 sum_i i x_i / (n sum_i x_i) - (n + 1) / n: 0 where
 *                  all are equal
 *
 * A population that has stopped has neither: NaN. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "numbers/metrics.h"

static int rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double worst_decile(const double *sorted, int n) {
    int worst = (n + 9) / 10;
    double sum = 0.0;
    for (int i = n - worst; i < n; i++) sum += sorted[i];
    return sum / worst;
}

static double gini(const double *sorted, int n) {
    double sum = 0.0, weighted = 0.0;
    for (int i = 0; i < n; i++) {
        sum += sorted[i];
        weighted += (i + 1) * sorted[i];
    }
    return 2.0 * weighted / (n * sum) - (n + 1.0) / n;
}

static void for_populations(metric_row *row, metric_id to, double (*measure)(const double *sorted, int n)) {
    for (int p = 0; p < row->shape.populations; p++) {
        int first = row->first_device[p], n = row->described[p];
        bool all = true;
        memcpy(row->sorted, metric_doubles(row, METRIC_TEST_LOSS) + first, (size_t)n * sizeof *row->sorted);
        for (int i = 0; i < n; i++) all = all && isfinite(row->sorted[i]);
        qsort(row->sorted, (size_t)n, sizeof *row->sorted, rising);
        metric_doubles(row, to)[p] = all && n > 0 ? measure(row->sorted, n) : NAN;
    }
}

void derive_worst_decile(metric_row *row) {
    for_populations(row, METRIC_WORST_DECILE, worst_decile);
}

void derive_gini(metric_row *row) {
    for_populations(row, METRIC_GINI, gini);
}

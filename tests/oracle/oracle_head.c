/* Head and cross-entropy.
 *
 *   logits = x wte^T     loss = sum over tokens with target >= 0 of log sum_v exp(logit_v) - logit_target
 *   dlogit_v = scale (softmax(logits)_v - [v = target])     dx = dlogit wte     dwte = dlogit^T x */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"

int64_t oracle_counted(int64_t n, const int32_t *targets) {
    int64_t counted = 0;
    for (int64_t t = 0; t < n; t++) counted += targets[t] >= 0;
    return counted;
}

/* Logits of one row and their log-sum-exp. */
static void row_logits(oracle_head_size size, const double *x, const double *wte, double *logits,
                       double *log_sum) {
    int best = 0;
    double sum = 0;
    for (int v = 0; v < size.vocabulary; v++) {
        logits[v] = oracle_dot(x, wte + (int64_t)v * size.width, size.width);
        if (logits[v] > logits[best]) best = v;
    }
    for (int v = 0; v < size.vocabulary; v++) sum += exp(logits[v] - logits[best]);
    *log_sum = logits[best] + log(sum);
}

double oracle_head(oracle_head_size size, const double *x, const double *wte, const int32_t *targets,
                   double *logits) {
    double *row = oracle_zeros(size.vocabulary), loss = 0;
    for (int64_t t = 0; t < size.n; t++) {
        double log_sum;
        row_logits(size, x + t * size.width, wte, row, &log_sum);
        if (logits != NULL) memcpy(logits + t * size.vocabulary, row, (size_t)size.vocabulary * sizeof *row);
        if (targets[t] < 0) continue;
        loss += log_sum - row[targets[t]];
    }
    free(row);
    return loss;
}

void oracle_head_backward(oracle_head_size size, const double *x, const double *wte, const int32_t *targets,
                          double scale, double *dx, double *dwte) {
    double *row = oracle_zeros(size.vocabulary);
    memset(dx, 0, (size_t)(size.n * size.width) * sizeof *dx);
    for (int64_t t = 0; t < size.n; t++) {
        if (targets[t] < 0) continue;
        double log_sum;
        row_logits(size, x + t * size.width, wte, row, &log_sum);
        for (int v = 0; v < size.vocabulary; v++) {
            double slope = scale * (exp(row[v] - log_sum) - (v == targets[t]));
            for (int d = 0; d < size.width; d++) {
                dx[t * size.width + d] += slope * wte[(int64_t)v * size.width + d];
                if (dwte != NULL) dwte[(int64_t)v * size.width + d] += slope * x[t * size.width + d];
            }
        }
    }
    free(row);
}

/* Embedding, LayerNorm, linear, GELU.
 *
 *   embed     x_t = wte[token_t] + wpe[t]
 *   norm      y = (x - mean) rstd gain + bias,  rstd = 1 / sqrt(var + epsilon),  var = mean of (x - mean)^2
 *   linear    y = x W^T + c b (+ residual)
 *   gelu      0.5 u (1 + tanh(sqrt(2 / pi) (u + 0.044715 u^3)))
 *       (GPT-2's "gelu_new") */
#include <math.h>
#include <stdlib.h>

#include "oracle.h"

double *oracle_zeros(int64_t count) {
    double *values = calloc(count > 0 ? (size_t)count : 1, sizeof *values);
    if (values == NULL) abort();
    return values;
}

double *oracle_from_floats(const float *values, int64_t count) {
    double *copy = oracle_zeros(count);
    for (int64_t i = 0; i < count; i++) copy[i] = values[i];
    return copy;
}

double oracle_dot(const double *a, const double *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

void oracle_embed(int64_t n, int width, const int32_t *tokens, const double *wte, const double *wpe,
                  double *x) {
    for (int64_t t = 0; t < n; t++)
        for (int d = 0; d < width; d++)
            x[t * width + d] = wte[(int64_t)tokens[t] * width + d] + (wpe != NULL ? wpe[t * width + d] : 0);
}

void oracle_embed_backward(int64_t n, int width, const int32_t *tokens, const double *dx, double *dwte,
                           double *dwpe) {
    for (int64_t t = 0; t < n; t++)
        for (int d = 0; d < width; d++) {
            dwte[(int64_t)tokens[t] * width + d] += dx[t * width + d];
            if (dwpe != NULL) dwpe[t * width + d] += dx[t * width + d];
        }
}

static void row_moments(int width, double epsilon, const double *x, double *mean, double *rstd) {
    double sum = 0, squares = 0;
    for (int d = 0; d < width; d++) sum += x[d];
    *mean = sum / width;
    for (int d = 0; d < width; d++) squares += (x[d] - *mean) * (x[d] - *mean);
    *rstd = 1 / sqrt(squares / width + epsilon);
}

void oracle_norm(oracle_norm_size size, const double *x, const double *gain, const double *bias, double *y,
                 double *stats) {
    for (int64_t t = 0; t < size.n; t++) {
        const double *row = x + t * size.width;
        double mean, rstd;
        row_moments(size.width, size.epsilon, row, &mean, &rstd);
        for (int d = 0; d < size.width; d++)
            y[t * size.width + d] = (row[d] - mean) * rstd * gain[d] + bias[d];
        if (stats != NULL) {
            stats[2 * t] = mean;
            stats[2 * t + 1] = rstd;
        }
    }
}

/* With xhat = (x - mean) rstd and e = dy gain:  dx = rstd (e - mean(e) - xhat mean(e xhat)). */
static void norm_backward_row(oracle_norm_size size, const double *x, const double *gain, const double *dy,
                              double *dx, double *dgain, double *dbias) {
    double mean, rstd, mean_e = 0, mean_e_xhat = 0;
    row_moments(size.width, size.epsilon, x, &mean, &rstd);
    for (int d = 0; d < size.width; d++) {
        double e = dy[d] * gain[d];
        mean_e += e / size.width;
        mean_e_xhat += e * (x[d] - mean) * rstd / size.width;
    }
    for (int d = 0; d < size.width; d++) {
        double xhat = (x[d] - mean) * rstd;
        dx[d] += rstd * (dy[d] * gain[d] - mean_e - xhat * mean_e_xhat);
        if (dgain != NULL) dgain[d] += dy[d] * xhat;
        if (dbias != NULL) dbias[d] += dy[d];
    }
}

void oracle_norm_backward(oracle_norm_size size, const double *x, const double *gain, const double *dy,
                          double *dx, double *dgain, double *dbias) {
    for (int64_t t = 0; t < size.n; t++)
        norm_backward_row(size, x + t * size.width, gain, dy + t * size.width, dx + t * size.width, dgain,
                          dbias);
}

void oracle_linear(oracle_linear_size size, const double *x, const double *weight, const double *bias,
                   const double *factor, const double *residual, double *y) {
    for (int64_t t = 0; t < size.n; t++)
        for (int o = 0; o < size.out; o++) {
            double sum = oracle_dot(x + t * size.in, weight + (int64_t)o * size.in, size.in);
            if (bias != NULL) sum += (factor != NULL ? factor[t] : 1) * bias[o];
            if (residual != NULL) sum += residual[t * size.out + o];
            y[t * size.out + o] = sum;
        }
}

void oracle_linear_backward(oracle_linear_size size, const double *x, const double *weight, const double *dy,
                            double *dx, double *dweight, double *dbias) {
    for (int64_t t = 0; t < size.n; t++)
        for (int o = 0; o < size.out; o++) {
            double slope = dy[t * size.out + o];
            for (int i = 0; i < size.in; i++) {
                if (dx != NULL) dx[t * size.in + i] += slope * weight[(int64_t)o * size.in + i];
                if (dweight != NULL) dweight[(int64_t)o * size.in + i] += slope * x[t * size.in + i];
            }
            if (dbias != NULL) dbias[o] += slope;
        }
}

static const double gelu_cubic = 0.044715;

static double gelu_tanh(double u) {
    return tanh(sqrt(2 / M_PI) * (u + gelu_cubic * u * u * u));
}

double oracle_gelu(double u) {
    return 0.5 * u * (1 + gelu_tanh(u));
}

double oracle_gelu_slope(double u) {
    double t = gelu_tanh(u);
    return 0.5 * (1 + t) + 0.5 * u * (1 - t * t) * sqrt(2 / M_PI) * (1 + 3 * gelu_cubic * u * u);
}

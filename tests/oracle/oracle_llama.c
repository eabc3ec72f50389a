/* What a Llama layer has instead of LayerNorm, learned positions and GELU.
 *
 *   rms norm   y = x rstd gain,  rstd = 1 / sqrt(mean of x^2 + epsilon)
 *   rope       the complex number x_i + i x_{i + d/2} of a head, times e^(i angle) = cos + i sin, for i < d/2
 *   swiglu     m = silu(g) v with u = (g, v),  silu(g) = g sigma(g),  sigma(g) = 1 / (1 + e^-g) */
#include <complex.h>
#include <math.h>

#include "oracle.h"

static double rms_rstd(oracle_norm_size size, const double *x) {
    return 1 / sqrt(oracle_dot(x, x, size.width) / size.width + size.epsilon);
}

void oracle_rms_norm(oracle_norm_size size, const double *x, const double *gain, double *y, double *stats) {
    for (int64_t t = 0; t < size.n; t++) {
        double rstd = rms_rstd(size, x + t * size.width);
        for (int d = 0; d < size.width; d++) y[t * size.width + d] = x[t * size.width + d] * rstd * gain[d];
        if (stats != NULL) {
            stats[2 * t] = 0;
            stats[2 * t + 1] = rstd;
        }
    }
}

/* d rstd / d x_d = -rstd^3 x_d / D, hence  dx_d = rstd gain_d dy_d - rstd^3 x_d / D sum_j dy_j gain_j x_j. */
void oracle_rms_norm_backward(oracle_norm_size size, const double *x, const double *gain, const double *dy,
                              double *dx, double *dgain) {
    for (int64_t t = 0; t < size.n; t++) {
        const double *row = x + t * size.width, *slope = dy + t * size.width;
        double rstd = rms_rstd(size, row), sum = 0;
        for (int d = 0; d < size.width; d++) sum += slope[d] * gain[d] * row[d];
        for (int d = 0; d < size.width; d++) {
            dx[t * size.width + d] += rstd * gain[d] * slope[d] - pow(rstd, 3) * row[d] / size.width * sum;
            if (dgain != NULL) dgain[d] += slope[d] * row[d] * rstd;
        }
    }
}

void oracle_rope(oracle_attention_size size, const double *table, bool backward, double *qkv) {
    int half = size.head_size / 2, columns = (size.heads + 2 * size.kv_heads) * size.head_size;
    for (int64_t t = 0; t < size.n; t++)
        for (int head = 0; head < size.heads + size.kv_heads; head++)
            for (int i = 0; i < half; i++) {
                const double *angle = table + (t * half + i) * 2;
                double *x = qkv + t * columns + head * size.head_size + i;
                double complex turn = angle[0] + I * angle[1];
                double complex turned = (x[0] + I * x[half]) * (backward ? conj(turn) : turn);
                x[0] = creal(turned);
                x[half] = cimag(turned);
            }
}

static double sigma(double g) {
    return 1 / (1 + exp(-g));
}

void oracle_swiglu(int64_t n, int ffn, const double *u, double *m) {
    for (int64_t i = 0; i < n * ffn; i++) {
        double g = u[i / ffn * 2 * ffn + i % ffn], v = u[i / ffn * 2 * ffn + ffn + i % ffn];
        m[i] = g * sigma(g) * v;
    }
}

/* silu'(g) = sigma(g) + g sigma(g) (1 - sigma(g)), and 1 - sigma(g) = sigma(-g). */
void oracle_swiglu_backward(int64_t n, int ffn, const double *u, const double *dm, double *du) {
    for (int64_t i = 0; i < n * ffn; i++) {
        int64_t gate = i / ffn * 2 * ffn + i % ffn, up = gate + ffn;
        double g = u[gate];
        du[gate] = dm[i] * u[up] * (sigma(g) + g * sigma(g) * sigma(-g));
        du[up] = dm[i] * g * sigma(g);
    }
}

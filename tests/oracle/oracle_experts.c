/* The expert layer in its factorised form: one product per base matrix whatever the number of experts (DESIGN 2.2).
 *
 * mix mlp      u_e = U + s B1_e h_e,  a_e = gelu(u_e),  m = sum w_e a_e,  g_e = A2_e a_e,  y = W m + b sum w_e + s sum w_e B2_e g_e
 *   q_e = s B2_e^T dy      dw_e = <a_e, dm> + <g_e, q_e> + <b, dy>      da_e = w_e (dm + A2_e^T q_e)      du_e = da_e gelu'(u_e)
 *   dU = sum du_e          p_e = s B1_e^T du_e       dB1_e = s du_e^T h_e   dA2_e = (w_e q_e)^T a_e   dB2_e = s (w_e dy)^T g_e
 * mix linear   u = U + s sum w_e B1_e h_e,  m = gelu(u),  g_e = A2_e m,  y = W m + b + s sum w_e B2_e g_e
 *   dw_e = <g_e, q_e> + <s B1_e h_e, du>      du = (dm + sum w_e A2_e^T q_e) gelu'(u)      p_e = w_e s B1_e^T du
 *   dB1_e = s w_e du^T h_e   dA2_e = (w_e q_e)^T m   dB2_e = s (w_e dy)^T g_e
 * An expert that was not chosen has w_e = 0 and takes part in nothing. */
#include <stdlib.h>
#include <string.h>

#include "oracle.h"

void oracle_bias_factor(const ck_shape *shape, int64_t n, const double *gates, double *factor) {
    for (int64_t t = 0; t < n; t++) {
        factor[t] = shape->mix == CK_MIX_LINEAR;
        for (int e = 0; e < shape->n_experts && shape->mix == CK_MIX_MLP; e++) factor[t] += gates[t * CK_MAX_EXPERTS + e];
    }
}

/* out += factor * sum_r coefficient_r row_r over the ranks of expert e; rows are [rank_sum, count] from a part of the pack. */
static void add_rows(const oracle_adapter *a, oracle_part part, int e, int count, double factor, const double *coefficient, double *out) {
    const ck_shape *s = a->shape;
    const double *rows = a->parameters + oracle_part_range(s, a->layer, part).offset;
    for (int r = s->rank_first[e]; r < s->rank_first[e + 1]; r++)
        for (int i = 0; i < count; i++) out[i] += factor * coefficient[r] * rows[(int64_t)r * count + i];
}

/* out_r = factor <row_r, v> over the ranks of expert e. */
static void dot_rows(const oracle_adapter *a, oracle_part part, int e, int count, double factor, const double *v, double *out) {
    const ck_shape *s = a->shape;
    const double *rows = a->parameters + oracle_part_range(s, a->layer, part).offset;
    for (int r = s->rank_first[e]; r < s->rank_first[e + 1]; r++) out[r] = factor * oracle_dot(rows + (int64_t)r * count, v, count);
}

/* Gradient of row_r += factor coefficient_r v over the ranks of expert e. */
static void add_gradient(const oracle_adapter *a, oracle_part part, int e, int count, double factor, const double *coefficient,
                         const double *v) {
    const ck_shape *s = a->shape;
    double *rows = a->gradients + oracle_part_range(s, a->layer, part).offset;
    for (int r = s->rank_first[e]; r < s->rank_first[e + 1]; r++)
        for (int i = 0; i < count; i++) rows[(int64_t)r * count + i] += factor * coefficient[r] * v[i];
}

/* What the activation of one token looks like: pre-activation of expert e (mix mlp), or of all (mix linear, e ignored). */
static void pre_activation(const oracle_adapter *a, int e, const double *u, const double *h, const double *w, double *out) {
    const ck_shape *s = a->shape;
    memcpy(out, u, (size_t)s->ffn * sizeof *out);
    if (s->mix == CK_MIX_MLP) {
        add_rows(a, ORACLE_B1, e, s->ffn, s->scale[e], h, out);
        return;
    }
    for (int i = 0; i < s->n_experts; i++)
        if (w[i] > 0) add_rows(a, ORACLE_B1, i, s->ffn, s->scale[i] * w[i], h, out);
}

static void activate(int count, const double *u, double *a) {
    for (int i = 0; i < count; i++) a[i] = oracle_gelu(u[i]);
}

static void activation_mlp(const oracle_adapter *a, const double *u, const double *h, const double *w, double *m, double *g, double *act) {
    const ck_shape *s = a->shape;
    memset(m, 0, (size_t)s->ffn * sizeof *m);
    for (int e = 0; e < s->n_experts; e++) {
        pre_activation(a, e, u, h, w, act);
        activate(s->ffn, act, act);
        for (int i = 0; i < s->ffn; i++) m[i] += w[e] * act[i];
        dot_rows(a, ORACLE_A2, e, s->ffn, 1, act, g);
    }
}

static void activation_linear(const oracle_adapter *a, const double *u, const double *h, const double *w, double *m, double *g) {
    const ck_shape *s = a->shape;
    pre_activation(a, 0, u, h, w, m);
    activate(s->ffn, m, m);
    for (int e = 0; e < s->n_experts; e++) dot_rows(a, ORACLE_A2, e, s->ffn, 1, m, g);
}

void oracle_expert_activation(const oracle_adapter *a, int64_t n, const double *u, const double *zh, int ld, const double *gates, double *m,
                              double *g, int ldg) {
    const ck_shape *s = a->shape;
    double *act = oracle_zeros(s->ffn);
    for (int64_t t = 0; t < n; t++) {
        const double *h = zh + t * ld + s->router_rows, *w = gates + t * CK_MAX_EXPERTS;
        if (s->mix == CK_MIX_MLP)
            activation_mlp(a, u + t * s->ffn, h, w, m + t * s->ffn, g + t * ldg, act);
        else
            activation_linear(a, u + t * s->ffn, h, w, m + t * s->ffn, g + t * ldg);
    }
    free(act);
}

void oracle_expert_expand(const oracle_adapter *a, int64_t n, const double *g, int ldg, const double *gates, double *y) {
    const ck_shape *s = a->shape;
    for (int64_t t = 0; t < n; t++)
        for (int e = 0; e < s->n_experts; e++) {
            double w = gates[t * CK_MAX_EXPERTS + e];
            if (w > 0) add_rows(a, ORACLE_B2, e, s->width, s->scale[e] * w, g + t * ldg, y + t * s->width);
        }
}

void oracle_expert_expand_backward(const oracle_adapter *a, int64_t n, const double *bias, const double *dy, const double *g, int ldg,
                                   const double *gates, double *q, double *dw) {
    const ck_shape *s = a->shape;
    for (int64_t t = 0; t < n; t++) {
        const double *slope = dy + t * s->width, *w = gates + t * CK_MAX_EXPERTS;
        double bias_term = s->mix == CK_MIX_MLP ? oracle_dot(bias, slope, s->width) : 0;
        for (int e = 0; e < s->n_experts; e++) {
            int first = s->rank_first[e];
            dot_rows(a, ORACLE_B2, e, s->width, s->scale[e], slope, q + t * ldg);
            dw[t * CK_MAX_EXPERTS + e] = oracle_dot(g + t * ldg + first, q + t * ldg + first, s->rank[e]) + bias_term;
            add_gradient(a, ORACLE_B2, e, s->width, s->scale[e] * w[e], g + t * ldg, slope);
        }
    }
}

/* Rows of one token, and scratch [F] each. */
typedef struct {
    const double *u, *h, *w, *dm, *q;
    double *du, *p, *dw;
    double *pre, *act, *slope;
} activation_row;

static void activation_backward_mlp(const oracle_adapter *a, const activation_row *row) {
    const ck_shape *s = a->shape;
    double *sum = oracle_zeros(s->ffn);
    for (int e = 0; e < s->n_experts; e++) {
        pre_activation(a, e, row->u, row->h, row->w, row->pre);
        activate(s->ffn, row->pre, row->act);
        row->dw[e] += oracle_dot(row->act, row->dm, s->ffn);
        memcpy(row->slope, row->dm, (size_t)s->ffn * sizeof(double));
        add_rows(a, ORACLE_A2, e, s->ffn, 1, row->q, row->slope);
        for (int i = 0; i < s->ffn; i++) row->slope[i] *= row->w[e] * oracle_gelu_slope(row->pre[i]);
        for (int i = 0; i < s->ffn; i++) sum[i] += row->slope[i];
        dot_rows(a, ORACLE_B1, e, s->ffn, s->scale[e], row->slope, row->p);
        add_gradient(a, ORACLE_B1, e, s->ffn, s->scale[e], row->h, row->slope);
        add_gradient(a, ORACLE_A2, e, s->ffn, row->w[e], row->q, row->act);
    }
    memcpy(row->du, sum, (size_t)s->ffn * sizeof *sum);
    free(sum);
}

static void activation_backward_linear(const oracle_adapter *a, const activation_row *row) {
    const ck_shape *s = a->shape;
    pre_activation(a, 0, row->u, row->h, row->w, row->pre);
    activate(s->ffn, row->pre, row->act);
    memcpy(row->slope, row->dm, (size_t)s->ffn * sizeof(double));
    for (int e = 0; e < s->n_experts; e++) add_rows(a, ORACLE_A2, e, s->ffn, row->w[e], row->q, row->slope);
    for (int i = 0; i < s->ffn; i++) row->slope[i] *= oracle_gelu_slope(row->pre[i]);
    memcpy(row->du, row->slope, (size_t)s->ffn * sizeof(double));
    for (int e = 0; e < s->n_experts; e++) {
        int first = s->rank_first[e];
        dot_rows(a, ORACLE_B1, e, s->ffn, s->scale[e], row->slope, row->p);
        row->dw[e] += oracle_dot(row->p + first, row->h + first, s->rank[e]);
        for (int r = first; r < s->rank_first[e + 1]; r++) row->p[r] *= row->w[e];
        add_gradient(a, ORACLE_B1, e, s->ffn, s->scale[e] * row->w[e], row->h, row->slope);
        add_gradient(a, ORACLE_A2, e, s->ffn, row->w[e], row->q, row->act);
    }
}

void oracle_expert_activation_backward(const oracle_adapter *a, int64_t n, const double *u, const double *zh, int ld, const double *gates,
                                       const double *dm, const double *q, int ldg, double *du, double *p, double *dw) {
    const ck_shape *s = a->shape;
    double *scratch = oracle_zeros(3 * (int64_t)s->ffn);
    for (int64_t t = 0; t < n; t++) {
        activation_row row = {u + t * s->ffn,
                              zh + t * ld + s->router_rows,
                              gates + t * CK_MAX_EXPERTS,
                              dm + t * s->ffn,
                              q + t * ldg,
                              du + t * s->ffn,
                              p + t * ldg,
                              dw + t * CK_MAX_EXPERTS,
                              scratch,
                              scratch + s->ffn,
                              scratch + 2 * s->ffn};
        if (s->mix == CK_MIX_MLP)
            activation_backward_mlp(a, &row);
        else
            activation_backward_linear(a, &row);
    }
    free(scratch);
}

/* The expert layer in its factorised form: one product per base matrix whatever the number of experts
 * (sim/methods/README.md).
 *
 * mix mlp u_e = U + s B1_e h_e, a_e = act(u_e), m = sum w_e a_e, g_e = A2_e a_e, y = W m + b sum w_e + s sum
 * w_e B2_e g_e
 *   q_e = s B2_e^T dy      dw_e = <a_e, dm> + <g_e, q_e> + <b, dy>      da_e = w_e (dm + A2_e^T q_e)
 *       du_e = da_e act'(u_e)
 *   dU = sum du_e          p_e = s B1_e^T du_e       dB1_e = s du_e^T h_e   dA2_e = (w_e q_e)^T a_e
 *       dB2_e = s (w_e dy)^T g_e
 * mix linear   u = U + s sum w_e B1_e h_e,  m = act(u),  g_e = A2_e m,  y = W m + b + s sum w_e B2_e g_e
 *   dw_e = <g_e, q_e> + <s B1_e h_e, du>      du = (dm + sum w_e A2_e^T q_e) act'(u)
 *       p_e = w_e s B1_e^T du
 *   dB1_e = s w_e du^T h_e   dA2_e = (w_e q_e)^T m   dB2_e = s (w_e dy)^T g_e
 * SwiGLU: act(u, v) = silu(u) v instead of gelu(u); U, u_e, h_e, B1_e, dU, p_e have a second branch, of v,
 * behind the first. An expert that was not chosen has w_e = 0 and takes part in nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"

void oracle_bias_factor(const ck_shape *shape, int64_t n, const double *gates, double *factor) {
    for (int64_t t = 0; t < n; t++) {
        factor[t] = shape->mix == CK_MIX_LINEAR;
        for (int e = 0; e < shape->n_experts && shape->mix == CK_MIX_MLP; e++)
            factor[t] += gates[t * CK_MAX_EXPERTS + e];
    }
}

int oracle_branches(const ck_shape *shape) {
    return shape->mlp == CK_MLP_SWIGLU ? 2 : 1;
}

static double sigmoid(double u) {
    return 1 / (1 + exp(-u));
}

double oracle_act(const ck_shape *shape, const double *u, int f) {
    return shape->mlp == CK_MLP_SWIGLU ? u[f] * sigmoid(u[f]) * u[shape->ffn + f] : oracle_gelu(u[f]);
}

void oracle_act_slope(const ck_shape *shape, const double *u, int f, double slope[2]) {
    double sigma = sigmoid(u[f]);
    slope[0] = shape->mlp == CK_MLP_SWIGLU ? sigma * (1 + u[f] * (1 - sigma)) * u[shape->ffn + f]
                                           : oracle_gelu_slope(u[f]);
    slope[1] = shape->mlp == CK_MLP_SWIGLU ? u[f] * sigma : 0;
}

/* Of one branch (0 but for A1 and B1 of SwiGLU): out += factor * sum_r coefficient_r row_r over the ranks of
 * expert e; rows are [ranks, count] from a part of the pack, coefficients [ranks], out [branches, count]. */
static void add_rows(const oracle_adapter *a, oracle_part part, int branch, int e, int count, double factor,
                     const double *coefficient, double *out) {
    const ck_shape *s = a->shape;
    const double *rows = a->parameters + oracle_part_range(s, a->layer, part).offset;
    for (int r = branch * s->rank_sum + s->rank_first[e]; r < branch * s->rank_sum + s->rank_first[e + 1];
         r++)
        for (int i = 0; i < count; i++)
            out[branch * count + i] += factor * coefficient[r] * rows[(int64_t)r * count + i];
}

/* out_r = factor <row_r, v> over the ranks of expert e. */
static void dot_rows(const oracle_adapter *a, oracle_part part, int branch, int e, int count, double factor,
                     const double *v, double *out) {
    const ck_shape *s = a->shape;
    const double *rows = a->parameters + oracle_part_range(s, a->layer, part).offset;
    for (int r = branch * s->rank_sum + s->rank_first[e]; r < branch * s->rank_sum + s->rank_first[e + 1];
         r++)
        out[r] = factor * oracle_dot(rows + (int64_t)r * count, v + branch * count, count);
}

/* Gradient of row_r += factor coefficient_r v over the ranks of expert e. */
static void add_gradient(const oracle_adapter *a, oracle_part part, int branch, int e, int count,
                         double factor, const double *coefficient, const double *v) {
    const ck_shape *s = a->shape;
    double *rows = a->gradients + oracle_part_range(s, a->layer, part).offset;
    for (int r = branch * s->rank_sum + s->rank_first[e]; r < branch * s->rank_sum + s->rank_first[e + 1];
         r++)
        for (int i = 0; i < count; i++)
            rows[(int64_t)r * count + i] += factor * coefficient[r] * v[branch * count + i];
}

/* u [branches, F] of one token: of expert e (mix mlp), or of all (mix linear, e ignored). */
static void pre_activation(const oracle_adapter *a, int e, const double *u, const double *h, const double *w,
                           double *out) {
    const ck_shape *s = a->shape;
    memcpy(out, u, (size_t)(oracle_branches(s) * s->ffn) * sizeof *out);
    for (int b = 0; b < oracle_branches(s); b++) {
        if (s->mix == CK_MIX_MLP) add_rows(a, ORACLE_B1, b, e, s->ffn, s->scale[e], h, out);
        for (int i = 0; i < s->n_experts && s->mix == CK_MIX_LINEAR; i++)
            if (w[i] > 0) add_rows(a, ORACLE_B1, b, i, s->ffn, s->scale[i] * w[i], h, out);
    }
}

static void activate(const ck_shape *s, const double *u, double *a) {
    for (int i = 0; i < s->ffn; i++) a[i] = oracle_act(s, u, i);
}

/* pre [branches, F] and act [F]: scratch. */
static void activation_mlp(const oracle_adapter *a, const double *u, const double *h, const double *w,
                           double *m, double *g, double *pre, double *act) {
    const ck_shape *s = a->shape;
    memset(m, 0, (size_t)s->ffn * sizeof *m);
    for (int e = 0; e < s->n_experts; e++) {
        pre_activation(a, e, u, h, w, pre);
        activate(s, pre, act);
        for (int i = 0; i < s->ffn; i++) m[i] += w[e] * act[i];
        dot_rows(a, ORACLE_A2, 0, e, s->ffn, 1, act, g);
    }
}

static void activation_linear(const oracle_adapter *a, const double *u, const double *h, const double *w,
                              double *m, double *g, double *pre) {
    const ck_shape *s = a->shape;
    pre_activation(a, 0, u, h, w, pre);
    activate(s, pre, m);
    for (int e = 0; e < s->n_experts; e++) dot_rows(a, ORACLE_A2, 0, e, s->ffn, 1, m, g);
}

void oracle_expert_activation(const oracle_adapter *a, int64_t n, const double *u, const double *zh, int ld,
                              const double *gates, double *m, double *g, int ldg) {
    const ck_shape *s = a->shape;
    int64_t up = oracle_branches(s) * s->ffn;
    double *pre = oracle_zeros(up + s->ffn), *act = pre + up;
    for (int64_t t = 0; t < n; t++) {
        const double *h = zh + t * ld + s->router_rows, *w = gates + t * CK_MAX_EXPERTS;
        if (s->mix == CK_MIX_MLP)
            activation_mlp(a, u + t * up, h, w, m + t * s->ffn, g + t * ldg, pre, act);
        else
            activation_linear(a, u + t * up, h, w, m + t * s->ffn, g + t * ldg, pre);
    }
    free(pre);
}

void oracle_expert_expand(const oracle_adapter *a, int64_t n, const double *g, int ldg, const double *gates,
                          double *y) {
    const ck_shape *s = a->shape;
    for (int64_t t = 0; t < n; t++)
        for (int e = 0; e < s->n_experts; e++) {
            double w = gates[t * CK_MAX_EXPERTS + e];
            if (w > 0) add_rows(a, ORACLE_B2, 0, e, s->width, s->scale[e] * w, g + t * ldg, y + t * s->width);
        }
}

void oracle_expert_expand_backward(const oracle_adapter *a, int64_t n, const double *bias, const double *dy,
                                   const double *g, int ldg, const double *gates, double *q, double *dw) {
    const ck_shape *s = a->shape;
    for (int64_t t = 0; t < n; t++) {
        const double *slope = dy + t * s->width, *w = gates + t * CK_MAX_EXPERTS;
        double bias_term = bias != NULL && s->mix == CK_MIX_MLP ? oracle_dot(bias, slope, s->width) : 0;
        for (int e = 0; e < s->n_experts; e++) {
            int first = s->rank_first[e];
            dot_rows(a, ORACLE_B2, 0, e, s->width, s->scale[e], slope, q + t * ldg);
            dw[t * CK_MAX_EXPERTS + e] =
                oracle_dot(g + t * ldg + first, q + t * ldg + first, s->rank[e]) + bias_term;
            add_gradient(a, ORACLE_B2, 0, e, s->width, s->scale[e] * w[e], g + t * ldg, slope);
        }
    }
}

/* Rows of one token, and scratch: pre and slope [branches, F], act and da [F]. */
typedef struct {
    const double *u, *h, *w, *dm, *q;
    double *du, *p, *dw;
    double *pre, *slope, *act, *da;
} activation_row;

/* slope = factor da act'(pre), each branch. */
static void activate_backward(const ck_shape *s, const activation_row *row, double factor) {
    for (int i = 0; i < s->ffn; i++) {
        double slope[2];
        oracle_act_slope(s, row->pre, i, slope);
        for (int b = 0; b < oracle_branches(s); b++)
            row->slope[b * s->ffn + i] = factor * row->da[i] * slope[b];
    }
}

static void activation_backward_mlp(const oracle_adapter *a, const activation_row *row) {
    const ck_shape *s = a->shape;
    int up = oracle_branches(s) * s->ffn;
    double *sum = oracle_zeros(up);
    for (int e = 0; e < s->n_experts; e++) {
        pre_activation(a, e, row->u, row->h, row->w, row->pre);
        activate(s, row->pre, row->act);
        row->dw[e] += oracle_dot(row->act, row->dm, s->ffn);
        memcpy(row->da, row->dm, (size_t)s->ffn * sizeof(double));
        add_rows(a, ORACLE_A2, 0, e, s->ffn, 1, row->q, row->da);
        activate_backward(s, row, row->w[e]);
        for (int i = 0; i < up; i++) sum[i] += row->slope[i];
        for (int b = 0; b < oracle_branches(s); b++) {
            dot_rows(a, ORACLE_B1, b, e, s->ffn, s->scale[e], row->slope, row->p);
            add_gradient(a, ORACLE_B1, b, e, s->ffn, s->scale[e], row->h, row->slope);
        }
        add_gradient(a, ORACLE_A2, 0, e, s->ffn, row->w[e], row->q, row->act);
    }
    memcpy(row->du, sum, (size_t)up * sizeof *sum);
    free(sum);
}

static void activation_backward_linear(const oracle_adapter *a, const activation_row *row) {
    const ck_shape *s = a->shape;
    pre_activation(a, 0, row->u, row->h, row->w, row->pre);
    activate(s, row->pre, row->act);
    memcpy(row->da, row->dm, (size_t)s->ffn * sizeof(double));
    for (int e = 0; e < s->n_experts; e++) add_rows(a, ORACLE_A2, 0, e, s->ffn, row->w[e], row->q, row->da);
    activate_backward(s, row, 1);
    memcpy(row->du, row->slope, (size_t)(oracle_branches(s) * s->ffn) * sizeof(double));
    for (int e = 0; e < s->n_experts; e++) {
        for (int b = 0; b < oracle_branches(s); b++) {
            int first = b * s->rank_sum + s->rank_first[e];
            dot_rows(a, ORACLE_B1, b, e, s->ffn, s->scale[e], row->slope, row->p);
            row->dw[e] += oracle_dot(row->p + first, row->h + first, s->rank[e]);
            for (int r = first; r < first + s->rank[e]; r++) row->p[r] *= row->w[e];
            add_gradient(a, ORACLE_B1, b, e, s->ffn, s->scale[e] * row->w[e], row->h, row->slope);
        }
        add_gradient(a, ORACLE_A2, 0, e, s->ffn, row->w[e], row->q, row->act);
    }
}

void oracle_expert_activation_backward(const oracle_adapter *a, int64_t n, const double *u, const double *zh,
                                       int ld, const double *gates, const double *dm, const double *q,
                                       int ldq, double *du, double *p, int ldp, double *dw) {
    const ck_shape *s = a->shape;
    int64_t up = oracle_branches(s) * s->ffn;
    double *scratch = oracle_zeros(2 * up + 2 * s->ffn);
    for (int64_t t = 0; t < n; t++) {
        activation_row row = {.u = u + t * up,
                              .h = zh + t * ld + s->router_rows,
                              .w = gates + t * CK_MAX_EXPERTS,
                              .dm = dm + t * s->ffn,
                              .q = q + t * ldq,
                              .du = du + t * up,
                              .p = p + t * ldp,
                              .dw = dw + t * CK_MAX_EXPERTS,
                              .pre = scratch,
                              .slope = scratch + up,
                              .act = scratch + 2 * up,
                              .da = scratch + 2 * up + s->ffn};
        if (s->mix == CK_MIX_MLP)
            activation_backward_mlp(a, &row);
        else
            activation_backward_linear(a, &row);
    }
    free(scratch);
}

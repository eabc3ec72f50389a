/* The router, its gates and the load balance (sim/methods/README.md).
 *
 *   z = R x, h = A1 x          S = TopK(z), ties: the lower index wins
 *   (a router with a hidden layer: z by oracle_hidden_router.c, and w = softmax(z_S) for K = 1, too)
 *   gates: w = softmax(z_S);  K = 1 < E: w_i = softmax over all E, not renormalised;  E = 1: w = 1;
 *       mean: 1/E over all E
 *   K >= 2:      dz_e = w_e (dw_e - sum_S w dw), e in S        K = 1 < E:
 *       dz_j = dw_i w_i ([j = i] - softmax(z)_j), all j
 *   load balance of a device and layer over its T tokens: sum_e balance_e f_e P_e, f_e = count_e / (K T),
 *       P_e = mean of P
 *     K >= 2: P = softmax of the logits with the unchosen set to 0, no gradient to the unchosen;
 *         K = 1: softmax over all E
 *     coefficient_e = balance_e f_e / T,  dz_j += sum_e coefficient_e dP_e/dz_j = P_j (coefficient_j - sum_e
 *         coefficient_e P_e) */
#include <math.h>
#include <string.h>

#include "oracle.h"

int oracle_chosen_count(const ck_shape *shape) {
    bool all = shape->gates == CK_GATES_MEAN || shape->top_k > shape->n_experts;
    return all ? shape->n_experts : shape->top_k;
}

void oracle_top_k(const ck_shape *shape, const double *logits, int *chosen) {
    bool taken[CK_MAX_EXPERTS] = {false};
    for (int k = 0; k < oracle_chosen_count(shape); k++) {
        int best = -1;
        for (int e = 0; e < shape->n_experts; e++)
            if (!taken[e] && (best < 0 || (shape->router_rows > 0 && logits[e] > logits[best]))) best = e;
        taken[best] = true;
        chosen[k] = best;
    }
}

/* softmax over `count` logits; the largest is subtracted first. */
static void softmax(int count, const double *logits, double *p) {
    double largest = -INFINITY, sum = 0;
    for (int e = 0; e < count; e++) largest = fmax(largest, logits[e]);
    for (int e = 0; e < count; e++) sum += p[e] = exp(logits[e] - largest);
    for (int e = 0; e < count; e++) p[e] /= sum;
}

static bool single_of_many(const ck_shape *shape) {
    return oracle_chosen_count(shape) == 1 && shape->n_experts > 1 && shape->router == CK_ROUTER_LINEAR;
}

void oracle_gates(const ck_shape *shape, const double *logits, double *gates) {
    int chosen[CK_MAX_EXPERTS], count = oracle_chosen_count(shape), experts = shape->n_experts;
    memset(gates, 0, CK_MAX_EXPERTS * sizeof *gates);
    if (shape->router_rows == 0) {
        for (int e = 0; e < experts; e++) gates[e] = 1.0 / experts;
        return;
    }
    double p[CK_MAX_EXPERTS], kept[CK_MAX_EXPERTS] = {0};
    oracle_top_k(shape, logits, chosen);
    if (single_of_many(shape)) {
        softmax(experts, logits, p);
        gates[chosen[0]] = p[chosen[0]];
        return;
    }
    for (int k = 0; k < count; k++) kept[k] = logits[chosen[k]];
    softmax(count, kept, p);
    for (int k = 0; k < count; k++) gates[chosen[k]] = p[k];
}

void oracle_balance_probability(const ck_shape *shape, const double *logits, double *p) {
    int chosen[CK_MAX_EXPERTS], count = oracle_chosen_count(shape);
    double masked[CK_MAX_EXPERTS] = {0};
    oracle_top_k(shape, logits, chosen);
    for (int k = 0; k < count; k++) masked[chosen[k]] = logits[chosen[k]];
    softmax(shape->n_experts, count == 1 ? logits : masked, p);
}

double oracle_margin(const ck_shape *shape, int64_t n, const double *zh, int ld) {
    double margin = INFINITY;
    if (shape->router_rows == 0) return margin;
    for (int64_t t = 0; t < n; t++) {
        int chosen[CK_MAX_EXPERTS], count = oracle_chosen_count(shape);
        bool kept[CK_MAX_EXPERTS] = {false};
        oracle_top_k(shape, zh + t * ld, chosen);
        for (int k = 0; k < count; k++) kept[chosen[k]] = true;
        for (int e = 0; e < shape->n_experts; e++)
            if (!kept[e]) margin = fmin(margin, zh[t * ld + chosen[count - 1]] - zh[t * ld + e]);
    }
    return margin;
}

void oracle_route(const oracle_adapter *a, int64_t n, const double *x, double *zh, int ld, double *gates,
                  double *hidden) {
    const ck_shape *s = a->shape;
    const double *rows = a->parameters + oracle_part_range(s, a->layer, ORACLE_ROUTER).offset;
    for (int64_t t = 0; t < n; t++) {
        for (int c = 0; c < s->router_rows + s->h_ranks; c++)
            zh[t * ld + c] = oracle_dot(rows + c * s->width, x + t * s->width, s->width);
        double own[2 * CK_MAX_EXPERTS], *row = hidden != NULL ? hidden + t * 2 * CK_MAX_EXPERTS : own;
        if (oracle_has_hidden_layer(s)) oracle_hidden_logits(a, t, zh + t * ld, row);
        oracle_gates(s, zh + t * ld, gates + t * CK_MAX_EXPERTS);
    }
}

/* dz [E] of one token through its gates. */
static void gates_backward(const ck_shape *s, const double *logits, const double *gates, const double *dw,
                           double *dz) {
    int chosen[CK_MAX_EXPERTS];
    oracle_top_k(s, logits, chosen);
    if (single_of_many(s)) {
        int i = chosen[0];
        double p[CK_MAX_EXPERTS];
        softmax(s->n_experts, logits, p);
        for (int j = 0; j < s->n_experts; j++) dz[j] += dw[i] * gates[i] * ((j == i) - p[j]);
        return;
    }
    double mean = 0;
    for (int k = 0; k < oracle_chosen_count(s); k++) mean += gates[chosen[k]] * dw[chosen[k]];
    for (int k = 0; k < oracle_chosen_count(s); k++)
        dz[chosen[k]] += gates[chosen[k]] * (dw[chosen[k]] - mean);
}

static void balance_backward(const ck_shape *s, const double *logits, const double *coefficient, double *dz) {
    int chosen[CK_MAX_EXPERTS], count = oracle_chosen_count(s);
    double p[CK_MAX_EXPERTS], mean = 0;
    oracle_top_k(s, logits, chosen);
    oracle_balance_probability(s, logits, p);
    for (int e = 0; e < s->n_experts; e++) mean += coefficient[e] * p[e];
    if (count == 1) {
        for (int e = 0; e < s->n_experts; e++) dz[e] += p[e] * (coefficient[e] - mean);
    } else {
        for (int k = 0; k < count; k++) dz[chosen[k]] += p[chosen[k]] * (coefficient[chosen[k]] - mean);
    }
}

/* The gradient of R x of one token, with a hidden layer. */
static void hidden_backward(const oracle_adapter *a, const double *logits, const double *gates,
                            const double *hidden, const double *dw, const double *coefficient, double *dz) {
    double both[CK_MAX_EXPERTS] = {0};
    for (int e = 0; e < a->shape->n_experts; e++)
        both[e] = dw[e] + (coefficient != NULL ? coefficient[e] : 0);
    gates_backward(a->shape, logits, gates, both, dz);
    if (coefficient != NULL) oracle_load_backward(a, logits, hidden, coefficient + CK_MAX_EXPERTS, dz);
    oracle_hidden_backward(a, hidden, dz);
}

/* dx += slope * row, drow += slope * x: one row of [R | A1]. */
static void row_backward(int width, double slope, const double *row, const double *x, double *dx,
                         double *drow) {
    for (int d = 0; d < width; d++) {
        dx[d] += slope * row[d];
        drow[d] += slope * x[d];
    }
}

void oracle_route_backward(const oracle_adapter *a, int64_t n, const double *x, const double *zh, int ld,
                           const double *gates, const double *hidden, const double *dw, const double *p,
                           int ldp, const double *coefficient, double *dx) {
    const ck_shape *s = a->shape;
    int64_t first = oracle_part_range(s, a->layer, ORACLE_ROUTER).offset;
    const double *rows = a->parameters + first;
    double *drows = a->gradients + first;
    for (int64_t t = 0; t < n; t++) {
        double slope[CK_MAX_EXPERTS + CK_MAX_RANK_SUM] = {0};
        const double *balance = s->balanced ? coefficient : NULL;
        if (oracle_has_hidden_layer(s)) {
            hidden_backward(a, zh + t * ld, gates + t * CK_MAX_EXPERTS, hidden + t * 2 * CK_MAX_EXPERTS,
                            dw + t * CK_MAX_EXPERTS, balance, slope);
        } else if (s->router_rows > 0) {
            gates_backward(s, zh + t * ld, gates + t * CK_MAX_EXPERTS, dw + t * CK_MAX_EXPERTS, slope);
            if (balance != NULL) balance_backward(s, zh + t * ld, balance, slope);
        }
        for (int r = 0; r < s->h_ranks; r++) slope[s->router_rows + r] = p[t * ldp + r];
        for (int c = 0; c < s->router_rows + s->h_ranks; c++)
            row_backward(s->width, slope[c], rows + c * s->width, x + t * s->width, dx + t * s->width,
                         drows + c * s->width);
    }
}

double oracle_balance(const ck_shape *shape, int64_t n, const double *top_k_count, const double *p_sum,
                      double *coefficient) {
    double value = 0, tokens = (double)n;
    for (int e = 0; e < shape->n_experts; e++) {
        double f = top_k_count[e] / (oracle_chosen_count(shape) * tokens);
        coefficient[e] = (double)shape->balance[e] * f / tokens;
        value += (double)shape->balance[e] * f * p_sum[e] / tokens;
    }
    return value;
}

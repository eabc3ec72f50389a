/* The expert layer as the formulas define it, and as the released code computes it: E full copies of the MLP,
 * each with its own weights W_e = W + s B_e A_e. Nothing is shared between experts, nothing is factorised:
 * what the other form is checked against.
 *
 * mix mlp y = sum_{e in S} w_e (Wpr_e gelu(Wfc_e x + b_fc) + b_pr) mix linear y = (W_pr + s sum w_e B2_e
 * A2_e) gelu((W_fc + s sum w_e B1_e A1_e) x + b_fc) + b_pr SwiGLU: silu(Wg_e x) * (Wu_e x) instead of gelu;
 * W_fc is W_g over W_u, each with its own B1 and A1. Backward goes to the copies' weights first (dW_e = outer
 * product), then dA_e = s B_e^T dW_e and dB_e = s dW_e A_e^T. */
#include <stdlib.h>
#include <string.h>

#include "oracle.h"

/* Wanted: out [rows, columns] += factor B_e A_e for the given pair of parts of expert e; its ranks begin at
 * `first`. */
static void add_product(const oracle_adapter *ad, oracle_part a_part, oracle_part b_part, int first, int e,
                        int rows, int columns, double factor, double *out) {
    const ck_shape *s = ad->shape;
    const double *a = ad->parameters + oracle_part_range(s, ad->layer, a_part).offset;
    const double *b = ad->parameters + oracle_part_range(s, ad->layer, b_part).offset;
    for (int r = first; r < first + s->rank[e]; r++)
        for (int o = 0; o < rows; o++)
            for (int i = 0; i < columns; i++)
                out[(int64_t)o * columns + i] +=
                    factor * b[(int64_t)r * rows + o] * a[(int64_t)r * columns + i];
}

/* dA_e and dB_e from the gradient of factor B_e A_e. */
static void product_backward(const oracle_adapter *ad, oracle_part a_part, oracle_part b_part, int first,
                             int e, int rows, int columns, double factor, const double *slope) {
    const ck_shape *s = ad->shape;
    oracle_range a = oracle_part_range(s, ad->layer, a_part), b = oracle_part_range(s, ad->layer, b_part);
    for (int r = first; r < first + s->rank[e]; r++)
        for (int o = 0; o < rows; o++)
            for (int i = 0; i < columns; i++) {
                int64_t at_a = a.offset + (int64_t)r * columns + i, at_b = b.offset + (int64_t)r * rows + o;
                ad->gradients[at_a] += factor * ad->parameters[at_b] * slope[(int64_t)o * columns + i];
                ad->gradients[at_b] += factor * ad->parameters[at_a] * slope[(int64_t)o * columns + i];
            }
}

/* The same for both linears of the MLP: fc [branches F, D] and pr [D, F]. */
static void add_products(const oracle_adapter *a, int e, double factor, double *fc, double *pr) {
    const ck_shape *s = a->shape;
    for (int b = 0; b < oracle_branches(s); b++)
        add_product(a, ORACLE_A1, ORACLE_B1, b * s->rank_sum + s->rank_first[e], e, s->ffn, s->width,
                    factor * s->scale[e], fc + (int64_t)b * s->ffn * s->width);
    add_product(a, ORACLE_A2, ORACLE_B2, s->rank_first[e], e, s->width, s->ffn, factor * s->scale[e], pr);
}

/* One full MLP: its own weights, their gradients, and one token's activations. */
typedef struct {
    int64_t fc_count, pr_count;
    double *fc, *pr, *dfc, *dpr; /* [branches F, D], [D, F] */
    double *u, *a, *y;           /* [branches F], [F], [D] */
} copy;

static copy copy_create(const ck_shape *s, const oracle_mlp *mlp) {
    int64_t up = oracle_branches(s) * s->ffn;
    copy c = {.fc_count = up * s->width, .pr_count = (int64_t)s->ffn * s->width};
    c.fc = oracle_zeros(2 * (c.fc_count + c.pr_count) + up + s->ffn + s->width);
    c.pr = c.fc + c.fc_count, c.dfc = c.pr + c.pr_count, c.dpr = c.dfc + c.fc_count;
    c.u = c.dpr + c.pr_count, c.a = c.u + up, c.y = c.a + s->ffn;
    memcpy(c.fc, mlp->fc_w, (size_t)c.fc_count * sizeof(double));
    memcpy(c.pr, mlp->pr_w, (size_t)c.pr_count * sizeof(double));
    return c;
}

static void copy_add_expert(const oracle_adapter *a, copy *c, int e, double factor) {
    add_products(a, e, factor, c->fc, c->pr);
}

static void copy_forward(const ck_shape *s, const oracle_mlp *mlp, const double *x, copy *c) {
    oracle_linear((oracle_linear_size){1, s->width, oracle_branches(s) * s->ffn}, x, c->fc, mlp->fc_b, NULL,
                  NULL, c->u);
    for (int i = 0; i < s->ffn; i++) c->a[i] = oracle_act(s, c->u, i);
    oracle_linear((oracle_linear_size){1, s->ffn, s->width}, c->a, c->pr, mlp->pr_b, NULL, NULL, c->y);
}

/* Backward of factor * y of the copy; dx +=, dfc and dpr are written. */
static void copy_backward(const ck_shape *s, copy *c, const double *x, const double *dy, double factor,
                          double *dx) {
    int up = oracle_branches(s) * s->ffn;
    double *slope = oracle_zeros(s->width + s->ffn + up), *da = slope + s->width, *du = da + s->ffn;
    memset(c->dfc, 0, (size_t)c->fc_count * sizeof(double));
    memset(c->dpr, 0, (size_t)c->pr_count * sizeof(double));
    for (int d = 0; d < s->width; d++) slope[d] = factor * dy[d];
    oracle_linear_backward((oracle_linear_size){1, s->ffn, s->width}, c->a, c->pr, slope, da, c->dpr, NULL);
    for (int i = 0; i < s->ffn; i++) {
        double by[2];
        oracle_act_slope(s, c->u, i, by);
        for (int b = 0; b < oracle_branches(s); b++) du[b * s->ffn + i] = da[i] * by[b];
    }
    oracle_linear_backward((oracle_linear_size){1, s->width, up}, x, c->fc, du, dx, c->dfc, NULL);
    free(slope);
}

static void copy_to_expert(const oracle_adapter *a, const copy *c, int e, double factor) {
    const ck_shape *s = a->shape;
    for (int b = 0; b < oracle_branches(s); b++)
        product_backward(a, ORACLE_A1, ORACLE_B1, b * s->rank_sum + s->rank_first[e], e, s->ffn, s->width,
                         factor * s->scale[e], c->dfc + (int64_t)b * s->ffn * s->width);
    product_backward(a, ORACLE_A2, ORACLE_B2, s->rank_first[e], e, s->width, s->ffn, factor * s->scale[e],
                     c->dpr);
}

/* How the weight of expert e moves the loss through mixed weights: <d(W), s B_e A_e> summed over all linears.
 */
static double mixed_slope(const oracle_adapter *a, const copy *c, int e) {
    double *product = oracle_zeros(c->fc_count + c->pr_count), slope;
    add_products(a, e, 1, product, product + c->fc_count);
    slope = oracle_dot(product, c->dfc, c->fc_count) + oracle_dot(product + c->fc_count, c->dpr, c->pr_count);
    free(product);
    return slope;
}

/* Logits and gates of one token. */
static void token_gates(const oracle_adapter *a, const double *x, double *logits, double *gates) {
    const ck_shape *s = a->shape;
    const double *rows = a->parameters + oracle_part_range(s, a->layer, ORACLE_ROUTER).offset;
    for (int e = 0; e < s->router_rows; e++) logits[e] = oracle_dot(rows + e * s->width, x, s->width);
    oracle_gates(s, logits, gates);
}

static void token_forward(const oracle_adapter *a, const oracle_mlp *mlp, const double *x, double *y) {
    const ck_shape *s = a->shape;
    double logits[CK_MAX_EXPERTS], w[CK_MAX_EXPERTS];
    token_gates(a, x, logits, w);
    memset(y, 0, (size_t)s->width * sizeof *y);
    copy mixed = copy_create(s, mlp);
    for (int e = 0; e < s->n_experts; e++) {
        if (w[e] == 0) continue;
        if (s->mix == CK_MIX_LINEAR) {
            copy_add_expert(a, &mixed, e, w[e]);
            continue;
        }
        copy c = copy_create(s, mlp);
        copy_add_expert(a, &c, e, 1);
        copy_forward(s, mlp, x, &c);
        for (int d = 0; d < s->width; d++) y[d] += w[e] * c.y[d];
        free(c.fc);
    }
    if (s->mix == CK_MIX_LINEAR) {
        copy_forward(s, mlp, x, &mixed);
        memcpy(y, mixed.y, (size_t)s->width * sizeof *y);
    }
    free(mixed.fc);
}

void oracle_naive_layer(const oracle_adapter *a, const oracle_mlp *mlp, int64_t n, const double *x,
                        double *y) {
    for (int64_t t = 0; t < n; t++) token_forward(a, mlp, x + t * a->shape->width, y + t * a->shape->width);
}

static void experts_backward_mlp(const oracle_adapter *a, const oracle_mlp *mlp, const double *x,
                                 const double *dy, const double *w, double *dw, double *dx) {
    const ck_shape *s = a->shape;
    for (int e = 0; e < s->n_experts; e++) {
        if (w[e] == 0) continue;
        copy c = copy_create(s, mlp);
        copy_add_expert(a, &c, e, 1);
        copy_forward(s, mlp, x, &c);
        dw[e] = oracle_dot(c.y, dy, s->width);
        copy_backward(s, &c, x, dy, w[e], dx);
        copy_to_expert(a, &c, e, 1);
        free(c.fc);
    }
}

static void experts_backward_linear(const oracle_adapter *a, const oracle_mlp *mlp, const double *x,
                                    const double *dy, const double *w, double *dw, double *dx) {
    const ck_shape *s = a->shape;
    copy c = copy_create(s, mlp);
    for (int e = 0; e < s->n_experts; e++) copy_add_expert(a, &c, e, w[e]);
    copy_forward(s, mlp, x, &c);
    copy_backward(s, &c, x, dy, 1, dx);
    for (int e = 0; e < s->n_experts; e++) {
        if (w[e] == 0) continue;
        dw[e] = mixed_slope(a, &c, e);
        copy_to_expert(a, &c, e, w[e]);
    }
    free(c.fc);
}

/* Through softmax and top-k by the Jacobian itself: dw_e/dz_j of the kept experts, dP_e/dz_j of the load
 * balance. */
static void logits_backward(const ck_shape *s, const double *logits, const double *w, const double *dw,
                            const double *coefficient, double *dz) {
    bool single = oracle_chosen_count(s) == 1;
    double p[CK_MAX_EXPERTS], full[CK_MAX_EXPERTS];
    oracle_balance_probability(s, logits, p);
    memcpy(full, p, sizeof full); /* with K = 1, P is the softmax over all */
    for (int j = 0; j < s->n_experts; j++) {
        if (!single && w[j] == 0) continue;
        for (int e = 0; e < s->n_experts; e++) {
            if (w[e] > 0) dz[j] += dw[e] * w[e] * ((e == j) - (single ? full[j] : w[j]));
            if (coefficient != NULL && s->balanced) dz[j] += coefficient[e] * p[e] * ((e == j) - p[j]);
        }
    }
}

void oracle_naive_layer_backward(const oracle_adapter *a, const oracle_mlp *mlp, int64_t n, const double *x,
                                 const double *dy, const double *coefficient, double *dx) {
    const ck_shape *s = a->shape;
    int64_t first = oracle_part_range(s, a->layer, ORACLE_ROUTER).offset;
    for (int64_t t = 0; t < n; t++) {
        const double *row = x + t * s->width, *slope = dy + t * s->width;
        double logits[CK_MAX_EXPERTS], w[CK_MAX_EXPERTS], dw[CK_MAX_EXPERTS] = {0}, dz[CK_MAX_EXPERTS] = {0};
        token_gates(a, row, logits, w);
        if (s->mix == CK_MIX_MLP)
            experts_backward_mlp(a, mlp, row, slope, w, dw, dx + t * s->width);
        else
            experts_backward_linear(a, mlp, row, slope, w, dw, dx + t * s->width);
        if (s->router_rows == 0) continue;
        logits_backward(s, logits, w, dw, coefficient, dz);
        for (int e = 0; e < s->n_experts; e++)
            for (int d = 0; d < s->width; d++) {
                dx[t * s->width + d] += dz[e] * a->parameters[first + e * s->width + d];
                a->gradients[first + e * s->width + d] += dz[e] * row[d];
            }
    }
}

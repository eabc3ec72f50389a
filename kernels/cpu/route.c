/* route.c - router and all experts' first factors in one product, x [R | A1_0 .. A1_{E-1}]^T, then top-k and
 * softmax per token.
 *
 *   S = TopK(z), K = min(k, E), the lower index wins ties;  w = softmax(z_S);
 *       K = 1 < E: w = softmax(z) over all E, kept for the best
 *   P = softmax(z with the unchosen set to 0) (K >= 2), softmax(z) (K = 1): the load balance's probabilities
 * backward, K >= 2:  dz_e = w_e (dw_e - sum_j w_j dw_j);  K = 1 < E: dz_j = dw_i w_i ([i = j] - softmax(z)_j)
 *   load balance with coefficients c:  dz_j += P_j (c_j - sum_e c_e P_e),
 *       no gradient to the unchosen where K >= 2
 *   dx = dz R + p A1,  dR = dz^T x,  dA1 = p^T x: one product each over the concatenation [dz | p].
 *       2 D (E + S) FLOPs a token.
 */
#include "gemm.h"
#include "hidden_router.h"

#include <string.h>

/* The gate is a probability over all E. */
static bool single_of_many(const ck_shape *shape, const choice *c) {
    return shape->router == CK_ROUTER_LINEAR && c->kept == 1 && c->experts > 1;
}

static void gates_of(const ck_shape *shape, const float *z, const choice *c, float *w) {
    bool single = single_of_many(shape, c);
    softmax_over(z, c->experts, single ? ~0u : c->chosen, z[c->best], w);
    for (int e = 0; e < c->experts && single; e++) w[e] = e == c->best ? w[e] : 0.0f;
}

/* The probabilities P of the load balance. */
static void balance_probabilities(const float *z, const choice *c, float *p) {
    float masked[CK_MAX_EXPERTS], largest = z[c->best];
    for (int e = 0; e < c->experts; e++) masked[e] = c->kept == 1 || c->chosen >> e & 1 ? z[e] : 0.0f;
    for (int e = 0; e < c->experts; e++) largest = masked[e] > largest ? masked[e] : largest;
    softmax_over(masked, c->experts, ~0u, largest, p);
}

static bool finite_row(const float *z, int n) {
    bool finite = true;
    for (int e = 0; e < n; e++) finite &= z[e] - z[e] == 0.0f;
    return finite;
}

typedef struct {
    float gate_sum[CK_MAX_EXPERTS], top1[CK_MAX_EXPERTS], top_k[CK_MAX_EXPERTS], load[CK_MAX_EXPERTS];
} statistics;

/* One token: gates from logits z (with a router) or the mean; adds to the statistics. clean: the logits
 * without the noise that they have, or NULL. */
static void route_token(const ck_shape *shape, const float *z, const float *clean, float *gates,
                        statistics *sums) {
    memset(gates, 0, CK_MAX_EXPERTS * sizeof(float));
    if (shape->router_rows == 0) {
        for (int e = 0; e < shape->n_experts; e++) {
            gates[e] = 1.0f / (float)shape->n_experts;
            sums->gate_sum[e] += gates[e];
            sums->top_k[e]++;
        }
        sums->top1[0]++; /* equal gates: the lower index */
        return;
    }
    choice c = choose(z, shape->n_experts, shape->top_k);
    gates_of(shape, z, &c, gates);
    if (clean) hidden_router_load(z, clean, &c, sums->load);
    sums->top1[c.best]++;
    for (int e = 0; e < c.experts; e++) {
        sums->gate_sum[e] += gates[e];
        sums->top_k[e] += (float)(c.chosen >> e & 1);
    }
}

/* How often the second linear's bias counts. */
static float bias_factor(const ck_shape *shape, const float *gates) {
    float sum = 0;
    for (int e = 0; e < CK_MAX_EXPERTS; e++) sum += gates[e];
    return shape->mix == CK_MIX_MLP ? sum : 1.0f;
}

static void store(float *table, const ck_route *d, const cpu_block *block, const float *values) {
    if (table)
        memcpy(table + ((int64_t)block->sequence * d->n_layers + d->layer) * CK_MAX_EXPERTS, values,
               CK_MAX_EXPERTS * sizeof(float));
}

/* Whether a row of the product, or without any columns a row of x, has only finite numbers. */
static bool is_sound(const ck_route *d, const cpu_block *block, int t, const float *z, int columns) {
    const float *x = cpu_rows(d->x, block) + (int64_t)t * d->x->columns;
    return columns > 0 ? finite_row(z, columns) : finite_row(x, block->shape->width);
}

/* The run goes on, with 0 for logits; the fault is what the caller acts on. */
static void note_fault(const ck_route *d, const cpu_block *block, float *z) {
    if (*block->fault_layer < 0) *block->fault_layer = d->layer;
    memset(z, 0, (size_t)block->shape->router_rows * sizeof(float));
}

/* Makes z of R x, where the router has a hidden layer; false: it is not finite. */
static bool hidden_layer(const ck_route *d, const cpu_block *block, int t, float *z, hidden_rows h) {
    float own[2 * CK_MAX_EXPERTS], *a = h.a ? h.a + (int64_t)t * h.columns : own,
                                   *clean = a + block->shape->n_experts;
    hidden_router_logits(block, d->layer, t, z, a, clean);
    return finite_row(z, block->shape->n_experts);
}

void cpu_route(const void *descriptor, const cpu_block *block) {
    const ck_route *d = descriptor;
    const ck_shape *shape = block->shape;
    if (!shape) return;
    float *zh = cpu_rows(d->zh, block), *gates = cpu_rows(d->gates, block);
    float *factors = d->bias_factor ? cpu_rows(d->bias_factor, block) : NULL;
    hidden_rows hidden = hidden_rows_of(d->hidden, block);
    bool has_hidden = has_hidden_layer(shape), has_load = has_hidden && d->load_sum && block->learn;
    statistics sums = {{0}, {0}, {0}, {0}};
    int columns = shape->router_rows + shape->h_ranks;
    gemm_nt(block->n_tokens, columns, shape->width, 1, cpu_rows(d->x, block), d->x->columns,
            cpu_layer(block, d->layer) + shape->route, shape->width, 0, zh, d->zh->columns);
    for (int t = 0; t < block->n_tokens; t++) {
        float *z = zh + (int64_t)t * d->zh->columns, *w = gates + (int64_t)t * CK_MAX_EXPERTS;
        if (!is_sound(d, block, t, z, columns)) note_fault(d, block, z);
        if (has_hidden && !hidden_layer(d, block, t, z, hidden)) note_fault(d, block, z);
        route_token(shape, z, has_load ? hidden.a + (int64_t)t * hidden.columns + shape->n_experts : NULL, w,
                    &sums);
        if (factors) factors[t] = bias_factor(shape, w);
        if (d->gate_record) {
            float *record =
                d->gate_record + ((block->first_token + t) * d->n_layers + d->layer) * CK_MAX_EXPERTS;
            memcpy(record, w, CK_MAX_EXPERTS * sizeof(float));
        }
    }
    store(d->gate_sum, d, block, sums.gate_sum);
    store(d->top1_count, d, block, sums.top1);
    store(d->top_k_count, d, block, sums.top_k);
    store(d->load_sum, d, block, sums.load);
}

/* What a token's logits and gates were, and what they get. */
typedef struct {
    const float *z, *clean, *w, *dw;
    /* coefficients of the device's load balance in this layer, or NULL */
    const float *balance, *load_balance;
} logit_rows;

/* dz of the linear router's load balance. */
static void balance_gradients(const choice *c, bool single, const float *z, const float *balance, float *dz) {
    float p[CK_MAX_EXPERTS], mean = 0;
    balance_probabilities(z, c, p);
    for (int e = 0; e < c->experts; e++) mean += balance[e] * p[e];
    for (int e = 0; e < c->experts; e++)
        dz[e] += single || c->chosen >> e & 1 ? p[e] * (balance[e] - mean) : 0.0f;
}

static void logit_gradients(const ck_shape *shape, const logit_rows *r, float *dz) {
    choice c = choose(r->z, shape->n_experts, shape->top_k);
    bool single = single_of_many(shape, &c), of_gates = shape->router == CK_ROUTER_LLAMA_MOE && r->balance;
    if (single) {
        float probabilities[CK_MAX_EXPERTS], slope = r->dw[c.best] * r->w[c.best];
        softmax_over(r->z, c.experts, ~0u, r->z[c.best], probabilities);
        for (int e = 0; e < c.experts; e++) dz[e] = slope * ((e == c.best) - probabilities[e]);
    } else {
        float dw[CK_MAX_EXPERTS], mean = 0;
        for (int e = 0; e < c.experts; e++) dw[e] = of_gates ? r->dw[e] + r->balance[e] : r->dw[e];
        for (int e = 0; e < c.experts; e++) mean += c.chosen >> e & 1 ? r->w[e] * dw[e] : 0.0f;
        for (int e = 0; e < c.experts; e++) dz[e] = c.chosen >> e & 1 ? r->w[e] * (dw[e] - mean) : 0.0f;
    }
    if (of_gates) hidden_router_load_backward(r->z, r->clean, &c, r->load_balance, dz);
    if (r->balance && !of_gates) balance_gradients(&c, single, r->z, r->balance, dz);
}

/* The row of the block's device and the layer. */
static const float *coefficients(const float *table, const ck_route_backward *d, const cpu_block *block) {
    return table && block->shape->balanced
               ? table + ((int64_t)block->device * d->n_layers + d->layer) * CK_MAX_EXPERTS
               : NULL;
}

/* [dz | p] of all tokens, and dR2 where it is wanted. */
static void make_factors(const ck_route_backward *d, const cpu_block *block, float *dzp) {
    const ck_shape *shape = block->shape;
    int rows = shape->router_rows, columns = rows + shape->h_ranks;
    hidden_rows hidden = hidden_rows_of(d->hidden, block);
    logit_rows r = {.balance = coefficients(d->balance, d, block),
                    .load_balance = coefficients(d->load_balance, d, block)};
    bool has_hidden = has_hidden_layer(shape);
    float *second = has_hidden && block->learn & CK_LEARN_ROUTER
                        ? cpu_layer_gradients(block, d->layer) + shape->block[CK_BLOCK_ROUTER_OUT].offset
                        : NULL;
    /* what lies behind it, up to the next block, is updated with it */
    if (second) memset(second, 0, (size_t)ck_align(rows * rows) * sizeof *second);
    for (int64_t t = 0; t < block->n_tokens; t++) {
        float *row = dzp + t * columns;
        r.z = cpu_rows(d->zh, block) + t * d->zh->columns;
        r.clean = has_hidden ? hidden.a + t * hidden.columns + rows : NULL;
        r.w = cpu_rows(d->gates, block) + t * CK_MAX_EXPERTS;
        r.dw = cpu_rows(d->dw, block) + t * CK_MAX_EXPERTS;
        if (rows) logit_gradients(shape, &r, row);
        if (has_hidden) hidden_router_backward(block, d->layer, hidden.a + t * hidden.columns, row, second);
        memcpy(row + rows, cpu_rows(d->p, block) + t * d->p->columns, (size_t)shape->h_ranks * sizeof(float));
    }
}

void cpu_route_backward(const void *descriptor, const cpu_block *block) {
    const ck_route_backward *d = descriptor;
    const ck_shape *shape = block->shape;
    if (!shape) return;
    int rows = shape->router_rows, columns = rows + shape->h_ranks, n_tokens = block->n_tokens;
    float *dzp = block->scratch; /* [tokens, E + S] */
    make_factors(d, block, dzp);
    const float *weights = cpu_layer(block, d->layer) + shape->route;
    if (d->dx) {
        gemm_nn(n_tokens, shape->width, columns, 1, dzp, columns, weights, shape->width,
                d->accumulate ? 1.0f : 0.0f, cpu_rows(d->dx, block), d->dx->columns);
    }
    if (!block->learn) return;
    int first = block->learn & CK_LEARN_ROUTER ? 0 : rows,
        last = block->learn & CK_LEARN_EXPERTS ? columns : rows;
    gemm_tn(
        last - first, shape->width, n_tokens, 1, dzp + first, columns, cpu_rows(d->x, block), d->x->columns,
        0, cpu_layer_gradients(block, d->layer) + shape->route + (int64_t)first * shape->width, shape->width);
}

/* Over a device's sequences; NULL: nothing. */
static void sum_over(const float *table, int64_t first, int64_t last, int n_layers, int layer, int experts,
                     double *sums) {
    for (int64_t s = first; s < last && table; s++)
        for (int e = 0; e < experts; e++)
            sums[e] += (double)table[(s * n_layers + layer) * CK_MAX_EXPERTS + e];
}

/* c_e = balance_e f_e / T_i, f_e = (chosen tokens) / (K T_i); counts are exact. */
static void count_coefficients(const ck_shape *shape, const double *counts, float tokens,
                               float *coefficient) {
    float kept = (float)(shape->top_k > shape->n_experts ? shape->n_experts : shape->top_k);
    for (int e = 0; e < shape->n_experts; e++)
        coefficient[e] = shape->balance[e] * (float)counts[e] / (kept * tokens) / tokens;
}

static void balance_device(const ck_balance *d, const ck_wave *wave, int device, int layer) {
    const ck_shape *shape = &wave->shapes[wave->devices[device].shape];
    int first = wave->first_sequence[device], last = wave->first_sequence[device + 1],
        experts = shape->n_experts;
    int64_t at = ((int64_t)device * d->n_layers + layer) * CK_MAX_EXPERTS;
    double counts[CK_MAX_EXPERTS] = {0}, gates[CK_MAX_EXPERTS] = {0}, load[CK_MAX_EXPERTS] = {0};
    memset(d->coefficient + at, 0, CK_MAX_EXPERTS * sizeof(float));
    if (d->load_coefficient) memset(d->load_coefficient + at, 0, CK_MAX_EXPERTS * sizeof(float));
    if (shape->router_rows == 0 || !shape->balanced) return;
    if (shape->router == CK_ROUTER_LINEAR) {
        sum_over(d->top_k_count, first, last, d->n_layers, layer, experts, counts);
        count_coefficients(shape, counts, (float)(wave->first_token[last] - wave->first_token[first]),
                           d->coefficient + at);
        return;
    }
    sum_over(d->gate_sum, first, last, d->n_layers, layer, experts, gates);
    sum_over(d->load_sum, first, last, d->n_layers, layer, experts, load);
    hidden_router_coefficients(shape, gates, d->coefficient + at);
    if (shape->top_k < experts) hidden_router_coefficients(shape, load, d->load_coefficient + at);
}

void cpu_balance(const ck_balance *d, const ck_wave *wave) {
    for (int i = 0; i < wave->n_devices; i++)
        for (int layer = 0; layer < d->n_layers; layer++) balance_device(d, wave, i, layer);
}

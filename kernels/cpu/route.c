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
#include "cpu.h"
#include "gemm.h"
#include "vector.h"

#include <string.h>

typedef struct {
    int experts, kept;
    uint32_t chosen; /* bit e: expert e is kept */
    int best;
} choice;

static choice choose(const float *z, int experts, int top_k) {
    choice c = {.experts = experts, .kept = top_k < experts ? top_k : experts, .best = -1};
    for (int i = 0; i < c.kept; i++) {
        int best = -1;
        for (int e = 0; e < experts; e++) {
            if (!(c.chosen >> e & 1) && (best < 0 || z[e] > z[best])) best = e;
        }
        c.chosen |= 1u << best;
        if (i == 0) c.best = best;
    }
    return c;
}

/* softmax over the members of a set; others 0. */
static void softmax_over(const float *z, int experts, uint32_t members, float largest, float *w) {
    float sum = 0;
    for (int e = 0; e < experts; e++) {
        w[e] = members >> e & 1 ? vec_exp(z[e] - largest) : 0.0f;
        sum += w[e];
    }
    for (int e = 0; e < experts; e++) w[e] /= sum;
}

static void gates_of(const float *z, const choice *c, float *w) {
    bool single = c->kept == 1 && c->experts > 1;
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
    float gate_sum[CK_MAX_EXPERTS], top1[CK_MAX_EXPERTS], top_k[CK_MAX_EXPERTS];
} statistics;

/* One token: gates from logits z (with a router) or the mean; adds to the statistics. */
static void route_token(const ck_shape *shape, const float *z, float *gates, statistics *sums) {
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
    gates_of(z, &c, gates);
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

void cpu_route(const void *descriptor, const cpu_block *block) {
    const ck_route *d = descriptor;
    const ck_shape *shape = block->shape;
    if (!shape) return;
    float *zh = cpu_rows(d->zh, block), *gates = cpu_rows(d->gates, block);
    float *factors = d->bias_factor ? cpu_rows(d->bias_factor, block) : NULL;
    statistics sums = {{0}, {0}, {0}};
    const float *x = cpu_rows(d->x, block);
    int columns = shape->router_rows + shape->h_ranks;
    gemm_nt(block->n_tokens, columns, shape->width, 1, x, d->x->columns,
            cpu_layer(block, d->layer) + shape->route, shape->width, 0, zh, d->zh->columns);
    for (int t = 0; t < block->n_tokens; t++) {
        float *z = zh + (int64_t)t * d->zh->columns, *w = gates + (int64_t)t * CK_MAX_EXPERTS;
        bool finite =
            columns > 0 ? finite_row(z, columns) : finite_row(x + (int64_t)t * d->x->columns, shape->width);
        if (!finite) {
            if (*block->fault_layer < 0) *block->fault_layer = d->layer;
            /* the run goes on; the fault is what the caller acts on */
            memset(z, 0, (size_t)shape->router_rows * sizeof(float));
        }
        route_token(shape, z, w, &sums);
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
}

static void logit_gradients(const ck_shape *shape, const float *z, const float *w, const float *dw,
                            const float *balance, float *dz) {
    choice c = choose(z, shape->n_experts, shape->top_k);
    bool single = c.kept == 1 && c.experts > 1;
    if (single) {
        float probabilities[CK_MAX_EXPERTS], slope = dw[c.best] * w[c.best];
        softmax_over(z, c.experts, ~0u, z[c.best], probabilities);
        for (int e = 0; e < c.experts; e++) dz[e] = slope * ((e == c.best) - probabilities[e]);
    } else {
        float mean = 0;
        for (int e = 0; e < c.experts; e++) mean += c.chosen >> e & 1 ? w[e] * dw[e] : 0.0f;
        for (int e = 0; e < c.experts; e++) dz[e] = c.chosen >> e & 1 ? w[e] * (dw[e] - mean) : 0.0f;
    }
    if (!balance) return;
    float p[CK_MAX_EXPERTS], mean = 0;
    balance_probabilities(z, &c, p);
    for (int e = 0; e < c.experts; e++) mean += balance[e] * p[e];
    for (int e = 0; e < c.experts; e++)
        dz[e] += single || c.chosen >> e & 1 ? p[e] * (balance[e] - mean) : 0.0f;
}

void cpu_route_backward(const void *descriptor, const cpu_block *block) {
    const ck_route_backward *d = descriptor;
    const ck_shape *shape = block->shape;
    if (!shape) return;
    int rows = shape->router_rows, columns = rows + shape->h_ranks, n_tokens = block->n_tokens;
    float *dzp = block->scratch; /* [tokens, E + S] */
    const float *balance =
        d->balance && shape->balanced
            ? d->balance + ((int64_t)block->device * d->n_layers + d->layer) * CK_MAX_EXPERTS
            : NULL;
    for (int t = 0; t < n_tokens; t++) {
        float *row = dzp + (int64_t)t * columns;
        int64_t gate = (int64_t)t * CK_MAX_EXPERTS;
        if (rows) {
            logit_gradients(shape, cpu_rows(d->zh, block) + (int64_t)t * d->zh->columns,
                            cpu_rows(d->gates, block) + gate, cpu_rows(d->dw, block) + gate, balance, row);
        }
        memcpy(row + rows, cpu_rows(d->p, block) + (int64_t)t * d->p->columns,
               (size_t)shape->h_ranks * sizeof(float));
    }
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

/* c_e = balance_e f_e / T_i, f_e = (chosen tokens) / (K T_i). */
void cpu_balance(const ck_balance *d, const ck_wave *wave) {
    for (int i = 0; i < wave->n_devices; i++) {
        const ck_shape *shape = &wave->shapes[wave->devices[i].shape];
        int first = wave->first_sequence[i], last = wave->first_sequence[i + 1];
        float tokens = (float)(wave->first_token[last] - wave->first_token[first]);
        float kept = (float)(shape->router_rows == 0 || shape->top_k > shape->n_experts ? shape->n_experts
                                                                                        : shape->top_k);
        for (int layer = 0; layer < d->n_layers; layer++) {
            float *coefficient = d->coefficient + ((int64_t)i * d->n_layers + layer) * CK_MAX_EXPERTS;
            memset(coefficient, 0, CK_MAX_EXPERTS * sizeof(float));
            for (int e = 0; e < shape->n_experts && shape->router_rows; e++) {
                float count = 0;
                for (int s = first; s < last; s++)
                    count += d->top_k_count[((int64_t)s * d->n_layers + layer) * CK_MAX_EXPERTS + e];
                coefficient[e] = shape->balance[e] * count / (kept * tokens) / tokens;
            }
        }
    }
}

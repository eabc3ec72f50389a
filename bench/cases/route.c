/* route.c - the router, its statistics, the load balance, and their gradients.
 *
 * a bytes of an activation, R router rows, S sum of ranks, N devices, I branches of the MLP (GELU 1, SwiGLU
 * 2), each with S ranks of h:
 *   route             x read; z and h, gates written; R and A1 read
 *   route, backward   x read, dx written; z, gates, dw, p read; R, A1 read, dR, dA1 written */
#include <math.h>
#include <string.h>

#include "cases/ops.h"
#include "cases/route.h"

enum { TIES = 8, ACCUMULATE = 16 };
enum { MOST_SUMS = 4 };

/* Integers in {-1, 0, 1}: every logit is a small integer, equal logits abound, and no rounding hides them. */
static void make_ties(rig *r) {
    for (int64_t i = 0; i < r->n_tokens * r->width; i++)
        r->tensor[X].before[i] = roundf(r->tensor[X].before[i] * 0.5f);
    for (int d = 0; d < r->n_kinds; d++)
        for (int64_t i = 0; i < rig_shape(r, d)->total; i++)
            r->pack_kind[d][i] = roundf(r->pack_kind[d][i] * 0.5f * sqrtf((float)r->width));
}

static void statistic(rig *r, buffer_id id, const char *name, int64_t rows) {
    rig_buffer(r, id, name, OUTPUT, rows * r->layers * CK_MAX_EXPERTS, 1);
    r->buffer[id].partial = true;
}

static void arrays(rig *r) {
    rig_tensor(r, X, "x", INPUT, COLUMNS_WIDTH);
    rig_gates(r, OUTPUT, OUTPUT);
    if (r->flags & ROUTE_FACTOR) rig_tensor_of(r, BIAS_FACTOR, "bias_factor", OUTPUT, 1);
    if (r->flags & ROUTE_HIDDEN) rig_tensor(r, HIDDEN, "hidden", OUTPUT, COLUMNS_HIDDEN);
    if (r->flags & TIES) make_ties(r);
    if (r->flags & ROUTE_TWO_LAYERS) {
        rig_tensor(r, LOWER_X, "x of the layer below", INPUT, COLUMNS_WIDTH);
        rig_tensor(r, LOWER_ZH, "zh of the layer below", OUTPUT, COLUMNS_ROUTED);
        rig_tensor_of(r, LOWER_GATES, "gates of the layer below", OUTPUT, CK_MAX_EXPERTS);
        if (r->flags & ROUTE_FACTOR)
            rig_tensor_of(r, LOWER_BIAS_FACTOR, "bias_factor of the layer below", OUTPUT, 1);
        if (r->flags & ROUTE_HIDDEN)
            rig_tensor(r, LOWER_HIDDEN, "hidden of the layer below", OUTPUT, COLUMNS_HIDDEN);
    }
    if (!(r->flags & ROUTE_STATISTICS)) return;
    statistic(r, TOP_K_COUNT, "top_k_count", r->n_sequences);
    statistic(r, GATE_SUM, "gate_sum", r->n_sequences);
    statistic(r, TOP1_COUNT, "top1_count", r->n_sequences);
    statistic(r, GATE_RECORD, "gate_record", r->n_tokens);
}

route_arrays route_upper(const rig *r) {
    return (route_arrays){X, ZH, GATES, BIAS_FACTOR, HIDDEN, r->layer};
}

route_arrays route_lower(const rig *r) {
    return (route_arrays){LOWER_X, LOWER_ZH, LOWER_GATES, LOWER_BIAS_FACTOR, LOWER_HIDDEN, r->layer - 1};
}

void route_record(const rig *r, rig_copy *c, route_arrays a) {
    ck_op_route(c->program, &(ck_route){.x = c->tensor[a.x],
                                        .zh = c->tensor[a.zh],
                                        .gates = c->tensor[a.gates],
                                        .bias_factor = c->tensor[a.factor],
                                        .hidden = c->tensor[a.hidden],
                                        .layer = a.layer,
                                        .gate_sum = c->buffer[GATE_SUM],
                                        .top1_count = c->buffer[TOP1_COUNT],
                                        .top_k_count = c->buffer[TOP_K_COUNT],
                                        .load_sum = c->buffer[LOAD_SUM],
                                        .n_layers = r->layers,
                                        .gate_record = c->buffer[GATE_RECORD]});
}

static void record(const rig *r, rig_copy *c) {
    if (r->flags & ROUTE_TWO_LAYERS) route_record(r, c, route_lower(r));
    route_record(r, c, route_upper(r));
}

/* Sums over n tokens, from row `row` on, each [E] and NULL if it is not wanted. */
typedef struct {
    double *gates, *top1, *top_k, *load;
} route_sums;

static void sum_statistics(const view *v, route_arrays a, int64_t row, int64_t n, route_sums to) {
    const ck_shape *s = &v->shape;
    double *all[MOST_SUMS] = {to.gates, to.top1, to.top_k, to.load};
    oracle_adapter adapter = v->adapter;
    adapter.layer = a.layer;
    for (int i = 0; i < MOST_SUMS; i++)
        if (all[i]) memset(all[i], 0, (size_t)s->n_experts * sizeof *all[i]);
    for (int64_t t = row; t < row + n; t++) {
        int chosen[CK_MAX_EXPERTS];
        double p[CK_MAX_EXPERTS];
        const double *gates = view_row(v, a.gates, t), *zh = view_row(v, a.zh, t);
        oracle_top_k(s, zh, chosen);
        if (to.top1) to.top1[chosen[0]]++;
        for (int e = 0; e < s->n_experts; e++) {
            if (to.gates) to.gates[e] += gates[e];
            if (to.top_k) to.top_k[e] += gates[e] > 0;
        }
        if (!to.load) continue;
        oracle_load(&adapter, zh, view_row(v, a.hidden, t), p);
        for (int e = 0; e < s->n_experts; e++) to.load[e] += p[e];
    }
}

/* Counts of the largest gate and counts of the chosen mean something only where there is a router. */
static void statistics(view *v) {
    const rig *r = v->r;
    bool router = v->shape.router_rows > 0;
    for (int s = 0; s < v->n_sequences; s++) {
        int64_t at = ((int64_t)v->sequence[s] * r->layers + r->layer) * CK_MAX_EXPERTS;
        sum_statistics(v, route_upper(r), v->row[s], view_length(v, s),
                       (route_sums){v->buffer[GATE_SUM] + at, router ? v->buffer[TOP1_COUNT] + at : NULL,
                                    router ? v->buffer[TOP_K_COUNT] + at : NULL, NULL});
    }
    for (int64_t row = 0; row < v->rows.n; row++)
        memcpy(v->buffer[GATE_RECORD] + (v->rows.index[row] * r->layers + r->layer) * CK_MAX_EXPERTS,
               view_row(v, GATES, row), (size_t)v->shape.n_experts * sizeof(double));
}

/* Of a microbenchmark's many tokens some have two logits that are closer than rounding: these are not judged.
 * The conformance tests have few tokens, and none so close; but integers that are equal are no longer exactly
 * so behind a hidden layer. */
static bool is_close(view *v, route_arrays a, int64_t row) {
    const rig *r = v->r;
    double least = r->all_checked ? 1e-5 : r->precision == CK_BF16 ? 3e-2 : 1e-4;
    bool ties = (r->flags & TIES) != 0, exact_ties = ties && !oracle_has_hidden_layer(&v->shape);
    if (exact_ties || oracle_margin(&v->shape, 1, view_row(v, a.zh, row), view_columns(v, a.zh)) >= least)
        return false;
    if (r->all_checked && !ties)
        verdict_fail(v->verdict, "two logits of token %lld are too close", (long long)row);
    return true;
}

/* h of an expert that the token has not chosen may be left 0. */
void route_judge(view *v, route_arrays a) {
    view_allow_zeros(v, a.zh, a.gates);
    for (int64_t row = 0; row < v->rows.n; row++) {
        const float *out = v->out[a.gates] + row * CK_MAX_EXPERTS;
        bool close = is_close(v, a, row);
        for (int e = 0; e < CK_MAX_EXPERTS && !close; e++)
            verdict_exact(v->verdict, "gates", (out[e] != 0) == (view_row(v, a.gates, row)[e] > 0));
        if (!close) continue;
        view_skip(v, a.gates, row);
        view_skip(v, a.zh, row);
        if (v->tensor[a.factor]) view_skip(v, a.factor, row);
        if (v->tensor[a.hidden]) view_skip(v, a.hidden, row);
    }
    view_judge(v, a.zh);
    view_judge(v, a.gates);
    if (v->tensor[a.factor]) view_judge(v, a.factor);
    if (v->tensor[a.hidden]) view_judge(v, a.hidden);
}

void route_reference(view *v, route_arrays a) {
    oracle_adapter adapter = v->adapter;
    adapter.layer = a.layer;
    oracle_route(&adapter, v->rows.n, v->tensor[a.x], v->tensor[a.zh], view_columns(v, a.zh),
                 v->tensor[a.gates], v->tensor[a.hidden]);
    if (v->tensor[a.factor])
        oracle_bias_factor(&v->shape, v->rows.n, v->tensor[a.gates], v->tensor[a.factor]);
}

static void reference(view *v) {
    route_reference(v, route_upper(v->r));
    if (v->r->flags & ROUTE_STATISTICS) statistics(v);
    route_judge(v, route_upper(v->r));
}

static double packs(const rig *r, double rows) {
    return 4.0 * r->n_devices * rows;
}

cost route_cost(const rig *r) {
    double t = tokens_of(r), d = r->width, rows = r->shapes[0].router_rows + r->shapes[0].h_ranks;
    return (cost){"route", activation_bytes(r) * t * d + 4 * t * rows + gates_bytes(r) + packs(r, rows * d),
                  2 * t * d * rows};
}

const op_case route_forward = {
    .group = "route",
    .name = "route",
    .direction = "forward",
    .floor = "bytes a T D + 4 T (R + I S) + 64 T + 4 N (R + I S) D; FLOPs 2 T D (R + I S)",
    .axes = AXES_MLP,
    .needs = NEED_PACKS,
    .arrays = arrays,
    .record = record,
    .reference = reference,
    .cost_of = route_cost,
    .variants = {{"route", ROUTE_FACTOR},
                 {"route with ties", TIES | ROUTE_FACTOR},
                 {"route, hidden layer kept", ROUTE_HIDDEN},
                 {"route statistics", ROUTE_STATISTICS | ROUTE_FACTOR}}};

/* ---- Backward */

#define ROUTER_GRADIENTS (1u << ORACLE_ROUTER | 1u << ORACLE_ROUTER_OUT | 1u << ORACLE_A1)

static void arrays_backward(rig *r) {
    rig_tensor(r, X, "x", INPUT, COLUMNS_WIDTH);
    rig_gates(r, INPUT, INPUT);
    rig_tensor(r, DW, "dw", INPUT, COLUMNS_EXPERTS);
    rig_tensor(r, P, "p", INPUT, COLUMNS_H);
    rig_tensor(r, HIDDEN, "hidden", INPUT, COLUMNS_HIDDEN);
    rig_tensor(r, DX, "dx", r->flags & ACCUMULATE ? IN_PLACE : OUTPUT, COLUMNS_WIDTH);
    rig_chosen(r, P);
}

static void record_backward(const rig *r, rig_copy *c) {
    ck_op_route_backward(c->program, &(ck_route_backward){.x = c->tensor[X],
                                                          .zh = c->tensor[ZH],
                                                          .gates = c->tensor[GATES],
                                                          .dw = c->tensor[DW],
                                                          .p = c->tensor[P],
                                                          .hidden = c->tensor[HIDDEN],
                                                          .dx = c->tensor[DX],
                                                          .layer = r->layer,
                                                          .accumulate = (r->flags & ACCUMULATE) != 0,
                                                          .balance = c->buffer[COEFFICIENT],
                                                          .load_balance = c->buffer[LOAD_COEFFICIENT],
                                                          .n_layers = r->layers});
}

static void backward_with(view *v, const double *coefficient) {
    oracle_route_backward(&v->adapter, v->rows.n, v->tensor[X], v->tensor[ZH], view_columns(v, ZH),
                          v->tensor[GATES], v->tensor[HIDDEN], v->tensor[DW], v->tensor[P],
                          view_columns(v, P), coefficient, v->tensor[DX]);
}

static void reference_backward(view *v) {
    backward_with(v, NULL);
}

cost route_backward_cost(const rig *r) {
    double t = tokens_of(r), d = r->width, rows = r->shapes[0].router_rows + r->shapes[0].h_ranks;
    return (cost){"route backward",
                  2 * activation_bytes(r) * t * d + 4 * t * rows + 2 * gates_bytes(r) +
                      packs(r, 2 * rows * d),
                  4 * t * d * rows};
}

const op_case route_backward = {
    .group = "route",
    .name = "route",
    .direction = "backward",
    .floor = "bytes 2 a T D + 4 T (R + I S) + 128 T + 8 N (R + I S) D; FLOPs 4 T D (R + I S)",
    .axes = AXES_MLP,
    .needs = NEED_PACKS | NEED_GRADIENTS,
    .gradients = ROUTER_GRADIENTS,
    .arrays = arrays_backward,
    .record = record_backward,
    .reference = reference_backward,
    .cuts = {{COLUMNS_WIDTH, 1u << ORACLE_ROUTER | 1u << ORACLE_A1, DX}},
    .cost_of = route_backward_cost,
    .variants = {{"route backward"}, {"route backward, accumulating", ACCUMULATE}}};

/* ---- Load balance: counts of all sequences of a device before any gradient */

/* p of experts that were not chosen is 0, as the operation before leaves it. */
static void clear_p(rig *r) {
    double *no_buffer[BUFFERS] = {0};
    tensor_array *p = &r->tensor[P];
    for (int d = 0; d < r->n_devices; d++) {
        int first = r->first_sequence[d], n = r->first_sequence[d + 1] - first;
        view v;
        view_open_sequences(&v, r, NULL, d, picks_of(first, n, n), no_buffer);
        route_reference(&v, route_upper(r));
        view_unchosen(&v, P);
        for (int64_t i = 0; i < v.rows.n * p->columns; i++)
            if (v.tensor[P][i] == VIEW_UNJUDGED) p->before[rig_first(r, d) * p->columns + i] = 0;
        view_close(&v);
    }
}

static void arrays_balance(rig *r) {
    r->flags |= ROUTE_TWO_LAYERS | ROUTE_FACTOR | ROUTE_HIDDEN;
    arrays(r);
    rig_tensor(r, DW, "dw", INPUT, COLUMNS_EXPERTS);
    rig_tensor(r, P, "p", INPUT, COLUMNS_H);
    rig_tensor(r, DX, "dx", OUTPUT, COLUMNS_WIDTH);
    clear_p(r);
    statistic(r, TOP_K_COUNT, "top_k_count", r->n_sequences);
    statistic(r, COEFFICIENT, "coefficient", r->n_sequences);
    statistic(r, GATE_SUM, "gate_sum", r->n_sequences);
    statistic(r, LOAD_SUM, "load_sum", r->n_sequences);
    statistic(r, LOAD_COEFFICIENT, "load_coefficient", r->n_sequences);
}

static void record_balance(const rig *r, rig_copy *c) {
    record(r, c);
    ck_op_balance(c->program, &(ck_balance){.top_k_count = c->buffer[TOP_K_COUNT],
                                            .gate_sum = c->buffer[GATE_SUM],
                                            .load_sum = c->buffer[LOAD_SUM],
                                            .coefficient = c->buffer[COEFFICIENT],
                                            .load_coefficient = c->buffer[LOAD_COEFFICIENT],
                                            .n_layers = r->layers});
    record_backward(r, c);
}

/* Of a router with a hidden layer. */
static void gate_balance_of(view *v, route_arrays a, double coefficient[2 * CK_MAX_EXPERTS]) {
    const ck_shape *s = &v->shape;
    double gates[CK_MAX_EXPERTS], load[CK_MAX_EXPERTS];
    int64_t at = ((int64_t)v->device * v->r->layers + a.layer) * CK_MAX_EXPERTS;
    size_t bytes = (size_t)s->n_experts * sizeof *coefficient;
    bool all_kept = oracle_chosen_count(s) == s->n_experts;
    if (v->adapter.noise == NULL) return;
    sum_statistics(v, a, 0, v->rows.n, (route_sums){.gates = gates, .load = load});
    oracle_gate_balance(s, gates, load, coefficient);
    memcpy(v->buffer[COEFFICIENT] + at, coefficient, bytes);
    if (!all_kept) memcpy(v->buffer[LOAD_COEFFICIENT] + at, coefficient + CK_MAX_EXPERTS, bytes);
}

/* A layer's coefficients, compared where they count. */
static void balance_of(view *v, route_arrays a, double coefficient[2 * CK_MAX_EXPERTS]) {
    double count[CK_MAX_EXPERTS];
    double p[CK_MAX_EXPERTS] = {0}; /* of the balance's value, which no backend computes */
    if (v->shape.router_rows == 0) return;
    if (oracle_has_hidden_layer(&v->shape)) {
        gate_balance_of(v, a, coefficient);
        return;
    }
    sum_statistics(v, a, 0, v->rows.n, (route_sums){.top_k = count});
    oracle_balance(&v->shape, v->rows.n, count, p, coefficient);
    int64_t at = ((int64_t)v->device * v->r->layers + a.layer) * CK_MAX_EXPERTS;
    if (v->shape.balanced)
        memcpy(v->buffer[COEFFICIENT] + at, coefficient, (size_t)v->shape.n_experts * sizeof *coefficient);
}

static void reference_balance(view *v) {
    double lower[2 * CK_MAX_EXPERTS] = {0}, upper[2 * CK_MAX_EXPERTS] = {0};
    route_reference(v, route_lower(v->r));
    route_reference(v, route_upper(v->r));
    balance_of(v, route_lower(v->r), lower);
    balance_of(v, route_upper(v->r), upper);
    route_judge(v, route_lower(v->r));
    route_judge(v, route_upper(v->r));
    backward_with(v, upper);
}

const op_case route_balance = {.group = "route",
                               .name = "balance",
                               .direction = "step",
                               .needs = NEED_PACKS | NEED_GRADIENTS,
                               .gradients = ROUTER_GRADIENTS,
                               .arrays = arrays_balance,
                               .record = record_balance,
                               .reference = reference_balance,
                               .variants = {{"load balance"}}};

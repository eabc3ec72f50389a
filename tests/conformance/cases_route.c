/* The router, its statistics, the load balance, faults, and their gradients. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conformance/cases.h"

enum { RECORD = CK_MAX_EXPERTS };

/* A margin this small could fall differently in f32: the inputs must be drawn so that it does not happen. */
static const double least_margin = 1e-5;

typedef struct {
    rig_tensor *x, *zh, *gates, *bias_factor;
    rig_buffer *gate_sum, *top1, *top_k, *record; /* NULL if not wanted */
} route_tensors;

static route_tensors make_route(rig *r, bool statistics) {
    int64_t count = (int64_t)r->wave.n_sequences * WAVE_LAYERS * CK_MAX_EXPERTS;
    route_tensors t = {.x = rig_input(r, r->spec->width, "x"),
                       .zh = rig_output(r, r->max_zh, "zh"),
                       .gates = rig_output(r, RECORD, "gates"),
                       .bias_factor = rig_output(r, 1, "bias factor")};
    if (!statistics) return t;
    t.gate_sum = rig_results(r, count, "gate_sum"), t.top1 = rig_results(r, count, "top1_count");
    t.top_k = rig_results(r, count, "top_k_count");
    t.record = rig_results(r, r->n_tokens * WAVE_LAYERS * RECORD, "gate_record");
    return t;
}

static void record_route(rig *r, route_tensors t, int layer) {
    ck_op_route(r->program, &(ck_route){.x = t.x->tensor,
                                        .zh = t.zh->tensor,
                                        .gates = t.gates->tensor,
                                        .bias_factor = t.bias_factor->tensor,
                                        .layer = layer,
                                        .gate_sum = t.gate_sum ? t.gate_sum->memory : NULL,
                                        .top1_count = t.top1 ? t.top1->memory : NULL,
                                        .top_k_count = t.top_k ? t.top_k->memory : NULL,
                                        .n_layers = WAVE_LAYERS,
                                        .gate_record = t.record ? t.record->memory : NULL});
}

static void route_reference(rig *r, route_tensors t, int layer) {
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, layer);
        int64_t first = rig_first(r, d);
        oracle_route(&a, rig_rows(r, d), rig_row(t.x, first), rig_row(t.zh, first), t.zh->columns,
                     rig_row(t.gates, first));
        oracle_bias_factor(rig_shape(r, d), rig_rows(r, d), rig_row(t.gates, first),
                           rig_row(t.bias_factor, first));
    }
}

/* The chosen experts, exactly; exact: the inputs are such that f32 makes no error, so that ties are ties. */
static void compare_choices(rig *r, route_tensors t, bool exact) {
    for (int d = 0; d < r->spec->n_devices; d++) {
        int64_t first = rig_first(r, d);
        double margin = oracle_margin(rig_shape(r, d), rig_rows(r, d), rig_row(t.zh, first), t.zh->columns);
        if (!exact && margin < least_margin)
            check_fail(r->check, "wave '%s': device %d has a margin of %g", r->spec->name, d, margin);
        for (int64_t i = first; i < first + rig_rows(r, d); i++)
            for (int e = 0; e < CK_MAX_EXPERTS; e++) {
                float got = t.gates->host[i * CK_MAX_EXPERTS + e];
                bool expected = rig_row(t.gates, i)[e] > 0;
                r->check->comparisons++;
                if ((got != 0) != expected || isnan(got))
                    check_fail(
                        r->check,
                        "%s on wave '%s': device %d, token %lld, expert %d: expected %s, got weight %g",
                        r->case_name, r->spec->name, d, (long long)(i - first), e,
                        expected ? "chosen" : "weight 0", (double)got);
            }
    }
}

/* h of an expert that the token has not chosen may be left 0. */
static void compare_zh(rig *r, route_tensors t) {
    rig_expect_finite(r, t.zh, COLUMNS_ROUTED);
    rig_ignore_unchosen(r, t.zh, COLUMNS_ROUTED, t.gates);
    rig_compare(r, t.zh, COLUMNS_ROUTED);
}

static void compare_route(rig *r, route_tensors t, bool exact) {
    compare_choices(r, t, exact);
    compare_zh(r, t);
    rig_compare(r, t.gates, COLUMNS_ALL);
    rig_compare(r, t.bias_factor, COLUMNS_ALL);
}

static void route(rig *r) {
    route_tensors t = make_route(r, false);
    record_route(r, t, RIG_LAYER);
    if (!rig_run(r)) return;
    route_reference(r, t, RIG_LAYER);
    compare_route(r, t, false);
}

/* Integers in {-1, 0, 1}: every logit is a small integer, equal logits abound, and no rounding hides them. */
static void route_ties(rig *r) {
    route_tensors t = make_route(r, false);
    for (int64_t i = 0; i < r->n_tokens * t.x->columns; i++) t.x->host[i] = roundf(t.x->host[i] * 0.5f);
    rig_take(r, t.x);
    for (int64_t i = 0; i < r->parameters.count; i++)
        r->parameters.ref[i] = r->parameters.host[i] = roundf(r->parameters.host[i] * 2.5f);
    record_route(r, t, RIG_LAYER);
    if (!rig_run(r)) return;
    route_reference(r, t, RIG_LAYER);
    compare_route(r, t, true);
}

/* Sums over the tokens of one sequence into one entry [E]. */
static void sequence_statistics(const ck_shape *s, int64_t n, const double *zh, int ld, const double *gates,
                                double *sum, double *top1, double *top_k) {
    for (int64_t t = 0; t < n; t++) {
        int chosen[CK_MAX_EXPERTS];
        oracle_top_k(s, zh + t * ld, chosen);
        top1[chosen[0]]++;
        for (int e = 0; e < s->n_experts; e++) {
            sum[e] += gates[t * CK_MAX_EXPERTS + e];
            top_k[e] += gates[t * CK_MAX_EXPERTS + e] > 0;
        }
    }
}

static void statistics_reference(rig *r, route_tensors t, int layer) {
    for (int d = 0; d < r->spec->n_devices; d++)
        for (int s = r->first_sequence[d]; s < r->first_sequence[d + 1]; s++) {
            int64_t first = r->first_token[s], at = ((int64_t)s * WAVE_LAYERS + layer) * CK_MAX_EXPERTS;
            sequence_statistics(rig_shape(r, d), r->first_token[s + 1] - first, rig_row(t.zh, first),
                                t.zh->columns, rig_row(t.gates, first), t.gate_sum->ref + at,
                                t.top1->ref + at, t.top_k->ref + at);
        }
}

/* Counts of the largest gate and counts of the chosen mean something only where there is a router. */
static void compare_statistics(rig *r, route_tensors t, int layer) {
    for (int d = 0; d < r->spec->n_devices; d++) {
        const ck_shape *s = rig_shape(r, d);
        for (int i = r->first_sequence[d]; i < r->first_sequence[d + 1]; i++) {
            int64_t at = ((int64_t)i * WAVE_LAYERS + layer) * CK_MAX_EXPERTS;
            rig_compare_buffer(r, t.gate_sum, at, s->n_experts);
            if (s->router_rows == 0) continue;
            rig_compare_buffer(r, t.top1, at, s->n_experts);
            rig_compare_buffer(r, t.top_k, at, s->n_experts);
        }
        for (int64_t i = rig_first(r, d); i < rig_first(r, d) + rig_rows(r, d); i++) {
            int64_t at = (i * WAVE_LAYERS + layer) * RECORD;
            memcpy(t.record->ref + at, rig_row(t.gates, i), RECORD * sizeof(double));
            rig_compare_buffer(r, t.record, at, s->n_experts);
        }
    }
}

static void route_statistics(rig *r) {
    route_tensors t = make_route(r, true);
    record_route(r, t, RIG_LAYER);
    if (!rig_run(r)) return;
    route_reference(r, t, RIG_LAYER);
    statistics_reference(r, t, RIG_LAYER);
    compare_statistics(r, t, RIG_LAYER);
}

/* ---- Backward -------------------------------------------------------------------------------- */

typedef struct {
    rig_tensor *dw, *p, *dx;
} backward_tensors;

static backward_tensors make_backward(rig *r, bool accumulate) {
    backward_tensors b = {rig_input(r, CK_MAX_EXPERTS, "dw"), rig_input(r, r->max_h, "p"),
                          accumulate ? rig_input(r, r->spec->width, "dx")
                                     : rig_output(r, r->spec->width, "dx")};
    rig_poison(r, b.dw, COLUMNS_EXPERTS);
    rig_poison(r, b.p, COLUMNS_H);
    return b;
}

static void record_backward(rig *r, route_tensors t, backward_tensors b, bool accumulate,
                            const float *balance) {
    ck_op_route_backward(r->program, &(ck_route_backward){.x = t.x->tensor,
                                                          .zh = t.zh->tensor,
                                                          .gates = t.gates->tensor,
                                                          .dw = b.dw->tensor,
                                                          .p = b.p->tensor,
                                                          .dx = b.dx->tensor,
                                                          .layer = RIG_LAYER,
                                                          .accumulate = accumulate,
                                                          .balance = balance,
                                                          .n_layers = WAVE_LAYERS});
}

/* coefficient: [devices, WAVE_LAYERS, CK_MAX_EXPERTS] or NULL. */
static void backward_reference(rig *r, route_tensors t, backward_tensors b, const double *coefficient) {
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        const double *of_device = coefficient != NULL
                                      ? coefficient + ((int64_t)d * WAVE_LAYERS + RIG_LAYER) * CK_MAX_EXPERTS
                                      : NULL;
        oracle_route_backward(&a, rig_rows(r, d), rig_row(t.x, first), rig_row(t.zh, first), t.zh->columns,
                              rig_row(t.gates, first), rig_row(b.dw, first), rig_row(b.p, first),
                              b.p->columns, of_device, rig_row(b.dx, first));
    }
    rig_compare(r, b.dx, COLUMNS_ALL);
    rig_compare_gradients(r, RIG_LAYER, 1u << ORACLE_ROUTER | 1u << ORACLE_A1);
}

static void route_backward_with(rig *r, bool accumulate) {
    route_tensors t = make_route(r, false);
    backward_tensors b = make_backward(r, accumulate);
    route_reference(r, t, RIG_LAYER);
    rig_round(r, t.zh);
    rig_round(r, t.gates);
    rig_poison(r, t.zh, COLUMNS_ROUTED);
    rig_ignore_unchosen(r, b.p, COLUMNS_H, t.gates); /* p of an expert that was not chosen is 0 */
    record_backward(r, t, b, accumulate, NULL);
    if (rig_run(r)) backward_reference(r, t, b, NULL);
}

static void route_backward(rig *r) {
    route_backward_with(r, false);
}

static void route_backward_accumulating(rig *r) {
    route_backward_with(r, true);
}

/* ---- Load balance: counts of all sequences of a device before any gradient ------------------- */

static void balance_reference(rig *r, route_tensors t, int layer, rig_buffer *coefficient) {
    for (int d = 0; d < r->spec->n_devices; d++) {
        const ck_shape *s = rig_shape(r, d);
        double count[CK_MAX_EXPERTS] = {0}, sum[CK_MAX_EXPERTS] = {0}, top1[CK_MAX_EXPERTS] = {0};
        double p[CK_MAX_EXPERTS] = {0}; /* of the balance's value, which no backend computes */
        if (s->router_rows == 0) continue;
        sequence_statistics(s, rig_rows(r, d), rig_row(t.zh, rig_first(r, d)), t.zh->columns,
                            rig_row(t.gates, rig_first(r, d)), sum, top1, count);
        oracle_balance(s, rig_rows(r, d), count, p,
                       coefficient->ref + ((int64_t)d * WAVE_LAYERS + layer) * CK_MAX_EXPERTS);
    }
}

static void compare_balance(rig *r, const rig_buffer *coefficient) {
    for (int d = 0; d < r->spec->n_devices; d++) {
        const ck_shape *s = rig_shape(r, d);
        if (!s->balanced) continue;
        for (int l = 0; l < WAVE_LAYERS; l++)
            rig_compare_buffer(r, coefficient, ((int64_t)d * WAVE_LAYERS + l) * CK_MAX_EXPERTS, s->n_experts);
    }
}

static void balance(rig *r) {
    int64_t entries = (int64_t)r->wave.n_sequences * WAVE_LAYERS * CK_MAX_EXPERTS;
    route_tensors lower = make_route(r, true), upper = make_route(r, false);
    upper.top_k = lower.top_k;
    rig_buffer *coefficient = rig_results(r, entries, "coefficient");
    backward_tensors b = make_backward(r, false);
    route_reference(r, lower, 0);
    route_reference(r, upper, RIG_LAYER);
    rig_ignore_unchosen(r, b.p, COLUMNS_H, upper.gates);
    record_route(r, lower, 0);
    record_route(r, upper, RIG_LAYER);
    ck_op_balance(r->program, &(ck_balance){.top_k_count = lower.top_k->memory,
                                            .coefficient = coefficient->memory,
                                            .n_layers = WAVE_LAYERS});
    record_backward(r, upper, b, false, coefficient->memory);
    if (!rig_run(r)) return;
    balance_reference(r, lower, 0, coefficient);
    balance_reference(r, upper, RIG_LAYER, coefficient);
    compare_balance(r, coefficient);
    compare_route(r, upper, false);
    backward_reference(r, upper, b, coefficient->ref);
}

/* ---- Faults ---------------------------------------------------------------------------------- */

static void compare_fault(rig *r, int device, int expected) {
    r->check->comparisons++;
    if (r->fault[device] != expected)
        check_fail(r->check, "%s on wave '%s': fault of device %d: expected %d, got %d", r->case_name,
                   r->spec->name, device, expected, r->fault[device]);
}

/* One weight of the router where there is one and the device's number is even, else one of each expert's A1.
 */
static void spoil_weight(rig *r, int device, int layer, float value) {
    const ck_shape *s = rig_shape(r, device);
    bool router = s->router_rows > 0 && device % 2 == 0;
    oracle_range range = oracle_part_range(s, layer, router ? ORACLE_ROUTER : ORACLE_A1);
    float *weights = r->parameters.host + r->devices[device].parameters + range.offset;
    if (router) weights[3] = value;
    for (int e = 0; e < s->n_experts && !router; e++)
        if (s->rank[e] > 0) weights[(int64_t)s->rank_first[e] * s->width + 3] = value;
}

/* Every third device has an infinite weight in layer 0, every third plus one a NaN in layer 1, the others, and
 * those without such weights, none. */
static int spoiled_layer(const rig *r, int device) {
    const ck_shape *s = rig_shape(r, device);
    return device % 3 < 2 && s->router_rows + s->rank_sum > 0 ? device % 3 : -1;
}

static void faults(rig *r) {
    route_tensors lower = make_route(r, false), upper = make_route(r, false);
    rig_buffer before = r->parameters;
    r->parameters.host = malloc((size_t)before.count * sizeof(float));
    if (r->parameters.host == NULL) abort();
    memcpy(r->parameters.host, before.host, (size_t)before.count * sizeof(float));
    for (int d = 0; d < r->spec->n_devices; d++)
        if (spoiled_layer(r, d) >= 0) spoil_weight(r, d, spoiled_layer(r, d), d % 3 == 0 ? INFINITY : NAN);
    record_route(r, lower, 0);
    record_route(r, upper, 1);
    if (rig_run(r)) {
        route_reference(r, lower, 0);
        route_reference(r, upper, 1);
        for (int d = 0; d < r->spec->n_devices; d++) {
            compare_fault(r, d, spoiled_layer(r, d));
            if (spoiled_layer(r, d) < 0) continue;
            for (int64_t i = rig_first(r, d) * CK_MAX_EXPERTS;
                 i < (rig_first(r, d) + rig_rows(r, d)) * CK_MAX_EXPERTS; i++)
                lower.gates->host[i] = upper.gates->host[i] = 0,
                lower.gates->ref[i] = upper.gates->ref[i] = 0;
        }
        rig_compare(r, lower.gates, COLUMNS_ALL);
        rig_compare(r, upper.gates, COLUMNS_ALL);
    }
    free(r->parameters.host);
    r->parameters.host = before.host;
    if (!rig_run(r)) return;
    for (int d = 0; d < r->spec->n_devices; d++) compare_fault(r, d, -1);
}

/* One NaN in one token of one device: that device alone, whichever it is. */
static void fault_of_one_token(rig *r) {
    route_tensors t = make_route(r, false);
    int sick = r->spec->n_devices / 2;
    int64_t token = rig_first(r, sick) + rig_rows(r, sick) - 1;
    record_route(r, t, RIG_LAYER);
    t.x->host[token * t.x->columns] = NAN;
    if (!rig_run(r)) return;
    route_reference(r, t, RIG_LAYER);
    for (int d = 0; d < r->spec->n_devices; d++) compare_fault(r, d, d == sick ? RIG_LAYER : -1);
    for (int i = 0; i < t.zh->columns; i++)
        t.zh->host[token * t.zh->columns + i] = (float)(rig_row(t.zh, token)[i] = 0);
    for (int i = 0; i < CK_MAX_EXPERTS; i++)
        t.gates->host[token * CK_MAX_EXPERTS + i] = (float)(rig_row(t.gates, token)[i] = 0);
    rig_ignore_unchosen(r, t.zh, COLUMNS_ROUTED, t.gates);
    rig_compare(r, t.zh, COLUMNS_ROUTED);
    rig_compare(r, t.gates, COLUMNS_ALL);
}

static void spoil_first_token(rig *r, rig_tensor *x, int sequence) {
    x->host[r->first_token[sequence] * x->columns] = NAN;
}

/* The last sequence faults in layer 0, the first one in layer 1: the device's first such layer is 0,
 * whichever sequence ran first. A device of one sequence faults in layer 1 alone. */
static void faults_of_two_sequences(rig *r) {
    route_tensors lower = make_route(r, false), upper = make_route(r, false);
    record_route(r, lower, 0);
    record_route(r, upper, 1);
    for (int d = 0; d < r->spec->n_devices; d++) {
        int first = r->first_sequence[d], last = r->first_sequence[d + 1] - 1;
        spoil_first_token(r, upper.x, first);
        if (last > first) spoil_first_token(r, lower.x, last);
    }
    if (!rig_run(r)) return;
    for (int d = 0; d < r->spec->n_devices; d++) {
        bool several = r->first_sequence[d + 1] - r->first_sequence[d] > 1;
        compare_fault(r, d, several ? 0 : 1);
    }
}

static const conformance_case cases[] = {
    {.name = "route", .run = route},
    {.name = "route with ties", .run = route_ties},
    {.name = "route statistics", .run = route_statistics},
    {.name = "route backward", .run = route_backward, .learns = true},
    {.name = "route backward, accumulating", .run = route_backward_accumulating, .learns = true},
    {.name = "load balance", .run = balance, .learns = true},
    {.name = "faults", .run = faults},
    {.name = "fault of one token", .run = fault_of_one_token},
    {.name = "faults of two sequences", .run = faults_of_two_sequences},
};
const conformance_group route_group = {"route", cases, sizeof cases / sizeof *cases};

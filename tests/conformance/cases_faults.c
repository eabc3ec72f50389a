/* What is wrong on purpose: logits that are no numbers, and experts that change places. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cases/ops.h"
#include "cases/route.h"
#include "conformance/cases.h"

static void compare_fault(const rig *r, verdict *v, int device, int expected) {
    verdict_exact(v, "fault", r->fault[device] == expected);
    if (r->fault[device] != expected)
        verdict_fail(v, "fault of device %d: expected %d, got %d", device, expected, r->fault[device]);
}

/* A view of all rows of a device. */
static void open_device(view *v, const rig *r, verdict *judge, int device) {
    static double *no_buffer[BUFFERS];
    int first = r->first_sequence[device], n = r->first_sequence[device + 1] - first;
    rig_context(r, judge, device);
    view_open_sequences(v, r, judge, device, picks_of(first, n, n), no_buffer);
}

/* One weight of the router where there is one and the device's number is even, else one of each expert's A1.
 */
static void spoil_weight(rig *r, int device, int layer, float value) {
    const ck_shape *s = rig_shape(r, device);
    bool router = s->router_rows > 0 && device % 2 == 0;
    oracle_range range = oracle_part_range(s, layer, router ? ORACLE_ROUTER : ORACLE_A1);
    float *weights = r->pack_kind[device] + range.offset;
    if (router) weights[3] = value;
    for (int e = 0; e < s->n_experts && !router; e++)
        if (s->rank[e] > 0) weights[(int64_t)s->rank_first[e] * s->width + 3] = value;
}

/* Every third device has an infinite weight in layer 0, every third plus one a NaN in layer 1, the others,
 * and those without such weights, none. */
static int spoiled_layer(const rig *r, int device) {
    const ck_shape *s = rig_shape(r, device);
    return device % 3 < 2 && s->router_rows + s->rank_sum > 0 ? device % 3 : -1;
}

static void judge_gates(const rig *r, verdict *judge, int device) {
    view v;
    open_device(&v, r, judge, device);
    route_reference(&v, route_lower(r));
    route_reference(&v, route_upper(r));
    view_judge(&v, LOWER_GATES);
    view_judge(&v, GATES);
    view_close(&v);
}

static void faults(rig *r, verdict *v) {
    float **good = r->pack_kind, **bad = rig_zeros(r->n_kinds, sizeof *bad);
    for (int d = 0; d < r->n_kinds; d++) {
        size_t bytes = (size_t)rig_pack_count(r, PACK_GRADIENTS, d) * sizeof(float);
        bad[d] = memcpy(rig_zeros(1, bytes), good[d], bytes);
    }
    r->pack_kind = bad;
    for (int d = 0; d < r->n_devices; d++)
        if (spoiled_layer(r, d) >= 0) spoil_weight(r, d, spoiled_layer(r, d), d % 3 == 0 ? INFINITY : NAN);
    if (conformance_once(r, v))
        for (int d = 0; d < r->n_devices; d++) {
            compare_fault(r, v, d, spoiled_layer(r, d));
            if (spoiled_layer(r, d) < 0) judge_gates(r, v, d);
        }
    r->pack_kind = good;
    for (int d = 0; d < r->n_kinds; d++) free(bad[d]);
    free(bad);
    if (!conformance_once(r, v)) return;
    for (int d = 0; d < r->n_devices; d++) compare_fault(r, v, d, -1);
}

/* One NaN in one token of one device: that device alone, whichever it is. */
static void fault_of_one_token(rig *r, verdict *judge) {
    int sick = r->n_devices / 2;
    int64_t row = rig_rows(r, sick) - 1;
    r->tensor[X].before[(rig_first(r, sick) + row) * r->width] = NAN;
    if (!conformance_once(r, judge)) return;
    for (int d = 0; d < r->n_devices; d++) {
        view v;
        compare_fault(r, judge, d, d == sick ? r->layer : -1);
        open_device(&v, r, judge, d);
        route_reference(&v, route_upper(r));
        view_unchosen(&v, ZH);
        if (d == sick) view_skip(&v, ZH, row);
        if (d == sick) view_skip(&v, GATES, row);
        view_judge(&v, ZH);
        view_judge(&v, GATES);
        view_close(&v);
    }
}

static void spoil_first_token(rig *r, tensor_id x, int sequence) {
    r->tensor[x].before[r->first_token[sequence] * r->width] = NAN;
}

/* The last sequence faults in layer 0, the first one in layer 1: the device's first such layer is 0,
 * whichever sequence ran first. A device of one sequence faults in layer 1 alone. */
static void faults_of_two_sequences(rig *r, verdict *v) {
    for (int d = 0; d < r->n_devices; d++) {
        int first = r->first_sequence[d], last = r->first_sequence[d + 1] - 1;
        spoil_first_token(r, X, first);
        if (last > first) spoil_first_token(r, LOWER_X, last);
    }
    if (!conformance_once(r, v)) return;
    for (int d = 0; d < r->n_devices; d++)
        compare_fault(r, v, d, r->first_sequence[d + 1] - r->first_sequence[d] > 1 ? 0 : 1);
}

/* The weights of each token's experts, rotated by one. */
static void rotate_gates(rig *r) {
    for (int d = 0; d < r->n_devices; d++) {
        int experts = rig_shape(r, d)->n_experts;
        for (int64_t t = rig_first(r, d); t < rig_first(r, d) + rig_rows(r, d); t++) {
            float right[CK_MAX_EXPERTS], *gates = r->tensor[GATES].before + t * CK_MAX_EXPERTS;
            memcpy(right, gates, sizeof right);
            for (int e = 0; e < experts; e++) gates[(e + 1) % experts] = right[e];
        }
    }
}

/* A check that cannot fail is no check: the backend gets the weights of each token's experts rotated by one,
 * the oracle the right ones, and every device with more than one expert of its own weight must come out
 * wrong. */
static void wrong_routing_is_noticed(rig *r, verdict *judge) {
    size_t bytes = (size_t)r->n_tokens * CK_MAX_EXPERTS * sizeof(float);
    float *right = memcpy(rig_zeros(1, bytes), r->tensor[GATES].before, bytes);
    rotate_gates(r);
    bool done = conformance_once(r, judge);
    memcpy(r->tensor[GATES].before, right, bytes);
    free(right);
    for (int d = 0; d < r->n_devices && done; d++) {
        view v;
        if (rig_shape(r, d)->router_rows == 0) continue;
        open_device(&v, r, judge, d);
        r->which->reference(&v);
        double error = verdict_error(v.out[M], v.tensor[M], v.rows.n * r->ffn);
        verdict_exact(judge, "the wrong experts, which must give another m,", error > 100 * TOLERANCE_F32);
        view_close(&v);
    }
}

const conformance_case fault_cases[] = {
    {.group = "route", .variant = {"faults", ROUTE_TWO_LAYERS}, .op = &route_forward, .run = faults},
    {.group = "route", .variant = {"fault of one token"}, .op = &route_forward, .run = fault_of_one_token},
    {.group = "route",
     .variant = {"faults of two sequences", ROUTE_TWO_LAYERS},
     .op = &route_forward,
     .run = faults_of_two_sequences},
    {.group = "experts",
     .variant = {"wrong routing", .exact = true},
     .op = &activation_forward,
     .run = wrong_routing_is_noticed},
    {0}};

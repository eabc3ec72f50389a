/* The expert layer's activation, expansion and bias, forward and backward. Values of experts that were not
 * chosen are nobody's business (a backend may skip them): they are finite where they come in, and not
 * compared where they go out. */
#include <stdlib.h>
#include <string.h>

#include "conformance/cases.h"

/* Gates as a router of random logits would give them. */
static rig_tensor *make_gates(rig *r) {
    rig_tensor *gates = rig_output(r, CK_MAX_EXPERTS, "gates");
    for (int d = 0; d < r->spec->n_devices; d++)
        for (int64_t t = rig_first(r, d); t < rig_first(r, d) + rig_rows(r, d); t++) {
            double logits[CK_MAX_EXPERTS];
            for (int e = 0; e < CK_MAX_EXPERTS; e++) logits[e] = wave_draw(&r->random, 1);
            oracle_gates(rig_shape(r, d), logits, rig_row(gates, t));
        }
    rig_round(r, gates);
    return gates;
}

static rig_tensor *make_routed(rig *r) {
    rig_tensor *zh = rig_input(r, r->max_zh, "zh");
    rig_poison(r, zh, COLUMNS_ROUTED);
    return zh;
}

static rig_tensor *make_ranked(rig *r, const char *name) {
    rig_tensor *t = rig_input(r, r->max_ranks, name);
    rig_poison(r, t, COLUMNS_RANKS);
    return t;
}

/* W_pr m + c b_pr + residual, for any c. */
static void linear_with_factors(rig *r) {
    int in = r->spec->ffn, out = r->spec->width;
    rig_tensor *x = rig_input(r, in, "x"), *y = rig_output(r, out, "y"),
               *residual = rig_input(r, out, "residual"), *factor = rig_input(r, 1, "bias factor");
    rig_buffer *weight = rig_weights(r, (int64_t)in * out, 0.2, "weight"),
               *bias = rig_weights(r, out, 3, "bias");
    ck_op_linear(r->program, &(ck_linear){.x = x->tensor,
                                          .y = y->tensor,
                                          .residual = residual->tensor,
                                          .bias_factor = factor->tensor,
                                          .weight = weight->memory,
                                          .bias = bias->memory,
                                          .in = in,
                                          .out = out,
                                          .linear = -1});
    if (rig_run(r)) {
        oracle_linear((oracle_linear_size){r->n_tokens, in, out}, x->ref, weight->ref, bias->ref, factor->ref,
                      residual->ref, y->ref);
        rig_compare(r, y, COLUMNS_ALL);
    }
}

/* Columns of U. */
static int up_columns(const rig *r) {
    return oracle_branches(rig_shape(r, 0)) * r->spec->ffn;
}

typedef struct {
    rig_tensor *u, *zh, *gates, *m, *g;
} activation_tensors;

static activation_tensors record_activation(rig *r) {
    int ffn = r->spec->ffn;
    activation_tensors a = {rig_input(r, up_columns(r), "u"), make_routed(r), make_gates(r),
                            rig_output(r, ffn, "m"), rig_output(r, r->max_ranks, "g")};
    ck_op_expert_activation(r->program, &(ck_expert_activation){.u = a.u->tensor,
                                                                .zh = a.zh->tensor,
                                                                .gates = a.gates->tensor,
                                                                .m = a.m->tensor,
                                                                .g = a.g->tensor,
                                                                .ffn = ffn,
                                                                .layer = RIG_LAYER,
                                                                .mlp = r->spec->mlp});
    return a;
}

static void activation_reference(rig *r, activation_tensors t) {
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_expert_activation(&a, rig_rows(r, d), rig_row(t.u, first), rig_row(t.zh, first), t.zh->columns,
                                 rig_row(t.gates, first), rig_row(t.m, first), rig_row(t.g, first),
                                 t.g->columns);
    }
}

static void activation(rig *r) {
    activation_tensors t = record_activation(r);
    if (!rig_run(r)) return;
    activation_reference(r, t);
    rig_ignore_unchosen(r, t.g, COLUMNS_RANKS, t.gates);
    rig_compare(r, t.m, COLUMNS_ALL);
    rig_compare(r, t.g, COLUMNS_RANKS);
}

/* A check that cannot fail is no check: the backend gets the weights of each token's experts rotated by one,
 * the oracle the right ones, and every device with more than one expert of its own weight must come out
 * wrong. */
static void wrong_routing_is_noticed(rig *r) {
    activation_tensors t = record_activation(r);
    for (int d = 0; d < r->spec->n_devices; d++) {
        int experts = rig_shape(r, d)->n_experts;
        for (int64_t i = rig_first(r, d); i < rig_first(r, d) + rig_rows(r, d); i++)
            for (int e = 0; e < experts; e++)
                t.gates->host[i * CK_MAX_EXPERTS + (e + 1) % experts] = (float)rig_row(t.gates, i)[e];
    }
    if (!rig_run(r)) return;
    activation_reference(r, t);
    for (int d = 0; d < r->spec->n_devices; d++) {
        const ck_shape *s = rig_shape(r, d);
        if (s->router_rows == 0) continue;
        int64_t first = rig_first(r, d), count = rig_rows(r, d) * t.m->columns;
        double error = check_error(t.m->host + first * t.m->columns, rig_row(t.m, first), count);
        r->check->comparisons++;
        if (!(error > 100 * rig_tolerance))
            check_fail(r->check,
                       "%s on wave '%s': device %d: the wrong experts give a relative error of only %.1e",
                       r->case_name, r->spec->name, d, error);
    }
}

static void expand(rig *r) {
    rig_tensor *g = make_ranked(r, "g"), *gates = make_gates(r), *y = rig_input(r, r->spec->width, "y");
    ck_op_expert_expand(
        r->program,
        &(ck_expert_expand){.g = g->tensor, .gates = gates->tensor, .y = y->tensor, .layer = RIG_LAYER});
    if (!rig_run(r)) return;
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_expert_expand(&a, rig_rows(r, d), rig_row(g, first), g->columns, rig_row(gates, first),
                             rig_row(y, first));
    }
    rig_compare(r, y, COLUMNS_ALL);
}

static void expand_backward_with(rig *r, bool biased) {
    rig_tensor *dy = rig_input(r, r->spec->width, "dy"), *g = make_ranked(r, "g"), *gates = make_gates(r);
    rig_tensor *q = rig_output(r, r->max_ranks, "q"), *dw = rig_output(r, CK_MAX_EXPERTS, "dw");
    rig_buffer *bias = rig_weights(r, r->spec->width, 1, "bias");
    ck_op_expert_expand_backward(r->program,
                                 &(ck_expert_expand_backward){.dy = dy->tensor,
                                                              .g = g->tensor,
                                                              .gates = gates->tensor,
                                                              .q = q->tensor,
                                                              .dw = dw->tensor,
                                                              .bias = biased ? bias->memory : NULL,
                                                              .layer = RIG_LAYER,
                                                              .linear = -1});
    if (!rig_run(r)) return;
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_expert_expand_backward(&a, rig_rows(r, d), biased ? bias->ref : NULL, rig_row(dy, first),
                                      rig_row(g, first), g->columns, rig_row(gates, first), rig_row(q, first),
                                      rig_row(dw, first));
    }
    rig_ignore_unchosen(r, q, COLUMNS_RANKS, gates);
    rig_ignore_unchosen(r, dw, COLUMNS_EXPERTS, gates);
    rig_compare(r, q, COLUMNS_RANKS);
    rig_compare(r, dw, COLUMNS_EXPERTS);
    rig_compare_gradients(r, RIG_LAYER, 1u << ORACLE_B2);
}

static void expand_backward(rig *r) {
    expand_backward_with(r, true);
}

static void expand_backward_unbiased(rig *r) {
    expand_backward_with(r, false);
}

static void activation_backward(rig *r) {
    int ffn = r->spec->ffn, up = up_columns(r);
    rig_tensor *u = rig_input(r, up, "u"), *zh = make_routed(r), *gates = make_gates(r),
               *dm = rig_input(r, ffn, "dm"), *q = make_ranked(r, "q");
    rig_tensor *du = rig_output(r, up, "du"), *p = rig_output(r, r->max_h, "p"),
               *dw = rig_input(r, CK_MAX_EXPERTS, "dw");
    rig_poison(r, dw, COLUMNS_EXPERTS);
    ck_op_expert_activation_backward(r->program, &(ck_expert_activation_backward){.u = u->tensor,
                                                                                  .zh = zh->tensor,
                                                                                  .gates = gates->tensor,
                                                                                  .dm = dm->tensor,
                                                                                  .q = q->tensor,
                                                                                  .du = du->tensor,
                                                                                  .p = p->tensor,
                                                                                  .dw = dw->tensor,
                                                                                  .ffn = ffn,
                                                                                  .layer = RIG_LAYER,
                                                                                  .mlp = r->spec->mlp});
    if (!rig_run(r)) return;
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_expert_activation_backward(&a, rig_rows(r, d), rig_row(u, first), rig_row(zh, first),
                                          zh->columns, rig_row(gates, first), rig_row(dm, first),
                                          rig_row(q, first), q->columns, rig_row(du, first),
                                          rig_row(p, first), p->columns, rig_row(dw, first));
    }
    rig_ignore_unchosen(r, dw, COLUMNS_EXPERTS, gates);
    rig_compare(r, du, COLUMNS_ALL);
    rig_compare(r, p, COLUMNS_H);
    rig_compare(r, dw, COLUMNS_EXPERTS);
    rig_compare_gradients(r, RIG_LAYER, 1u << ORACLE_B1 | 1u << ORACLE_A2);
}

static const conformance_case cases[] = {
    {.name = "linear with bias factors", .run = linear_with_factors},
    {.name = "expert activation", .run = activation},
    {.name = "wrong routing", .run = wrong_routing_is_noticed, .exact = true},
    {.name = "expert expand", .run = expand},
    {.name = "expert expand, backward", .run = expand_backward, .learns = true},
    {.name = "expert expand, backward, without bias", .run = expand_backward_unbiased, .learns = true},
    {.name = "expert activation, backward", .run = activation_backward, .learns = true},
};
const conformance_group expert_group = {"experts", cases, sizeof cases / sizeof *cases};

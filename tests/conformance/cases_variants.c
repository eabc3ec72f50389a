/* Waves whose devices have different variants of the base: the ops that read a linear's weight or bias, for
 * each device against the oracle with the weights that are the device's own. */
#include <stdlib.h>

#include "conformance/cases.h"

enum { VARIANTS = 3, LINEARS = 3, LINEAR = 1 };

/* One linear in all its versions. Variant 1 replaces weight and bias, 2 the weight, 3 the bias. */
typedef struct {
    rig_buffer *weight[VARIANTS + 1], *bias[VARIANTS + 1]; /* [0]: what is recorded */
    int in, out;
    ck_replacement table[VARIANTS * LINEARS];
} versions;

static bool replaces_weight(int variant) {
    return variant == 1 || variant == 2;
}

static bool replaces_bias(int variant) {
    return variant == 1 || variant == 3;
}

/* Neighbours with the same and with different variants, a device alone, and the recorded weights first,
 * between and last. */
static void assign_variants(rig *r, int turn) {
    static const int pattern[] = {0, 1, 1, 2, 3, 0, 2, 3, 3, 1, 0, 0, 2, 0};
    for (int d = 0; d < r->spec->n_devices; d++)
        r->devices[d].variant = (pattern[d % 14] + turn) % (VARIANTS + 1);
}

/* The rows of the other linears hold a weight that no test expects. */
static void make_versions(rig *r, versions *v, int in, int out, bool recorded_bias) {
    rig_buffer *wrong = rig_weights(r, (int64_t)in * out, 100, "another linear's weight");
    *v = (versions){.in = in, .out = out};
    for (int i = 0; i <= VARIANTS; i++) {
        v->weight[i] = v->weight[0], v->bias[i] = v->bias[0];
        if (i == 0 || replaces_weight(i)) v->weight[i] = rig_weights(r, (int64_t)in * out, 0.3, "weight");
        if (i == 0 ? recorded_bias : replaces_bias(i)) v->bias[i] = rig_weights(r, out, 1, "bias");
    }
    for (int i = 1; i <= VARIANTS; i++)
        for (int l = 0; l < LINEARS; l++) {
            ck_replacement own = {replaces_weight(i) ? v->weight[i]->memory : NULL,
                                  replaces_bias(i) ? v->bias[i]->memory : NULL};
            v->table[(i - 1) * LINEARS + l] =
                l == LINEAR ? own : (ck_replacement){wrong->memory, wrong->memory};
        }
    r->wave.n_variants = VARIANTS;
    r->wave.n_linears = LINEARS;
    r->wave.variants = v->table;
    assign_variants(r, 0);
}

static const double *weight_of(const versions *v, const rig *r, int device) {
    return v->weight[r->devices[device].variant]->ref;
}

/* none [out]: zeros, for a linear without bias. */
static const double *bias_of(const versions *v, const rig *r, int device, const double *none) {
    const rig_buffer *bias = v->bias[r->devices[device].variant];
    return bias ? bias->ref : none;
}

static oracle_linear_size size_of(const versions *v, const rig *r, int device) {
    return (oracle_linear_size){rig_rows(r, device), v->in, v->out};
}

/* ---- y = x W^T + c b + residual -------------------------------------------------------------- */

typedef struct {
    bool factors, residual, no_recorded_bias;
} linear_options;

typedef struct {
    rig *r;
    versions v;
    rig_tensor *x, *y, *residual, *factor;
} linear_world;

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

static void record_linear(linear_world *w, rig *r, int in, int out, linear_options o) {
    w->r = r;
    w->x = rig_input(r, in, "x"), w->y = rig_output(r, out, "y");
    w->residual = o.residual ? rig_input(r, out, "residual") : NULL;
    w->factor = o.factors ? rig_input(r, 1, "bias factor") : NULL;
    make_versions(r, &w->v, in, out, !o.no_recorded_bias);
    ck_op_linear(r->program, &(ck_linear){.x = w->x->tensor,
                                          .y = w->y->tensor,
                                          .residual = o.residual ? w->residual->tensor : NULL,
                                          .bias_factor = o.factors ? w->factor->tensor : NULL,
                                          .weight = w->v.weight[0]->memory,
                                          .bias = o.no_recorded_bias ? NULL : w->v.bias[0]->memory,
                                          .in = in,
                                          .out = out,
                                          .linear = LINEAR});
}

static void linear_reference(const linear_world *w) {
    rig *r = w->r;
    double *none = oracle_zeros(w->v.out);
    for (int d = 0; d < r->spec->n_devices; d++) {
        int64_t first = rig_first(r, d);
        oracle_linear(size_of(&w->v, r, d), rig_row(w->x, first), weight_of(&w->v, r, d),
                      bias_of(&w->v, r, d, none), w->factor ? rig_row(w->factor, first) : NULL,
                      w->residual ? rig_row(w->residual, first) : NULL, rig_row(w->y, first));
    }
    free(none);
}

/* The same program once more, with other variants each time: a recorded graph must not bring back the
 * first. */
static void linear_with(rig *r, int in, int out, linear_options o) {
    linear_world w;
    record_linear(&w, r, in, out, o);
    for (int run = 0; run < 5; run++) {
        assign_variants(r, run / 2);
        if (!rig_run(r)) return;
        linear_reference(&w);
        rig_compare(r, w.y, COLUMNS_ALL);
    }
}

static void linear(rig *r) {
    linear_with(r, r->spec->width, 3 * r->spec->width, (linear_options){0});
}

static void linear_with_factors(rig *r) {
    linear_with(r, r->spec->ffn, r->spec->width, (linear_options){.factors = true, .residual = true});
}

static void linear_without_bias(rig *r) {
    linear_with(r, r->spec->width, 7, (linear_options){.no_recorded_bias = true});
}

/* A GPU begins y with what follows: residual and bias are the following op's business there. */
static void linear_then_expand(rig *r) {
    linear_world w;
    rig_tensor *g = rig_input(r, r->max_ranks, "g"), *gates = make_gates(r);
    rig_poison(r, g, COLUMNS_RANKS);
    record_linear(&w, r, r->spec->ffn, r->spec->width, (linear_options){.factors = true, .residual = true});
    ck_op_expert_expand(
        r->program,
        &(ck_expert_expand){.g = g->tensor, .gates = gates->tensor, .y = w.y->tensor, .layer = RIG_LAYER});
    if (!rig_run(r)) return;
    linear_reference(&w);
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_expert_expand(&a, rig_rows(r, d), rig_row(g, first), g->columns, rig_row(gates, first),
                             rig_row(w.y, first));
    }
    rig_compare(r, w.y, COLUMNS_ALL);
}

static void linear_then_lora(rig *r) {
    linear_world w;
    int in = rig_shape(r, 0)->q_width;
    rig_tensor *h = rig_output(r, r->max_lora_rank, "h");
    record_linear(&w, r, in, r->spec->width, (linear_options){.residual = true});
    ck_op_lora(r->program, &(ck_lora){.x = w.x->tensor,
                                      .h = h->tensor,
                                      .y = w.y->tensor,
                                      .site = CK_SITE_OUT,
                                      .in = in,
                                      .out = r->spec->width,
                                      .layer = RIG_LAYER});
    if (!rig_run(r)) return;
    linear_reference(&w);
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_lora(&a, CK_SITE_OUT, rig_rows(r, d), rig_row(w.x, first), rig_row(h, first), h->columns,
                    rig_row(w.y, first), w.y->columns);
    }
    rig_compare(r, w.y, COLUMNS_ALL);
}

/* ---- dx (+)= dy W ---------------------------------------------------------------------------- */

static void linear_backward_with(rig *r, bool accumulate) {
    int in = r->spec->width, out = r->spec->ffn;
    versions v;
    rig_tensor *dy = rig_input(r, out, "dy"),
               *dx = accumulate ? rig_input(r, in, "dx") : rig_output(r, in, "dx");
    make_versions(r, &v, in, out, true);
    ck_op_linear_backward(r->program, &(ck_linear_backward){.dy = dy->tensor,
                                                            .dx = dx->tensor,
                                                            .weight = v.weight[0]->memory,
                                                            .in = in,
                                                            .out = out,
                                                            .linear = LINEAR,
                                                            .accumulate = accumulate,
                                                            .weight_gradient = -1,
                                                            .bias_gradient = -1});
    if (!rig_run(r)) return;
    for (int d = 0; d < r->spec->n_devices; d++) {
        int64_t first = rig_first(r, d);
        oracle_linear_backward(size_of(&v, r, d), NULL, weight_of(&v, r, d), rig_row(dy, first),
                               rig_row(dx, first), NULL, NULL);
    }
    rig_compare(r, dx, COLUMNS_ALL);
}

static void linear_backward(rig *r) {
    linear_backward_with(r, false);
}

static void linear_backward_accumulating(rig *r) {
    linear_backward_with(r, true);
}

/* ---- dw_e = <g_e, q_e> + <b_pr, dy> ---------------------------------------------------------- */

static void expand_backward_with(rig *r, bool recorded_bias) {
    versions v;
    rig_tensor *dy = rig_input(r, r->spec->width, "dy"), *g = rig_input(r, r->max_ranks, "g"),
               *gates = make_gates(r);
    rig_tensor *q = rig_output(r, r->max_ranks, "q"), *dw = rig_output(r, CK_MAX_EXPERTS, "dw");
    rig_poison(r, g, COLUMNS_RANKS);
    make_versions(r, &v, r->spec->ffn, r->spec->width, recorded_bias);
    ck_op_expert_expand_backward(
        r->program, &(ck_expert_expand_backward){.dy = dy->tensor,
                                                 .g = g->tensor,
                                                 .gates = gates->tensor,
                                                 .q = q->tensor,
                                                 .dw = dw->tensor,
                                                 .bias = recorded_bias ? v.bias[0]->memory : NULL,
                                                 .layer = RIG_LAYER,
                                                 .linear = LINEAR});
    if (!rig_run(r)) return;
    double *none = oracle_zeros(r->spec->width);
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_expert_expand_backward(&a, rig_rows(r, d), bias_of(&v, r, d, none), rig_row(dy, first),
                                      rig_row(g, first), g->columns, rig_row(gates, first), rig_row(q, first),
                                      rig_row(dw, first));
    }
    free(none);
    rig_ignore_unchosen(r, q, COLUMNS_RANKS, gates);
    rig_ignore_unchosen(r, dw, COLUMNS_EXPERTS, gates);
    rig_compare(r, q, COLUMNS_RANKS);
    rig_compare(r, dw, COLUMNS_EXPERTS);
    rig_compare_gradients(r, RIG_LAYER, 1u << ORACLE_B2);
}

static void expand_backward(rig *r) {
    expand_backward_with(r, true);
}

static void expand_backward_without_bias(rig *r) {
    expand_backward_with(r, false);
}

static const conformance_case cases[] = {
    {.name = "linear", .run = linear},
    {.name = "linear with bias factors", .run = linear_with_factors},
    {.name = "linear, bias in variants only", .run = linear_without_bias},
    {.name = "linear, then expand", .run = linear_then_expand},
    {.name = "linear, then LoRA", .run = linear_then_lora},
    {.name = "linear backward", .run = linear_backward},
    {.name = "linear backward, accumulating", .run = linear_backward_accumulating},
    {.name = "expand backward", .run = expand_backward, .learns = true},
    {.name = "expand backward, bias in variants only", .run = expand_backward_without_bias, .learns = true},
};
const conformance_group variants_group = {"variants", cases, sizeof cases / sizeof *cases};

/* model.c - the transformer with adapters, as three programs: a training step, an evaluation, and decoding.
 *
 *   x_0 = embed                                    n1 = norm(x_l)             qkv = W_qkv n1 + LoRA_qkv(n1)
 *   x'  = x_l + W_out o + LoRA_out(o)              o = attention(qkv)         n2 = norm(x')
 *   U   = W_fc n2 + LoRA_fc(n2),  (z, h) = route(n2)                          (m, g) = experts(U, h, w)
 *   x_{l+1} = x' + W_pr m + b_pr sum w + s sum w B2 g + LoRA_pr(m)            loss = head(norm(x_L))
 *
 * The norm, the positions (in attention) and the experts' activation are the family's (family.h).
 *
 * Backward carries one gradient stream d (of x_L, then x', then x_l ...). What it reads again is one tensor
 * per layer, everything else is shared by all layers; an evaluation shares all of it. Below the lowest
 * adapter (the first layer's qkv LoRA, or without attention LoRA its router and experts) nothing needs a
 * gradient and nothing is recorded. LoRA_qkv, LoRA_out, LoRA_fc, LoRA_pr: whatever a site has besides the
 * routed experts (adapt.h). */
#include "model/model.h"

#include <stdlib.h>

#include "base/linears.h"
#include "model/adapt.h"
#include "model/family.h"
#include "support/kernel_problem.h"

typedef struct {
    ck_tensor *x, *n1, *stats1, *qkv, *o, *lse, *x2, *stats2, *n2, *zh, *gates, *u, *m, *g;
    ck_tensor *hidden; /* NULL: no router has a hidden layer, or nothing reads it again */
    adapter_tensors adapters;
} layer_tensors;

typedef struct {
    ck_program *program;
    const model_base *base;
    const model_outputs *out;
    const model_decoding *decoding; /* NULL: whole sequences, and a loss */
    ck_precision precision;
    adapted_sites sites;
    int32_t zh_columns, h_columns, rank_columns; /* the widest over all shapes */
    bool any_mlp_mix, any_hidden;                /* any_hidden: of a router */
    layer_tensors *layers;                       /* [L + 1]; of the last only x exists */
    ck_tensor *bias_factor;                      /* NULL: no device mixes outputs of MLPs */
    ck_tensor *nf, *statsf;
    ck_tensor *d, *dn, *dm, *du, *q, *p, *dw, *d_o, *dqkv; /* backward only */
} recorder;

static const float *at(const recorder *r, int64_t layer0_offset, int layer) {
    return model_weight(r->base, layer0_offset, layer);
}

static int32_t wider(int32_t a, int32_t b) {
    return a > b ? a : b;
}

static void measure_shapes(recorder *r, const ck_shape *shapes, int n_shapes) {
    r->sites = adapted_sites_of(shapes, n_shapes);
    for (int i = 0; i < n_shapes; i++) {
        r->zh_columns = wider(r->zh_columns, shapes[i].router_rows + shapes[i].h_ranks);
        r->h_columns = wider(r->h_columns, shapes[i].h_ranks);
        r->rank_columns = wider(r->rank_columns, shapes[i].rank_sum);
        r->any_mlp_mix |= shapes[i].mix == CK_MIX_MLP;
        r->any_hidden |= shapes[i].router_rows > 0 && shapes[i].router == CK_ROUTER_LLAMA_MOE;
    }
}

static void create_layer(recorder *r, layer_tensors *t, bool backward) {
    const base_shape *s = &r->base->shape;
    t->x = ck_activation(r->program, s->width, "x");
    t->n1 = ck_activation(r->program, s->width, "norm 1");
    t->stats1 = ck_activation(r->program, 2, "norm 1 statistics");
    t->qkv = ck_activation(r->program, base_qkv_width(s), "qkv");
    t->o = ck_activation(r->program, base_q_width(s), "attention");
    t->lse = ck_activation(r->program, s->heads, "attention log-sum-exp");
    t->x2 = ck_activation(r->program, s->width, "x after attention");
    t->stats2 = ck_activation(r->program, 2, "norm 2 statistics");
    t->n2 = ck_activation(r->program, s->width, "norm 2");
    t->zh = ck_activation(r->program, r->zh_columns, "router logits and shrink");
    t->gates = ck_activation(r->program, CK_MAX_EXPERTS, "gates");
    t->u = ck_activation(r->program, base_fc_width(s), "fc");
    t->g = ck_activation(r->program, r->rank_columns, "second shrink");
    if (r->any_hidden && backward)
        t->hidden = ck_activation(r->program, 2 * CK_MAX_EXPERTS, "hidden layer of the router");
    t->adapters = adapter_tensors_create(r->program, &r->sites);
}

/* Training keeps one set per layer; an evaluation passes the same set through all of them. */
static void create_tensors(recorder *r, bool backward) {
    const base_shape *s = &r->base->shape;
    create_layer(r, &r->layers[0], backward);
    for (int l = 1; l < s->layers; l++)
        if (backward)
            create_layer(r, &r->layers[l], backward);
        else
            r->layers[l] = r->layers[0];
    r->layers[s->layers].x = backward ? ck_activation(r->program, s->width, "x") : r->layers[0].x;
    if (r->any_mlp_mix) r->bias_factor = ck_activation(r->program, 1, "factor of the second bias");
    /* only adapters at PR read it again */
    bool apart = is_adapted(&r->sites, CK_SITE_PR) && backward;
    ck_tensor *m = apart ? NULL : ck_activation(r->program, s->ffn, "mixed activation");
    for (int l = 0; l < s->layers; l++)
        r->layers[l].m = m ? m : ck_activation(r->program, s->ffn, "mixed activation");
    r->nf = ck_activation(r->program, s->width, "final norm");
    r->statsf = ck_activation(r->program, 2, "final norm statistics");
    if (!backward) return;
    r->d = ck_activation(r->program, s->width, "gradient stream");
    r->dn = ck_activation(r->program, s->width, "gradient of a norm");
    r->dm = ck_activation(r->program, s->ffn, "gradient of the mixed activation");
    r->du = ck_activation(r->program, base_fc_width(s), "gradient of fc");
    r->q = ck_activation(r->program, r->rank_columns, "gradient of the second shrink");
    r->p = ck_activation(r->program, r->h_columns, "gradient of the shrink");
    r->dw = ck_activation(r->program, CK_MAX_EXPERTS, "gradient of the gates");
    r->d_o = ck_activation(r->program, base_q_width(s), "gradient of attention");
    r->dqkv = ck_activation(r->program, base_qkv_width(s), "gradient of qkv");
}

static void norm(recorder *r, ck_tensor *x, ck_tensor *y, ck_tensor *stats, const float *gain,
                 const float *bias) {
    model_norm(r->program, r->base, x, y, stats, gain, bias);
}

static adapted_layer adapted(const recorder *r, int l) {
    return (adapted_layer){r->program, &r->base->shape, &r->sites, r->layers[l].adapters, l};
}

/* Those whose outputs are in qkv. */
static const ck_site qkv_sites[] = {CK_SITE_QKV, CK_SITE_Q, CK_SITE_K, CK_SITE_V};
enum { N_QKV = sizeof qkv_sites / sizeof *qkv_sites };

/* Bytes of the keys of a layer; its values take as much. */
static size_t keys_bytes(const base_shape *s, ck_precision precision, int32_t slots, int32_t positions) {
    return ck_keys_bytes(precision, slots, s->kv_heads, positions, s->head_size);
}

size_t model_cache_bytes(const base_shape *base, ck_precision precision, int32_t slots, int32_t positions) {
    return 2 * (size_t)base->layers * keys_bytes(base, precision, slots, positions);
}

static void attention(recorder *r, int l) {
    const base_shape *s = &r->base->shape;
    const layer_tensors *t = &r->layers[l];
    const model_decoding *d = r->decoding;
    if (!d) {
        model_attention(r->program, r->base, t->qkv, t->o, t->lse);
        return;
    }
    model_turn(r->program, r->base, t->qkv);
    size_t bytes = keys_bytes(s, r->precision, d->slots, d->positions);
    char *keys = (char *)d->cache + 2 * (size_t)l * bytes;
    ck_op_attention_cached(r->program, &(ck_attention_cached){.qkv = t->qkv,
                                                              .o = t->o,
                                                              .keys = keys,
                                                              .values = keys + bytes,
                                                              .slots = d->slots,
                                                              .positions = d->positions,
                                                              .heads = s->heads,
                                                              .kv_heads = s->kv_heads,
                                                              .head_size = s->head_size});
}

static void attention_forward(recorder *r, int l) {
    const base_shape *s = &r->base->shape;
    const base_layer *w = &r->base->layout.layer0;
    const layer_tensors *t = &r->layers[l];
    adapted_layer here = adapted(r, l);
    norm(r, t->x, t->n1, t->stats1, at(r, w->ln1_gain, l), at(r, w->ln1_bias, l));
    ck_op_linear(r->program, &(ck_linear){.x = t->n1,
                                          .y = t->qkv,
                                          .weight = at(r, w->qkv_w, l),
                                          .bias = at(r, w->qkv_b, l),
                                          .in = s->width,
                                          .out = base_qkv_width(s),
                                          .linear = base_linear_number(l, BASE_QKV)});
    for (int i = 0; i < N_QKV; i++) adapt(&here, qkv_sites[i], t->n1, t->qkv);
    attention(r, l);
    ck_op_linear(r->program, &(ck_linear){.x = t->o,
                                          .y = t->x2,
                                          .residual = t->x,
                                          .weight = at(r, w->out_w, l),
                                          .bias = at(r, w->out_b, l),
                                          .in = base_q_width(s),
                                          .out = s->width,
                                          .linear = base_linear_number(l, BASE_OUT)});
    adapt(&here, CK_SITE_OUT, t->o, t->x2);
}

static void experts_forward(recorder *r, int l) {
    const base_shape *s = &r->base->shape;
    const base_layer *w = &r->base->layout.layer0;
    const layer_tensors *t = &r->layers[l];
    adapted_layer here = adapted(r, l);
    const model_outputs *out = r->out;
    norm(r, t->x2, t->n2, t->stats2, at(r, w->ln2_gain, l), at(r, w->ln2_bias, l));
    ck_op_route(r->program, &(ck_route){.x = t->n2,
                                        .zh = t->zh,
                                        .gates = t->gates,
                                        .bias_factor = r->bias_factor,
                                        .hidden = t->hidden,
                                        .layer = l,
                                        .gate_sum = out->gate_sum,
                                        .top1_count = out->top1_count,
                                        .top_k_count = out->top_k_count,
                                        .load_sum = out->load_sum,
                                        .n_layers = s->layers,
                                        .gate_record = out->gate_record});
    ck_op_linear(r->program, &(ck_linear){.x = t->n2,
                                          .y = t->u,
                                          .weight = at(r, w->fc_w, l),
                                          .bias = at(r, w->fc_b, l),
                                          .in = s->width,
                                          .out = base_fc_width(s),
                                          .linear = base_linear_number(l, BASE_FC)});
    adapt(&here, CK_SITE_GATE, t->n2, t->u);
    adapt(&here, CK_SITE_FC, t->n2, t->u);
    ck_op_expert_activation(r->program, &(ck_expert_activation){.u = t->u,
                                                                .zh = t->zh,
                                                                .gates = t->gates,
                                                                .m = t->m,
                                                                .g = t->g,
                                                                .ffn = s->ffn,
                                                                .layer = l,
                                                                .mlp = model_family_of(s)->mlp});
    ck_tensor *y = r->layers[l + 1].x;
    ck_op_linear(r->program, &(ck_linear){.x = t->m,
                                          .y = y,
                                          .residual = t->x2,
                                          .bias_factor = r->bias_factor,
                                          .weight = at(r, w->pr_w, l),
                                          .bias = at(r, w->pr_b, l),
                                          .in = s->ffn,
                                          .out = s->width,
                                          .linear = base_linear_number(l, BASE_PR)});
    ck_op_expert_expand(r->program, &(ck_expert_expand){.g = t->g, .gates = t->gates, .y = y, .layer = l});
    adapt(&here, CK_SITE_PR, t->m, y);
}

static void head(recorder *r, ck_tensor *dx) {
    const base_shape *s = &r->base->shape;
    const base_layout *w = &r->base->layout;
    norm(r, r->layers[s->layers].x, r->nf, r->statsf, at(r, w->lnf_gain, 0), at(r, w->lnf_bias, 0));
    if (r->decoding) {
        ck_op_logits(r->program, &(ck_logits){.x = r->nf,
                                              .weight = at(r, w->head, 0),
                                              .logits = r->decoding->logits,
                                              .width = s->width,
                                              .vocabulary = s->vocabulary});
        return;
    }
    ck_op_head(r->program, &(ck_head){.mode = dx ? CK_HEAD_STEP : CK_HEAD_EVALUATE,
                                      .x = r->nf,
                                      .dx = dx,
                                      .weight = at(r, w->head, 0),
                                      .loss = r->out->loss,
                                      .logits = r->out->logits,
                                      .width = s->width,
                                      .vocabulary = s->vocabulary});
}

static void forward(recorder *r) {
    const base_shape *s = &r->base->shape;
    model_embed(r->program, r->base, r->layers[0].x);
    for (int l = 0; l < s->layers; l++) {
        attention_forward(r, l);
        experts_forward(r, l);
    }
    head(r, r->dn);
}

static void norm_backward(recorder *r, ck_tensor *x, ck_tensor *stats, const float *gain, bool accumulate) {
    ck_op_norm_backward(r->program, &(ck_norm_backward){.x = x,
                                                        .stats = stats,
                                                        .dy = r->dn,
                                                        .dx = r->d,
                                                        .gain = gain,
                                                        .width = r->base->shape.width,
                                                        .gain_gradient = -1,
                                                        .bias_gradient = -1,
                                                        .accumulate = accumulate,
                                                        .kind = model_family_of(&r->base->shape)->norm});
}

static void linear_backward(recorder *r, ck_tensor *dy, ck_tensor *dx, const float *weight, int32_t in,
                            int32_t out, int32_t linear, bool accumulate) {
    ck_op_linear_backward(r->program, &(ck_linear_backward){.dy = dy,
                                                            .dx = dx,
                                                            .weight = weight,
                                                            .in = in,
                                                            .out = out,
                                                            .linear = linear,
                                                            .accumulate = accumulate,
                                                            .weight_gradient = -1,
                                                            .bias_gradient = -1});
}

/* d: gradient of x_{l+1} in, of x' out. */
static void experts_backward(recorder *r, int l, bool input_wanted) {
    const base_shape *s = &r->base->shape;
    const base_layer *w = &r->base->layout.layer0;
    const layer_tensors *t = &r->layers[l];
    adapted_layer here = adapted(r, l);
    int32_t pr = base_linear_number(l, BASE_PR);
    ck_op_expert_expand_backward(r->program, &(ck_expert_expand_backward){.dy = r->d,
                                                                          .g = t->g,
                                                                          .gates = t->gates,
                                                                          .q = r->q,
                                                                          .dw = r->dw,
                                                                          .bias = at(r, w->pr_b, l),
                                                                          .layer = l,
                                                                          .linear = pr});
    linear_backward(r, r->d, r->dm, at(r, w->pr_w, l), s->ffn, s->width, pr, false);
    adapt_backward(&here, CK_SITE_PR, t->m, r->d, r->dm);
    ck_op_expert_activation_backward(r->program,
                                     &(ck_expert_activation_backward){.u = t->u,
                                                                      .zh = t->zh,
                                                                      .gates = t->gates,
                                                                      .dm = r->dm,
                                                                      .q = r->q,
                                                                      .du = r->du,
                                                                      .p = r->p,
                                                                      .dw = r->dw,
                                                                      .ffn = s->ffn,
                                                                      .layer = l,
                                                                      .mlp = model_family_of(s)->mlp});
    ck_op_route_backward(r->program, &(ck_route_backward){.x = t->n2,
                                                          .zh = t->zh,
                                                          .gates = t->gates,
                                                          .dw = r->dw,
                                                          .p = r->p,
                                                          .hidden = t->hidden,
                                                          .dx = r->dn,
                                                          .layer = l,
                                                          .balance = r->out->balance_coefficient,
                                                          .load_balance = r->out->load_coefficient,
                                                          .n_layers = s->layers});
    ck_tensor *dn = input_wanted ? r->dn : NULL;
    adapt_backward(&here, CK_SITE_GATE, t->n2, r->du, dn);
    adapt_backward(&here, CK_SITE_FC, t->n2, r->du, dn);
    if (!input_wanted) return;
    linear_backward(r, r->du, r->dn, at(r, w->fc_w, l), s->width, base_fc_width(s),
                    base_linear_number(l, BASE_FC), true);
    norm_backward(r, t->x2, t->stats2, at(r, w->ln2_gain, l), true);
}

/* d: gradient of x' in, of x_l out. */
static void attention_backward(recorder *r, int l, bool input_wanted) {
    const base_shape *s = &r->base->shape;
    const base_layer *w = &r->base->layout.layer0;
    const layer_tensors *t = &r->layers[l];
    adapted_layer here = adapted(r, l);
    linear_backward(r, r->d, r->d_o, at(r, w->out_w, l), base_q_width(s), s->width,
                    base_linear_number(l, BASE_OUT), false);
    adapt_backward(&here, CK_SITE_OUT, t->o, r->d, r->d_o);
    model_attention_backward(r->program, r->base, t->qkv, t->o, t->lse, r->d_o, r->dqkv);
    ck_tensor *dn = input_wanted ? r->dn : NULL;
    if (input_wanted)
        linear_backward(r, r->dqkv, dn, at(r, w->qkv_w, l), s->width, base_qkv_width(s),
                        base_linear_number(l, BASE_QKV), false);
    for (int i = 0; i < N_QKV; i++) adapt_backward(&here, qkv_sites[i], t->n1, r->dqkv, dn);
    if (input_wanted) norm_backward(r, t->x, t->stats1, at(r, w->ln1_gain, l), true);
}

static bool adapts_attention(const recorder *r) {
    bool any = is_adapted(&r->sites, CK_SITE_OUT);
    for (int i = 0; i < N_QKV; i++) any |= is_adapted(&r->sites, qkv_sites[i]);
    return any;
}

static void backward(recorder *r) {
    const base_shape *s = &r->base->shape;
    norm_backward(r, r->layers[s->layers].x, r->statsf, r->base->weights + r->base->layout.lnf_gain, false);
    for (int l = s->layers - 1; l >= 0; l--) {
        bool attention_wanted = l > 0 || adapts_attention(r);
        experts_backward(r, l, attention_wanted);
        if (attention_wanted) attention_backward(r, l, l > 0);
    }
    if (r->sites.any_tied) ck_op_tied_gradients(r->program, &(ck_tied_gradients){.n_layers = s->layers});
}

static void balance(recorder *r) {
    const model_outputs *out = r->out;
    ck_op_balance(r->program, &(ck_balance){.top_k_count = out->top_k_count,
                                            .gate_sum = out->load_sum ? out->gate_sum : NULL,
                                            .load_sum = out->load_sum,
                                            .coefficient = out->balance_coefficient,
                                            .load_coefficient = out->load_coefficient,
                                            .n_layers = r->base->shape.layers});
}

/* Records without finishing, so that the size of a program can be asked before it is allocated. */
static exit_code record(ck_backend *backend, recorder r, const ck_shape *shapes, int n_shapes,
                        const ck_capacity *capacity, bool train, ck_program **out, problems *list) {
    r.precision = capacity->precision;
    exit_code code = kernel_problem(list, backend, ck_program_create(backend, capacity, &r.program),
                                    "recording the model");
    if (code != EXIT_OK) return code;
    r.layers = calloc((size_t)r.base->shape.layers + 1, sizeof *r.layers);
    if (!r.layers) {
        ck_program_destroy(r.program);
        return problem(list, EXIT_ENVIRONMENT, "recording the model: out of memory");
    }
    measure_shapes(&r, shapes, n_shapes);
    create_tensors(&r, train);
    forward(&r);
    if (train && r.out->balance_coefficient) balance(&r);
    if (train) backward(&r);
    free(r.layers);
    *out = r.program;
    return EXIT_OK;
}

static exit_code finish(ck_backend *backend, ck_program **program, problems *list) {
    exit_code code = kernel_problem(list, backend, ck_program_finish(*program), "preparing the model");
    if (code == EXIT_OK) return EXIT_OK;
    ck_program_destroy(*program);
    *program = NULL;
    return code;
}

exit_code model_record_step(ck_backend *backend, const model_base *base, const ck_shape *shapes, int n_shapes,
                            const ck_capacity *capacity, const model_outputs *outputs, ck_program **out,
                            problems *list) {
    *out = NULL;
    exit_code code = record(backend, (recorder){.base = base, .out = outputs}, shapes, n_shapes, capacity,
                            true, out, list);
    return THEN(code, finish(backend, out, list));
}

exit_code model_record_evaluation(ck_backend *backend, const model_base *base, const ck_shape *shapes,
                                  int n_shapes, const ck_capacity *capacity, const model_outputs *outputs,
                                  ck_program **out, problems *list) {
    *out = NULL;
    exit_code code = record(backend, (recorder){.base = base, .out = outputs}, shapes, n_shapes, capacity,
                            false, out, list);
    return THEN(code, finish(backend, out, list));
}

exit_code model_record_decoding(ck_backend *backend, const model_base *base, const ck_shape *shapes,
                                int n_shapes, const ck_capacity *capacity, const model_decoding *decoding,
                                ck_program **out, problems *list) {
    const model_outputs none = {0};
    *out = NULL;
    exit_code code = record(backend, (recorder){.base = base, .out = &none, .decoding = decoding}, shapes,
                            n_shapes, capacity, false, out, list);
    return THEN(code, finish(backend, out, list));
}

exit_code model_program_bytes(ck_backend *backend, const model_base *base, const ck_shape *shapes,
                              int n_shapes, const ck_capacity *capacity, const model_outputs *outputs,
                              bool train, size_t *bytes, problems *list) {
    ck_program *program = NULL;
    exit_code code = record(backend, (recorder){.base = base, .out = outputs}, shapes, n_shapes, capacity,
                            train, &program, list);
    if (code == EXIT_OK) *bytes = ck_program_bytes(program);
    ck_program_destroy(program);
    return code;
}

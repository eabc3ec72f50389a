/* model.c - the transformer with adapters, as two programs: a training step, and an evaluation.
 *
 *   x_0 = embed                                    n1 = norm(x_l)             qkv = W_qkv n1 + LoRA_qkv(n1)
 *   x'  = x_l + W_out o + LoRA_out(o)              o = attention(qkv)         n2 = norm(x')
 *   U   = W_fc n2 + LoRA_fc(n2),  (z, h) = route(n2)                          (m, g) = experts(U, h, w)
 *   x_{l+1} = x' + W_pr m + b_pr sum w + s sum w B2 g + LoRA_pr(m)            loss = head(norm(x_L))
 *
 * Backward carries one gradient stream d (of x_L, then x', then x_l ...). What it reads again is one tensor
 * per layer, everything else is shared by all layers; an evaluation shares all of it. Below the lowest
 * adapter (the first layer's qkv LoRA, or without attention LoRA its router and experts) nothing needs a
 * gradient and nothing is recorded. LoRA: whatever adapters a site has besides the
 * routed experts, those that all layers share too; recorded where a device of any shape has them. */
#include "model/model.h"

#include <stdlib.h>

#include "support/kernel_problem.h"

typedef struct {
    ck_tensor *x, *n1, *stats1, *qkv, *o, *lse, *x2, *stats2, *n2, *zh, *gates, *u, *m, *g;
    ck_tensor *h[CK_SITES], *tied_h[CK_SITES]; /* of the LoRAs at each site; NULL: no device has one */
} layer_tensors;

typedef struct {
    ck_program *program;
    const model_base *base;
    const model_outputs *out;
    /* the widest over all shapes */
    int32_t lora_columns[CK_SITES], tied_columns[CK_SITES], zh_columns, rank_columns;
    bool vectors[CK_SITES], any_tied; /* of any shape */
    bool any_mlp_mix;
    layer_tensors *layers; /* [L + 1]; of the last only x exists */
    ck_tensor *nf, *statsf;
    ck_tensor *d, *dn, *dm, *du, *q, *p, *dw, *d_o, *dqkv; /* backward only */
} recorder;

static const float *at(const recorder *r, int64_t layer0_offset, int layer) {
    return r->base->weights + layer0_offset + layer * r->base->layout.layer_stride;
}

static int32_t wider(int32_t a, int32_t b) {
    return a > b ? a : b;
}

static void measure_shapes(recorder *r, const ck_shape *shapes, int n_shapes) {
    for (int i = 0; i < n_shapes; i++) {
        for (int site = 0; site < CK_SITES; site++) {
            r->lora_columns[site] = wider(r->lora_columns[site], shapes[i].lora_rank[site]);
            r->tied_columns[site] = wider(r->tied_columns[site], shapes[i].tied_rank[site]);
            r->vectors[site] |= shapes[i].vector[site] != CK_NO_VECTOR;
        }
        r->any_tied |= shapes[i].tied_floats > 0;
        r->zh_columns = wider(r->zh_columns, shapes[i].router_rows + shapes[i].h_ranks);
        r->rank_columns = wider(r->rank_columns, shapes[i].rank_sum);
        r->any_mlp_mix |= shapes[i].mix == CK_MIX_MLP;
    }
}

static void create_loras(recorder *r, layer_tensors *t) {
    static const char *const names[CK_SITES] = {[CK_SITE_Q] = "q LoRA",
                                                [CK_SITE_K] = "k LoRA",
                                                [CK_SITE_V] = "v LoRA",
                                                [CK_SITE_QKV] = "qkv LoRA",
                                                [CK_SITE_OUT] = "attention output LoRA",
                                                [CK_SITE_GATE] = "gate LoRA",
                                                [CK_SITE_FC] = "fc LoRA",
                                                [CK_SITE_PR] = "projection LoRA"};
    for (int site = 0; site < CK_SITES; site++) {
        if (r->lora_columns[site] > 0)
            t->h[site] = ck_activation(r->program, r->lora_columns[site], names[site]);
        if (r->tied_columns[site] > 0)
            t->tied_h[site] = ck_activation(r->program, r->tied_columns[site], names[site]);
    }
}

static bool is_adapted(const recorder *r, ck_site site) {
    return r->lora_columns[site] > 0 || r->tied_columns[site] > 0 || r->vectors[site];
}

static void create_layer(recorder *r, layer_tensors *t) {
    const base_shape *s = &r->base->shape;
    t->x = ck_activation(r->program, s->width, "x");
    t->n1 = ck_activation(r->program, s->width, "norm 1");
    t->stats1 = ck_activation(r->program, 2, "norm 1 statistics");
    t->qkv = ck_activation(r->program, 3 * s->width, "qkv");
    t->o = ck_activation(r->program, s->width, "attention");
    t->lse = ck_activation(r->program, s->heads, "attention log-sum-exp");
    t->x2 = ck_activation(r->program, s->width, "x after attention");
    t->stats2 = ck_activation(r->program, 2, "norm 2 statistics");
    t->n2 = ck_activation(r->program, s->width, "norm 2");
    t->zh = ck_activation(r->program, r->zh_columns, "router logits and shrink");
    t->gates = ck_activation(r->program, CK_MAX_EXPERTS, "gates");
    t->u = ck_activation(r->program, s->ffn, "fc");
    t->g = ck_activation(r->program, r->rank_columns, "second shrink");
    create_loras(r, t);
}

/* Training keeps one set per layer; an evaluation passes the same set through all of them. */
static void create_tensors(recorder *r, bool backward) {
    const base_shape *s = &r->base->shape;
    create_layer(r, &r->layers[0]);
    for (int l = 1; l < s->layers; l++)
        if (backward)
            create_layer(r, &r->layers[l]);
        else
            r->layers[l] = r->layers[0];
    r->layers[s->layers].x = backward ? ck_activation(r->program, s->width, "x") : r->layers[0].x;
    /* only adapters at PR read it again */
    bool apart = is_adapted(r, CK_SITE_PR) && backward;
    ck_tensor *m = apart ? NULL : ck_activation(r->program, s->ffn, "mixed activation");
    for (int l = 0; l < s->layers; l++)
        r->layers[l].m = m ? m : ck_activation(r->program, s->ffn, "mixed activation");
    r->nf = ck_activation(r->program, s->width, "final norm");
    r->statsf = ck_activation(r->program, 2, "final norm statistics");
    if (!backward) return;
    r->d = ck_activation(r->program, s->width, "gradient stream");
    r->dn = ck_activation(r->program, s->width, "gradient of a norm");
    r->dm = ck_activation(r->program, s->ffn, "gradient of the mixed activation");
    r->du = ck_activation(r->program, s->ffn, "gradient of fc");
    r->q = ck_activation(r->program, r->rank_columns, "gradient of the second shrink");
    r->p = ck_activation(r->program, r->rank_columns, "gradient of the shrink");
    r->dw = ck_activation(r->program, CK_MAX_EXPERTS, "gradient of the gates");
    r->d_o = ck_activation(r->program, s->width, "gradient of attention");
    r->dqkv = ck_activation(r->program, 3 * s->width, "gradient of qkv");
}

static void norm(recorder *r, ck_tensor *x, ck_tensor *y, ck_tensor *stats, const float *gain,
                 const float *bias) {
    ck_op_norm(r->program, &(ck_norm){.x = x,
                                      .y = y,
                                      .stats = stats,
                                      .gain = gain,
                                      .bias = bias,
                                      .width = r->base->shape.width,
                                      .epsilon = r->base->shape.epsilon});
}

static int32_t inputs_of(const recorder *r, ck_site site) {
    return site == CK_SITE_PR ? r->base->shape.ffn : r->base->shape.width;
}

static int32_t outputs_of(const recorder *r, ck_site site) {
    const base_shape *s = &r->base->shape;
    return site == CK_SITE_QKV ? 3 * s->width : site == CK_SITE_FC ? s->ffn : s->width;
}

static void one_lora(recorder *r, ck_site site, int l, const ck_tensor *x, ck_tensor *y, ck_tensor *h,
                     bool tied) {
    if (h)
        ck_op_lora(r->program, &(ck_lora){.x = x,
                                          .h = h,
                                          .y = y,
                                          .site = site,
                                          .in = inputs_of(r, site),
                                          .out = outputs_of(r, site),
                                          .layer = l,
                                          .tied = tied});
}

/* y += what the adapters at the site make of x. */
static void adapt(recorder *r, ck_site site, int l, const ck_tensor *x, ck_tensor *y) {
    one_lora(r, site, l, x, y, r->layers[l].h[site], false);
    one_lora(r, site, l, x, y, r->layers[l].tied_h[site], true);
    if (r->vectors[site])
        ck_op_site_vector(
            r->program,
            &(ck_site_vector){
                .x = x, .y = y, .site = site, .in = inputs_of(r, site), .out = outputs_of(r, site)});
}

static void one_lora_backward(recorder *r, ck_site site, int l, const ck_tensor *x, const ck_tensor *dy,
                              ck_tensor *dx, const ck_tensor *h, bool tied) {
    if (h)
        ck_op_lora_backward(r->program, &(ck_lora_backward){.x = x,
                                                            .h = h,
                                                            .dy = dy,
                                                            .dx = dx,
                                                            .site = site,
                                                            .in = inputs_of(r, site),
                                                            .out = outputs_of(r, site),
                                                            .layer = l,
                                                            .tied = tied});
}

static void adapt_backward(recorder *r, ck_site site, int l, const ck_tensor *x, const ck_tensor *dy,
                           ck_tensor *dx) {
    one_lora_backward(r, site, l, x, dy, dx, r->layers[l].h[site], false);
    one_lora_backward(r, site, l, x, dy, dx, r->layers[l].tied_h[site], true);
    if (r->vectors[site])
        ck_op_site_vector_backward(r->program, &(ck_site_vector_backward){.x = x,
                                                                          .dy = dy,
                                                                          .dx = dx,
                                                                          .site = site,
                                                                          .in = inputs_of(r, site),
                                                                          .out = outputs_of(r, site),
                                                                          .layer = l});
}

static void attention_forward(recorder *r, int l) {
    const base_shape *s = &r->base->shape;
    const base_layer *w = &r->base->layout.layer0;
    const layer_tensors *t = &r->layers[l];
    norm(r, t->x, t->n1, t->stats1, at(r, w->ln1_gain, l), at(r, w->ln1_bias, l));
    ck_op_linear(r->program, &(ck_linear){.x = t->n1,
                                          .y = t->qkv,
                                          .weight = at(r, w->qkv_w, l),
                                          .bias = at(r, w->qkv_b, l),
                                          .in = s->width,
                                          .out = 3 * s->width});
    adapt(r, CK_SITE_QKV, l, t->n1, t->qkv);
    ck_op_attention(
        r->program,
        &(ck_attention){.qkv = t->qkv, .o = t->o, .lse = t->lse, .heads = s->heads, .width = s->width});
    ck_op_linear(r->program, &(ck_linear){.x = t->o,
                                          .y = t->x2,
                                          .residual = t->x,
                                          .weight = at(r, w->out_w, l),
                                          .bias = at(r, w->out_b, l),
                                          .in = s->width,
                                          .out = s->width});
    adapt(r, CK_SITE_OUT, l, t->o, t->x2);
}

static void experts_forward(recorder *r, int l) {
    const base_shape *s = &r->base->shape;
    const base_layer *w = &r->base->layout.layer0;
    const layer_tensors *t = &r->layers[l];
    const model_outputs *out = r->out;
    norm(r, t->x2, t->n2, t->stats2, at(r, w->ln2_gain, l), at(r, w->ln2_bias, l));
    ck_op_route(r->program, &(ck_route){.x = t->n2,
                                        .zh = t->zh,
                                        .gates = t->gates,
                                        .layer = l,
                                        .gate_sum = out->gate_sum,
                                        .top1_count = out->top1_count,
                                        .top_k_count = out->top_k_count,
                                        .p_sum = out->p_sum,
                                        .n_layers = s->layers,
                                        .gate_record = out->gate_record});
    ck_op_linear(r->program, &(ck_linear){.x = t->n2,
                                          .y = t->u,
                                          .weight = at(r, w->fc_w, l),
                                          .bias = at(r, w->fc_b, l),
                                          .in = s->width,
                                          .out = s->ffn});
    adapt(r, CK_SITE_FC, l, t->n2, t->u);
    ck_op_expert_activation(
        r->program,
        &(ck_expert_activation){
            .u = t->u, .zh = t->zh, .gates = t->gates, .m = t->m, .g = t->g, .ffn = s->ffn, .layer = l});
    ck_tensor *y = r->layers[l + 1].x;
    ck_op_linear(r->program, &(ck_linear){.x = t->m,
                                          .y = y,
                                          .residual = t->x2,
                                          .gates = r->any_mlp_mix ? t->gates : NULL,
                                          .weight = at(r, w->pr_w, l),
                                          .bias = at(r, w->pr_b, l),
                                          .in = s->ffn,
                                          .out = s->width});
    ck_op_expert_expand(r->program, &(ck_expert_expand){.g = t->g, .gates = t->gates, .y = y, .layer = l});
    adapt(r, CK_SITE_PR, l, t->m, y);
}

static void head(recorder *r, ck_tensor *dx) {
    const base_shape *s = &r->base->shape;
    const base_layout *w = &r->base->layout;
    norm(r, r->layers[s->layers].x, r->nf, r->statsf, r->base->weights + w->lnf_gain,
         r->base->weights + w->lnf_bias);
    ck_op_head(r->program, &(ck_head){.x = r->nf,
                                      .dx = dx,
                                      .wte = r->base->weights + w->wte,
                                      .loss = r->out->loss,
                                      .correct = r->out->correct,
                                      .logits = r->out->logits,
                                      .width = s->width,
                                      .vocabulary = s->vocabulary,
                                      .wte_gradient = -1});
}

static void forward(recorder *r) {
    const base_shape *s = &r->base->shape;
    const float *weights = r->base->weights;
    ck_op_embed(r->program, &(ck_embed){.x = r->layers[0].x,
                                        .wte = weights + r->base->layout.wte,
                                        .wpe = weights + r->base->layout.wpe,
                                        .width = s->width});
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
                                                        .accumulate = accumulate});
}

static void linear_backward(recorder *r, ck_tensor *dy, ck_tensor *dx, const float *weight, int32_t in,
                            int32_t out, bool accumulate) {
    ck_op_linear_backward(r->program, &(ck_linear_backward){.dy = dy,
                                                            .dx = dx,
                                                            .weight = weight,
                                                            .in = in,
                                                            .out = out,
                                                            .accumulate = accumulate,
                                                            .weight_gradient = -1,
                                                            .bias_gradient = -1});
}

/* d: gradient of x_{l+1} in, of x' out. */
static void experts_backward(recorder *r, int l, bool input_wanted) {
    const base_shape *s = &r->base->shape;
    const base_layer *w = &r->base->layout.layer0;
    const layer_tensors *t = &r->layers[l];
    ck_op_expert_expand_backward(r->program, &(ck_expert_expand_backward){.dy = r->d,
                                                                          .g = t->g,
                                                                          .gates = t->gates,
                                                                          .q = r->q,
                                                                          .dw = r->dw,
                                                                          .bias = at(r, w->pr_b, l),
                                                                          .layer = l});
    linear_backward(r, r->d, r->dm, at(r, w->pr_w, l), s->ffn, s->width, false);
    adapt_backward(r, CK_SITE_PR, l, t->m, r->d, r->dm);
    ck_op_expert_activation_backward(r->program, &(ck_expert_activation_backward){.u = t->u,
                                                                                  .zh = t->zh,
                                                                                  .gates = t->gates,
                                                                                  .dm = r->dm,
                                                                                  .q = r->q,
                                                                                  .du = r->du,
                                                                                  .p = r->p,
                                                                                  .dw = r->dw,
                                                                                  .ffn = s->ffn,
                                                                                  .layer = l});
    ck_op_route_backward(r->program, &(ck_route_backward){.x = t->n2,
                                                          .zh = t->zh,
                                                          .gates = t->gates,
                                                          .dw = r->dw,
                                                          .p = r->p,
                                                          .dx = r->dn,
                                                          .layer = l,
                                                          .balance = r->out->balance_coefficient,
                                                          .n_layers = s->layers});
    adapt_backward(r, CK_SITE_FC, l, t->n2, r->du, input_wanted ? r->dn : NULL);
    if (!input_wanted) return;
    linear_backward(r, r->du, r->dn, at(r, w->fc_w, l), s->width, s->ffn, true);
    norm_backward(r, t->x2, t->stats2, at(r, w->ln2_gain, l), true);
}

/* d: gradient of x' in, of x_l out. */
static void attention_backward(recorder *r, int l, bool input_wanted) {
    const base_shape *s = &r->base->shape;
    const base_layer *w = &r->base->layout.layer0;
    const layer_tensors *t = &r->layers[l];
    linear_backward(r, r->d, r->d_o, at(r, w->out_w, l), s->width, s->width, false);
    adapt_backward(r, CK_SITE_OUT, l, t->o, r->d, r->d_o);
    ck_op_attention_backward(r->program, &(ck_attention_backward){.qkv = t->qkv,
                                                                  .o = t->o,
                                                                  .lse = t->lse,
                                                                  .d_o = r->d_o,
                                                                  .dqkv = r->dqkv,
                                                                  .heads = s->heads,
                                                                  .width = s->width});
    ck_tensor *dn = input_wanted ? r->dn : NULL;
    if (input_wanted) linear_backward(r, r->dqkv, dn, at(r, w->qkv_w, l), s->width, 3 * s->width, false);
    adapt_backward(r, CK_SITE_QKV, l, t->n1, r->dqkv, dn);
    if (input_wanted) norm_backward(r, t->x, t->stats1, at(r, w->ln1_gain, l), true);
}

static void backward(recorder *r) {
    const base_shape *s = &r->base->shape;
    norm_backward(r, r->layers[s->layers].x, r->statsf, r->base->weights + r->base->layout.lnf_gain, false);
    for (int l = s->layers - 1; l >= 0; l--) {
        bool attention_wanted = l > 0 || is_adapted(r, CK_SITE_QKV) || is_adapted(r, CK_SITE_OUT);
        experts_backward(r, l, attention_wanted);
        if (attention_wanted) attention_backward(r, l, l > 0);
    }
    if (r->any_tied) ck_op_tied_gradients(r->program, &(ck_tied_gradients){.n_layers = s->layers});
}

static void balance(recorder *r) {
    ck_op_balance(r->program, &(ck_balance){.top_k_count = r->out->top_k_count,
                                            .p_sum = r->out->p_sum,
                                            .coefficient = r->out->balance_coefficient,
                                            .value = r->out->balance_value,
                                            .n_layers = r->base->shape.layers});
}

/* Records without finishing, so that the size of a program can be asked before it is allocated. */
static exit_code record(ck_backend *backend, const model_base *base, const ck_shape *shapes, int n_shapes,
                        const ck_capacity *capacity, const model_outputs *outputs, bool train,
                        ck_program **out, problems *list) {
    recorder r = {.base = base, .out = outputs};
    exit_code code = kernel_problem(list, backend, ck_program_create(backend, capacity, &r.program),
                                    "recording the model");
    if (code != EXIT_OK) return code;
    r.layers = calloc((size_t)base->shape.layers + 1, sizeof *r.layers);
    if (!r.layers) {
        ck_program_destroy(r.program);
        return problem(list, EXIT_ENVIRONMENT, "recording the model: out of memory");
    }
    measure_shapes(&r, shapes, n_shapes);
    create_tensors(&r, train);
    forward(&r);
    if (train && outputs->balance_coefficient) balance(&r);
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
    exit_code code = record(backend, base, shapes, n_shapes, capacity, outputs, true, out, list);
    return code != EXIT_OK ? code : finish(backend, out, list);
}

exit_code model_record_evaluation(ck_backend *backend, const model_base *base, const ck_shape *shapes,
                                  int n_shapes, const ck_capacity *capacity, const model_outputs *outputs,
                                  ck_program **out, problems *list) {
    *out = NULL;
    exit_code code = record(backend, base, shapes, n_shapes, capacity, outputs, false, out, list);
    return code != EXIT_OK ? code : finish(backend, out, list);
}

exit_code model_program_bytes(ck_backend *backend, const model_base *base, const ck_shape *shapes,
                              int n_shapes, const ck_capacity *capacity, const model_outputs *outputs,
                              bool train, size_t *bytes, problems *list) {
    ck_program *program = NULL;
    exit_code code = record(backend, base, shapes, n_shapes, capacity, outputs, train, &program, list);
    if (code == EXIT_OK) *bytes = ck_program_bytes(program);
    ck_program_destroy(program);
    return code;
}

/* model_pretraining.c - the plain transformer with the gradients of every weight, as one program.
 *
 *   x_0 = embed     x' = x_l + W_out attention(W_qkv norm(x_l))     x_{l+1} = x' + W_pr act(W_fc norm(x'))
 *       loss = head(norm(x_L))
 *
 * The norm, the positions and the activation are the family's (family.h).
 *
 * The gradient pack has the layout of the weights, so a weight's offset is its gradient's offset. The
 * gradient of an embedding that is the head too is written by the head and added to by the embedding, which
 * comes last. */
#include <stdlib.h>

#include "model/family.h"
#include "model/model.h"
#include "support/kernel_problem.h"

typedef struct {
    ck_tensor *x, *n1, *stats1, *qkv, *o, *lse, *x2, *stats2, *n2, *u, *m;
} layer_tensors;

typedef struct {
    ck_program *program;
    const model_base *base;
    const model_outputs *out;
    layer_tensors *layers; /* [L + 1]; of the last only x exists */
    ck_tensor *nf, *statsf, *d, *dn, *dm, *du, *d_o, *dqkv;
} recorder;

/* -1 where the shape has no such tensor. */
static int64_t offset(const recorder *r, int64_t layer0_offset, int layer) {
    return layer0_offset < 0 ? -1 : layer0_offset + layer * r->base->layout.layer_stride;
}

static void create_layer(recorder *r, layer_tensors *t) {
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
    t->u = ck_activation(r->program, base_fc_width(s), "fc");
    t->m = ck_activation(r->program, s->ffn, "activation");
}

static void create_tensors(recorder *r) {
    const base_shape *s = &r->base->shape;
    for (int l = 0; l < s->layers; l++) create_layer(r, &r->layers[l]);
    r->layers[s->layers].x = ck_activation(r->program, s->width, "x");
    r->nf = ck_activation(r->program, s->width, "final norm");
    r->statsf = ck_activation(r->program, 2, "final norm statistics");
    r->d = ck_activation(r->program, s->width, "gradient stream");
    r->dn = ck_activation(r->program, s->width, "gradient of a norm");
    r->dm = ck_activation(r->program, s->ffn, "gradient of the activation");
    r->du = ck_activation(r->program, base_fc_width(s), "gradient of fc");
    r->d_o = ck_activation(r->program, base_q_width(s), "gradient of attention");
    r->dqkv = ck_activation(r->program, base_qkv_width(s), "gradient of qkv");
}

static void norm(recorder *r, ck_tensor *x, ck_tensor *y, ck_tensor *stats, int64_t gain, int64_t bias) {
    model_norm(r->program, r->base, x, y, stats, model_weight(r->base, gain, 0),
               model_weight(r->base, bias, 0));
}

static void linear(recorder *r, ck_tensor *x, ck_tensor *y, ck_tensor *residual, int64_t weight, int64_t bias,
                   int32_t in, int32_t out) {
    ck_op_linear(r->program, &(ck_linear){.x = x,
                                          .y = y,
                                          .residual = residual,
                                          .weight = model_weight(r->base, weight, 0),
                                          .bias = model_weight(r->base, bias, 0),
                                          .in = in,
                                          .out = out,
                                          .linear = -1});
}

static void layer_forward(recorder *r, int l) {
    const base_shape *s = &r->base->shape;
    const base_layer *w = &r->base->layout.layer0;
    const layer_tensors *t = &r->layers[l];
    norm(r, t->x, t->n1, t->stats1, offset(r, w->ln1_gain, l), offset(r, w->ln1_bias, l));
    linear(r, t->n1, t->qkv, NULL, offset(r, w->qkv_w, l), offset(r, w->qkv_b, l), s->width,
           base_qkv_width(s));
    model_attention(r->program, r->base, t->qkv, t->o, t->lse);
    linear(r, t->o, t->x2, t->x, offset(r, w->out_w, l), offset(r, w->out_b, l), base_q_width(s), s->width);
    norm(r, t->x2, t->n2, t->stats2, offset(r, w->ln2_gain, l), offset(r, w->ln2_bias, l));
    linear(r, t->n2, t->u, NULL, offset(r, w->fc_w, l), offset(r, w->fc_b, l), s->width, base_fc_width(s));
    model_family_of(s)->activation(r->program, s->ffn, t->u, t->m);
    linear(r, t->m, r->layers[l + 1].x, t->x2, offset(r, w->pr_w, l), offset(r, w->pr_b, l), s->ffn,
           s->width);
}

static void forward(recorder *r) {
    const base_shape *s = &r->base->shape;
    const base_layout *w = &r->base->layout;
    model_embed(r->program, r->base, r->layers[0].x);
    for (int l = 0; l < s->layers; l++) layer_forward(r, l);
    norm(r, r->layers[s->layers].x, r->nf, r->statsf, w->lnf_gain, w->lnf_bias);
    ck_op_head(r->program, &(ck_head){.mode = CK_HEAD_PRETRAIN,
                                      .x = r->nf,
                                      .dx = r->dn,
                                      .weight = model_weight(r->base, w->head, 0),
                                      .loss = r->out->loss,
                                      .logits = r->out->logits,
                                      .width = s->width,
                                      .vocabulary = s->vocabulary,
                                      .weight_gradient = w->head});
}

static void norm_backward(recorder *r, ck_tensor *x, ck_tensor *stats, int64_t gain, int64_t bias,
                          bool accumulate) {
    ck_op_norm_backward(r->program, &(ck_norm_backward){.x = x,
                                                        .stats = stats,
                                                        .dy = r->dn,
                                                        .dx = r->d,
                                                        .gain = r->base->weights + gain,
                                                        .width = r->base->shape.width,
                                                        .gain_gradient = gain,
                                                        .bias_gradient = bias,
                                                        .accumulate = accumulate,
                                                        .kind = model_family_of(&r->base->shape)->norm});
}

static void linear_backward(recorder *r, ck_tensor *x, ck_tensor *dy, ck_tensor *dx, int64_t weight,
                            int64_t bias, int32_t in, int32_t out) {
    ck_op_linear_backward(r->program, &(ck_linear_backward){.x = x,
                                                            .dy = dy,
                                                            .dx = dx,
                                                            .weight = r->base->weights + weight,
                                                            .in = in,
                                                            .out = out,
                                                            .linear = -1,
                                                            .weight_gradient = weight,
                                                            .bias_gradient = bias});
}

static void layer_backward(recorder *r, int l) {
    const base_shape *s = &r->base->shape;
    const base_layer *w = &r->base->layout.layer0;
    const layer_tensors *t = &r->layers[l];
    linear_backward(r, t->m, r->d, r->dm, offset(r, w->pr_w, l), offset(r, w->pr_b, l), s->ffn, s->width);
    model_family_of(s)->activation_backward(r->program, s->ffn, t->u, r->dm, r->du);
    linear_backward(r, t->n2, r->du, r->dn, offset(r, w->fc_w, l), offset(r, w->fc_b, l), s->width,
                    base_fc_width(s));
    norm_backward(r, t->x2, t->stats2, offset(r, w->ln2_gain, l), offset(r, w->ln2_bias, l), true);
    linear_backward(r, t->o, r->d, r->d_o, offset(r, w->out_w, l), offset(r, w->out_b, l), base_q_width(s),
                    s->width);
    model_attention_backward(r->program, r->base, t->qkv, t->o, t->lse, r->d_o, r->dqkv);
    linear_backward(r, t->n1, r->dqkv, r->dn, offset(r, w->qkv_w, l), offset(r, w->qkv_b, l), s->width,
                    base_qkv_width(s));
    norm_backward(r, t->x, t->stats1, offset(r, w->ln1_gain, l), offset(r, w->ln1_bias, l), true);
}

static void backward(recorder *r) {
    const base_shape *s = &r->base->shape;
    const base_layout *w = &r->base->layout;
    norm_backward(r, r->layers[s->layers].x, r->statsf, w->lnf_gain, w->lnf_bias, false);
    for (int l = s->layers - 1; l >= 0; l--) layer_backward(r, l);
    ck_op_embed_backward(r->program, &(ck_embed_backward){.dx = r->d,
                                                          .wte_gradient = w->wte,
                                                          .wpe_gradient = w->wpe,
                                                          .width = s->width,
                                                          .vocabulary = s->vocabulary,
                                                          .positions = s->context,
                                                          .accumulate = w->head == w->wte});
}

/* Records without finishing, so that the size can be asked before anything is allocated. */
static exit_code record(ck_backend *backend, const model_base *base, const ck_capacity *capacity,
                        const model_outputs *outputs, ck_program **out, problems *list) {
    recorder r = {.base = base, .out = outputs};
    exit_code code =
        kernel_problem(list, backend, ck_program_create(backend, capacity, &r.program), "recording the base");
    if (code != EXIT_OK) return code;
    r.layers = calloc((size_t)base->shape.layers + 1, sizeof *r.layers);
    if (!r.layers) {
        ck_program_destroy(r.program);
        return problem(list, EXIT_ENVIRONMENT, "recording the base: out of memory");
    }
    create_tensors(&r);
    forward(&r);
    backward(&r);
    free(r.layers);
    *out = r.program;
    return EXIT_OK;
}

exit_code model_record_pretraining(ck_backend *backend, const model_base *base, const ck_capacity *capacity,
                                   const model_outputs *outputs, ck_program **out, problems *list) {
    *out = NULL;
    exit_code code = record(backend, base, capacity, outputs, out, list);
    if (code != EXIT_OK) return code;
    code = kernel_problem(list, backend, ck_program_finish(*out), "preparing the base's training");
    if (code == EXIT_OK) return EXIT_OK;
    ck_program_destroy(*out);
    *out = NULL;
    return code;
}

exit_code model_pretraining_bytes(ck_backend *backend, const model_base *base, const ck_capacity *capacity,
                                  const model_outputs *outputs, size_t *bytes, problems *list) {
    ck_program *program = NULL;
    exit_code code = record(backend, base, capacity, outputs, &program, list);
    if (code == EXIT_OK) *bytes = ck_program_bytes(program);
    ck_program_destroy(program);
    return code;
}

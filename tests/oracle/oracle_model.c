/* A GPT-2 or a Llama with adapters, forward and backward, over all sequences of one device at once.
 *
 *   x_0 = embed
 *   per layer:  n1 = norm1(x)   qkv = Wqkv n1 + b (+ LoRA)   o = attention(qkv)   r = x + Wout o + b (+ LoRA)
 *               n2 = norm2(r)   x' = r + expert layer(n2)            (pre-training:
 *                   r + Wpr act(Wfc n2 + b) + b)
 *   loss = cross-entropy of normf(x) head^T;   objective of a device = mean loss over its counted tokens +
 *       load
 *       balance
 *
 *   GPT-2       LayerNorm, act = gelu;  x_0 = wte + wpe
 *   Llama       RMSNorm, act = swiglu;  x_0 = wte; q and k are turned before attention
 * Biases are there or not, as the base says. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"

/* Activations of one layer, rows are the device's tokens. */
typedef struct {
    double *x, *n1, *qkv, *o, *r, *n2;      /* [T, D], [T, D], [T, Q + 2 KV], [T, Q], [T, D], [T, D] */
    double *h[CK_SITES], *tied_h[CK_SITES]; /* [T, rank] of the LoRAs at each site */
    double *u, *zh, *gates, *m, *g;         /* [T, F or 2 F], [T, E + H], [T, 16], [T, F], [T, S] */
    double *hidden;                         /* [T, 2 E] of a router with a hidden layer */
    double coefficient[2 * CK_MAX_EXPERTS];
} layer_state;

typedef struct {
    const oracle_base *base;
    const ck_shape *shape; /* NULL: pre-training */
    const double *parameters;
    const oracle_batch *batch;
    int64_t tokens;
    layer_state *layers;
    double *x, *normed; /* the last residual stream and its LNf */
    double balance, margin;
    double *adapter_gradients, *base_gradients; /* either may be NULL */
} model;

/* ---- Small helpers: weights by offset, gradients only where they are wanted ------------------ */

/* NULL where the base has no such tensor. */
static const double *weight(const model *m, int layer, int64_t offset) {
    return offset < 0 ? NULL : m->base->weights + layer * m->base->layout.layer_stride + offset;
}

static double *slot(const model *m, int layer, int64_t offset) {
    return m->base_gradients == NULL || offset < 0
               ? NULL
               : m->base_gradients + layer * m->base->layout.layer_stride + offset;
}

static bool is_llama(const model *m) {
    return m->base->shape.family == BASE_LLAMA;
}

static oracle_adapter adapter(const model *m, int layer) {
    return (oracle_adapter){m->shape, layer, m->parameters, m->adapter_gradients, m->batch->noise, NULL};
}

static oracle_norm_size norm_size(const model *m) {
    return (oracle_norm_size){m->tokens, m->base->shape.width, (double)m->base->shape.epsilon};
}

static oracle_linear_size linear_size(const model *m, int in, int out) {
    return (oracle_linear_size){m->tokens, in, out};
}

static int64_t sequence_first(const model *m, int s) {
    return m->batch->first_token[s] - m->batch->first_token[0];
}

static int64_t sequence_tokens(const model *m, int s) {
    return m->batch->first_token[s + 1] - m->batch->first_token[s];
}

static oracle_attention_size attention_size(const model *m, int s) {
    const base_shape *base = &m->base->shape;
    return (oracle_attention_size){sequence_tokens(m, s), base->heads, base->kv_heads, base->head_size};
}

static void norm(const model *m, const double *x, const double *gain, const double *bias, double *y) {
    if (is_llama(m))
        oracle_rms_norm(norm_size(m), x, gain, y, NULL);
    else
        oracle_norm(norm_size(m), x, gain, bias, y, NULL);
}

static void norm_backward(const model *m, const double *x, const double *gain, const double *dy, double *dx,
                          double *dgain, double *dbias) {
    if (is_llama(m))
        oracle_rms_norm_backward(norm_size(m), x, gain, dy, dx, dgain);
    else
        oracle_norm_backward(norm_size(m), x, gain, dy, dx, dgain, dbias);
}

static void layer_allocate(const model *m, layer_state *l) {
    const base_shape *base = &m->base->shape;
    int64_t t = m->tokens, width = base->width;
    int64_t sum = m->shape != NULL ? m->shape->rank_sum : 0;
    int64_t rows = m->shape != NULL ? m->shape->router_rows + m->shape->h_ranks : 0;
    l->x = oracle_zeros(t * width), l->n1 = oracle_zeros(t * width);
    l->qkv = oracle_zeros(t * base_qkv_width(base));
    for (int site = 0; site < CK_SITES && m->shape != NULL; site++) {
        l->h[site] = oracle_zeros(t * m->shape->lora_rank[site]);
        l->tied_h[site] = oracle_zeros(t * m->shape->tied_rank[site]);
    }
    l->o = oracle_zeros(t * base_q_width(base)), l->r = oracle_zeros(t * width),
    l->n2 = oracle_zeros(t * width), l->u = oracle_zeros(t * base_fc_width(base));
    l->zh = oracle_zeros(t * rows), l->gates = oracle_zeros(t * CK_MAX_EXPERTS),
    l->m = oracle_zeros(t * base->ffn), l->g = oracle_zeros(t * sum),
    l->hidden = oracle_zeros(t * 2 * CK_MAX_EXPERTS);
}

static void layer_free(layer_state *l) {
    double *all[] = {l->x, l->n1, l->qkv, l->o, l->r, l->n2, l->u, l->zh, l->gates, l->m, l->g, l->hidden};
    for (int site = 0; site < CK_SITES; site++) {
        free(l->h[site]);
        free(l->tied_h[site]);
    }
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void model_open(model *m) {
    int64_t width = m->base->shape.width;
    m->tokens = sequence_first(m, m->batch->n_sequences);
    m->margin = INFINITY;
    m->layers = calloc((size_t)m->base->shape.layers, sizeof *m->layers);
    if (m->layers == NULL) abort();
    for (int l = 0; l < m->base->shape.layers; l++) layer_allocate(m, &m->layers[l]);
    m->x = oracle_zeros(m->tokens * width);
    m->normed = oracle_zeros(m->tokens * width);
}

static void model_close(model *m) {
    for (int l = 0; l < m->base->shape.layers; l++) layer_free(&m->layers[l]);
    free(m->layers);
    free(m->x);
    free(m->normed);
}

/* ---- Forward --------------------------------------------------------------------------------- */

static int inputs_of(const model *m, ck_site site) {
    const base_shape *s = &m->base->shape;
    return site == CK_SITE_PR ? s->ffn : site == CK_SITE_OUT ? base_q_width(s) : s->width;
}

/* What the device's adapters at a site give, but for experts; the site's outputs begin at y. */
static void adapt(const model *m, int l, ck_site site, const double *x, double *y, int ldy) {
    oracle_adapter a = adapter(m, l);
    if (m->shape == NULL) return;
    oracle_lora(&a, site, m->tokens, x, m->layers[l].h[site], m->shape->lora_rank[site], y, ldy);
    oracle_tied_lora(&a, site, m->tokens, x, m->layers[l].tied_h[site], m->shape->tied_rank[site], y, ldy);
    oracle_site_vector(&a, site, m->tokens, inputs_of(m, site), x, y, ldy);
}

static void attention_forward(model *m, int l) {
    const base_layer *at = &m->base->layout.layer0;
    layer_state *s = &m->layers[l];
    int width = m->base->shape.width, q = base_q_width(&m->base->shape), kv = base_kv_width(&m->base->shape),
        qkv = q + 2 * kv;
    norm(m, s->x, weight(m, l, at->ln1_gain), weight(m, l, at->ln1_bias), s->n1);
    oracle_linear(linear_size(m, width, qkv), s->n1, weight(m, l, at->qkv_w), weight(m, l, at->qkv_b), NULL,
                  NULL, s->qkv);
    adapt(m, l, CK_SITE_QKV, s->n1, s->qkv, qkv);
    adapt(m, l, CK_SITE_Q, s->n1, s->qkv, qkv);
    adapt(m, l, CK_SITE_K, s->n1, s->qkv + q, qkv);
    adapt(m, l, CK_SITE_V, s->n1, s->qkv + q + kv, qkv);
    for (int i = 0; i < m->batch->n_sequences; i++) {
        int64_t first = sequence_first(m, i);
        double *rows = s->qkv + first * qkv;
        if (is_llama(m)) oracle_rope(attention_size(m, i), weight(m, 0, m->base->layout.rope), false, rows);
        oracle_attention(attention_size(m, i), rows, s->o + first * q, NULL);
    }
    oracle_linear(linear_size(m, q, width), s->o, weight(m, l, at->out_w), weight(m, l, at->out_b), NULL,
                  s->x, s->r);
    adapt(m, l, CK_SITE_OUT, s->o, s->r, width);
}

/* The load balance of one layer's gates over the device's tokens. */
static double balance_gates(model *m, int l) {
    layer_state *s = &m->layers[l];
    oracle_adapter a = adapter(m, l);
    int ld = m->shape->router_rows + m->shape->h_ranks;
    double gates[CK_MAX_EXPERTS] = {0}, load[CK_MAX_EXPERTS] = {0};
    for (int64_t t = 0; t < m->tokens; t++) {
        double p[CK_MAX_EXPERTS];
        oracle_load(&a, s->zh + t * ld, s->hidden + t * 2 * CK_MAX_EXPERTS, p);
        for (int e = 0; e < m->shape->n_experts; e++) {
            gates[e] += s->gates[t * CK_MAX_EXPERTS + e];
            load[e] += p[e];
        }
    }
    return m->batch->noise ? oracle_gate_balance(m->shape, gates, load, s->coefficient) : 0;
}

/* Counts, P and the load balance of one layer over the device's tokens. */
static void balance_forward(model *m, int l) {
    layer_state *s = &m->layers[l];
    int ld = m->shape->router_rows + m->shape->h_ranks;
    double count[CK_MAX_EXPERTS] = {0}, p_sum[CK_MAX_EXPERTS] = {0};
    if (m->shape->router_rows == 0) return;
    m->margin = fmin(m->margin, oracle_margin(m->shape, m->tokens, s->zh, ld));
    if (oracle_has_hidden_layer(m->shape)) {
        m->balance += balance_gates(m, l);
        return;
    }
    for (int64_t t = 0; t < m->tokens; t++) {
        double p[CK_MAX_EXPERTS];
        oracle_balance_probability(m->shape, s->zh + t * ld, p);
        for (int e = 0; e < m->shape->n_experts; e++) {
            p_sum[e] += p[e];
            count[e] += s->gates[t * CK_MAX_EXPERTS + e] > 0;
        }
    }
    m->balance += oracle_balance(m->shape, m->tokens, count, p_sum, s->coefficient);
}

static void experts_forward(model *m, int l, double *out) {
    const base_layer *at = &m->base->layout.layer0;
    layer_state *s = &m->layers[l];
    int width = m->base->shape.width, ffn = m->base->shape.ffn, ldg = m->shape->rank_sum,
        ld = m->shape->h_ranks + m->shape->router_rows;
    oracle_adapter a = adapter(m, l);
    double *factor = oracle_zeros(m->tokens);
    oracle_route(&a, m->tokens, s->n2, s->zh, ld, s->gates, s->hidden);
    balance_forward(m, l);
    oracle_expert_activation(&a, m->tokens, s->u, s->zh, ld, s->gates, s->m, s->g, ldg);
    oracle_bias_factor(m->shape, m->tokens, s->gates, factor);
    oracle_linear(linear_size(m, ffn, width), s->m, weight(m, l, at->pr_w), weight(m, l, at->pr_b), factor,
                  s->r, out);
    adapt(m, l, CK_SITE_PR, s->m, out, width);
    oracle_expert_expand(&a, m->tokens, s->g, ldg, s->gates, out);
    free(factor);
}

static void activate(const model *m, layer_state *s) {
    int ffn = m->base->shape.ffn;
    if (is_llama(m)) oracle_swiglu(m->tokens, ffn, s->u, s->m);
    for (int64_t i = 0; i < m->tokens * ffn && !is_llama(m); i++) s->m[i] = oracle_gelu(s->u[i]);
}

static void mlp_forward(model *m, int l, double *out) {
    const base_layer *at = &m->base->layout.layer0;
    layer_state *s = &m->layers[l];
    int width = m->base->shape.width, ffn = m->base->shape.ffn, fc = base_fc_width(&m->base->shape);
    norm(m, s->r, weight(m, l, at->ln2_gain), weight(m, l, at->ln2_bias), s->n2);
    oracle_linear(linear_size(m, width, fc), s->n2, weight(m, l, at->fc_w), weight(m, l, at->fc_b), NULL,
                  NULL, s->u);
    adapt(m, l, CK_SITE_GATE, s->n2, s->u, fc);
    adapt(m, l, CK_SITE_FC, s->n2, s->u + (fc - ffn), fc);
    if (m->shape != NULL) {
        experts_forward(m, l, out);
        return;
    }
    activate(m, s);
    oracle_linear(linear_size(m, ffn, width), s->m, weight(m, l, at->pr_w), weight(m, l, at->pr_b), NULL,
                  s->r, out);
}

/* Returns the summed loss. */
static double forward(model *m, double *loss, double *logits) {
    const base_layout *at = &m->base->layout;
    int layers = m->base->shape.layers, width = m->base->shape.width, vocabulary = m->base->shape.vocabulary;
    double total = 0;
    for (int i = 0; i < m->batch->n_sequences; i++) {
        int64_t first = sequence_first(m, i);
        oracle_embed(sequence_tokens(m, i), width, m->batch->tokens + first, weight(m, 0, at->wte),
                     weight(m, 0, at->wpe), m->layers[0].x + first * width);
    }
    for (int l = 0; l < layers; l++) {
        attention_forward(m, l);
        mlp_forward(m, l, l + 1 < layers ? m->layers[l + 1].x : m->x);
    }
    norm(m, m->x, weight(m, 0, at->lnf_gain), weight(m, 0, at->lnf_bias), m->normed);
    for (int i = 0; i < m->batch->n_sequences; i++) {
        int64_t first = sequence_first(m, i);
        oracle_head_size size = {sequence_tokens(m, i), width, vocabulary};
        double sum =
            oracle_head(size, m->normed + first * width, weight(m, 0, at->head), m->batch->targets + first,
                        logits != NULL ? logits + first * vocabulary : NULL);
        if (loss != NULL) loss[i] = sum;
        total += sum;
    }
    return total;
}

/* ---- Backward -------------------------------------------------------------------------------- */

static void adapt_backward(const model *m, int l, ck_site site, const double *x, const double *dy, int ldy,
                           double *dx) {
    oracle_adapter a = adapter(m, l);
    if (m->shape == NULL) return;
    oracle_lora_backward(&a, site, m->tokens, x, m->layers[l].h[site], m->shape->lora_rank[site], dy, ldy,
                         dx);
    oracle_tied_lora_backward(&a, site, m->tokens, x, m->layers[l].tied_h[site], m->shape->tied_rank[site],
                              dy, ldy, dx);
    oracle_site_vector_backward(&a, site, m->tokens, inputs_of(m, site), x, dy, ldy, dx);
}

/* dn2 from the gradient of the layer's output; leaves du in `du`. */
static void experts_backward(model *m, int l, const double *dy, double *du, double *dn2) {
    const base_layer *at = &m->base->layout.layer0;
    layer_state *s = &m->layers[l];
    int width = m->base->shape.width, ffn = m->base->shape.ffn, fc = base_fc_width(&m->base->shape),
        ldg = m->shape->rank_sum, ldp = m->shape->h_ranks, ld = ldp + m->shape->router_rows;
    oracle_adapter a = adapter(m, l);
    double *q = oracle_zeros(m->tokens * ldg), *p = oracle_zeros(m->tokens * ldp),
           *dw = oracle_zeros(m->tokens * CK_MAX_EXPERTS), *dm = oracle_zeros(m->tokens * ffn);
    oracle_expert_expand_backward(&a, m->tokens, weight(m, l, at->pr_b), dy, s->g, ldg, s->gates, q, dw);
    oracle_linear_backward(linear_size(m, ffn, width), s->m, weight(m, l, at->pr_w), dy, dm, NULL, NULL);
    adapt_backward(m, l, CK_SITE_PR, s->m, dy, width, dm);
    oracle_expert_activation_backward(&a, m->tokens, s->u, s->zh, ld, s->gates, dm, q, ldg, du, p, ldp, dw);
    adapt_backward(m, l, CK_SITE_GATE, s->n2, du, fc, dn2);
    adapt_backward(m, l, CK_SITE_FC, s->n2, du + (fc - ffn), fc, dn2);
    oracle_route_backward(&a, m->tokens, s->n2, s->zh, ld, s->gates, s->hidden, dw, p, ldp, s->coefficient,
                          dn2);
    free(q);
    free(p);
    free(dw);
    free(dm);
}

static void dense_backward(model *m, int l, const double *dy, double *du) {
    const base_layer *at = &m->base->layout.layer0;
    layer_state *s = &m->layers[l];
    int width = m->base->shape.width, ffn = m->base->shape.ffn;
    double *dm = oracle_zeros(m->tokens * ffn);
    oracle_linear_backward(linear_size(m, ffn, width), s->m, weight(m, l, at->pr_w), dy, dm,
                           slot(m, l, at->pr_w), slot(m, l, at->pr_b));
    if (is_llama(m)) oracle_swiglu_backward(m->tokens, ffn, s->u, dm, du);
    for (int64_t i = 0; i < m->tokens * ffn && !is_llama(m); i++) du[i] = dm[i] * oracle_gelu_slope(s->u[i]);
    free(dm);
}

/* dx: the gradient of the layer's output comes in, that of r goes out. */
static void mlp_backward(model *m, int l, double *dx) {
    const base_layer *at = &m->base->layout.layer0;
    layer_state *s = &m->layers[l];
    int width = m->base->shape.width, fc = base_fc_width(&m->base->shape);
    double *du = oracle_zeros(m->tokens * fc), *dn2 = oracle_zeros(m->tokens * width);
    if (m->shape != NULL)
        experts_backward(m, l, dx, du, dn2);
    else
        dense_backward(m, l, dx, du);
    oracle_linear_backward(linear_size(m, width, fc), s->n2, weight(m, l, at->fc_w), du, dn2,
                           slot(m, l, at->fc_w), slot(m, l, at->fc_b));
    norm_backward(m, s->r, weight(m, l, at->ln2_gain), dn2, dx, slot(m, l, at->ln2_gain),
                  slot(m, l, at->ln2_bias));
    free(du);
    free(dn2);
}

static void attention_backward(model *m, int l, double *dx) {
    const base_layer *at = &m->base->layout.layer0;
    layer_state *s = &m->layers[l];
    int width = m->base->shape.width, q = base_q_width(&m->base->shape), kv = base_kv_width(&m->base->shape),
        qkv = q + 2 * kv;
    double *d_o = oracle_zeros(m->tokens * q), *dqkv = oracle_zeros(m->tokens * qkv),
           *dn1 = oracle_zeros(m->tokens * width);
    oracle_linear_backward(linear_size(m, q, width), s->o, weight(m, l, at->out_w), dx, d_o,
                           slot(m, l, at->out_w), slot(m, l, at->out_b));
    adapt_backward(m, l, CK_SITE_OUT, s->o, dx, width, d_o);
    for (int i = 0; i < m->batch->n_sequences; i++) {
        int64_t first = sequence_first(m, i);
        double *rows = dqkv + first * qkv;
        oracle_attention_backward(attention_size(m, i), s->qkv + first * qkv, d_o + first * q, rows);
        if (is_llama(m)) oracle_rope(attention_size(m, i), weight(m, 0, m->base->layout.rope), true, rows);
    }
    oracle_linear_backward(linear_size(m, width, qkv), s->n1, weight(m, l, at->qkv_w), dqkv, dn1,
                           slot(m, l, at->qkv_w), slot(m, l, at->qkv_b));
    adapt_backward(m, l, CK_SITE_QKV, s->n1, dqkv, qkv, dn1);
    adapt_backward(m, l, CK_SITE_Q, s->n1, dqkv, qkv, dn1);
    adapt_backward(m, l, CK_SITE_K, s->n1, dqkv + q, qkv, dn1);
    adapt_backward(m, l, CK_SITE_V, s->n1, dqkv + q + kv, qkv, dn1);
    norm_backward(m, s->x, weight(m, l, at->ln1_gain), dn1, dx, slot(m, l, at->ln1_gain),
                  slot(m, l, at->ln1_bias));
    free(d_o);
    free(dqkv);
    free(dn1);
}

static void backward(model *m, double scale) {
    const base_layout *at = &m->base->layout;
    int width = m->base->shape.width;
    double *dnormed = oracle_zeros(m->tokens * width), *dx = oracle_zeros(m->tokens * width);
    oracle_head_backward((oracle_head_size){m->tokens, width, m->base->shape.vocabulary}, m->normed,
                         weight(m, 0, at->head), m->batch->targets, scale, dnormed, slot(m, 0, at->head));
    norm_backward(m, m->x, weight(m, 0, at->lnf_gain), dnormed, dx, slot(m, 0, at->lnf_gain),
                  slot(m, 0, at->lnf_bias));
    for (int l = m->base->shape.layers - 1; l >= 0; l--) {
        mlp_backward(m, l, dx);
        attention_backward(m, l, dx);
    }
    for (int i = 0; i < m->batch->n_sequences && m->base_gradients != NULL; i++) {
        int64_t first = sequence_first(m, i);
        oracle_embed_backward(sequence_tokens(m, i), width, m->batch->tokens + first, dx + first * width,
                              slot(m, 0, at->wte), slot(m, 0, at->wpe));
    }
    free(dnormed);
    free(dx);
}

/* ---- Entry points ---------------------------------------------------------------------------- */

static double reciprocal_count(const model *m) {
    int64_t counted = oracle_counted(m->tokens, m->batch->targets);
    return counted > 0 ? 1.0 / (double)counted : 0;
}

static void report_gates(const model *m, oracle_pass *pass) {
    for (int l = 0; l < m->base->shape.layers; l++) {
        const layer_state *s = &m->layers[l];
        size_t bytes = (size_t)m->tokens * CK_MAX_EXPERTS * sizeof(double);
        if (pass->gates != NULL) memcpy(pass->gates + l * m->tokens * CK_MAX_EXPERTS, s->gates, bytes);
    }
}

double oracle_model(const oracle_base *base, const ck_shape *shape, const double *parameters,
                    const oracle_batch *batch, oracle_pass *pass) {
    model m = {.base = base,
               .shape = shape,
               .parameters = parameters,
               .batch = batch,
               .adapter_gradients = pass->gradients};
    model_open(&m);
    double scale = reciprocal_count(&m),
           objective = scale * forward(&m, pass->loss, pass->logits) + m.balance;
    report_gates(&m, pass);
    if (pass->gradients != NULL) backward(&m, scale);
    pass->margin = m.margin;
    pass->balance = m.balance;
    model_close(&m);
    return objective;
}

double oracle_pretraining(const oracle_base *base, const oracle_batch *batch, oracle_pass *pass) {
    model m = {.base = base, .batch = batch, .base_gradients = pass->gradients};
    model_open(&m);
    double scale = reciprocal_count(&m), objective = scale * forward(&m, pass->loss, pass->logits);
    if (pass->gradients != NULL) backward(&m, scale);
    model_close(&m);
    return objective;
}

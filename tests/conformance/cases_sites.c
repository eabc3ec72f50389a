/* LoRAs at the sites of a Llama (q, k and v beside each other in qkv, gate and up in U) and in the MLP, beside
 * experts or instead of them. What the others' columns hold stays as it is. */
#include "conformance/cases.h"

/* The linear of a site: its inputs and outputs, and where the outputs lie in a tensor of `columns`. */
typedef struct {
    ck_site site;
    int in, out, first, columns;
} place;

static place place_of(const rig *r, ck_site site) {
    const ck_shape *s = rig_shape(r, 0);
    int q = s->q_width, kv = s->kv_width, up = s->mlp == CK_MLP_SWIGLU ? 2 * s->ffn : s->ffn;
    switch (site) {
    case CK_SITE_Q:
        return (place){site, s->width, q, 0, q + 2 * kv};
    case CK_SITE_K:
        return (place){site, s->width, kv, q, q + 2 * kv};
    case CK_SITE_V:
        return (place){site, s->width, kv, q + kv, q + 2 * kv};
    case CK_SITE_GATE:
        return (place){site, s->width, s->ffn, 0, up};
    case CK_SITE_FC:
        return (place){site, s->width, s->ffn, up - s->ffn, up};
    case CK_SITE_PR:
        return (place){site, s->ffn, s->width, 0, s->width};
    case CK_SITE_QKV:
    case CK_SITE_OUT:
    case CK_SITES:
        break;
    }
    return (place){site, q, s->width, 0, s->width};
}

static void forward_at(rig *r, ck_site site) {
    place p = place_of(r, site);
    rig_tensor *x = rig_input(r, p.in, "x"), *h = rig_output(r, r->max_lora_rank, "h"),
               *y = rig_input(r, p.columns, "y");
    ck_op_lora(r->program, &(ck_lora){.x = x->tensor,
                                      .h = h->tensor,
                                      .y = y->tensor,
                                      .site = site,
                                      .in = p.in,
                                      .out = p.out,
                                      .first_column = p.first,
                                      .layer = RIG_LAYER});
    if (!rig_run(r)) return;
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_lora(&a, site, rig_rows(r, d), rig_row(x, first), rig_row(h, first), h->columns,
                    rig_row(y, first) + p.first, p.columns);
    }
    rig_compare(r, h, COLUMNS_LORA + site);
    rig_compare(r, y, COLUMNS_ALL);
}

static void backward_at(rig *r, ck_site site) {
    place p = place_of(r, site);
    rig_tensor *x = rig_input(r, p.in, "x"), *h = rig_input(r, r->max_lora_rank, "h"),
               *dx = rig_input(r, p.in, "dx"), *dy = rig_input(r, p.columns, "dy");
    rig_poison(r, h, COLUMNS_LORA + site);
    ck_op_lora_backward(r->program, &(ck_lora_backward){.x = x->tensor,
                                                        .h = h->tensor,
                                                        .dy = dy->tensor,
                                                        .dx = dx->tensor,
                                                        .site = site,
                                                        .in = p.in,
                                                        .out = p.out,
                                                        .first_column = p.first,
                                                        .layer = RIG_LAYER});
    if (!rig_run(r)) return;
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_lora_backward(&a, site, rig_rows(r, d), rig_row(x, first), rig_row(h, first), h->columns,
                             rig_row(dy, first) + p.first, p.columns, rig_row(dx, first));
    }
    rig_compare(r, dx, COLUMNS_ALL);
    rig_compare_gradients(
        r, RIG_LAYER, 1u << oracle_lora_part(site, CK_FACTOR_A) | 1u << oracle_lora_part(site, CK_FACTOR_B));
}

/* x W^T + b, then the LoRAs of all sites whose outputs it makes: one of them may begin y instead of the
 * product, but only where it has all columns. */
static void linear_with(rig *r, const ck_site *sites, int n) {
    place whole = place_of(r, sites[0]);
    int in = whole.in, out = whole.columns;
    rig_tensor *x = rig_input(r, in, "x"), *y = rig_output(r, out, "y"),
               *residual = rig_input(r, out, "residual"), *h[3];
    rig_buffer *weight = rig_weights(r, (int64_t)in * out, 0.2, "weight"),
               *bias = rig_weights(r, out, 3, "bias");
    ck_op_linear(r->program, &(ck_linear){.x = x->tensor,
                                          .y = y->tensor,
                                          .residual = residual->tensor,
                                          .weight = weight->memory,
                                          .bias = bias->memory,
                                          .in = in,
                                          .out = out,
                                          .linear = -1});
    for (int i = 0; i < n; i++) {
        place p = place_of(r, sites[i]);
        h[i] = rig_output(r, r->max_lora_rank, "h");
        ck_op_lora(r->program, &(ck_lora){.x = x->tensor,
                                          .h = h[i]->tensor,
                                          .y = y->tensor,
                                          .site = p.site,
                                          .in = p.in,
                                          .out = p.out,
                                          .first_column = p.first,
                                          .layer = RIG_LAYER});
    }
    if (!rig_run(r)) return;
    oracle_linear((oracle_linear_size){r->n_tokens, in, out}, x->ref, weight->ref, bias->ref, NULL,
                  residual->ref, y->ref);
    for (int d = 0; d < r->spec->n_devices; d++)
        for (int i = 0; i < n; i++) {
            oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
            int64_t first = rig_first(r, d);
            oracle_lora(&a, sites[i], rig_rows(r, d), rig_row(x, first), rig_row(h[i], first), h[i]->columns,
                        rig_row(y, first) + place_of(r, sites[i]).first, out);
        }
    rig_compare(r, y, COLUMNS_ALL);
}

static void linear_qkv(rig *r) {
    linear_with(r, (const ck_site[]){CK_SITE_Q, CK_SITE_K, CK_SITE_V}, 3);
}

static void linear_up(rig *r) {
    linear_with(r, (const ck_site[]){CK_SITE_FC, CK_SITE_GATE},
                rig_shape(r, 0)->mlp == CK_MLP_SWIGLU ? 2 : 1);
}

static void linear_down(rig *r) {
    linear_with(r, (const ck_site[]){CK_SITE_PR}, 1);
}

#define AT(name, site)                                                                                       \
    static void name(rig *r) {                                                                               \
        forward_at(r, site);                                                                                 \
    }                                                                                                        \
    static void name##_backward(rig *r) {                                                                    \
        backward_at(r, site);                                                                                \
    }
AT(q, CK_SITE_Q)
AT(k, CK_SITE_K)
AT(v, CK_SITE_V)
AT(gate, CK_SITE_GATE)
AT(up, CK_SITE_FC)
AT(down, CK_SITE_PR)
#undef AT

static const conformance_case cases[] = {
    {.name = "lora of q", .run = q},
    {.name = "lora of k", .run = k},
    {.name = "lora of v", .run = v},
    {.name = "lora of gate", .run = gate},
    {.name = "lora of fc", .run = up},
    {.name = "lora of pr", .run = down},
    {.name = "lora of q, backward", .run = q_backward, .learns = true},
    {.name = "lora of k, backward", .run = k_backward, .learns = true},
    {.name = "lora of v, backward", .run = v_backward, .learns = true},
    {.name = "lora of gate, backward", .run = gate_backward, .learns = true},
    {.name = "lora of fc, backward", .run = up_backward, .learns = true},
    {.name = "lora of pr, backward", .run = down_backward, .learns = true},
    {.name = "linear and loras of q, k, v", .run = linear_qkv},
    {.name = "linear and loras of fc, gate", .run = linear_up},
    {.name = "linear and lora of pr", .run = linear_down},
};
const conformance_group sites_group = {"sites", cases, sizeof cases / sizeof *cases};

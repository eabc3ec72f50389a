/* lora.c - the LoRA at a site that is not routed, of rank ra; alone that of qkv. The conformance tests have
 * all sites, in waves where some devices have it, with different ranks, and some have not. What the columns
 * of other sites hold stays as it is.
 *
 *   lora             x read, y (3 D) read and written, h written; A, B read
 *   lora, backward   x, dy, h read, dx read and written; A, B read, dA, dB written */
#include "cases/linear.h"
#include "cases/ops.h"
#include "cases/places.h"
#include "cases/versions.h"

/* AFTER_LINEAR: y is that of a linear just before, with the LoRAs of all sites whose outputs it makes; the
 * one that has all columns may begin y, and the base product is then added to it. */
enum { NO_DX = 1, AFTER_LINEAR = 2, MOST_SITES = 3 };
typedef struct {
    int n;
    place at[MOST_SITES];
    tensor_id h[MOST_SITES];
} places;

static places places_of(const rig *r) {
    ck_site site = place_site(r);
    places p = {1, {place_of(r, site)}, {H, H_SECOND, H_THIRD}};
    if (!(r->flags & AFTER_LINEAR)) return p;
    if (site == CK_SITE_Q) {
        p.at[p.n++] = place_of(r, CK_SITE_K);
        p.at[p.n++] = place_of(r, CK_SITE_V);
    }
    if (site == CK_SITE_FC && r->up > r->ffn) p.at[p.n++] = place_of(r, CK_SITE_GATE);
    return p;
}

static const linear_arrays BASE = {.x = X, .y = Y, .residual = RESIDUAL, .weight = WEIGHT, .bias = BIAS};

static void arrays(rig *r) {
    static const char *const names[MOST_SITES] = {"h", "h of the second site", "h of the third site"};
    places p = places_of(r);
    bool after = (r->flags & AFTER_LINEAR) != 0;
    rig_tensor_of(r, X, "x", INPUT, p.at[0].in);
    for (int i = 0; i < p.n; i++) rig_tensor_lora(r, p.h[i], names[i], OUTPUT, COLUMNS_LORA, p.at[i].site);
    rig_tensor_of(r, Y, "y", after ? OUTPUT : IN_PLACE, p.at[0].columns);
    if (!after) return;
    rig_tensor_of(r, RESIDUAL, "residual", INPUT, p.at[0].columns);
    versions_arrays(r, (versions_size){p.at[0].in, p.at[0].columns, false, 0.2, 3});
}

static void record(const rig *r, rig_copy *c) {
    places p = places_of(r);
    if (r->flags & AFTER_LINEAR) linear_record(r, c, BASE);
    for (int i = 0; i < p.n; i++)
        ck_op_lora(c->program, &(ck_lora){.x = c->tensor[X],
                                          .h = c->tensor[p.h[i]],
                                          .y = c->tensor[Y],
                                          .site = p.at[i].site,
                                          .in = p.at[i].in,
                                          .out = p.at[i].out,
                                          .first_column = p.at[i].first,
                                          .layer = r->layer});
}

static void reference(view *v) {
    places p = places_of(v->r);
    if (v->r->flags & AFTER_LINEAR) linear_reference(v, BASE);
    for (int i = 0; i < p.n; i++)
        oracle_lora(&v->adapter, p.at[i].site, v->rows.n, v->tensor[X], v->tensor[p.h[i]],
                    view_columns(v, p.h[i]), v->tensor[Y] + p.at[i].first, p.at[i].columns);
}

/* Of the layer's LoRA, or of the one that all layers share: a microbenchmark has one of them. */
static double rank_of(const rig *r) {
    return r->shapes[0].lora_rank[CK_SITE_QKV] + r->shapes[0].tied_rank[CK_SITE_QKV];
}

cost lora_cost(const rig *r, int out) {
    double t = tokens_of(r), d = r->width, o = out, rank = rank_of(r);
    return (cost){"lora",
                  activation_bytes(r) * t * (d + 2 * o) + 4 * t * rank + 4.0 * r->n_devices * rank * (d + o),
                  2 * t * rank * (d + o)};
}

static cost cost_alone(const rig *r) {
    return lora_cost(r, 3 * r->width);
}

const op_case lora_forward = {
    .group = "lora",
    .name = "lora",
    .direction = "forward",
    .floor = "bytes 7 a T D + 4 T ra + 16 N ra D; FLOPs 8 T ra D",
    .axes = AXES_LORA,
    .needs = NEED_PACKS,
    .arrays = arrays,
    .record = record,
    .reference = reference,
    .cost_of = cost_alone,
    .variants = {{"lora of qkv"},
                 {"lora of the output", .size = AT(CK_SITE_OUT)},
                 {"lora of q", .size = AT(CK_SITE_Q)},
                 {"lora of k", .size = AT(CK_SITE_K)},
                 {"lora of v", .size = AT(CK_SITE_V)},
                 {"lora of gate", .size = AT(CK_SITE_GATE)},
                 {"lora of fc", .size = AT(CK_SITE_FC)},
                 {"lora of pr", .size = AT(CK_SITE_PR)},
                 {"linear and lora of qkv", AFTER_LINEAR},
                 {"linear and loras of q, k, v", AFTER_LINEAR, AT(CK_SITE_Q)},
                 {"linear and loras of fc, gate", AFTER_LINEAR, AT(CK_SITE_FC)},
                 {"linear and lora of pr", AFTER_LINEAR, AT(CK_SITE_PR)},
                 {"linear of variants and lora of the output", AFTER_LINEAR | OF_VARIANTS, AT(CK_SITE_OUT),
                  .group = "variants"}}};

static void arrays_backward(rig *r) {
    place p = place_of(r, place_site(r));
    rig_tensor_of(r, X, "x", INPUT, p.in);
    rig_tensor_lora(r, H, "h", INPUT, COLUMNS_LORA, p.site);
    rig_tensor_of(r, DY, "dy", INPUT, p.columns);
    if (!(r->flags & NO_DX)) rig_tensor_of(r, DX, "dx", IN_PLACE, p.in);
    r->gradients = 1u << oracle_lora_part(p.site, CK_FACTOR_A) | 1u << oracle_lora_part(p.site, CK_FACTOR_B);
}

static void record_backward(const rig *r, rig_copy *c) {
    place p = place_of(r, place_site(r));
    ck_op_lora_backward(c->program, &(ck_lora_backward){.x = c->tensor[X],
                                                        .h = c->tensor[H],
                                                        .dy = c->tensor[DY],
                                                        .dx = c->tensor[DX],
                                                        .site = p.site,
                                                        .in = p.in,
                                                        .out = p.out,
                                                        .first_column = p.first,
                                                        .layer = r->layer});
}

static void reference_backward(view *v) {
    place p = place_of(v->r, place_site(v->r));
    oracle_lora_backward(&v->adapter, p.site, v->rows.n, v->tensor[X], v->tensor[H], view_columns(v, H),
                         v->tensor[DY] + p.first, p.columns, v->tensor[DX]);
}

cost lora_backward_cost(const rig *r, int out, bool input_gradient) {
    double t = tokens_of(r), d = r->width, o = out, rank = rank_of(r), dx = input_gradient ? d : 0;
    return (cost){"lora backward",
                  activation_bytes(r) * t * (d + o + 2 * dx) + 4 * t * rank +
                      8.0 * r->n_devices * rank * (d + o),
                  2 * t * rank * (d + 2 * o + dx)};
}

static cost cost_alone_backward(const rig *r) {
    return lora_backward_cost(r, 3 * r->width, true);
}

/* q needs whole rows of dy, and the gradients all rows of a device. */
const op_case lora_backward = {.group = "lora",
                               .name = "lora",
                               .direction = "backward",
                               .floor = "bytes 6 a T D + 4 T ra + 32 N ra D; FLOPs 16 T ra D",
                               .axes = AXES_LORA,
                               .needs = NEED_PACKS | NEED_GRADIENTS,
                               .rows = ROWS_DEVICE,
                               .arrays = arrays_backward,
                               .record = record_backward,
                               .reference = reference_backward,
                               .cost_of = cost_alone_backward,
                               .variants = {{"lora of qkv, backward"},
                                            {"lora of qkv, backward without dx", NO_DX},
                                            {"lora of the output, backward", .size = AT(CK_SITE_OUT)},
                                            {"lora of q, backward", .size = AT(CK_SITE_Q)},
                                            {"lora of k, backward", .size = AT(CK_SITE_K)},
                                            {"lora of v, backward", .size = AT(CK_SITE_V)},
                                            {"lora of gate, backward", .size = AT(CK_SITE_GATE)},
                                            {"lora of fc, backward", .size = AT(CK_SITE_FC)},
                                            {"lora of pr, backward", .size = AT(CK_SITE_PR)}}};

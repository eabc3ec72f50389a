/* tied.c - what all layers share at a site: a LoRA of rank ra, a vector p (W x becomes W x + p, or p times
 * the sum of x is added), and the sums of their gradients over layers. Alone at qkv, its vector with the sum
 * of x; the conformance tests have all sites, in waves where some devices have it and some have not, and
 * there the backward operations of two layers and their sum.
 *
 *   tied                    x read, y (3 D) read and written, h written; A, B read
 *   tied, backward          x, dy, h read, dx read and written; A, B read, dA, dB written
 *   site_vector             x read, y read and written; p read
 *   site_vector, backward   x, dy read, dx read and written; p read, dp written
 *   tied_gradients          of all parameters, what every layer gives read, the sum written */
#include "cases/ops.h"
#include "cases/places.h"

/* Of the gradient of A (0), B (1) or the vector (2) of a site. */
static uint64_t bit_of(ck_site site, int which) {
    return (uint64_t)1 << (ORACLE_TIED + 3 * (int)site + which);
}

/* A variant for each site, with these words before and after its name. */
#define AT_EVERY_SITE(before, after)                                                                         \
    {before "q" after, .size = AT(CK_SITE_Q)}, {before "k" after, .size = AT(CK_SITE_K)},                    \
        {before "v" after, .size = AT(CK_SITE_V)}, {before "qkv" after, .size = AT(CK_SITE_QKV)},            \
        {before "out" after, .size = AT(CK_SITE_OUT)}, {before "gate" after, .size = AT(CK_SITE_GATE)},      \
        {before "fc" after, .size = AT(CK_SITE_FC)}, {                                                       \
        before "pr" after, .size = AT(CK_SITE_PR)                                                            \
    }

/* ---- Forward */

static void arrays(rig *r) {
    place p = place_of(r, place_site(r));
    rig_tensor_of(r, X, "x", INPUT, p.in);
    rig_tensor_lora(r, H, "h", OUTPUT, COLUMNS_TIED, p.site);
    rig_tensor_of(r, Y, "y", IN_PLACE, p.columns);
}

static void record(const rig *r, rig_copy *c) {
    place p = place_of(r, place_site(r));
    ck_op_lora(c->program, &(ck_lora){.x = c->tensor[X],
                                      .h = c->tensor[H],
                                      .y = c->tensor[Y],
                                      .site = p.site,
                                      .in = p.in,
                                      .out = p.out,
                                      .first_column = p.first,
                                      .layer = r->layer,
                                      .tied = true});
}

static void reference(view *v) {
    place p = place_of(v->r, place_site(v->r));
    oracle_tied_lora(&v->adapter, p.site, v->rows.n, v->tensor[X], v->tensor[H], view_columns(v, H),
                     v->tensor[Y] + p.first, p.columns);
}

static cost cost_lora(const rig *r) {
    return lora_cost(r, 3 * r->width);
}

const op_case tied_forward = {.group = "tied",
                              .name = "tied",
                              .direction = "forward",
                              .floor = "bytes 7 a T D + 4 T ra + 16 N ra D; FLOPs 8 T ra D",
                              .axes = AXES_LORA,
                              .needs = NEED_PACKS | NEED_TIED,
                              .arrays = arrays,
                              .record = record,
                              .reference = reference,
                              .cost_of = cost_lora,
                              .variants = {AT_EVERY_SITE("shared lora of ", "")}};

static void arrays_vector(rig *r) {
    place p = place_of(r, place_site(r));
    rig_tensor_of(r, X, "x", INPUT, p.in);
    rig_tensor_of(r, Y, "y", IN_PLACE, p.columns);
}

static void record_vector(const rig *r, rig_copy *c) {
    place p = place_of(r, place_site(r));
    ck_op_site_vector(c->program, &(ck_site_vector){.x = c->tensor[X],
                                                    .y = c->tensor[Y],
                                                    .site = p.site,
                                                    .in = p.in,
                                                    .out = p.out,
                                                    .first_column = p.first,
                                                    .layer = r->layer});
}

static void reference_vector(view *v) {
    place p = place_of(v->r, place_site(v->r));
    oracle_site_vector(&v->adapter, p.site, v->rows.n, p.in, v->tensor[X], v->tensor[Y] + p.first, p.columns);
}

static cost cost_vector(const rig *r) {
    double d = r->width;
    return (cost){"vector", activation_bytes(r) * tokens_of(r) * 7 * d + 4.0 * r->n_devices * 3 * d, 0};
}

enum { AXES_VECTOR = AXES_DENSE | 1 << AXIS_DEVICES | 1 << AXIS_DISTRIBUTION };

const op_case site_vector_forward = {.group = "tied",
                                     .name = "site_vector",
                                     .direction = "forward",
                                     .floor = "bytes 7 a T D + 12 N D",
                                     .axes = AXES_VECTOR,
                                     .needs = NEED_PACKS | NEED_TIED,
                                     .arrays = arrays_vector,
                                     .record = record_vector,
                                     .reference = reference_vector,
                                     .cost_of = cost_vector,
                                     .variants = {AT_EVERY_SITE("vector of ", "")}};

/* ---- Backward: of all layers, from the last to the first as a model has them, and their sum. Gradients of
 * what all layers share are listed with layer 0. */

typedef struct {
    tensor_id x, h, dy, dx;
} layer_arrays;

/* There are at most two. */
static layer_arrays layer_at(const rig *r, int layer) {
    return layer == r->layers - 1 ? (layer_arrays){X, H, DY, DX}
                                  : (layer_arrays){LOWER_X, LOWER_H, LOWER_DY, LOWER_DX};
}

static void arrays_backward(rig *r) {
    place p = place_of(r, place_site(r));
    for (int l = 0; l < r->layers; l++) {
        layer_arrays a = layer_at(r, l);
        rig_tensor_of(r, a.x, "x", INPUT, p.in);
        rig_tensor_lora(r, a.h, "h", INPUT, COLUMNS_TIED, p.site);
        rig_tensor_of(r, a.dy, "dy", INPUT, p.columns);
        rig_tensor_of(r, a.dx, "dx", IN_PLACE, p.in);
    }
    r->layer = 0;
    r->gradients = bit_of(p.site, 0) | bit_of(p.site, 1);
}

static void record_sum(const rig *r, rig_copy *c) {
    ck_op_tied_gradients(c->program, &(ck_tied_gradients){.n_layers = r->layers});
}

static void record_backward(const rig *r, rig_copy *c) {
    place p = place_of(r, place_site(r));
    for (int l = r->layers - 1; l >= 0; l--) {
        layer_arrays a = layer_at(r, l);
        ck_op_lora_backward(c->program, &(ck_lora_backward){.x = c->tensor[a.x],
                                                            .h = c->tensor[a.h],
                                                            .dy = c->tensor[a.dy],
                                                            .dx = c->tensor[a.dx],
                                                            .site = p.site,
                                                            .in = p.in,
                                                            .out = p.out,
                                                            .first_column = p.first,
                                                            .layer = l,
                                                            .tied = true});
    }
    record_sum(r, c);
}

static void reference_backward(view *v) {
    place p = place_of(v->r, place_site(v->r));
    oracle_adapter adapter = v->adapter;
    for (int l = 0; l < v->r->layers; l++) {
        layer_arrays a = layer_at(v->r, l);
        adapter.layer = l;
        oracle_tied_lora_backward(&adapter, p.site, v->rows.n, v->tensor[a.x], v->tensor[a.h],
                                  view_columns(v, a.h), v->tensor[a.dy] + p.first, p.columns,
                                  v->tensor[a.dx]);
    }
}

static cost cost_lora_backward(const rig *r) {
    return lora_backward_cost(r, 3 * r->width, true);
}

const op_case tied_backward = {.group = "tied",
                               .name = "tied",
                               .direction = "backward",
                               .floor = "bytes 6 a T D + 4 T ra + 32 N ra D; FLOPs 16 T ra D",
                               .axes = AXES_LORA,
                               .needs = NEED_PACKS | NEED_GRADIENTS | NEED_TIED,
                               .rows = ROWS_DEVICE,
                               .arrays = arrays_backward,
                               .record = record_backward,
                               .reference = reference_backward,
                               .cost_of = cost_lora_backward,
                               .variants = {AT_EVERY_SITE("shared lora of ", ", backward")}};

/* A lower layer is without dx. */
static void arrays_vector_backward(rig *r) {
    place p = place_of(r, place_site(r));
    for (int l = 0; l < r->layers; l++) {
        layer_arrays a = layer_at(r, l);
        rig_tensor_of(r, a.x, "x", INPUT, p.in);
        rig_tensor_of(r, a.dy, "dy", INPUT, p.columns);
        if (l == r->layers - 1) rig_tensor_of(r, a.dx, "dx", IN_PLACE, p.in);
    }
    r->layer = 0;
    r->gradients = bit_of(p.site, 2);
}

static void record_vector_backward(const rig *r, rig_copy *c) {
    place p = place_of(r, place_site(r));
    for (int l = r->layers - 1; l >= 0; l--) {
        layer_arrays a = layer_at(r, l);
        ck_op_site_vector_backward(c->program, &(ck_site_vector_backward){.x = c->tensor[a.x],
                                                                          .dy = c->tensor[a.dy],
                                                                          .dx = c->tensor[a.dx],
                                                                          .site = p.site,
                                                                          .in = p.in,
                                                                          .out = p.out,
                                                                          .first_column = p.first,
                                                                          .layer = l});
    }
    record_sum(r, c);
}

static void reference_vector_backward(view *v) {
    place p = place_of(v->r, place_site(v->r));
    for (int l = 0; l < v->r->layers; l++) {
        layer_arrays a = layer_at(v->r, l);
        oracle_site_vector_backward(&v->adapter, p.site, v->rows.n, p.in, v->tensor[a.x],
                                    v->tensor[a.dy] + p.first, p.columns, v->tensor[a.dx]);
    }
}

static cost cost_vector_backward(const rig *r) {
    double d = r->width;
    return (cost){"vector backward", activation_bytes(r) * tokens_of(r) * 6 * d + 8.0 * r->n_devices * 3 * d,
                  0};
}

const op_case site_vector_backward = {.group = "tied",
                                      .name = "site_vector",
                                      .direction = "backward",
                                      .floor = "bytes 6 a T D + 24 N D",
                                      .axes = AXES_VECTOR,
                                      .needs = NEED_PACKS | NEED_GRADIENTS | NEED_TIED,
                                      .rows = ROWS_DEVICE,
                                      .arrays = arrays_vector_backward,
                                      .record = record_vector_backward,
                                      .reference = reference_vector_backward,
                                      .cost_of = cost_vector_backward,
                                      .variants = {AT_EVERY_SITE("vector of ", ", backward")}};

/* ---- Sums over layers */

static void arrays_sum(rig *r) {
    r->gradients_given = true;
    r->layer = 0;
    r->gradients = UINT64_MAX << ORACLE_TIED;
}

static void reference_sum(view *v) {
    const ck_shape *s = &v->shape;
    for (int part = ORACLE_TIED; part < ORACLE_PARTS; part++) {
        oracle_range range = oracle_part_range(s, 0, (oracle_part)part);
        for (int64_t i = range.offset; i < range.offset + range.count; i++)
            for (int l = 0; l < v->r->layers; l++)
                v->gradients[i] += (double)rig_pack_value(v->r, PACK_GRADIENTS, v->device,
                                                          s->total + l * s->tied_floats + i - s->tied);
    }
}

static cost cost_sum(const rig *r) {
    double d = r->width, rank = r->shapes[0].tied_rank[CK_SITE_QKV];
    return (cost){"tied gradients", 4.0 * r->n_devices * (r->layers + 1) * (4 * rank * d + 3 * d), 0};
}

const op_case tied_gradients = {.group = "tied",
                                .name = "tied_gradients",
                                .direction = "backward",
                                .floor = "bytes 4 N (L + 1) (4 ra D + 3 D)",
                                .axes = 1 << AXIS_WIDTH | 1 << AXIS_DEVICES | 1 << AXIS_ATTENTION_RANK |
                                        1 << AXIS_LAYERS,
                                .needs = NEED_PACKS | NEED_GRADIENTS | NEED_TIED,
                                .rows = ROWS_DEVICE,
                                .arrays = arrays_sum,
                                .record = record_sum,
                                .reference = reference_sum,
                                .cost_of = cost_sum,
                                .variants = {{"gradients of what layers share"}}};

#include "model/adapt.h"

static int32_t wider(int32_t a, int32_t b) {
    return a > b ? a : b;
}

adapted_sites adapted_sites_of(const ck_shape *shapes, int n_shapes) {
    adapted_sites all = {0};
    for (int i = 0; i < n_shapes; i++) {
        for (int site = 0; site < CK_SITES; site++) {
            all.lora_columns[site] = wider(all.lora_columns[site], shapes[i].lora_rank[site]);
            all.tied_columns[site] = wider(all.tied_columns[site], shapes[i].tied_rank[site]);
            all.vectors[site] |= shapes[i].vector[site] != CK_NO_VECTOR;
        }
        all.any_tied |= shapes[i].tied_floats > 0;
    }
    return all;
}

bool is_adapted(const adapted_sites *sites, ck_site site) {
    return sites->lora_columns[site] > 0 || sites->tied_columns[site] > 0 || sites->vectors[site];
}

adapter_tensors adapter_tensors_create(ck_program *program, const adapted_sites *sites) {
    static const char *const names[CK_SITES] = {[CK_SITE_Q] = "q LoRA",
                                                [CK_SITE_K] = "k LoRA",
                                                [CK_SITE_V] = "v LoRA",
                                                [CK_SITE_QKV] = "qkv LoRA",
                                                [CK_SITE_OUT] = "attention output LoRA",
                                                [CK_SITE_GATE] = "gate LoRA",
                                                [CK_SITE_FC] = "fc LoRA",
                                                [CK_SITE_PR] = "projection LoRA"};
    adapter_tensors t = {0};
    for (int site = 0; site < CK_SITES; site++) {
        if (sites->lora_columns[site] > 0)
            t.h[site] = ck_activation(program, sites->lora_columns[site], names[site]);
        if (sites->tied_columns[site] > 0)
            t.tied_h[site] = ck_activation(program, sites->tied_columns[site], names[site]);
    }
    return t;
}

/* A site's linear: columns of its input and output, and where the output begins among those beside it. */
typedef struct {
    int32_t in, out, first_column;
} site_columns;

static site_columns columns_of(const base_shape *s, ck_site site) {
    int32_t d = s->width, q = base_q_width(s), kv = base_kv_width(s), f = s->ffn;
    const site_columns all[CK_SITES] = {[CK_SITE_Q] = {d, q, 0},
                                        [CK_SITE_K] = {d, kv, q},
                                        [CK_SITE_V] = {d, kv, q + kv},
                                        [CK_SITE_QKV] = {d, base_qkv_width(s), 0},
                                        [CK_SITE_OUT] = {q, d, 0},
                                        [CK_SITE_GATE] = {d, f, 0},
                                        [CK_SITE_FC] = {d, f, base_fc_width(s) - f},
                                        [CK_SITE_PR] = {f, d, 0}};
    return all[site];
}

static void one_lora(const adapted_layer *at, ck_site site, const ck_tensor *x, ck_tensor *y, ck_tensor *h,
                     bool tied) {
    site_columns c = columns_of(at->base, site);
    if (h)
        ck_op_lora(at->program, &(ck_lora){.x = x,
                                           .h = h,
                                           .y = y,
                                           .site = site,
                                           .in = c.in,
                                           .out = c.out,
                                           .first_column = c.first_column,
                                           .layer = at->layer,
                                           .tied = tied});
}

void adapt(const adapted_layer *at, ck_site site, const ck_tensor *x, ck_tensor *y) {
    site_columns c = columns_of(at->base, site);
    one_lora(at, site, x, y, at->tensors.h[site], false);
    one_lora(at, site, x, y, at->tensors.tied_h[site], true);
    if (at->sites->vectors[site])
        ck_op_site_vector(at->program, &(ck_site_vector){.x = x,
                                                         .y = y,
                                                         .site = site,
                                                         .in = c.in,
                                                         .out = c.out,
                                                         .first_column = c.first_column,
                                                         .layer = at->layer});
}

static void one_lora_backward(const adapted_layer *at, ck_site site, const ck_tensor *x, const ck_tensor *dy,
                              ck_tensor *dx, const ck_tensor *h, bool tied) {
    site_columns c = columns_of(at->base, site);
    if (h)
        ck_op_lora_backward(at->program, &(ck_lora_backward){.x = x,
                                                             .h = h,
                                                             .dy = dy,
                                                             .dx = dx,
                                                             .site = site,
                                                             .in = c.in,
                                                             .out = c.out,
                                                             .first_column = c.first_column,
                                                             .layer = at->layer,
                                                             .tied = tied});
}

void adapt_backward(const adapted_layer *at, ck_site site, const ck_tensor *x, const ck_tensor *dy,
                    ck_tensor *dx) {
    site_columns c = columns_of(at->base, site);
    one_lora_backward(at, site, x, dy, dx, at->tensors.h[site], false);
    one_lora_backward(at, site, x, dy, dx, at->tensors.tied_h[site], true);
    if (at->sites->vectors[site])
        ck_op_site_vector_backward(at->program, &(ck_site_vector_backward){.x = x,
                                                                           .dy = dy,
                                                                           .dx = dx,
                                                                           .site = site,
                                                                           .in = c.in,
                                                                           .out = c.out,
                                                                           .first_column = c.first_column,
                                                                           .layer = at->layer});
}

/* LoRAs at the sites of a Llama (q, k and v beside each other in qkv, gate and up in U) and in the MLP, beside
 * experts or instead of them, and what all layers share at any site. What the others' columns hold stays as it
 * is. */
#include <stdlib.h>
#include <string.h>

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
        return (place){site, s->width, q + 2 * kv, 0, q + 2 * kv};
    case CK_SITE_OUT:
    case CK_SITES:
        break;
    }
    return (place){site, q, s->width, 0, s->width};
}

static void forward_at(rig *r, ck_site site, bool tied) {
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
                                      .layer = RIG_LAYER,
                                      .tied = tied});
    if (!rig_run(r)) return;
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        (tied ? oracle_tied_lora : oracle_lora)(&a, site, rig_rows(r, d), rig_row(x, first),
                                                rig_row(h, first), h->columns, rig_row(y, first) + p.first,
                                                p.columns);
    }
    rig_compare(r, h, (tied ? COLUMNS_TIED : COLUMNS_LORA) + site);
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

/* ---- What all layers share */

typedef struct {
    rig_tensor *x, *h, *dx, *dy;
} backward_tensors;

static void tied_backward_of(rig *r, place p, int layer, backward_tensors t) {
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, layer);
        int64_t first = rig_first(r, d);
        oracle_tied_lora_backward(&a, p.site, rig_rows(r, d), rig_row(t.x, first), rig_row(t.h, first),
                                  t.h->columns, rig_row(t.dy, first) + p.first, p.columns,
                                  rig_row(t.dx, first));
    }
}

static uint64_t tied_part(ck_site site, int which) {
    return (uint64_t)1 << (ORACLE_TIED + 3 * (int)site + which);
}

/* Both layers, from the last to the first as a model has them, and their sum. */
static void tied_backward_at(rig *r, ck_site site) {
    place p = place_of(r, site);
    backward_tensors layers[WAVE_LAYERS];
    for (int l = WAVE_LAYERS - 1; l >= 0; l--) {
        backward_tensors *t = &layers[l];
        *t = (backward_tensors){rig_input(r, p.in, "x"), rig_input(r, r->max_lora_rank, "h"),
                                rig_input(r, p.in, "dx"), rig_input(r, p.columns, "dy")};
        rig_poison(r, t->h, COLUMNS_TIED + site);
        ck_op_lora_backward(r->program, &(ck_lora_backward){.x = t->x->tensor,
                                                            .h = t->h->tensor,
                                                            .dy = t->dy->tensor,
                                                            .dx = t->dx->tensor,
                                                            .site = site,
                                                            .in = p.in,
                                                            .out = p.out,
                                                            .first_column = p.first,
                                                            .layer = l,
                                                            .tied = true});
    }
    ck_op_tied_gradients(r->program, &(ck_tied_gradients){.n_layers = WAVE_LAYERS});
    if (!rig_run(r)) return;
    for (int l = 0; l < WAVE_LAYERS; l++) {
        tied_backward_of(r, p, l, layers[l]);
        rig_compare(r, layers[l].dx, COLUMNS_ALL);
    }
    rig_compare_gradients(r, 0, tied_part(site, 0) | tied_part(site, 1));
}

static void vector_at(rig *r, ck_site site) {
    place p = place_of(r, site);
    rig_tensor *x = rig_input(r, p.in, "x"), *y = rig_input(r, p.columns, "y");
    ck_op_site_vector(
        r->program,
        &(ck_site_vector){
            .x = x->tensor, .y = y->tensor, .site = site, .in = p.in, .out = p.out, .first_column = p.first});
    if (!rig_run(r)) return;
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_site_vector(&a, site, rig_rows(r, d), p.in, rig_row(x, first), rig_row(y, first) + p.first,
                           p.columns);
    }
    rig_compare(r, y, COLUMNS_ALL);
}

/* As of the LoRAs; without dx in layer 0. */
static void vector_backward_at(rig *r, ck_site site) {
    place p = place_of(r, site);
    rig_tensor *x[WAVE_LAYERS], *dx[WAVE_LAYERS], *dy[WAVE_LAYERS];
    for (int l = WAVE_LAYERS - 1; l >= 0; l--) {
        x[l] = rig_input(r, p.in, "x"), dx[l] = rig_input(r, p.in, "dx"),
        dy[l] = rig_input(r, p.columns, "dy");
        ck_op_site_vector_backward(r->program, &(ck_site_vector_backward){.x = x[l]->tensor,
                                                                          .dy = dy[l]->tensor,
                                                                          .dx = l > 0 ? dx[l]->tensor : NULL,
                                                                          .site = site,
                                                                          .in = p.in,
                                                                          .out = p.out,
                                                                          .first_column = p.first,
                                                                          .layer = l});
    }
    ck_op_tied_gradients(r->program, &(ck_tied_gradients){.n_layers = WAVE_LAYERS});
    if (!rig_run(r)) return;
    for (int l = 0; l < WAVE_LAYERS; l++) {
        for (int d = 0; d < r->spec->n_devices; d++) {
            oracle_adapter a = rig_adapter(r, d, l);
            int64_t first = rig_first(r, d);
            oracle_site_vector_backward(&a, site, rig_rows(r, d), p.in, rig_row(x[l], first),
                                        rig_row(dy[l], first) + p.first, p.columns,
                                        l > 0 ? rig_row(dx[l], first) : NULL);
        }
        rig_compare(r, dx[l], COLUMNS_ALL);
    }
    rig_compare_gradients(r, 0, tied_part(site, 2));
}

/* ((1e8 + 1) - 1e8) + 1 is 1 in single precision, and 0 or 2 in any other order. */
static void sums_begin_with_layer_0(ck_backend *backend, check *c) {
    enum { LAYERS = 4, WIDTH = 24 };
    static const float of_layer[LAYERS] = {1e8f, 1, -1e8f, 1};
    ck_shape shape = {.n_layers = LAYERS,
                      .width = WIDTH,
                      .ffn = 32,
                      .n_experts = 1,
                      .top_k = 1,
                      .vector = {[CK_SITE_PR] = CK_BIAS}};
    ck_capacity capacity = {.max_sequences = 1, .max_tokens = 1, .max_sequence_tokens = 1};
    ck_program *program = NULL;
    ck_stream *stream = NULL;
    void *pack = NULL, *gradients = NULL;
    if (ck_shape_init(&shape, NULL) != CK_OK) abort();
    capacity.max_pack = shape.gradient_total;
    float *host = calloc((size_t)shape.gradient_total, sizeof *host);
    if (host == NULL) abort();
    for (int64_t i = 0; i < LAYERS * shape.tied_floats; i++)
        host[shape.total + i] = of_layer[i / shape.tied_floats];
    const int64_t first_token[] = {0, 1};
    const int32_t first_sequence[] = {0, 1}, tokens[] = {0};
    const ck_wave_device device = {.learn = CK_LEARN_EXPERTS};
    int32_t fault[1];
    size_t bytes = (size_t)shape.gradient_total * sizeof *host;
    bool ok = ck_stream_create(backend, &stream) == CK_OK &&
              ck_program_create(backend, &capacity, &program) == CK_OK &&
              ck_alloc(backend, bytes, "pack", &pack) == CK_OK &&
              ck_alloc(backend, bytes, "gradients", &gradients) == CK_OK;
    if (ok) ck_op_tied_gradients(program, &(ck_tied_gradients){.n_layers = LAYERS});
    const ck_wave wave = {.n_devices = 1,
                          .n_sequences = 1,
                          .first_token = first_token,
                          .first_sequence = first_sequence,
                          .devices = &device,
                          .n_shapes = 1,
                          .shapes = &shape,
                          .tokens = tokens,
                          .targets = tokens,
                          .parameters = pack,
                          .gradients = gradients,
                          .fault = fault};
    ok = ok && ck_program_finish(program) == CK_OK && ck_upload(stream, gradients, host, bytes) == CK_OK &&
         ck_run(program, stream, &wave) == CK_OK && ck_download(stream, host, gradients, bytes) == CK_OK &&
         ck_wait(stream) == CK_OK;
    c->comparisons++;
    if (!ok) check_fail(c, "sums over layers: %s", ck_last_error(backend));
    for (int i = 0; i < WIDTH && ok; i++)
        if (host[shape.tied + i] != 1.0f)
            check_fail(c, "sums over layers: element %d is %g", i, (double)host[shape.tied + i]);
    ck_free(backend, pack);
    ck_free(backend, gradients);
    ck_program_destroy(program);
    ck_stream_destroy(stream);
    free(host);
}

#define AT(name, site)                                                                                       \
    static void name(rig *r) {                                                                               \
        forward_at(r, site, false);                                                                          \
    }                                                                                                        \
    static void name##_backward(rig *r) {                                                                    \
        backward_at(r, site);                                                                                \
    }                                                                                                        \
    TIED_AT(name, site)
#define TIED_AT(name, site)                                                                                  \
    static void tied_##name(rig *r) {                                                                        \
        forward_at(r, site, true);                                                                           \
    }                                                                                                        \
    static void tied_##name##_backward(rig *r) {                                                             \
        tied_backward_at(r, site);                                                                           \
    }                                                                                                        \
    static void vector_##name(rig *r) {                                                                      \
        vector_at(r, site);                                                                                  \
    }                                                                                                        \
    static void vector_##name##_backward(rig *r) {                                                           \
        vector_backward_at(r, site);                                                                         \
    }
AT(q, CK_SITE_Q)
AT(k, CK_SITE_K)
AT(v, CK_SITE_V)
AT(gate, CK_SITE_GATE)
AT(up, CK_SITE_FC)
AT(down, CK_SITE_PR)
TIED_AT(qkv, CK_SITE_QKV)
TIED_AT(out, CK_SITE_OUT)
#undef AT
#undef TIED_AT

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
#define TIED(site, which)                                                                                    \
    {.name = "shared lora of " #site, .run = tied_##which},                                                  \
        {.name = "shared lora of " #site ", backward", .run = tied_##which##_backward, .learns = true},      \
        {.name = "vector of " #site, .run = vector_##which}, {                                               \
        .name = "vector of " #site ", backward", .run = vector_##which##_backward, .learns = true            \
    }
    TIED(q, q),
    TIED(k, k),
    TIED(v, v),
    TIED(qkv, qkv),
    TIED(out, out),
    TIED(gate, gate),
    TIED(fc, up),
    TIED(pr, down),
#undef TIED
    {.name = "sums over layers", .run_alone = sums_begin_with_layer_0},
};
const conformance_group sites_group = {"sites", cases, sizeof cases / sizeof *cases};

/* world.c - the wave and its arrays on the host. */
#include "rig/world.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle/oracle.h"
#include "rig/case.h"
#include "rig/draw.h"

enum {
    HEAD_COLUMNS = 64,
    SEED_TENSOR = 1000,
    SEED_BUFFER = 2000,
    SEED_LOGITS = 4000,
    SEED_TEXT = 5000,
    SEED_PACK = 100000,
    SEEDS_A_PACK = 65536
};

static void *need(void *memory) {
    /* as the oracle: a benchmark without memory for its host arrays has nothing to say */
    if (!memory) abort();
    return memory;
}

static void *zeros(int64_t count, size_t size) {
    return need(calloc(count > 0 ? (size_t)count : 1, size));
}

/* ---- The wave */

static int heads_of(int width) {
    return width % HEAD_COLUMNS == 0                 ? width / HEAD_COLUMNS
           : width % 16 == 0 && width < HEAD_COLUMNS ? width / 16
                                                     : 1;
}

static exit_code lay_shape(world *w, problems *list) {
    const int *v = w->at.value;
    ck_shape *s = &w->shape;
    bool lora = (w->which->axes >> AXIS_ATTENTION_RANK & 1) != 0,
         routed = (w->which->axes >> AXIS_EXPERTS & 1) != 0;
    int layers = w->which->axes >> AXIS_LAYERS & 1 ? v[AXIS_LAYERS] : 1;
    *s = (ck_shape){.n_layers = layers,
                    .width = w->width,
                    .ffn = w->ffn,
                    .n_experts = 1,
                    .top_k = 1,
                    .rank = {1},
                    .scale = {1}};
    s->lora_rank[CK_SITE_QKV] = s->lora_rank[CK_SITE_OUT] = lora ? v[AXIS_ATTENTION_RANK] : 0;
    s->lora_scale[CK_SITE_QKV] = s->lora_scale[CK_SITE_OUT] = 1;
    if (routed) s->n_experts = v[AXIS_EXPERTS];
    if (routed) s->top_k = v[AXIS_TOP_K];
    if (w->which->axes >> AXIS_MLP & 1) s->mlp = (ck_mlp)v[AXIS_MLP];
    for (int e = 0; e < s->n_experts && routed; e++) {
        s->rank[e] = v[AXIS_RANK] == RANK_MIXED ? w->at.mixed[e % w->at.n_mixed] : v[AXIS_RANK];
        s->scale[e] = 1;
    }
    const char *why = NULL;
    return ck_shape_init(s, &why) == CK_OK ? EXIT_OK
                                           : problem(list, EXIT_INPUT, "%s: %s", w->which->name, why);
}

/* Each device's tokens in sequences of at most the axis' length. */
static void lay_sequences(world *w) {
    int most = w->at.value[AXIS_SEQUENCE], *tokens = zeros(w->n_devices, sizeof *tokens);
    point_tokens(&w->at, tokens);
    for (int d = 0; d < w->n_devices; d++) w->n_sequences += (tokens[d] + most - 1) / most;
    w->first_token = zeros(w->n_sequences + 1, sizeof *w->first_token);
    w->first_sequence = zeros(w->n_devices + 1, sizeof *w->first_sequence);
    for (int d = 0, s = 0; d < w->n_devices; d++) {
        w->first_sequence[d] = s;
        for (int left = tokens[d]; left > 0; left -= most, s++)
            w->first_token[s + 1] = w->first_token[s] + (left < most ? left : most);
        w->first_sequence[d + 1] = s;
    }
    w->n_tokens = w->first_token[w->n_sequences];
    free(tokens);
}

static void lay_text(world *w) {
    uint64_t vocabulary = (uint64_t)w->at.value[AXIS_VOCABULARY];
    w->tokens = zeros(w->n_tokens, sizeof *w->tokens);
    w->targets = zeros(w->n_tokens, sizeof *w->targets);
    for (int64_t t = 0; t < w->n_tokens; t++) {
        w->tokens[t] = (int32_t)(draw_bits(SEED_TEXT, (uint64_t)t) % vocabulary);
        w->targets[t] = (int32_t)(draw_bits(SEED_TEXT + 1, (uint64_t)t) % vocabulary);
    }
}

static void add_checked(world *w, int device) {
    for (int i = 0; i < w->n_checked; i++)
        if (w->checked[i] == device) return;
    w->checked[w->n_checked++] = device;
}

/* Ends and middle, the least and the most tokens. */
static void choose_checked(world *w) {
    int n = w->n_devices, least = 0, most = 0;
    for (int d = 1; d < n; d++) {
        if (world_rows(w, d) < world_rows(w, least)) least = d;
        if (world_rows(w, d) > world_rows(w, most)) most = d;
    }
    const int devices[MOST_CHECKED] = {0, n - 1, least, most, n / 3, n / 2};
    for (int i = 0; i < MOST_CHECKED; i++) add_checked(w, devices[i]);
}

int64_t world_first(const world *w, int device) {
    return w->first_token[w->first_sequence[device]];
}

int64_t world_rows(const world *w, int device) {
    return w->first_token[w->first_sequence[device + 1]] - world_first(w, device);
}

bool world_has_inner(const world *w) {
    for (int i = 0; i < TENSORS; i++)
        if (w->tensor[i].role == INNER) return true;
    return false;
}

/* ---- Arrays */

void world_tensor(world *w, tensor_id id, const char *name, array_role role, int columns, bool wide,
                  double deviation) {
    int64_t count = w->n_tokens * columns;
    tensor_array *t = &w->tensor[id];
    *t = (tensor_array){.name = name, .role = role, .columns = columns, .wide = wide};
    if (role == INPUT || role == IN_PLACE) {
        t->before = zeros(count, sizeof *t->before);
        draw_fill(SEED_TENSOR + (uint64_t)id, deviation, wide && w->precision == CK_BF16, t->before, count);
    }
    if (role != INPUT) t->after = zeros(count, sizeof *t->after);
}

void world_buffer(world *w, buffer_id id, const char *name, array_role role, int64_t count,
                  double deviation) {
    buffer_array *b = &w->buffer[id];
    *b = (buffer_array){.name = name, .role = role, .count = count};
    if (role == INPUT || role == IN_PLACE) {
        b->before = zeros(count, sizeof *b->before);
        draw_fill(SEED_BUFFER + (uint64_t)id, deviation, w->precision == CK_BF16, b->before, count);
    }
    if (role != INPUT) b->after = zeros(count, sizeof *b->after);
}

void world_gates(world *w, array_role zh_role, array_role gates_role) {
    const ck_shape *s = &w->shape;
    int columns = s->router_rows + s->h_ranks;
    world_tensor(w, ZH, "zh", zh_role, columns, false, 1);
    world_tensor(w, GATES, "gates", gates_role, CK_MAX_EXPERTS, false, 1);
    if (gates_role != INPUT) return;
    for (int64_t t = 0; t < w->n_tokens; t++) {
        double logits[CK_MAX_EXPERTS], gates[CK_MAX_EXPERTS];
        for (int e = 0; e < s->router_rows; e++) logits[e] = (double)w->tensor[ZH].before[t * columns + e];
        oracle_gates(s, logits, gates);
        for (int e = 0; e < CK_MAX_EXPERTS; e++)
            w->tensor[GATES].before[t * CK_MAX_EXPERTS + e] = (float)gates[e];
    }
}

/* ---- Packs */

/* Logits and ranks of a normalised x near 1, corrections u - U near 1/3. */
static void fill_parameters(const ck_shape *s, uint64_t seed, float *pack) {
    for (int32_t i = 0; i < ck_part_count(s); i++) {
        ck_part part = ck_part_at(s, i);
        double scale = part.factor == CK_FACTOR_B ? 0.3 / sqrt(s->rank[0]) : 1 / sqrt(part.columns);
        draw_fill(seed + (uint64_t)i, scale, false, pack + part.offset, (int64_t)part.rows * part.columns);
    }
}

static void make_packs(world *w) {
    for (int i = 0; i < PACK_KINDS && i < w->n_devices; i++) {
        w->pack_kind[i] = zeros(w->shape.total, sizeof **w->pack_kind);
        fill_parameters(&w->shape, SEED_PACK + SEEDS_A_PACK * (uint64_t)i, w->pack_kind[i]);
    }
    for (int m = 0; m < PACK_MEMORIES; m++)
        for (int i = 0; i < w->n_checked; i++) w->pack_after[m][i] = zeros(w->shape.total, sizeof(float));
}

/* Moments and given gradients are made of the parameters: as small, another device's, the second moment not
 * negative. */
float world_pack_value(const world *w, pack_memory memory, int device, int64_t offset) {
    int kinds = w->n_devices < PACK_KINDS ? w->n_devices : PACK_KINDS;
    float value = w->pack_kind[(device + (int)memory) % kinds][offset];
    return memory == PACK_MOMENT2 ? value * value : value;
}

double *world_pack(const world *w, pack_memory memory, int device) {
    double *pack = oracle_zeros(w->shape.total);
    for (int64_t i = 0; i < w->shape.total; i++) pack[i] = (double)world_pack_value(w, memory, device, i);
    return pack;
}

/* ---- Life */

exit_code world_open(world **out, const bench_case *which, const point *at, ck_backend *backend,
                     problems *list) {
    const int *v = at->value;
    world *w = zeros(1, sizeof *w);
    *out = w;
    *w = (world){.which = which,
                 .at = *at,
                 .backend = backend,
                 .precision = (ck_precision)v[AXIS_PRECISION],
                 .width = v[AXIS_WIDTH],
                 .ffn = 4 * v[AXIS_WIDTH],
                 .heads = heads_of(v[AXIS_WIDTH]),
                 .n_devices = v[AXIS_DEVICES]};
    /* A case that knows no devices has one; one that knows no tokens has one a device. */
    if (!(which->axes >> AXIS_DEVICES & 1)) w->n_devices = w->at.value[AXIS_DEVICES] = 1;
    if (!(which->axes >> AXIS_TOKENS & 1)) w->at.value[AXIS_TOKENS] = w->n_devices;
    exit_code code = lay_shape(w, list);
    if (code != EXIT_OK) return code;
    w->up = w->shape.mlp == CK_MLP_SWIGLU ? 2 * w->ffn : w->ffn;
    lay_sequences(w);
    lay_text(w);
    choose_checked(w);
    w->devices = zeros(w->n_devices, sizeof *w->devices);
    w->fault = zeros(w->n_devices, sizeof *w->fault);
    which->prepare(w);
    if (w->needs & NEED_PACKS) make_packs(w);
    for (int d = 0; d < w->n_devices; d++)
        w->devices[d] = (ck_wave_device){
            .parameters = d * w->shape.total, .gradients = d * w->shape.total, .learn = w->learn};
    if (ck_stream_create(backend, &w->stream) != CK_OK)
        return problem(list, EXIT_ENVIRONMENT, "a stream: %s", ck_last_error(backend));
    return EXIT_OK;
}

void world_close(world *w) {
    if (!w) return;
    world_copies_drop(w, 0);
    if (w->which->release) w->which->release(w);
    for (int i = 0; i < TENSORS; i++) {
        free(w->tensor[i].before);
        free(w->tensor[i].after);
    }
    for (int i = 0; i < BUFFERS; i++) {
        free(w->buffer[i].before);
        free(w->buffer[i].after);
    }
    for (int i = 0; i < PACK_KINDS; i++) free(w->pack_kind[i]);
    for (int m = 0; m < PACK_MEMORIES; m++)
        for (int i = 0; i < MOST_CHECKED; i++) free(w->pack_after[m][i]);
    ck_stream_destroy(w->stream);
    free(w->copies);
    free(w->first_token);
    free(w->first_sequence);
    free(w->tokens);
    free(w->targets);
    free(w->fault);
    free(w->devices);
    free(w);
}

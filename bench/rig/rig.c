/* rig.c - the wave and its arrays on the host. */
#include "rig/rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle/oracle.h"
#include "rig/case.h"
#include "rig/draw.h"

enum { SEED_TENSOR = 999, SEED_BUFFER = 2000, SEED_TEXT = 5000, SEED_PACK = 200000, SEEDS_A_PACK = 65536 };

void *rig_zeros(int64_t count, size_t size) {
    void *memory = calloc(count > 0 ? (size_t)count : 1, size);
    if (!memory) abort();
    return memory;
}

const ck_shape *rig_shape(const rig *r, int device) {
    return &r->shapes[r->devices[device].shape];
}

int64_t rig_first(const rig *r, int device) {
    return r->first_token[r->first_sequence[device]];
}

int64_t rig_rows(const rig *r, int device) {
    return r->first_token[r->first_sequence[device + 1]] - rig_first(r, device);
}

/* ---- The wave */

static void lay_text(rig *r) {
    uint64_t vocabulary = (uint64_t)r->vocabulary;
    r->tokens = rig_zeros(r->n_tokens, sizeof *r->tokens);
    r->targets = rig_zeros(r->n_tokens, sizeof *r->targets);
    for (int64_t t = 0; t < r->n_tokens; t++) {
        r->tokens[t] = (int32_t)(draw_bits(SEED_TEXT, (uint64_t)t) % vocabulary);
        r->targets[t] = (int32_t)(draw_bits(SEED_TEXT + 1, (uint64_t)t) % vocabulary);
    }
}

static void add_checked(rig *r, int device) {
    for (int i = 0; i < r->n_checked; i++)
        if (r->checked[i] == device) return;
    r->checked[r->n_checked++] = device;
}

/* All; or ends and middle, the least and the most tokens. */
static void choose_checked(rig *r) {
    int n = r->n_devices, least = 0, most = 0;
    r->checked = rig_zeros(n, sizeof *r->checked);
    for (int d = 0; d < n && r->all_checked; d++) r->checked[r->n_checked++] = d;
    for (int d = 1; d < n; d++) {
        if (rig_rows(r, d) < rig_rows(r, least)) least = d;
        if (rig_rows(r, d) > rig_rows(r, most)) most = d;
    }
    const int devices[MOST_CHECKED] = {0, n - 1, least, most, n / 3, n / 2};
    for (int i = 0; i < MOST_CHECKED && !r->all_checked; i++) add_checked(r, devices[i]);
}

static int larger(int a, int b) {
    return a > b ? a : b;
}

static void place_packs(rig *r) {
    int64_t end = CK_ALIGN_FLOATS;
    r->zh_columns = r->rank_columns = r->h_columns = r->lora_columns = 1;
    for (int d = r->n_devices - 1; d >= 0; d--) {
        const ck_shape *s = rig_shape(r, d);
        r->devices[d].parameters = r->devices[d].gradients = end;
        end += s->gradient_total + CK_ALIGN_FLOATS;
        r->zh_columns = larger(r->zh_columns, s->router_rows + s->h_ranks);
        r->rank_columns = larger(r->rank_columns, s->rank_sum);
        r->h_columns = larger(r->h_columns, s->h_ranks);
        for (int site = 0; site < CK_SITES; site++)
            r->lora_columns = larger(r->lora_columns, larger(s->lora_rank[site], s->tied_rank[site]));
    }
    r->pack_floats = end;
}

/* ---- Packs */

/* Logits and ranks of a normalised x near 1, corrections u - U near 1/3. What gradients have beyond the
 * parameters is as large. */
static void fill_parameters(const ck_shape *s, uint64_t seed, bool bf16, float *pack) {
    for (int32_t i = 0; i < ck_part_count(s); i++) {
        ck_part part = ck_part_at(s, i);
        double scale = part.factor == CK_FACTOR_B ? 0.3 / sqrt(part.rows) : 1 / sqrt(part.columns);
        draw_fill(seed + (uint64_t)i, scale, bf16, pack + part.offset, (int64_t)part.rows * part.columns);
    }
    draw_fill(seed + (uint64_t)ck_part_count(s), 1, bf16, pack + s->total, s->gradient_total - s->total);
}

const float *rig_pack_host(const rig *r, pack_memory memory, int device) {
    return r->pack_kind[r->n_shapes == 1 ? (device + (int)memory) % r->n_kinds : device];
}

int64_t rig_pack_count(const rig *r, pack_memory memory, int device) {
    const ck_shape *s = rig_shape(r, device);
    return memory == PACK_GRADIENTS ? s->gradient_total : s->total;
}

static void make_packs(rig *r) {
    r->n_kinds = r->n_shapes == 1 && r->n_devices > PACK_KINDS ? PACK_KINDS : r->n_devices;
    r->pack_kind = rig_zeros(r->n_kinds, sizeof *r->pack_kind);
    for (int i = 0; i < r->n_kinds; i++) {
        r->pack_kind[i] = rig_zeros(rig_shape(r, i)->gradient_total, sizeof **r->pack_kind);
        fill_parameters(rig_shape(r, i), SEED_PACK + SEEDS_A_PACK * (uint64_t)i, r->precision == CK_BF16,
                        r->pack_kind[i]);
    }
    for (int m = 0; m < PACK_MEMORIES; m++) {
        r->pack_after[m] = rig_zeros(r->n_checked, sizeof *r->pack_after[m]);
        for (int i = 0; i < r->n_checked; i++)
            r->pack_after[m][i] = rig_zeros(rig_pack_count(r, (pack_memory)m, r->checked[i]), sizeof(float));
    }
}

float rig_pack_value(const rig *r, pack_memory memory, int device, int64_t offset) {
    float value = rig_pack_host(r, memory, device)[offset];
    return memory == PACK_MOMENT2 ? value * value : value;
}

double *rig_pack(const rig *r, pack_memory memory, int device) {
    int64_t total = rig_pack_count(r, memory, device);
    double *pack = oracle_zeros(total);
    for (int64_t i = 0; i < total; i++) pack[i] = (double)rig_pack_value(r, memory, device, i);
    return pack;
}

/* ---- Arrays */

int rig_owned(const rig *r, tensor_id id, int device) {
    const ck_shape *s = rig_shape(r, device);
    switch (r->tensor[id].kind) {
    case COLUMNS_EXPERTS:
        return s->n_experts;
    case COLUMNS_ROUTED:
        return s->router_rows + s->h_ranks;
    case COLUMNS_HIDDEN:
        return oracle_has_hidden_layer(s) ? 2 * s->n_experts : 0;
    case COLUMNS_RANKS:
        return s->rank_sum;
    case COLUMNS_H:
        return s->h_ranks;
    case COLUMNS_LORA:
        return s->lora_rank[r->tensor[id].site];
    case COLUMNS_TIED:
        return s->tied_rank[r->tensor[id].site];
    case COLUMNS_PLAIN:
    case COLUMNS_WIDTH:
    case COLUMNS_FFN:
    case COLUMNS_UP:
        break;
    }
    return r->tensor[id].columns;
}

static int columns_of(const rig *r, column_kind kind) {
    const int columns[] = {[COLUMNS_PLAIN] = 0,
                           [COLUMNS_WIDTH] = r->width,
                           [COLUMNS_FFN] = r->ffn,
                           [COLUMNS_UP] = r->up,
                           [COLUMNS_EXPERTS] = CK_MAX_EXPERTS,
                           [COLUMNS_ROUTED] = r->zh_columns,
                           [COLUMNS_HIDDEN] = 2 * CK_MAX_EXPERTS,
                           [COLUMNS_RANKS] = r->rank_columns,
                           [COLUMNS_H] = r->h_columns};
    return columns[kind];
}

/* Nothing may read a column that the device does not own. */
static void poison(rig *r, tensor_id id) {
    tensor_array *t = &r->tensor[id];
    for (int d = 0; d < r->n_devices; d++)
        for (int64_t row = rig_first(r, d); row < rig_first(r, d) + rig_rows(r, d); row++)
            for (int c = rig_owned(r, id, d); c < t->columns; c++) t->before[row * t->columns + c] = NAN;
}

static void add_tensor(rig *r, tensor_id id, tensor_array as) {
    int64_t count = r->n_tokens * as.columns;
    tensor_array *t = &r->tensor[id];
    *t = as;
    if (as.role == INPUT || as.role == IN_PLACE) {
        t->before = rig_zeros(count, sizeof *t->before);
        draw_fill(SEED_TENSOR + (uint64_t)id, 1, r->precision == CK_BF16, t->before, count);
        poison(r, id);
    }
    if (as.role != INPUT) t->after = rig_zeros(count, sizeof *t->after);
}

void rig_tensor(rig *r, tensor_id id, const char *name, array_role role, column_kind kind) {
    add_tensor(r, id,
               (tensor_array){.name = name, .role = role, .kind = kind, .columns = columns_of(r, kind)});
}

void rig_tensor_of(rig *r, tensor_id id, const char *name, array_role role, int columns) {
    add_tensor(r, id, (tensor_array){.name = name, .role = role, .kind = COLUMNS_PLAIN, .columns = columns});
}

void rig_tensor_lora(rig *r, tensor_id id, const char *name, array_role role, column_kind kind,
                     ck_site site) {
    add_tensor(
        r, id,
        (tensor_array){.name = name, .role = role, .kind = kind, .columns = r->lora_columns, .site = site});
}

void rig_buffer(rig *r, buffer_id id, const char *name, array_role role, int64_t count, double deviation) {
    buffer_array *b = &r->buffer[id];
    *b = (buffer_array){.name = name, .role = role, .count = count};
    if (role == INPUT || role == IN_PLACE) {
        b->before = rig_zeros(count, sizeof *b->before);
        draw_fill(SEED_BUFFER + (uint64_t)id, deviation, r->precision == CK_BF16, b->before, count);
    }
    if (role != INPUT) b->after = rig_zeros(count, sizeof *b->after);
}

void rig_go_on(rig *r, int32_t positions) {
    r->first_position = rig_zeros(r->n_sequences, sizeof *r->first_position);
    r->cache_slot = rig_zeros(r->n_sequences, sizeof *r->cache_slot);
    for (int s = 0; s < r->n_sequences; s++) {
        int64_t places = positions - (r->first_token[s + 1] - r->first_token[s]) + 1;
        r->first_position[s] = (int32_t)(7 * s % places);
        r->cache_slot[s] = r->n_sequences - s;
    }
}

void rig_variants(rig *r, int n_variants, int n_linears) {
    r->n_variants = n_variants, r->n_linears = n_linears;
    r->variants = rig_zeros((int64_t)n_variants * n_linears, sizeof *r->variants);
    rig_assign_variants(r, 0);
}

void rig_assign_variants(rig *r, int turn) {
    static const int pattern[] = {0, 1, 1, 2, 3, 0, 2, 3, 3, 1, 0, 0, 2, 0};
    enum { N = sizeof pattern / sizeof *pattern };
    for (int d = 0; d < r->n_devices; d++)
        r->devices[d].variant = (pattern[d % N] + turn) % (r->n_variants + 1);
}

void rig_base_gradient(rig *r, buffer_id id, const char *name, int64_t at, int64_t count) {
    rig_buffer(r, id, name, BASE_GRADIENT, count, 0);
    r->buffer[id].at = at;
    if (r->base_pack < at + count) r->base_pack = at + count;
}

int64_t rig_gradient_at(const rig *r, buffer_id id) {
    return r->buffer[id].role == BASE_GRADIENT ? r->buffer[id].at : -1;
}

void rig_gates(rig *r, array_role zh_role, array_role gates_role) {
    rig_tensor(r, ZH, "zh", zh_role, COLUMNS_ROUTED);
    rig_tensor_of(r, GATES, "gates", gates_role, CK_MAX_EXPERTS);
    for (int d = 0; d < r->n_devices && gates_role == INPUT; d++)
        for (int64_t t = rig_first(r, d); t < rig_first(r, d) + rig_rows(r, d); t++) {
            double logits[CK_MAX_EXPERTS] = {0}, gates[CK_MAX_EXPERTS];
            for (int e = 0; e < rig_shape(r, d)->router_rows; e++)
                logits[e] = (double)r->tensor[ZH].before[t * r->zh_columns + e];
            oracle_gates(rig_shape(r, d), logits, gates);
            for (int e = 0; e < CK_MAX_EXPERTS; e++)
                r->tensor[GATES].before[t * CK_MAX_EXPERTS + e] = (float)gates[e];
        }
}

static void clear_unchosen(rig *r, tensor_id id) {
    tensor_array *t = &r->tensor[id];
    for (int d = 0; d < r->n_devices; d++) {
        const ck_shape *s = rig_shape(r, d);
        for (int64_t row = rig_first(r, d); row < rig_first(r, d) + rig_rows(r, d); row++)
            for (int c = 0; c < rig_owned(r, id, d); c++) {
                int e = 0;
                while (c % s->rank_sum >= s->rank_first[e + 1]) e++;
                if (r->tensor[GATES].before[row * CK_MAX_EXPERTS + e] == 0)
                    t->before[row * t->columns + c] = 0;
            }
    }
}

void rig_chosen(rig *r, tensor_id id) {
    r->tensor[id].chosen = true;
    if (r->tensor[id].role == INPUT && r->tensor[GATES].before) clear_unchosen(r, id);
}

bool rig_has_memory(const rig *r, pack_memory memory) {
    const unsigned needs[PACK_MEMORIES] = {NEED_PACKS, NEED_GRADIENTS, NEED_MOMENTS, NEED_MOMENTS};
    return (r->which->needs & needs[memory]) != 0;
}

bool rig_has_inner(const rig *r) {
    for (int i = 0; i < TENSORS; i++)
        if (r->tensor[i].role == INNER) return true;
    return false;
}

int rig_costs(const rig *r, cost *parts) {
    if (r->which->costs) return r->which->costs(r, parts);
    parts[0] = r->which->cost_of(r);
    return 1;
}

/* ---- Life */

exit_code rig_open(rig **out, const op_case *which, const op_variant *variant, rig_lay *lay,
                   const void *source, ck_backend *backend, problems *list) {
    rig *r = rig_zeros(1, sizeof *r);
    *out = r;
    *r = (rig){.which = which, .where = "", .backend = backend, .gradients = which->gradients};
    if (variant) r->flags = variant->flags, r->size = variant->size, r->trains_base = variant->trains_base;
    exit_code code = lay(r, source, list);
    if (code != EXIT_OK) return code;
    for (int d = 0; d < r->n_devices && !(which->needs & NEED_GRADIENTS); d++) r->devices[d].learn = 0;
    r->up = r->shapes[0].mlp == CK_MLP_SWIGLU ? 2 * r->ffn : r->ffn;
    r->n_tokens = r->first_token[r->n_sequences];
    r->fault = rig_zeros(r->n_devices, sizeof *r->fault);
    lay_text(r);
    choose_checked(r);
    place_packs(r);
    if (which->needs & NEED_PACKS) make_packs(r);
    which->arrays(r);
    if (ck_stream_create(backend, &r->stream) != CK_OK)
        return problem(list, EXIT_ENVIRONMENT, "a stream: %s", ck_last_error(backend));
    return EXIT_OK;
}

static void free_arrays(rig *r) {
    for (int i = 0; i < TENSORS; i++) {
        free(r->tensor[i].before);
        free(r->tensor[i].after);
    }
    for (int i = 0; i < BUFFERS; i++) {
        free(r->buffer[i].before);
        free(r->buffer[i].after);
    }
    for (int i = 0; i < r->n_kinds; i++) free(r->pack_kind[i]);
    for (int m = 0; m < PACK_MEMORIES; m++) {
        for (int i = 0; i < r->n_checked && r->pack_after[m]; i++) free(r->pack_after[m][i]);
        free(r->pack_after[m]);
    }
    free(r->pack_kind);
}

void rig_close(rig *r) {
    if (!r) return;
    rig_copies_drop(r, 0);
    if (r->which->release) r->which->release(r);
    free_arrays(r);
    ck_stream_destroy(r->stream);
    free(r->copies);
    free(r->checked);
    free(r->shapes);
    free(r->first_token);
    free(r->first_sequence);
    free(r->tokens);
    free(r->targets);
    free(r->fault);
    free(r->first_position);
    free(r->cache_slot);
    free(r->devices);
    free(r->variants);
    free(r);
}

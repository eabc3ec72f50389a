/* rig_copies.c - the backend's side of a rig. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rig/case.h"
#include "support/kernel_problem.h"

static const char *const MEMORY_NAMES[PACK_MEMORIES] = {"adapters", "gradients", "first moments",
                                                        "second moments"};

static exit_code said(const rig *r, ck_status status, const char *doing, problems *list) {
    return kernel_problem(list, r->backend, status, doing);
}

/* ---- Making a copy */

ck_capacity rig_capacity(const rig *r) {
    ck_capacity c = {
        .max_sequences = r->n_sequences, .max_tokens = (int32_t)r->n_tokens, .precision = r->precision};
    for (int s = 0; s < r->n_sequences; s++) {
        int32_t tokens = (int32_t)(r->first_token[s + 1] - r->first_token[s]);
        if (tokens > c.max_sequence_tokens) c.max_sequence_tokens = tokens;
    }
    bool adapters = (r->which->needs & NEED_GRADIENTS) != 0 && !r->trains_base;
    for (int d = 0; d < r->n_devices && adapters; d++)
        if (rig_shape(r, d)->gradient_total > c.max_pack) c.max_pack = rig_shape(r, d)->gradient_total;
    if (r->trains_base) c.base_pack = r->base_pack;
    return c;
}

static exit_code make_program(const rig *r, rig_copy *c, bool all_kept, problems *list) {
    ck_capacity capacity = rig_capacity(r);
    exit_code code = said(r, ck_program_create(r->backend, &capacity, &c->program), r->which->name, list);
    if (code != EXIT_OK) return code;
    for (int i = 0; i < TENSORS; i++) {
        const tensor_array *t = &r->tensor[i];
        if (t->role == ABSENT) continue;
        c->tensor[i] = ck_activation(c->program, t->columns, t->name);
        if (all_kept || t->role != INNER) ck_keep(c->program, c->tensor[i]);
    }
    r->which->record(r, c);
    return said(r, ck_program_finish(c->program), r->which->name, list);
}

static exit_code allocate(const rig *r, size_t floats, const char *what, float **out, problems *list) {
    void *memory = NULL;
    exit_code code = said(r, ck_alloc(r->backend, floats * sizeof(float), what, &memory), what, list);
    *out = memory;
    return code;
}

static const float *place_of(const rig_copy *c, buffer_id buffer, int64_t at) {
    return buffer == NO_BUFFER ? NULL : c->buffer[buffer] + at;
}

static void make_variants(const rig *r, rig_copy *c) {
    int n = r->n_variants * r->n_linears;
    c->variants = rig_zeros(n, sizeof *c->variants);
    for (int i = 0; i < n; i++) {
        const rig_replacement *v = &r->variants[i];
        c->variants[i] =
            (ck_replacement){place_of(c, v->weight, v->weight_at), place_of(c, v->bias, v->bias_at)};
    }
}

static void make_wave(const rig *r, rig_copy *c) {
    bool adapters = !r->trains_base;
    make_variants(r, c);
    c->wave = (ck_wave){.n_devices = adapters ? r->n_devices : 0,
                        .n_sequences = r->n_sequences,
                        .first_token = r->first_token,
                        .first_sequence = r->first_sequence,
                        .devices = r->devices,
                        .n_shapes = adapters ? r->n_shapes : 0,
                        .shapes = r->shapes,
                        .n_variants = r->n_variants,
                        .n_linears = r->n_linears,
                        .variants = c->variants,
                        .tokens = r->tokens,
                        .targets = r->targets,
                        .first_position = r->first_position,
                        .cache_slot = r->cache_slot,
                        .parameters = c->packs[PACK_PARAMETERS],
                        .gradients = c->packs[PACK_GRADIENTS],
                        .base_gradients = c->base_gradients,
                        .fault = r->fault};
}

static bool in_memory(const buffer_array *b) {
    return b->role != ABSENT && b->role != BASE_GRADIENT;
}

static exit_code make_memory(const rig *r, rig_copy *c, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < BUFFERS && code == EXIT_OK; i++)
        if (in_memory(&r->buffer[i]))
            code = allocate(r, (size_t)r->buffer[i].count, r->buffer[i].name, &c->buffer[i], list);
    for (int m = 0; m < PACK_MEMORIES && code == EXIT_OK; m++)
        if (rig_has_memory(r, (pack_memory)m))
            code = allocate(r, (size_t)r->pack_floats, MEMORY_NAMES[m], &c->packs[m], list);
    if (code == EXIT_OK && r->base_pack)
        code = allocate(r, (size_t)r->base_pack, "base gradients", &c->base_gradients, list);
    make_wave(r, c);
    return code;
}

static void destroy_copy(const rig *r, rig_copy *c) {
    ck_graph_destroy(c->graph);
    ck_program_destroy(c->program);
    for (int i = 0; i < BUFFERS; i++)
        if (c->buffer[i]) ck_free(r->backend, c->buffer[i]);
    for (int m = 0; m < PACK_MEMORIES; m++)
        if (c->packs[m]) ck_free(r->backend, c->packs[m]);
    if (c->base_gradients) ck_free(r->backend, c->base_gradients);
    free(c->variants);
}

void rig_copies_drop(rig *r, int from) {
    while (r->n_copies > from) destroy_copy(r, &r->copies[--r->n_copies]);
}

exit_code rig_copy_add(rig *r, bool all_kept, problems *list) {
    if (r->n_copies == r->room_copies) {
        int room = r->room_copies ? 2 * r->room_copies : 8;
        rig_copy *grown = realloc(r->copies, (size_t)room * sizeof *grown);
        if (!grown)
            return problem(list, EXIT_ENVIRONMENT, "%s: out of memory for %d copies", r->which->name, room);
        r->copies = grown;
        r->room_copies = room;
    }
    rig_copy *c = &r->copies[r->n_copies++];
    *c = (rig_copy){0};
    exit_code code = make_memory(r, c, list);
    if (code != EXIT_OK) return code;
    if (r->which->create) return r->which->create(r, c, list);
    return r->which->record ? make_program(r, c, all_kept, list) : EXIT_OK;
}

/* ---- Content */

static float *nan_array(int64_t count) {
    float *array = malloc((size_t)count * sizeof *array);
    for (int64_t i = 0; array && i < count; i++) array[i] = NAN;
    return array;
}

static exit_code reset_tensor(const rig *r, rig_copy *c, int id, problems *list) {
    const tensor_array *t = &r->tensor[id];
    if (t->role == ABSENT || t->role == INNER) return EXIT_OK;
    float *unwritten = t->before ? NULL : nan_array(r->n_tokens * t->columns);
    if (!t->before && !unwritten) return problem(list, EXIT_ENVIRONMENT, "%s: out of memory", t->name);
    exit_code code =
        said(r, ck_tensor_upload(r->stream, c->tensor[id], r->n_tokens, t->before ? t->before : unwritten),
             t->name, list);
    if (unwritten && code == EXIT_OK) code = said(r, ck_wait(r->stream), t->name, list);
    free(unwritten);
    return code;
}

/* A buffer's numbers as its memory has them, in place: bf16 are the upper halves of f32. */
static bool is_half(const rig *r, const buffer_array *b) {
    return b->half && r->precision == CK_BF16;
}

static void pack_half(float *values, int64_t count) {
    for (int64_t i = 0; i < count; i++) memcpy((char *)values + 2 * i, (const char *)(values + i) + 2, 2);
}

static void unpack_half(float *values, int64_t count) {
    for (int64_t i = count - 1; i >= 0; i--) {
        uint16_t upper;
        memcpy(&upper, (const char *)values + 2 * i, sizeof upper);
        uint32_t bits = (uint32_t)upper << 16;
        memcpy(values + i, &bits, sizeof bits);
    }
}

static float *copy_of(const float *values, int64_t count) {
    float *copy = malloc((size_t)count * sizeof *copy);
    if (copy) memcpy(copy, values, (size_t)count * sizeof *copy);
    return copy;
}

static exit_code reset_buffer(const rig *r, rig_copy *c, int id, problems *list) {
    const buffer_array *b = &r->buffer[id];
    if (b->role == ABSENT) return EXIT_OK;
    float *to = b->role == BASE_GRADIENT ? c->base_gradients + b->at : c->buffer[id],
          *made = !b->before      ? nan_array(b->count)
                  : is_half(r, b) ? copy_of(b->before, b->count)
                                  : NULL;
    if ((!b->before || is_half(r, b)) && !made)
        return problem(list, EXIT_ENVIRONMENT, "%s: out of memory", b->name);
    if (is_half(r, b)) pack_half(made, b->count);
    size_t bytes = (size_t)b->count * sizeof(float);
    exit_code code = said(r, ck_upload(r->stream, to, made ? made : b->before, bytes), b->name, list);
    if (made && code == EXIT_OK) code = said(r, ck_wait(r->stream), b->name, list);
    free(made);
    return code;
}

/* Gradients that the case computes begin as NaN where they are checked. */
static exit_code reset_packs(const rig *r, rig_copy *c, pack_memory memory, problems *list) {
    bool computed = memory == PACK_GRADIENTS && !r->gradients_given, squared = memory == PACK_MOMENT2;
    exit_code code = EXIT_OK;
    for (int i = 0; i < (computed ? r->n_checked : r->n_devices) && code == EXIT_OK; i++) {
        int device = computed ? r->checked[i] : i;
        int64_t total = rig_pack_count(r, memory, device);
        float *made = computed || squared ? nan_array(total) : NULL;
        for (int64_t j = 0; j < total && made && squared; j++) made[j] = rig_pack_value(r, memory, device, j);
        if ((computed || squared) && !made)
            return problem(list, EXIT_ENVIRONMENT, "%s: out of memory", MEMORY_NAMES[memory]);
        ck_status status =
            ck_upload(r->stream, c->packs[memory] + r->devices[device].parameters,
                      made ? made : rig_pack_host(r, memory, device), (size_t)total * sizeof *made);
        if (status == CK_OK && made) status = ck_wait(r->stream);
        code = said(r, status, MEMORY_NAMES[memory], list);
        free(made);
    }
    return code;
}

exit_code rig_reset(rig *r, rig_copy *c, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < TENSORS && code == EXIT_OK; i++) code = reset_tensor(r, c, i, list);
    for (int i = 0; i < BUFFERS && code == EXIT_OK; i++) code = reset_buffer(r, c, i, list);
    for (int m = 0; m < PACK_MEMORIES && code == EXIT_OK; m++)
        if (c->packs[m]) code = reset_packs(r, c, (pack_memory)m, list);
    return THEN(code, said(r, ck_wait(r->stream), r->which->name, list));
}

/* ---- Work */

static ck_status issue(const rig *r, rig_copy *c) {
    return r->which->issue ? r->which->issue(r, c) : ck_run(c->program, r->stream, &c->wave);
}

ck_status rig_issue(const rig *r, rig_copy *c) {
    return c->graph ? ck_graph_launch(r->stream, c->graph) : issue(r, c);
}

/* The work runs once before it is recorded, on zeros: what a backend makes when first asked for must not be
 * made within a graph. */
exit_code rig_capture(const rig *r, rig_copy *c, problems *list) {
    exit_code code = said(r, issue(r, c), r->which->name, list);
    THEN(code, said(r, ck_wait(r->stream), r->which->name, list));
    if (code != EXIT_OK) return code;
    ck_status status = ck_capture_begin(r->stream);
    if (status == CK_UNAVAILABLE) return EXIT_OK;
    code = said(r, status, r->which->name, list);
    THEN(code, said(r, issue(r, c), r->which->name, list));
    return THEN(code, said(r, ck_capture_end(r->stream, &c->graph), r->which->name, list));
}

static exit_code download_packs(rig *r, const rig_copy *c, problems *list) {
    exit_code code = EXIT_OK;
    for (int m = 0; m < PACK_MEMORIES; m++)
        for (int i = 0; i < r->n_checked && code == EXIT_OK && c->packs[m]; i++) {
            int device = r->checked[i];
            code =
                said(r,
                     ck_download(r->stream, r->pack_after[m][i], c->packs[m] + r->devices[device].parameters,
                                 (size_t)rig_pack_count(r, (pack_memory)m, device) * sizeof(float)),
                     MEMORY_NAMES[m], list);
        }
    return code;
}

exit_code rig_download(rig *r, const rig_copy *c, bool all_kept, problems *list) {
    exit_code code = said(r, ck_wait(r->stream), r->which->name, list);
    for (int i = 0; i < TENSORS && code == EXIT_OK; i++) {
        tensor_array *t = &r->tensor[i];
        if (t->after && (all_kept || t->role != INNER))
            code = said(r, ck_tensor_download(r->stream, c->tensor[i], r->n_tokens, t->after), t->name, list);
    }
    for (int i = 0; i < BUFFERS && code == EXIT_OK; i++) {
        buffer_array *b = &r->buffer[i];
        const float *from = b->role == BASE_GRADIENT ? c->base_gradients + b->at : c->buffer[i];
        if (b->after)
            code = said(r, ck_download(r->stream, b->after, from, (size_t)b->count * sizeof(float)), b->name,
                        list);
    }
    THEN(code, download_packs(r, c, list));
    THEN(code, said(r, ck_wait(r->stream), r->which->name, list));
    for (int i = 0; i < BUFFERS && code == EXIT_OK; i++)
        if (r->buffer[i].after && is_half(r, &r->buffer[i]))
            unpack_half(r->buffer[i].after, r->buffer[i].count);
    return code;
}

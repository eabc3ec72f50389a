/* world_copies.c - the backend's side of a world. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rig/case.h"
#include "rig/world.h"
#include "support/kernel_problem.h"

static const unsigned NEED_OF[PACK_MEMORIES] = {NEED_PACKS, NEED_GRADIENTS, NEED_MOMENTS, NEED_MOMENTS};
static const char *const MEMORY_NAMES[PACK_MEMORIES] = {"adapters", "gradients", "first moments",
                                                        "second moments"};

static exit_code said(const world *w, ck_status status, const char *doing, problems *list) {
    return kernel_problem(list, w->backend, status, doing);
}

/* ---- Making a copy */

ck_capacity world_capacity(const world *w) {
    ck_capacity c = {
        .max_sequences = w->n_sequences, .max_tokens = (int32_t)w->n_tokens, .precision = w->precision};
    for (int s = 0; s < w->n_sequences; s++) {
        int32_t tokens = (int32_t)(w->first_token[s + 1] - w->first_token[s]);
        if (tokens > c.max_sequence_tokens) c.max_sequence_tokens = tokens;
    }
    if (w->needs & NEED_GRADIENTS) c.max_pack = w->shape.total;
    return c;
}

static exit_code make_program(const world *w, world_copy *c, bool all_kept, problems *list) {
    ck_capacity capacity = world_capacity(w);
    exit_code code = said(w, ck_program_create(w->backend, &capacity, &c->program), w->which->name, list);
    if (code != EXIT_OK) return code;
    for (int i = 0; i < TENSORS; i++) {
        const tensor_array *t = &w->tensor[i];
        if (t->role == ABSENT) continue;
        c->tensor[i] = ck_activation(c->program, t->columns, t->name);
        if (all_kept || t->role != INNER) ck_keep(c->program, c->tensor[i]);
    }
    w->which->record(w, c);
    return said(w, ck_program_finish(c->program), w->which->name, list);
}

static exit_code allocate(const world *w, size_t floats, const char *what, float **out, problems *list) {
    void *memory = NULL;
    exit_code code = said(w, ck_alloc(w->backend, floats * sizeof(float), what, &memory), what, list);
    *out = memory;
    return code;
}

static exit_code make_memory(const world *w, world_copy *c, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < BUFFERS && code == EXIT_OK; i++)
        if (w->buffer[i].role != ABSENT)
            code = allocate(w, (size_t)w->buffer[i].count, w->buffer[i].name, &c->buffer[i], list);
    for (int m = 0; m < PACK_MEMORIES && code == EXIT_OK; m++)
        if (w->needs & NEED_OF[m])
            code = allocate(w, (size_t)w->n_devices * (size_t)w->shape.total, MEMORY_NAMES[m], &c->packs[m],
                            list);
    c->wave = (ck_wave){.n_devices = w->n_devices,
                        .n_sequences = w->n_sequences,
                        .first_token = w->first_token,
                        .first_sequence = w->first_sequence,
                        .devices = w->devices,
                        .n_shapes = 1,
                        .shapes = &w->shape,
                        .tokens = w->tokens,
                        .targets = w->targets,
                        .parameters = c->packs[PACK_PARAMETERS],
                        .gradients = c->packs[PACK_GRADIENTS],
                        .fault = w->fault};
    return code;
}

static void destroy_copy(const world *w, world_copy *c) {
    ck_graph_destroy(c->graph);
    ck_program_destroy(c->program);
    for (int i = 0; i < BUFFERS; i++)
        if (c->buffer[i]) ck_free(w->backend, c->buffer[i]);
    for (int m = 0; m < PACK_MEMORIES; m++)
        if (c->packs[m]) ck_free(w->backend, c->packs[m]);
}

void world_copies_drop(world *w, int from) {
    while (w->n_copies > from) destroy_copy(w, &w->copies[--w->n_copies]);
}

exit_code world_copy_add(world *w, bool all_kept, problems *list) {
    if (w->n_copies == w->room_copies) {
        int room = w->room_copies ? 2 * w->room_copies : 8;
        world_copy *grown = realloc(w->copies, (size_t)room * sizeof *grown);
        if (!grown)
            return problem(list, EXIT_ENVIRONMENT, "%s: out of memory for %d copies", w->which->name, room);
        w->copies = grown;
        w->room_copies = room;
    }
    world_copy *c = &w->copies[w->n_copies++];
    *c = (world_copy){0};
    exit_code code = make_memory(w, c, list);
    if (code != EXIT_OK) return code;
    if (w->which->create) return w->which->create(w, c, list);
    return w->which->record ? make_program(w, c, all_kept, list) : EXIT_OK;
}

/* ---- Content */

static float *nan_array(int64_t count) {
    float *array = malloc((size_t)count * sizeof *array);
    for (int64_t i = 0; array && i < count; i++) array[i] = NAN;
    return array;
}

static exit_code reset_tensor(const world *w, world_copy *c, int id, problems *list) {
    const tensor_array *t = &w->tensor[id];
    if (t->role == ABSENT || t->role == INNER) return EXIT_OK;
    float *unwritten = t->before ? NULL : nan_array(w->n_tokens * t->columns);
    if (!t->before && !unwritten) return problem(list, EXIT_ENVIRONMENT, "%s: out of memory", t->name);
    exit_code code =
        said(w, ck_tensor_upload(w->stream, c->tensor[id], w->n_tokens, t->before ? t->before : unwritten),
             t->name, list);
    if (unwritten && code == EXIT_OK) code = said(w, ck_wait(w->stream), t->name, list);
    free(unwritten);
    return code;
}

static exit_code reset_buffer(const world *w, world_copy *c, int id, problems *list) {
    const buffer_array *b = &w->buffer[id];
    if (b->role == ABSENT) return EXIT_OK;
    float *unwritten = b->before ? NULL : nan_array(b->count);
    if (!b->before && !unwritten) return problem(list, EXIT_ENVIRONMENT, "%s: out of memory", b->name);
    size_t bytes = (size_t)b->count * sizeof(float);
    exit_code code =
        said(w, ck_upload(w->stream, c->buffer[id], b->before ? b->before : unwritten, bytes), b->name, list);
    if (unwritten && code == EXIT_OK) code = said(w, ck_wait(w->stream), b->name, list);
    free(unwritten);
    return code;
}

/* What the host holds of a device's pack; the second moments are squares and have to be made. */
static const float *pack_content(const world *w, pack_memory memory, int device, float *scratch) {
    int kinds = w->n_devices < PACK_KINDS ? w->n_devices : PACK_KINDS;
    if (memory != PACK_MOMENT2) return w->pack_kind[(device + (int)memory) % kinds];
    for (int64_t i = 0; i < w->shape.total; i++) scratch[i] = world_pack_value(w, memory, device, i);
    return scratch;
}

/* Gradients that the case computes begin as NaN where they are checked. */
static exit_code reset_packs(const world *w, world_copy *c, pack_memory memory, problems *list) {
    size_t bytes = (size_t)w->shape.total * sizeof(float);
    float *scratch = nan_array(w->shape.total);
    exit_code code =
        scratch ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "%s: out of memory", MEMORY_NAMES[memory]);
    bool computed = memory == PACK_GRADIENTS && !w->gradients_given;
    for (int i = 0; i < (computed ? w->n_checked : w->n_devices) && code == EXIT_OK; i++) {
        int device = computed ? w->checked[i] : i;
        const float *content = computed ? scratch : pack_content(w, memory, device, scratch);
        ck_status status = ck_upload(w->stream, c->packs[memory] + device * w->shape.total, content, bytes);
        if (status == CK_OK && content == scratch) status = ck_wait(w->stream);
        code = said(w, status, MEMORY_NAMES[memory], list);
    }
    free(scratch);
    return code;
}

exit_code world_reset(world *w, world_copy *c, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < TENSORS && code == EXIT_OK; i++) code = reset_tensor(w, c, i, list);
    for (int i = 0; i < BUFFERS && code == EXIT_OK; i++) code = reset_buffer(w, c, i, list);
    for (int m = 0; m < PACK_MEMORIES && code == EXIT_OK; m++)
        if (c->packs[m]) code = reset_packs(w, c, (pack_memory)m, list);
    return code == EXIT_OK ? said(w, ck_wait(w->stream), w->which->name, list) : code;
}

/* ---- Work */

static ck_status issue(const world *w, world_copy *c) {
    return w->which->issue ? w->which->issue(w, c) : ck_run(c->program, w->stream, &c->wave);
}

ck_status world_issue(const world *w, world_copy *c) {
    return c->graph ? ck_graph_launch(w->stream, c->graph) : issue(w, c);
}

/* The work runs once before it is recorded, on zeros: what a backend makes when first asked for must not be
 * made within a graph. */
exit_code world_capture(const world *w, world_copy *c, problems *list) {
    exit_code code = said(w, issue(w, c), w->which->name, list);
    if (code == EXIT_OK) code = said(w, ck_wait(w->stream), w->which->name, list);
    if (code != EXIT_OK) return code;
    ck_status status = ck_capture_begin(w->stream);
    if (status == CK_UNAVAILABLE) return EXIT_OK;
    code = said(w, status, w->which->name, list);
    if (code == EXIT_OK) code = said(w, issue(w, c), w->which->name, list);
    return code == EXIT_OK ? said(w, ck_capture_end(w->stream, &c->graph), w->which->name, list) : code;
}

static exit_code download_packs(world *w, const world_copy *c, problems *list) {
    size_t bytes = (size_t)w->shape.total * sizeof(float);
    exit_code code = EXIT_OK;
    for (int m = 0; m < PACK_MEMORIES; m++)
        for (int i = 0; i < w->n_checked && code == EXIT_OK && c->packs[m]; i++)
            code = said(w,
                        ck_download(w->stream, w->pack_after[m][i],
                                    c->packs[m] + w->checked[i] * w->shape.total, bytes),
                        MEMORY_NAMES[m], list);
    return code;
}

exit_code world_download(world *w, const world_copy *c, bool all_kept, problems *list) {
    exit_code code = said(w, ck_wait(w->stream), w->which->name, list);
    for (int i = 0; i < TENSORS && code == EXIT_OK; i++) {
        tensor_array *t = &w->tensor[i];
        if (t->after && (all_kept || t->role != INNER))
            code = said(w, ck_tensor_download(w->stream, c->tensor[i], w->n_tokens, t->after), t->name, list);
    }
    for (int i = 0; i < BUFFERS && code == EXIT_OK; i++) {
        buffer_array *b = &w->buffer[i];
        if (b->after)
            code = said(w, ck_download(w->stream, b->after, c->buffer[i], (size_t)b->count * sizeof(float)),
                        b->name, list);
    }
    if (code == EXIT_OK) code = download_packs(w, c, list);
    return code == EXIT_OK ? said(w, ck_wait(w->stream), w->which->name, list) : code;
}

/* Setting up a wave, running it, and keeping the two worlds. */
#include "conformance/rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool rig_ok(rig *r, ck_status status, const char *what) {
    if (status != CK_OK && !r->broken)
        check_fail(r->check, "%s on wave '%s': %s: status %d: %s", r->case_name, r->spec->name, what,
                   (int)status, ck_last_error(r->backend));
    r->broken |= status != CK_OK;
    return !r->broken;
}

/* ---- Memory in both worlds ------------------------------------------------------------------- */

static void allocate_sides(int64_t count, float **host, double **ref) {
    *host = calloc(count > 0 ? (size_t)count : 1, sizeof **host);
    *ref = oracle_zeros(count);
    if (*host == NULL) abort();
}

/* The nearest number that bf16 has, ties to even. */
static float to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

static float drawn(const rig *r, double value) {
    return r->capacity.precision == CK_BF16 ? to_half((float)value) : (float)value;
}

static void fill_random(rig *r, int64_t count, double scale, float *host, double *ref) {
    for (int64_t i = 0; i < count; i++) ref[i] = host[i] = drawn(r, wave_draw(&r->random, scale));
}

static void fill_nan(int64_t count, float *host) {
    for (int64_t i = 0; i < count; i++) host[i] = NAN;
}

static rig_buffer make_buffer(rig *r, int64_t count, const char *name) {
    rig_buffer b = {.name = name, .count = count};
    allocate_sides(count, &b.host, &b.ref);
    if (!r->broken)
        rig_ok(r, ck_alloc(r->backend, (size_t)(count > 0 ? count : 1) * sizeof(float), name, &b.memory),
               "ck_alloc");
    return b;
}

static void release_buffer(rig *r, rig_buffer *b) {
    if (b->memory != NULL) ck_free(r->backend, b->memory);
    free(b->host);
    free(b->ref);
}

rig_buffer *rig_weights(rig *r, int64_t count, double scale, const char *name) {
    if (r->n_buffers == RIG_MAX_BUFFERS) abort();
    rig_buffer *b = &r->buffers[r->n_buffers++];
    *b = make_buffer(r, count, name);
    fill_random(r, count, scale, b->host, b->ref);
    return b;
}

rig_buffer *rig_results(rig *r, int64_t count, const char *name) {
    rig_buffer *b = rig_weights(r, count, 0, name);
    fill_nan(count, b->host);
    return b;
}

static rig_tensor *make_tensor(rig *r, int columns, const char *name) {
    if (r->n_tensors == RIG_MAX_TENSORS) abort();
    rig_tensor *t = &r->tensors[r->n_tensors++];
    *t = (rig_tensor){.name = name, .columns = columns, .tensor = ck_activation(r->program, columns, name)};
    ck_keep(r->program, t->tensor);
    allocate_sides(r->n_tokens * columns, &t->host, &t->ref);
    return t;
}

rig_tensor *rig_input(rig *r, int columns, const char *name) {
    rig_tensor *t = make_tensor(r, columns, name);
    fill_random(r, r->n_tokens * columns, 1, t->host, t->ref);
    return t;
}

rig_tensor *rig_output(rig *r, int columns, const char *name) {
    rig_tensor *t = make_tensor(r, columns, name);
    fill_nan(r->n_tokens * columns, t->host);
    return t;
}

void rig_round(rig *r, rig_tensor *t) {
    for (int64_t i = 0; i < r->n_tokens * t->columns; i++) t->host[i] = (float)t->ref[i];
    rig_take(r, t);
}

void rig_take(rig *r, rig_tensor *t) {
    for (int64_t i = 0; i < r->n_tokens * t->columns; i++) t->ref[i] = t->host[i];
}

/* ---- The wave -------------------------------------------------------------------------------- */

static int larger(int a, int b) {
    return a > b ? a : b;
}

static void lay_sequences(rig *r) {
    int sequence = 0;
    for (int d = 0; d < r->spec->n_devices; d++) {
        r->first_sequence[d] = sequence;
        for (int i = 0; i < WAVE_MAX_LENGTHS && r->spec->devices[d].lengths[i] > 0; i++, sequence++)
            r->first_token[sequence + 1] = r->first_token[sequence] + r->spec->devices[d].lengths[i];
    }
    r->first_sequence[r->spec->n_devices] = sequence;
    r->wave.n_sequences = sequence;
    r->n_tokens = r->first_token[sequence];
    r->tokens = calloc((size_t)r->n_tokens, sizeof *r->tokens);
    r->targets = calloc((size_t)r->n_tokens, sizeof *r->targets);
    if (r->tokens == NULL || r->targets == NULL) abort();
}

static uint32_t learn_of(learn_pattern pattern, int device) {
    const uint32_t turns[4] = {CK_LEARN_EXPERTS, CK_LEARN_ROUTER, CK_LEARN_EXPERTS | CK_LEARN_ROUTER, 0};
    return pattern == LEARN_ALL ? CK_LEARN_EXPERTS | CK_LEARN_ROUTER : turns[device % 4];
}

/* Packs lie in reverse order of the devices and with gaps, so that an offset that is assumed shows. */
static void lay_packs(rig *r, learn_pattern pattern) {
    int64_t end = CK_ALIGN_FLOATS;
    for (int i = 0; i < SHAPE_SPECS; i++)
        r->shapes[i] = wave_shape(i, r->spec->width, r->spec->ffn, WAVE_LAYERS, r->spec->mlp);
    r->max_lora_rank = r->max_zh = r->max_h = r->max_ranks = 1;
    for (int d = r->spec->n_devices - 1; d >= 0; d--) {
        int spec = r->spec->devices[d].shape;
        const ck_shape *s = &r->shapes[spec];
        r->devices[d] = (ck_wave_device){
            .parameters = end, .gradients = end, .shape = spec, .learn = learn_of(pattern, d)};
        end += s->gradient_total + CK_ALIGN_FLOATS;
        for (int site = 0; site < CK_SITES; site++)
            r->max_lora_rank = larger(r->max_lora_rank, larger(s->lora_rank[site], s->tied_rank[site]));
        r->max_zh = larger(r->max_zh, s->router_rows + s->h_ranks);
        r->max_h = larger(r->max_h, s->h_ranks);
        r->max_ranks = larger(r->max_ranks, s->rank_sum);
    }
    r->parameters = make_buffer(r, end, "parameters");
    r->gradients = make_buffer(r, end, "gradients");
    fill_nan(end, r->gradients.host);
    for (int d = 0; d < r->spec->n_devices; d++)
        wave_fill_pack(rig_shape(r, d), 1000 + (uint64_t)d, r->parameters.host + r->devices[d].parameters);
    for (int64_t i = 0; i < end; i++)
        r->parameters.ref[i] = r->parameters.host[i] = drawn(r, r->parameters.host[i]);
}

static void lay_wave(rig *r, rig_options options) {
    bool base = options.trains_base;
    r->base_gradients = make_buffer(r, base ? RIG_BASE_PACK : 0, "base gradients");
    r->wave = (ck_wave){.n_devices = base ? 0 : r->spec->n_devices,
                        .n_sequences = r->wave.n_sequences,
                        .first_token = r->first_token,
                        .first_sequence = r->first_sequence,
                        .devices = r->devices,
                        .n_shapes = base ? 0 : SHAPE_SPECS,
                        .shapes = r->shapes,
                        .tokens = r->tokens,
                        .targets = r->targets,
                        .parameters = r->parameters.memory,
                        .gradients = r->gradients.memory,
                        .base_gradients = base ? r->base_gradients.memory : NULL,
                        .fault = r->fault};
}

static ck_capacity capacity_of(const rig *r, rig_options options) {
    ck_capacity capacity = {.max_sequences = r->wave.n_sequences,
                            .max_tokens = (int32_t)r->n_tokens,
                            .base_pack = options.trains_base ? RIG_BASE_PACK : 0,
                            .precision = options.precision};
    for (int s = 0; s < r->wave.n_sequences; s++)
        capacity.max_sequence_tokens =
            larger(capacity.max_sequence_tokens, (int)(r->first_token[s + 1] - r->first_token[s]));
    for (int d = 0; d < r->spec->n_devices && !options.trains_base; d++)
        if (capacity.max_pack < rig_shape(r, d)->gradient_total)
            capacity.max_pack = rig_shape(r, d)->gradient_total;
    return capacity;
}

void rig_open(rig *r, check *c, ck_backend *backend, const char *case_name, const wave_spec *spec,
              rig_options options) {
    memset(r, 0, sizeof *r);
    r->check = c;
    r->case_name = case_name;
    r->spec = spec;
    r->backend = backend;
    r->skip_evaluated = options.skip_evaluated;
    r->random = 77;
    r->capacity.precision = options.precision; /* what is drawn from here on depends on it */
    r->tolerance = options.precision == CK_BF16 ? rig_tolerance_half : rig_tolerance;
    lay_sequences(r);
    lay_packs(r, options.learn);
    lay_wave(r, options);
    r->capacity = capacity_of(r, options);
    rig_ok(r, ck_stream_create(backend, &r->stream), "ck_stream_create");
    if (!r->broken) rig_ok(r, ck_program_create(backend, &r->capacity, &r->program), "ck_program_create");
}

void rig_close(rig *r) {
    for (int i = 0; i < r->n_buffers; i++) release_buffer(r, &r->buffers[i]);
    for (int i = 0; i < r->n_tensors; i++) {
        free(r->tensors[i].host);
        free(r->tensors[i].ref);
    }
    release_buffer(r, &r->parameters);
    release_buffer(r, &r->gradients);
    release_buffer(r, &r->base_gradients);
    ck_program_destroy(r->program);
    ck_stream_destroy(r->stream);
    free(r->tokens);
    free(r->targets);
}

/* ---- Running --------------------------------------------------------------------------------- */

static void move_buffer(rig *r, const rig_buffer *b, bool up) {
    size_t bytes = (size_t)b->count * sizeof(float);
    if (bytes == 0 || r->broken) return;
    ck_status status = up ? ck_upload(r->stream, b->memory, b->host, bytes)
                          : ck_download(r->stream, b->host, b->memory, bytes);
    rig_ok(r, status, b->name);
}

static void move_all(rig *r, bool up) {
    for (int i = 0; i < r->n_buffers; i++) move_buffer(r, &r->buffers[i], up);
    if (up) move_buffer(r, &r->parameters, true);
    move_buffer(r, &r->gradients, up);
    move_buffer(r, &r->base_gradients, up);
    for (int i = 0; i < r->n_tensors && !r->broken; i++) {
        rig_tensor *t = &r->tensors[i];
        rig_ok(r,
               up ? ck_tensor_upload(r->stream, t->tensor, r->n_tokens, t->host)
                  : ck_tensor_download(r->stream, t->tensor, r->n_tokens, t->host),
               t->name);
    }
}

bool rig_run(rig *r) {
    if (!r->broken && !r->finished) rig_ok(r, ck_program_finish(r->program), "ck_program_finish");
    r->finished = true;
    for (int d = 0; d < WAVE_MAX_DEVICES; d++) r->fault[d] = 99;
    move_all(r, true);
    if (!r->broken) rig_ok(r, ck_run(r->program, r->stream, &r->wave), "ck_run");
    move_all(r, false);
    if (!r->broken) rig_ok(r, ck_wait(r->stream), "ck_wait");
    return !r->broken;
}

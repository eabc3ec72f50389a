/* Devices of different shapes, each with one to three ragged sequences; any subset of them can be a wave. */
#include "conformance/bits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conformance/waves.h"
#include "model/model.h"
#include "oracle/oracle.h"

enum { WIDTH = 32, HEADS = 4, FFN = 128, VOCABULARY = 33, CONTEXT = 48, MAX_SEQUENCES = 3 };

typedef struct {
    int shape, n_sequences, lengths[MAX_SEQUENCES];
    float *pack;
    int32_t *tokens; /* of all its sequences; a target is the next token of the same array */
} member;

struct bits_world {
    ck_shape shapes[SHAPE_SPECS];
    member members[BITS_DEVICES];
    base_shape base;
    base_layout layout;
    float *weights;
};

static int tokens_of(const member *m) {
    int sum = 0;
    for (int i = 0; i < m->n_sequences; i++) sum += m->lengths[i];
    return sum;
}

static void *allocate(int64_t count, size_t size) {
    void *memory = calloc(count > 0 ? (size_t)count : 1, size);
    if (memory == NULL) abort();
    return memory;
}

enum { N_SHAPES = 7 };
static const int gpt2_shapes[N_SHAPES] = {SHAPE_PAIR_BOTH, SHAPE_RAGGED, SHAPE_PAIR_TOP1, SHAPE_SINGLE_ATTEND,
                                          SHAPE_LINEAR,    SHAPE_MEAN,   SHAPE_MANY},
                 llama_shapes[N_SHAPES] = {SHAPE_LLAMA_PLAIN, SHAPE_LLAMA_QV,    SHAPE_LLAMA_BESIDE,
                                           SHAPE_LLAMA_QV,    SHAPE_LLAMA_PLAIN, SHAPE_LLAMA_BESIDE,
                                           SHAPE_LLAMA_QV};

static void make_member(bits_world *w, int d, const int *shapes) {
    member *m = &w->members[d];
    uint64_t random = 500 + (uint64_t)d;
    m->shape = shapes[d % N_SHAPES];
    m->n_sequences = 1 + d % MAX_SEQUENCES;
    for (int i = 0; i < m->n_sequences; i++) m->lengths[i] = 1 + (7 * d + 13 * i) % 40;
    m->pack = allocate(w->shapes[m->shape].total, sizeof(float));
    wave_fill_pack(&w->shapes[m->shape], 700 + (uint64_t)d, m->pack);
    m->tokens = allocate(tokens_of(m) + 1, sizeof(int32_t));
    for (int t = 0; t <= tokens_of(m); t++)
        m->tokens[t] = (int32_t)(fabs(wave_draw(&random, 1)) * 1e6) % VOCABULARY;
}

bits_world *bits_create(ck_mlp mlp) {
    bits_world *w = allocate(1, sizeof *w);
    const int *shapes = mlp == CK_MLP_SWIGLU ? llama_shapes : gpt2_shapes;
    for (int i = 0; i < SHAPE_SPECS; i++) w->shapes[i] = wave_shape(i, WIDTH, FFN, WAVE_LAYERS, mlp);
    w->base = wave_base(&w->shapes[shapes[0]], HEADS, VOCABULARY, CONTEXT);
    w->layout = base_layout_of(&w->base);
    w->weights = allocate(w->layout.total, sizeof(float));
    wave_fill_base(&w->base, 4, w->weights);
    for (int d = 0; d < BITS_DEVICES; d++) make_member(w, d, shapes);
    return w;
}

void bits_destroy(bits_world *w) {
    for (int d = 0; d < BITS_DEVICES; d++) {
        free(w->members[d].pack);
        free(w->members[d].tokens);
    }
    free(w->weights);
    free(w);
}

/* ---- A wave of chosen members, on the host --------------------------------------------------- */

typedef struct {
    int64_t first_token[BITS_DEVICES * MAX_SEQUENCES + 1];
    int32_t first_sequence[BITS_DEVICES + 1], fault[BITS_DEVICES], *tokens, *targets;
    ck_wave_device devices[BITS_DEVICES];
    int n_sequences;
    int64_t n_tokens, pack_floats;
    float *packs;
} host_wave;

static host_wave *host_create(const bits_world *w, const int *order, int n) {
    host_wave *h = allocate(1, sizeof *h);
    for (int i = 0; i < n; i++) {
        const member *m = &w->members[order[i]];
        h->n_tokens += tokens_of(m);
        h->pack_floats += w->shapes[m->shape].gradient_total;
    }
    h->tokens = allocate(h->n_tokens, sizeof(int32_t));
    h->targets = allocate(h->n_tokens, sizeof(int32_t));
    h->packs = allocate(h->pack_floats, sizeof(float));
    int64_t token = 0, pack = 0;
    for (int i = 0; i < n; i++) {
        const member *m = &w->members[order[i]];
        int64_t total = w->shapes[m->shape].total;
        for (int s = 0; s < m->n_sequences; s++)
            h->first_token[h->n_sequences + s + 1] = h->first_token[h->n_sequences + s] + m->lengths[s];
        h->n_sequences += m->n_sequences;
        h->first_sequence[i + 1] = h->n_sequences;
        memcpy(h->tokens + token, m->tokens, (size_t)tokens_of(m) * sizeof(int32_t));
        memcpy(h->targets + token, m->tokens + 1, (size_t)tokens_of(m) * sizeof(int32_t));
        memcpy(h->packs + pack, m->pack, (size_t)total * sizeof(float));
        h->devices[i] = (ck_wave_device){.parameters = pack,
                                         .gradients = pack,
                                         .shape = m->shape,
                                         .learn = CK_LEARN_EXPERTS | CK_LEARN_ROUTER};
        token += tokens_of(m);
        pack += w->shapes[m->shape].gradient_total;
    }
    return h;
}

static void host_destroy(host_wave *h) {
    free(h->tokens);
    free(h->targets);
    free(h->packs);
    free(h);
}

static ck_capacity capacity_of(const bits_world *w, const host_wave *h, bool base) {
    ck_capacity c = {.max_sequences = h->n_sequences,
                     .max_tokens = (int32_t)h->n_tokens,
                     .max_sequence_tokens = h->n_tokens < CONTEXT ? (int32_t)h->n_tokens : CONTEXT};
    for (int i = 0; i < SHAPE_SPECS && !base; i++)
        if (c.max_pack < w->shapes[i].gradient_total) c.max_pack = w->shapes[i].gradient_total;
    if (base) c.base_pack = w->layout.total;
    return c;
}

/* ---- Running it ------------------------------------------------------------------------------ */

enum { WEIGHTS, PARAMETERS, GRADIENTS, LOSS, TOP_K, COEFFICIENT, BUFFERS };

typedef struct {
    ck_backend *backend;
    ck_stream *stream;
    verdict *verdict;
    void *memory[BUFFERS];
    bool broken;
} session;

static bool worked(session *s, ck_status status, const char *what) {
    if (status != CK_OK && !s->broken)
        verdict_fail(s->verdict, "%s: status %d: %s", what, (int)status, ck_last_error(s->backend));
    s->broken |= status != CK_OK;
    return !s->broken;
}

static session session_open(const bits_world *w, const host_wave *h, int64_t gradient_floats,
                            ck_backend *backend, verdict *c) {
    session s = {.backend = backend, .verdict = c};
    int64_t entries = (int64_t)h->n_sequences * WAVE_LAYERS * CK_MAX_EXPERTS;
    const int64_t counts[BUFFERS] = {w->layout.total, h->pack_floats, gradient_floats,
                                     h->n_sequences,  entries,        entries};
    worked(&s, ck_stream_create(backend, &s.stream), "ck_stream_create");
    for (int i = 0; i < BUFFERS && !s.broken; i++)
        worked(&s, ck_alloc(backend, (size_t)counts[i] * sizeof(float), "bits", &s.memory[i]), "ck_alloc");
    if (!s.broken)
        worked(&s,
               ck_upload(s.stream, s.memory[WEIGHTS], w->weights, (size_t)w->layout.total * sizeof(float)),
               "ck_upload");
    if (!s.broken)
        worked(&s,
               ck_upload(s.stream, s.memory[PARAMETERS], h->packs, (size_t)h->pack_floats * sizeof(float)),
               "ck_upload");
    return s;
}

static void session_close(session *s) {
    for (int i = 0; i < BUFFERS; i++) ck_free(s->backend, s->memory[i]);
    ck_stream_destroy(s->stream);
}

static float *fetch(session *s, int buffer, int64_t count) {
    float *host = allocate(count, sizeof *host);
    if (!s->broken)
        worked(s, ck_download(s->stream, host, s->memory[buffer], (size_t)count * sizeof *host),
               "ck_download");
    if (!s->broken) worked(s, ck_wait(s->stream), "ck_wait");
    return host;
}

static ck_program *record(session *s, const bits_world *w, const ck_capacity *capacity, bool pretraining) {
    ck_program *program = NULL;
    problems *list = problems_create();
    model_base base = {.shape = w->base, .layout = w->layout, .weights = s->memory[WEIGHTS]};
    model_outputs out = {.loss = s->memory[LOSS]};
    if (!pretraining) {
        out.top_k_count = s->memory[TOP_K], out.balance_coefficient = s->memory[COEFFICIENT];
    }
    exit_code code = pretraining ? model_record_pretraining(s->backend, &base, capacity, &out, &program, list)
                                 : model_record_step(s->backend, &base, w->shapes, SHAPE_SPECS, capacity,
                                                     &out, &program, list);
    if (code != EXIT_OK)
        verdict_fail(s->verdict, "recording: %s",
                     problems_count(list) > 0 ? problems_message(list, 0) : "no message");
    s->broken |= code != EXIT_OK;
    problems_destroy(list);
    return program;
}

static void run_program(session *s, const bits_world *w, host_wave *h, int n, bool pretraining) {
    if (s->broken) return;
    ck_capacity capacity = capacity_of(w, h, pretraining);
    ck_program *program = record(s, w, &capacity, pretraining);
    ck_wave wave = {.n_devices = pretraining ? 0 : n,
                    .n_sequences = h->n_sequences,
                    .first_token = h->first_token,
                    .first_sequence = h->first_sequence,
                    .devices = h->devices,
                    .n_shapes = pretraining ? 0 : SHAPE_SPECS,
                    .shapes = w->shapes,
                    .tokens = h->tokens,
                    .targets = h->targets,
                    .parameters = s->memory[PARAMETERS],
                    .gradients = pretraining ? NULL : s->memory[GRADIENTS],
                    .base_gradients = pretraining ? s->memory[GRADIENTS] : NULL,
                    .fault = h->fault};
    if (!s->broken) worked(s, ck_run(program, s->stream, &wave), "ck_run");
    if (!s->broken) worked(s, ck_wait(s->stream), "ck_wait");
    ck_program_destroy(program);
}

/* ---- Results
 * --------------------------------------------------------------------------------------------------
 */

static bits_result gather(const bits_world *w, const host_wave *h, int i, const float *loss,
                          const float *gradients) {
    const ck_shape *s = &w->shapes[h->devices[i].shape];
    int first = h->first_sequence[i], sequences = h->first_sequence[i + 1] - first;
    bits_result r = {.values = allocate(sequences + s->total, sizeof(float)), .fault = h->fault[i]};
    memcpy(r.values, loss + first, (size_t)sequences * sizeof(float));
    r.count = sequences;
    for (int l = 0; l < WAVE_LAYERS; l++)
        for (oracle_part part = 0; part < ORACLE_PARTS; part++) {
            oracle_range range = oracle_part_range(s, l, part);
            memcpy(r.values + r.count, gradients + h->devices[i].gradients + range.offset,
                   (size_t)range.count * sizeof(float));
            r.count += range.count;
        }
    return r;
}

static void spoil_router(const bits_world *w, host_wave *h, const int *order, int n, int spoil) {
    for (int i = 0; i < n; i++)
        if (order[i] == spoil)
            h->packs[h->devices[i].parameters +
                     oracle_part_range(&w->shapes[h->devices[i].shape], 1, ORACLE_ROUTER).offset] = NAN;
}

void bits_step(const bits_world *w, ck_backend *backend, const int *order, int n, int spoil,
               bits_result *results, verdict *c) {
    host_wave *h = host_create(w, order, n);
    spoil_router(w, h, order, n, spoil);
    session s = session_open(w, h, h->pack_floats, backend, c);
    run_program(&s, w, h, n, false);
    float *loss = fetch(&s, LOSS, h->n_sequences), *gradients = fetch(&s, GRADIENTS, h->pack_floats);
    for (int i = 0; i < n; i++) results[i] = gather(w, h, i, loss, gradients);
    free(loss);
    free(gradients);
    session_close(&s);
    host_destroy(h);
}

void bits_free(bits_result *results, int n) {
    for (int i = 0; i < n; i++) free(results[i].values);
}

/* NaN equals itself here: it is about bits. */
bool bits_equal(const bits_result *a, const bits_result *b) {
    return a->count == b->count && a->fault == b->fault &&
           memcmp(a->values, b->values, (size_t)a->count * sizeof(float)) == 0;
}

bits_result bits_pretraining(const bits_world *w, ck_backend *backend, verdict *c) {
    int order[BITS_DEVICES];
    for (int d = 0; d < BITS_DEVICES; d++) order[d] = d;
    host_wave *h = host_create(w, order, BITS_DEVICES);
    session s = session_open(w, h, w->layout.total, backend, c);
    run_program(&s, w, h, BITS_DEVICES, true);
    float *loss = fetch(&s, LOSS, h->n_sequences), *gradients = fetch(&s, GRADIENTS, w->layout.total);
    bits_result r = {.count = h->n_sequences + w->layout.total};
    r.values = allocate(r.count, sizeof(float));
    memcpy(r.values, loss, (size_t)h->n_sequences * sizeof(float));
    memcpy(r.values + h->n_sequences, gradients, (size_t)w->layout.total * sizeof(float));
    free(loss);
    free(gradients);
    session_close(&s);
    host_destroy(h);
    return r;
}

/* ---- Decoding -------------------------------------------------------------------------------- */

/* A wave of the tokens that sequences take at one step. */
typedef struct {
    ck_wave wave;
    int64_t first_token[BITS_DEVICES * MAX_SEQUENCES + 1];
    int32_t first_sequence[BITS_DEVICES + 1], first_position[BITS_DEVICES * MAX_SEQUENCES],
        slot[BITS_DEVICES * MAX_SEQUENCES], *tokens, *targets;
    ck_wave_device devices[BITS_DEVICES];
} step_wave;

/* Tokens of n that are in the cache before a step. */
static int64_t before_step(int64_t n, int step) {
    int64_t taken = step == 0 ? 0 : (n + 1) / 2 + step - 1;
    return taken < n ? taken : n;
}

static void fill_step(step_wave *w, const host_wave *h, int n, int step) {
    w->wave.n_devices = w->wave.n_sequences = 0;
    for (int d = 0; d < n; d++) {
        int sequences = w->wave.n_sequences;
        for (int s = h->first_sequence[d]; s < h->first_sequence[d + 1]; s++) {
            int64_t length = h->first_token[s + 1] - h->first_token[s], first = before_step(length, step),
                    tokens = before_step(length, step + 1) - first;
            int at = w->wave.n_sequences;
            if (tokens == 0) continue;
            memcpy(w->tokens + w->first_token[at], h->tokens + h->first_token[s] + first,
                   (size_t)tokens * sizeof(int32_t));
            w->first_token[at + 1] = w->first_token[at] + tokens;
            w->first_position[at] = (int32_t)first;
            w->slot[at] = s;
            w->wave.n_sequences++;
        }
        if (w->wave.n_sequences == sequences) continue;
        w->devices[w->wave.n_devices] = h->devices[d];
        w->devices[w->wave.n_devices++].learn = 0;
        w->first_sequence[w->wave.n_devices] = w->wave.n_sequences;
    }
}

static ck_program *record_decoding(session *s, const bits_world *w, const host_wave *h, void *cache,
                                   float *logits) {
    ck_program *program = NULL;
    problems *list = problems_create();
    model_base base = {.shape = w->base, .layout = w->layout, .weights = s->memory[WEIGHTS]};
    ck_capacity capacity = capacity_of(w, h, false);
    model_decoding places = {.cache = cache, .slots = h->n_sequences, .positions = CONTEXT, .logits = logits};
    exit_code code =
        model_record_decoding(s->backend, &base, w->shapes, SHAPE_SPECS, &capacity, &places, &program, list);
    if (code != EXIT_OK)
        verdict_fail(s->verdict, "recording: %s",
                     problems_count(list) > 0 ? problems_message(list, 0) : "no message");
    s->broken |= code != EXIT_OK;
    problems_destroy(list);
    return program;
}

/* A step's logits to the results of the devices that have them. */
static void keep_logits(const step_wave *w, const host_wave *h, int n, const float *logits,
                        bits_result *results) {
    for (int i = 0; i < w->wave.n_sequences; i++) {
        int device = 0;
        while (device < n - 1 && h->first_sequence[device + 1] <= w->slot[i]) device++;
        bits_result *r = &results[device];
        r->values = realloc(r->values, (size_t)(r->count + VOCABULARY) * sizeof(float));
        if (r->values == NULL) abort();
        memcpy(r->values + r->count, logits + (int64_t)i * VOCABULARY, VOCABULARY * sizeof(float));
        r->count += VOCABULARY;
    }
}

static void decode_steps(session *s, const bits_world *b, const host_wave *h, int n, ck_program *program,
                         void *logits, bits_result *results) {
    step_wave *w = allocate(1, sizeof *w);
    float *host = allocate((int64_t)h->n_sequences * VOCABULARY, sizeof *host);
    w->tokens = allocate(h->n_tokens, sizeof(int32_t));
    w->targets = allocate(h->n_tokens, sizeof(int32_t));
    w->wave = (ck_wave){.first_token = w->first_token,
                        .first_sequence = w->first_sequence,
                        .devices = w->devices,
                        .n_shapes = SHAPE_SPECS,
                        .shapes = b->shapes,
                        .tokens = w->tokens,
                        .targets = w->targets,
                        .first_position = w->first_position,
                        .cache_slot = w->slot,
                        .parameters = s->memory[PARAMETERS]};
    for (int step = 0; !s->broken; step++) {
        fill_step(w, h, n, step);
        size_t bytes = (size_t)w->wave.n_sequences * VOCABULARY * sizeof(float);
        if (w->wave.n_sequences == 0) break;
        worked(s, ck_run(program, s->stream, &w->wave), "ck_run");
        if (!s->broken) worked(s, ck_download(s->stream, host, logits, bytes), "ck_download");
        if (!s->broken) worked(s, ck_wait(s->stream), "ck_wait");
        keep_logits(w, h, n, host, results);
    }
    free(w->tokens);
    free(w->targets);
    free(w);
    free(host);
}

void bits_decode(const bits_world *w, ck_backend *backend, const int *order, int n, bits_result *results,
                 verdict *c) {
    host_wave *h = host_create(w, order, n);
    session s = session_open(w, h, 1, backend, c);
    void *cache = NULL, *logits = NULL;
    for (int i = 0; i < n; i++) results[i] = (bits_result){.fault = -1};
    worked(&s,
           ck_alloc(backend, model_cache_bytes(&w->base, CK_F32, h->n_sequences, CONTEXT), "bits", &cache),
           "ck_alloc");
    worked(&s, ck_alloc(backend, (size_t)h->n_sequences * VOCABULARY * sizeof(float), "bits", &logits),
           "ck_alloc");
    ck_program *program = s.broken ? NULL : record_decoding(&s, w, h, cache, logits);
    decode_steps(&s, w, h, n, program, logits, results);
    ck_program_destroy(program);
    ck_free(backend, cache);
    ck_free(backend, logits);
    session_close(&s);
    host_destroy(h);
}

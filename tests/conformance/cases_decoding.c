/* Decoding: attention over a cache, logits of last tokens, positions, and the whole model in several waves.
 *
 * The sequences of a wave of the table come in STEPS waves: half of a sequence, one token, one more, the rest.
 * A sequence that has ended takes no part in the waves that follow, and neither does a device without a
 * sequence. Places in the caches are in reverse order, with one that nobody has; all of them hold NaN before. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conformance/cases.h"
#include "model/model.h"

enum { STEPS = 4, VOCABULARY = 37, CONTEXT = 160 };
static const double least_margin = 1e-5;

/* ---- A wave of some of the tokens of each sequence ---- */

typedef struct {
    ck_wave wave;
    int64_t first_token[WAVE_MAX_DEVICES * WAVE_MAX_LENGTHS + 1];
    int32_t first_sequence[WAVE_MAX_DEVICES + 1];
    ck_wave_device devices[WAVE_MAX_DEVICES];
    int32_t first_position[WAVE_MAX_DEVICES * WAVE_MAX_LENGTHS], slot[WAVE_MAX_DEVICES * WAVE_MAX_LENGTHS];
    int32_t fault[WAVE_MAX_DEVICES];
    int32_t *tokens, *targets;
    int64_t *from; /* [n_tokens] the token of the rig's wave */
} part_wave;

/* Tokens of a sequence of n that steps 0 .. step have taken. */
static int64_t taken(int64_t n, int step) {
    int64_t end = step < STEPS - 1 ? (n + 1) / 2 + step : n;
    return end < n ? end : n;
}

static void add_sequence(part_wave *p, const rig *r, int s, int step) {
    int64_t first = r->first_token[s], n = r->first_token[s + 1] - first,
            begin = step > 0 ? taken(n, step - 1) : 0, end = taken(n, step);
    int at = p->wave.n_sequences;
    if (begin == end) return;
    p->first_position[at] = (int32_t)begin;
    p->slot[at] = r->wave.n_sequences - s;
    p->first_token[at + 1] = p->first_token[at] + end - begin;
    for (int64_t t = begin; t < end; t++) {
        int64_t to = p->first_token[at] + t - begin;
        p->from[to] = first + t;
        p->tokens[to] = r->tokens[first + t];
        p->targets[to] = -1;
    }
    p->wave.n_sequences++;
}

static part_wave *part_open(const rig *r, int step) {
    part_wave *p = calloc(1, sizeof *p);
    size_t n = (size_t)r->n_tokens;
    if (p == NULL) abort();
    p->tokens = calloc(n, sizeof *p->tokens), p->targets = calloc(n, sizeof *p->targets);
    p->from = calloc(n, sizeof *p->from);
    if (p->tokens == NULL || p->targets == NULL || p->from == NULL) abort();
    for (int d = 0; d < r->spec->n_devices; d++) {
        int before = p->wave.n_sequences, at = p->wave.n_devices;
        for (int s = r->first_sequence[d]; s < r->first_sequence[d + 1]; s++) add_sequence(p, r, s, step);
        if (p->wave.n_sequences == before) continue;
        p->devices[at] = r->devices[d];
        p->devices[at].learn = 0;
        p->first_sequence[at + 1] = p->wave.n_sequences;
        p->wave.n_devices++;
    }
    p->wave.first_token = p->first_token, p->wave.first_sequence = p->first_sequence;
    p->wave.devices = p->devices;
    p->wave.n_shapes = SHAPE_SPECS, p->wave.shapes = r->shapes;
    p->wave.tokens = p->tokens, p->wave.targets = p->targets;
    p->wave.first_position = p->first_position, p->wave.cache_slot = p->slot;
    p->wave.parameters = r->parameters.memory;
    p->wave.fault = p->fault;
    return p;
}

static void part_close(part_wave *p) {
    free(p->tokens);
    free(p->targets);
    free(p->from);
    free(p);
}

static int64_t part_tokens(const part_wave *p) {
    return p->first_token[p->wave.n_sequences];
}

static float *floats(int64_t count) {
    float *values = malloc((size_t)count * sizeof *values);
    if (values == NULL) abort();
    return values;
}

static void upload_buffer(rig *r, const rig_buffer *b) {
    if (!r->broken)
        rig_ok(r, ck_upload(r->stream, b->memory, b->host, (size_t)b->count * sizeof(float)), b->name);
}

/* ---- Attention ---- */

typedef struct {
    int heads, kv_heads, head_size;
} head_sizes;

/* The rows of a step go up, and those of the output come back to where they belong. */
static void attend_step(rig *r, rig_tensor *qkv, rig_tensor *o, int step) {
    part_wave *p = part_open(r, step);
    int64_t n = part_tokens(p);
    float *in = floats(n * qkv->columns + 1), *out = floats(n * o->columns + 1);
    for (int64_t t = 0; t < n; t++)
        memcpy(in + t * qkv->columns, qkv->host + p->from[t] * qkv->columns,
               (size_t)qkv->columns * sizeof(float));
    if (n > 0 && !r->broken) {
        rig_ok(r, ck_tensor_upload(r->stream, qkv->tensor, n, in), "qkv");
        rig_ok(r, ck_run(r->program, r->stream, &p->wave), "ck_run");
        rig_ok(r, ck_tensor_download(r->stream, o->tensor, n, out), "o");
        rig_ok(r, ck_wait(r->stream), "ck_wait");
    }
    for (int64_t t = 0; t < n && !r->broken; t++)
        memcpy(o->host + p->from[t] * o->columns, out + t * o->columns, (size_t)o->columns * sizeof(float));
    free(in);
    free(out);
    part_close(p);
}

static void attend_reference(const rig *r, head_sizes h, const rig_tensor *qkv, rig_tensor *o) {
    for (int s = 0; s < r->wave.n_sequences; s++) {
        int64_t first = r->first_token[s];
        oracle_attention((oracle_attention_size){.n = r->first_token[s + 1] - first,
                                                 .heads = h.heads,
                                                 .kv_heads = h.kv_heads,
                                                 .head_size = h.head_size},
                         rig_row(qkv, first), rig_row(o, first), NULL);
    }
}

static int longest(const rig *r) {
    return r->capacity.max_sequence_tokens;
}

static void attention_with(rig *r, head_sizes h) {
    int slots = r->wave.n_sequences + 1, positions = longest(r) + 3;
    rig_tensor *qkv = rig_input(r, (h.heads + 2 * h.kv_heads) * h.head_size, "qkv"),
               *o = rig_output(r, h.heads * h.head_size, "o");
    int64_t count = (int64_t)slots * h.kv_heads * positions * h.head_size;
    rig_buffer *keys = rig_results(r, count, "keys"), *values = rig_results(r, count, "values");
    ck_op_attention_cached(r->program, &(ck_attention_cached){.qkv = qkv->tensor,
                                                              .o = o->tensor,
                                                              .keys = keys->memory,
                                                              .values = values->memory,
                                                              .slots = slots,
                                                              .positions = positions,
                                                              .heads = h.heads,
                                                              .kv_heads = h.kv_heads,
                                                              .head_size = h.head_size});
    if (!r->broken) rig_ok(r, ck_program_finish(r->program), "ck_program_finish");
    upload_buffer(r, keys);
    upload_buffer(r, values);
    for (int step = 0; step < STEPS; step++) attend_step(r, qkv, o, step);
    if (r->broken) return;
    attend_reference(r, h, qkv, o);
    rig_compare(r, o, COLUMNS_ALL);
}

static void attention(rig *r) {
    int heads = r->spec->heads;
    attention_with(r, (head_sizes){heads, heads, r->spec->width / heads});
}

static void attention_grouped(rig *r) {
    attention_with(r, (head_sizes){2 * r->spec->heads, r->spec->heads, 20});
}

static void attention_one_key(rig *r) {
    attention_with(r, (head_sizes){3 * r->spec->heads, 1, r->spec->width});
}

static void attention_large_heads(rig *r) {
    attention_with(r, (head_sizes){2, 1, 96});
}

/* ---- Logits and positions ---- */

static void logits_with(rig *r, int vocabulary) {
    int width = r->spec->width, n = r->wave.n_sequences;
    rig_tensor *x = rig_input(r, width, "x");
    rig_buffer *weight = rig_weights(r, (int64_t)vocabulary * width, 0.3, "weight"),
               *logits = rig_results(r, (int64_t)n * vocabulary, "logits");
    ck_op_logits(r->program, &(ck_logits){.x = x->tensor,
                                          .weight = weight->memory,
                                          .logits = logits->memory,
                                          .width = width,
                                          .vocabulary = vocabulary});
    if (!rig_run(r)) return;
    for (int s = 0; s < n; s++)
        for (int v = 0; v < vocabulary; v++)
            logits->ref[(int64_t)s * vocabulary + v] =
                oracle_dot(rig_row(x, r->first_token[s + 1] - 1), weight->ref + (int64_t)v * width, width);
    rig_compare_buffer(r, logits, 0, (int64_t)n * vocabulary);
}

static void logits(rig *r) {
    logits_with(r, VOCABULARY);
}

static void logits_many(rig *r) {
    logits_with(r, 512);
}

static void embed_at_positions(rig *r) {
    int width = r->spec->width;
    int32_t first_position[WAVE_MAX_DEVICES * WAVE_MAX_LENGTHS];
    rig_buffer *wte = rig_weights(r, VOCABULARY * width, 1, "wte"),
               *wpe = rig_weights(r, CONTEXT * width, 1, "wpe");
    rig_tensor *x = rig_output(r, width, "x");
    for (int s = 0; s < r->wave.n_sequences; s++) first_position[s] = 7 * s % (CONTEXT - longest(r));
    for (int64_t t = 0; t < r->n_tokens; t++) r->tokens[t] = (int32_t)(t * t % VOCABULARY);
    r->wave.first_position = first_position;
    ck_op_embed(r->program,
                &(ck_embed){.x = x->tensor, .wte = wte->memory, .wpe = wpe->memory, .width = width});
    if (!rig_run(r)) return;
    for (int s = 0; s < r->wave.n_sequences; s++) {
        int64_t first = r->first_token[s];
        oracle_embed(r->first_token[s + 1] - first, width, r->tokens + first, wte->ref,
                     wpe->ref + (int64_t)first_position[s] * width, rig_row(x, first));
    }
    rig_compare(r, x, COLUMNS_ALL);
}

static void rope_at_positions(rig *r) {
    int heads = r->spec->heads, size = 2 * r->spec->width;
    int32_t first_position[WAVE_MAX_DEVICES * WAVE_MAX_LENGTHS];
    rig_tensor *qkv = rig_input(r, 3 * heads * size, "qkv");
    rig_buffer *table = rig_weights(r, (int64_t)CONTEXT * size, 1, "table");
    for (int s = 0; s < r->wave.n_sequences; s++) first_position[s] = 5 * s % (CONTEXT - longest(r));
    r->wave.first_position = first_position;
    ck_op_rope(r->program, &(ck_rope){.qkv = qkv->tensor,
                                      .table = table->memory,
                                      .heads = heads,
                                      .kv_heads = heads,
                                      .head_size = size});
    if (!rig_run(r)) return;
    for (int s = 0; s < r->wave.n_sequences; s++) {
        int64_t first = r->first_token[s];
        oracle_rope(
            (oracle_attention_size){
                .n = r->first_token[s + 1] - first, .heads = heads, .kv_heads = heads, .head_size = size},
            table->ref + (int64_t)first_position[s] * size, false, rig_row(qkv, first));
    }
    rig_compare(r, qkv, COLUMNS_ALL);
}

/* ---- The whole model ---- */

typedef struct {
    rig *r;
    model_base base;
    oracle_base reference;
    rig_buffer *weights, *cache, *logits;
    double *expected; /* [n_tokens, VOCABULARY] of whole sequences */
} decoding;

static void make_base(decoding *d) {
    rig *r = d->r;
    base_shape shape = {.layers = WAVE_LAYERS,
                        .width = r->spec->width,
                        .heads = r->spec->heads,
                        .ffn = r->spec->ffn,
                        .vocabulary = VOCABULARY,
                        .context = CONTEXT,
                        .epsilon = 1e-5f};
    base_layout layout = base_layout_of(&shape);
    d->weights = rig_weights(r, layout.total, 0, "base");
    wave_fill_base(&shape, 9, d->weights->host);
    for (int64_t i = 0; i < layout.total; i++) d->weights->ref[i] = d->weights->host[i];
    d->base = (model_base){.shape = shape, .layout = layout, .weights = d->weights->memory};
    d->reference = (oracle_base){.shape = shape, .layout = layout, .weights = d->weights->ref};
    for (int64_t t = 0; t < r->n_tokens; t++) {
        r->tokens[t] = (int32_t)(fabs(wave_draw(&r->random, 1)) * 1e6) % VOCABULARY;
        r->targets[t] = -1;
    }
}

/* Replaces the rig's empty program. */
static void record(decoding *d) {
    rig *r = d->r;
    int32_t slots = r->wave.n_sequences + 1;
    size_t bytes = model_cache_bytes(&d->base.shape, r->capacity.precision, slots, CONTEXT);
    d->cache = rig_results(r, (int64_t)(bytes / sizeof(float)), "cache");
    d->logits = rig_results(r, (int64_t)r->wave.n_sequences * VOCABULARY, "logits");
    problems *list = problems_create();
    model_decoding places = {
        .cache = d->cache->memory, .slots = slots, .positions = CONTEXT, .logits = d->logits->memory};
    ck_program_destroy(r->program);
    r->program = NULL;
    exit_code code = model_record_decoding(r->backend, &d->base, r->shapes, SHAPE_SPECS, &r->capacity,
                                           &places, &r->program, list);
    if (code != EXIT_OK)
        check_fail(r->check, "%s: %s", r->case_name,
                   problems_count(list) > 0 ? problems_message(list, 0) : "no message");
    r->broken |= code != EXIT_OK;
    problems_destroy(list);
}

static void expect_logits(decoding *d) {
    rig *r = d->r;
    d->expected = oracle_zeros(r->n_tokens * VOCABULARY);
    for (int i = 0; i < r->spec->n_devices; i++) {
        int first = r->first_sequence[i];
        int64_t token = r->first_token[first];
        ck_shape shape = *rig_shape(r, i);
        oracle_batch batch = {r->first_sequence[i + 1] - first, r->first_token + first, r->tokens + token,
                              r->targets + token};
        oracle_pass pass = {.logits = d->expected + token * VOCABULARY};
        shape.balanced = false;
        oracle_model(&d->reference, &shape, r->parameters.ref + r->devices[i].parameters, &batch, &pass);
        if (pass.margin < least_margin)
            check_fail(r->check, "wave '%s': device %d has a margin of %g", r->spec->name, i, pass.margin);
    }
}

/* Logits of the step's last tokens. */
static void decode_step(decoding *d, int step) {
    rig *r = d->r;
    rig_buffer *logits = d->logits;
    part_wave *p = part_open(r, step);
    int n = p->wave.n_sequences;
    size_t bytes = (size_t)n * VOCABULARY * sizeof(float);
    if (n > 0 && !r->broken) {
        rig_ok(r, ck_run(r->program, r->stream, &p->wave), "ck_run");
        rig_ok(r, ck_download(r->stream, logits->host, logits->memory, bytes), "logits");
        rig_ok(r, ck_wait(r->stream), "ck_wait");
    }
    for (int s = 0; s < n; s++) {
        int64_t last = p->from[p->first_token[s + 1] - 1];
        memcpy(logits->ref + (int64_t)s * VOCABULARY, d->expected + last * VOCABULARY,
               VOCABULARY * sizeof(double));
        rig_compare_buffer(r, logits, (int64_t)s * VOCABULARY, VOCABULARY);
    }
    for (int i = 0; i < p->wave.n_devices && !r->broken; i++)
        if (p->fault[i] != -1) check_fail(r->check, "%s: fault %d", r->case_name, p->fault[i]);
    part_close(p);
}

static void model(rig *r) {
    decoding d = {.r = r};
    make_base(&d);
    record(&d);
    upload_buffer(r, d.weights);
    upload_buffer(r, d.cache);
    upload_buffer(r, &r->parameters);
    expect_logits(&d);
    for (int step = 0; step < STEPS; step++) decode_step(&d, step);
    free(d.expected);
}

static const conformance_case cases[] = {
    {.name = "attention over a cache", .run = attention},
    {.name = "attention over a cache, two heads a key", .run = attention_grouped},
    {.name = "attention over a cache, one key for all heads", .run = attention_one_key},
    {.name = "attention over a cache, heads of 96 columns", .run = attention_large_heads},
    {.name = "logits of last tokens", .run = logits},
    {.name = "logits of last tokens, of 512", .run = logits_many},
    {.name = "embed at positions", .run = embed_at_positions},
    {.name = "rope at positions", .run = rope_at_positions},
    {.name = "model decoding", .run = model, .exact = true, .whole = true},
};
const conformance_group decoding_group = {"decoding", cases, sizeof cases / sizeof *cases};

#include "decode/decoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "support/kernel_problem.h"

enum { WAVE_TOKENS = 512, NO_SLOT = -1 };
static const double MIB = 1048576.0;

/* Where a sequence stands. */
typedef struct {
    int slot;      /* NO_SLOT: it waits, or has ended */
    int32_t known; /* tokens that are in the cache */
} progress;

typedef struct {
    const decode_world *world;
    const decode_options *options;
    decode_sequence *sequences;
    int n;
    progress *at;       /* [n] */
    int slots, waiting; /* the first sequence that has not begun */
    int *free_slots, n_free;
    int32_t positions, wave_tokens; /* of a slot; most of a wave */
    void *cache;                    /* backend memory, as the next one */
    float *logits;                  /* [slots, vocabulary] */
    ck_program *program;
    float *host, *scratch; /* [slots, vocabulary], [vocabulary] */
    /* the wave under way */
    ck_wave wave;
    int64_t *first_token;
    int32_t *first_sequence, *first_position, *slot, *tokens, *targets;
    ck_wave_device *devices;
    int *members; /* [slots] its sequences */
} decoder;

static double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- Memory ---- */

static int32_t smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* Positions that the longest sequence can take; the last token of a sequence never goes in. */
static int32_t positions_needed(const decoder *d) {
    int64_t most = 1;
    for (int i = 0; i < d->n; i++) {
        int64_t positions = (int64_t)d->sequences[i].n_prompt + d->options->most_tokens - 1;
        if (positions > most) most = positions;
    }
    int32_t context = d->world->base->shape.context;
    return most < context ? (int32_t)most : context;
}

static int32_t longest_piece(const decoder *d) {
    int32_t longest = 1;
    for (int i = 0; i < d->n; i++)
        if (d->sequences[i].n_prompt > longest) longest = d->sequences[i].n_prompt;
    return smaller(longest, DECODE_PIECE);
}

static ck_capacity capacity_of(const decoder *d) {
    return (ck_capacity){.max_sequences = d->slots,
                         .max_tokens = d->wave_tokens,
                         .max_sequence_tokens = longest_piece(d),
                         .precision = d->world->precision};
}

static size_t logits_bytes(const decoder *d) {
    return (size_t)d->slots * (size_t)d->world->base->shape.vocabulary * sizeof(float);
}

static size_t cache_bytes(const decoder *d) {
    return model_cache_bytes(&d->world->base->shape, d->world->precision, d->slots, d->positions);
}

/* Of so many slots, on the backend and on the host. A program has a copy of its own of a base in bf16. The
 * program is recorded only to be measured: nothing is read through these pointers. */
static exit_code measure(decoder *d, int slots, size_t *bytes, problems *list) {
    static float unread[1];
    const decode_world *w = d->world;
    size_t copy = w->precision == CK_BF16 ? (size_t)w->base->layout.total * 2 : 0, program = 0;
    d->slots = slots;
    ck_capacity capacity = capacity_of(d);
    model_decoding places = {.cache = unread, .slots = slots, .positions = d->positions, .logits = unread};
    exit_code code =
        model_decoding_bytes(w->backend, w->base, w->shapes, w->n_shapes, &capacity, &places, &program, list);
    *bytes = program + copy + cache_bytes(d) + 2 * logits_bytes(d);
    return code;
}

/* As many slots as there are sequences, or as fit; a program of fewer slots takes no more memory. */
static exit_code choose_sizes(decoder *d, problems *list) {
    const decode_options *o = d->options;
    int most = smaller(d->n, WAVE_TOKENS);
    size_t all = 0, one = 0;
    d->positions = positions_needed(d);
    d->wave_tokens = WAVE_TOKENS;
    exit_code code = measure(d, most, &all, list);
    if (code != EXIT_OK || all <= o->memory_bytes) return code;
    size_t each = (cache_bytes(d) + 2 * logits_bytes(d)) / (size_t)most, fixed = all - each * (size_t)most;
    if (o->memory_bytes >= fixed + each) {
        d->slots = (int)((o->memory_bytes - fixed) / each);
        return EXIT_OK;
    }
    code = measure(d, 1, &one, list);
    if (code != EXIT_OK || one <= o->memory_bytes) return code;
    return problem(
        list, EXIT_ENVIRONMENT,
        "a text of %d tokens needs %.0f MiB of memory and only %.0f MiB %s: %.0f MiB go to its keys "
        "and values; ask for fewer tokens, or take a smaller base",
        d->positions, ceil((double)one / MIB), floor((double)o->memory_bytes / MIB), o->memory_source,
        (double)cache_bytes(d) / MIB);
}

static exit_code allocate_backend(decoder *d, problems *list) {
    const decode_world *w = d->world;
    void *logits = NULL;
    ck_status status = ck_alloc(w->backend, cache_bytes(d), "keys and values", &d->cache);
    if (!status) status = ck_alloc(w->backend, logits_bytes(d), "logits", &logits);
    d->logits = logits;
    if (status) return kernel_problem(list, w->backend, status, "allocating a decoder");
    ck_capacity capacity = capacity_of(d);
    model_decoding places = {
        .cache = d->cache, .slots = d->slots, .positions = d->positions, .logits = d->logits};
    return model_record_decoding(w->backend, w->base, w->shapes, w->n_shapes, &capacity, &places, &d->program,
                                 list);
}

static exit_code allocate_host(decoder *d, problems *list) {
    size_t slots = (size_t)d->slots, tokens = (size_t)d->wave_tokens,
           vocabulary = (size_t)d->world->base->shape.vocabulary;
    d->at = calloc((size_t)d->n, sizeof *d->at);
    d->free_slots = malloc(slots * sizeof *d->free_slots);
    d->host = malloc(slots * vocabulary * sizeof *d->host);
    d->scratch = malloc(vocabulary * sizeof *d->scratch);
    d->first_token = calloc(slots + 1, sizeof *d->first_token);
    d->first_sequence = calloc(slots + 1, sizeof *d->first_sequence);
    d->first_position = malloc(slots * sizeof *d->first_position);
    d->slot = malloc(slots * sizeof *d->slot);
    d->devices = malloc(slots * sizeof *d->devices);
    d->members = malloc(slots * sizeof *d->members);
    d->tokens = malloc(tokens * sizeof *d->tokens);
    d->targets = malloc(tokens * sizeof *d->targets);
    if (!d->at || !d->free_slots || !d->host || !d->scratch || !d->first_token || !d->first_sequence ||
        !d->first_position || !d->slot || !d->devices || !d->members || !d->tokens || !d->targets)
        return problem(list, EXIT_ENVIRONMENT, "out of memory for a decoder");
    for (int i = 0; i < d->wave_tokens; i++) d->targets[i] = -1;
    for (int i = 0; i < d->slots; i++) d->free_slots[d->n_free++] = d->slots - 1 - i;
    for (int i = 0; i < d->n; i++) d->at[i].slot = NO_SLOT;
    return EXIT_OK;
}

static void release(decoder *d) {
    void *host[] = {d->at,          d->free_slots,     d->host,           d->scratch,
                    d->first_token, d->first_sequence, d->first_position, d->slot,
                    d->devices,     d->members,        d->tokens,         d->targets};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
    ck_program_destroy(d->program);
    if (d->cache) ck_free(d->world->backend, d->cache);
    if (d->logits) ck_free(d->world->backend, d->logits);
}

/* ---- Waves ---- */

/* Sequences begin while there is room for them. */
static void begin_sequences(decoder *d) {
    for (; d->waiting < d->n && d->n_free > 0; d->waiting++) {
        d->at[d->waiting].slot = d->free_slots[--d->n_free];
        d->sequences[d->waiting].n_tokens = d->sequences[d->waiting].n_prompt;
    }
}

static bool is_same_device(const ck_wave_device *a, const ck_wave_device *b) {
    return a->parameters == b->parameters && a->shape == b->shape && a->variant == b->variant;
}

static void add_to_wave(decoder *d, int i, int32_t tokens) {
    const decode_sequence *s = &d->sequences[i];
    ck_wave *w = &d->wave;
    int at = w->n_sequences++;
    memcpy(d->tokens + d->first_token[at], s->tokens + d->at[i].known, (size_t)tokens * sizeof *d->tokens);
    d->first_token[at + 1] = d->first_token[at] + tokens;
    d->first_position[at] = d->at[i].known;
    d->slot[at] = d->at[i].slot;
    d->members[at] = i;
    if (w->n_devices == 0 || !is_same_device(&d->devices[w->n_devices - 1], &s->device))
        d->devices[w->n_devices++] = s->device;
    d->first_sequence[w->n_devices] = w->n_sequences;
}

/* Pieces of prompts, as long as there are any; else a token of every sequence. False: none is under way. */
static bool fill_wave(decoder *d, bool *prompts) {
    d->wave.n_sequences = d->wave.n_devices = 0;
    for (int pass = 0; pass < 2 && d->wave.n_sequences == 0; pass++) {
        *prompts = pass == 0;
        for (int i = 0; i < d->waiting; i++) {
            int32_t left = d->sequences[i].n_tokens - d->at[i].known,
                    tokens = left < DECODE_PIECE ? left : DECODE_PIECE;
            bool in_prompt = d->at[i].known < d->sequences[i].n_prompt;
            if (d->at[i].slot == NO_SLOT || in_prompt != *prompts) continue;
            if (d->first_token[d->wave.n_sequences] + tokens > d->wave_tokens) break;
            add_to_wave(d, i, tokens);
        }
    }
    return d->wave.n_sequences > 0;
}

static exit_code run_wave(decoder *d, problems *list) {
    const decode_world *w = d->world;
    size_t bytes = (size_t)d->wave.n_sequences * (size_t)w->base->shape.vocabulary * sizeof(float);
    d->wave.first_token = d->first_token, d->wave.first_sequence = d->first_sequence;
    d->wave.devices = d->devices;
    d->wave.n_shapes = w->n_shapes, d->wave.shapes = w->shapes;
    d->wave.tokens = d->tokens, d->wave.targets = d->targets;
    d->wave.first_position = d->first_position, d->wave.cache_slot = d->slot;
    d->wave.parameters = w->parameters;
    d->wave.n_variants = w->n_variants, d->wave.n_linears = w->n_linears, d->wave.variants = w->variants;
    ck_status status = ck_run(d->program, w->stream, &d->wave);
    if (!status) status = ck_download(w->stream, d->host, d->logits, bytes);
    ck_status waited = ck_wait(w->stream);
    return kernel_problem(list, w->backend, status ? status : waited, "decoding");
}

/* ---- Tokens ---- */

static bool is_end_token(const decode_options *o, int32_t token) {
    for (int i = 0; i < o->n_end_tokens; i++)
        if (o->end_tokens[i] == token) return true;
    return false;
}

static void end_sequence(decoder *d, int i, decode_end end) {
    d->sequences[i].end = end;
    d->free_slots[d->n_free++] = d->at[i].slot;
    d->at[i].slot = NO_SLOT;
}

static exit_code add_token(decoder *d, int i, const float *logits, problems *list) {
    decode_sequence *s = &d->sequences[i];
    const decode_options *o = d->options;
    rng_key key = s->key;
    key.step = (uint64_t)s->n_tokens;
    int32_t token =
        sample_token(&o->rule, logits, d->world->base->shape.vocabulary, &key, s->index, d->scratch);
    if (token < 0)
        return problem(list, EXIT_RUN,
                       "%s: the logits of token %d are not finite; its adapters have diverged", s->name,
                       s->n_tokens);
    s->tokens[s->n_tokens++] = token;
    if (is_end_token(o, token))
        end_sequence(d, i, DECODE_END_TOKEN);
    else if (s->n_tokens == s->n_prompt + o->most_tokens)
        end_sequence(d, i, DECODE_ENOUGH);
    else if (s->n_tokens > d->world->base->shape.context)
        end_sequence(d, i, DECODE_CONTEXT);
    return EXIT_OK;
}

/* Sequences whose prompt goes on in a further wave have no use for their logits yet. */
static exit_code take_logits(decoder *d, problems *list) {
    int64_t vocabulary = d->world->base->shape.vocabulary;
    exit_code code = EXIT_OK;
    for (int m = 0; m < d->wave.n_sequences && code == EXIT_OK; m++) {
        int i = d->members[m];
        d->at[i].known += (int32_t)(d->first_token[m + 1] - d->first_token[m]);
        if (d->at[i].known == d->sequences[i].n_tokens)
            code = add_token(d, i, d->host + m * vocabulary, list);
    }
    return code;
}

static exit_code decode_all(decoder *d, decode_speed *speed, problems *list) {
    exit_code code = EXIT_OK;
    bool prompts = true;
    for (begin_sequences(d); code == EXIT_OK && fill_wave(d, &prompts); begin_sequences(d)) {
        int kind = prompts ? DECODE_PROMPTS : DECODE_STEPS;
        double start = clock_seconds();
        code = run_wave(d, list);
        THEN(code, take_logits(d, list));
        speed->seconds[kind] += clock_seconds() - start;
        speed->tokens[kind] += d->first_token[d->wave.n_sequences];
        speed->waves[kind]++;
    }
    return code;
}

exit_code decode(const decode_world *world, const decode_options *options, decode_sequence *sequences, int n,
                 decode_speed *speed, problems *list) {
    decoder d = {.world = world, .options = options, .sequences = sequences, .n = n};
    *speed = (decode_speed){{0}, {0}, {0}};
    if (n == 0) return EXIT_OK;
    exit_code code = choose_sizes(&d, list);
    THEN(code, allocate_host(&d, list));
    THEN(code, allocate_backend(&d, list));
    THEN(code, decode_all(&d, speed, list));
    release(&d);
    return code;
}

double decode_weight_bytes(const model_base *base, ck_precision precision) {
    const base_shape *s = &base->shape;
    double layer = (double)base->layout.layer_stride, head = (double)s->vocabulary * s->width;
    return (layer * s->layers + head) * (precision == CK_BF16 ? 2.0 : 4.0);
}

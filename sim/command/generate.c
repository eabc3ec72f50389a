/* generate.c - from a result or a configuration to texts.
 *
 *   settings, fleet, [checkpoint] -> devices chosen -> prompts as tokens -> base -> packs of the chosen
 *       devices
 *   on the backend -> decode() -> printed
 *
 * What is wrong with the command is found before a base is loaded, or made, and so is a base that cannot fit
 * the memory. */
#include "command/generate.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "config/config.h"
#include "decode/decoder.h"
#include "decode/end_tokens.h"
#include "model/obtain_base.h"
#include "population/select.h"
#include "population/variants.h"
#include "result/source.h"
#include "support/kernel_open.h"
#include "support/kernel_problem.h"
#include "support/memory.h"

enum { BYTES = 256, NAME_BYTES = 160 };
static const double MIB = 1048576.0;

typedef struct {
    int32_t *tokens;
    int n;
} prompt;

typedef struct {
    const cli_arguments *arguments;
    bool of_result;
    result_source source; /* of a configuration: without a checkpoint */
    base_model *base;
    prompt *prompts; /* [n_prompts] */
    int n_devices;
    int *devices; /* [n_devices] the chosen ones, into fleet.devices */
    ck_backend *backend;
    ck_stream *stream;
    float *weights, *packs; /* backend memory */
    int n;                  /* texts: each chosen device has one of each prompt */
    decode_sequence *sequences;
    char (*names)[NAME_BYTES]; /* [n_devices] */
    decode_speed speed;
    double memory_rate; /* bytes a second; 0: not measured */
} generation;

/* ---- Who writes, and from what ---- */

static exit_code open_configuration(generation *g, problems *list) {
    const cli_arguments *a = g->arguments;
    exit_code code = settings_load(a->words[0], a->n_overrides, (const char *const *)a->overrides,
                                   &g->source.settings, list);
    THEN(code, run_base_shape(g->source.settings, &g->source.shape, list));
    THEN(code, fleet_create(g->source.settings, &g->source.shape, &g->source.fleet, list));
    return code;
}

static exit_code open_source(generation *g, problems *list) {
    const cli_arguments *a = g->arguments;
    const char *where = a->words[0];
    device_selection wanted = {.population = a->population, .device = a->device};
    struct stat info;
    g->of_result = stat(where, &info) == 0 && S_ISDIR(info.st_mode);
    exit_code code = g->of_result ? result_source_open(&g->source, where, a->n_overrides,
                                                       (const char *const *)a->overrides, list)
                                  : open_configuration(g, list);
    if (code != EXIT_OK) return code;
    if (g->of_result) code = result_source_check(&g->source, where, &wanted, list);
    const fleet *f = g->source.fleet;
    if (code == EXIT_OK && devices_selected(f, &wanted) == 0) code = devices_none_selected(f, where, list);
    if (code != EXIT_OK) return code;
    g->devices = malloc((size_t)f->n_devices * sizeof *g->devices);
    g->names = calloc((size_t)f->n_devices, sizeof *g->names);
    if (!g->devices || !g->names)
        return problem(list, EXIT_ENVIRONMENT, "out of memory for %d devices", f->n_devices);
    for (int i = 0; i < f->n_devices; i++)
        if (device_is_selected(f, &wanted, &f->devices[i])) g->devices[g->n_devices++] = i;
    return EXIT_OK;
}

/* "1,2,3": ids below the vocabulary. */
static exit_code read_ids(const generation *g, const char *text, prompt *p, problems *list) {
    for (const char *at = text; *at != '\0' || p->n == 0;) {
        char *end = NULL;
        errno = 0;
        long id = strtol(at, &end, 10);
        if (end == at || errno != 0 || id < 0 || id >= g->source.shape.vocabulary ||
            (*end != ',' && *end != '\0'))
            return problem(list, EXIT_INPUT,
                           "generate: --tokens '%.40s' must be ids from 0 to %d with commas between them",
                           text, g->source.shape.vocabulary - 1);
        p->tokens[p->n++] = (int32_t)id;
        if (*end == '\0') break;
        at = end + 1;
        if (*at == '\0') return problem(list, EXIT_INPUT, "generate: --tokens '%.40s' ends in a comma", text);
    }
    return EXIT_OK;
}

static exit_code read_bytes(const generation *g, const char *text, prompt *p, problems *list) {
    if (g->source.shape.vocabulary != BYTES)
        return problem(
            list, EXIT_INPUT,
            "generate: --prompt needs a base whose tokens are the 256 bytes; this one's vocabulary has "
            "%d, and Cohort has no tokenizer: give ids with --tokens",
            g->source.shape.vocabulary);
    if (text[0] == '\0')
        return problem(list, EXIT_INPUT, "generate: --prompt is empty; give at least one character");
    for (const char *at = text; *at != '\0'; at++) p->tokens[p->n++] = (unsigned char)*at;
    return EXIT_OK;
}

static exit_code read_prompts(generation *g, problems *list) {
    const cli_arguments *a = g->arguments;
    exit_code code = EXIT_OK;
    g->prompts = calloc((size_t)a->n_prompts, sizeof *g->prompts);
    for (int i = 0; g->prompts && i < a->n_prompts && code == EXIT_OK; i++) {
        prompt *p = &g->prompts[i];
        p->tokens = malloc((strlen(a->prompts[i]) + 1) * sizeof *p->tokens);
        if (!p->tokens) return problem(list, EXIT_ENVIRONMENT, "out of memory for a prompt");
        code = a->tokens ? read_ids(g, a->prompts[i], p, list) : read_bytes(g, a->prompts[i], p, list);
        if (code == EXIT_OK && p->n > g->source.shape.context)
            code = problem(list, EXIT_INPUT,
                           "generate: a prompt of %d tokens is longer than the base's context of %d", p->n,
                           g->source.shape.context);
    }
    if (!g->prompts) return problem(list, EXIT_ENVIRONMENT, "out of memory for prompts");
    if (a->end_token >= g->source.shape.vocabulary)
        code = problem(list, EXIT_INPUT, "generate: --eos %d is no token; the vocabulary has %d",
                       a->end_token, g->source.shape.vocabulary);
    return code;
}

/* ---- To the backend ---- */

static exit_code upload(generation *g, float *to, const float *from, int64_t count, problems *list) {
    ck_status status = ck_upload(g->stream, to, from, (size_t)count * sizeof *from);
    THEN(status, ck_wait(g->stream));
    return kernel_problem(list, g->backend, status, "placing the model");
}

static exit_code place_packs(generation *g, problems *list) {
    const fleet *f = g->source.fleet;
    exit_code code = EXIT_OK;
    float *pack = malloc((size_t)fleet_largest_pack(f) * sizeof *pack + 1);
    if (!pack) return problem(list, EXIT_ENVIRONMENT, "out of memory for the adapters of a device");
    int64_t at = 0;
    for (int i = 0; i < g->n_devices && code == EXIT_OK; i++) {
        const device *d = &f->devices[g->devices[i]];
        int64_t floats = f->shapes[d->shape].total;
        const float *from = pack;
        if (g->of_result)
            from = g->source.checkpoint.parameters + d->pack;
        else
            code = fleet_initial_pack(f, d, pack, list);
        THEN(code, upload(g, g->packs + at, from, floats, list));
        at += floats;
    }
    free(pack);
    return code;
}

/* ---- Memory ---- */

/* What memory_limit allows, or what can be had of the host's. */
static size_t host_memory(const generation *g, const char **source) {
    size_t now = memory_resident(), free_ = memory_available(),
           wanted = (size_t)g->source.settings->memory_limit << 20;
    size_t allowed = wanted > now ? wanted - now : 0;
    bool limited = wanted > 0 && allowed < free_;
    *source = limited ? "of memory_limit are left" : "can be had";
    return limited ? allowed : free_;
}

/* For decoding, where base and adapters are placed. */
static size_t decoding_memory(const generation *g, const char **source) {
    size_t near = ck_memory_bytes(g->backend), host = host_memory(g, source);
    if (near == SIZE_MAX) return host;
    *source = "of the GPU's memory can be had";
    return near;
}

static size_t pack_floats(const generation *g) {
    const fleet *f = g->source.fleet;
    size_t floats = 0;
    for (int i = 0; i < g->n_devices; i++) floats += (size_t)f->shapes[f->devices[g->devices[i]].shape].total;
    return floats;
}

/* Base, variants and adapters, before there are any. A base is read into the host's memory, and placed
 * beside it. */
static exit_code admit_base(const generation *g, problems *list) {
    const fleet *f = g->source.fleet;
    const char *source;
    size_t weights = (size_t)base_layout_of(&g->source.shape).total * sizeof(float),
           packs = pack_floats(g) * sizeof(float), available = host_memory(g, &source);
    bool alone = ck_memory_bytes(g->backend) == SIZE_MAX;
    size_t need = weights + variants_passing_bytes(f) + (alone ? weights + variants_bytes(f) + packs : 0);
    if (need <= available) return EXIT_OK;
    return problem(list, EXIT_ENVIRONMENT,
                   "generate: %s need %.0f MiB of memory and only %.0f MiB %s; choose fewer devices with "
                   "--population or --device, or take a smaller base",
                   f->variants ? "the base, its variants and the adapters" : "the base and the adapters",
                   ceil((double)need / MIB), floor((double)available / MIB), source);
}

/* The base variants of the populations, in the versions that the checkpoint knows. */
static exit_code place_variants(generation *g, problems *list) {
    fleet *f = g->source.fleet;
    const checkpoint *c = &g->source.checkpoint;
    f->backend = g->backend;
    f->stream = g->stream;
    exit_code code = variants_place(f, g->base, list);
    return THEN(code, variants_restore(f, c->variants, c->n_variants, g->arguments->words[0], list));
}

static exit_code place(generation *g, problems *list) {
    void *weights = NULL, *packs = NULL;
    ck_status status = ck_stream_create(g->backend, &g->stream);
    THEN(status,
         ck_alloc(g->backend, (size_t)g->base->layout.total * sizeof(float), "base weights", &weights));
    g->weights = weights;
    THEN(status, ck_alloc(g->backend, pack_floats(g) * sizeof(float) + 1, "adapters", &packs));
    g->packs = packs;
    exit_code code = kernel_problem(list, g->backend, status, "placing the model");
    THEN(code, upload(g, g->weights, g->base->weights, g->base->layout.total, list));
    THEN(code, place_variants(g, list));
    return THEN(code, place_packs(g, list));
}

static exit_code check_precision(const generation *g, problems *list) {
    const settings *s = g->source.settings;
    int before = problems_count(list);
    if (ck_supports(g->backend, (ck_precision)s->precision)) return EXIT_OK;
    exit_code code =
        problem(list, EXIT_INPUT,
                "bf16 needs a GPU, and texts would be decoded on the %s backend; set precision: f32",
                ck_name(g->backend));
    settings_prefix(s, "precision", before, list);
    return code;
}

static exit_code load_base(generation *g, problems *list) {
    const settings *s = g->source.settings;
    exit_code code = kernel_open(s->backend, s->threads, &g->backend, list);
    THEN(code, check_precision(g, list));
    THEN(code, variants_open(g->source.fleet, &g->source.shape, list));
    THEN(code, admit_base(g, list));
    THEN(code, run_obtain_base(s, g->backend, g->arguments->quiet, NULL, &g->base, list));
    if (code == EXIT_OK && !base_same_shape(&g->base->shape, &g->source.shape))
        code = problem(list, EXIT_INPUT, "%s: the base is not of the shape that its adapters are made for",
                       g->arguments->words[0]);
    return code;
}

/* ---- Texts ---- */

static exit_code make_sequences(generation *g, problems *list) {
    const cli_arguments *a = g->arguments;
    const fleet *f = g->source.fleet;
    int64_t pack = 0;
    g->n = g->n_devices * a->n_prompts;
    g->sequences = calloc((size_t)g->n, sizeof *g->sequences);
    if (!g->sequences || !g->names)
        return problem(list, EXIT_ENVIRONMENT, "out of memory for %d texts", g->n);
    for (int i = 0; i < g->n_devices; i++) {
        const device *d = &f->devices[g->devices[i]];
        const population_settings *p = f->populations[d->population].settings;
        snprintf(g->names[i], NAME_BYTES, "%.100s (seed %llu), device %d", p->name,
                 (unsigned long long)p->seed, d->index);
        for (int j = 0; j < a->n_prompts; j++) {
            decode_sequence *s = &g->sequences[i * a->n_prompts + j];
            s->device = (ck_wave_device){
                .parameters = pack, .shape = d->shape, .variant = variants_of(f, d->population)};
            s->name = g->names[i];
            s->key = (rng_key){.seed = a->seed, .device = d->index, .purpose = RNG_DECODING};
            s->index = (uint64_t)j;
            s->n_prompt = g->prompts[j].n;
            s->tokens = malloc((size_t)(s->n_prompt + a->max_tokens) * sizeof *s->tokens);
            if (!s->tokens) return problem(list, EXIT_ENVIRONMENT, "out of memory for %d texts", g->n);
            memcpy(s->tokens, g->prompts[j].tokens, (size_t)s->n_prompt * sizeof *s->tokens);
        }
        pack += f->shapes[d->shape].total;
    }
    return EXIT_OK;
}

static exit_code write_texts(generation *g, problems *list) {
    const cli_arguments *a = g->arguments;
    const settings *s = g->source.settings;
    int32_t end_tokens[MOST_END_TOKENS] = {a->end_token};
    int n_end_tokens = a->end_token >= 0 ? 1 : 0;
    if (n_end_tokens == 0 && s->base.checkpoint) n_end_tokens = end_tokens_of(s->base.checkpoint, end_tokens);
    model_base base = {.shape = g->base->shape, .layout = g->base->layout, .weights = g->weights};
    decode_world world = {.backend = g->backend,
                          .stream = g->stream,
                          .base = &base,
                          .precision = (ck_precision)s->precision,
                          .n_shapes = g->source.fleet->n_shapes,
                          .shapes = g->source.fleet->shapes,
                          .parameters = g->packs};
    ck_wave variants = {0};
    variants_view(g->source.fleet, &variants);
    world.n_variants = variants.n_variants;
    world.n_linears = variants.n_linears;
    world.variants = variants.variants;
    decode_options options = {.rule = {.temperature = a->temperature, .top_k = a->top_k},
                              .most_tokens = a->max_tokens,
                              .end_tokens = end_tokens,
                              .n_end_tokens = n_end_tokens};
    options.memory_bytes = decoding_memory(g, &options.memory_source);
    exit_code code = decode(&world, &options, g->sequences, g->n, &g->speed, list);
    if (code == EXIT_OK && a->speed) g->memory_rate = ck_copy_rate(g->backend);
    return code;
}

/* ---- Printing ---- */

static double rate(const generation *g, int kind) {
    return g->speed.seconds[kind] > 0 ? (double)g->speed.tokens[kind] / g->speed.seconds[kind] : 0;
}

/* Seconds that reading the base's weights once a step takes, as a share of the steps' seconds. */
static double floor_share(const generation *g) {
    model_base base = {.shape = g->base->shape, .layout = g->base->layout};
    double bytes = decode_weight_bytes(&base, (ck_precision)g->source.settings->precision) *
                   (double)g->speed.waves[DECODE_STEPS];
    double seconds = g->speed.seconds[DECODE_STEPS];
    return g->memory_rate > 0 && seconds > 0 ? bytes / g->memory_rate / seconds : 0;
}

static void print_speed(const generation *g) {
    fprintf(stderr, "prompts: %lld tokens, %.0f tokens/s\n", (long long)g->speed.tokens[DECODE_PROMPTS],
            rate(g, DECODE_PROMPTS));
    fprintf(stderr,
            "steps: %lld tokens in %lld steps, %.0f tokens/s, %.0f %% of the memory-bandwidth floor\n",
            (long long)g->speed.tokens[DECODE_STEPS], (long long)g->speed.waves[DECODE_STEPS],
            rate(g, DECODE_STEPS), 100 * floor_share(g));
}

static void print_tokens(const generation *g, const decode_sequence *s, FILE *out) {
    for (int32_t t = 0; t < s->n_tokens; t++) {
        if (g->arguments->tokens)
            fprintf(out, "%s%d", t ? "," : "", s->tokens[t]);
        else
            fputc(s->tokens[t], out);
    }
    fputc('\n', out);
}

static void print_plainly(const generation *g) {
    for (int i = 0; i < g->n; i++) {
        if (g->n > 1) printf("%s--- %s\n", i ? "\n" : "", g->sequences[i].name);
        print_tokens(g, &g->sequences[i], stdout);
    }
}

/* Bytes of the UTF-8 character at the beginning of n bytes; 0: there is none. */
static int character_bytes(const unsigned char *text, int n) {
    static const unsigned char least_second[5] = {0, 0, 0x80, 0xa0, 0x90}; /* longer than needed below it */
    unsigned char c = text[0];
    int bytes = c < 0x80                ? 1
                : c >= 0xc2 && c < 0xe0 ? 2
                : c >= 0xe0 && c < 0xf0 ? 3
                : c >= 0xf0 && c < 0xf5 ? 4
                                        : 0;
    if (bytes == 0 || bytes > n) return 0;
    for (int i = 1; i < bytes; i++)
        if ((text[i] & 0xc0) != 0x80) return 0;
    if ((c == 0xe0 || c == 0xf0) && text[1] < least_second[bytes]) return 0;
    if ((c == 0xed && text[1] >= 0xa0) || (c == 0xf4 && text[1] >= 0x90)) return 0;
    return bytes;
}

/* Tokens as text; a byte that belongs to no character becomes U+FFFD. */
static json_t *json_text(const int32_t *tokens, int n) {
    char *text = NULL;
    size_t bytes = 0;
    unsigned char *raw = malloc((size_t)n + 1);
    FILE *out = raw ? open_memstream(&text, &bytes) : NULL;
    for (int i = 0; out && i < n; i++) raw[i] = (unsigned char)tokens[i];
    for (int i = 0; out && i < n;) {
        int length = character_bytes(raw + i, n - i);
        fwrite(length ? (const char *)raw + i : "\xef\xbf\xbd", 1, length ? (size_t)length : 3, out);
        i += length ? length : 1;
    }
    if (out) fclose(out);
    json_t *value = out ? json_stringn(text, bytes) : NULL;
    free(text);
    free(raw);
    return value;
}

static json_t *json_tokens(const int32_t *tokens, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_integer(tokens[i]));
    return list;
}

static json_t *json_of(const generation *g, int i) {
    static const char *const ends[] = {"", "end token", "max tokens", "context"};
    const decode_sequence *s = &g->sequences[i];
    const fleet *f = g->source.fleet;
    const device *d = &f->devices[g->devices[i / g->arguments->n_prompts]];
    const population_settings *p = f->populations[d->population].settings;
    int added = s->n_tokens - s->n_prompt;
    json_t *o = json_pack("{s:s, s:I, s:i, s:i, s:s}", "population", p->name, "seed", (json_int_t)p->seed,
                          "device", d->index, "prompt", i % g->arguments->n_prompts, "end", ends[s->end]);
    if (!g->arguments->tokens) json_object_set_new(o, "text", json_text(s->tokens + s->n_prompt, added));
    json_object_set_new(o, "tokens", json_tokens(s->tokens + s->n_prompt, added));
    return o;
}

static exit_code print_json(const generation *g, problems *list) {
    json_t *texts = json_array(), *all = json_pack("{s:o}", "texts", texts);
    for (int i = 0; i < g->n; i++) json_array_append_new(texts, json_of(g, i));
    if (g->arguments->speed)
        json_object_set_new(all, "speed",
                            json_pack("{s:f, s:f, s:f}", "prompt_tokens_per_second", rate(g, DECODE_PROMPTS),
                                      "step_tokens_per_second", rate(g, DECODE_STEPS),
                                      "share_of_memory_floor", floor_share(g)));
    bool ok = all && json_dumpf(all, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) == 0;
    putchar('\n');
    json_decref(all);
    return ok ? EXIT_OK : problem(list, EXIT_RUN, "generate: the texts could not be written as JSON");
}

static void release(generation *g) {
    for (int i = 0; g->sequences && i < g->n; i++) free(g->sequences[i].tokens);
    for (int i = 0; g->prompts && i < g->arguments->n_prompts; i++) free(g->prompts[i].tokens);
    free(g->sequences);
    free(g->names);
    free(g->prompts);
    free(g->devices);
    if (g->weights) ck_free(g->backend, g->weights);
    if (g->packs) ck_free(g->backend, g->packs);
    result_source_close(&g->source); /* variants lie on the backend */
    ck_stream_destroy(g->stream);
    ck_close(g->backend);
    base_destroy(g->base);
}

exit_code generate_texts(const cli_arguments *a, problems *list) {
    generation g = {.arguments = a};
    exit_code code = open_source(&g, list);
    THEN(code, read_prompts(&g, list));
    THEN(code, load_base(&g, list));
    THEN(code, place(&g, list));
    THEN(code, make_sequences(&g, list));
    THEN(code, write_texts(&g, list));
    if (code == EXIT_OK && a->json) code = print_json(&g, list);
    if (code == EXIT_OK && !a->json) print_plainly(&g);
    if (code == EXIT_OK && !a->json && a->speed) print_speed(&g);
    release(&g);
    return code;
}

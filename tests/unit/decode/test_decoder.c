/* The decoder on a small GPT-2: the tokens that transformers chooses (tests/reference/make_gpt2_greedy.py),
 * the same ones whatever else is decoded, and every reason to end. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "decode/decoder.h"
#include "unit/checkpoints.h"

#define REFERENCE COHORT_SOURCE_DIR "/tests/reference/gpt2_tiny"

enum { VOCABULARY = 61, CONTEXT = 40, MOST = 64, DEVICES = 3, TEXTS = 12 };

static struct {
    problems *list;
    base_model *model;
    ck_shape shapes[2];
    float *packs; /* device 0 as it starts, so that it computes what its base does; 1 and 2 random */
    int64_t pack[DEVICES];
    int32_t tokens[TEXTS][MOST];
} f;

static void make_shapes(void) {
    for (int i = 0; i < 2; i++) {
        f.shapes[i] = (ck_shape){.n_layers = 2,
                                 .width = 48,
                                 .ffn = 192,
                                 .n_experts = 2 + i,
                                 .rank = {2, 4, 3},
                                 .scale = {2, 2, 2},
                                 .top_k = 2 - i, /* of one expert of several the weight is below 1 */
                                 .lora_rank = {[CK_SITE_QKV] = 3, [CK_SITE_OUT] = 3},
                                 .lora_scale = {[CK_SITE_QKV] = 2, [CK_SITE_OUT] = 2}};
        cr_assert_eq(ck_shape_init(&f.shapes[i], NULL), CK_OK);
    }
}

static int shape_of(int device) {
    return device % 2;
}

static void make_packs(void) {
    int64_t total = 0;
    for (int d = 0; d < DEVICES; d++) {
        f.pack[d] = total;
        total += f.shapes[shape_of(d)].total;
    }
    f.packs = calloc((size_t)total, sizeof *f.packs);
    srand48(9);
    for (int d = 0; d < DEVICES; d++)
        for (int32_t i = 0; i < ck_part_count(&f.shapes[shape_of(d)]); i++) {
            ck_part part = ck_part_at(&f.shapes[shape_of(d)], i);
            bool drawn = d > 0 || part.factor != CK_FACTOR_B;
            for (int64_t j = 0; j < (int64_t)part.rows * part.columns && drawn; j++)
                f.packs[f.pack[d] + part.offset + j] = (float)drand48() - 0.5F;
        }
}

static void open_base(void) {
    f.list = problems_create();
    cr_assert_eq(base_load(REFERENCE, &f.model, f.list), EXIT_OK, "%s", all_messages(f.list));
    make_shapes();
    make_packs();
}

static void close_base(void) {
    base_destroy(f.model);
    free(f.packs);
    problems_destroy(f.list);
}

TestSuite(decoder, .init = open_base, .fini = close_base);

static decode_sequence text_of(int text, int device, const int32_t *prompt, int n) {
    memcpy(f.tokens[text], prompt, (size_t)n * sizeof *prompt);
    return (decode_sequence){.device = {.parameters = f.pack[device], .shape = shape_of(device)},
                             .name = "a text",
                             .key = {.seed = 1, .device = device, .purpose = RNG_DECODING},
                             .index = (uint64_t)text,
                             .n_prompt = n,
                             .tokens = f.tokens[text]};
}

static void *place(ck_backend *backend, ck_stream *stream, const float *host, int64_t count) {
    void *memory;
    size_t bytes = (size_t)count * sizeof *host;
    cr_assert_eq(ck_alloc(backend, bytes, "test", &memory), CK_OK);
    cr_assert_eq(ck_upload(stream, memory, host, bytes), CK_OK);
    cr_assert_eq(ck_wait(stream), CK_OK);
    return memory;
}

static exit_code run(int threads, decode_options options, decode_sequence *sequences, int n,
                     decode_speed *speed) {
    ck_backend *backend;
    ck_stream *stream;
    cr_assert_eq(ck_open("cpu", threads, &backend), CK_OK, "%s", ck_last_error(NULL));
    cr_assert_eq(ck_stream_create(backend, &stream), CK_OK);
    float *weights = place(backend, stream, f.model->weights, f.model->layout.total);
    float *packs = place(backend, stream, f.packs, f.pack[DEVICES - 1] + f.shapes[0].total);
    size_t before = ck_allocated_bytes(backend);
    model_base base = {.shape = f.model->shape, .layout = f.model->layout, .weights = weights};
    decode_world world = {.backend = backend,
                          .stream = stream,
                          .base = &base,
                          .n_shapes = 2,
                          .shapes = f.shapes,
                          .parameters = packs};
    exit_code code = decode(&world, &options, sequences, n, speed, f.list);
    cr_expect_eq(ck_allocated_bytes(backend), before, "memory is left behind");
    ck_free(backend, weights);
    ck_free(backend, packs);
    ck_stream_destroy(stream);
    ck_close(backend);
    return code;
}

static void must_run(int threads, decode_options options, decode_sequence *sequences, int n) {
    decode_speed speed;
    cr_assert_eq(run(threads, options, sequences, n, &speed), EXIT_OK, "%s", all_messages(f.list));
}

/* ---- Against transformers ---- */

static int read_ids(json_t *list, int32_t *out) {
    for (size_t i = 0; i < json_array_size(list); i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return (int)json_array_size(list);
}

Test(decoder, greedy_tokens_equal_those_of_transformers) {
    json_t *root = json_load_file(REFERENCE "_greedy.json", 0, NULL), *texts = json_object_get(root, "texts");
    decode_sequence sequences[TEXTS];
    int32_t expected[TEXTS][MOST];
    int n = (int)json_array_size(texts), compared = 0, counts[TEXTS];
    cr_assert(n > 2 && n <= TEXTS);
    for (int i = 0; i < n; i++) {
        int32_t prompt[MOST];
        json_t *text = json_array_get(texts, (size_t)i);
        int length = read_ids(json_object_get(text, "prompt"), prompt);
        counts[i] = read_ids(json_object_get(text, "tokens"), expected[i]);
        sequences[i] = text_of(i, 0, prompt, length);
    }
    must_run(2, (decode_options){.most_tokens = CONTEXT, .memory_bytes = 1 << 30}, sequences, n);
    for (int i = 0; i < n; i++) {
        cr_assert_geq(sequences[i].n_tokens, sequences[i].n_prompt + counts[i]);
        for (int t = 0; t < counts[i]; t++, compared++)
            cr_assert_eq(sequences[i].tokens[sequences[i].n_prompt + t], expected[i][t],
                         "text %d: token %d is %d, transformers has %d", i, t,
                         sequences[i].tokens[sequences[i].n_prompt + t], expected[i][t]);
    }
    cr_expect_gt(compared, 60, "only %d tokens were sure enough to be compared", compared);
    json_decref(root);
}

/* ---- The same whatever else is decoded ---- */

/* Texts of all devices, of different lengths. */
static void many_texts(decode_sequence *sequences) {
    for (int i = 0; i < TEXTS; i++) {
        int32_t prompt[MOST];
        int device = i * DEVICES / TEXTS, length = 1 + 5 * i % 23;
        for (int t = 0; t < length; t++) prompt[t] = (7 * i + 3 * t * t) % VOCABULARY;
        sequences[i] = text_of(i, device, prompt, length);
    }
}

static void expect_same(const decode_sequence *a, const decode_sequence *b, const char *what) {
    cr_assert_eq(a->n_tokens, b->n_tokens, "%s: text %llu has another length", what,
                 (unsigned long long)a->index);
    cr_assert_eq(a->end, b->end);
    for (int t = 0; t < a->n_tokens; t++)
        cr_assert_eq(a->tokens[t], b->tokens[t], "%s: text %llu, token %d", what,
                     (unsigned long long)a->index, t);
}

/* The least that texts of all devices can be decoded with on one thread: one of them at a time. */
static size_t least_memory(decode_options options) {
    decode_sequence texts[TEXTS];
    decode_speed speed;
    size_t low = 0, high = 1 << 30;
    options.memory_source = "are there";
    while (high - low > 1) {
        options.memory_bytes = low + (high - low) / 2;
        many_texts(texts);
        if (run(1, options, texts, TEXTS, &speed) == EXIT_OK)
            high = options.memory_bytes;
        else
            low = options.memory_bytes;
    }
    return high;
}

/* Its keys and values, its logits here and there, and all that a program adds for a sequence. */
static size_t bytes_of_a_slot(int32_t most_tokens) {
    enum { PROGRAM = 4096 };
    int32_t positions = 22 + most_tokens < CONTEXT ? 22 + most_tokens : CONTEXT;
    return model_cache_bytes(&f.model->shape, CK_F32, 1, positions) + 2 * VOCABULARY * sizeof(float) +
           PROGRAM;
}

/* No more sequences than `slots` are in a wave. */
static void expect_same_in_waves(const decode_sequence *all, decode_options options, int slots) {
    decode_sequence texts[TEXTS];
    decode_speed speed;
    many_texts(texts);
    cr_assert_eq(run(1, options, texts, TEXTS, &speed), EXIT_OK, "%s", all_messages(f.list));
    for (int i = 0; i < TEXTS; i++) expect_same(&all[i], &texts[i], "some at a time");
    int64_t least = (speed.tokens[DECODE_STEPS] + slots - 1) / slots;
    cr_expect_geq(speed.waves[DECODE_STEPS], least, "more than %d at a time", slots);
    cr_expect_leq(speed.waves[DECODE_STEPS], slots > 1 ? least * 3 / 2 : least, "fewer than %d at a time",
                  slots);
}

Test(decoder, a_text_is_the_same_alone_and_among_others_and_on_any_number_of_threads) {
    const decode_options options = {
        .rule = {.temperature = 2, .top_k = 30}, .most_tokens = 25, .memory_bytes = 1 << 30};
    decode_sequence all[TEXTS], alone[TEXTS];
    static int32_t kept[TEXTS][MOST];
    many_texts(all);
    must_run(1, options, all, TEXTS);
    for (int i = 0; i < TEXTS; i++) {
        memcpy(kept[i], f.tokens[i], sizeof kept[i]);
        all[i].tokens = kept[i];
    }
    many_texts(alone);
    for (int i = 0; i < TEXTS; i++) {
        must_run(1, options, &alone[i], 1);
        expect_same(&all[i], &alone[i], "alone");
    }
    for (int threads = 2; threads <= 4; threads++) {
        many_texts(alone);
        must_run(threads, options, alone, TEXTS);
        for (int i = 0; i < TEXTS; i++) expect_same(&all[i], &alone[i], "threads");
    }
    /* room for two at a time, and for one */
    decode_options narrow = options;
    size_t one = least_memory(narrow);
    narrow.memory_bytes = one + bytes_of_a_slot(narrow.most_tokens);
    expect_same_in_waves(all, narrow, 2);
    narrow.memory_bytes = one;
    expect_same_in_waves(all, narrow, 1);
}

/* What cannot hold one text is refused before anything is allocated. */
Test(decoder, too_little_memory_is_refused_with_what_is_needed) {
    decode_options options = {.most_tokens = 25, .memory_source = "are there"};
    decode_sequence texts[TEXTS];
    decode_speed speed;
    char expected[96];
    size_t least = least_memory(options), mib = 1 << 20;
    for (size_t bytes = 0; bytes < least; bytes += least - 1) {
        options.memory_bytes = bytes;
        many_texts(texts);
        int before = problems_count(f.list);
        cr_assert_eq(run(1, options, texts, TEXTS, &speed), EXIT_ENVIRONMENT);
        cr_assert_eq(problems_count(f.list), before + 1);
        snprintf(expected, sizeof expected,
                 "a text of %d tokens needs %zu MiB of memory and only %zu MiB are there", CONTEXT,
                 (least + mib - 1) / mib, bytes / mib);
        cr_expect(strstr(problems_message(f.list, before), expected), "%s", problems_message(f.list, before));
    }
}

Test(decoder, devices_and_seeds_differ) {
    const decode_options options = {.rule = {.temperature = 2}, .most_tokens = 30, .memory_bytes = 1 << 30};
    const int32_t prompt[] = {4, 9, 2};
    decode_sequence s[4];
    for (int i = 0; i < 4; i++) {
        s[i] = text_of(i, i < 3 ? i : 2, prompt, 3);
        s[i].key = (rng_key){.seed = i == 3, .purpose = RNG_DECODING};
        s[i].index = 0;
    }
    must_run(2, options, s, 4);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++)
            cr_expect(memcmp(s[i].tokens, s[j].tokens, 33 * sizeof(int32_t)) != 0,
                      "texts %d and %d are the same", i, j);
}

/* ---- Ends ---- */

Test(decoder, a_text_ends_at_an_end_token_with_enough_or_at_the_end_of_the_context) {
    const int32_t prompt[] = {4, 9, 2}, full[CONTEXT] = {1};
    decode_options options = {.most_tokens = 20, .memory_bytes = 1 << 30};
    decode_sequence s[3] = {text_of(0, 0, prompt, 3), text_of(1, 0, full, CONTEXT),
                            text_of(2, 0, full, CONTEXT - 2)};
    must_run(1, options, s, 3);
    cr_expect_eq(s[0].end, DECODE_ENOUGH);
    cr_expect_eq(s[0].n_tokens, 23);
    /* the last token that it can predict follows the last position, and has none itself */
    cr_expect_eq(s[1].end, DECODE_CONTEXT);
    cr_expect_eq(s[1].n_tokens, CONTEXT + 1);
    cr_expect_eq(s[2].end, DECODE_CONTEXT);
    cr_expect_eq(s[2].n_tokens, CONTEXT + 1);
    int32_t written[MOST], ends[2] = {VOCABULARY - 1, 0};
    memcpy(written, s[0].tokens, sizeof written);
    int at = 3 + 8;
    for (int t = at; t < 23; t++) { /* a token that has not come before */
        bool before = false;
        for (int u = 3; u < t; u++) before |= written[u] == written[t];
        if (!before) {
            at = t;
            break;
        }
    }
    ends[1] = written[at];
    options.end_tokens = ends, options.n_end_tokens = 2;
    s[0] = text_of(0, 0, prompt, 3);
    must_run(1, options, s, 1);
    int first = 3;
    while (written[first] != ends[0] && written[first] != ends[1]) first++;
    cr_expect_eq(s[0].end, DECODE_END_TOKEN);
    cr_expect_eq(s[0].n_tokens, first + 1, "it has %d tokens, the end token is the %dth", s[0].n_tokens,
                 first + 1);
    cr_expect_eq(memcmp(s[0].tokens, written, (size_t)(first + 1) * sizeof *written), 0);
}

Test(decoder, adapters_that_have_diverged_are_named) {
    const int32_t prompt[] = {4, 9, 2};
    decode_sequence s[2] = {text_of(0, 0, prompt, 3), text_of(1, 1, prompt, 3)};
    decode_speed speed;
    s[1].name = "the sick one";
    f.packs[f.pack[1] + ck_part_at(&f.shapes[1], 0).offset] = NAN;
    for (int32_t i = 0; i < ck_part_count(&f.shapes[1]); i++)
        f.packs[f.pack[1] + ck_part_at(&f.shapes[1], i).offset] = NAN;
    cr_expect_eq(run(1, (decode_options){.most_tokens = 5, .memory_bytes = 1 << 30}, s, 2, &speed), EXIT_RUN);
    cr_expect(mentions(f.list, "the sick one: the logits of token 3 are not finite"), "%s",
              all_messages(f.list));
}

Test(decoder, speed_counts_the_tokens_of_prompts_and_steps) {
    decode_sequence s[TEXTS];
    decode_speed speed;
    int64_t prompts = 0;
    many_texts(s);
    for (int i = 0; i < TEXTS; i++) prompts += s[i].n_prompt;
    cr_assert_eq(run(2, (decode_options){.most_tokens = 6, .memory_bytes = 1 << 30}, s, TEXTS, &speed),
                 EXIT_OK);
    cr_expect_eq(speed.tokens[DECODE_PROMPTS], prompts);
    cr_expect_eq(speed.tokens[DECODE_STEPS], 5 * TEXTS);
    cr_expect_eq(speed.waves[DECODE_STEPS], 5);
    cr_expect(speed.seconds[DECODE_PROMPTS] > 0 && speed.seconds[DECODE_STEPS] > 0);
}

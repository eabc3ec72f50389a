/* The whole model on a loaded base against what transformers computes in float64
 * (tests/reference/make_gpt2_reference.py, make_llama_reference.py). */
#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "kernels.h"
#include "model/family.h"
#include "model/model.h"
#include "unit/checkpoints.h"

#define REFERENCE COHORT_SOURCE_DIR "/tests/reference/"

/* Of the largest logit: f32 sums in two layers. Losses are means over some tens of tokens. */
static const double logit_tolerance = 1e-5, loss_tolerance = 1e-5;

enum { MAX_SEQUENCES = 2, MAX_TOKENS = 63, MAX_VOCABULARY = 61 };

typedef struct {
    int n_sequences, vocabulary;
    int64_t first_token[MAX_SEQUENCES + 1];
    int32_t tokens[MAX_TOKENS], targets[MAX_TOKENS];
    double logits[MAX_TOKENS][MAX_VOCABULARY];
    double loss[MAX_SEQUENCES]; /* mean over the counted tokens */
} reference;

static void read_sequence(reference *ref, int index, json_t *sequence) {
    json_t *tokens = json_object_get(sequence, "tokens"), *logits = json_object_get(sequence, "logits");
    int64_t first = ref->first_token[index], n = (int64_t)json_array_size(tokens);
    cr_assert_leq(first + n, MAX_TOKENS);
    for (int64_t i = 0; i < n; i++) {
        json_t *row = json_array_get(logits, (size_t)i);
        ref->vocabulary = (int)json_array_size(row);
        cr_assert_leq(ref->vocabulary, MAX_VOCABULARY);
        ref->tokens[first + i] = (int32_t)json_integer_value(json_array_get(tokens, (size_t)i));
        ref->targets[first + i] =
            i + 1 < n ? (int32_t)json_integer_value(json_array_get(tokens, (size_t)i + 1)) : -1;
        for (int v = 0; v < ref->vocabulary; v++)
            ref->logits[first + i][v] = json_number_value(json_array_get(row, (size_t)v));
    }
    ref->loss[index] = json_number_value(json_object_get(sequence, "loss"));
    ref->first_token[index + 1] = first + n;
}

static reference *read_reference(const char *path) {
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    cr_assert_not_null(root, "%s: %s", path, error.text);
    json_t *sequences = json_object_get(root, "sequences");
    reference *ref = calloc(1, sizeof *ref);
    ref->n_sequences = (int)json_array_size(sequences);
    cr_assert_eq(ref->n_sequences, MAX_SEQUENCES);
    for (int i = 0; i < ref->n_sequences; i++) read_sequence(ref, i, json_array_get(sequences, (size_t)i));
    json_decref(root);
    return ref;
}

typedef struct {
    ck_backend *backend;
    ck_stream *stream;
    base_model *model;
    ck_shape shape;
    float *weights, *parameters; /* backend memory */
    model_outputs outputs;
    problems *list;
} evaluation;

static void *allocate(evaluation *e, size_t count) {
    void *memory;
    cr_assert_eq(ck_alloc(e->backend, count * sizeof(float), "test", &memory), CK_OK, "%s",
                 ck_last_error(e->backend));
    return memory;
}

static void upload(evaluation *e, float *to, const float *host, int64_t count) {
    cr_assert_eq(ck_upload(e->stream, to, host, (size_t)count * sizeof(float)), CK_OK);
    cr_assert_eq(ck_wait(e->stream), CK_OK);
}

/* Experts as they start: A random, B = 0, so that the model computes what its base does. */
static void start_adapters(evaluation *e, ck_gates gates) {
    const base_shape *base = &e->model->shape;
    ck_shape *s = &e->shape;
    *s = (ck_shape){.n_layers = base->layers,
                    .width = base->width,
                    .ffn = base->ffn,
                    .q_width = base_q_width(base),
                    .kv_width = base_kv_width(base),
                    .mlp = model_family_of(base)->mlp,
                    .n_experts = 3,
                    .rank = {2, 4, 1},
                    .scale = {2.0f, 2.0f, 2.0f},
                    .top_k = 2,
                    .gates = gates};
    if (base->family == BASE_LLAMA)
        s->lora_rank[CK_SITE_Q] = s->lora_rank[CK_SITE_K] = s->lora_rank[CK_SITE_V] = 2;
    else
        s->lora_rank[CK_SITE_QKV] = 3;
    s->lora_rank[CK_SITE_OUT] = s->lora_rank[CK_SITE_PR] = 3;
    for (int site = 0; site < CK_SITES; site++) s->lora_scale[site] = 2.0f;
    cr_assert_eq(ck_shape_init(s, NULL), CK_OK);
    float *pack = calloc((size_t)s->total, sizeof *pack);
    for (int32_t i = 0; i < ck_part_count(s); i++) {
        ck_part part = ck_part_at(s, i);
        for (int64_t j = 0; j < (int64_t)part.rows * part.columns && part.factor != CK_FACTOR_B; j++)
            pack[part.offset + j] = sinf((float)(part.site + 1) * (float)j);
    }
    e->parameters = allocate(e, (size_t)s->total);
    upload(e, e->parameters, pack, s->total);
    free(pack);
}

static void start(evaluation *e, const char *folder, ck_gates gates) {
    *e = (evaluation){.list = problems_create()};
    cr_assert_eq(base_load(folder, &e->model, e->list), EXIT_OK, "%s", all_messages(e->list));
    cr_assert_eq(ck_open("cpu", 2, &e->backend), CK_OK, "%s", ck_last_error(NULL));
    cr_assert_eq(ck_stream_create(e->backend, &e->stream), CK_OK);
    e->weights = allocate(e, (size_t)e->model->layout.total);
    upload(e, e->weights, e->model->weights, e->model->layout.total);
    e->outputs = (model_outputs){.loss = allocate(e, MAX_SEQUENCES),
                                 .logits = allocate(e, MAX_TOKENS * MAX_VOCABULARY)};
    start_adapters(e, gates);
}

static void end(evaluation *e) {
    void *memory[] = {e->weights, e->parameters, e->outputs.loss, e->outputs.logits};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) ck_free(e->backend, memory[i]);
    ck_stream_destroy(e->stream);
    ck_close(e->backend);
    base_destroy(e->model);
    problems_destroy(e->list);
}

/* One device holds both sequences. */
static void evaluate(evaluation *e, const reference *ref, float *logits, float *loss) {
    model_base base = {.shape = e->model->shape, .layout = e->model->layout, .weights = e->weights};
    ck_capacity capacity = {
        .max_sequences = MAX_SEQUENCES, .max_tokens = MAX_TOKENS, .max_sequence_tokens = 40};
    ck_wave_device device = {.learn = 0};
    int32_t first_sequence[2] = {0, ref->n_sequences}, fault[1] = {-1};
    ck_wave wave = {.n_devices = 1,
                    .n_sequences = ref->n_sequences,
                    .first_token = ref->first_token,
                    .first_sequence = first_sequence,
                    .devices = &device,
                    .n_shapes = 1,
                    .shapes = &e->shape,
                    .tokens = ref->tokens,
                    .targets = ref->targets,
                    .parameters = e->parameters,
                    .fault = fault};
    ck_program *program;
    cr_assert_eq(
        model_record_evaluation(e->backend, &base, &e->shape, 1, &capacity, &e->outputs, &program, e->list),
        EXIT_OK, "%s", all_messages(e->list));
    cr_assert_eq(ck_run(program, e->stream, &wave), CK_OK, "%s", ck_last_error(e->backend));
    cr_assert_eq(
        ck_download(e->stream, logits, e->outputs.logits, MAX_TOKENS * MAX_VOCABULARY * sizeof *logits),
        CK_OK);
    cr_assert_eq(ck_download(e->stream, loss, e->outputs.loss, MAX_SEQUENCES * sizeof *loss), CK_OK);
    cr_assert_eq(ck_wait(e->stream), CK_OK);
    cr_expect_eq(fault[0], -1);
    ck_program_destroy(program);
}

/* FOLDER/NAME and the reference FOLDER/NAME SUFFIX. */
static void compare(const char *folder, const char *name, const char *suffix, ck_gates gates) {
    static float logits[MAX_TOKENS * MAX_VOCABULARY], loss[MAX_SEQUENCES];
    char path[4096];
    evaluation e;
    double worst = 0, largest = 0;
    snprintf(path, sizeof path, "%s/%s%s", folder, name, suffix);
    reference *ref = read_reference(path);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    start(&e, path, gates);
    cr_assert_eq(e.model->shape.vocabulary, ref->vocabulary);
    evaluate(&e, ref, logits, loss);
    for (int64_t t = 0; t < ref->first_token[ref->n_sequences]; t++)
        for (int v = 0; v < ref->vocabulary; v++) {
            worst = fmax(worst, fabs(logits[t * ref->vocabulary + v] - ref->logits[t][v]));
            largest = fmax(largest, fabs(ref->logits[t][v]));
        }
    cr_expect_lt(worst, logit_tolerance * largest, "%s: a logit is off by %g of %g", name, worst, largest);
    for (int i = 0; i < ref->n_sequences; i++) {
        double counted = (double)(ref->first_token[i + 1] - ref->first_token[i] - 1),
               off = fabs(loss[i] / counted - ref->loss[i]);
        cr_expect_lt(off, loss_tolerance * ref->loss[i], "%s: the loss of sequence %d is off by %g", name, i,
                     off);
    }
    end(&e);
    free(ref);
}

Test(base_logits, equal_transformers_with_fresh_experts_behind_a_router) {
    compare(REFERENCE, "gpt2_tiny", "_logits.json", CK_GATES_TOP_K);
}

Test(base_logits, equal_transformers_with_fresh_experts_and_mean_gates) {
    compare(REFERENCE, "gpt2_tiny", "_logits.json", CK_GATES_MEAN);
}

static const char *const llamas[] = {"smollm", "llama32", "qwen25", "tinyllama", "biases", "heads"};
enum { N_LLAMAS = sizeof llamas / sizeof *llamas };

Test(base_logits, of_llamas_equal_transformers) {
    for (int i = 0; i < N_LLAMAS; i++) {
        compare(REFERENCE "llama", llamas[i], ".json", CK_GATES_TOP_K);
        compare(REFERENCE "llama", llamas[i], ".json", CK_GATES_MEAN);
    }
}

/* A Python with torch and transformers, or NULL. */
static const char *python_with_transformers(void) {
    static char command[4096];
    const char *const candidates[] = {getenv("COHORT_PYTHON"), "/usr/bin/python3", "python3"};
    for (size_t i = 0; i < sizeof candidates / sizeof *candidates; i++) {
        if (!candidates[i]) continue;
        snprintf(command, sizeof command, "%s -c 'import torch, transformers' 2>/dev/null", candidates[i]);
        if (system(command) == 0) return candidates[i];
    }
    return NULL;
}

/* Wider heads, other weights and other texts than those that are kept. */
Test(base_logits, of_llamas_equal_transformers_here_and_now) {
    const char *python = python_with_transformers();
    char command[4096];
    if (!python) cr_skip_test("no Python with torch and transformers (COHORT_PYTHON names one)");
    char *folder = temporary_folder();
    snprintf(command, sizeof command, "%s %smake_llama_reference.py %s 4 7 >%s/log 2>&1", python, REFERENCE,
             folder, folder);
    cr_assert_eq(system(command), 0, "%s", command);
    for (int i = 0; i < N_LLAMAS; i++) compare(folder, llamas[i], ".json", CK_GATES_TOP_K);
    remove_folder(folder);
}

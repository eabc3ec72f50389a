/* PEFT folders: names, orientation and configuration, and that the folder means what the device computes:
 * merged into the base as PEFT merges it, W + s B A, it gives the device's logits. tests/cli/test_export.sh
 * asks PEFT itself about the same folder. */
#include "adapters/peft.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "base/safetensors.h"
#include "model/model.h"
#include "unit/checkpoints.h"

#define BASE COHORT_SOURCE_DIR "/tests/reference/gpt2_tiny"

enum { LAYERS = 2, D = 48, F = 192, TOKENS = 40, VOCABULARY = 61 }; /* of that base */

static const char layer_name[] = "base_model.model.transformer.h.%d.%s.lora_%c.weight";

static float scale_of(const experts_settings *x, int rank) {
    return (float)(x->scaling == SCALING_RSLORA ? x->alpha / sqrt(rank) : x->alpha / rank);
}

static ck_shape make_shape(int experts, ck_gates gates, int attention_rank, const experts_settings *x) {
    static const int ranks[] = {5, 2, 3};
    ck_shape s = {.n_layers = LAYERS, .width = D, .ffn = F, .n_experts = experts, .top_k = 2, .gates = gates};
    s.mix = x->mix == MIX_MLP ? CK_MIX_MLP : CK_MIX_LINEAR;
    s.lora_rank[CK_SITE_QKV] = s.lora_rank[CK_SITE_OUT] = attention_rank;
    if (attention_rank > 0)
        s.lora_scale[CK_SITE_QKV] = s.lora_scale[CK_SITE_OUT] = scale_of(x, attention_rank);
    for (int e = 0; e < experts; e++) {
        s.rank[e] = ranks[e];
        s.scale[e] = scale_of(x, ranks[e]);
    }
    cr_assert_eq(ck_shape_init(&s, NULL), CK_OK);
    return s;
}

/* Different everywhere, of the size that trained adapters have. */
static float *make_pack(const ck_shape *s) {
    float *pack = malloc((size_t)s->total * sizeof *pack);
    for (int64_t i = 0; i < s->total; i++) pack[i] = 0.1F * sinf(0.37F * (float)i * (float)i + 1.0F);
    return pack;
}

static safetensors *open_tensors(const char *folder, const char *name) {
    problems *list = problems_create();
    char *path = path_in(folder, name);
    safetensors *file = NULL;
    cr_assert_eq(safetensors_open(path, &file, list), EXIT_OK, "%s", all_messages(list));
    free(path);
    problems_destroy(list);
    return file;
}

static json_t *read_config(const char *folder) {
    char *path = path_in(folder, "adapter_config.json");
    json_error_t error;
    json_t *config = json_load_file(path, 0, &error);
    cr_assert_not_null(config, "%s", error.text);
    free(path);
    return config;
}

static void write_folder(const char *folder, const ck_shape *s, int expert, const experts_settings *x,
                         const char *base, const float *pack) {
    problems *list = problems_create();
    lora_settings lora;
    for (int site = 0; site < CK_SITES; site++) lora.alpha[site] = x->alpha;
    cr_assert_eq(peft_write(folder, s, expert, x, &lora, base, pack, list), EXIT_OK, "%s",
                 all_messages(list));
    problems_destroy(list);
}

/* A factor of a layer's module, whose size must be rows x cols. */
static const safetensor *factor(const safetensors *file, int layer, const char *module, char which,
                                int64_t rows, int64_t cols) {
    char name[PACKED_NAME_BYTES];
    snprintf(name, sizeof name, layer_name, layer, module, which);
    const safetensor *t = safetensors_find(file, name);
    cr_assert_not_null(t, "%s is not in the file", name);
    cr_assert(t->n_dims == 2 && t->dims[0] == rows && t->dims[1] == cols, "%s is [%lld, %lld]", name,
              (long long)t->dims[0], (long long)t->dims[1]);
    return t;
}

static float element(const safetensors *file, const safetensor *t, int64_t row, int64_t col) {
    float value;
    size_t at = sizeof value * (size_t)(row * t->dims[1] + col);
    cr_assert_eq(safetensors_data(file, t, at, sizeof value, &value, NULL), EXIT_OK);
    return value;
}

/* ---- What a folder holds ---- */

Test(peft, tensors_have_the_names_and_the_orientation_that_peft_loads) {
    const experts_settings x = {.alpha = 16, .scaling = SCALING_RSLORA};
    char *folder = temporary_folder();
    ck_shape s = make_shape(3, CK_GATES_TOP_K, 4, &x);
    float *pack = make_pack(&s);
    const float *layer1 = pack + s.layer_stride;
    write_folder(folder, &s, 1, &x, NULL, pack);
    safetensors *file = open_tensors(folder, "adapter_model.safetensors");
    cr_expect_eq(safetensors_count(file), LAYERS * 8);
    /* Expert 1 owns ranks 5 and 6; three router rows lie before A. */
    cr_expect_eq(element(file, factor(file, 1, "attn.c_attn", 'A', 4, D), 2, 11),
                 layer1[ck_block_of(&s, CK_LORA, CK_SITE_QKV, CK_FACTOR_A)->offset + 2 * D + 11]);
    cr_expect_eq(element(file, factor(file, 1, "attn.c_attn", 'B', 3 * D, 4), 100, 3),
                 layer1[ck_block_of(&s, CK_LORA, CK_SITE_QKV, CK_FACTOR_B)->offset + 3 * 3 * D + 100]);
    cr_expect_eq(element(file, factor(file, 1, "attn.c_proj", 'A', 4, D), 3, 7),
                 layer1[ck_block_of(&s, CK_LORA, CK_SITE_OUT, CK_FACTOR_A)->offset + 3 * D + 7]);
    cr_expect_eq(element(file, factor(file, 1, "attn.c_proj", 'B', D, 4), 47, 1),
                 layer1[ck_block_of(&s, CK_LORA, CK_SITE_OUT, CK_FACTOR_B)->offset + 1 * D + 47]);
    cr_expect_eq(element(file, factor(file, 1, "mlp.c_fc", 'A', 2, D), 1, 9),
                 layer1[s.route + (3 + 5 + 1) * D + 9]);
    cr_expect_eq(element(file, factor(file, 1, "mlp.c_fc", 'B', F, 2), 150, 0), layer1[s.b1 + 5 * F + 150]);
    cr_expect_eq(element(file, factor(file, 1, "mlp.c_proj", 'A', 2, F), 0, 191), layer1[s.a2 + 5 * F + 191]);
    cr_expect_eq(element(file, factor(file, 1, "mlp.c_proj", 'B', D, 2), 13, 1), layer1[s.b2 + 6 * D + 13]);
    safetensors_close(file);
    free(pack);
    remove_folder(folder);
}

static bool holds(json_t *list, const char *text) {
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry) if (strcmp(json_string_value(entry), text) == 0) return true;
    return false;
}

Test(peft, configuration_says_rank_scaling_and_modules) {
    const experts_settings x = {.alpha = 16, .scaling = SCALING_RSLORA};
    char *folder = temporary_folder();
    ck_shape s = make_shape(3, CK_GATES_TOP_K, 4, &x);
    float *pack = make_pack(&s);
    write_folder(folder, &s, 0, &x, "models/gpt2", pack);
    json_t *config = read_config(folder), *targets = json_object_get(config, "target_modules"),
           *ranks = json_object_get(config, "rank_pattern");
    cr_expect_str_eq(json_string_value(json_object_get(config, "peft_type")), "LORA");
    cr_expect_str_eq(json_string_value(json_object_get(config, "base_model_name_or_path")), "models/gpt2");
    cr_expect_eq(json_integer_value(json_object_get(config, "r")), 5);
    cr_expect_eq(json_number_value(json_object_get(config, "lora_alpha")), 16.0);
    cr_expect(json_is_true(json_object_get(config, "use_rslora")));
    cr_expect(json_is_true(json_object_get(config, "fan_in_fan_out")));
    cr_expect(json_array_size(targets) == 4 && holds(targets, "attn.c_attn") && holds(targets, "mlp.c_proj"));
    cr_expect_eq(json_object_size(ranks), 2);
    cr_expect_eq(json_integer_value(json_object_get(ranks, "attn.c_attn")), 4);
    cr_expect_eq(json_integer_value(json_object_get(ranks, "attn.c_proj")), 4);
    json_decref(config);
    free(pack);
    remove_folder(folder);
}

Test(peft, without_attention_lora_only_the_mlp_is_named) {
    const experts_settings x = {.alpha = 0.5, .scaling = SCALING_LORA};
    char *folder = temporary_folder();
    ck_shape s = make_shape(1, CK_GATES_MEAN, 0, &x);
    float *pack = make_pack(&s);
    write_folder(folder, &s, 0, &x, NULL, pack);
    json_t *config = read_config(folder), *targets = json_object_get(config, "target_modules");
    cr_expect(json_is_false(json_object_get(config, "use_rslora")));
    cr_expect(json_is_null(json_object_get(config, "base_model_name_or_path")));
    cr_expect_eq(json_number_value(json_object_get(config, "lora_alpha")), 0.5);
    cr_expect(json_array_size(targets) == 2 && holds(targets, "mlp.c_fc") && holds(targets, "mlp.c_proj"));
    cr_expect_eq(json_object_size(json_object_get(config, "rank_pattern")), 0);
    safetensors *file = open_tensors(folder, "adapter_model.safetensors");
    cr_expect_eq(safetensors_count(file), LAYERS * 4);
    safetensors_close(file);
    json_decref(config);
    free(pack);
    remove_folder(folder);
}

Test(peft, router_lies_beside_the_experts) {
    const experts_settings x = {.alpha = 16, .scaling = SCALING_RSLORA};
    char *folder = temporary_folder(), *path = path_in(folder, "router.safetensors");
    ck_shape routed = make_shape(3, CK_GATES_TOP_K, 4, &x), alone = make_shape(1, CK_GATES_TOP_K, 4, &x);
    float *pack = make_pack(&routed);
    problems *list = problems_create();
    struct stat info;
    cr_assert_eq(peft_write_beside(folder, &alone, pack, list), EXIT_OK);
    cr_expect_neq(stat(path, &info), 0, "one expert has no router");
    cr_assert_eq(peft_write_beside(folder, &routed, pack, list), EXIT_OK, "%s", all_messages(list));
    safetensors *file = open_tensors(folder, "router.safetensors");
    const safetensor *t = safetensors_find(file, "layer.1.router");
    cr_assert(t && t->n_dims == 2 && t->dims[0] == 3 && t->dims[1] == D);
    cr_expect_eq(element(file, t, 2, 5), pack[routed.layer_stride + routed.route + 2 * D + 5]);
    safetensors_close(file);
    problems_destroy(list);
    free(path);
    free(pack);
    remove_folder(folder);
}

/* ---- What a folder means ---- */

static void *allocate(ck_backend *backend, size_t count) {
    void *memory;
    cr_assert_eq(ck_alloc(backend, count * sizeof(float), "test", &memory), CK_OK, "%s",
                 ck_last_error(backend));
    return memory;
}

static void run_wave(ck_backend *backend, ck_stream *stream, const model_base *base, const ck_shape *shape,
                     const float *pack, const int32_t *tokens, const model_outputs *outputs) {
    const ck_capacity capacity = {.max_sequences = 1, .max_tokens = TOKENS, .max_sequence_tokens = TOKENS};
    const int64_t first_token[] = {0, TOKENS};
    const int32_t first_sequence[] = {0, 1};
    const ck_wave_device device = {.learn = 0};
    int32_t fault[1];
    ck_wave wave = {.n_devices = 1,
                    .n_sequences = 1,
                    .first_token = first_token,
                    .first_sequence = first_sequence,
                    .devices = &device,
                    .n_shapes = 1,
                    .shapes = shape,
                    .tokens = tokens,
                    .targets = tokens,
                    .parameters = pack,
                    .fault = fault};
    problems *list = problems_create();
    ck_program *program;
    cr_assert_eq(model_record_evaluation(backend, base, shape, 1, &capacity, outputs, &program, list),
                 EXIT_OK, "%s", all_messages(list));
    cr_assert_eq(ck_run(program, stream, &wave), CK_OK, "%s", ck_last_error(backend));
    cr_assert_eq(ck_wait(stream), CK_OK);
    ck_program_destroy(program);
    problems_destroy(list);
}

/* What a device of this shape and pack computes on that base. */
static void evaluate(const base_model *model, const ck_shape *shape, const float *pack, const int32_t *tokens,
                     float *logits) {
    ck_backend *backend;
    ck_stream *stream;
    size_t n_weights = (size_t)model->layout.total, n_pack = (size_t)shape->total,
           n_logits = TOKENS * VOCABULARY;
    cr_assert_eq(ck_open("cpu", 1, &backend), CK_OK, "%s", ck_last_error(NULL));
    cr_assert_eq(ck_stream_create(backend, &stream), CK_OK);
    float *weights = allocate(backend, n_weights), *parameters = allocate(backend, n_pack);
    model_outputs outputs = {.loss = allocate(backend, 1), .logits = allocate(backend, n_logits)};
    cr_assert_eq(ck_upload(stream, weights, model->weights, n_weights * sizeof *weights), CK_OK);
    cr_assert_eq(ck_upload(stream, parameters, pack, n_pack * sizeof *pack), CK_OK);
    cr_assert_eq(ck_wait(stream), CK_OK);
    model_base base = {.shape = model->shape, .layout = model->layout, .weights = weights};
    run_wave(backend, stream, &base, shape, parameters, tokens, &outputs);
    cr_assert_eq(ck_download(stream, logits, outputs.logits, n_logits * sizeof *logits), CK_OK);
    cr_assert_eq(ck_wait(stream), CK_OK);
    void *memory[] = {weights, parameters, outputs.loss, outputs.logits};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) ck_free(backend, memory[i]);
    ck_stream_destroy(stream);
    ck_close(backend);
}

/* W += s B A with s from the configuration, as PEFT computes it. */
static void merge(const safetensors *file, json_t *config, int layer, const char *module, int64_t out,
                  int64_t in, float *weight) {
    json_t *other = json_object_get(json_object_get(config, "rank_pattern"), module);
    int64_t rank = json_integer_value(other ? other : json_object_get(config, "r"));
    double alpha = json_number_value(json_object_get(config, "lora_alpha"));
    double scale = json_is_true(json_object_get(config, "use_rslora")) ? alpha / sqrt((double)rank)
                                                                       : alpha / (double)rank;
    const safetensor *a = factor(file, layer, module, 'A', rank, in),
                     *b = factor(file, layer, module, 'B', out, rank);
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++) {
            double sum = 0;
            for (int64_t r = 0; r < rank; r++) sum += (double)element(file, b, o, r) * element(file, a, r, i);
            weight[o * in + i] += (float)(scale * sum);
        }
}

static void merge_folder(const char *folder, base_model *model) {
    safetensors *file = open_tensors(folder, "adapter_model.safetensors");
    json_t *config = read_config(folder);
    const base_layer *w = &model->layout.layer0;
    for (int layer = 0; layer < LAYERS; layer++) {
        float *at = model->weights + layer * model->layout.layer_stride;
        merge(file, config, layer, "attn.c_attn", 3 * D, D, at + w->qkv_w);
        merge(file, config, layer, "attn.c_proj", D, D, at + w->out_w);
        merge(file, config, layer, "mlp.c_fc", F, D, at + w->fc_w);
        merge(file, config, layer, "mlp.c_proj", D, F, at + w->pr_w);
    }
    json_decref(config);
    safetensors_close(file);
}

static double largest_difference(const float *a, const float *b) {
    double worst = 0;
    for (int i = 0; i < TOKENS * VOCABULARY; i++) worst = fmax(worst, fabs((double)a[i] - b[i]));
    return worst;
}

static void write_numbers(const char *folder, const char *name, const void *values, size_t bytes) {
    char *path = path_in(folder, name);
    FILE *out = fopen(path, "wb");
    cr_assert(out && fwrite(values, 1, bytes, out) == bytes && fclose(out) == 0, "%s cannot be written",
              path);
    free(path);
}

/* For tests/reference/check_peft.py: the adapter, what was read and what the device computed. */
static void hand_over(const char *folder, const ck_shape *s, const experts_settings *x, const float *pack,
                      const int32_t *tokens, const float *logits) {
    char *adapter = path_in(folder, "adapter");
    cr_assert_eq(mkdir(adapter, 0777), 0);
    write_folder(adapter, s, 0, x, BASE, pack);
    write_numbers(folder, "tokens.i32", tokens, TOKENS * sizeof *tokens);
    write_numbers(folder, "logits.f32", logits, TOKENS * VOCABULARY * sizeof *logits);
    free(adapter);
}

static void compare_with_merged_base(const experts_settings *x, const char *hand_over_to) {
    static float plain[TOKENS * VOCABULARY], adapted[TOKENS * VOCABULARY], merged[TOKENS * VOCABULARY];
    char *folder = temporary_folder();
    problems *list = problems_create();
    base_model *model;
    int32_t tokens[TOKENS];
    ck_shape s = make_shape(1, CK_GATES_MEAN, 3, x);
    float *pack = make_pack(&s), *nothing = calloc((size_t)s.total, sizeof *nothing);
    for (int i = 0; i < TOKENS; i++) tokens[i] = (i * i * 7 + 3) % VOCABULARY;
    cr_assert_eq(base_load(BASE, &model, list), EXIT_OK, "%s", all_messages(list));
    write_folder(folder, &s, 0, x, BASE, pack);
    evaluate(model, &s, pack, tokens, adapted);
    evaluate(model, &s, nothing, tokens, plain);
    merge_folder(folder, model);
    evaluate(model, &s, nothing, tokens, merged);
    cr_expect_gt(largest_difference(plain, adapted), 0.1, "the adapter hardly changes a logit");
    cr_expect_lt(largest_difference(merged, adapted), 1e-4, "a logit is off by %g",
                 largest_difference(merged, adapted));
    if (hand_over_to) hand_over(hand_over_to, &s, x, pack, tokens, adapted);
    base_destroy(model);
    problems_destroy(list);
    free(pack);
    free(nothing);
    remove_folder(folder);
}

Test(peft, device_with_one_expert_equals_its_folder_merged_into_the_base) {
    compare_with_merged_base(&(experts_settings){.alpha = 4, .scaling = SCALING_RSLORA, .mix = MIX_MLP},
                             getenv("COHORT_PEFT_FOLDER"));
}

Test(peft, classic_scaling_is_merged_with_its_own_factor) {
    compare_with_merged_base(&(experts_settings){.alpha = 8, .scaling = SCALING_LORA, .mix = MIX_MLP}, NULL);
}

Test(peft, weights_mixed_by_linear_give_the_same_folder) {
    compare_with_merged_base(&(experts_settings){.alpha = 4, .scaling = SCALING_RSLORA, .mix = MIX_LINEAR},
                             NULL);
}

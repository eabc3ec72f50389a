/* Base variants: what a PEFT folder and files of linears make of a base, and what is refused. A run on them:
 * tests/unit/population/test_variants.c and tests/cli/test_variants.sh. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/tensors.h"
#include "unit/base/variant_files.h"
#include "unit/checkpoints.h"

#define GPT2   COHORT_SOURCE_DIR "/tests/reference/gpt2_tiny"
#define SMOLLM COHORT_SOURCE_DIR "/tests/reference/llama/smollm"
#define QWEN   COHORT_SOURCE_DIR "/tests/reference/llama/qwen25"

enum { D = 48, F = 192, LAYERS = 2 }; /* of GPT2 */

static char *folder;

static void open_folder(void) {
    folder = temporary_folder();
}

static void close_folder(void) {
    remove_folder(folder);
}

TestSuite(variant, .init = open_folder, .fini = close_folder);

static base_model *load(const char *path) {
    base_model *model = NULL;
    problems *list = problems_create();
    cr_assert_eq(base_load(path, &model, list), EXIT_OK, "%s", all_messages(list));
    problems_destroy(list);
    return model;
}

static base_variant *open_variant(const char *path, const base_model *base) {
    base_variant *v = NULL;
    problems *list = problems_create();
    cr_assert_eq(base_variant_open(path, &base->shape, &v, list), EXIT_OK, "%s", all_messages(list));
    problems_destroy(list);
    return v;
}

static base_model *whole(const base_variant *v, const base_model *base) {
    base_model *model = NULL;
    problems *list = problems_create();
    cr_assert_eq(base_variant_whole(v, base, &model, list), EXIT_OK, "%s", all_messages(list));
    problems_destroy(list);
    return model;
}

/* Where a tensor of the model begins, and its number of values. */
static float *tensor_of(const base_model *model, const char *name, int64_t *count) {
    for (int i = 0; i < base_tensor_count(&model->shape); i++) {
        packed_tensor t = base_tensor(&model->shape, &model->layout, "", i, NULL);
        if (strcmp(t.name, name) != 0) continue;
        *count = t.n_dims == 1 ? t.dims[0] : t.dims[0] * t.dims[1];
        return model->weights + t.offset;
    }
    cr_assert_fail("no tensor %s", name);
    return NULL;
}

static bool same_tensor(const base_model *a, const base_model *b, const char *name) {
    int64_t n = 0, m = 0;
    const float *x = tensor_of(a, name, &n), *y = tensor_of(b, name, &m);
    return n == m && memcmp(x, y, (size_t)n * sizeof *x) == 0;
}

/* Every tensor of the model but the named ones is the base's. */
static void expect_rest(const base_model *model, const base_model *base, const char *const *changed, int n) {
    for (int i = 0; i < base_tensor_count(&base->shape); i++) {
        packed_tensor t = base_tensor(&base->shape, &base->layout, "", i, NULL);
        bool is_changed = false;
        for (int j = 0; j < n; j++) is_changed |= strcmp(changed[j], t.name) == 0;
        cr_expect_eq(same_tensor(model, base, t.name), !is_changed, "%s", t.name);
    }
}

/* ---- Factors --------------------------------------------------------------------------------- */

/* W + s B A in double, W [out, in] as the packed weights have it. */
static void expect_folded(const base_model *model, const base_model *base, const char *tensor,
                          const written_pair *p, double scale) {
    int64_t n = 0;
    const float *w = tensor_of(model, tensor, &n), *before = tensor_of(base, tensor, &n);
    cr_assert_eq(n, p->in * p->out);
    for (int64_t o = 0; o < p->out; o++)
        for (int64_t i = 0; i < p->in; i++) {
            double sum = before[o * p->in + i];
            for (int j = 0; j < p->rank; j++)
                sum += scale * (double)p->b[o * p->rank + j] * (double)p->a[j * p->in + i];
            cr_assert_float_eq(w[o * p->in + i], sum, 1e-6 * (1.0 + fabs(sum)), "%s [%lld, %lld]", tensor,
                               (long long)o, (long long)i);
        }
}

/* Ranks and alphas of modules' own, as PEFT matches them. */
Test(variant, a_peft_folder_is_w_plus_s_b_a) {
    static const char *const changed[] = {"h.0.attn.c_attn.weight", "h.1.mlp.c_fc.weight",
                                          "h.1.mlp.c_proj.weight"};
    for (int rslora = 0; rslora < 2; rslora++) {
        written_pair pairs[] = {variant_pair("transformer.h.0.attn.c_attn", 4, D, 3 * D, 1),
                                variant_pair("transformer.h.1.mlp.c_fc", 3, D, F, 2),
                                variant_pair("transformer.h.1.mlp.c_proj", 4, F, D, 3)};
        char config[512];
        snprintf(config, sizeof config,
                 "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"use_rslora\": %s, \"bias\": "
                 "\"none\", \"fan_in_fan_out\": true, \"rank_pattern\": {\"mlp.c_fc\": 3}, "
                 "\"alpha_pattern\": {\"h\\\\.1\\\\.mlp\\\\.c_(fc|other)\": 5}}",
                 rslora ? "true" : "false");
        char *path = variant_peft(folder, rslora ? "rslora" : "lora", config, pairs, 3);
        base_model *base = load(GPT2);
        base_variant *v = open_variant(path, base);
        cr_expect_eq(base_variant_values(v), 4 * (D + 3 * D) + 3 * (D + F) + 4 * (F + D));
        cr_expect_eq(base_variant_replaced(v), D * 3 * D + 2 * D * F);
        base_model *model = whole(v, base);
        expect_folded(model, base, changed[0], &pairs[0], rslora ? 8 / sqrt(4) : 8.0 / 4);
        expect_folded(model, base, changed[1], &pairs[1], rslora ? 5 / sqrt(3) : 5.0 / 3);
        expect_folded(model, base, changed[2], &pairs[2], rslora ? 8 / sqrt(4) : 8.0 / 4);
        expect_rest(model, base, changed, 3);
        base_destroy(model);
        base_variant_close(v);
        base_destroy(base);
        free(path);
    }
}

#define PLAIN "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 2}"

/* q, k and v are rows of one packed matrix: those of the others stay. */
Test(variant, factors_of_one_projection_leave_the_others) {
    base_model *base = load(SMOLLM);
    int in = base->shape.width, q = base_q_width(&base->shape), kv = base_kv_width(&base->shape),
        ffn = base->shape.ffn;
    static const char *const changed[] = {"layers.1.self_attn.k_proj.weight", "layers.0.mlp.up_proj.weight",
                                          "layers.0.mlp.down_proj.weight",
                                          "layers.0.self_attn.o_proj.weight"};
    written_pair pairs[] = {variant_pair("model.layers.1.self_attn.k_proj", 2, in, kv, 1),
                            variant_pair("model.layers.0.mlp.up_proj", 2, in, ffn, 2),
                            variant_pair("model.layers.0.mlp.down_proj", 2, ffn, in, 3),
                            variant_pair("model.layers.0.self_attn.o_proj", 2, q, in, 4)};
    char *path = variant_peft(folder, "llama", PLAIN, pairs, 4);
    base_variant *v = open_variant(path, base);
    base_model *model = whole(v, base);
    for (int i = 0; i < 4; i++) expect_folded(model, base, changed[i], &pairs[i], 1.0);
    expect_rest(model, base, changed, 4);
    cr_expect(base_same_shape(&model->shape, &base->shape));
    base_destroy(model);
    base_variant_close(v);
    base_destroy(base);
    free(path);
}

/* A fold in two steps is one fold of all ranks: that lets a run go on from its checkpoint with the same bits.
 */
Test(variant, ranks_are_added_in_order) {
    enum { ROWS = 5, IN = 37, RANK = 6 };
    float one[ROWS * IN], two[ROWS * IN], a[RANK * IN], b[RANK * ROWS];
    variant_numbers(one, ROWS * IN, 1.0F, 1);
    memcpy(two, one, sizeof one);
    variant_numbers(a, RANK * IN, 1.0F, 2);
    variant_numbers(b, RANK * ROWS, 1.0F, 3);
    base_fold_factors(one, ROWS, IN, RANK, 0.7F, a, b);
    base_fold_factors(two, ROWS, IN, 2, 0.7F, a, b);
    base_fold_factors(two, ROWS, IN, RANK - 2, 0.7F, a + (size_t)2 * IN, b + (size_t)2 * ROWS);
    cr_expect_arr_eq(one, two, sizeof one);
    double sum = sin(0.37 * 1 * 1 + 1); /* element [0, 0], by hand */
    for (int j = 0; j < RANK; j++) sum += 0.7 * (double)b[j * ROWS] * (double)a[j * IN];
    cr_expect_float_eq(one[0], sum, 1e-5);
}

/* ---- Dense ----------------------------------------------------------------------------------- */

Test(variant, tensors_of_a_file_take_the_place_of_the_bases) {
    base_model *base = load(GPT2);
    static float fc[D * F], bias[3 * D];
    variant_numbers(fc, D * F, 1.0F, 4);
    variant_numbers(bias, 3 * D, 1.0F, 5);
    written_tensor tensors[] = {{"transformer.h.1.mlp.c_fc.weight", D, F, fc},
                                {"h.0.attn.c_attn.bias", 3 * D, 0, bias}};
    static const char *const changed[] = {"h.1.mlp.c_fc.weight", "h.0.attn.c_attn.bias"};
    char *path = variant_file(folder, "linears.safetensors", tensors, 2);
    base_variant *v = open_variant(path, base);
    cr_expect_eq(base_variant_values(v), D * F + 3 * D);
    cr_expect_eq(base_variant_replaced(v), D * F + 3 * D, "a bias alone is held without its weight");
    cr_expect_eq(base_variant_place(v, base_linear_number(0, BASE_QKV)).weight, -1);
    base_model *model = whole(v, base);
    int64_t n = 0;
    const float *w = tensor_of(model, changed[0], &n), *b = tensor_of(model, changed[1], &n);
    for (int i = 0; i < D; i++)
        for (int o = 0; o < F; o++) cr_assert_eq(w[o * D + i], fc[i * F + o]); /* Conv1D is [in, out] */
    cr_expect_arr_eq(b, bias, sizeof bias);
    expect_rest(model, base, changed, 2);
    base_destroy(model);
    base_variant_close(v);
    base_destroy(base);
    free(path);
}

/* Written and opened again: the same bits; and so is a whole model as a folder. */
static void expect_round_trip(const base_variant *v, const base_model *base) {
    problems *list = problems_create();
    float *values = calloc((size_t)base_variant_floats(v), sizeof *values);
    for (int i = 0; i < base_variant_linears(v); i++) {
        variant_place at = base_variant_place(v, i);
        cr_assert_eq(base_variant_fold(v, base, i, at.weight >= 0 ? values + at.weight : NULL,
                                       at.bias >= 0 ? values + at.bias : NULL, list),
                     EXIT_OK);
    }
    char *file = path_in(folder, "written.safetensors"), *model_folder = path_in(folder, "whole");
    base_model *first = whole(v, base);
    cr_assert_eq(base_variant_write(v, values, file, list), EXIT_OK, "%s", all_messages(list));
    cr_assert_eq(base_save(first, model_folder, list), EXIT_OK, "%s", all_messages(list));
    const char *const paths[] = {file, model_folder};
    base_model *loaded = load(model_folder);
    cr_expect(base_same_shape(&loaded->shape, &first->shape));
    cr_expect_eq(memcmp(loaded->weights, first->weights, (size_t)first->layout.total * sizeof(float)), 0);
    for (int i = 0; i < 2; i++) {
        base_variant *again = open_variant(paths[i], base);
        base_model *second = whole(again, base);
        cr_expect(base_same_shape(&second->shape, &first->shape));
        cr_expect_eq(memcmp(second->weights, first->weights, (size_t)first->layout.total * sizeof(float)), 0,
                     "%s", paths[i]);
        base_destroy(second);
        base_variant_close(again);
    }
    base_destroy(loaded);
    base_destroy(first);
    free(values);
    free(file);
    free(model_folder);
    problems_destroy(list);
}

Test(variant, what_is_written_comes_back_with_the_same_bits) {
    base_model *base = load(GPT2);
    written_pair pairs[] = {variant_pair("transformer.h.0.attn.c_attn", 2, D, 3 * D, 1),
                            variant_pair("transformer.h.1.mlp.c_proj", 2, F, D, 3)};
    char *path = variant_peft(folder, "lora", PLAIN, pairs, 2);
    base_variant *v = open_variant(path, base);
    expect_round_trip(v, base);
    base_variant_close(v);
    base_destroy(base);
    free(path);
}

/* Biases that a Llama does not have: its config.json then says so for all attention, or for the whole MLP. */
static void expect_bias(const char *of, const char *name, int64_t rows, bool qkv, bool out, bool mlp) {
    base_model *base = load(of);
    float values[512];
    cr_assert_leq(rows, 512);
    variant_numbers(values, rows, 1.0F, 9);
    written_tensor tensor = {name, rows, 0, values};
    char *path = variant_file(folder, "bias.safetensors", &tensor, 1);
    base_variant *v = open_variant(path, base);
    base_model *model = whole(v, base);
    int64_t n = 0;
    cr_expect(model->shape.qkv_bias == qkv && model->shape.out_bias == out && model->shape.mlp_bias == mlp,
              "%s", name);
    cr_expect_arr_eq(tensor_of(model, name + strlen("model."), &n), values, (size_t)rows * sizeof *values);
    cr_expect_eq(n, rows);
    expect_rest(model, base, NULL, 0);
    expect_round_trip(v, base);
    base_destroy(model);
    base_variant_close(v);
    base_destroy(base);
    remove_folder(path_in(folder, "whole"));
    free(path);
}

Test(variant, a_bias_that_the_base_lacks_is_added) {
    base_model *smollm = load(SMOLLM), *qwen = load(QWEN);
    expect_bias(SMOLLM, "model.layers.1.self_attn.o_proj.bias", smollm->shape.width, true, true, false);
    expect_bias(SMOLLM, "model.layers.0.mlp.down_proj.bias", smollm->shape.width, false, false, true);
    expect_bias(SMOLLM, "model.layers.0.self_attn.k_proj.bias", base_kv_width(&smollm->shape), true, false,
                false);
    expect_bias(QWEN, "model.layers.0.mlp.up_proj.bias", qwen->shape.ffn, true, true, true);
    base_destroy(smollm);
    base_destroy(qwen);
}

Test(variant, a_whole_model_is_a_variant_if_only_linears_differ) {
    base_model *base = load(SMOLLM), *other = load(SMOLLM);
    problems *list = problems_create();
    int64_t n = 0;
    float *w = tensor_of(other, "layers.1.mlp.gate_proj.weight", &n), *norm = NULL;
    variant_numbers(w, n, 1.0F, 3);
    char *good = path_in(folder, "good"), *bad = path_in(folder, "bad");
    cr_assert_eq(base_save(other, good, list), EXIT_OK);
    norm = tensor_of(other, "layers.1.input_layernorm.weight", &n);
    norm[1] += 1.0F;
    cr_assert_eq(base_save(other, bad, list), EXIT_OK);
    base_variant *v = open_variant(good, base);
    base_model *model = whole(v, base);
    cr_expect(same_tensor(model, other, "layers.1.mlp.gate_proj.weight"));
    cr_expect(same_tensor(model, base, "layers.1.input_layernorm.weight"));
    base_destroy(model);
    base_variant_close(v);
    v = open_variant(bad, base);
    cr_expect_eq(base_variant_check(v, base, list), EXIT_INPUT);
    cr_expect(mentions(list, "model.layers.1.input_layernorm.weight\" differs from the base's"), "%s",
              all_messages(list));
    base_variant_close(v);
    base_destroy(base);
    base_destroy(other);
    free(good);
    free(bad);
    problems_destroy(list);
}

/* ---- What is refused ------------------------------------------------------------------------- */

/* Opened and read: one of the two refuses it, and the messages have all these words. */
static void expect_refused(const char *path, const char *base_path, const char *const *words, int n) {
    base_model *base = load(base_path);
    problems *list = problems_create();
    base_variant *v = NULL;
    exit_code code = base_variant_open(path, &base->shape, &v, list);
    if (code == EXIT_OK) code = base_variant_check(v, base, list);
    cr_expect_eq(code, EXIT_INPUT, "%s", path);
    for (int i = 0; i < n; i++)
        cr_expect(mentions(list, words[i]), "no '%s' in:\n%s", words[i], all_messages(list));
    base_variant_close(v);
    base_destroy(base);
    problems_destroy(list);
}

#define REFUSED(path, base, ...)                                                                             \
    expect_refused(path, base, (const char *const[]){__VA_ARGS__},                                           \
                   (int)(sizeof(const char *const[]){__VA_ARGS__} / sizeof(char *)))

Test(variant, an_adapter_of_another_base_is_refused_with_names_and_shapes) {
    written_pair pairs[] = {variant_pair("model.layers.0.self_attn.q_proj", 2, 64, 64, 1),
                            variant_pair("transformer.h.2.attn.c_attn", 2, D, 3 * D, 2)};
    char *other = variant_peft(folder, "other", PLAIN, pairs, 2);
    REFUSED(other, GPT2, "model.layers.0.self_attn.q_proj.lora_A.weight\" [2, 64] has no place",
            "transformer.h.2.attn.c_attn.lora_A.weight", "gpt2, 2 layers of width 48");
    written_pair wide = variant_pair("transformer.h.0.mlp.c_fc", 2, 64, 256, 3);
    char *shapes = variant_peft(folder, "shapes", PLAIN, &wide, 1);
    REFUSED(shapes, GPT2, "transformer.h.0.mlp.c_fc", "64 inputs and 256 outputs", "48 and 192");
    free(other);
    free(shapes);
}

Test(variant, unknown_and_misshapen_tensors_are_all_listed) {
    static float values[D * F];
    written_tensor tensors[] = {{"h.0.mlp.c_fc.weight", F, D, values},
                                {"h.0.attn.c_proj.bias", D + 1, 0, values},
                                {"h.7.attn.c_proj.bias", D, 0, values},
                                {"something.else", 3, 5, values}};
    char *path = variant_file(folder, "bad.safetensors", tensors, 4);
    REFUSED(path, GPT2, "\"h.0.mlp.c_fc.weight\" has shape [192, 48]; it must be [48, 192]",
            "\"h.0.attn.c_proj.bias\" has shape [49]; it must be [48]",
            "\"h.7.attn.c_proj.bias\" [48] has no place", "\"something.else\" [3, 5] has no place");
    free(path);
}

Test(variant, values_that_are_not_finite_are_refused) {
    static float values[D * F];
    values[5 * F + 3] = NAN;
    written_tensor tensor = {"h.0.mlp.c_fc.weight", D, F, values};
    char *path = variant_file(folder, "nan.safetensors", &tensor, 1);
    REFUSED(path, GPT2, "\"h.0.mlp.c_fc.weight\": element [5, 3] is NaN");
    written_pair pairs[2] = {variant_pair("transformer.h.0.mlp.c_fc", 2, D, F, 1),
                             variant_pair("transformer.h.1.mlp.c_fc", 2, D, F, 1)};
    pairs[0].b[7] = INFINITY;
    char *inf = variant_peft(folder, "inf", PLAIN, pairs, 1);
    REFUSED(inf, GPT2, "transformer.h.0.mlp.c_fc.lora_B.weight\": element [3, 1] is Inf");
    pairs[1].a[0] = 1e30F, pairs[1].b[0] = 1e30F;
    char *large = variant_peft(folder, "large", PLAIN, pairs + 1, 1);
    REFUSED(large, GPT2, "a weight of layer 1 that is not finite");
    free(path);
    free(inf);
    free(large);
}

Test(variant, peft_folders_that_mean_something_else_are_refused) {
    static const struct {
        const char *config, *word;
    } cases[] = {
        {"{\"peft_type\": \"IA3\", \"r\": 2, \"lora_alpha\": 2}", "peft_type"},
        {"{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 2, \"use_dora\": true}", "use_dora"},
        {"{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 2, \"bias\": \"all\"}", "bias"},
        {"{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 2, \"modules_to_save\": [\"lm_head\"]}",
         "modules_to_save"},
        {"{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 2}", "has rank 3, and its factors have 2"},
        {"{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 2, \"alpha_pattern\": {\"c_(fc\": 1}}",
         "no regular expression"},
        {"{\"peft_type\": \"LORA\", \"r\": 2}", "lora_alpha and r must be there"},
        {"{\"peft_type\": \"LORA\", ", "adapter_config.json:1: is not valid JSON"},
        {"[]", "must be a JSON object"},
    };
    written_pair pair = variant_pair("transformer.h.0.mlp.c_fc", 2, D, F, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[16];
        snprintf(name, sizeof name, "case%zu", i);
        char *path = variant_peft(folder, name, cases[i].config, &pair, 1);
        REFUSED(path, GPT2, cases[i].word);
        free(path);
    }
}

Test(variant, what_is_no_lora_of_linears_is_refused) {
    static float values[2 * F];
    const char *config = PLAIN;
    written_tensor tensors[] = {
        {"base_model.model.transformer.h.0.mlp.c_fc.lora_A.weight", 2, D, values},
        {"base_model.model.transformer.h.1.mlp.c_fc.lora_A.weight", 2, D, values},
        {"base_model.model.transformer.h.1.mlp.c_fc.lora_B.weight", D, 2, values},
        {"base_model.model.transformer.wte.lora_embedding_A", 2, D, values},
        {"base_model.model.transformer.ln_f.lora_A.weight", 2, D, values},
        {"base_model.model.transformer.ln_f.lora_B.weight", D, 2, values},
    };
    char *path = path_in(folder, "odd"), *file = path_in(path, "adapter_config.json");
    cr_assert_eq(mkdir(path, 0700), 0);
    write_text(file, config);
    free(variant_file(path, "adapter_model.safetensors", tensors, 6));
    REFUSED(path, GPT2, "h.0.mlp.c_fc has a lora_A, but no lora_B",
            "wte.lora_embedding_A\" is not of a LoRA");
    free(variant_file(path, "adapter_model.safetensors", tensors + 1, 2));
    REFUSED(path, GPT2, "48 inputs and 48 outputs");
    free(variant_file(path, "adapter_model.safetensors", tensors + 4, 2));
    REFUSED(path, GPT2, "ln_f.lora_A.weight\" [2, 48] has no place");
    free(variant_file(path, "adapter_model.safetensors", tensors, 0));
    REFUSED(path, GPT2, "holds no LoRA");
    free(path);
    free(file);
}

Test(variant, what_changes_no_linear_is_refused) {
    base_model *base = load(GPT2);
    int64_t n = 0;
    written_tensor norm = {"transformer.ln_f.weight", D, 0, tensor_of(base, "ln_f.weight", &n)};
    char *path = variant_file(folder, "norm.safetensors", &norm, 1), *nothing = path_in(folder, "nothing");
    REFUSED(path, GPT2, "changes a linear of the base");
    REFUSED(nothing, GPT2, "there is no such file or folder");
    base_destroy(base);
    free(path);
    free(nothing);
}

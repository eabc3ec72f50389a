/* Bases: layout, random weights, and Hugging Face folders in both directions. The logits are compared in
 * test_base_logits.c. */
#include "base/base.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/safetensors.h"
#include "base/tensors.h"
#include "unit/checkpoints.h"

static const base_shape small = {.layers = 2,
                                 .width = 12,
                                 .heads = 3,
                                 .kv_heads = 3,
                                 .head_size = 4,
                                 .ffn = 48,
                                 .vocabulary = 19,
                                 .context = 7,
                                 .epsilon = 1e-5f,
                                 .tied_head = true,
                                 .qkv_bias = true,
                                 .out_bias = true,
                                 .mlp_bias = true};

static base_model *random_base(const base_shape *shape, uint64_t seed) {
    problems *list = problems_create();
    base_model *model;
    cr_assert_eq(base_random(shape, seed, &model, list), EXIT_OK, "%s", all_messages(list));
    problems_destroy(list);
    return model;
}

static size_t bytes_of(const base_model *model) {
    return (size_t)model->layout.total * sizeof *model->weights;
}

static int64_t elements(const packed_tensor *t) {
    return t->n_dims == 1 ? t->dims[0] : t->dims[0] * t->dims[1];
}

Test(base, layout_aligns_tensors_and_none_overlap) {
    base_shape odd = base_complete((base_shape){
        .layers = 3, .width = 10, .heads = 2, .ffn = 40, .vocabulary = 257, .context = 33, .epsilon = 1e-5f});
    base_layout layout = base_layout_of(&odd);
    unsigned char *owner = calloc((size_t)layout.total, 1);
    int64_t covered = 0;
    for (int i = 0; i < base_tensor_count(&odd); i++) {
        packed_tensor t = base_tensor(&odd, &layout, "", i, NULL);
        cr_expect_eq(t.offset % CK_ALIGN_FLOATS, 0, "%s starts at %lld", t.name, (long long)t.offset);
        cr_assert_leq(t.offset + elements(&t), layout.total, "%s leaves the pack", t.name);
        for (int64_t j = 0; j < elements(&t); j++)
            cr_assert_eq(owner[t.offset + j]++, 0, "%s overlaps", t.name);
        covered += elements(&t);
    }
    /* wte, wpe, final norm; a layer: two norms, four linears with biases */
    cr_expect_eq(covered, 257 * 10 + 33 * 10 + 20 + 3 * (40 + 300 + 30 + 100 + 10 + 400 + 40 + 400 + 10));
    free(owner);
}

static void moments(const base_model *model, int64_t offset, int64_t n, double *mean, double *deviation) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += model->weights[offset + i];
    *mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) squares += pow(model->weights[offset + i] - *mean, 2);
    *deviation = sqrt(squares / (double)n);
}

Test(base, random_weights_have_the_scales_of_gpt2) {
    base_shape shape = base_complete((base_shape){.layers = 8,
                                                  .width = 64,
                                                  .heads = 4,
                                                  .ffn = 256,
                                                  .vocabulary = 300,
                                                  .context = 100,
                                                  .epsilon = 1e-5f});
    base_model *model = random_base(&shape, 5);
    for (int i = 0; i < base_tensor_count(&shape); i++) {
        base_tensor_kind kind;
        packed_tensor t = base_tensor(&shape, &model->layout, "", i, &kind);
        /* sqrt(2 * 8 layers) = 4 */
        double mean, deviation, sigma = kind == BASE_RESIDUAL_LINEAR ? 0.02 / 4 : 0.02;
        moments(model, t.offset, elements(&t), &mean, &deviation);
        if (kind == BASE_GAIN || kind == BASE_BIAS) {
            cr_expect(mean == (kind == BASE_GAIN) && deviation == 0, "%s: mean %g, deviation %g", t.name,
                      mean, deviation);
            continue;
        }
        double standard_error = sigma / sqrt((double)elements(&t));
        cr_expect_lt(fabs(mean), 5 * standard_error, "%s: mean %g", t.name, mean);
        cr_expect_lt(fabs(deviation - sigma), 5 * standard_error, "%s: deviation %g, expected %g", t.name,
                     deviation, sigma);
    }
    base_destroy(model);
}

Test(base, random_weights_depend_on_the_seed_alone) {
    base_model *a = random_base(&small, 1), *b = random_base(&small, 1), *c = random_base(&small, 2);
    cr_expect_arr_eq(a->weights, b->weights, bytes_of(a));
    cr_expect_arr_neq(a->weights, c->weights, bytes_of(a));
    cr_expect_arr_neq(a->weights + a->layout.layer0.qkv_w,
                      a->weights + a->layout.layer0.qkv_w + a->layout.layer_stride, 64 * sizeof(float),
                      "layers start from the same numbers");
    base_destroy(a);
    base_destroy(b);
    base_destroy(c);
    base_destroy(NULL);
}

static int entries_of(const char *folder) {
    int n = 0;
    DIR *entries = opendir(folder);
    while (readdir(entries)) n++;
    closedir(entries);
    return n - 2; /* without . and .. */
}

Test(base, saved_weights_load_bit_for_bit) {
    base_shape shape = small;
    shape.ffn = 36; /* not 4 times the width: n_inner must be written */
    shape.epsilon = 3e-6f;
    char *root = temporary_folder(), *folder = path_in(root, "made/on/demand/base/");
    base_model *model = random_base(&shape, 9), *again;
    problems *list = problems_create();
    for (int round = 0; round < 2; round++) { /* the second replaces the first */
        for (int64_t i = 0; i < 12; i++)
            model->weights[model->layout.lnf_bias + i] = (float)(i + round) * 1e-40f;
        cr_assert_eq(base_save(model, folder, list), EXIT_OK, "%s", all_messages(list));
        cr_assert_eq(base_load(folder, &again, list), EXIT_OK, "%s", all_messages(list));
        cr_expect_arr_eq(&again->layout, &model->layout, sizeof model->layout);
        cr_expect_arr_eq(again->weights, model->weights, bytes_of(model));
        cr_expect(again->shape.heads == 3 && again->shape.ffn == 36 && again->shape.epsilon == 3e-6f);
        base_destroy(again);
    }
    char *parent = path_in(root, "made/on/demand");
    cr_expect_eq(entries_of(parent), 1, "a partial folder stayed behind");
    free(parent);
    problems_destroy(list);
    base_destroy(model);
    free(folder);
    remove_folder(root);
}

Test(base, save_does_not_replace_a_folder_with_other_files) {
    char *root = temporary_folder(), *other = path_in(root, "thesis.tex");
    base_model *model = random_base(&small, 1);
    problems *list = problems_create();
    write_text(other, "years of work");
    cr_expect_eq(base_save(model, root, list), EXIT_INPUT);
    cr_expect(mentions(list, "holds other files than a base"), "%s", all_messages(list));
    cr_expect_eq(base_save(model, other, list), EXIT_INPUT);
    cr_expect_eq(access(other, F_OK), 0);
    problems_destroy(list);
    base_destroy(model);
    free(other);
    remove_folder(root);
}

Test(base, linears_are_transposed_on_load) {
    problems *list = problems_create();
    base_model *model;
    safetensors *file;
    cr_assert_eq(base_load(COHORT_SOURCE_DIR "/tests/reference/gpt2_tiny", &model, list), EXIT_OK, "%s",
                 all_messages(list));
    cr_assert_eq(
        safetensors_open(COHORT_SOURCE_DIR "/tests/reference/gpt2_tiny/model.safetensors", &file, list),
        EXIT_OK);
    const safetensor *t = safetensors_find(file, "transformer.h.1.mlp.c_fc.weight");
    const float *w = model->weights + model->layout.layer0.fc_w + model->layout.layer_stride;
    for (int in = 0; in < 48; in++)
        for (int out = 0; out < 192; out++) {
            float value;
            size_t at = sizeof value * (size_t)(in * 192 + out);
            cr_assert_eq(safetensors_data(file, t, at, sizeof value, &value, list), EXIT_OK);
            cr_assert_eq(w[out * 48 + in], value, "input %d, output %d", in, out);
        }
    safetensors_close(file);
    base_destroy(model);
    problems_destroy(list);
}

/* ---- Folders that others made ---------------------------------------------------------------- */

typedef struct {
    char *folder, *weights_path, *config_path;
    base_model *model;
    packed_tensor *tensors; /* room for a few more */
    int n;
    problems *list;
} fixture;

static fixture make_fixture(const char *prefix) {
    fixture f = {.folder = temporary_folder(),
                 .model = random_base(&small, 3),
                 .n = base_tensor_count(&small),
                 .list = problems_create()};
    f.weights_path = path_in(f.folder, "model.safetensors");
    f.config_path = path_in(f.folder, "config.json");
    f.tensors = calloc((size_t)f.n + 8, sizeof *f.tensors);
    for (int i = 0; i < f.n; i++) f.tensors[i] = base_tensor(&small, &f.model->layout, prefix, i, NULL);
    cr_assert_eq(base_config_write(f.config_path, &small, f.list), EXIT_OK);
    return f;
}

static void end_fixture(fixture *f) {
    problems_destroy(f->list);
    base_destroy(f->model);
    free(f->tensors);
    free(f->config_path);
    free(f->weights_path);
    remove_folder(f->folder);
}

static packed_tensor *add_tensor(fixture *f, const char *name, int64_t rows, int64_t cols, int64_t offset) {
    packed_tensor *t = &f->tensors[f->n++];
    *t = (packed_tensor){.n_dims = 2, .dims = {rows, cols}, .offset = offset};
    snprintf(t->name, sizeof t->name, "%s", name);
    return t;
}

/* Writes the fixture's tensors, loads the folder, and compares the weights where that succeeds. */
static exit_code load_fixture(fixture *f) {
    base_model *again;
    cr_assert_eq(safetensors_write(f->weights_path, f->tensors, f->n, f->model->weights, f->list), EXIT_OK,
                 "%s", all_messages(f->list));
    exit_code code = base_load(f->folder, &again, f->list);
    if (code)
        cr_expect_null(again);
    else
        cr_expect_arr_eq(again->weights, f->model->weights, bytes_of(again));
    base_destroy(again);
    return code;
}

Test(base, loads_with_and_without_prefix_masks_and_tied_head) {
    for (int prefixed = 0; prefixed < 2; prefixed++) {
        fixture f = make_fixture(prefixed ? "transformer." : "");
        add_tensor(&f, prefixed ? "transformer.h.1.attn.bias" : "h.1.attn.bias", 7, 7, 0);
        add_tensor(&f, prefixed ? "transformer.h.0.attn.masked_bias" : "h.0.attn.masked_bias", 1, 1, 0);
        add_tensor(&f, "lm_head.weight", small.vocabulary, small.width, f.model->layout.wte);
        cr_expect_eq(load_fixture(&f), EXIT_OK, "%s", all_messages(f.list));
        end_fixture(&f);
    }
}

Test(base, refuses_an_untied_head) {
    fixture f = make_fixture("transformer.");
    add_tensor(&f, "lm_head.weight", small.vocabulary, small.width, f.model->layout.wte + 1);
    cr_expect_eq(load_fixture(&f), EXIT_INPUT);
    cr_expect(mentions(f.list, "\"lm_head.weight\" differs from \"transformer.wte.weight\""), "%s",
              all_messages(f.list));
    end_fixture(&f);
}

Test(base, names_missing_unexpected_and_misshapen_tensors_together) {
    fixture f = make_fixture("");
    add_tensor(&f, "h.2.ln_1.weight", 3, 4, 0); /* a third layer that the configuration does not know */
    strcpy(f.tensors[5].name, "h.0.attn.c_attn.bios");
    f.tensors[4].dims[0] = 3 * small.width; /* a linear as nn.Linear stores it */
    f.tensors[4].dims[1] = small.width;
    cr_expect_eq(load_fixture(&f), EXIT_INPUT);
    cr_expect(mentions(f.list, "\"h.0.attn.c_attn.weight\" has shape [36, 12]; it must be [12, 36]"), "%s",
              all_messages(f.list));
    cr_expect(mentions(f.list, "\"h.0.attn.c_attn.bias\" is missing"), "%s", all_messages(f.list));
    cr_expect(mentions(f.list, "\"h.0.attn.c_attn.bios\" has no place"), "%s", all_messages(f.list));
    cr_expect(mentions(f.list, "\"h.2.ln_1.weight\" has no place"), "%s", all_messages(f.list));
    end_fixture(&f);
}

Test(base, refuses_weights_that_are_not_finite) {
    fixture f = make_fixture("");
    f.model->weights[f.model->layout.layer0.fc_w + 5 * small.width + 2] = NAN; /* output 5, input 2 */
    f.model->weights[f.model->layout.wpe + 3] = INFINITY;
    cr_expect_eq(load_fixture(&f), EXIT_INPUT);
    cr_expect(mentions(f.list, "\"h.0.mlp.c_fc.weight\": element [2, 5] is NaN"), "%s", all_messages(f.list));
    cr_expect(mentions(f.list, "\"wpe.weight\": element [0, 3] is Inf"), "%s", all_messages(f.list));
    end_fixture(&f);
}

Test(base, refuses_a_truncated_file) {
    fixture f = make_fixture("");
    cr_assert_eq(load_fixture(&f), EXIT_OK, "%s", all_messages(f.list));
    FILE *file = fopen(f.weights_path, "rb");
    fseek(file, 0, SEEK_END);
    cr_assert_eq(truncate(f.weights_path, ftell(file) - 4), 0);
    fclose(file);
    base_model *model;
    cr_expect_eq(base_load(f.folder, &model, f.list), EXIT_INPUT);
    cr_expect(mentions(f.list, "truncated"), "%s", all_messages(f.list));
    end_fixture(&f);
}

/* ---- config.json ----------------------------------------------------------------------------- */

#define SIZES "\"n_layer\": 2, \"n_embd\": 12, \"n_head\": 3, \"vocab_size\": 19, \"n_positions\": 7"

static exit_code read_config(const char *text, base_shape *shape, problems *list) {
    char *folder = temporary_folder(), *path = path_in(folder, "config.json");
    write_text(path, text);
    exit_code code = base_config_read(path, shape, list);
    free(path);
    remove_folder(folder);
    return code;
}

Test(base, config_defaults_are_those_of_transformers) {
    base_shape shape;
    problems *list = problems_create();
    cr_assert_eq(read_config("{\"model_type\": \"gpt2\", \"n_inner\": null, " SIZES "}", &shape, list),
                 EXIT_OK, "%s", all_messages(list));
    cr_expect(shape.layers == 2 && shape.width == 12 && shape.heads == 3 && shape.vocabulary == 19 &&
              shape.context == 7);
    cr_expect_eq(shape.ffn, 48);
    cr_expect_eq(shape.epsilon, 1e-5f);
    problems_destroy(list);
}

Test(base, config_refuses_what_is_not_supported) {
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"[]", "must be a JSON object"},
        {"{\n\"model_type\": }", "config.json:2: is not valid JSON"},
        {"{" SIZES "}", "model_type is missing; it must be one of \"gpt2\", \"llama\", \"qwen2\""},
        {"{\"model_type\": 2, " SIZES "}", "model_type must be one of \"gpt2\", \"llama\", \"qwen2\""},
        {"{\"model_type\": \"opt\", " SIZES "}",
         "model_type \"opt\" is not supported; it must be one of \"gpt2\", \"llama\", \"qwen2\""},
        {"{\"model_type\": \"gpt2\", \"activation_function\": \"relu\", " SIZES "}",
         "activation_function is \"relu\"; only \"gelu_new\""},
        {"{\"model_type\": \"gpt2\", \"activation_function\": 3, " SIZES "}",
         "activation_function must be the string \"gelu_new\""},
        {"{\"model_type\": \"gpt2\", \"layer_norm_epsilon\": 0, " SIZES "}",
         "layer_norm_epsilon must be a number between 0 and 1"},
        {"{\"model_type\": \"gpt2\", \"layer_norm_epsilon\": \"1e-5\", " SIZES "}",
         "layer_norm_epsilon must be a number"},
        {"{\"model_type\": \"gpt2\", \"n_inner\": 0, " SIZES "}", "n_inner must be an integer"},
        {"{\"model_type\": \"gpt2\", \"scale_attn_weights\": false, " SIZES "}",
         "scale_attn_weights must be true"},
        {"{\"model_type\": \"gpt2\", \"scale_attn_by_inverse_layer_idx\": true, " SIZES "}",
         "scale_attn_by_inverse_layer_idx must be false"},
        {"{\"model_type\": \"gpt2\", \"add_cross_attention\": true, " SIZES "}",
         "add_cross_attention must be false"},
        {"{\"model_type\": \"gpt2\", \"tie_word_embeddings\": 1, " SIZES "}",
         "tie_word_embeddings must be true"},
        {"{\"model_type\": \"gpt2\", \"pruned_heads\": {\"0\": [1]}, " SIZES "}",
         "pruned_heads must be empty"},
        {"{\"model_type\": \"gpt2\", \"quantization_config\": {}, " SIZES "}",
         "quantization_config is not supported"},
        {"{\"model_type\": \"gpt2\", \"n_layer\": 2, " SIZES "}", "duplicate object key"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        base_shape shape;
        problems *list = problems_create();
        cr_expect_eq(read_config(cases[i].text, &shape, list), EXIT_INPUT, "case %zu was accepted: %s", i,
                     cases[i].text);
        cr_expect_eq(problems_count(list), 1);
        cr_expect(mentions(list, cases[i].message), "case %zu: expected \"%s\", got %s", i, cases[i].message,
                  all_messages(list));
        cr_expect(mentions(list, "config.json"), "case %zu names no file", i);
        problems_destroy(list);
    }
}

Test(base, config_reports_everything_at_once) {
    base_shape shape;
    problems *list = problems_create();
    const char *text = "{\"model_type\": \"gpt2\", \"activation_function\": \"relu\", \"n_layer\": 0, "
                       "\"n_embd\": 12.5, \"n_head\": 3, "
                       "\"vocab_size\": 99999999999}";
    cr_expect_eq(read_config(text, &shape, list), EXIT_INPUT);
    cr_expect_eq(problems_count(list), 5, "%s", all_messages(list));
    cr_expect(mentions(list, "n_positions is missing"), "%s", all_messages(list));
    problems_destroy(list);
    list = problems_create();
    text = "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 10, \"n_head\": 3, \"vocab_size\": 19, "
           "\"n_positions\": 7}";
    cr_expect_eq(read_config(text, &shape, list), EXIT_INPUT);
    cr_expect(mentions(list, "n_embd (10) must be a multiple of n_head (3)"), "%s", all_messages(list));
    problems_destroy(list);
}

Test(base, an_empty_folder_misses_both_files) {
    char *folder = temporary_folder();
    base_model *model;
    problems *list = problems_create();
    cr_expect_eq(base_load(folder, &model, list), EXIT_INPUT);
    cr_expect(mentions(list, "config.json: cannot be read"), "%s", all_messages(list));
    cr_expect(mentions(list, "has no model.safetensors"), "%s", all_messages(list));
    problems_destroy(list);
    remove_folder(folder);
}

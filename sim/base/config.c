/* config.json of a Hugging Face GPT-2 folder <-> base_shape. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/tensors.h"

static const struct {
    const char *key;
    size_t offset; /* of an int in base_shape */
    int max;
} sizes[] = {
    {"n_layer", offsetof(base_shape, layers), 1024},
    {"n_embd", offsetof(base_shape, width), 65536},
    {"n_head", offsetof(base_shape, heads), 65536},
    {"vocab_size", offsetof(base_shape, vocabulary), 1 << 24},
    {"n_positions", offsetof(base_shape, context), 1 << 24},
};

/* Switches of the architecture: an absent key means `supported`, as in transformers. */
static const struct {
    const char *key;
    bool supported;
    const char *why;
} switches[] = {
    {"scale_attn_weights", true, "scores are divided by the square root of the head's width"},
    {"scale_attn_by_inverse_layer_idx", false, "scores are not divided by the layer's number"},
    {"add_cross_attention", false, "there is no encoder to attend to"},
    {"tie_word_embeddings", true, "the output matrix is the token embedding"},
};

static exit_code read_size(json_t *config, const char *path, const char *key, int max, int *out,
                           problems *list) {
    json_t *value = json_object_get(config, key);
    json_int_t n = json_integer_value(value);
    if (!value)
        return problem(list, EXIT_INPUT, "%s: %s is missing; it must be an integer from 1 to %d", path, key,
                       max);
    if (!json_is_integer(value) || n < 1 || n > max)
        return problem(list, EXIT_INPUT, "%s: %s must be an integer from 1 to %d", path, key, max);
    *out = (int)n;
    return EXIT_OK;
}

static exit_code read_sizes(json_t *config, const char *path, base_shape *shape, problems *list) {
    exit_code code = EXIT_OK;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (read_size(config, path, sizes[i].key, sizes[i].max, (int *)((char *)shape + sizes[i].offset),
                      list))
            code = EXIT_INPUT;
    if (code) return code;
    shape->ffn = 4 * shape->width;
    json_t *inner = json_object_get(config, "n_inner");
    if (inner && !json_is_null(inner)) code = read_size(config, path, "n_inner", 1 << 20, &shape->ffn, list);
    if (shape->width % shape->heads)
        code = problem(list, EXIT_INPUT, "%s: n_embd (%d) must be a multiple of n_head (%d)", path,
                       shape->width, shape->heads);
    return code;
}

static exit_code read_epsilon(json_t *config, const char *path, float *out, problems *list) {
    json_t *value = json_object_get(config, "layer_norm_epsilon");
    double epsilon = value ? json_number_value(value) : 1e-5;
    if (!(epsilon > 0 && epsilon < 1) || (float)epsilon == 0.0f)
        return problem(list, EXIT_INPUT,
                       "%s: layer_norm_epsilon must be a number between 0 and 1, such as 1e-05", path);
    *out = (float)epsilon;
    return EXIT_OK;
}

/* wanted: the only supported value; an absent key passes where it is transformers' default. */
static exit_code read_word(json_t *config, const char *path, const char *key, const char *wanted,
                           bool required, problems *list) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    json_t *value = json_object_get(config, key);
    if (!value && !required) return EXIT_OK;
    if (!value) return problem(list, EXIT_INPUT, "%s: %s is missing; it must be \"%s\"", path, key, wanted);
    const char *text = json_string_value(value);
    if (!text) return problem(list, EXIT_INPUT, "%s: %s must be the string \"%s\"", path, key, wanted);
    if (strcmp(text, wanted))
        return problem(list, EXIT_INPUT, "%s: %s is \"%s\"; only \"%s\" is supported", path, key,
                       safetensors_shown(text, shown), wanted);
    return EXIT_OK;
}

static exit_code read_switches(json_t *config, const char *path, problems *list) {
    exit_code code = EXIT_OK;
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++) {
        json_t *value = json_object_get(config, switches[i].key);
        if (!value || (json_is_boolean(value) && json_is_true(value) == switches[i].supported)) continue;
        code = problem(list, EXIT_INPUT, "%s: %s must be %s: %s", path, switches[i].key,
                       switches[i].supported ? "true" : "false", switches[i].why);
    }
    json_t *pruned = json_object_get(config, "pruned_heads");
    if (pruned && !json_is_null(pruned) && json_object_size(pruned) + json_array_size(pruned) > 0)
        code = problem(list, EXIT_INPUT,
                       "%s: pruned_heads must be empty: all heads of a layer have one width", path);
    json_t *quantization = json_object_get(config, "quantization_config");
    if (quantization && !json_is_null(quantization))
        code = problem(
            list, EXIT_INPUT,
            "%s: quantization_config is not supported; save the model in float32, float16 or bfloat16", path);
    return code;
}

exit_code base_config_read(const char *path, base_shape *shape, problems *list) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    json_error_t error;
    *shape = (base_shape){0};
    json_t *config = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!config && error.line < 0)
        return problem(list, EXIT_INPUT, "%s: cannot be read: %s", path,
                       safetensors_shown(error.text, shown));
    if (!config)
        return problem(list, EXIT_INPUT, "%s:%d: is not valid JSON: %s", path, error.line,
                       safetensors_shown(error.text, shown));
    int before = problems_count(list);
    if (!json_is_object(config)) {
        problem(list, EXIT_INPUT, "%s: must be a JSON object, the config.json of a GPT-2 model", path);
    } else {
        read_word(config, path, "model_type", "gpt2", true, list);
        read_word(config, path, "activation_function", "gelu_new", false, list);
        read_sizes(config, path, shape, list);
        read_epsilon(config, path, &shape->epsilon, list);
        read_switches(config, path, list);
    }
    json_decref(config);
    return problems_count(list) > before ? EXIT_INPUT : EXIT_OK;
}

/* The shortest decimal that reads back as the same float: 1e-05, not 9.99999975e-06. */
static double shortest(float value) {
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    return strtod(text, NULL);
}

static json_t *make_config(const base_shape *shape) {
    /* Dropouts are 0 because the base is trained without; no token of a byte vocabulary begins or ends a
     * text. */
    json_t *config = json_pack("{s:[s], s:s, s:s, s:f, s:n, s:n, s:f, s:f, s:f, s:b, s:s}", "architectures",
                               "GPT2LMHeadModel", "model_type", "gpt2", "activation_function", "gelu_new",
                               "layer_norm_epsilon", shortest(shape->epsilon), "bos_token_id", "eos_token_id",
                               "resid_pdrop", 0.0, "embd_pdrop", 0.0, "attn_pdrop", 0.0,
                               "tie_word_embeddings", 1, "torch_dtype", "float32");
    for (size_t i = 0; config && i < sizeof sizes / sizeof *sizes; i++)
        json_object_set_new(config, sizes[i].key,
                            json_integer(*(const int *)((const char *)shape + sizes[i].offset)));
    if (config) json_object_set_new(config, "n_inner", json_integer(shape->ffn));
    return config;
}

exit_code base_config_write(const char *path, const base_shape *shape, problems *list) {
    json_t *config = make_config(shape);
    FILE *out = fopen(path, "wb");
    bool ok = config && out &&
              json_dumpf(config, out, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(9)) == 0 &&
              fputc('\n', out) != EOF && fflush(out) == 0 && fsync(fileno(out)) == 0;
    int error = errno;
    if (out && fclose(out)) ok = false;
    json_decref(config);
    return ok ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(error));
}

#include "base/config_keys.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/safetensors.h"

enum { MESSAGE_BYTES = 512 };

/* "PATH: IN.KEY MESSAGE"; false. */
__attribute__((format(printf, 3, 4))) static bool refuse(const base_config *config, const char *key,
                                                         const char *format, ...) {
    char message[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    problem(config->list, EXIT_INPUT, "%s: %s%s %s", config->path, config->in, key, message);
    return false;
}

bool config_has(const base_config *config, const char *key) {
    json_t *value = json_object_get(config->json, key);
    return value && !json_is_null(value);
}

bool config_int(const base_config *config, const char *key, int max, int *out) {
    json_t *value = json_object_get(config->json, key);
    json_int_t n = json_integer_value(value);
    if (!value) return refuse(config, key, "is missing; it must be an integer from 1 to %d", max);
    if (!json_is_integer(value) || n < 1 || n > max)
        return refuse(config, key, "must be an integer from 1 to %d", max);
    *out = (int)n;
    return true;
}

bool config_sizes(const base_config *config, const config_size *sizes, int n, void *shape) {
    bool good = true;
    for (int i = 0; i < n; i++)
        good &= config_int(config, sizes[i].key, sizes[i].max, (int *)((char *)shape + sizes[i].offset));
    return good;
}

bool config_positive(const base_config *config, const char *key, float *out) {
    json_t *value = json_object_get(config->json, key);
    if (!value) return true;
    float number = (float)json_number_value(value);
    if (!(number > 0.0f && isfinite(number))) return refuse(config, key, "must be a number above 0");
    *out = number;
    return true;
}

bool config_epsilon(const base_config *config, const char *key, double otherwise, float *out) {
    json_t *value = json_object_get(config->json, key);
    double epsilon = value ? json_number_value(value) : otherwise;
    if (!(epsilon > 0 && epsilon < 1) || (float)epsilon == 0.0f)
        return refuse(config, key, "must be a number between 0 and 1, such as 1e-05");
    *out = (float)epsilon;
    return true;
}

bool config_flag(const base_config *config, const char *key, bool *out) {
    json_t *value = json_object_get(config->json, key);
    if (!value) return true;
    if (!json_is_boolean(value)) return refuse(config, key, "must be true or false");
    *out = json_is_true(value);
    return true;
}

bool config_must_be(const base_config *config, const char *key, bool supported, const char *why) {
    json_t *value = json_object_get(config->json, key);
    if (!value || (json_is_boolean(value) && json_is_true(value) == supported)) return true;
    return refuse(config, key, "must be %s: %s", supported ? "true" : "false", why);
}

bool config_word(const base_config *config, const char *key, const char *supported) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    json_t *value = json_object_get(config->json, key);
    const char *text = json_string_value(value);
    if (!value) return true;
    if (!text) return refuse(config, key, "must be the string \"%s\"", supported);
    if (strcmp(text, supported) == 0) return true;
    return refuse(config, key, "is \"%s\"; only \"%s\" is supported", safetensors_shown(text, shown),
                  supported);
}

void config_refuse_quantized(const base_config *config) {
    if (config_has(config, "quantization_config"))
        refuse(config, "quantization_config",
               "is not supported; save the model in float32, float16 or bfloat16");
}

double config_shortest(float value) {
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    return strtod(text, NULL);
}

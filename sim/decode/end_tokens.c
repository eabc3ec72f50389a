#include "decode/end_tokens.h"

#include <jansson.h>
#include <stdio.h>

static int add(json_t *value, int n, int32_t out[MOST_END_TOKENS]) {
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id > INT32_MAX || n == MOST_END_TOKENS) return n;
    out[n] = (int32_t)id;
    return n + 1;
}

static int read_file(const char *folder, const char *name, int32_t out[MOST_END_TOKENS]) {
    char path[4096];
    int n = 0;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) return 0;
    json_t *config = json_load_file(path, 0, NULL), *value = json_object_get(config, "eos_token_id");
    if (json_is_integer(value)) n = add(value, n, out);
    for (size_t i = 0; i < json_array_size(value); i++) n = add(json_array_get(value, i), n, out);
    json_decref(config);
    return n;
}

int end_tokens_of(const char *folder, int32_t out[MOST_END_TOKENS]) {
    int n = read_file(folder, "generation_config.json", out);
    return n > 0 ? n : read_file(folder, "config.json", out);
}

/* config.json of a Hugging Face folder <-> base_shape: which family it is; the rest is the family's. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/tensors.h"

static const base_family *find(const char *model_type, base_family_id *id) {
    for (int f = 0; f < BASE_FAMILIES; f++) {
        const base_family *family = base_family_of((base_family_id)f);
        for (const char *const *type = family->model_types; *type; type++)
            if (strcmp(*type, model_type) == 0) {
                *id = (base_family_id)f;
                return family;
            }
    }
    return NULL;
}

/* "gpt2", "llama", "qwen2" */
static void list_model_types(char *out, size_t bytes) {
    int length = 0;
    for (int f = 0; f < BASE_FAMILIES; f++)
        for (const char *const *type = base_family_of((base_family_id)f)->model_types; *type; type++)
            length += snprintf(out + length, bytes - (size_t)length, "%s\"%s\"", length ? ", " : "", *type);
}

/* Its family, or NULL and a message. */
static const base_family *family_of(const base_config *config, base_family_id *id) {
    char known[128], shown[SAFETENSORS_SHOWN_BYTES];
    json_t *value = json_object_get(config->json, "model_type");
    const char *text = json_string_value(value);
    const base_family *family = text ? find(text, id) : NULL;
    list_model_types(known, sizeof known);
    if (!value)
        problem(config->list, EXIT_INPUT, "%s: model_type is missing; it must be one of %s", config->path,
                known);
    else if (!text)
        problem(config->list, EXIT_INPUT, "%s: model_type must be one of %s", config->path, known);
    else if (!family)
        problem(config->list, EXIT_INPUT, "%s: model_type \"%s\" is not supported; it must be one of %s",
                config->path, safetensors_shown(text, shown), known);
    return family;
}

exit_code base_config_read(const char *path, base_shape *shape, problems *list) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    json_error_t error;
    *shape = (base_shape){0};
    json_t *json = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!json && error.line < 0)
        return problem(list, EXIT_INPUT, "%s: cannot be read: %s", path,
                       safetensors_shown(error.text, shown));
    if (!json)
        return problem(list, EXIT_INPUT, "%s:%d: is not valid JSON: %s", path, error.line,
                       safetensors_shown(error.text, shown));
    int before = problems_count(list);
    base_config config = {.path = path, .in = "", .json = json, .list = list};
    if (!json_is_object(json)) {
        problem(list, EXIT_INPUT, "%s: must be a JSON object, the config.json of a model", path);
    } else {
        const base_family *family = family_of(&config, &shape->family);
        if (family) family->read(&config, shape);
    }
    json_decref(json);
    if (problems_count(list) > before) return EXIT_INPUT;
    *shape = base_complete(*shape);
    return EXIT_OK;
}

exit_code base_config_write(const char *path, const base_shape *shape, problems *list) {
    json_t *config = base_family_of(shape->family)->write(shape);
    FILE *out = fopen(path, "wb");
    bool ok = config && out &&
              json_dumpf(config, out, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(9)) == 0 &&
              fputc('\n', out) != EOF && fflush(out) == 0 && fsync(fileno(out)) == 0;
    int error = errno;
    if (out && fclose(out)) ok = false;
    json_decref(config);
    return ok ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(error));
}

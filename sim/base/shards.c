#include "base/shards.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_MESSAGES = 8 };

static const char index_name[] = "model.safetensors.index.json";

void shards_close(shards *s) {
    for (int i = 0; i < s->n; i++) safetensors_close(s->files_owned[i]);
    free(s->files_owned);
    free(s->path_owned);
    *s = (shards){0};
}

static exit_code open_file(shards *s, const char *path, problems *list) {
    safetensors **grown = realloc(s->files_owned, ((size_t)s->n + 1) * sizeof *grown);
    if (!grown) return problem(list, EXIT_ENVIRONMENT, "%s: no memory", path);
    s->files_owned = grown;
    exit_code code = safetensors_open(path, &grown[s->n], list);
    if (code == EXIT_OK) s->n++;
    return code;
}

/* ---- The index ---- */

static const char *file_name(const safetensors *file) {
    const char *path = safetensors_path(file), *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static const safetensors *file_named(const shards *s, const char *name) {
    for (int i = 0; i < s->n; i++)
        if (strcmp(file_name(s->files_owned[i]), name) == 0) return s->files_owned[i];
    return NULL;
}

/* Opens the file that the index gives a tensor, unless it is open already. */
static exit_code open_shard(shards *s, const char *folder, const char *tensor, json_t *value,
                            problems *list) {
    char shown[SAFETENSORS_SHOWN_BYTES], shown_file[SAFETENSORS_SHOWN_BYTES];
    const char *name = json_string_value(value);
    if (!name || !*name || *name == '.' || strchr(name, '/'))
        return problem(list, EXIT_INPUT,
                       "%s: weight_map gives tensor \"%s\" no file; it must be the name of a file beside it",
                       s->path_owned, safetensors_shown(tensor, shown));
    if (file_named(s, name)) return EXIT_OK;
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory", folder);
    exit_code code =
        access(path, F_OK) == 0
            ? open_file(s, path, list)
            : problem(list, EXIT_INPUT, "%s: names the file %s, which is missing; it must be beside it",
                      s->path_owned, safetensors_shown(name, shown_file));
    free(path);
    return code;
}

/* Every tensor of a file is one that the index places in it. */
static exit_code check_file(const shards *s, const safetensors *file, json_t *map, problems *list) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    int wrong = 0;
    for (int64_t i = 0; i < safetensors_count(file); i++) {
        const char *name = safetensors_at(file, i)->name,
                   *place = json_string_value(json_object_get(map, name));
        if (place && strcmp(place, file_name(file)) == 0) continue;
        if (wrong++ < MAX_MESSAGES)
            problem(list, EXIT_INPUT, "%s: holds tensor \"%s\", which %s places elsewhere, or nowhere",
                    safetensors_path(file), safetensors_shown(name, shown), s->path_owned);
    }
    return wrong ? EXIT_INPUT : EXIT_OK;
}

/* Every tensor of the index is in its file. */
static exit_code check_index(const shards *s, json_t *map, problems *list) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    const char *name;
    json_t *value;
    int wrong = 0;
    json_object_foreach(map, name, value) {
        if (safetensors_find(file_named(s, json_string_value(value)), name)) continue;
        if (wrong++ < MAX_MESSAGES)
            problem(list, EXIT_INPUT, "%s: places tensor \"%s\" in %s, which does not hold it", s->path_owned,
                    safetensors_shown(name, shown), json_string_value(value));
    }
    return wrong ? EXIT_INPUT : EXIT_OK;
}

static exit_code open_shards(shards *s, const char *folder, json_t *map, problems *list) {
    exit_code code = EXIT_OK;
    const char *missing[MAX_MESSAGES];
    int n_missing = 0;
    const char *name;
    json_t *value;
    if (!json_is_object(map) || json_object_size(map) == 0)
        return problem(list, EXIT_INPUT, "%s: weight_map must be an object that gives every tensor its file",
                       s->path_owned);
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        bool known = false;
        for (int i = 0; file && i < n_missing; i++) known |= strcmp(missing[i], file) == 0;
        if (known) continue;
        exit_code one = open_shard(s, folder, name, value, list);
        if (one && file) missing[n_missing++] = file;
        if (one) code = one;
        if (n_missing == MAX_MESSAGES) break;
    }
    if (!code) code = check_index(s, map, list);
    for (int i = 0; i < s->n && !code; i++) code = check_file(s, s->files_owned[i], map, list);
    return code;
}

static exit_code open_index(shards *s, const char *folder, problems *list) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    json_error_t error;
    json_t *index = json_load_file(s->path_owned, JSON_REJECT_DUPLICATES, &error);
    exit_code code;
    if (!index)
        code = problem(list, EXIT_INPUT, "%s:%d: is not valid JSON: %s", s->path_owned, error.line,
                       safetensors_shown(error.text, shown));
    else
        code = open_shards(s, folder, json_object_get(index, "weight_map"), list);
    json_decref(index);
    return code;
}

/* ---- A checkpoint ---- */

exit_code shards_open(const char *folder, shards *out, problems *list) {
    *out = (shards){0};
    exit_code code;
    if (asprintf(&out->path_owned, "%s/model.safetensors", folder) < 0) {
        out->path_owned = NULL;
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory", folder);
    }
    if (access(out->path_owned, F_OK) == 0) {
        code = open_file(out, out->path_owned, list);
    } else {
        free(out->path_owned);
        out->path_owned = NULL;
        if (asprintf(&out->path_owned, "%s/%s", folder, index_name) < 0) {
            out->path_owned = NULL;
            return problem(list, EXIT_ENVIRONMENT, "%s: no memory", folder);
        }
        code =
            access(out->path_owned, F_OK) == 0
                ? open_index(out, folder, list)
                : problem(
                      list, EXIT_INPUT,
                      "%s: has no model.safetensors (nor %s, which lists several files); save_pretrained in "
                      "transformers writes one",
                      folder, index_name);
    }
    if (code != EXIT_OK) shards_close(out);
    return code;
}

exit_code shards_open_file(const char *path, shards *out, problems *list) {
    *out = (shards){.path_owned = strdup(path)};
    exit_code code =
        out->path_owned ? open_file(out, path, list) : problem(list, EXIT_ENVIRONMENT, "%s: no memory", path);
    if (code != EXIT_OK) shards_close(out);
    return code;
}

const safetensor *shards_find(const shards *s, const char *name, const safetensors **file) {
    for (int i = 0; i < s->n; i++) {
        const safetensor *t = safetensors_find(s->files_owned[i], name);
        if (!t) continue;
        if (file) *file = s->files_owned[i];
        return t;
    }
    return NULL;
}

/* Copies to `out` the tensors that are in file i; returns how many. */
static int of_file(const shards *s, int i, const packed_tensor *tensors, int n, packed_tensor *out) {
    int found = 0;
    for (int j = 0; j < n; j++)
        if (safetensors_find(s->files_owned[i], tensors[j].name)) out[found++] = tensors[j];
    return found;
}

static exit_code check_missing(const shards *s, const packed_tensor *tensors, int n, problems *list) {
    exit_code code = EXIT_OK;
    for (int j = 0; j < n; j++)
        if (!shards_find(s, tensors[j].name, NULL))
            code = safetensors_missing(s->path_owned, &tensors[j], list);
    return code;
}

exit_code shards_check(const shards *s, const packed_tensor *tensors, int n_tensors,
                       bool (*ignored)(const char *name), problems *list) {
    packed_tensor *some = malloc(((size_t)n_tensors + 1) * sizeof *some);
    if (!some) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to check its tensors", s->path_owned);
    exit_code code = check_missing(s, tensors, n_tensors, list);
    for (int i = 0; i < s->n; i++)
        if (safetensors_check(s->files_owned[i], some, of_file(s, i, tensors, n_tensors, some), ignored,
                              list))
            code = EXIT_INPUT;
    free(some);
    return code;
}

exit_code shards_read(const shards *s, const packed_tensor *tensors, int n_tensors, float *pack,
                      problems *list) {
    packed_tensor *some = malloc(((size_t)n_tensors + 1) * sizeof *some);
    if (!some) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to read its tensors", s->path_owned);
    exit_code code = EXIT_OK;
    for (int i = 0; i < s->n; i++)
        if (safetensors_read(s->files_owned[i], some, of_file(s, i, tensors, n_tensors, some), pack, list))
            code = EXIT_INPUT;
    free(some);
    return code;
}

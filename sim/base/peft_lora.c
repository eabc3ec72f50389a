#include "base/peft_lora.h"

#include <jansson.h>
#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config_keys.h"

enum { MAX_RANK = 1 << 16, MAX_MESSAGES = 8, PATH_BYTES = 4096 };

static const char config_name[] = "adapter_config.json", weights_name[] = "adapter_model.safetensors";
static const char prefix[] = "base_model.model.", a_end[] = ".lora_A.weight", b_end[] = ".lora_B.weight";

static void path_in(const char *folder, const char *name, char out[PATH_BYTES]) {
    snprintf(out, PATH_BYTES, "%s/%s", folder, name);
}

bool peft_lora_is_there(const char *folder) {
    char path[PATH_BYTES];
    path_in(folder, config_name, path);
    return access(path, F_OK) == 0;
}

/* ---- adapter_config.json ---- */

typedef struct {
    int rank;
    float alpha;
    bool rslora;
    json_t *rank_pattern, *alpha_pattern; /* borrowed */
} peft_config;

/* As PEFT matches a key of a pattern: a regular expression for the whole name, or for its end after a dot. */
static json_t *matching(const base_config *config, json_t *pattern, const char *module) {
    const char *key;
    json_t *value;
    json_object_foreach(pattern, key, value) {
        char text[512];
        regex_t expression;
        snprintf(text, sizeof text, "^(.*\\.)?(%s)$", key);
        if (strlen(key) > 480 || regcomp(&expression, text, REG_EXTENDED | REG_NOSUB) != 0) {
            char shown[SAFETENSORS_SHOWN_BYTES];
            problem(config->list, EXIT_INPUT, "%s: \"%s\" is no regular expression", config->path,
                    safetensors_shown(key, shown));
            continue;
        }
        bool matches = regexec(&expression, module, 0, NULL, 0) == 0;
        regfree(&expression);
        if (matches) return value;
    }
    return NULL;
}

static void refuse_unsupported(const base_config *config) {
    json_t *bias = json_object_get(config->json, "bias"),
           *saved = json_object_get(config->json, "modules_to_save");
    config_must_be(config, "use_dora", false, "W' = W + s B A, without a magnitude of its own");
    if (bias && (!json_is_string(bias) || strcmp(json_string_value(bias), "none") != 0))
        problem(config->list, EXIT_INPUT, "%s: bias must be \"none\": only LoRA is folded", config->path);
    if (json_array_size(saved) > 0)
        problem(config->list, EXIT_INPUT, "%s: modules_to_save must be empty: only LoRA is folded",
                config->path);
}

static void read_config(const base_config *config, peft_config *out) {
    config_word(config, "peft_type", "LORA");
    if (!config_has(config, "lora_alpha") || !config_has(config, "r"))
        problem(config->list, EXIT_INPUT, "%s: lora_alpha and r must be there: a LoRA is scaled by them",
                config->path);
    config_int(config, "r", MAX_RANK, &out->rank);
    config_positive(config, "lora_alpha", &out->alpha);
    config_flag(config, "use_rslora", &out->rslora);
    out->rank_pattern = json_object_get(config->json, "rank_pattern");
    out->alpha_pattern = json_object_get(config->json, "alpha_pattern");
    refuse_unsupported(config);
}

static float scale_of(const base_config *config, const peft_config *c, const char *module, int rank) {
    json_t *alpha = matching(config, c->alpha_pattern, module);
    double a = alpha ? json_number_value(alpha) : c->alpha;
    return (float)(c->rslora ? a / sqrt(rank) : a / rank);
}

static void check_rank(const base_config *config, const peft_config *c, const peft_pair *pair) {
    json_t *own = matching(config, c->rank_pattern, pair->module);
    long long rank = own ? json_integer_value(own) : c->rank;
    if (rank != pair->rank)
        problem(config->list, EXIT_INPUT, "%s: says that %s has rank %lld, and its factors have %d",
                config->path, pair->module, rank, pair->rank);
}

/* ---- adapter_model.safetensors ---- */

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

/* "base_model.model.MODULE.lora_A.weight" -> MODULE; false: it is called otherwise. */
static bool module_of(const char *name, const char *end, char out[PACKED_NAME_BYTES]) {
    size_t skip = sizeof prefix - 1, length = strlen(name), tail = strlen(end);
    if (strncmp(name, prefix, skip) != 0 || !ends_with(name, end) || length < skip + tail) return false;
    size_t n = length - skip - tail;
    if (n == 0 || length >= PACKED_NAME_BYTES) return false;
    memcpy(out, name + skip, n);
    out[n] = '\0';
    return true;
}

static const safetensor *partner(const safetensors *file, const char *module, const char *end) {
    char name[2 * PACKED_NAME_BYTES];
    snprintf(name, sizeof name, "%s%s%s", prefix, module, end);
    return safetensors_find(file, name);
}

static bool is_matrix(const safetensor *t) {
    return t->n_dims == 2 && t->dims[0] > 0 && t->dims[1] > 0 && t->dtype != SAFETENSORS_OTHER;
}

/* Of the factor A of a module. */
static exit_code add_pair(peft_lora *lora, const safetensor *a, const char *module, problems *list) {
    const char *path = safetensors_path(lora->file_owned);
    const safetensor *b = partner(lora->file_owned, module, b_end);
    if (!b) return problem(list, EXIT_INPUT, "%s: %s has a lora_A, but no lora_B", path, module);
    if (!is_matrix(a) || !is_matrix(b) || a->dims[0] != b->dims[1] || a->dims[0] > MAX_RANK)
        return problem(list, EXIT_INPUT,
                       "%s: the factors of %s do not fit each other; they must be F32, F16 or BF16 matrices "
                       "lora_A [rank, in] and lora_B [out, rank]",
                       path, module);
    peft_pair *pair = &lora->pairs_owned[lora->n++];
    *pair = (peft_pair){.a = a, .b = b, .rank = (int)a->dims[0], .in = a->dims[1], .out = b->dims[0]};
    snprintf(pair->module, sizeof pair->module, "%s", module);
    return EXIT_OK;
}

static exit_code list_pairs(peft_lora *lora, problems *list) {
    const safetensors *file = lora->file_owned;
    char module[PACKED_NAME_BYTES], shown[SAFETENSORS_SHOWN_BYTES];
    int64_t n = safetensors_count(file);
    int others = 0;
    exit_code code = EXIT_OK;
    lora->pairs_owned = calloc((size_t)n + 1, sizeof *lora->pairs_owned);
    if (!lora->pairs_owned) return problem(list, EXIT_ENVIRONMENT, "%s: no memory", safetensors_path(file));
    for (int64_t i = 0; i < n; i++) {
        const safetensor *t = safetensors_at(file, i);
        if (module_of(t->name, a_end, module)) {
            if (add_pair(lora, t, module, list)) code = EXIT_INPUT;
        } else if (!module_of(t->name, b_end, module) || !partner(file, module, a_end)) {
            code = EXIT_INPUT;
            if (others++ < MAX_MESSAGES)
                problem(list, EXIT_INPUT,
                        "%s: tensor \"%s\" is not of a LoRA of linears, which alone can be folded",
                        safetensors_path(file), safetensors_shown(t->name, shown));
        }
    }
    if (code == EXIT_OK && lora->n == 0)
        code = problem(list, EXIT_INPUT, "%s: holds no LoRA", safetensors_path(file));
    return code;
}

/* ---- Both ---- */

static exit_code scale_pairs(peft_lora *lora, base_config *config) {
    peft_config c = {0};
    int before = problems_count(config->list);
    read_config(config, &c);
    for (int i = 0; i < lora->n && problems_count(config->list) == before; i++) {
        peft_pair *pair = &lora->pairs_owned[i];
        check_rank(config, &c, pair);
        pair->scale = scale_of(config, &c, pair->module, pair->rank);
        if (!isfinite(pair->scale))
            problem(config->list, EXIT_INPUT, "%s: the alpha of %s is no number", config->path, pair->module);
    }
    return problems_count(config->list) > before ? EXIT_INPUT : EXIT_OK;
}

static exit_code read_scales(peft_lora *lora, const char *path, problems *list) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    json_error_t error;
    json_t *json = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    base_config config = {.path = path, .in = "", .json = json, .list = list};
    exit_code code;
    if (!json)
        code = problem(list, EXIT_INPUT, "%s:%d: is not valid JSON: %s", path, error.line,
                       safetensors_shown(error.text, shown));
    else if (!json_is_object(json))
        code = problem(list, EXIT_INPUT, "%s: must be a JSON object, as PEFT writes it", path);
    else
        code = scale_pairs(lora, &config);
    json_decref(json);
    return code;
}

exit_code peft_lora_open(const char *folder, peft_lora *out, problems *list) {
    char config[PATH_BYTES], weights[PATH_BYTES];
    *out = (peft_lora){0};
    path_in(folder, config_name, config);
    path_in(folder, weights_name, weights);
    exit_code code = safetensors_open(weights, &out->file_owned, list);
    THEN(code, list_pairs(out, list));
    THEN(code, read_scales(out, config, list));
    if (code != EXIT_OK) peft_lora_close(out);
    return code;
}

void peft_lora_close(peft_lora *lora) {
    safetensors_close(lora->file_owned);
    free(lora->pairs_owned);
    *lora = (peft_lora){0};
}

static exit_code read_factor(const peft_lora *lora, const safetensor *t, bool transposed, float *out,
                             problems *list) {
    packed_tensor p = {.n_dims = 2, .dims = {t->dims[0], t->dims[1]}, .transposed = transposed};
    snprintf(p.name, sizeof p.name, "%s", t->name);
    return safetensors_read(lora->file_owned, &p, 1, out, list);
}

exit_code peft_lora_read(const peft_lora *lora, const peft_pair *pair, float *a, float *b, problems *list) {
    exit_code code = read_factor(lora, pair->a, false, a, list);
    exit_code other = read_factor(lora, pair->b, true, b, list);
    return THEN(code, other);
}

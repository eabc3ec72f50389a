/* peft_read.c - a PEFT folder into a pack: what its configuration may say, which modules it must have, and
 * the factors. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/adapters.h"
#include "adapters/peft.h"
#include "adapters/peft_modules.h"

enum { PATH_BYTES = 4096 };

/* ---- Configuration */

typedef struct {
    json_t *json; /* owned */
    char path[PATH_BYTES];
} peft_config;

static exit_code open_config(const char *folder, peft_config *config, problems *list) {
    json_error_t error;
    snprintf(config->path, sizeof config->path, "%s/adapter_config.json", folder);
    config->json = json_load_file(config->path, JSON_REJECT_DUPLICATES, &error);
    if (!config->json)
        return problem(list, EXIT_INPUT, "%s: line %d: %s", config->path, error.line, error.text);
    if (json_is_object(config->json)) return EXIT_OK;
    return problem(list, EXIT_INPUT, "%s: is not a JSON object", config->path);
}

static const char *text_of(const peft_config *config, const char *key) {
    const char *text = json_string_value(json_object_get(config->json, key));
    return text ? text : "absent";
}

/* What PEFT can add to a model beside A and B: a key that is absent, null, false or empty adds nothing. */
static const char *const others[] = {"use_dora",
                                     "lora_bias",
                                     "use_qalora",
                                     "modules_to_save",
                                     "layers_to_transform",
                                     "layer_replication",
                                     "target_parameters",
                                     "trainable_token_indices"};

static bool says_something(const json_t *value) {
    return value && !json_is_null(value) && !json_is_false(value) &&
           !(json_is_array(value) && json_array_size(value) == 0) &&
           !(json_is_object(value) && json_object_size(value) == 0);
}

static exit_code check_kind(const peft_config *config, problems *list) {
    exit_code code = EXIT_OK;
    if (strcmp(text_of(config, "peft_type"), "LORA") != 0)
        code = problem(list, EXIT_INPUT, "%s: peft_type is %s; only LORA can be loaded", config->path,
                       text_of(config, "peft_type"));
    const json_t *bias = json_object_get(config->json, "bias");
    if (bias && strcmp(text_of(config, "bias"), "none") != 0)
        code = problem(list, EXIT_INPUT,
                       "%s: bias is %s; only none can be loaded: biases of the base are not trained",
                       config->path, text_of(config, "bias"));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (says_something(json_object_get(config->json, others[i])))
            code =
                problem(list, EXIT_INPUT, "%s: %s is set; only factors A and B on every layer can be loaded",
                        config->path, others[i]);
    if (!(json_number_value(json_object_get(config->json, "lora_alpha")) > 0.0))
        code = problem(list, EXIT_INPUT, "%s: lora_alpha must be a number above 0", config->path);
    return code;
}

/* Whether `end` is the end of a module's name, at a dot: "c_proj" of "mlp.c_proj". */
static bool ends_with(const char *name, const char *end) {
    size_t length = strlen(name), tail = strlen(end);
    return tail <= length && strcmp(name + length - tail, end) == 0 &&
           (tail == length || name[length - tail - 1] == '.');
}

/* Of a module of the whole model, "transformer.h.0.attn.c_attn", or of its end. */
static bool is_module(const ck_shape *shape, ck_site site, const char *text) {
    const char *name = peft_module_name(shape, site);
    return name && (ends_with(name, text) || ends_with(text, name));
}

/* A list of ends of names; a text is a pattern, and the tensors say what it found. */
static exit_code check_targets(const peft_config *config, const ck_shape *shape, problems *list) {
    exit_code code = EXIT_OK;
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(config->json, "target_modules"), i, entry) {
        const char *text = json_string_value(entry);
        bool known = false;
        for (ck_site site = 0; text && site < CK_SITES; site++) known |= is_module(shape, site, text);
        if (!known)
            code =
                problem(list, EXIT_INPUT,
                        "%s: target_modules has %.80s; LoRAs can be on the linears of attention and MLP of "
                        "this base alone",
                        config->path, text ? text : "an entry that is no text");
    }
    return code;
}

/* Keys that are the end of a module's name; a pattern would need PEFT's regular expressions. */
static exit_code check_alphas(const peft_config *config, problems *list) {
    exit_code code = EXIT_OK;
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(config->json, "alpha_pattern"), key, value) {
        if (strpbrk(key, "^$*+?()[]{}|\\"))
            code = problem(list, EXIT_INPUT, "%s: alpha_pattern has %.80s; write the ends of modules' names",
                           config->path, key);
        if (!(json_number_value(value) > 0.0))
            code = problem(list, EXIT_INPUT, "%s: alpha_pattern: %.80s must be a number above 0",
                           config->path, key);
    }
    return code;
}

/* As PEFT computes it. */
static float scale_of(const peft_config *config, const ck_shape *shape, const peft_module *m) {
    double alpha = json_number_value(json_object_get(config->json, "lora_alpha"));
    const char *key;
    json_t *value;
    char name[PACKED_NAME_BYTES];
    snprintf(name, sizeof name, "%s.%d.%s", peft_is_gpt2(shape) ? "transformer.h" : "model.layers", m->layer,
             peft_module_name(shape, m->site));
    json_object_foreach(json_object_get(config->json, "alpha_pattern"), key, value) if (ends_with(name, key))
        alpha = json_number_value(value);
    return (float)(json_is_true(json_object_get(config->json, "use_rslora")) ? alpha / sqrt(m->rank)
                                                                             : alpha / m->rank);
}

/* ---- Modules and ranks, before single tensors are */

static const peft_module *module_at(const peft_modules *modules, ck_site site) {
    for (int i = 0; i < modules->count; i++)
        if (modules->list[i].site == site) return &modules->list[i];
    return NULL;
}

/* A factor of layer 0's module in the file; NULL: there is none. */
static const safetensor *factor_in_file(const safetensors *file, const ck_shape *shape, ck_site site,
                                        ck_factor factor) {
    const peft_module any = {.site = site, .rank = 1};
    if (!peft_module_name(shape, site)) return NULL;
    packed_tensor tensor = peft_tensor(shape, &any, factor);
    const safetensor *t = safetensors_find(file, tensor.name);
    return t && t->n_dims == 2 ? t : NULL;
}

/* The key of a configuration that gives the module's rank. */
static const char *key_of_rank(const peft_module *module) {
    return module && module->n_parts == 1 && module->a[0].adapter == CK_EXPERTS ? "experts.rank" : "lora.";
}

static exit_code check_rank(const char *path, const ck_shape *shape, ck_site site, const peft_module *module,
                            int64_t there, problems *list) {
    int64_t here = module ? module->rank : 0;
    const char *name = peft_module_name(shape, site), *key = key_of_rank(module),
               *linear = key[0] == 'l' ? settings_linear(site) : "";
    if (there == here) return EXIT_OK;
    if (there == 0)
        return problem(list, EXIT_INPUT, "%s: has no LoRA on %s, and the device has one of rank %lld there",
                       path, name, (long long)here);
    if (here == 0)
        return problem(
            list, EXIT_INPUT,
            "%s: has a LoRA of rank %lld on %s, and the device has none there; give %s%s that rank", path,
            (long long)there, name, key, linear);
    return problem(list, EXIT_INPUT,
                   "%s: the LoRA on %s has rank %lld, the device's has %lld; give %s%s that rank", path, name,
                   (long long)there, (long long)here, key, linear);
}

/* Inputs and outputs of the linear that the LoRA is for. */
static exit_code check_linear(const char *path, const ck_shape *shape, const peft_module *m,
                              const safetensor *a, const safetensor *b, problems *list) {
    if (!a || !b || (a->dims[1] == m->in && b->dims[0] == m->out)) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "%s: is of another base: A and B on %s are [%lld, %lld] and [%lld, %lld]; here they would "
                   "be [%lld, %d] and [%d, %lld]",
                   path, peft_module_name(shape, m->site), (long long)a->dims[0], (long long)a->dims[1],
                   (long long)b->dims[0], (long long)b->dims[1], (long long)a->dims[0], m->in, m->out,
                   (long long)a->dims[0]);
}

/* Nothing in the file has a name that this base's LoRAs have. */
static exit_code refuse_names(const safetensors *file, const ck_shape *shape, const peft_modules *modules,
                              problems *list) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    if (safetensors_count(file) == 0 || modules->count == 0)
        return problem(list, EXIT_INPUT, "%s: has no tensors, or the device has no LoRA",
                       safetensors_path(file));
    packed_tensor here = peft_tensor(shape, &modules->list[0], CK_FACTOR_A);
    const safetensor *there = safetensors_at(file, 0);
    return problem(list, EXIT_INPUT,
                   "%s: is of another base: its first tensor is \"%s\" [%lld, %lld]; this base's is \"%s\" "
                   "[%lld, %lld]",
                   safetensors_path(file), safetensors_shown(there->name, shown),
                   (long long)(there->n_dims > 0 ? there->dims[0] : 1),
                   (long long)(there->n_dims > 1 ? there->dims[1] : 1), here.name, (long long)here.dims[0],
                   (long long)here.dims[1]);
}

/* A line for each module, where a list of all layers' tensors would say the same many times. */
static exit_code check_modules(const safetensors *file, const ck_shape *shape, const peft_modules *modules,
                               problems *list) {
    const char *path = safetensors_path(file);
    exit_code code = EXIT_OK;
    int found = 0;
    for (ck_site site = 0; site < CK_SITES; site++) {
        const safetensor *a = factor_in_file(file, shape, site, CK_FACTOR_A),
                         *b = factor_in_file(file, shape, site, CK_FACTOR_B);
        const peft_module *module = module_at(modules, site);
        found += a != NULL;
        if (module && check_linear(path, shape, module, a, b, list)) code = EXIT_INPUT;
    }
    if (found == 0) return refuse_names(file, shape, modules, list);
    exit_code linears = code;
    for (ck_site site = 0; site < CK_SITES && linears == EXIT_OK; site++) {
        const safetensor *a = factor_in_file(file, shape, site, CK_FACTOR_A);
        if (check_rank(path, shape, site, module_at(modules, site), a ? a->dims[0] : 0, list))
            code = EXIT_INPUT;
    }
    return code;
}

/* ---- Factors */

static void scatter(const ck_shape *s, const peft_module *m, float scale, const float *buffer, float *pack) {
    const float *a = buffer + m->at_a, *b = buffer + m->at_b;
    for (int i = 0; i < m->n_parts; i++) {
        int64_t in = (int64_t)m->a[i].rows * m->in, out = (int64_t)m->b[i].rows * m->out;
        float own = peft_scale_of(s, &m->a[i]);
        memcpy(pack + m->a[i].offset, a, (size_t)in * sizeof *a);
        for (int64_t j = 0; j < out; j++)
            pack[m->b[i].offset + j] = own == scale ? b[j] : b[j] * (scale / own);
        a += in;
        b += out;
    }
}

static exit_code read_factors(const safetensors *file, const peft_config *config, const ck_shape *shape,
                              const peft_modules *modules, float *pack, problems *list) {
    packed_tensor *tensors = malloc((size_t)modules->count * 2 * sizeof *tensors + 1);
    float *buffer = malloc((size_t)modules->floats * sizeof *buffer + 1);
    int n = 0;
    exit_code code = tensors && buffer ? EXIT_OK
                                       : problem(list, EXIT_ENVIRONMENT, "%s: no memory to read it",
                                                 safetensors_path(file));
    for (int i = 0; i < modules->count && code == EXIT_OK; i++) {
        tensors[n++] = peft_tensor(shape, &modules->list[i], CK_FACTOR_A);
        tensors[n++] = peft_tensor(shape, &modules->list[i], CK_FACTOR_B);
    }
    THEN(code, safetensors_check(file, tensors, n, NULL, list));
    THEN(code, safetensors_read(file, tensors, n, buffer, list));
    for (int i = 0; i < modules->count && code == EXIT_OK; i++)
        scatter(shape, &modules->list[i], scale_of(config, shape, &modules->list[i]), buffer, pack);
    free(tensors);
    free(buffer);
    return code;
}

static exit_code read_tensors(const char *folder, const peft_config *config, const ck_shape *shape,
                              int expert, float *pack, problems *list) {
    char path[PATH_BYTES];
    safetensors *file = NULL;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    peft_modules modules = peft_modules_of(shape, expert);
    exit_code code =
        modules.list ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "%s: no memory to read it", path);
    THEN(code, safetensors_open(path, &file, list));
    THEN(code, check_modules(file, shape, &modules, list));
    THEN(code, read_factors(file, config, shape, &modules, pack, list));
    safetensors_close(file);
    free(modules.list);
    return code;
}

bool peft_is_folder(const char *folder) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    return access(path, F_OK) == 0;
}

exit_code peft_read(const char *folder, const ck_shape *shape, int expert, float *pack, problems *list) {
    peft_config config = {0};
    exit_code code = open_config(folder, &config, list);
    THEN(code, check_kind(&config, list));
    THEN(code, check_targets(&config, shape, list));
    THEN(code, check_alphas(&config, list));
    THEN(code, read_tensors(folder, &config, shape, expert, pack, list));
    json_decref(config.json);
    return code;
}

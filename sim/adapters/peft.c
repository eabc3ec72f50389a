/* peft.c - one expert of a pack as PEFT's two files. Scale: alpha / sqrt(r) (rsLoRA) or alpha / r, r of each
 * module. */
#include "adapters/peft.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/adapters.h"
#include "adapters/peft_modules.h"

typedef struct {
    packed_tensor *tensors;
    int count;
} tensor_list;

const char *peft_folder_name(int generalists, int experts, int expert, char name[PEFT_NAME_BYTES]) {
    if (experts == 0)
        snprintf(name, PEFT_NAME_BYTES, "lora");
    else if (expert < generalists)
        snprintf(name, PEFT_NAME_BYTES, "generalist%d", expert);
    else
        snprintf(name, PEFT_NAME_BYTES, "specialist%d", expert - generalists);
    return name;
}

/* ---- Configuration */

/* The alpha that gives a module the scale of its first part. */
static double alpha_of(const peft_module *m, const experts_settings *x, const lora_settings *lora) {
    double alpha = m->a[0].adapter == CK_LORA ? lora->alpha[m->site] : x->alpha,
           more = (double)m->rank / m->a[0].rows;
    if (m->n_parts == 1) return alpha;
    return alpha * (x->scaling == SCALING_RSLORA ? sqrt(more) : more);
}

static json_t *number(double value) {
    return value == rint(value) ? json_integer((json_int_t)value) : json_real(value);
}

/* PEFT's keys: the modules that have a LoRA, and which of them have another rank or alpha than the first; all
 * match the end of a module's name. */
static json_t *make_config(const ck_shape *s, const peft_modules *modules, const experts_settings *x,
                           const lora_settings *lora, const char *base) {
    json_t *targets = json_array(), *ranks = json_object(), *alphas = json_object();
    const peft_module *first = modules->list;
    for (int i = 0; i < modules->count && modules->list[i].layer == 0; i++) {
        const peft_module *m = &modules->list[i];
        const char *name = peft_module_name(s, m->site);
        json_array_append_new(targets, json_string(name));
        if (m->rank != first->rank) json_object_set_new(ranks, name, json_integer(m->rank));
        if (alpha_of(m, x, lora) != alpha_of(first, x, lora))
            json_object_set_new(alphas, name, number(alpha_of(m, x, lora)));
    }
    return json_pack("{s:s, s:s, s:s?, s:i, s:o, s:b, s:f, s:s, s:b, s:o, s:o, s:o, s:b}", "peft_type",
                     "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", base, "r", (int)first->rank,
                     "lora_alpha", number(alpha_of(first, x, lora)), "use_rslora",
                     x->scaling == SCALING_RSLORA, "lora_dropout", 0.0, "bias", "none", "fan_in_fan_out",
                     peft_is_gpt2(s), "target_modules", targets, "rank_pattern", ranks, "alpha_pattern",
                     alphas, "inference_mode", 1);
}

static exit_code write_config(const char *path, json_t *config, problems *list) {
    char *text = config ? json_dumps(config, JSON_INDENT(2)) : NULL;
    if (!text) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to write it", path);
    FILE *out = fopen(path, "w");
    bool ok = out && fprintf(out, "%s\n", text) > 0;
    if (out && fclose(out) != 0) ok = false;
    free(text);
    return ok ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(errno));
}

static exit_code write_tensors(const char *path, const tensor_list *tensors, const float *pack,
                               problems *list) {
    if (!path || !tensors->tensors) return problem(list, EXIT_ENVIRONMENT, "no memory to write adapters");
    return safetensors_write(path, tensors->tensors, tensors->count, pack, list);
}

static char *path_of(const char *folder, const char *name) {
    char *path = NULL;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

/* The parts' rows one after another, those of B at the scale of the first. */
static void gather(const ck_shape *s, const peft_module *m, const float *pack, float *buffer) {
    float *a = buffer + m->at_a, *b = buffer + m->at_b;
    for (int i = 0; i < m->n_parts; i++) {
        int64_t in = (int64_t)m->a[i].rows * m->in, out = (int64_t)m->b[i].rows * m->out;
        float ratio = peft_scale_of(s, &m->a[i]) / peft_scale_of(s, &m->a[0]);
        memcpy(a, pack + m->a[i].offset, (size_t)in * sizeof *a);
        for (int64_t j = 0; j < out; j++)
            b[j] = i == 0 ? pack[m->b[i].offset + j] : ratio * pack[m->b[i].offset + j];
        a += in;
        b += out;
    }
}

/* NULL: no memory. */
static float *gather_all(const ck_shape *s, const peft_modules *modules, const float *pack,
                         tensor_list *list) {
    float *buffer = malloc((size_t)modules->floats * sizeof *buffer + 1);
    *list = (tensor_list){.tensors = malloc((size_t)modules->count * 2 * sizeof *list->tensors + 1)};
    for (int i = 0; i < modules->count && buffer && list->tensors; i++) {
        gather(s, &modules->list[i], pack, buffer);
        list->tensors[list->count++] = peft_tensor(s, &modules->list[i], CK_FACTOR_A);
        list->tensors[list->count++] = peft_tensor(s, &modules->list[i], CK_FACTOR_B);
    }
    return buffer;
}

bool peft_has_lora(const ck_shape *shape, int expert) {
    bool found = false;
    for (int32_t i = 0; i < ck_part_count(shape) && !found; i++) {
        ck_part part = ck_part_at(shape, i);
        found = part.factor == CK_FACTOR_A && part.adapter != CK_TIED &&
                (part.expert == expert || part.expert < 0);
    }
    return found;
}

exit_code peft_write(const char *folder, const ck_shape *shape, int expert, const experts_settings *experts,
                     const lora_settings *lora, const char *base, const float *pack, problems *list) {
    char *weights = path_of(folder, "adapter_model.safetensors"),
         *config = path_of(folder, "adapter_config.json");
    peft_modules modules = peft_modules_of(shape, expert);
    tensor_list tensors = {0};
    float *buffer = modules.list ? gather_all(shape, &modules, pack, &tensors) : NULL;
    exit_code code = buffer && config ? write_tensors(weights, &tensors, buffer, list)
                                      : problem(list, EXIT_ENVIRONMENT, "no memory to write adapters");
    json_t *object = modules.list ? make_config(shape, &modules, experts, lora, base) : NULL;
    THEN(code, write_config(config, object, list));
    json_decref(object);
    free(buffer);
    free(tensors.tensors);
    free(modules.list);
    free(weights);
    free(config);
    return code;
}

/* ---- What no PEFT folder can hold, beside the folders */

static bool is_router(const ck_part *part) {
    return ck_is_of_router(part->factor);
}

static bool is_tied(const ck_part *part) {
    return part->adapter == CK_TIED;
}

static const struct {
    const char *name;
    bool (*holds)(const ck_part *part);
} BESIDE[] = {{"router.safetensors", is_router}, {"tied.safetensors", is_tied}};

/* Tensors NULL: no memory. */
static tensor_list list_parts(const ck_shape *shape, bool (*holds)(const ck_part *part)) {
    tensor_list list = {.tensors = calloc((size_t)ck_part_count(shape) + 1, sizeof *list.tensors)};
    for (int32_t i = 0; list.tensors && i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        if (!holds(&part)) continue;
        packed_tensor *t = &list.tensors[list.count++];
        *t = packed_part(&part);
        adapters_name_part(&part, sizeof t->name, t->name);
    }
    return list;
}

static exit_code write_one(const char *folder, size_t which, const ck_shape *shape, const float *pack,
                           problems *list) {
    tensor_list tensors = list_parts(shape, BESIDE[which].holds);
    char *path = path_of(folder, BESIDE[which].name);
    exit_code code =
        tensors.tensors && tensors.count == 0 ? EXIT_OK : write_tensors(path, &tensors, pack, list);
    free(tensors.tensors);
    free(path);
    return code;
}

exit_code peft_write_beside(const char *folder, const ck_shape *shape, const float *pack, problems *list) {
    exit_code code = EXIT_OK;
    for (size_t i = 0; i < sizeof BESIDE / sizeof *BESIDE && code == EXIT_OK; i++)
        code = write_one(folder, i, shape, pack, list);
    return code;
}

static exit_code read_one(const char *folder, size_t which, const ck_shape *shape, float *pack,
                          problems *list) {
    tensor_list tensors = list_parts(shape, BESIDE[which].holds);
    char *path = path_of(folder, BESIDE[which].name);
    safetensors *file = NULL;
    exit_code code =
        path && tensors.tensors ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "no memory to read adapters");
    if (code == EXIT_OK && tensors.count > 0 && access(path, F_OK) == 0) {
        code = safetensors_open(path, &file, list);
        THEN(code, safetensors_check(file, tensors.tensors, tensors.count, NULL, list));
        THEN(code, safetensors_read(file, tensors.tensors, tensors.count, pack, list));
    }
    safetensors_close(file);
    free(tensors.tensors);
    free(path);
    return code;
}

exit_code peft_read_beside(const char *folder, const ck_shape *shape, float *pack, problems *list) {
    exit_code code = EXIT_OK;
    for (size_t i = 0; i < sizeof BESIDE / sizeof *BESIDE && code == EXIT_OK; i++)
        code = read_one(folder, i, shape, pack, list);
    return code;
}

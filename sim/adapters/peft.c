/* peft.c - one expert of a pack as PEFT's two files. Scale: alpha / sqrt(r) (rsLoRA) or alpha / r, r of each
 * module. */
#include "adapters/peft.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/adapters.h"

typedef struct {
    packed_tensor *tensors;
    int count;
} tensor_list;

/* A family's linears as PEFT calls them: GPT-2's have one qkv, Llama's a gate in the MLP. */
static bool is_gpt2(const ck_shape *s) {
    return s->mlp == CK_MLP_GELU;
}

static const char *module_of(const ck_shape *s, ck_site site) {
    static const char *const gpt2[CK_SITES] = {[CK_SITE_QKV] = "attn.c_attn",
                                               [CK_SITE_OUT] = "attn.c_proj",
                                               [CK_SITE_FC] = "mlp.c_fc",
                                               [CK_SITE_PR] = "mlp.c_proj"};
    static const char *const llama[CK_SITES] = {
        [CK_SITE_Q] = "self_attn.q_proj", [CK_SITE_K] = "self_attn.k_proj",
        [CK_SITE_V] = "self_attn.v_proj", [CK_SITE_OUT] = "self_attn.o_proj",
        [CK_SITE_GATE] = "mlp.gate_proj", [CK_SITE_FC] = "mlp.up_proj",
        [CK_SITE_PR] = "mlp.down_proj"};
    return is_gpt2(s) ? gpt2[site] : llama[site];
}

/* What an expert's folder holds: its own parts and those of no expert, but not the router. */
static bool is_part_of(const ck_part *part, int e) {
    return part->factor != CK_FACTOR_ROUTER && (part->expert == e || part->expert < 0);
}

static bool list_tensors(const ck_shape *s, int e, tensor_list *list) {
    *list = (tensor_list){.tensors = malloc((size_t)ck_part_count(s) * sizeof *list->tensors)};
    for (int32_t i = 0; list->tensors && i < ck_part_count(s); i++) {
        ck_part part = ck_part_at(s, i);
        if (!is_part_of(&part, e)) continue;
        packed_tensor *t = &list->tensors[list->count++];
        *t = packed_part(&part);
        snprintf(t->name, sizeof t->name, "base_model.model.%s.%d.%s.lora_%c.weight",
                 is_gpt2(s) ? "transformer.h" : "model.layers", part.layer, module_of(s, part.site),
                 part.factor == CK_FACTOR_A ? 'A' : 'B');
    }
    return list->tensors != NULL;
}

/* PEFT's keys: the modules that have a LoRA, and which of them have another rank than r; both match the end
 * of a module's name. */
static void list_modules(const ck_shape *s, int e, json_t *targets, json_t *rank_pattern) {
    for (int32_t i = 0; i < ck_part_count(s); i++) {
        ck_part part = ck_part_at(s, i);
        if (part.layer > 0 || part.factor != CK_FACTOR_A || !is_part_of(&part, e)) continue;
        json_array_append_new(targets, json_string(module_of(s, part.site)));
        if (part.rows != s->rank[e])
            json_object_set_new(rank_pattern, module_of(s, part.site), json_integer(part.rows));
    }
}

static json_t *make_config(const ck_shape *s, int e, const experts_settings *x, const char *base) {
    json_t *targets = json_array(), *rank_pattern = json_object();
    list_modules(s, e, targets, rank_pattern);
    json_t *alpha = x->alpha == rint(x->alpha) ? json_integer((json_int_t)x->alpha) : json_real(x->alpha);
    return json_pack("{s:s, s:s, s:s?, s:i, s:o, s:b, s:f, s:s, s:b, s:o, s:o, s:{}, s:b}", "peft_type",
                     "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", base, "r", (int)s->rank[e],
                     "lora_alpha", alpha, "use_rslora", x->scaling == SCALING_RSLORA, "lora_dropout", 0.0,
                     "bias", "none", "fan_in_fan_out", 1, "target_modules", targets, "rank_pattern",
                     rank_pattern, "alpha_pattern", "inference_mode", 1);
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

exit_code peft_write(const char *folder, const ck_shape *shape, int expert, const experts_settings *scaling,
                     const char *base, const float *pack, problems *list) {
    char *weights = path_of(folder, "adapter_model.safetensors"),
         *config = path_of(folder, "adapter_config.json");
    json_t *object = make_config(shape, expert, scaling, base);
    tensor_list tensors;
    list_tensors(shape, expert, &tensors);
    exit_code code = write_tensors(weights, &tensors, pack, list);
    if (code == EXIT_OK && !config) code = problem(list, EXIT_ENVIRONMENT, "no memory to write adapters");
    if (code == EXIT_OK) code = write_config(config, object, list);
    json_decref(object);
    free(tensors.tensors);
    free(weights);
    free(config);
    return code;
}

exit_code peft_write_router(const char *folder, const ck_shape *shape, const float *pack, problems *list) {
    if (shape->router_rows == 0) return EXIT_OK;
    char *path = path_of(folder, "router.safetensors");
    tensor_list tensors = {.tensors = calloc((size_t)shape->n_layers, sizeof *tensors.tensors)};
    for (int32_t i = 0; tensors.tensors && i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        if (part.factor != CK_FACTOR_ROUTER) continue;
        packed_tensor *t = &tensors.tensors[tensors.count++];
        *t = packed_part(&part);
        snprintf(t->name, sizeof t->name, "layer.%d.router", part.layer);
    }
    exit_code code = write_tensors(path, &tensors, pack, list);
    free(tensors.tensors);
    free(path);
    return code;
}

/* peft.c - one expert of a pack as PEFT's two files. Scale: alpha / sqrt(r) (rsLoRA) or alpha / r, r of each module. */
#include "adapters/peft.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/safetensors.h"

enum { MODULES = 4, TENSORS_A_MODULE = 2 };

typedef struct {
    packed_tensor *tensors;
    int count;
} tensor_list;

/* One LoRA of a layer: where its factors lie in the pack. */
typedef struct {
    const char *module;
    int64_t in, out, rank, a, b; /* a, b: offsets of [rank, in] and of B transposed, [rank, out] */
} lora;

static int list_modules(const ck_shape *s, int layer, int e, lora modules[MODULES]) {
    int64_t first = layer * s->layer_stride, d = s->width, f = s->ffn, ra = s->attention_rank, r = s->rank[e], row = s->rank_first[e];
    int n = 0;
    if (ra > 0) {
        modules[n++] = (lora){"attn.c_attn", d, 3 * d, ra, first + s->qkv_a, first + s->qkv_b};
        modules[n++] = (lora){"attn.c_proj", d, d, ra, first + s->out_a, first + s->out_b};
    }
    modules[n++] = (lora){"mlp.c_fc", d, f, r, first + s->route + (s->router_rows + row) * d, first + s->b1 + row * f};
    modules[n++] = (lora){"mlp.c_proj", f, d, r, first + s->a2 + row * f, first + s->b2 + row * d};
    return n;
}

static void add(tensor_list *list, int layer, const lora *m, char factor) {
    packed_tensor *t = &list->tensors[list->count++];
    *t = (packed_tensor){.n_dims = 2, .offset = factor == 'A' ? m->a : m->b, .transposed = factor == 'B'};
    t->dims[0] = factor == 'A' ? m->rank : m->out;
    t->dims[1] = factor == 'A' ? m->in : m->rank;
    snprintf(t->name, sizeof t->name, "base_model.model.transformer.h.%d.%s.lora_%c.weight", layer, m->module, factor);
}

static bool list_tensors(const ck_shape *s, int e, tensor_list *list) {
    *list = (tensor_list){.tensors = malloc((size_t)s->n_layers * MODULES * TENSORS_A_MODULE * sizeof *list->tensors)};
    for (int layer = 0; list->tensors && layer < s->n_layers; layer++) {
        lora modules[MODULES];
        int n = list_modules(s, layer, e, modules);
        for (int i = 0; i < n; i++) {
            add(list, layer, &modules[i], 'A');
            add(list, layer, &modules[i], 'B');
        }
    }
    return list->tensors != NULL;
}

/* PEFT's key says which modules have another rank than r; it matches the end of a module's name. */
static json_t *rank_pattern(const ck_shape *s, int e) {
    json_t *pattern = json_object();
    if (s->attention_rank > 0 && s->attention_rank != s->rank[e]) {
        json_object_set_new(pattern, "attn.c_attn", json_integer(s->attention_rank));
        json_object_set_new(pattern, "attn.c_proj", json_integer(s->attention_rank));
    }
    return pattern;
}

static json_t *make_config(const ck_shape *s, int e, const experts_settings *x, const char *base) {
    lora modules[MODULES];
    int n = list_modules(s, 0, e, modules);
    json_t *targets = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(targets, json_string(modules[i].module));
    json_t *alpha = x->alpha == rint(x->alpha) ? json_integer((json_int_t)x->alpha) : json_real(x->alpha);
    return json_pack("{s:s, s:s, s:s?, s:i, s:o, s:b, s:f, s:s, s:b, s:o, s:o, s:{}, s:b}", "peft_type", "LORA", "task_type", "CAUSAL_LM",
                     "base_model_name_or_path", base, "r", (int)s->rank[e], "lora_alpha", alpha, "use_rslora", x->scaling == SCALING_RSLORA,
                     "lora_dropout", 0.0, "bias", "none", "fan_in_fan_out", 1, "target_modules", targets, "rank_pattern",
                     rank_pattern(s, e), "alpha_pattern", "inference_mode", 1);
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

static exit_code write_tensors(const char *path, const tensor_list *tensors, const float *pack, problems *list) {
    if (!path || !tensors->tensors) return problem(list, EXIT_ENVIRONMENT, "no memory to write adapters");
    return safetensors_write(path, tensors->tensors, tensors->count, pack, list);
}

static char *path_of(const char *folder, const char *name) {
    char *path = NULL;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

exit_code peft_write(const char *folder, const ck_shape *shape, int expert, const experts_settings *scaling, const char *base,
                     const float *pack, problems *list) {
    char *weights = path_of(folder, "adapter_model.safetensors"), *config = path_of(folder, "adapter_config.json");
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
    for (int layer = 0; tensors.tensors && layer < shape->n_layers; layer++) {
        packed_tensor *t = &tensors.tensors[tensors.count++];
        *t = (packed_tensor){.n_dims = 2, .dims = {shape->router_rows, shape->width}, .offset = layer * shape->layer_stride + shape->route};
        snprintf(t->name, sizeof t->name, "layer.%d.router", layer);
    }
    exit_code code = write_tensors(path, &tensors, pack, list);
    free(tensors.tensors);
    free(path);
    return code;
}

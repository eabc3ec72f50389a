/* A device's pack <-> named tensors. */
#include "adapters/adapters.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/safetensors.h"

enum { ATTENTION_TENSORS = 4, EXPERT_TENSORS = 4 };

typedef struct {
    packed_tensor *tensors;
    int count;
} tensor_list;

/* Adds a [rows, cols] tensor of the file; transposed: the pack holds [cols, rows]. */
__attribute__((format(printf, 6, 7))) static void add(tensor_list *list, int64_t rows, int64_t cols, int64_t offset, bool transposed,
                                                      const char *format, ...) {
    packed_tensor *t = &list->tensors[list->count++];
    va_list arguments;
    *t = (packed_tensor){.n_dims = 2, .dims = {rows, cols}, .offset = offset, .transposed = transposed};
    va_start(arguments, format);
    vsnprintf(t->name, sizeof t->name, format, arguments);
    va_end(arguments);
}

static void add_attention(tensor_list *list, const ck_shape *s, int layer) {
    int64_t first = layer * s->layer_stride, d = s->width, r = s->attention_rank;
    add(list, r, d, first + s->qkv_a, false, "layer.%d.attention.qkv.A", layer);
    add(list, 3 * d, r, first + s->qkv_b, true, "layer.%d.attention.qkv.B", layer);
    add(list, r, d, first + s->out_a, false, "layer.%d.attention.out.A", layer);
    add(list, d, r, first + s->out_b, true, "layer.%d.attention.out.B", layer);
}

static void add_expert(tensor_list *list, const ck_shape *s, int layer, int e) {
    int64_t first = layer * s->layer_stride, d = s->width, f = s->ffn, r = s->rank[e], row = s->rank_first[e];
    add(list, r, d, first + s->route + (s->router_rows + row) * d, false, "layer.%d.expert.%d.fc.A", layer, e);
    add(list, f, r, first + s->b1 + row * f, true, "layer.%d.expert.%d.fc.B", layer, e);
    add(list, r, f, first + s->a2 + row * f, false, "layer.%d.expert.%d.proj.A", layer, e);
    add(list, d, r, first + s->b2 + row * d, true, "layer.%d.expert.%d.proj.B", layer, e);
}

static bool list_tensors(const ck_shape *s, tensor_list *list) {
    size_t most = (size_t)s->n_layers * (size_t)(ATTENTION_TENSORS + 1 + EXPERT_TENSORS * s->n_experts);
    *list = (tensor_list){.tensors = malloc(most * sizeof *list->tensors)};
    for (int layer = 0; list->tensors && layer < s->n_layers; layer++) {
        if (s->attention_rank > 0) add_attention(list, s, layer);
        if (s->router_rows > 0) add(list, s->router_rows, s->width, layer * s->layer_stride + s->route, false, "layer.%d.router", layer);
        for (int e = 0; e < s->n_experts; e++) add_expert(list, s, layer, e);
    }
    return list->tensors != NULL;
}

char *adapters_path(const char *folder, int population, int device) {
    char *path;
    return asprintf(&path, "%s/adapters_%d_%d.safetensors", folder, population, device) < 0 ? NULL : path;
}

/* On success the caller closes the file and frees the tensors; on failure there is nothing to free. */
static exit_code open_checked(const char *path, const ck_shape *shape, safetensors **file, tensor_list *tensors, problems *list) {
    *file = NULL;
    if (!list_tensors(shape, tensors)) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to read it", path);
    exit_code code = safetensors_open(path, file, list);
    if (!code) code = safetensors_check(*file, tensors->tensors, tensors->count, NULL, list);
    if (!code) return EXIT_OK;
    safetensors_close(*file);
    free(tensors->tensors);
    return code;
}

exit_code adapters_read(const char *path, const ck_shape *shape, float *pack, problems *list) {
    safetensors *file;
    tensor_list tensors;
    exit_code code = open_checked(path, shape, &file, &tensors, list);
    if (code) return code;
    memset(pack, 0, (size_t)shape->total * sizeof *pack);
    code = safetensors_read(file, tensors.tensors, tensors.count, pack, list);
    safetensors_close(file);
    free(tensors.tensors);
    return code;
}

exit_code adapters_write(const char *path, const ck_shape *shape, const float *pack, problems *list) {
    tensor_list tensors;
    if (!list_tensors(shape, &tensors)) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to write it", path);
    exit_code code = safetensors_write(path, tensors.tensors, tensors.count, pack, list);
    free(tensors.tensors);
    return code;
}

/* The tensors of a GPT-2 checkpoint. Its linears are Conv1D: y = x W + b with W [in, out]; ours are [out,
 * in]. */
#include "base/tensors.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

enum { LAYER_TENSORS = 12, EMBEDDINGS = 2, FINAL_TENSORS = 2 };

/* Units of the dimensions below. */
typedef enum { ONE, D, THREE_D, F } extent;

static const struct {
    const char *name;
    extent rows, cols; /* cols ONE: a vector */
    base_tensor_kind kind;
    size_t offset; /* in base_layer */
} layer_tensors[LAYER_TENSORS] = {
    {"ln_1.weight", D, ONE, BASE_GAIN, offsetof(base_layer, ln1_gain)},
    {"ln_1.bias", D, ONE, BASE_BIAS, offsetof(base_layer, ln1_bias)},
    {"attn.c_attn.weight", D, THREE_D, BASE_LINEAR, offsetof(base_layer, qkv_w)},
    {"attn.c_attn.bias", THREE_D, ONE, BASE_BIAS, offsetof(base_layer, qkv_b)},
    {"attn.c_proj.weight", D, D, BASE_RESIDUAL_LINEAR, offsetof(base_layer, out_w)},
    {"attn.c_proj.bias", D, ONE, BASE_BIAS, offsetof(base_layer, out_b)},
    {"ln_2.weight", D, ONE, BASE_GAIN, offsetof(base_layer, ln2_gain)},
    {"ln_2.bias", D, ONE, BASE_BIAS, offsetof(base_layer, ln2_bias)},
    {"mlp.c_fc.weight", D, F, BASE_LINEAR, offsetof(base_layer, fc_w)},
    {"mlp.c_fc.bias", F, ONE, BASE_BIAS, offsetof(base_layer, fc_b)},
    {"mlp.c_proj.weight", F, D, BASE_RESIDUAL_LINEAR, offsetof(base_layer, pr_w)},
    {"mlp.c_proj.bias", D, ONE, BASE_BIAS, offsetof(base_layer, pr_b)},
};

static int64_t size_of(const base_shape *shape, extent e) {
    return e == D ? shape->width : e == THREE_D ? 3 * (int64_t)shape->width : e == F ? shape->ffn : 1;
}

int base_tensor_count(const base_shape *shape) {
    return EMBEDDINGS + LAYER_TENSORS * shape->layers + FINAL_TENSORS;
}

static packed_tensor embedding(const char *prefix, const char *name, int64_t rows, int64_t width,
                               int64_t offset) {
    packed_tensor t = {.n_dims = 2, .dims = {rows, width}, .offset = offset};
    snprintf(t.name, sizeof t.name, "%s%s", prefix, name);
    return t;
}

static packed_tensor final_norm(const char *prefix, const char *name, int64_t width, int64_t offset) {
    packed_tensor t = {.n_dims = 1, .dims = {width, 1}, .offset = offset};
    snprintf(t.name, sizeof t.name, "%s%s", prefix, name);
    return t;
}

static packed_tensor layer_tensor(const base_shape *shape, const base_layout *layout, const char *prefix,
                                  int layer, int which) {
    packed_tensor t = {
        .dims = {size_of(shape, layer_tensors[which].rows), size_of(shape, layer_tensors[which].cols)}};
    t.n_dims = layer_tensors[which].cols == ONE ? 1 : 2;
    t.transposed = t.n_dims == 2;
    t.offset = *(const int64_t *)((const char *)&layout->layer0 + layer_tensors[which].offset) +
               layer * layout->layer_stride;
    snprintf(t.name, sizeof t.name, "%sh.%d.%s", prefix, layer, layer_tensors[which].name);
    return t;
}

packed_tensor base_tensor(const base_shape *shape, const base_layout *layout, const char *prefix, int index,
                          base_tensor_kind *kind) {
    base_tensor_kind unwanted;
    int in_layers = index - EMBEDDINGS;
    if (!kind) kind = &unwanted;
    if (in_layers < 0) {
        *kind = BASE_EMBEDDING;
        return index == 0 ? embedding(prefix, "wte.weight", shape->vocabulary, shape->width, layout->wte)
                          : embedding(prefix, "wpe.weight", shape->context, shape->width, layout->wpe);
    }
    if (in_layers < LAYER_TENSORS * shape->layers) {
        *kind = layer_tensors[in_layers % LAYER_TENSORS].kind;
        return layer_tensor(shape, layout, prefix, in_layers / LAYER_TENSORS, in_layers % LAYER_TENSORS);
    }
    bool gain = in_layers == LAYER_TENSORS * shape->layers;
    *kind = gain ? BASE_GAIN : BASE_BIAS;
    return gain ? final_norm(prefix, "ln_f.weight", shape->width, layout->lnf_gain)
                : final_norm(prefix, "ln_f.bias", shape->width, layout->lnf_bias);
}

packed_tensor *base_tensor_list(const base_shape *shape, const base_layout *layout, const char *prefix) {
    int n = base_tensor_count(shape);
    packed_tensor *tensors = malloc((size_t)n * sizeof *tensors);
    for (int i = 0; tensors && i < n; i++) tensors[i] = base_tensor(shape, layout, prefix, i, NULL);
    return tensors;
}

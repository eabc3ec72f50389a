/* Layout and random initialisation of the base. */
#include "base/base.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/tensors.h"
#include "rng.h"

/* Reserves `count` floats at *end and moves *end to the next aligned offset. */
static int64_t place(int64_t *end, int64_t count) {
    int64_t at = *end;
    *end = (at + count + CK_ALIGN_FLOATS - 1) / CK_ALIGN_FLOATS * CK_ALIGN_FLOATS;
    return at;
}

base_layout base_layout_of(const base_shape *shape) {
    int64_t d = shape->width, f = shape->ffn, end = 0;
    base_layout layout = {0};
    base_layer *l = &layout.layer0;
    layout.wte = place(&end, shape->vocabulary * d);
    layout.wpe = place(&end, shape->context * d);
    layout.lnf_gain = place(&end, d);
    layout.lnf_bias = place(&end, d);
    int64_t first = end;
    l->ln1_gain = place(&end, d);
    l->ln1_bias = place(&end, d);
    l->qkv_w = place(&end, 3 * d * d);
    l->qkv_b = place(&end, 3 * d);
    l->out_w = place(&end, d * d);
    l->out_b = place(&end, d);
    l->ln2_gain = place(&end, d);
    l->ln2_bias = place(&end, d);
    l->fc_w = place(&end, f * d);
    l->fc_b = place(&end, f);
    l->pr_w = place(&end, d * f);
    l->pr_b = place(&end, d);
    layout.layer_stride = end - first;
    layout.total = first + shape->layers * layout.layer_stride;
    return layout;
}

exit_code base_create(const base_shape *shape, base_model **out, problems *list) {
    base_layout layout = base_layout_of(shape);
    base_model *model = malloc(sizeof *model);
    float *weights = calloc((size_t)layout.total, sizeof *weights);
    *out = NULL;
    if (!model || !weights) {
        free(model);
        free(weights);
        return problem(list, EXIT_ENVIRONMENT,
                       "base: %.1f MiB of memory are needed for the weights of %d layers of width %d, and cannot be had",
                       (double)layout.total * sizeof(float) / 1048576.0, shape->layers, shape->width);
    }
    *model = (base_model){.shape = *shape, .layout = layout, .weights = weights};
    *out = model;
    return EXIT_OK;
}

void base_destroy(base_model *model) {
    if (!model) return;
    free(model->weights);
    free(model);
}

static int64_t element_count(const packed_tensor *t) {
    return t->n_dims == 1 ? t->dims[0] : t->dims[0] * t->dims[1];
}

static void init_tensor(base_model *model, uint64_t seed, int index) {
    base_tensor_kind kind;
    packed_tensor t = base_tensor(&model->shape, &model->layout, "", index, &kind);
    rng_key key = {.seed = seed, .device = RNG_SHARED, .purpose = RNG_BASE_INIT, .step = (uint64_t)index};
    float sigma = kind == BASE_RESIDUAL_LINEAR ? 0.02f / sqrtf(2.0f * (float)model->shape.layers) : 0.02f;
    float *values = model->weights + t.offset;
    if (kind == BASE_BIAS) return;
    if (kind == BASE_GAIN)
        for (int64_t i = 0; i < element_count(&t); i++) values[i] = 1.0f;
    else
        rng_fill_normal(&key, sigma, values, element_count(&t));
}

exit_code base_random(const base_shape *shape, uint64_t seed, base_model **out, problems *list) {
    exit_code code = base_create(shape, out, list);
    if (code) return code;
    for (int i = 0; i < base_tensor_count(shape); i++) init_tensor(*out, seed, i);
    return EXIT_OK;
}

/* Memory of a base, its description, and random initialisation. */
#include "base/base.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/tensors.h"
#include "support/rng.h"

const char *base_describe(const base_shape *s, char out[BASE_TEXT_BYTES]) {
    char grouped[48] = "";
    if (s->kv_heads != s->heads) snprintf(grouped, sizeof grouped, " (%d of keys and values)", s->kv_heads);
    snprintf(out, BASE_TEXT_BYTES, "%s, %d layer%s of width %d, %d head%s%s, MLP %d, %d ids",
             base_family_name(s->family), s->layers, s->layers == 1 ? "" : "s", s->width, s->heads,
             s->heads == 1 ? "" : "s", grouped, s->ffn, s->vocabulary);
    return out;
}

exit_code base_create(const base_shape *shape, base_model **out, problems *list) {
    base_layout layout = base_layout_of(shape);
    base_model *model = malloc(sizeof *model);
    float *weights = calloc((size_t)layout.total, sizeof *weights);
    *out = NULL;
    if (!model || !weights) {
        free(model);
        free(weights);
        return problem(
            list, EXIT_ENVIRONMENT,
            "base: %.1f MiB of memory are needed for the weights of %d layers of width %d, and cannot be had",
            (double)layout.total * sizeof(float) / 1048576.0, shape->layers, shape->width);
    }
    *model = (base_model){.shape = *shape, .layout = layout, .weights = weights};
    base_fill_rope(shape, &layout, weights);
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

#include "cases/versions.h"

enum { VARIANTS = 3, LINEARS = 3, LINEAR = 1 };

static bool replaces_weight(int variant) {
    return variant == 1 || variant == 2;
}

static bool replaces_bias(int variant) {
    return variant == 1 || variant == 3;
}

/* Floats from one version to the next in its buffer. */
static int64_t stride_of(int64_t count) {
    return (count + CK_ALIGN_FLOATS - 1) / CK_ALIGN_FLOATS * CK_ALIGN_FLOATS;
}

/* The rows of the other linears hold a weight that no test expects. */
static rig_replacement replacement(int variant, int linear, versions_size size) {
    const rig_replacement wrong = {WRONG, WRONG, 0, 0};
    rig_replacement own = {NO_BUFFER, NO_BUFFER, 0, 0};
    if (linear != LINEAR) return wrong;
    if (replaces_weight(variant)) {
        own.weight = OTHER_WEIGHTS;
        own.weight_at = (variant - 1) * stride_of((int64_t)size.in * size.out);
    }
    if (replaces_bias(variant)) {
        own.bias = OTHER_BIASES;
        own.bias_at = (variant - 1) * stride_of(size.out);
    }
    return own;
}

void versions_arrays(rig *r, versions_size size) {
    int64_t weights = (int64_t)size.in * size.out;
    rig_buffer(r, WEIGHT, "weight", INPUT, weights, size.weight_deviation);
    if (!size.unbiased) rig_buffer(r, BIAS, "bias", INPUT, size.out, size.bias_deviation);
    if (!(r->flags & OF_VARIANTS)) return;
    rig_buffer(r, OTHER_WEIGHTS, "weights of variants", INPUT, VARIANTS * stride_of(weights),
               size.weight_deviation);
    rig_buffer(r, OTHER_BIASES, "biases of variants", INPUT, VARIANTS * stride_of(size.out),
               size.bias_deviation);
    rig_buffer(r, WRONG, "another linear's weight", INPUT, weights, 100);
    rig_variants(r, VARIANTS, LINEARS);
    for (int i = 0; i < VARIANTS * LINEARS; i++)
        r->variants[i] = replacement(1 + i / LINEARS, i % LINEARS, size);
}

int versions_linear(const rig *r) {
    return r->flags & OF_VARIANTS ? LINEAR : -1;
}

static const rig_replacement *own_of(const view *v) {
    int variant = v->r->devices[v->device].variant;
    return variant > 0 ? &v->r->variants[(variant - 1) * LINEARS + LINEAR] : NULL;
}

const double *versions_weight(const view *v, buffer_id recorded) {
    const rig_replacement *own = own_of(v);
    return own && own->weight ? v->buffer[own->weight] + own->weight_at : v->buffer[recorded];
}

const double *versions_bias(const view *v, buffer_id recorded) {
    const rig_replacement *own = own_of(v);
    return own && own->bias ? v->buffer[own->bias] + own->bias_at : v->buffer[recorded];
}

#include "conformance/whole_variants.h"

#include <stdlib.h>
#include <string.h>

#include "base/linears.h"

enum { VARIANTS = 2, LINEARS = WAVE_LAYERS * BASE_LAYER_LINEARS };

/* Floats from one variant to the next. */
static int64_t stride_of(const base_layout *layout) {
    return (layout->total + CK_ALIGN_FLOATS - 1) / CK_ALIGN_FLOATS * CK_ALIGN_FLOATS;
}

/* Of the linear in the variant's array, which begins at `at`: others' values, and where they are. */
static rig_replacement replace_linear(rig *r, base_linear l, const float *others, int64_t at) {
    float *own = r->buffer[OTHER_WEIGHTS].before + at;
    memcpy(own + l.weight, others + l.weight, (size_t)l.in * (size_t)l.out * sizeof *own);
    if (l.bias >= 0) memcpy(own + l.bias, others + l.bias, (size_t)l.out * sizeof *own);
    return (rig_replacement){OTHER_WEIGHTS, l.bias >= 0 ? OTHER_WEIGHTS : NO_BUFFER, at + l.weight,
                             l.bias >= 0 ? at + l.bias : 0};
}

void whole_variants(rig *r) {
    base_shape shape = conformance_base(r);
    base_layout layout = base_layout_of(&shape);
    int64_t stride = stride_of(&layout);
    float *others = rig_zeros(layout.total, sizeof *others);
    rig_buffer(r, OTHER_WEIGHTS, "variants", INPUT, VARIANTS * stride, 0);
    rig_variants(r, VARIANTS, LINEARS);
    for (int v = 0; v < VARIANTS; v++) {
        memcpy(r->buffer[OTHER_WEIGHTS].before + v * stride, r->buffer[WEIGHT].before,
               (size_t)layout.total * sizeof *others);
        wave_fill_base(&shape, 101 + (uint64_t)v, others);
        for (int i = 0; i < LINEARS; i += v + 1)
            r->variants[v * LINEARS + i] =
                replace_linear(r, base_linear_at(&shape, &layout, i), others, v * stride);
    }
    free(others);
}

oracle_base whole_reference(const rig *r, double *const *buffer, int device) {
    oracle_base base = {.shape = conformance_base(r), .weights = buffer[WEIGHT]};
    int variant = r->devices[device].variant;
    base.layout = base_layout_of(&base.shape);
    if (variant > 0) base.weights = buffer[OTHER_WEIGHTS] + (variant - 1) * stride_of(&base.layout);
    return base;
}

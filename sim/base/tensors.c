/* Walks the tables of a family (base/family.h): the tensors before the layers, of each layer, and after. */
#include "base/tensors.h"

#include <stdio.h>
#include <stdlib.h>

static int64_t size_of(const base_shape *s, base_extent extent) {
    switch (extent) {
    case BASE_NONE:
        return 0;
    case BASE_ONE:
        return 1;
    case BASE_WIDTH:
        return s->width;
    case BASE_Q:
        return base_q_width(s);
    case BASE_KV:
        return base_kv_width(s);
    case BASE_Q_AND_K:
        return base_q_width(s) + base_kv_width(s);
    case BASE_Q_K_AND_V:
        return base_qkv_width(s);
    case BASE_FFN:
        return s->ffn;
    case BASE_VOCABULARY:
        return s->vocabulary;
    case BASE_CONTEXT:
        return s->context;
    }
    return 0;
}

/* Where a row's packed tensor lies, in layer 0 if in a layer; -1: the shape has none. */
static int64_t place_of(const base_shape *shape, const base_layout *layout, const base_tensor_row *row,
                        bool in_layer) {
    const char *members = in_layer ? (const char *)&layout->layer0 : (const char *)layout;
    if (row->alone && shape->tied_head) return -1;
    return *(const int64_t *)(members + row->offset);
}

static int count(const base_shape *shape, const base_layout *layout, const base_tensor_row *rows, int n,
                 bool in_layer) {
    int there = 0;
    for (int i = 0; i < n; i++) there += place_of(shape, layout, &rows[i], in_layer) >= 0;
    return there;
}

/* Row `index` of those that the shape has. */
static const base_tensor_row *row_at(const base_shape *shape, const base_layout *layout,
                                     const base_tensor_row *rows, int index, bool in_layer) {
    for (;; rows++)
        if (place_of(shape, layout, rows, in_layer) >= 0 && index-- == 0) return rows;
}

int base_tensor_count(const base_shape *shape) {
    const base_family *f = base_family_of(shape->family);
    base_layout layout = base_layout_of(shape);
    return count(shape, &layout, f->before, f->n_before, false) +
           shape->layers * count(shape, &layout, f->in_layer, f->n_in_layer, true) +
           count(shape, &layout, f->after, f->n_after, false);
}

/* layer: -1 outside the layers. */
static packed_tensor tensor_of(const base_shape *shape, const base_layout *layout, const char *prefix,
                               const base_tensor_row *row, int layer) {
    const base_family *f = base_family_of(shape->family);
    packed_tensor t = {.dims = {size_of(shape, row->rows), size_of(shape, row->columns)}};
    bool linear = row->kind == BASE_LINEAR || row->kind == BASE_RESIDUAL_LINEAR;
    t.n_dims = row->columns == BASE_ONE ? 1 : 2;
    t.transposed = linear && f->transposed;
    t.offset = place_of(shape, layout, row, layer >= 0) + size_of(shape, row->first) * t.dims[1];
    if (layer < 0) {
        snprintf(t.name, sizeof t.name, "%s%s", row->alone ? "" : prefix, row->name);
    } else {
        t.offset += layer * layout->layer_stride;
        snprintf(t.name, sizeof t.name, "%s%s.%d.%s", prefix, f->layers, layer, row->name);
    }
    return t;
}

packed_tensor base_tensor(const base_shape *shape, const base_layout *layout, const char *prefix, int index,
                          base_tensor_kind *kind) {
    const base_family *f = base_family_of(shape->family);
    int before = count(shape, layout, f->before, f->n_before, false);
    int a_layer = count(shape, layout, f->in_layer, f->n_in_layer, true);
    int layer = index < before ? -1 : (index - before) / a_layer;
    const base_tensor_row *row;
    if (index < before) {
        row = row_at(shape, layout, f->before, index, false);
    } else if (layer < shape->layers) {
        row = row_at(shape, layout, f->in_layer, (index - before) % a_layer, true);
    } else {
        row = row_at(shape, layout, f->after, index - before - shape->layers * a_layer, false);
        layer = -1;
    }
    if (kind) *kind = row->kind;
    return tensor_of(shape, layout, prefix, row, layer);
}

packed_tensor *base_tensor_list(const base_shape *shape, const base_layout *layout, const char *prefix) {
    int n = base_tensor_count(shape);
    packed_tensor *tensors = malloc((size_t)n * sizeof *tensors);
    for (int i = 0; tensors && i < n; i++) tensors[i] = base_tensor(shape, layout, prefix, i, NULL);
    return tensors;
}

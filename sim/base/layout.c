/* layout.c - where the weights of a base lie: the order of a forward pass, every tensor aligned. */
#include "base/base.h"

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

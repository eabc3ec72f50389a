#include "base/linears.h"

base_linear base_linear_at(const base_shape *shape, const base_layout *layout, int number) {
    const base_layer *l = &layout->layer0;
    int64_t layer = number / BASE_LAYER_LINEARS * layout->layer_stride;
    base_linear linear = {0};
    switch ((base_layer_linear)(number % BASE_LAYER_LINEARS)) {
    case BASE_QKV:
        linear = (base_linear){l->qkv_w, l->qkv_b, shape->width, base_qkv_width(shape)};
        break;
    case BASE_OUT:
        linear = (base_linear){l->out_w, l->out_b, base_q_width(shape), shape->width};
        break;
    case BASE_FC:
        linear = (base_linear){l->fc_w, l->fc_b, shape->width, base_fc_width(shape)};
        break;
    case BASE_PR:
        linear = (base_linear){l->pr_w, l->pr_b, shape->ffn, shape->width};
        break;
    case BASE_LAYER_LINEARS:
        break;
    }
    linear.weight += layer;
    if (linear.bias >= 0) linear.bias += layer;
    return linear;
}

/* layout.c - shapes, and where the weights of a base lie: the order of a forward pass, every tensor aligned.
 *
 * The table of rotary positions has at [t, i] the cosine and the sine of t f_i, with
 *
 *   f_i = theta^(-2 i / head_size)                                                       plain
 *   f_i / factor                  where a wave 2 pi / f_i is longer than context / low    Llama 3
 *   f_i                           where it is shorter than context / high
 *   ((1 - m) / factor + m) f_i    between, m = (context f_i / (2 pi) - low) / (high - low)
 *
 * context, low, high: of base_rope. As transformers has it (modeling_rope_utils), in double. */
#include <math.h>

#include "base/base.h"
#include "base/linears.h"

base_shape base_complete(base_shape shape) {
    bool gpt2 = shape.family == BASE_GPT2;
    if (gpt2 || !shape.kv_heads) shape.kv_heads = shape.heads;
    if ((gpt2 || !shape.head_size) && shape.heads) shape.head_size = shape.width / shape.heads;
    if (gpt2) shape.tied_head = shape.qkv_bias = shape.out_bias = shape.mlp_bias = true;
    return shape;
}

static bool same_rope(const base_rope *a, const base_rope *b) {
    return a->theta == b->theta && a->scaling == b->scaling && a->factor == b->factor &&
           a->low_frequency_factor == b->low_frequency_factor &&
           a->high_frequency_factor == b->high_frequency_factor && a->original_context == b->original_context;
}

bool base_same_shape(const base_shape *a, const base_shape *b) {
    return a->family == b->family && a->layers == b->layers && a->width == b->width && a->heads == b->heads &&
           a->kv_heads == b->kv_heads && a->head_size == b->head_size && a->ffn == b->ffn &&
           a->vocabulary == b->vocabulary && a->context == b->context && a->epsilon == b->epsilon &&
           a->tied_head == b->tied_head && a->qkv_bias == b->qkv_bias && a->out_bias == b->out_bias &&
           a->mlp_bias == b->mlp_bias && same_rope(&a->rope, &b->rope);
}

/* Reserves `count` floats at *end and moves *end to the next aligned offset. */
static int64_t place(int64_t *end, int64_t count) {
    int64_t at = *end;
    *end = (at + count + CK_ALIGN_FLOATS - 1) / CK_ALIGN_FLOATS * CK_ALIGN_FLOATS;
    return at;
}

static int64_t place_if(bool wanted, int64_t *end, int64_t count) {
    return wanted ? place(end, count) : -1;
}

static void place_layer(const base_shape *shape, base_layer *l, int64_t *end) {
    int64_t d = shape->width, f = shape->ffn, q = base_q_width(shape), qkv = base_qkv_width(shape),
            fc = base_fc_width(shape);
    bool gpt2 = shape->family == BASE_GPT2;
    l->ln1_gain = place(end, d);
    l->ln1_bias = place_if(gpt2, end, d);
    l->qkv_w = place(end, qkv * d);
    l->qkv_b = place_if(shape->qkv_bias, end, qkv);
    l->out_w = place(end, d * q);
    l->out_b = place_if(shape->out_bias, end, d);
    l->ln2_gain = place(end, d);
    l->ln2_bias = place_if(gpt2, end, d);
    l->fc_w = place(end, fc * d);
    l->fc_b = place_if(shape->mlp_bias, end, fc);
    l->pr_w = place(end, d * f);
    l->pr_b = place_if(shape->mlp_bias, end, d);
}

base_layout base_layout_of(const base_shape *shape) {
    int64_t d = shape->width, end = 0, vocabulary = shape->vocabulary, context = shape->context;
    bool gpt2 = shape->family == BASE_GPT2;
    base_layout layout = {0};
    layout.wte = place(&end, vocabulary * d);
    layout.wpe = place_if(gpt2, &end, context * d);
    layout.lnf_gain = place(&end, d);
    layout.lnf_bias = place_if(gpt2, &end, d);
    layout.head = shape->tied_head ? layout.wte : place(&end, vocabulary * d);
    layout.rope = place_if(!gpt2, &end, context * shape->head_size);
    int64_t first = end;
    place_layer(shape, &layout.layer0, &end);
    layout.layer_stride = end - first;
    layout.total = first + shape->layers * layout.layer_stride;
    return layout;
}

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

static double frequency(const base_shape *shape, int pair) {
    const base_rope *r = &shape->rope;
    double plain = pow((double)r->theta, -2.0 * pair / shape->head_size);
    if (r->scaling == BASE_ROPE_PLAIN) return plain;
    double waves = r->original_context * plain / (2.0 * M_PI), low = r->low_frequency_factor,
           high = r->high_frequency_factor;
    if (waves < low) return plain / r->factor;
    if (waves > high) return plain;
    double m = (waves - low) / (high - low);
    return ((1.0 - m) / r->factor + m) * plain;
}

void base_fill_rope(const base_shape *shape, const base_layout *layout, float *weights) {
    int pairs = shape->head_size / 2;
    if (layout->rope < 0) return;
    for (int i = 0; i < pairs; i++) {
        double f = frequency(shape, i);
        for (int64_t t = 0; t < shape->context; t++) {
            float *at = weights + layout->rope + 2 * (t * pairs + i);
            at[0] = (float)cos((double)t * f);
            at[1] = (float)sin((double)t * f);
        }
    }
}

#include "model/family.h"

static const model_family *const LIST[BASE_FAMILIES] = {
    [BASE_GPT2] = &model_gpt2,
    [BASE_LLAMA] = &model_llama,
};

const model_family *model_family_of(const base_shape *shape) {
    return LIST[shape->family];
}

const float *model_weight(const model_base *base, int64_t layer0_offset, int layer) {
    if (layer0_offset < 0) return NULL;
    return base->weights + layer0_offset + layer * base->layout.layer_stride;
}

void model_embed(ck_program *program, const model_base *base, ck_tensor *x) {
    ck_op_embed(program, &(ck_embed){.x = x,
                                     .wte = model_weight(base, base->layout.wte, 0),
                                     .wpe = model_weight(base, base->layout.wpe, 0),
                                     .width = base->shape.width});
}

void model_norm(ck_program *program, const model_base *base, const ck_tensor *x, ck_tensor *y,
                ck_tensor *stats, const float *gain, const float *bias) {
    ck_op_norm(program, &(ck_norm){.x = x,
                                   .y = y,
                                   .stats = stats,
                                   .gain = gain,
                                   .bias = bias,
                                   .width = base->shape.width,
                                   .epsilon = base->shape.epsilon,
                                   .kind = model_family_of(&base->shape)->norm});
}

void model_turn(ck_program *program, const model_base *base, ck_tensor *qkv) {
    const model_family *family = model_family_of(&base->shape);
    if (family->turn) family->turn(program, base, qkv);
}

void model_attention(ck_program *program, const model_base *base, ck_tensor *qkv, ck_tensor *o,
                     ck_tensor *lse) {
    const base_shape *s = &base->shape;
    model_turn(program, base, qkv);
    ck_op_attention(program, &(ck_attention){.qkv = qkv,
                                             .o = o,
                                             .lse = lse,
                                             .heads = s->heads,
                                             .kv_heads = s->kv_heads,
                                             .head_size = s->head_size});
}

void model_attention_backward(ck_program *program, const model_base *base, const ck_tensor *qkv,
                              const ck_tensor *o, const ck_tensor *lse, const ck_tensor *d_o,
                              ck_tensor *dqkv) {
    const base_shape *s = &base->shape;
    const model_family *family = model_family_of(s);
    ck_op_attention_backward(program, &(ck_attention_backward){.qkv = qkv,
                                                               .o = o,
                                                               .lse = lse,
                                                               .d_o = d_o,
                                                               .dqkv = dqkv,
                                                               .heads = s->heads,
                                                               .kv_heads = s->kv_heads,
                                                               .head_size = s->head_size});
    if (family->turn_back) family->turn_back(program, base, dqkv);
}

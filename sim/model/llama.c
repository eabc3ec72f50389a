/* llama.c - what a Llama has of its own: RMSNorm, rotary positions, silu(gate) up. */
#include "model/family.h"

static void turn(ck_program *program, const model_base *base, ck_tensor *qkv) {
    const base_shape *s = &base->shape;
    ck_op_rope(program, &(ck_rope){.qkv = qkv,
                                   .table = model_weight(base, base->layout.rope, 0),
                                   .heads = s->heads,
                                   .kv_heads = s->kv_heads,
                                   .head_size = s->head_size});
}

static void turn_back(ck_program *program, const model_base *base, ck_tensor *dqkv) {
    const base_shape *s = &base->shape;
    ck_op_rope_backward(program, &(ck_rope_backward){.dqkv = dqkv,
                                                     .table = model_weight(base, base->layout.rope, 0),
                                                     .heads = s->heads,
                                                     .kv_heads = s->kv_heads,
                                                     .head_size = s->head_size});
}

static void activation(ck_program *program, int32_t ffn, const ck_tensor *u, ck_tensor *m) {
    ck_op_swiglu(program, &(ck_swiglu){.u = u, .m = m, .ffn = ffn});
}

static void activation_backward(ck_program *program, int32_t ffn, const ck_tensor *u, const ck_tensor *dm,
                                ck_tensor *du) {
    ck_op_swiglu_backward(program, &(ck_swiglu_backward){.u = u, .dm = dm, .du = du, .ffn = ffn});
}

const model_family model_llama = {
    .norm = CK_RMS_NORM,
    .mlp = CK_MLP_SWIGLU,
    .turn = turn,
    .turn_back = turn_back,
    .activation = activation,
    .activation_backward = activation_backward,
};

/* gpt2.c - what a GPT-2 has of its own: LayerNorm and gelu. */
#include "model/family.h"

static void activation(ck_program *program, int32_t ffn, const ck_tensor *u, ck_tensor *m) {
    ck_op_gelu(program, &(ck_gelu){.u = u, .m = m, .ffn = ffn});
}

static void activation_backward(ck_program *program, int32_t ffn, const ck_tensor *u, const ck_tensor *dm,
                                ck_tensor *du) {
    ck_op_gelu_backward(program, &(ck_gelu_backward){.u = u, .dm = dm, .du = du, .ffn = ffn});
}

const model_family model_gpt2 = {
    .norm = CK_LAYER_NORM,
    .mlp = CK_MLP_GELU,
    .activation = activation,
    .activation_backward = activation_backward,
};

/* family.h - how the families of bases differ when they compute. (How they differ on disk: base/family.h.)
 *
 *   GPT-2   LayerNorm; positions are learned, added to the embedding; gelu; q, k and v are one linear
 *   Llama   RMSNorm; rotary positions, which turn q and k; silu(gate) up; q, k and v are linears side by side
 *
 * Three things are no difference between families, because base_shape says them: how many heads share keys
 * and values, which linears have biases, and whether the output matrix is the embedding.
 *
 * To add a family: sim/README.md lists the files. The one here is model/NAME.c, a `const model_family
 * model_NAME`, which is declared below and listed in family.c. */
#ifndef COHORT_MODEL_FAMILY_H
#define COHORT_MODEL_FAMILY_H

#include "base/base.h"
#include "kernels.h"
#include "model/model.h"

typedef struct {
    ck_norm_kind norm;
    ck_mlp mlp; /* of all shapes of devices */
    /* Positions go into q and k, in place; and their gradient out of dqkv. NULL: they are learned. */
    void (*turn)(ck_program *program, const model_base *base, ck_tensor *qkv);
    void (*turn_back)(ck_program *program, const model_base *base, ck_tensor *dqkv);
    /* The MLP's activation where there are no experts (pre-training): m = act(u); du is not dm. */
    void (*activation)(ck_program *program, int32_t ffn, const ck_tensor *u, ck_tensor *m);
    void (*activation_backward)(ck_program *program, int32_t ffn, const ck_tensor *u, const ck_tensor *dm,
                                ck_tensor *du);
} model_family;

extern const model_family model_gpt2, model_llama;
const model_family *model_family_of(const base_shape *shape);

/* ---- Operations that both recordings have (model.c, model_pretraining.c) ---- */

/* In layer `layer` of the weights; NULL where the offset is -1: the shape has no such tensor. */
const float *model_weight(const model_base *base, int64_t layer0_offset, int layer);

void model_embed(ck_program *program, const model_base *base, ck_tensor *x);
void model_norm(ck_program *program, const model_base *base, const ck_tensor *x, ck_tensor *y,
                ck_tensor *stats, const float *gain, const float *bias);
/* Positions into q and k, where the family turns them. */
void model_turn(ck_program *program, const model_base *base, ck_tensor *qkv);
/* Turns q and k inside qkv first; backward: dqkv is that of qkv before. */
void model_attention(ck_program *program, const model_base *base, ck_tensor *qkv, ck_tensor *o,
                     ck_tensor *lse);
void model_attention_backward(ck_program *program, const model_base *base, const ck_tensor *qkv,
                              const ck_tensor *o, const ck_tensor *lse, const ck_tensor *d_o,
                              ck_tensor *dqkv);

#endif

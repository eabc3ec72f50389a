/* ops.h - the list of operations, and what cases of several operations need of the single ones: the costs
 * that floors are made of, and AdamW. */
#ifndef COHORT_BENCH_OPS_H
#define COHORT_BENCH_OPS_H

#include "rig/case.h"

/* In the order of the microbenchmarks' table. */
#define OP_LIST(X)                                                                                           \
    X(route_forward)                                                                                         \
    X(route_backward)                                                                                        \
    X(activation_forward)                                                                                    \
    X(activation_backward)                                                                                   \
    X(expand_forward)                                                                                        \
    X(expand_backward)                                                                                       \
    X(lora_forward)                                                                                          \
    X(lora_backward)                                                                                         \
    X(tied_forward)                                                                                          \
    X(tied_backward)                                                                                         \
    X(site_vector_forward)                                                                                   \
    X(site_vector_backward)                                                                                  \
    X(tied_gradients)                                                                                        \
    X(attention_forward)                                                                                     \
    X(attention_backward)                                                                                    \
    X(grouped_attention_forward)                                                                             \
    X(grouped_attention_backward)                                                                            \
    X(rope_forward)                                                                                          \
    X(rope_backward)                                                                                         \
    X(norm_forward)                                                                                          \
    X(norm_backward)                                                                                         \
    X(rms_norm_forward)                                                                                      \
    X(rms_norm_backward)                                                                                     \
    X(swiglu_forward)                                                                                        \
    X(swiglu_backward)                                                                                       \
    X(linear_forward)                                                                                        \
    X(linear_backward)                                                                                       \
    X(head_step)                                                                                             \
    X(adamw_update)                                                                                          \
    X(group_sum)                                                                                             \
    X(group_spread)                                                                                          \
    X(group_proximal)                                                                                        \
    X(layer_step)                                                                                            \
    X(model_step)                                                                                            \
    X(embed_forward)                                                                                         \
    X(embed_backward)                                                                                        \
    X(gelu_forward)                                                                                          \
    X(gelu_backward)                                                                                         \
    X(attention_cached_forward)                                                                              \
    X(logits_forward)                                                                                        \
    X(route_balance)

#define X(name) extern const op_case name;
OP_LIST(X)
#undef X

/* All of them, ended by NULL. */
extern const op_case *const OP_CASES[];

/* a: bytes of an activation or of a frozen weight. All else is f32. */
static inline double activation_bytes(const rig *r) {
    return r->precision == CK_BF16 ? 2 : 4;
}

static inline double tokens_of(const rig *r) {
    return (double)r->n_tokens;
}

/* Of the ranks of a device, those of a token's chosen experts: S k / E. */
static inline double chosen_ranks(const rig *r) {
    const ck_shape *s = &r->shapes[0];
    int k = s->top_k < s->n_experts ? s->top_k : s->n_experts;
    return (double)s->rank_sum * k / s->n_experts;
}

/* Bytes of the gates of all tokens: every column is read or written. */
static inline double gates_bytes(const rig *r) {
    return 4.0 * CK_MAX_EXPERTS * tokens_of(r);
}

/* Bytes of [tokens, S] in rank space. */
static inline double rank_bytes(const rig *r) {
    return 4.0 * r->shapes[0].rank_sum * tokens_of(r);
}

/* Of [tokens, I S]. */
static inline double h_bytes(const rig *r) {
    return 4.0 * r->shapes[0].h_ranks * tokens_of(r);
}

/* I: GELU 1, SwiGLU 2. */
static inline double branches_of(const rig *r) {
    return r->shapes[0].mlp == CK_MLP_SWIGLU ? 2 : 1;
}

cost route_cost(const rig *r);
cost activation_cost(const rig *r);
cost expand_cost(const rig *r);
cost expand_backward_cost(const rig *r);
cost activation_backward_cost(const rig *r);
cost route_backward_cost(const rig *r);
cost linear_cost(const rig *r, int in, int out); /* forward; backward moves and multiplies as much */
cost adamw_cost(const rig *r);
cost norm_cost(const rig *r);
cost norm_backward_cost(const rig *r, bool accumulate); /* dx is also read */
cost attention_cost(const rig *r);
cost attention_backward_cost(const rig *r);
cost lora_cost(const rig *r, int out); /* of a linear D to out */
cost lora_backward_cost(const rig *r, int out, bool input_gradient);
cost head_cost(const rig *r);

/* The hyperparameters of every case with an AdamW step: [0] all, [1] the router's rows. Large steps, so that
 * an error shows. */
extern const ck_adamw_hyper BENCH_HYPER[2];
/* One entry per device, for ck_adamw_devices; free() it. */
ck_adamw_device *adamw_devices(const rig *r);
/* The work of all entries. */
ck_status issue_adamw(const rig *r, rig_copy *c, const ck_adamw_device *devices);
/* Parameters and both moments after one step of AdamW with the gradients that were given or came out. */
void check_adamw(const rig *r, verdict *v, const ck_adamw_hyper *hyper);

#endif

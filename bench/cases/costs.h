/* costs.h - sizes that the floors are made of. */
#ifndef COHORT_BENCH_COSTS_H
#define COHORT_BENCH_COSTS_H

#include "rig/case.h"

/* a: bytes of an activation or of a frozen weight. All else is f32. */
static inline double activation_bytes(const world *w) {
    return w->precision == CK_BF16 ? 2 : 4;
}

static inline double tokens_of(const world *w) {
    return (double)w->n_tokens;
}

/* Of the ranks of a device, those of a token's chosen experts: S k / E. */
static inline double chosen_ranks(const world *w) {
    const ck_shape *s = &w->shape;
    int k = s->top_k < s->n_experts ? s->top_k : s->n_experts;
    return (double)s->rank_sum * k / s->n_experts;
}

/* Bytes of the gates of all tokens: every column is read or written. */
static inline double gates_bytes(const world *w) {
    return 4.0 * CK_MAX_EXPERTS * tokens_of(w);
}

/* Bytes of [tokens, S] in rank space. */
static inline double rank_bytes(const world *w) {
    return 4.0 * w->shape.rank_sum * tokens_of(w);
}

/* Of [tokens, I S]. */
static inline double h_bytes(const world *w) {
    return 4.0 * w->shape.h_ranks * tokens_of(w);
}

/* I: GELU 1, SwiGLU 2. */
static inline double branches_of(const world *w) {
    return w->shape.mlp == CK_MLP_SWIGLU ? 2 : 1;
}

cost route_cost(const world *w);
cost activation_cost(const world *w);
cost expand_cost(const world *w);
cost expand_backward_cost(const world *w);
cost activation_backward_cost(const world *w);
cost route_backward_cost(const world *w);
cost linear_cost(const world *w, int in, int out); /* forward; backward moves and multiplies as much */
cost adamw_cost(const world *w);
cost norm_cost(const world *w);
cost norm_backward_cost(const world *w, bool accumulate); /* dx is also read */
cost attention_cost(const world *w);
cost attention_backward_cost(const world *w);
cost lora_cost(const world *w, int out); /* of a linear D to out */
cost lora_backward_cost(const world *w, int out, bool input_gradient);
cost head_cost(const world *w);

/* The hyperparameters of every case with an AdamW step: [0] all, [1] the router's rows. Large steps, so that
 * an error shows. */
extern const ck_adamw_hyper BENCH_HYPER[2];
/* One entry per device, for ck_adamw_devices; free() it. */
ck_adamw_device *adamw_devices(const world *w);
ck_status issue_adamw(const world *w, world_copy *c, const ck_adamw_device *devices);

#endif

/* shape.c - the layout of a device's adapter pack. */
#include "backend.h"

static const char *given_problem(const ck_shape *s) {
    if (s->n_layers < 1 || s->width < 1 || s->ffn < 1) return "layers, width and ffn must be at least 1";
    if (s->n_experts < 1 || s->n_experts > CK_MAX_EXPERTS) return "a device holds 1 to 16 experts";
    if (s->top_k < 1) return "top_k must be at least 1";
    if (s->attention_rank < 0) return "the attention rank must not be negative";
    int sum = 0;
    for (int e = 0; e < s->n_experts; e++) {
        if (s->rank[e] < 1 || s->rank[e] > CK_MAX_RANK_SUM) return "an expert's rank must be between 1 and 512";
        sum += s->rank[e];
    }
    if (sum > CK_MAX_RANK_SUM || s->attention_rank > CK_MAX_RANK_SUM) return "a device's ranks must not sum to more than 512";
    if (s->mlp == CK_MLP_SWIGLU && 2 * sum > CK_MAX_RANK_SUM)
        return "a device's ranks must not sum to more than 256 where the MLP is SwiGLU";
    return NULL;
}

static int64_t place(int64_t *end, int64_t rows, int64_t columns) {
    int64_t offset = *end;
    *end = ck_align(offset + rows * columns);
    return offset;
}

/* With all experts kept f_e = 1/E, so the term is sum_e balance_e P_e / E: constant where all weights are equal, since sum_e P_e = 1. */
static bool balance_has_gradient(const ck_shape *s) {
    bool weighted = false, equal = true;
    for (int e = 0; e < s->n_experts; e++) {
        weighted |= s->balance[e] != 0.0f;
        equal &= s->balance[e] == s->balance[0];
    }
    return s->router_rows > 0 && weighted && !(s->top_k >= s->n_experts && equal);
}

ck_status ck_shape_init(ck_shape *s, const char **why) {
    const char *problem = given_problem(s);
    if (why) *why = problem;
    if (problem) return CK_BAD_ARGUMENT;
    s->rank_first[0] = 0;
    for (int e = 0; e < CK_MAX_EXPERTS; e++) s->rank_first[e + 1] = s->rank_first[e] + (e < s->n_experts ? s->rank[e] : 0);
    s->rank_sum = s->rank_first[s->n_experts];
    s->h_ranks = s->mlp == CK_MLP_SWIGLU ? 2 * s->rank_sum : s->rank_sum;
    s->router_rows = s->gates == CK_GATES_TOP_K && s->n_experts > 1 ? s->n_experts : 0;
    s->balanced = balance_has_gradient(s);
    int64_t end = 0;
    s->route = place(&end, s->router_rows + s->h_ranks, s->width);
    s->b1 = place(&end, s->h_ranks, s->ffn);
    s->a2 = place(&end, s->rank_sum, s->ffn);
    s->b2 = place(&end, s->rank_sum, s->width);
    s->qkv_a = place(&end, s->attention_rank, s->width);
    s->qkv_b = place(&end, s->attention_rank, 3 * (int64_t)s->width);
    s->out_a = place(&end, s->attention_rank, s->width);
    s->out_b = place(&end, s->attention_rank, s->width);
    s->layer_stride = end;
    s->total = end * s->n_layers;
    return CK_OK;
}

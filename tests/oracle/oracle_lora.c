/* Where parameters lie in a pack, and the LoRA at a site that every token uses.
 *
 *   h = x A^T     y += s h B     (A [r, in]; B [r, out], transposed)
 *   q = s dy B^T     dx += q A     dA += q^T x     dB += s h^T dy */
#include "oracle.h"

static const struct {
    const char *name;
    ck_adapter adapter;
    ck_site site;
    ck_factor factor;
} PARTS[ORACLE_PARTS] = {
    [ORACLE_QKV_A] = {"qkv_a", CK_LORA, CK_SITE_QKV, CK_FACTOR_A},
    [ORACLE_QKV_B] = {"qkv_b", CK_LORA, CK_SITE_QKV, CK_FACTOR_B},
    [ORACLE_OUT_A] = {"out_a", CK_LORA, CK_SITE_OUT, CK_FACTOR_A},
    [ORACLE_OUT_B] = {"out_b", CK_LORA, CK_SITE_OUT, CK_FACTOR_B},
    [ORACLE_ROUTER] = {"router", CK_EXPERTS, CK_NO_SITE, CK_FACTOR_ROUTER},
    [ORACLE_A1] = {"A1", CK_EXPERTS, CK_SITE_FC, CK_FACTOR_A},
    [ORACLE_B1] = {"B1", CK_EXPERTS, CK_SITE_FC, CK_FACTOR_B},
    [ORACLE_A2] = {"A2", CK_EXPERTS, CK_SITE_PR, CK_FACTOR_A},
    [ORACLE_B2] = {"B2", CK_EXPERTS, CK_SITE_PR, CK_FACTOR_B},
    [ORACLE_Q_A] = {"q_a", CK_LORA, CK_SITE_Q, CK_FACTOR_A},
    [ORACLE_Q_B] = {"q_b", CK_LORA, CK_SITE_Q, CK_FACTOR_B},
    [ORACLE_K_A] = {"k_a", CK_LORA, CK_SITE_K, CK_FACTOR_A},
    [ORACLE_K_B] = {"k_b", CK_LORA, CK_SITE_K, CK_FACTOR_B},
    [ORACLE_V_A] = {"v_a", CK_LORA, CK_SITE_V, CK_FACTOR_A},
    [ORACLE_V_B] = {"v_b", CK_LORA, CK_SITE_V, CK_FACTOR_B},
    [ORACLE_GATE_A] = {"gate_a", CK_LORA, CK_SITE_GATE, CK_FACTOR_A},
    [ORACLE_GATE_B] = {"gate_b", CK_LORA, CK_SITE_GATE, CK_FACTOR_B},
    [ORACLE_UP_A] = {"up_a", CK_LORA, CK_SITE_FC, CK_FACTOR_A},
    [ORACLE_UP_B] = {"up_b", CK_LORA, CK_SITE_FC, CK_FACTOR_B},
    [ORACLE_DOWN_A] = {"down_a", CK_LORA, CK_SITE_PR, CK_FACTOR_A},
    [ORACLE_DOWN_B] = {"down_b", CK_LORA, CK_SITE_PR, CK_FACTOR_B},
};

const char *oracle_part_name(oracle_part part) {
    return PARTS[part].name;
}

uint32_t oracle_part_class(oracle_part part) {
    if (part == ORACLE_ROUTER) return CK_LEARN_ROUTER;
    bool lora = PARTS[part].adapter == CK_LORA;
    if (PARTS[part].factor == CK_FACTOR_A) return lora ? CK_LEARN_LORA_A : CK_LEARN_EXPERT_A;
    return lora ? CK_LEARN_LORA_B : CK_LEARN_EXPERT_B;
}

/* The part of a LoRA. */
oracle_part oracle_lora_part(ck_site site, ck_factor factor) {
    oracle_part part = ORACLE_QKV_A;
    while (PARTS[part].adapter != CK_LORA || PARTS[part].site != site || PARTS[part].factor != factor) part++;
    return part;
}

/* Of the experts', with SwiGLU the gate's rows lie before those of fc. */
oracle_range oracle_part_range(const ck_shape *s, int layer, oracle_part part) {
    const ck_block *block = ck_block_of(s, PARTS[part].adapter, PARTS[part].site, PARTS[part].factor);
    int64_t start = layer * s->layer_stride, count = (int64_t)block->rows * block->columns;
    if (PARTS[part].site != CK_SITE_FC || PARTS[part].adapter == CK_LORA)
        return (oracle_range){start + block->offset, count};
    const ck_block *gate = ck_block_of(s, CK_EXPERTS, CK_SITE_GATE, PARTS[part].factor);
    return (oracle_range){start + gate->offset, count + (int64_t)gate->rows * gate->columns};
}

typedef struct {
    int64_t a, b; /* offsets in the pack */
    int rank, in, out;
} pair;

static pair pair_of(const oracle_adapter *adapter, ck_site site) {
    const ck_block *a = ck_block_of(adapter->shape, CK_LORA, site, CK_FACTOR_A),
                   *b = ck_block_of(adapter->shape, CK_LORA, site, CK_FACTOR_B);
    int64_t start = adapter->layer * adapter->shape->layer_stride;
    return (pair){start + a->offset, start + b->offset, a->rows, a->columns, b->columns};
}

void oracle_lora(const oracle_adapter *adapter, ck_site site, int64_t n, const double *x, double *h, int ld,
                 double *y, int ldy) {
    pair f = pair_of(adapter, site);
    const double *a = adapter->parameters + f.a, *b = adapter->parameters + f.b;
    for (int64_t t = 0; t < n; t++)
        for (int r = 0; r < f.rank; r++) {
            h[t * ld + r] = oracle_dot(x + t * f.in, a + r * f.in, f.in);
            for (int o = 0; o < f.out; o++)
                y[t * ldy + o] += (double)adapter->shape->lora_scale[site] * h[t * ld + r] * b[r * f.out + o];
        }
}

void oracle_lora_backward(const oracle_adapter *adapter, ck_site site, int64_t n, const double *x,
                          const double *h, int ld, const double *dy, int ldy, double *dx) {
    pair f = pair_of(adapter, site);
    const double *a = adapter->parameters + f.a, *b = adapter->parameters + f.b;
    double *da = adapter->gradients + f.a, *db = adapter->gradients + f.b,
           scale = adapter->shape->lora_scale[site];
    for (int64_t t = 0; t < n; t++)
        for (int r = 0; r < f.rank; r++) {
            double q = scale * oracle_dot(dy + t * ldy, b + r * f.out, f.out);
            for (int i = 0; i < f.in; i++) {
                if (dx != NULL) dx[t * f.in + i] += q * a[r * f.in + i];
                da[r * f.in + i] += q * x[t * f.in + i];
            }
            for (int o = 0; o < f.out; o++) db[r * f.out + o] += scale * h[t * ld + r] * dy[t * ldy + o];
        }
}

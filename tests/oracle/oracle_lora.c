/* Where parameters lie in a pack, and the LoRA at a site that every token uses.
 *
 *   h = x A^T     y += s h B     (A [r, in]; B [r, out], transposed)
 *   q = s dy B^T     dx += q A     dA += q^T x     dB += s h^T dy */
#include "oracle.h"

#define TIED(key, site)                                                                                      \
    [ORACLE_TIED + 3 * site] = {"tied " key "_a", CK_TIED, site, CK_FACTOR_A},                               \
                       [ORACLE_TIED + 3 * site + 1] = {"tied " key "_b", CK_TIED, site, CK_FACTOR_B},        \
                       [ORACLE_TIED + 3 * site + 2] = {key " vector", CK_TIED, site, CK_FACTOR_VECTOR}

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
    TIED("q", CK_SITE_Q),
    TIED("k", CK_SITE_K),
    TIED("v", CK_SITE_V),
    TIED("qkv", CK_SITE_QKV),
    TIED("out", CK_SITE_OUT),
    TIED("gate", CK_SITE_GATE),
    TIED("fc", CK_SITE_FC),
    TIED("pr", CK_SITE_PR),
};

const char *oracle_part_name(oracle_part part) {
    return PARTS[part].name;
}

uint32_t oracle_part_class(oracle_part part) {
    static const uint32_t of_a[] = {CK_LEARN_EXPERT_A, CK_LEARN_LORA_A, CK_LEARN_TIED_A},
                          of_b[] = {CK_LEARN_EXPERT_B, CK_LEARN_LORA_B, CK_LEARN_TIED_B};
    if (part == ORACLE_ROUTER) return CK_LEARN_ROUTER;
    if (PARTS[part].factor == CK_FACTOR_VECTOR) return CK_LEARN_VECTOR;
    return (PARTS[part].factor == CK_FACTOR_A ? of_a : of_b)[PARTS[part].adapter];
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
    if (PARTS[part].adapter == CK_TIED) return (oracle_range){block->offset, layer == 0 ? count : 0};
    if (PARTS[part].site != CK_SITE_FC || PARTS[part].adapter == CK_LORA)
        return (oracle_range){start + block->offset, count};
    const ck_block *gate = ck_block_of(s, CK_EXPERTS, CK_SITE_GATE, PARTS[part].factor);
    return (oracle_range){start + gate->offset, count + (int64_t)gate->rows * gate->columns};
}

typedef struct {
    int64_t a, b; /* offsets in the pack */
    int rank, in, out;
    double scale;
} pair;

static pair pair_of(const oracle_adapter *adapter, ck_site site, bool tied) {
    const ck_shape *s = adapter->shape;
    ck_adapter which = tied ? CK_TIED : CK_LORA;
    const ck_block *a = ck_block_of(s, which, site, CK_FACTOR_A),
                   *b = ck_block_of(s, which, site, CK_FACTOR_B);
    int64_t start = tied ? 0 : adapter->layer * s->layer_stride;
    return (pair){start + a->offset, start + b->offset,
                  a->rows,           a->columns,
                  b->columns,        (double)(tied ? s->tied_scale[site] : s->lora_scale[site])};
}

static void lora(const oracle_adapter *adapter, pair f, int64_t n, const double *x, double *h, int ld,
                 double *y, int ldy) {
    const double *a = adapter->parameters + f.a, *b = adapter->parameters + f.b;
    for (int64_t t = 0; t < n; t++)
        for (int r = 0; r < f.rank; r++) {
            h[t * ld + r] = oracle_dot(x + t * f.in, a + r * f.in, f.in);
            for (int o = 0; o < f.out; o++) y[t * ldy + o] += f.scale * h[t * ld + r] * b[r * f.out + o];
        }
}

static void lora_backward(const oracle_adapter *adapter, pair f, int64_t n, const double *x, const double *h,
                          int ld, const double *dy, int ldy, double *dx) {
    const double *a = adapter->parameters + f.a, *b = adapter->parameters + f.b;
    double *da = adapter->gradients + f.a, *db = adapter->gradients + f.b;
    for (int64_t t = 0; t < n; t++)
        for (int r = 0; r < f.rank; r++) {
            double q = f.scale * oracle_dot(dy + t * ldy, b + r * f.out, f.out);
            for (int i = 0; i < f.in; i++) {
                if (dx != NULL) dx[t * f.in + i] += q * a[r * f.in + i];
                da[r * f.in + i] += q * x[t * f.in + i];
            }
            for (int o = 0; o < f.out; o++) db[r * f.out + o] += f.scale * h[t * ld + r] * dy[t * ldy + o];
        }
}

void oracle_lora(const oracle_adapter *adapter, ck_site site, int64_t n, const double *x, double *h, int ld,
                 double *y, int ldy) {
    lora(adapter, pair_of(adapter, site, false), n, x, h, ld, y, ldy);
}

void oracle_lora_backward(const oracle_adapter *adapter, ck_site site, int64_t n, const double *x,
                          const double *h, int ld, const double *dy, int ldy, double *dx) {
    lora_backward(adapter, pair_of(adapter, site, false), n, x, h, ld, dy, ldy, dx);
}

void oracle_tied_lora(const oracle_adapter *adapter, ck_site site, int64_t n, const double *x, double *h,
                      int ld, double *y, int ldy) {
    lora(adapter, pair_of(adapter, site, true), n, x, h, ld, y, ldy);
}

void oracle_tied_lora_backward(const oracle_adapter *adapter, ck_site site, int64_t n, const double *x,
                               const double *h, int ld, const double *dy, int ldy, double *dx) {
    lora_backward(adapter, pair_of(adapter, site, true), n, x, h, ld, dy, ldy, dx);
}

/* f_t = 1, or the sum of x's row. */
static double vector_factor(const oracle_adapter *a, ck_site site, int in, const double *x) {
    double sum = 0;
    for (int j = 0; j < in; j++) sum += x[j];
    return a->shape->vector[site] == CK_COLUMN_BIAS ? sum : 1;
}

void oracle_site_vector(const oracle_adapter *a, ck_site site, int64_t n, int in, const double *x, double *y,
                        int ldy) {
    const ck_block *p = ck_block_of(a->shape, CK_TIED, site, CK_FACTOR_VECTOR);
    for (int64_t t = 0; t < n && p->rows > 0; t++)
        for (int o = 0; o < p->columns; o++)
            y[t * ldy + o] += vector_factor(a, site, in, x + t * in) * a->parameters[p->offset + o];
}

void oracle_site_vector_backward(const oracle_adapter *a, ck_site site, int64_t n, int in, const double *x,
                                 const double *dy, int ldy, double *dx) {
    const ck_block *p = ck_block_of(a->shape, CK_TIED, site, CK_FACTOR_VECTOR);
    bool columns = a->shape->vector[site] == CK_COLUMN_BIAS;
    for (int64_t t = 0; t < n && p->rows > 0; t++)
        for (int o = 0; o < p->columns; o++) {
            double slope = dy[t * ldy + o];
            a->gradients[p->offset + o] += vector_factor(a, site, in, x + t * in) * slope;
            for (int j = 0; j < in && dx != NULL && columns; j++)
                dx[t * in + j] += a->parameters[p->offset + o] * slope;
        }
}

/* Where parameters lie in a pack, and the attention LoRA.
 *
 *   h = x A^T     y += s h B     (A [r, in]; B [r, out], transposed)
 *   q = s dy B^T     dx += q A     dA += q^T x     dB += s h^T dy */
#include "oracle.h"

const char *oracle_part_name(oracle_part part) {
    static const char *const names[ORACLE_PARTS] = {"qkv_a", "qkv_b", "out_a", "out_b", "router", "A1", "B1", "A2", "B2"};
    return names[part];
}

oracle_range oracle_part_range(const ck_shape *s, int layer, oracle_part part) {
    int64_t ra = s->attention_rank, sum = s->rank_sum, width = s->width, ffn = s->ffn;
    oracle_range range = {0, 0};
    switch (part) {
    case ORACLE_QKV_A:
        range = (oracle_range){s->qkv_a, ra * width};
        break;
    case ORACLE_QKV_B:
        range = (oracle_range){s->qkv_b, ra * 3 * width};
        break;
    case ORACLE_OUT_A:
        range = (oracle_range){s->out_a, ra * width};
        break;
    case ORACLE_OUT_B:
        range = (oracle_range){s->out_b, ra * width};
        break;
    case ORACLE_ROUTER:
        range = (oracle_range){s->route, s->router_rows * width};
        break;
    case ORACLE_A1:
        range = (oracle_range){s->route + s->router_rows * width, s->h_ranks * width};
        break;
    case ORACLE_B1:
        range = (oracle_range){s->b1, s->h_ranks * ffn};
        break;
    case ORACLE_A2:
        range = (oracle_range){s->a2, sum * ffn};
        break;
    case ORACLE_B2:
        range = (oracle_range){s->b2, sum * width};
        break;
    case ORACLE_PARTS:
        break;
    }
    range.offset += layer * s->layer_stride;
    return range;
}

typedef struct {
    int64_t a, b; /* offsets in the pack */
    int rank, in, out;
} pair;

static pair pair_of(const oracle_adapter *adapter, ck_attention_lora which) {
    bool qkv = which == CK_LORA_QKV;
    const ck_shape *s = adapter->shape;
    return (pair){oracle_part_range(s, adapter->layer, qkv ? ORACLE_QKV_A : ORACLE_OUT_A).offset,
                  oracle_part_range(s, adapter->layer, qkv ? ORACLE_QKV_B : ORACLE_OUT_B).offset, s->attention_rank, s->width,
                  qkv ? 3 * s->width : s->width};
}

void oracle_lora(const oracle_adapter *adapter, ck_attention_lora which, int64_t n, const double *x, double *h, int ld, double *y) {
    pair f = pair_of(adapter, which);
    const double *a = adapter->parameters + f.a, *b = adapter->parameters + f.b;
    for (int64_t t = 0; t < n; t++)
        for (int r = 0; r < f.rank; r++) {
            h[t * ld + r] = oracle_dot(x + t * f.in, a + r * f.in, f.in);
            for (int o = 0; o < f.out; o++) y[t * f.out + o] += (double)adapter->shape->attention_scale * h[t * ld + r] * b[r * f.out + o];
        }
}

void oracle_lora_backward(const oracle_adapter *adapter, ck_attention_lora which, int64_t n, const double *x, const double *h, int ld,
                          const double *dy, double *dx) {
    pair f = pair_of(adapter, which);
    const double *a = adapter->parameters + f.a, *b = adapter->parameters + f.b;
    double *da = adapter->gradients + f.a, *db = adapter->gradients + f.b, scale = adapter->shape->attention_scale;
    for (int64_t t = 0; t < n; t++)
        for (int r = 0; r < f.rank; r++) {
            double q = scale * oracle_dot(dy + t * f.out, b + r * f.out, f.out);
            for (int i = 0; i < f.in; i++) {
                if (dx != NULL) dx[t * f.in + i] += q * a[r * f.in + i];
                da[r * f.in + i] += q * x[t * f.in + i];
            }
            for (int o = 0; o < f.out; o++) db[r * f.out + o] += scale * h[t * ld + r] * dy[t * f.out + o];
        }
}

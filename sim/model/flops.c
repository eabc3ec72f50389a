/* FLOPs a token of an expert step, as model FLOPs (no recomputation), a multiply-add is 2:
 *
 *   base         per layer 2 D (W_qkv + Q + W_fc + F) forward and as much for the input gradients, without
 *                the first layer's qkv backward; Q, W_qkv and W_fc: columns of attention, qkv and fc
 *                (base.h). In GPT-2 D, 3 D and F
 *   head         2 D V forward and backward each
 *   attention    per layer scores and mixing over the causal half: 2 Q (T + 1) forward, twice that backward
 *   adapters     forward, input gradient and weight gradient cost the same: 6 a parameter and token that uses
 *                it. The router, A of gate and fc, and the LoRAs of no expert serve every
 *                token, all else K/E of them
 */
#include "model/model.h"

/* Adapter parameters that a token passes through, on average. */
static double used_parameters(const ck_shape *shape) {
    double chosen = shape->gates == CK_GATES_MEAN || shape->top_k > shape->n_experts
                        ? 1.0
                        : (double)shape->top_k / shape->n_experts;
    double used = 0.0;
    for (int32_t i = 0; i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        bool always = part.expert < 0 || (part.factor == CK_FACTOR_A && part.site != CK_SITE_PR);
        double layers = part.layer < 0 ? shape->n_layers : 1; /* a shared part works in all of them */
        used += layers * part.rows * part.columns * (always ? 1.0 : chosen);
    }
    return used;
}

double model_flops_per_token(const base_shape *base, const ck_shape *shape, int sequence) {
    double d = base->width, v = base->vocabulary, layers = base->layers, q = base_q_width(base),
           qkv = base_qkv_width(base);
    double gemm = 4.0 * d * (qkv + q + base_fc_width(base) + base->ffn) * layers - 2.0 * d * qkv;
    double attention = 6.0 * q * (sequence + 1.0) * layers;
    return gemm + 4.0 * d * v + attention + 6.0 * used_parameters(shape);
}

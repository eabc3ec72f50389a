/* FLOPs a token of an expert step, as model FLOPs (no recomputation), a multiply-add is 2:
 *
 *   base         per layer 2 (4 D^2 + 2 D F) forward and as much for the input gradients, without the first layer's qkv backward
 *   head         2 D V forward and backward each
 *   attention    per layer scores and mixing over the causal half: 2 D (T + 1) forward, twice that backward
 *   adapters     forward, input gradient and weight gradient cost the same: 6 a parameter and token that uses it.
 *                Route and shrink D (R + S); B1, A2: F S K/E each; B2: D S K/E; attention LoRA 6 D r_a
 */
#include "train/model.h"

double model_flops_per_token(const base_shape *base, const ck_shape *shape, int sequence) {
    double d = base->width, f = base->ffn, v = base->vocabulary, layers = base->layers;
    double chosen = shape->gates == CK_GATES_MEAN || shape->top_k > shape->n_experts ? 1.0 : (double)shape->top_k / shape->n_experts;
    double gemm = 4.0 * (4.0 * d * d + 2.0 * d * f) * layers - 6.0 * d * d;
    double attention = 6.0 * d * (sequence + 1.0) * layers;
    double experts = 6.0 * (d * (shape->router_rows + shape->rank_sum) + (2.0 * f + d) * shape->rank_sum * chosen) * layers;
    double attention_lora = 36.0 * d * shape->attention_rank * layers;
    return gemm + 4.0 * d * v + attention + experts + attention_lora;
}

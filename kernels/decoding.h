/* decoding.h - the operations that a program for decoding has beside those of kernels.h.
 *
 * A decoding program is recorded like an evaluation, with ck_op_attention_cached() in the place of attention
 * and ck_op_logits() in that of the head. It runs on waves whose sequences go on at a position: the wave's
 * tokens of sequence s are at positions first_position[s], first_position[s] + 1, ... of it (ck_wave), and
 * the keys and values of the positions before lie in the sequence's place of the caches, cache_slot[s], where
 * earlier waves have put them. So a prompt is one or several waves of many tokens, and every further wave has
 * one token of each sequence.
 *
 *   caches   one for each layer, backend memory of the caller's. A slot holds one sequence, up to
 *            ck_attention_cached.positions tokens. A slot is free again when its sequence has ended: nothing
 *            beyond the positions that were written is ever read.
 *   adapters of a sequence's device apply as in training. Nothing is learned: ck_wave_device.learn is 0.
 *
 * On the CPU such a program goes over the wave op by op, every op by all threads, so that a wave reads each
 * weight of the base once for all of its sequences. The products with these weights sum over k in the same
 * order whatever the number of rows (cpu/gemm_stream.h). What a sequence computes therefore depends to the
 * bit on its own tokens, the lengths of its waves, and its device's pack alone: not on its neighbours, nor on
 * the number of threads. */
#ifndef COHORT_KERNELS_DECODING_H
#define COHORT_KERNELS_DECODING_H

#include "kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of a layer's keys, and of its values. */
size_t ck_keys_bytes(ck_precision precision, int32_t slots, int32_t kv_heads, int32_t positions,
                     int32_t head_size);

/* Causal attention of the wave's tokens over all of their sequence so far. First the tokens' keys and values
 * go into the cache; then, for a token at position t and query head j, which reads key-value head
 * h = j / (heads / kv_heads),
 *     s_i = <q_t,j, keys[slot, h, i]> / sqrt(head_size), i <= t;
 *         o_t,j = sum_i softmax(s)_i values[slot, h, i]
 * qkv [tokens, (heads + 2 kv_heads) head_size]: q, then k, then v, each head by head;
 * o [tokens, heads head_size]. */
typedef struct {
    const ck_tensor *qkv;
    ck_tensor *o;
    /* [slots, kv_heads, positions, head_size] each, backend memory; f32, in a bf16 program bf16 */
    void *keys, *values;
    int32_t slots, positions;
    int32_t heads, kv_heads, head_size; /* heads a multiple of kv_heads */
} ck_attention_cached;
void ck_op_attention_cached(ck_program *, const ck_attention_cached *);

/* logits[sequence] = W x_t of the last of the sequence's tokens t in the wave. */
typedef struct {
    const ck_tensor *x;
    const float *weight; /* [vocabulary, width] */
    float *logits;       /* [max_sequences, vocabulary] backend memory, f32 whatever the program */
    int32_t width, vocabulary;
} ck_logits;
void ck_op_logits(ck_program *, const ck_logits *);

#ifdef __cplusplus
}
#endif
#endif

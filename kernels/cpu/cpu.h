/* cpu.h - what the ops of the CPU backend share.
 *
 * A local op is a function of (descriptor, block): one sequence, seen from one worker thread. All ops of a
 * segment run on a sequence before the next one is touched, so activations live in the worker's L2 cache and
 * exist once per worker.
 *
 * Gradients. The block's `gradients` is a pack of the device's shape: for a device's first sequence of the
 * wave the device's own pack, for the others the worker's spare pack, which run.c adds in sequence order. Ops
 * therefore *write* every range they own (never add to it), once per sequence. */
#ifndef COHORT_KERNELS_CPU_H
#define COHORT_KERNELS_CPU_H

#include "backend.h"

typedef struct {
    const ck_wave *wave;
    int sequence, worker;
    int64_t first_token;
    int32_t n_tokens;
    /* targets >= 0 of the loss mean this sequence belongs to: its device's, or the wave's without devices */
    int32_t counted;
    int device; /* -1: the wave has no devices */
    uint32_t learn;
    const ck_shape *shape; /* NULL without devices, like the next two */
    const float *pack;
    float *gradients;              /* NULL if nothing is learned */
    float *base_gradients;         /* NULL unless pre-training */
    const ck_replacement *variant; /* [n_linears] of the device's; NULL: the recorded weights */
    float *scratch;                /* the worker's, scratch_floats of the program */
    int32_t *fault_layer;          /* of this sequence; -1 = none */
} cpu_block;

typedef void (*cpu_local_op)(const void *descriptor, const cpu_block *block);

#define X(op) void cpu_##op(const void *descriptor, const cpu_block *block);
CK_LOCAL_OPS(X)
#undef X
void cpu_balance(const ck_balance *d, const ck_wave *wave);

/* Rows of this block's sequence. */
static inline float *cpu_rows(const ck_tensor *tensor, const cpu_block *block) {
    return (float *)tensor->data +
           (tensor->keep ? block->first_token * tensor->columns : block->worker * tensor->slot_stride);
}

static inline const float *cpu_layer(const cpu_block *block, int layer) {
    return block->pack + layer * block->shape->layer_stride;
}

static inline float *cpu_layer_gradients(const cpu_block *block, int layer) {
    return block->gradients + layer * block->shape->layer_stride;
}

/* What to add to the offset of a shared block in a pack to find, in a pack of gradients, what a layer gives
 * to it. */
static inline int64_t cpu_tied_gradients_of(const ck_shape *shape, int layer) {
    return shape->total + layer * shape->tied_floats - shape->tied;
}

/* The replacements [n_linears] of a variant; NULL: the recorded weights. */
static inline const ck_replacement *cpu_variant(const ck_wave *wave, int32_t variant) {
    return variant > 0 ? wave->variants + (int64_t)(variant - 1) * wave->n_linears : NULL;
}
/* The weight and the bias of a linear for the block's device. */
static inline ck_replacement cpu_weights(const cpu_block *block, int linear, const float *weight,
                                         const float *bias) {
    ck_replacement here = {weight, bias};
    if (!block->variant || linear < 0) return here;
    const ck_replacement *own = &block->variant[linear];
    if (own->weight) here.weight = own->weight;
    if (own->bias) here.bias = own->bias;
    return here;
}

/* sums [out] = column sums of rows `columns` floats apart, tokens in order: the gradient of a bias. */
void cpu_column_sums(const float *dy, int columns, int n_tokens, int out, float *sums);

/* Softmax of one row over its first `visible` of `keys` entries; the rest becomes 0. Returns the log-sum-exp.
 */
float cpu_softmax_row(float *s, int visible, int keys);

/* ---- Decoding (decoding.h): shares of an op over the whole wave, whose activations are kept */

typedef struct {
    int first, end;
} cpu_range;
/* Columns of y, of all tokens. */
void cpu_linear_columns(const ck_linear *d, const ck_wave *wave, cpu_range columns);
/* Columns of all sequences' logits; scratch [n_sequences, width]. */
void cpu_logits_columns(const ck_logits *d, const ck_wave *wave, cpu_range columns, float *scratch);
/* One key-value head of a sequence, and the query heads that read it. */
void cpu_attend_cached(const ck_attention_cached *d, const cpu_block *block, int kv_head);

/* Rows of the MLP activation handled at once: the tile and its companions stay in L2. */
static inline int cpu_tile_rows(int columns) {
    int rows = 32768 / columns / 16 * 16;
    return rows < 16 ? 16 : rows > 128 ? 128 : rows;
}

/* Scratch an op needs, floats a worker. */
int64_t cpu_head_scratch(const ck_head *d);
int64_t cpu_attention_scratch(int max_sequence_tokens);
int64_t cpu_attention_cached_scratch(const ck_attention_cached *d);
/* lora, route, expert_expand and their backward */
int64_t cpu_rank_space_scratch(int max_sequence_tokens);
int64_t cpu_expert_activation_scratch(int ffn, ck_mlp mlp); /* forward and backward */

size_t cpu_cache_bytes(const ck_backend *backend);
size_t cpu_ceiling_bytes(const ck_backend *backend);
void cpu_ceiling(ck_backend *backend, ck_precision precision, ck_ceiling *out);
double cpu_copy_rate(ck_backend *backend);

ck_status cpu_program_place(ck_program *program);
size_t cpu_program_bytes(const ck_program *program);
void cpu_program_release(ck_program *program);
ck_status cpu_run(ck_program *program, ck_stream *stream, const ck_wave *wave);

ck_status cpu_adamw_devices(ck_stream *, float *, float *, float *, const float *, const ck_shape *,
                            const ck_adamw_device *, int32_t);
ck_status cpu_carry_devices(ck_stream *, float *, float *, const ck_shape *, const ck_carry_device *,
                            int32_t);
ck_status cpu_adamw_ranges(ck_stream *, float *, float *, float *, const float *, const ck_range *, int32_t,
                           const ck_adamw_hyper *);
ck_status cpu_group_sum(ck_stream *, const float *, const ck_group *, int32_t, float *);
ck_status cpu_group_spread(ck_stream *, float *, const ck_group *, int32_t, const float *);
ck_status cpu_group_proximal(ck_stream *, const float *, const ck_group *, int32_t, const float *, float *);

#endif

/* model.h - the transformer with adapters, recorded as programs (kernels.h). The only place that knows the
 * order of the ops. */
#ifndef COHORT_MODEL_H
#define COHORT_MODEL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/base.h"
#include "decoding.h"
#include "kernels.h"
#include "support/problems.h"

/* The base's weights in backend memory. */
typedef struct {
    base_shape shape;
    base_layout layout;
    const float *weights;
} model_base;

typedef struct {
    float *loss;                                /* [max_sequences] summed nats per sequence */
    float *gate_sum, *top1_count, *top_k_count; /* [max_sequences, layers, CK_MAX_EXPERTS], or NULL */
    float *gate_record;                         /* [max_tokens, layers, CK_MAX_EXPERTS], or NULL */
    float *balance_coefficient;                 /* as top_k_count; NULL: the load balance has no gradient */
    /* the same; NULL: no router is balanced that is not linear. These need gate_sum in a step */
    float *load_sum, *load_coefficient;
    float *logits; /* tests only, or NULL */
} model_outputs;   /* backend memory, the caller's */

/* A training step's forward and backward into ck_wave.gradients. */
exit_code model_record_step(ck_backend *backend, const model_base *base, const ck_shape *shapes, int n_shapes,
                            const ck_capacity *capacity, const model_outputs *outputs, ck_program **out,
                            problems *list);
/* Forward only: losses and routing statistics; activations are shared by all layers. */
exit_code model_record_evaluation(ck_backend *backend, const model_base *base, const ck_shape *shapes,
                                  int n_shapes, const ck_capacity *capacity, const model_outputs *outputs,
                                  ck_program **out, problems *list);
/* Where a decoding program keeps keys and values, and what it gives: backend memory, the caller's. */
typedef struct {
    void *cache; /* [model_cache_bytes()] keys and values of all layers */
    int32_t slots, positions;
    float *logits; /* [max_sequences, vocabulary] of each sequence's last token in the wave */
} model_decoding;
size_t model_cache_bytes(const base_shape *base, ck_precision precision, int32_t slots, int32_t positions);
/* Forward with a cache (decoding.h), the adapters of each sequence's device in it. */
exit_code model_record_decoding(ck_backend *backend, const model_base *base, const ck_shape *shapes,
                                int n_shapes, const ck_capacity *capacity, const model_decoding *decoding,
                                ck_program **out, problems *list);
/* Pre-training: the plain transformer, gradients of every weight into ck_wave.base_gradients (layout of the
 * weights). */
exit_code model_record_pretraining(ck_backend *backend, const model_base *base, const ck_capacity *capacity,
                                   const model_outputs *outputs, ck_program **out, problems *list);

/* Bytes of activations and workspaces that such a step (train) or evaluation needs, without allocating them.
 */
exit_code model_program_bytes(ck_backend *backend, const model_base *base, const ck_shape *shapes,
                              int n_shapes, const ck_capacity *capacity, const model_outputs *outputs,
                              bool train, size_t *bytes, problems *list);
/* The same of decoding, without the cache and the logits, which are the caller's. */
exit_code model_decoding_bytes(ck_backend *backend, const model_base *base, const ck_shape *shapes,
                               int n_shapes, const ck_capacity *capacity, const model_decoding *decoding,
                               size_t *bytes, problems *list);
exit_code model_pretraining_bytes(ck_backend *backend, const model_base *base, const ck_capacity *capacity,
                                  const model_outputs *outputs, size_t *bytes, problems *list);

/* FLOPs a token of an expert step costs (forward, input gradients, adapter gradients; sequence tokens long):
 * the numerator of "percent of sgemm". Base GEMMs once forward and once backward, attention as computed by
 * its definition over the causal half. */
double model_flops_per_token(const base_shape *base, const ck_shape *shape, int sequence);

#endif

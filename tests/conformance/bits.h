/* bits.h - a population of small devices whose losses and gradients can be computed in any wave, on any
 * number of threads, and are then compared to the bit. */
#ifndef COHORT_CONFORMANCE_BITS_H
#define COHORT_CONFORMANCE_BITS_H

#include "kernels.h"
#include "rig/verdict.h"

enum { BITS_DEVICES = 101 };

typedef struct bits_world bits_world;
bits_world *bits_create(ck_mlp mlp); /* GELU: a GPT-2, SwiGLU: a Llama */
void bits_destroy(bits_world *w);

/* What one device's step gave: losses of its sequences, then the gradients of every tensor, without padding.
 */
typedef struct {
    int64_t count;
    float *values;
    int fault;
} bits_result;

/* The devices in `order` (n of them) as one wave; results[i] belongs to order[i]. spoil >= 0: this device
 * gets a NaN router in layer 1. */
void bits_step(const bits_world *w, ck_backend *backend, const int *order, int n, int spoil,
               bits_result *results, verdict *c);
void bits_free(bits_result *results, int n);
bool bits_equal(const bits_result *a, const bits_result *b);

/* The same devices decode their text: half of each sequence in one wave, then a wave for every further token
 * of all that have one. results: logits of every wave, sequence by sequence. */
void bits_decode(const bits_world *w, ck_backend *backend, const int *order, int n, bits_result *results,
                 verdict *c);

/* A pre-training step on all devices' text: losses, then the gradient of every weight. */
bits_result bits_pretraining(const bits_world *w, ck_backend *backend, verdict *c);

#endif

/* decoder.h - sequences that go on, many at a time, each with the adapters of its device.
 *
 * As many sequences as the cache has room for are under way; where one ends the next begins in its place. A
 * prompt goes through the model in pieces of DECODE_PIECE tokens, which begin at multiples of that, then
 * every wave adds one token to each sequence. So on the CPU a sequence's tokens do not depend, to the bit of
 * their logits, on what else is decoded, and in which order. */
#ifndef COHORT_DECODER_H
#define COHORT_DECODER_H

#include <stdbool.h>
#include <stdint.h>

#include "decode/sample.h"
#include "kernels.h"
#include "model/model.h"
#include "support/problems.h"

enum { DECODE_PIECE = 128 };

typedef enum { DECODE_UNDER_WAY, DECODE_END_TOKEN, DECODE_ENOUGH, DECODE_CONTEXT } decode_end;

typedef struct {
    /* given; sequences of one device are neighbours in the list */
    ck_wave_device device; /* its pack, shape and variant */
    const char *name;      /* for messages */
    rng_key key;           /* of the random numbers; its step is overwritten by the position of the token */
    uint64_t index;        /* tells sequences of one key apart */
    int32_t n_prompt;      /* >= 1 */
    int32_t *tokens;       /* [n_prompt + most_tokens] the prompt; what follows is written behind it */
    /* given back */
    int32_t n_tokens; /* prompt and all; the end token too, where it came */
    decode_end end; /* why it ended: at an end token, with enough tokens, at the end of the base's context */
} decode_sequence;

typedef struct {
    sample_rule rule;
    int32_t most_tokens; /* new ones of a sequence */
    const int32_t *end_tokens;
    int n_end_tokens;
    /* most memory that decoding may take beside what is placed: keys and values, logits, activations */
    size_t memory_bytes;
    const char *memory_source; /* what sets it, in words, for a message: "can be had" */
} decode_options;

/* What took how long: of waves with prompts, and of those that add a token to each sequence. */
typedef struct {
    double seconds[2];
    int64_t tokens[2], waves[2];
} decode_speed;
enum { DECODE_PROMPTS, DECODE_STEPS };

typedef struct {
    ck_backend *backend;
    ck_stream *stream;
    const model_base *base;
    ck_precision precision;
    int n_shapes;
    const ck_shape *shapes;
    const float *parameters; /* backend memory: the packs */
    /* of the base, as in ck_wave; 0, 0, NULL: none */
    int32_t n_variants, n_linears;
    const ck_replacement *variants;
} decode_world;

/* Decodes all sequences to their ends; prompts must fit the base's context. EXIT_ENVIRONMENT where not even
 * one sequence fits the memory; EXIT_RUN where logits are not finite, with the sequence's name. */
exit_code decode(const decode_world *world, const decode_options *options, decode_sequence *sequences, int n,
                 decode_speed *speed, problems *list);
/* Bytes of a step's weights that every wave reads: what no step can be faster than. */
double decode_weight_bytes(const model_base *base, ck_precision precision);

#endif

/* rng.h - counter-based random numbers (Philox4x32-10, Random123): a value is a pure function of who asks for
 * what. Keyed by (seed, device, purpose, step), never by position, so results do not depend on wave size,
 * thread count, process count or neighbours. */
#ifndef COHORT_RNG_H
#define COHORT_RNG_H

#include <stdint.h>

typedef enum {
    RNG_BASE_INIT = 1,    /* step = tensor index */
    RNG_ADAPTER_INIT,     /* step = layer * 64 + tensor */
    RNG_ROUTER_INIT,      /* step = layer; of a router's second matrix 2^20 + layer */
    RNG_TRAIN_WINDOWS,    /* step = expert step */
    RNG_ROUTER_WINDOWS,   /* step = router step */
    RNG_PRETRAIN_WINDOWS, /* step = pre-training step */
    RNG_TEST_WINDOWS,     /* step = 0 */
    /* synthetic text; step = topic or split (8 belonged to a purpose that is no more) */
    RNG_CORPUS = 9,
    RNG_PARTITION, /* which part of a source a device holds */
    /* of which sources its text is, and how much of them; step: of the split dirichlet 2 * source and 2 *
     * source + 1, of quantity 0, of pathological the number of a pack of sources */
    RNG_MIXTURE,
    RNG_DECODING, /* step = position of the token */
    /* on the logits of a router, in a step on training or on validation text: step = as of its windows */
    RNG_TRAIN_NOISE,
    RNG_ROUTER_NOISE
} rng_purpose;

enum { RNG_SHARED = -1 }; /* the device of a draw that all devices of a population share */

typedef struct {
    uint64_t seed;
    int64_t device; /* index within its population, or RNG_SHARED */
    rng_purpose purpose;
    uint64_t step;
} rng_key;

/* Draw number `index` of the key's stream. */
uint32_t rng_u32(const rng_key *key, uint64_t index);
/* Uniform on [0, bound), bound <= 2^53, unbiased to 2^-64. */
uint64_t rng_below(const rng_key *key, uint64_t index, uint64_t bound);
float rng_uniform(const rng_key *key, uint64_t index); /* [0, 1), 24 bits */
/* (0, 1), 52 bits, neither end; shares its draws with rng_below(). */
double rng_open_unit(const rng_key *key, uint64_t index);
/* Gamma(shape, 1), shape >= 1, the key's one number of this kind: takes as many draws of rng_open_unit() as
 * it needs. */
double rng_gamma(const rng_key *key, double shape);
/* Fill n floats, uniform on [-bound, bound) / normal(0, sigma) by Box-Muller. */
void rng_fill_uniform(const rng_key *key, float bound, float *out, int64_t n);
void rng_fill_normal(const rng_key *key, float sigma, float *out, int64_t n);

/* Where the stream of normals begins: the key and counter of Philox for numbers 0 .. 3, the lowest word
 * first; for numbers 4 b to 4 b + 3 the counter is greater by b. */
typedef struct {
    uint32_t key[2], counter[4];
} rng_origin;
rng_origin rng_normal_origin(const rng_key *key);

#endif

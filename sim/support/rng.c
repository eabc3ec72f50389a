/* rng.c - Philox4x32-10 (Salmon et al. 2011, through Random123), addressed by who asks for what.
 *
 * The 64-bit seed is Philox's key. The 128-bit counter names the block of four 32-bit words:
 *
 *   bits   0..39    block: the index of the draw times the words it takes, divided by four
 *   bits  40..79    step
 *   bits  80..119   device + 1 (0: shared)
 *   bits 120..125   purpose
 *   bits 126..127   kind of draw: one word, a pair of words, normals
 *
 * Distinct (seed, device, purpose, step, kind, index) read distinct words as long as device and step stay
 * below 2^40 - 1 and the index below 2^41. */
#include "support/rng.h"

#include <Random123/philox.h>
#include <math.h>

typedef enum { DRAW_WORD = 0, DRAW_PAIR = 1, DRAW_NORMAL = 2 } draw_kind;

static const uint64_t MASK40 = (UINT64_C(1) << 40) - 1;

typedef struct {
    philox4x32_key_t key;
    philox4x32_ctr_t counter; /* of block 0 */
} stream;

static stream stream_of(const rng_key *key, draw_kind kind) {
    uint64_t step = key->step & MASK40;
    uint64_t device = (uint64_t)(key->device + 1) & MASK40;
    uint64_t low = step << 40;                /* bits 0..63; the block goes below */
    uint64_t high = step >> 24 | device << 16 /* bits 64..127 */
                    | (uint64_t)(key->purpose & 63) << 56 | (uint64_t)kind << 62;
    stream s = {.key = {{(uint32_t)key->seed, (uint32_t)(key->seed >> 32)}},
                .counter = {{(uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32)}}};
    return s;
}

static philox4x32_ctr_t stream_block(const stream *s, uint64_t block) {
    philox4x32_ctr_t counter = s->counter;
    counter.v[0] |= (uint32_t)block;
    counter.v[1] |= (uint32_t)((block & MASK40) >> 32);
    return philox4x32(counter, s->key);
}

/* The upper 24 bits as a float on [0, 1): every value is exact. */
static float unit_float(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24F;
}

uint32_t rng_u32(const rng_key *key, uint64_t index) {
    stream s = stream_of(key, DRAW_WORD);
    return stream_block(&s, index / 4).v[index % 4];
}

uint64_t rng_below(const rng_key *key, uint64_t index, uint64_t bound) {
    stream s = stream_of(key, DRAW_PAIR);
    philox4x32_ctr_t words = stream_block(&s, index / 2);
    uint64_t first = 2 * (index % 2);
    uint64_t fraction = (uint64_t)words.v[first + 1] << 32 | words.v[first];
    return (uint64_t)((unsigned __int128)fraction * bound >> 64);
}

double rng_open_unit(const rng_key *key, uint64_t index) {
    return ((double)rng_below(key, index, UINT64_C(1) << 52) + 0.5) * 0x1p-52;
}

float rng_uniform(const rng_key *key, uint64_t index) {
    return unit_float(rng_u32(key, index));
}

void rng_fill_uniform(const rng_key *key, float bound, float *out, int64_t n) {
    stream s = stream_of(key, DRAW_WORD);
    for (int64_t i = 0; i < n; i += 4) {
        philox4x32_ctr_t words = stream_block(&s, (uint64_t)i / 4);
        for (int64_t j = 0; j < 4 && i + j < n; j++)
            out[i + j] = bound * (2.0F * unit_float(words.v[j]) - 1.0F);
    }
}

/* Box-Muller: sqrt(-2 ln u) (cos, sin)(2 pi v), u on (0, 1]. */
static void normal_pair(uint32_t u, uint32_t v, float sigma, float out[2]) {
    float radius = sigma * sqrtf(-2.0F * logf((float)((u >> 8) + 1) * 0x1p-24F));
    float angle = 6.28318530717958648F * unit_float(v);
    out[0] = radius * cosf(angle);
    out[1] = radius * sinf(angle);
}

void rng_fill_normal(const rng_key *key, float sigma, float *out, int64_t n) {
    stream s = stream_of(key, DRAW_NORMAL);
    for (int64_t i = 0; i < n; i += 4) {
        philox4x32_ctr_t words = stream_block(&s, (uint64_t)i / 4);
        float normals[4];
        normal_pair(words.v[0], words.v[1], sigma, normals);
        normal_pair(words.v[2], words.v[3], sigma, normals + 2);
        for (int64_t j = 0; j < 4 && i + j < n; j++) out[i + j] = normals[j];
    }
}

rng_origin rng_normal_origin(const rng_key *key) {
    stream s = stream_of(key, DRAW_NORMAL);
    return (rng_origin){{s.key.v[0], s.key.v[1]},
                        {s.counter.v[0], s.counter.v[1], s.counter.v[2], s.counter.v[3]}};
}

/* Marsaglia & Tsang (2000): with d = shape - 1/3, c = 1 / sqrt(9 d) and x normal, v = (1 + c x)^3, the number
 * d v is accepted where v > 0 and ln u < x^2 / 2 + d - d v + d ln v. An attempt takes three draws: two for x
 * by Box-Muller, one for u. */
double rng_gamma(const rng_key *key, double shape) {
    double d = shape - 1.0 / 3.0, c = 1.0 / sqrt(9.0 * d);
    for (uint64_t draw = 0;; draw += 3) {
        double radius = sqrt(-2.0 * log(rng_open_unit(key, draw)));
        double x = radius * cos(6.28318530717958647692 * rng_open_unit(key, draw + 1));
        double root = 1.0 + c * x, v = root * root * root;
        if (v > 0 && log(rng_open_unit(key, draw + 2)) < 0.5 * x * x + d - d * v + d * log(v)) return d * v;
    }
}

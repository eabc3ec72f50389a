/* attention_cached.c - attention of a sequence's new tokens over all of it so far, whose keys and values lie
 * in a cache.
 *
 *   K[t], V[t] = k_t, v_t of the new tokens;  S = Q K^T / sqrt(d),  P = softmax over positions <= the row's,
 *   O = P V
 *
 * A key-value head of a sequence has [positions, head_size] of the cache to itself. Its query heads (one, or
 * several: grouped-query attention) are rows of one product where there is one new token; else each has a
 * product for a tile of rows. Bytes of a decoding step: 8 head_size a position and key-value head. */
#include "cpu.h"
#include "gemm_stream.h"

#include <math.h>
#include <string.h>

enum { TILE = 32 };

/* One key-value head of one sequence. */
typedef struct {
    const float *qkv; /* the sequence's rows */
    float *o;
    float *keys, *values; /* [positions, head_size] */
    int64_t qkv_row, o_row;
    int first, n_tokens; /* position of the first new token */
    int dim;
    float scale;
    float *s; /* scratch: scores */
} head_of_sequence;

/* Query rows at positions first + row, q_row floats apart (advance: by `advance` positions), see the keys up
 * to their own position. */
typedef struct {
    const float *q;
    float *o;
    int64_t q_row, o_row;
    int rows, first, advance;
} queries;

static void attend(const head_of_sequence *h, const queries *q) {
    int keys = q->first + (q->rows - 1) * q->advance + 1;
    gemm_stream(q->rows, keys, h->dim, q->q, (int)q->q_row, h->keys, h->dim, (gemm_addend){0}, h->s, keys);
    for (int i = 0; i < q->rows; i++) {
        float *row = h->s + (int64_t)i * keys;
        int visible = q->first + i * q->advance + 1;
        for (int j = 0; j < visible; j++) row[j] *= h->scale;
        cpu_softmax_row(row, visible, keys);
    }
    gemm_nn(q->rows, h->dim, keys, 1, h->s, keys, h->values, h->dim, 0, q->o, (int)q->o_row);
}

static void append(const head_of_sequence *h, const float *k, const float *v) {
    size_t bytes = (size_t)h->dim * sizeof(float);
    for (int t = 0; t < h->n_tokens; t++) {
        int64_t at = (int64_t)(h->first + t) * h->dim;
        memcpy(h->keys + at, k + t * h->qkv_row, bytes);
        memcpy(h->values + at, v + t * h->qkv_row, bytes);
    }
}

void cpu_attend_cached(const ck_attention_cached *d, const cpu_block *block, int kv_head) {
    int group = d->heads / d->kv_heads, dim = d->head_size;
    int64_t place =
        ((int64_t)block->wave->cache_slot[block->sequence] * d->kv_heads + kv_head) * d->positions * dim;
    head_of_sequence h = {.qkv = cpu_rows(d->qkv, block),
                          .o = cpu_rows(d->o, block),
                          .keys = (float *)d->keys + place,
                          .values = (float *)d->values + place,
                          .qkv_row = d->qkv->columns,
                          .o_row = d->o->columns,
                          .first = ck_first_position(block->wave, block->sequence),
                          .n_tokens = block->n_tokens,
                          .dim = dim,
                          .scale = 1.0f / sqrtf((float)dim),
                          .s = block->scratch};
    append(&h, h.qkv + (int64_t)(d->heads + kv_head) * dim,
           h.qkv + (int64_t)(d->heads + d->kv_heads + kv_head) * dim);
    int64_t column = (int64_t)kv_head * group * dim;
    if (h.n_tokens == 1) {
        attend(&h, &(queries){h.qkv + column, h.o + column, dim, dim, group, h.first, 0});
        return;
    }
    for (int j = 0; j < group; j++, column += dim) {
        for (int t = 0; t < h.n_tokens; t += TILE) {
            int rows = h.n_tokens - t < TILE ? h.n_tokens - t : TILE;
            attend(&h, &(queries){h.qkv + t * h.qkv_row + column, h.o + t * h.o_row + column, h.qkv_row,
                                  h.o_row, rows, h.first + t, 1});
        }
    }
}

void cpu_attention_cached(const void *descriptor, const cpu_block *block) {
    const ck_attention_cached *d = descriptor;
    for (int h = 0; h < d->kv_heads; h++) cpu_attend_cached(d, block, h);
}

int64_t cpu_attention_cached_scratch(const ck_attention_cached *d) {
    int rows = d->heads / d->kv_heads > TILE ? d->heads / d->kv_heads : TILE;
    return (int64_t)rows * d->positions;
}

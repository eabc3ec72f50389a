/* decoding.c - what decoding has beside the operations of an evaluation: attention of sequences that go on,
 * over the keys and values of earlier tokens, and the logits of last tokens. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cases/heads.h"
#include "cases/ops.h"
#include "decoding.h"

/* ---- Attention over a cache. NaN lies where no token has been. */

enum { MORE_POSITIONS = 40 /* than the longest sequence has new tokens */ };

static int positions_of(const rig *r) {
    return rig_capacity(r).max_sequence_tokens + MORE_POSITIONS;
}

/* Where a key-value head of a sequence begins in the cache. */
static int64_t place_of(const rig *r, int sequence, int kv_head) {
    head_layout h = heads_of(r);
    return ((int64_t)r->cache_slot[sequence] * h.kv_heads + kv_head) * positions_of(r) * h.head_size;
}

static void cache(rig *r, buffer_id id, const char *name) {
    head_layout h = heads_of(r);
    int64_t positions = positions_of(r), slot = h.kv_heads * positions * h.head_size;
    rig_buffer(r, id, name, IN_PLACE, (r->n_sequences + 1) * slot, 1);
    r->buffer[id].half = r->buffer[id].partial = true;
    for (int s = 0; s < r->n_sequences; s++)
        for (int j = 0; j < h.kv_heads; j++) {
            float *first = r->buffer[id].before + place_of(r, s, j);
            for (int64_t i = (int64_t)r->first_position[s] * h.head_size; i < positions * h.head_size; i++)
                first[i] = NAN;
        }
}

static void arrays(rig *r) {
    head_layout h = heads_of(r);
    rig_tensor_of(r, QKV, "qkv", INPUT, qkv_columns(h));
    rig_tensor_of(r, O, "o", OUTPUT, h.heads * h.head_size);
    rig_go_on(r, positions_of(r));
    cache(r, KEYS, "keys");
    cache(r, VALUES, "values");
}

static void record(const rig *r, rig_copy *c) {
    head_layout h = heads_of(r);
    ck_op_attention_cached(c->program, &(ck_attention_cached){.qkv = c->tensor[QKV],
                                                              .o = c->tensor[O],
                                                              .keys = c->buffer[KEYS],
                                                              .values = c->buffer[VALUES],
                                                              .slots = r->n_sequences + 1,
                                                              .positions = positions_of(r),
                                                              .heads = h.heads,
                                                              .kv_heads = h.kv_heads,
                                                              .head_size = h.head_size});
}

/* The new tokens' keys (part 0) or values (part 1) go into the reference's cache; from there all tokens' go
 * into the columns of qkv. Positions behind the last token are nobody's business. */
static void through_cache(const view *v, int s, int part, double *qkv) {
    const rig *r = v->r;
    head_layout h = heads_of(r);
    int64_t first = r->first_position[v->sequence[s]], n = first + view_length(v, s);
    for (int j = 0; j < h.kv_heads; j++) {
        double *head = v->buffer[part == 0 ? KEYS : VALUES] + place_of(r, v->sequence[s], j);
        int column = (h.heads + part * h.kv_heads + j) * h.head_size;
        size_t bytes = (size_t)h.head_size * sizeof *head;
        for (int64_t t = 0; t < n; t++) {
            double *at = head + t * h.head_size;
            if (t >= first) memcpy(at, view_row(v, QKV, v->row[s] + t - first) + column, bytes);
            memcpy(qkv + t * qkv_columns(h) + column, at, bytes);
        }
        for (int64_t i = n * h.head_size; i < (int64_t)positions_of(r) * h.head_size; i++)
            head[i] = VIEW_UNJUDGED;
    }
}

/* Full attention of whole sequences, whose last rows are the new tokens'. */
static void reference(view *v) {
    head_layout h = heads_of(v->r);
    int64_t width = h.heads * h.head_size;
    for (int s = 0; s < v->n_sequences; s++) {
        int64_t first = v->r->first_position[v->sequence[s]], n = first + view_length(v, s);
        double *qkv = oracle_zeros(n * qkv_columns(h)), *o = oracle_zeros(n * width);
        for (int64_t t = first; t < n; t++)
            memcpy(qkv + t * qkv_columns(h), view_row(v, QKV, v->row[s] + t - first),
                   (size_t)width * sizeof *qkv);
        through_cache(v, s, 0, qkv);
        through_cache(v, s, 1, qkv);
        oracle_attention(heads_size(v->r, n), qkv, o, NULL);
        memcpy(view_row(v, O, v->row[s]), o + first * width, (size_t)((n - first) * width) * sizeof *o);
        free(qkv);
        free(o);
    }
}

const op_case attention_cached_forward = {
    .group = "decoding",
    .name = "attention_cached",
    .direction = "forward",
    .rows = ROWS_SEQUENCES,
    .arrays = arrays,
    .record = record,
    .reference = reference,
    .variants = {{"attention over a cache"},
                 HEAD_VARIANTS("attention over a cache", ""),
                 {"attention over a cache, odd heads that share keys", .size = ODD_SHARE},
                 {"attention over a cache, broad heads that share keys", .size = BROAD_SHARE}}};

/* ---- Logits */

static void logits_arrays(rig *r) {
    if (r->size) r->vocabulary = r->size;
    rig_tensor(r, X, "x", INPUT, COLUMNS_WIDTH);
    rig_buffer(r, WEIGHT, "weight", INPUT, (int64_t)r->vocabulary * r->width, 0.3);
    rig_buffer(r, LOGITS, "logits", OUTPUT, (int64_t)r->n_sequences * r->vocabulary, 1);
}

static void logits_record(const rig *r, rig_copy *c) {
    ck_op_logits(c->program, &(ck_logits){.x = c->tensor[X],
                                          .weight = c->buffer[WEIGHT],
                                          .logits = c->buffer[LOGITS],
                                          .width = r->width,
                                          .vocabulary = r->vocabulary});
}

static void logits_reference(view *v) {
    const rig *r = v->r;
    for (int s = 0; s < v->n_sequences; s++)
        for (int i = 0; i < r->vocabulary; i++)
            v->buffer[LOGITS][(int64_t)v->sequence[s] * r->vocabulary + i] = oracle_dot(
                view_row(v, X, v->row[s + 1] - 1), v->buffer[WEIGHT] + (int64_t)i * r->width, r->width);
}

const op_case logits_forward = {
    .group = "decoding",
    .name = "logits",
    .direction = "forward",
    .rows = ROWS_SEQUENCES,
    .arrays = logits_arrays,
    .record = logits_record,
    .reference = logits_reference,
    .variants = {{"logits of last tokens"}, {"logits of last tokens, V = 512", .size = 512}}};

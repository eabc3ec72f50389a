/* rope.c - rotary positions, in place on the query and key heads of qkv.
 *
 *   rope             q and k read and written, and the angles of the longest sequence read
 *   rope, backward   the same, of their gradients */
#include <math.h>

#include "cases/heads.h"
#include "cases/ops.h"

enum { GOES_ON = 1 };

static void angles(rig *r) {
    int head_size = heads_of(r).head_size;
    rig_buffer(r, ANGLES, "table", INPUT, (int64_t)r->context * head_size, 1);
    float *table = r->buffer[ANGLES].before;
    for (int64_t i = 0; i < r->buffer[ANGLES].count; i += 2) {
        double angle = (double)(i / head_size) * pow(10000, -(double)(i % head_size) / (double)head_size);
        table[i] = (float)cos(angle);
        table[i + 1] = (float)sin(angle);
    }
}

static void arrays(rig *r) {
    rig_tensor_of(r, QKV, "qkv", IN_PLACE, qkv_columns(heads_of(r)));
    if (r->flags & GOES_ON) rig_go_on(r, r->context);
    angles(r);
}

static void record(const rig *r, rig_copy *c) {
    head_layout h = heads_of(r);
    ck_op_rope(c->program, &(ck_rope){.qkv = c->tensor[QKV],
                                      .table = c->buffer[ANGLES],
                                      .heads = h.heads,
                                      .kv_heads = h.kv_heads,
                                      .head_size = h.head_size});
}

static void reference(view *v) {
    for (int s = 0; s < v->n_sequences; s++) {
        const double *table = v->buffer[ANGLES];
        if (v->r->first_position)
            table += (int64_t)v->r->first_position[v->sequence[s]] * heads_of(v->r).head_size;
        oracle_rope(heads_size(v->r, view_length(v, s)), table, false, view_row(v, QKV, v->row[s]));
    }
}

static cost cost_of(const rig *r) {
    head_layout h = heads_of(r);
    double turned = (double)(h.heads + h.kv_heads) * h.head_size;
    return (cost){"rope", 2 * activation_bytes(r) * tokens_of(r) * turned + 4.0 * r->context * h.head_size,
                  0};
}

const op_case rope_forward = {
    .group = "llama",
    .name = "rope",
    .direction = "forward",
    .floor = "bytes 2 a T (D + D G / H) + 4 s D / H",
    .axes = AXES_SEQUENCES,
    .rows = ROWS_SEQUENCES,
    .arrays = arrays,
    .record = record,
    .reference = reference,
    .cost_of = cost_of,
    .variants = {HEAD_VARIANTS("rope", ""), {"rope of sequences that go on", GOES_ON, PAIRS_SHARE}}};

static void arrays_backward(rig *r) {
    rig_tensor_of(r, DQKV, "dqkv", IN_PLACE, qkv_columns(heads_of(r)));
    angles(r);
}

static void record_backward(const rig *r, rig_copy *c) {
    head_layout h = heads_of(r);
    ck_op_rope_backward(c->program, &(ck_rope_backward){.dqkv = c->tensor[DQKV],
                                                        .table = c->buffer[ANGLES],
                                                        .heads = h.heads,
                                                        .kv_heads = h.kv_heads,
                                                        .head_size = h.head_size});
}

static void reference_backward(view *v) {
    for (int s = 0; s < v->n_sequences; s++)
        oracle_rope(heads_size(v->r, view_length(v, s)), v->buffer[ANGLES], true,
                    view_row(v, DQKV, v->row[s]));
}

const op_case rope_backward = {.group = "llama",
                               .name = "rope",
                               .direction = "backward",
                               .floor = "bytes 2 a T (D + D G / H) + 4 s D / H",
                               .axes = AXES_SEQUENCES,
                               .rows = ROWS_SEQUENCES,
                               .arrays = arrays_backward,
                               .record = record_backward,
                               .reference = reference_backward,
                               .cost_of = cost_of,
                               .variants = {HEAD_VARIANTS("rope", " backward")}};

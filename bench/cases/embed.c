/* embed.c - tokens and positions to x, and back. */
#include "cases/ops.h"

enum { WITHOUT_POSITIONS = 1, GOES_ON = 2 };

static void arrays(rig *r) {
    rig_tensor(r, X, "x", OUTPUT, COLUMNS_WIDTH);
    rig_buffer(r, WTE, "wte", INPUT, (int64_t)r->vocabulary * r->width, 1);
    if (r->flags & GOES_ON) rig_go_on(r, r->context);
    if (!(r->flags & WITHOUT_POSITIONS)) rig_buffer(r, WPE, "wpe", INPUT, (int64_t)r->context * r->width, 1);
}

static void record(const rig *r, rig_copy *c) {
    ck_op_embed(
        c->program,
        &(ck_embed){.x = c->tensor[X], .wte = c->buffer[WTE], .wpe = c->buffer[WPE], .width = r->width});
}

static void reference(view *v) {
    const rig *r = v->r;
    for (int s = 0; s < v->n_sequences; s++) {
        int sequence = v->sequence[s];
        const double *wpe = v->buffer[WPE];
        if (r->first_position) wpe += (int64_t)r->first_position[sequence] * r->width;
        oracle_embed(view_length(v, s), r->width, r->tokens + r->first_token[sequence], v->buffer[WTE], wpe,
                     view_row(v, X, v->row[s]));
    }
}

const op_case embed_forward = {.group = "transformer",
                               .name = "embed",
                               .direction = "forward",
                               .rows = ROWS_SEQUENCES,
                               .arrays = arrays,
                               .record = record,
                               .reference = reference,
                               .variants = {{"embed"},
                                            {"embed without positions", WITHOUT_POSITIONS},
                                            {"embed of sequences that go on", GOES_ON}}};

/* The tied head writes dwte, the embedding adds to it: both in one program, as in pre-training. Without
 * positions the head is not tied, and nobody has written dwte before. */
static void arrays_backward(rig *r) {
    rig_base_gradient(r, DWTE, "dwte", 32, (int64_t)r->vocabulary * r->width);
    if (r->flags & WITHOUT_POSITIONS) {
        rig_tensor(r, DX, "dx", INPUT, COLUMNS_WIDTH);
        return;
    }
    rig_tensor(r, X, "x", INPUT, COLUMNS_WIDTH);
    rig_tensor(r, DX, "dx", OUTPUT, COLUMNS_WIDTH);
    rig_buffer(r, WTE, "wte", INPUT, (int64_t)r->vocabulary * r->width, 0.3);
    rig_buffer(r, LOSS, "loss", OUTPUT, r->n_sequences, 1);
    rig_base_gradient(r, DWPE, "dwpe", 4096, (int64_t)r->context * r->width);
}

static void record_backward(const rig *r, rig_copy *c) {
    bool tied = !(r->flags & WITHOUT_POSITIONS);
    if (tied) head_step.record(r, c);
    ck_op_embed_backward(c->program, &(ck_embed_backward){.dx = c->tensor[DX],
                                                          .wte_gradient = rig_gradient_at(r, DWTE),
                                                          .wpe_gradient = rig_gradient_at(r, DWPE),
                                                          .width = r->width,
                                                          .vocabulary = r->vocabulary,
                                                          .positions = r->context,
                                                          .accumulate = tied});
}

static void reference_backward(view *v) {
    if (!(v->r->flags & WITHOUT_POSITIONS)) head_step.reference(v);
    for (int s = 0; s < v->n_sequences; s++)
        oracle_embed_backward(view_length(v, s), v->r->width,
                              v->r->tokens + v->r->first_token[v->sequence[s]], view_row(v, DX, v->row[s]),
                              v->buffer[DWTE], v->buffer[DWPE]);
}

const op_case embed_backward = {
    .group = "transformer",
    .name = "embed",
    .direction = "backward",
    .rows = ROWS_SEQUENCES,
    .arrays = arrays_backward,
    .record = record_backward,
    .reference = reference_backward,
    .variants = {{"embed backward", .trains_base = true},
                 {"embed backward without positions", WITHOUT_POSITIONS, .trains_base = true}}};

/* head.c - the tied head and cross-entropy: x, embedding read, dx written; logits and dx are one product
 * each. */
#include <math.h>
#include <stdlib.h>

#include "cases/ops.h"
#include "rig/draw.h"

enum {
    TESTED = 1, /* logits, and targets that are drawn from them */
    LARGE = 2,  /* see enlarge() */
    NO_DX = 4,
    SEED_TARGETS = 6000
};

/* Logits far past what exp() can take without the row's maximum off. They are exact (integers times
 * quarters), because their rounding would otherwise set the error, and no target is the arg max: there dx is
 * all cancellation. */
static void enlarge(rig *r) {
    float *x = r->tensor[X].before, *wte = r->buffer[WTE].before;
    for (int64_t i = 0; i < r->n_tokens * r->width; i++) x[i] = roundf(x[i] * 40);
    for (int64_t i = 0; i < r->buffer[WTE].count; i++) wte[i] = roundf(wte[i] * 8) / 4;
}

static int best_of(const double *logits, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* Every third target is the arg max (or "correct" would count nothing at V = 1000), some are not counted, and
 * of the last device none. */
static void draw_targets(rig *r) {
    oracle_head_size size = {1, r->width, r->vocabulary};
    double *logits = oracle_zeros(r->vocabulary),
           *wte = oracle_from_floats(r->buffer[WTE].before, r->buffer[WTE].count);
    bool large = (r->flags & LARGE) != 0;
    for (int64_t t = 0; t < r->n_tokens; t++) {
        double *x = oracle_from_floats(r->tensor[X].before + t * r->width, r->width);
        oracle_head(size, x, wte, &(int32_t){0}, logits, NULL);
        free(x);
        int32_t best = best_of(logits, r->vocabulary),
                any = (int32_t)(draw_bits(SEED_TARGETS, (uint64_t)t) % (uint64_t)r->vocabulary);
        if (large && any == best) any = (any + 1) % r->vocabulary;
        r->targets[t] = t % 7 == 5 ? -1 : t % 3 == 0 && !large ? best : any;
    }
    int last = r->n_devices - 1;
    for (int64_t t = rig_first(r, last); t < r->n_tokens && last > 0; t++) r->targets[t] = -1;
    free(logits);
    free(wte);
}

static void arrays(rig *r) {
    if (r->size) r->vocabulary = r->size;
    int64_t weights = (int64_t)r->vocabulary * r->width;
    rig_tensor(r, X, "x", INPUT, COLUMNS_WIDTH);
    if (!(r->flags & NO_DX)) rig_tensor(r, DX, "dx", OUTPUT, COLUMNS_WIDTH);
    rig_buffer(r, WTE, "embedding", INPUT, weights, r->flags & TESTED ? 0.3 : 0.1);
    rig_buffer(r, LOSS, "loss", OUTPUT, r->n_sequences, 1);
    if (r->trains_base) rig_base_gradient(r, DWTE, "dwte", 64, weights);
    if (r->flags & LARGE) enlarge(r);
    if (!(r->flags & TESTED)) return;
    rig_buffer(r, CORRECT, "correct", OUTPUT, r->n_sequences, 1);
    rig_buffer(r, LOGITS, "logits", OUTPUT, r->n_tokens * r->vocabulary, 1);
    r->buffer[CORRECT].integers = true;
    draw_targets(r);
}

static void record(const rig *r, rig_copy *c) {
    ck_op_head(c->program, &(ck_head){.x = c->tensor[X],
                                      .dx = c->tensor[DX],
                                      .wte = c->buffer[WTE],
                                      .loss = c->buffer[LOSS],
                                      .correct = (int32_t *)(void *)c->buffer[CORRECT],
                                      .logits = c->buffer[LOGITS],
                                      .width = r->width,
                                      .vocabulary = r->vocabulary,
                                      .wte_gradient = rig_gradient_at(r, DWTE)});
}

static void losses(view *v) {
    oracle_head_size size = {0, v->r->width, v->r->vocabulary};
    for (int s = 0; s < v->n_sequences; s++) {
        int sequence = v->sequence[s];
        int32_t correct;
        double *logits =
            v->buffer[LOGITS] ? v->buffer[LOGITS] + v->r->first_token[sequence] * size.vocabulary : NULL;
        size.n = view_length(v, s);
        v->buffer[LOSS][sequence] = oracle_head(size, view_row(v, X, v->row[s]), v->buffer[WTE],
                                                v->targets + v->row[s], logits, &correct);
        if (v->buffer[CORRECT]) v->buffer[CORRECT][sequence] = correct;
    }
}

/* Where not all sequences are computed, dx is on as many rows of each as can be paid for, at least one. */
static void reference(view *v) {
    const oracle_head_size one = {1, v->r->width, v->r->vocabulary};
    double scale = view_loss_scale(v);
    bool all = v->rows.n == rig_rows(v->r, v->device);
    double most = CASE_BUDGET / (2.0 * one.width * one.vocabulary * v->n_sequences);
    losses(v);
    for (int s = 0; s < v->n_sequences && v->tensor[DX]; s++)
        for (int64_t row = v->row[s]; row < v->row[s + 1]; row++)
            if (all || (double)(row - v->row[s]) < most)
                oracle_head_backward(one, view_row(v, X, row), v->buffer[WTE], v->targets + row, scale,
                                     view_row(v, DX, row), v->buffer[DWTE]);
            else
                view_skip(v, DX, row);
}

cost head_cost(const rig *r) {
    double t = tokens_of(r), d = r->width, vocabulary = r->vocabulary;
    return (cost){"head", activation_bytes(r) * (2 * t * d + vocabulary * d) + 4 * t, 4 * t * d * vocabulary};
}

const op_case head_step = {.group = "head",
                           .name = "head",
                           .direction = "step",
                           .floor = "bytes a (2 T D + V D) + 4 T; FLOPs 4 T D V",
                           .axes = AXES_SEQUENCES | 1 << AXIS_VOCABULARY,
                           .rows = ROWS_SEQUENCES,
                           .arrays = arrays,
                           .record = record,
                           .reference = reference,
                           .cost_of = head_cost,
                           .variants = {{"head, V = 17", TESTED, 17},
                                        {"head, V = 256", TESTED, 256},
                                        {"head, V = 1000", TESTED, 1000},
                                        /* past the number of logits that any backend would keep at once for
                                         * a sequence of 129 tokens */
                                        {"head, V = 2500", TESTED, 2500},
                                        {"head, large logits", TESTED | LARGE, 50},
                                        {"head, loss only", TESTED | NO_DX, 33},
                                        {"head, trained", TESTED, 2500, .trains_base = true}}};

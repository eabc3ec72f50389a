/* Head and cross-entropy, at vocabularies on both sides of any blocking. */
#include <math.h>
#include <stdlib.h>

#include "conformance/cases.h"

enum { WEIGHT_AT = 64 };

typedef struct {
    int vocabulary;
    ck_head_mode mode;
    /* Logits far past what exp() can take without the row's maximum off. They are exact (integers times
     * quarters), because their rounding would otherwise set the error, and no target is the arg max: there dx
     * is all cancellation. */
    bool large;
} head_options;

/* Every third target is the arg max, some are not counted, and of the last device none. */
static void draw_targets(rig *r, oracle_head_size size, const rig_tensor *x, const rig_buffer *weight,
                         bool large) {
    double *logits = oracle_zeros(size.n * size.vocabulary);
    oracle_head(size, x->ref, weight->ref, r->targets, logits);
    for (int64_t t = 0; t < size.n; t++) {
        const double *row = logits + t * size.vocabulary;
        int best = 0;
        for (int v = 1; v < size.vocabulary; v++)
            if (row[v] > row[best]) best = v;
        int32_t any = (int32_t)(fabs(wave_draw(&r->random, 1)) * 1e6) % size.vocabulary;
        if (large && any == best) any = (any + 1) % size.vocabulary;
        r->targets[t] = t % 3 == 0 && !large ? best : any;
        if (t % 7 == 5) r->targets[t] = -1;
    }
    int last = r->spec->n_devices - 1;
    for (int64_t t = rig_first(r, last); t < r->n_tokens && last > 0; t++) r->targets[t] = -1;
    free(logits);
}

/* dx of each device is of its own mean; in pre-training of the mean over the wave. */
static void head_reference(rig *r, oracle_head_size size, const rig_tensor *x, const rig_buffer *weight,
                           rig_tensor *dx, bool trained) {
    int64_t counted = oracle_counted(r->n_tokens, r->targets);
    double *dw = trained ? r->base_gradients.ref + WEIGHT_AT : NULL;
    for (int d = 0; d < r->spec->n_devices; d++) {
        int64_t first = rig_first(r, d);
        size.n = rig_rows(r, d);
        if (!trained) counted = oracle_counted(size.n, r->targets + first);
        oracle_head_backward(size, rig_row(x, first), weight->ref, r->targets + first,
                             counted > 0 ? 1.0 / (double)counted : 0, rig_row(dx, first), dw);
    }
}

static void losses_reference(rig *r, oracle_head_size size, const rig_tensor *x, const rig_buffer *weight,
                             rig_buffer *loss, rig_buffer *logits) {
    for (int s = 0; s < r->wave.n_sequences; s++) {
        int64_t first = r->first_token[s];
        size.n = r->first_token[s + 1] - first;
        loss->ref[s] = oracle_head(size, rig_row(x, first), weight->ref, r->targets + first,
                                   logits->ref + first * size.vocabulary);
    }
}

static void enlarge(rig *r, rig_tensor *x, rig_buffer *weight) {
    for (int64_t i = 0; i < r->n_tokens * x->columns; i++) x->host[i] = roundf(x->host[i] * 40);
    for (int64_t i = 0; i < weight->count; i++)
        weight->ref[i] = weight->host[i] = roundf(weight->host[i] * 8) / 4;
    rig_take(r, x);
}

static void head_with(rig *r, head_options o) {
    oracle_head_size size = {r->n_tokens, r->spec->width, o.vocabulary};
    rig_tensor *x = rig_input(r, size.width, "x"), *dx = rig_output(r, size.width, "dx");
    rig_buffer *weight = rig_weights(r, (int64_t)o.vocabulary * size.width, 0.3, "weight");
    rig_buffer *loss = rig_results(r, r->wave.n_sequences, "loss");
    rig_buffer *logits = rig_results(r, r->n_tokens * o.vocabulary, "logits");
    if (o.large) enlarge(r, x, weight);
    draw_targets(r, size, x, weight, o.large);
    ck_op_head(r->program, &(ck_head){.mode = o.mode,
                                      .x = x->tensor,
                                      .dx = o.mode == CK_HEAD_EVALUATE ? NULL : dx->tensor,
                                      .weight = weight->memory,
                                      .loss = loss->memory,
                                      .logits = logits->memory,
                                      .width = size.width,
                                      .vocabulary = o.vocabulary,
                                      .weight_gradient = WEIGHT_AT});
    if (!rig_run(r)) return;
    losses_reference(r, size, x, weight, loss, logits);
    rig_compare_buffer(r, loss, 0, loss->count);
    rig_compare_buffer(r, logits, 0, logits->count);
    if (o.mode == CK_HEAD_EVALUATE) return;
    head_reference(r, size, x, weight, dx, o.mode == CK_HEAD_PRETRAIN);
    rig_compare(r, dx, COLUMNS_ALL);
    if (o.mode == CK_HEAD_PRETRAIN)
        rig_compare_buffer(r, &r->base_gradients, WEIGHT_AT, (int64_t)o.vocabulary * size.width);
}

static void head_17(rig *r) {
    head_with(r, (head_options){.vocabulary = 17, .mode = CK_HEAD_STEP});
}

static void head_256(rig *r) {
    head_with(r, (head_options){.vocabulary = 256, .mode = CK_HEAD_STEP});
}

static void head_1000(rig *r) {
    head_with(r, (head_options){.vocabulary = 1000, .mode = CK_HEAD_STEP});
}

/* Past the number of logits that any backend would keep at once for a sequence of 129 tokens. */
static void head_2500(rig *r) {
    head_with(r, (head_options){.vocabulary = 2500, .mode = CK_HEAD_STEP});
}

static void head_large_logits(rig *r) {
    head_with(r, (head_options){.vocabulary = 50, .mode = CK_HEAD_STEP, .large = true});
}

static void head_loss_only(rig *r) {
    head_with(r, (head_options){.vocabulary = 33, .mode = CK_HEAD_EVALUATE});
}

static void head_trained(rig *r) {
    head_with(r, (head_options){.vocabulary = 2500, .mode = CK_HEAD_PRETRAIN});
}

static const conformance_case cases[] = {
    {.name = "head, V = 17", .run = head_17},
    {.name = "head, V = 256", .run = head_256},
    {.name = "head, V = 1000", .run = head_1000},
    {.name = "head, V = 2500", .run = head_2500},
    {.name = "head, large logits", .run = head_large_logits},
    {.name = "head, loss only", .run = head_loss_only},
    {.name = "head, trained", .run = head_trained, .trains_base = true},
};
const conformance_group head_group = {"head", cases, sizeof cases / sizeof *cases};

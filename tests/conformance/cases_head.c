/* Tied head and cross-entropy, at vocabularies on both sides of any blocking. */
#include <math.h>
#include <stdlib.h>

#include "conformance/cases.h"

enum { WTE_AT = 64 };

typedef struct {
    int vocabulary;
    bool trained, no_dx;
    /* Logits far past what exp() can take without the row's maximum off. They are exact (integers times
     * quarters), because their rounding would otherwise set the error, and no target is the arg max: there dx
     * is all cancellation. */
    bool large;
} head_options;

/* Every third target is the arg max (or "correct" would count nothing at V = 1000), some are not counted, and
 * of the last device none. */
static void draw_targets(rig *r, oracle_head_size size, const rig_tensor *x, const rig_buffer *wte,
                         bool large) {
    double *logits = oracle_zeros(size.n * size.vocabulary);
    oracle_head(size, x->ref, wte->ref, r->targets, logits, NULL);
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
static void head_reference(rig *r, oracle_head_size size, const rig_tensor *x, const rig_buffer *wte,
                           rig_tensor *dx, bool trained) {
    int64_t counted = oracle_counted(r->n_tokens, r->targets);
    double *dwte = trained ? r->base_gradients.ref + WTE_AT : NULL;
    for (int d = 0; d < r->spec->n_devices; d++) {
        int64_t first = rig_first(r, d);
        size.n = rig_rows(r, d);
        if (!trained) counted = oracle_counted(size.n, r->targets + first);
        oracle_head_backward(size, rig_row(x, first), wte->ref, r->targets + first,
                             counted > 0 ? 1.0 / (double)counted : 0, rig_row(dx, first), dwte);
    }
}

static void losses_reference(rig *r, oracle_head_size size, const rig_tensor *x, const rig_buffer *wte,
                             rig_buffer *loss, rig_buffer *logits, const int32_t *correct) {
    for (int s = 0; s < r->wave.n_sequences; s++) {
        int64_t first = r->first_token[s];
        int32_t expected;
        size.n = r->first_token[s + 1] - first;
        loss->ref[s] = oracle_head(size, rig_row(x, first), wte->ref, r->targets + first,
                                   logits->ref + first * size.vocabulary, &expected);
        r->check->comparisons++;
        if (correct[s] != expected)
            check_fail(r->check, "%s on wave '%s': correct of sequence %d: expected %d, got %d", r->case_name,
                       r->spec->name, s, expected, correct[s]);
    }
}

static void enlarge(rig *r, rig_tensor *x, rig_buffer *wte) {
    for (int64_t i = 0; i < r->n_tokens * x->columns; i++) x->host[i] = roundf(x->host[i] * 40);
    for (int64_t i = 0; i < wte->count; i++) wte->ref[i] = wte->host[i] = roundf(wte->host[i] * 8) / 4;
    rig_take(r, x);
}

static void head_with(rig *r, head_options o) {
    oracle_head_size size = {r->n_tokens, r->spec->width, o.vocabulary};
    rig_tensor *x = rig_input(r, size.width, "x"), *dx = rig_output(r, size.width, "dx");
    rig_buffer *wte = rig_weights(r, (int64_t)o.vocabulary * size.width, 0.3, "wte");
    rig_buffer *loss = rig_results(r, r->wave.n_sequences, "loss"),
               *correct = rig_results(r, r->wave.n_sequences, "correct");
    rig_buffer *logits = rig_results(r, r->n_tokens * o.vocabulary, "logits");
    if (o.large) enlarge(r, x, wte);
    draw_targets(r, size, x, wte, o.large);
    ck_op_head(r->program, &(ck_head){.x = x->tensor,
                                      .dx = o.no_dx ? NULL : dx->tensor,
                                      .wte = wte->memory,
                                      .loss = loss->memory,
                                      .correct = correct->memory,
                                      .logits = logits->memory,
                                      .width = size.width,
                                      .vocabulary = o.vocabulary,
                                      .wte_gradient = o.trained ? WTE_AT : -1});
    if (!rig_run(r)) return;
    losses_reference(r, size, x, wte, loss, logits, (const int32_t *)(const void *)correct->host);
    rig_compare_buffer(r, loss, 0, loss->count);
    rig_compare_buffer(r, logits, 0, logits->count);
    if (o.no_dx) return;
    head_reference(r, size, x, wte, dx, o.trained);
    rig_compare(r, dx, COLUMNS_ALL);
    if (o.trained) rig_compare_buffer(r, &r->base_gradients, WTE_AT, (int64_t)o.vocabulary * size.width);
}

static void head_17(rig *r) {
    head_with(r, (head_options){.vocabulary = 17});
}

static void head_256(rig *r) {
    head_with(r, (head_options){.vocabulary = 256});
}

static void head_1000(rig *r) {
    head_with(r, (head_options){.vocabulary = 1000});
}

/* Past the number of logits that any backend would keep at once for a sequence of 129 tokens. */
static void head_2500(rig *r) {
    head_with(r, (head_options){.vocabulary = 2500});
}

static void head_large_logits(rig *r) {
    head_with(r, (head_options){.vocabulary = 50, .large = true});
}

static void head_loss_only(rig *r) {
    head_with(r, (head_options){.vocabulary = 33, .no_dx = true});
}

static void head_trained(rig *r) {
    head_with(r, (head_options){.vocabulary = 2500, .trained = true});
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

/* The whole model through sim/model/model.h: a step, an evaluation and a pre-training step of every wave of
 * the table, against the oracle's whole model.
 *
 * Tolerance: each op is within 1e-5 of the oracle given the same inputs, but here the inputs of an op carry
 * the f32 rounding of all ops before it (two layers forward and back are about forty), and gradients of small
 * tensors (the router's) are differences of larger numbers. So 3e-5 per tensor for gradients, three times
 * what was seen; losses and logits, which are means of many terms, still keep 1e-5. The router's gradient of
 * a device with a single token can be a difference of nearly equal numbers: with other draws of the packs
 * (the rig's SEED_PACK) some are 1e-4 off. */
#include <stdlib.h>
#include <string.h>

#include "conformance/cases.h"
#include "conformance/whole_variants.h"
#include "model/model.h"

static const double GRADIENT_TOLERANCE = 3e-5, LEAST_MARGIN = 1e-5;

enum { EVALUATION = 1, PRETRAINING = 2, BALANCED = 4, LOSSES_ONLY = 8, OF_VARIANTS = 16 };

/* ---- The case */

static void statistic(rig *r, buffer_id id, const char *name, int64_t count) {
    rig_buffer(r, id, name, OUTPUT, count, 1);
    r->buffer[id].partial = true;
}

static void arrays(rig *r) {
    base_shape shape = conformance_base(r);
    base_layout layout = base_layout_of(&shape);
    int64_t entries = (int64_t)r->n_sequences * WAVE_LAYERS * CK_MAX_EXPERTS;
    bool judged = !(r->flags & LOSSES_ONLY);
    for (int64_t t = 7; t < r->n_tokens; t += 11) r->targets[t] = -1;
    rig_buffer(r, WEIGHT, "base", INPUT, layout.total, 0);
    wave_fill_base(&shape, 9, r->buffer[WEIGHT].before);
    if (r->flags & OF_VARIANTS) whole_variants(r);
    rig_buffer(r, LOSS, "loss", OUTPUT, r->n_sequences, 1);
    rig_buffer(r, LOGITS, "logits", OUTPUT, r->n_tokens * r->vocabulary, 1);
    r->buffer[LOGITS].partial = !judged;
    statistic(r, GATE_SUM, "gate_sum", entries);
    statistic(r, TOP1_COUNT, "top1_count", entries);
    statistic(r, TOP_K_COUNT, "top_k_count", entries);
    statistic(r, COEFFICIENT, "balance coefficient", entries);
    statistic(r, LOAD_SUM, "load_sum", entries);
    statistic(r, LOAD_COEFFICIENT, "load coefficient", entries);
    if (r->trains_base) rig_base_gradient(r, DWEIGHT, "base gradient", 0, layout.total);
}

static exit_code create(const rig *r, rig_copy *c, problems *list) {
    model_base base = {.shape = conformance_base(r), .weights = c->buffer[WEIGHT]};
    base.layout = base_layout_of(&base.shape);
    bool balanced = (r->flags & BALANCED) != 0;
    const ck_capacity capacity = rig_capacity(r);
    const model_outputs outputs = {.loss = c->buffer[LOSS],
                                   .gate_sum = c->buffer[GATE_SUM],
                                   .top1_count = c->buffer[TOP1_COUNT],
                                   .top_k_count = c->buffer[TOP_K_COUNT],
                                   .balance_coefficient = balanced ? c->buffer[COEFFICIENT] : NULL,
                                   .load_sum = balanced ? c->buffer[LOAD_SUM] : NULL,
                                   .load_coefficient = balanced ? c->buffer[LOAD_COEFFICIENT] : NULL,
                                   .logits = c->buffer[LOGITS]};
    if (r->flags & PRETRAINING)
        return model_record_pretraining(r->backend, &base, &capacity, &outputs, &c->program, list);
    return (r->flags & EVALUATION ? model_record_evaluation : model_record_step)(
        r->backend, &base, r->shapes, r->n_shapes, &capacity, &outputs, &c->program, list);
}

/* gates: [layers, tokens of the device, CK_MAX_EXPERTS]. */
static void sum_gates(view *v, const double *gates) {
    const rig *r = v->r;
    for (int s = 0; s < v->n_sequences; s++)
        for (int l = 0; l < WAVE_LAYERS; l++)
            for (int e = 0; e < v->shape.n_experts; e++) {
                int64_t at = ((int64_t)v->sequence[s] * r->layers + l) * CK_MAX_EXPERTS + e;
                double sum = 0, chosen = 0;
                for (int64_t row = v->row[s]; row < v->row[s + 1]; row++) {
                    double gate = gates[(l * v->rows.n + row) * CK_MAX_EXPERTS + e];
                    sum += gate;
                    chosen += gate > 0;
                }
                v->buffer[GATE_SUM][at] = sum;
                if (v->shape.router_rows > 0) v->buffer[TOP_K_COUNT][at] = chosen;
            }
}

static void judge_gradients(view *v) {
    double usual = v->verdict->tolerance;
    v->verdict->tolerance = GRADIENT_TOLERANCE;
    for (int l = 0; l < WAVE_LAYERS; l++)
        rig_judge_gradients(v->r, v->verdict, v->device, l, UINT64_MAX, v->gradients);
    v->verdict->tolerance = usual;
}

/* Losses, logits, gates and, of a step, gradients of one device. */
static void reference(view *v) {
    const rig *r = v->r;
    bool step = !(r->flags & EVALUATION), balanced = (r->flags & BALANCED) != 0;
    int first = r->first_sequence[v->device];
    int64_t token = rig_first(r, v->device);
    oracle_base base = whole_reference(r, v->buffer, v->device);
    oracle_batch batch = {v->n_sequences, r->first_token + first, r->tokens + token, r->targets + token,
                          v->adapter.noise};
    double *gates = oracle_zeros(WAVE_LAYERS * v->rows.n * CK_MAX_EXPERTS),
           *logits = oracle_zeros(v->rows.n * r->vocabulary);
    oracle_pass pass = {.loss = v->buffer[LOSS] + first,
                        .logits = logits,
                        .gates = gates,
                        .gradients = step ? v->gradients : NULL};
    ck_shape shape = v->shape;
    shape.balanced &= balanced && v->adapter.noise != NULL;
    oracle_model(&base, &shape, v->parameters, &batch, &pass);
    if (pass.margin < LEAST_MARGIN && !(r->flags & LOSSES_ONLY))
        verdict_fail(v->verdict, "a margin of %g", pass.margin);
    if (!(r->flags & LOSSES_ONLY)) {
        memcpy(v->buffer[LOGITS] + token * r->vocabulary, logits,
               (size_t)(v->rows.n * r->vocabulary) * sizeof *logits);
        sum_gates(v, gates);
        verdict_exact(v->verdict, "fault", r->fault[v->device] == -1);
        if (step) judge_gradients(v);
    }
    free(gates);
    free(logits);
}

/* ---- Cases that are run otherwise */

typedef struct {
    const char *name;
    const float *now;
    float *before;
    int64_t count;
} snapshot;

static snapshot take_snapshot(const char *name, const float *values, int64_t count) {
    snapshot s = {name, values, rig_zeros(count, sizeof(float)), count};
    memcpy(s.before, values, (size_t)count * sizeof(float));
    return s;
}

static void compare_snapshot(verdict *v, const snapshot *s) {
    bool same = memcmp(s->before, s->now, (size_t)s->count * sizeof(float)) == 0;
    verdict_exact(v, s->name, same);
    if (!same) verdict_fail(v, "the second run gave other bits in %s", s->name);
    free(s->before);
}

void (*conformance_between_runs)(void) = NULL;

/* The same program over the same wave gives the same bits, also where the second run is the replay of a
 * graph. */
static void step_twice(rig *r, verdict *v) {
    const buffer_id buffers[] = {LOSS, LOGITS, GATE_SUM, COEFFICIENT};
    enum { N_BUFFERS = sizeof buffers / sizeof *buffers };
    snapshot all[N_BUFFERS + WAVE_MAX_DEVICES];
    int n = 0;
    if (!conformance_once(r, v)) return;
    for (int i = 0; i < N_BUFFERS; i++) {
        const buffer_array *b = &r->buffer[buffers[i]];
        all[n++] = take_snapshot(b->name, b->after, b->count);
    }
    for (int d = 0; d < r->n_devices; d++)
        all[n++] = take_snapshot("gradients", r->pack_after[PACK_GRADIENTS][d],
                                 rig_pack_count(r, PACK_GRADIENTS, d));
    if (conformance_between_runs != NULL) conformance_between_runs();
    conformance_once(r, v);
    for (int i = 0; i < n; i++) compare_snapshot(v, &all[i]);
}

/* At an offset of -1 there is no tensor. */
static void compare_tensor(const rig *r, verdict *v, const double *ref, const char *name, int64_t offset,
                           int64_t count) {
    if (offset < 0) return;
    verdict_compare(v, name, r->buffer[DWEIGHT].after + offset, ref + offset, count);
}

static void compare_layer(const rig *r, verdict *v, const oracle_base *base, int l, const double *ref) {
    const base_shape *s = &base->shape;
    const base_layer *t = &base->layout.layer0;
    int64_t first = l * base->layout.layer_stride, width = s->width, q = base_q_width(s),
            qkv = base_qkv_width(s), fc = base_fc_width(s);
    const struct {
        const char *name;
        int64_t offset, count;
    } tensors[] = {
        {"d ln1 gain", t->ln1_gain, width},       {"d ln1 bias", t->ln1_bias, width},
        {"d qkv weight", t->qkv_w, qkv * width},  {"d qkv bias", t->qkv_b, qkv},
        {"d out weight", t->out_w, width * q},    {"d out bias", t->out_b, width},
        {"d ln2 gain", t->ln2_gain, width},       {"d ln2 bias", t->ln2_bias, width},
        {"d fc weight", t->fc_w, fc * width},     {"d fc bias", t->fc_b, fc},
        {"d pr weight", t->pr_w, width * s->ffn}, {"d pr bias", t->pr_b, width},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        compare_tensor(r, v, ref, tensors[i].name, tensors[i].offset < 0 ? -1 : first + tensors[i].offset,
                       tensors[i].count);
}

static void compare_base_gradients(const rig *r, verdict *v, const oracle_base *base, const double *ref) {
    const base_layout *at = &base->layout;
    int64_t width = r->width;
    compare_tensor(r, v, ref, "d wte", at->wte, r->vocabulary * width);
    compare_tensor(r, v, ref, "d wpe", at->wpe, r->context * width);
    compare_tensor(r, v, ref, "d head", at->head, r->vocabulary * width);
    compare_tensor(r, v, ref, "d lnf gain", at->lnf_gain, width);
    compare_tensor(r, v, ref, "d lnf bias", at->lnf_bias, width);
    for (int l = 0; l < WAVE_LAYERS; l++) compare_layer(r, v, base, l, ref);
}

static void pretraining(rig *r, verdict *v) {
    if (!conformance_once(r, v)) return;
    double *weights = oracle_from_floats(r->buffer[WEIGHT].before, r->buffer[WEIGHT].count),
           *gradients = oracle_zeros(r->buffer[WEIGHT].count), *loss = oracle_zeros(r->n_sequences),
           *logits = oracle_zeros(r->n_tokens * r->vocabulary);
    oracle_base base = {.shape = conformance_base(r), .weights = weights};
    base.layout = base_layout_of(&base.shape);
    oracle_batch batch = {r->n_sequences, r->first_token, r->tokens, r->targets, NULL};
    oracle_pass pass = {.loss = loss, .logits = logits, .gradients = gradients};
    oracle_pretraining(&base, &batch, &pass);
    verdict_compare(v, "loss", r->buffer[LOSS].after, loss, r->n_sequences);
    verdict_compare(v, "logits", r->buffer[LOGITS].after, logits, r->n_tokens * r->vocabulary);
    v->tolerance = GRADIENT_TOLERANCE;
    compare_base_gradients(r, v, &base, gradients);
    v->tolerance = TOLERANCE_F32;
    double *all[] = {weights, gradients, loss, logits};
    for (int i = 0; i < 4; i++) free(all[i]);
}

static const op_case model = {.group = "model",
                              .name = "model",
                              .needs = NEED_PACKS | NEED_GRADIENTS,
                              .rows = ROWS_DEVICE,
                              .arrays = arrays,
                              .create = create,
                              .reference = reference};
static const op_case base_alone = {
    .group = "model", .name = "pre-training", .rows = ROWS_DEVICE, .arrays = arrays, .create = create};

const conformance_case model_cases[] = {
    {"model",
     {.name = "model step", .flags = BALANCED, .exact = true},
     .op = &model,
     .learns = true,
     .whole = true},
    {"model", {.name = "model step without load balance", .exact = true}, .op = &model, .whole = true},
    {"model",
     {.name = "model step of variants", .flags = BALANCED | OF_VARIANTS, .exact = true},
     .op = &model,
     .whole = true},
    {"model", {.name = "model evaluation", .flags = EVALUATION, .exact = true}, .op = &model, .whole = true},
    /* what of a whole model survives bf16 */
    {"model", {.name = "model losses", .flags = EVALUATION | LOSSES_ONLY}, .op = &model, .whole = true},
    {"model",
     {.name = "model losses of variants", .flags = EVALUATION | LOSSES_ONLY | OF_VARIANTS},
     .op = &model,
     .whole = true},
    {"model",
     {.name = "model step, twice", .flags = BALANCED},
     .op = &model,
     .run = step_twice,
     .whole = true},
    {"model",
     {"model pre-training", PRETRAINING, .trains_base = true},
     .op = &base_alone,
     .run = pretraining,
     .whole = true},
    {0}};

/* The whole model through sim/model/model.h: a step, an evaluation and a pre-training step of every wave of
 * the table, against the oracle's whole model.
 *
 * Tolerance: each op is within 1e-5 of the oracle given the same inputs, but here the inputs of an op carry
 * the f32 rounding of all ops before it (two layers forward and back are about forty), and gradients of small
 * tensors (the router's) are differences of larger numbers. So 3e-5 per tensor for gradients, six times what
 * was seen; losses and logits, which are means of many terms, still keep 1e-5. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/linears.h"
#include "conformance/cases.h"
#include "model/model.h"

enum { VOCABULARY = 37, CONTEXT = 129, VARIANTS = 2, LINEARS = WAVE_LAYERS * BASE_LAYER_LINEARS };
static const double gradient_tolerance = 3e-5, least_margin = 1e-5;

/* A recorded model on a rig: the base in both worlds, and what the program writes. */
typedef struct {
    rig *r;
    model_base base;
    /* [0]: the base; [v]: with the linears of variant v, where variants were made */
    oracle_base references[VARIANTS + 1];
    ck_replacement *variants; /* [VARIANTS, WAVE_LAYERS * BASE_LAYER_LINEARS] */
    rig_buffer *weights, *loss, *logits, *gate_sum, *top1, *top_k, *coefficient;
    model_outputs outputs;
} world;

static void draw_text(rig *r) {
    for (int64_t t = 0; t < r->n_tokens; t++) {
        r->tokens[t] = (int32_t)(fabs(wave_draw(&r->random, 1)) * 1e6) % VOCABULARY;
        r->targets[t] = t % 11 == 7 ? -1 : (int32_t)(fabs(wave_draw(&r->random, 1)) * 1e6) % VOCABULARY;
    }
}

static void make_base(world *w) {
    base_shape shape = wave_base(w->r->spec, VOCABULARY, CONTEXT);
    base_layout layout = base_layout_of(&shape);
    w->weights = rig_weights(w->r, layout.total, 0, "base");
    wave_fill_base(&shape, 9, w->weights->host);
    for (int64_t i = 0; i < layout.total; i++) w->weights->ref[i] = w->weights->host[i];
    w->base = (model_base){.shape = shape, .layout = layout, .weights = w->weights->memory};
    w->references[0] = (oracle_base){.shape = shape, .layout = layout, .weights = w->weights->ref};
}

/* Of the linear in the variant's array: others' values, and where they are. */
static ck_replacement replace_linear(const world *w, int number, const float *others, rig_buffer *own) {
    base_linear l = base_linear_at(&w->base.shape, &w->base.layout, number);
    const float *memory = own->memory;
    memcpy(own->host + l.weight, others + l.weight, (size_t)l.in * (size_t)l.out * sizeof(float));
    if (l.bias >= 0) memcpy(own->host + l.bias, others + l.bias, (size_t)l.out * sizeof(float));
    return (ck_replacement){memory + l.weight, l.bias >= 0 ? memory + l.bias : NULL};
}

/* Variant 1 has another weight and bias in every linear, variant 2 in every second one. All else of their arrays
 * is the base's. */
static void make_variants(world *w) {
    rig *r = w->r;
    int64_t total = w->base.layout.total;
    float *others = malloc((size_t)total * sizeof *others);
    w->variants = calloc(VARIANTS * LINEARS, sizeof *w->variants);
    if (w->variants == NULL || others == NULL) abort();
    for (int v = 1; v <= VARIANTS; v++) {
        rig_buffer *own = rig_weights(r, total, 0, "variant");
        wave_fill_base(&w->base.shape, 100 + (uint64_t)v, others);
        memcpy(own->host, w->weights->host, (size_t)total * sizeof(float));
        for (int i = 0; i < LINEARS; i += v)
            w->variants[(v - 1) * LINEARS + i] = replace_linear(w, i, others, own);
        for (int64_t i = 0; i < total; i++) own->ref[i] = own->host[i];
        w->references[v] = (oracle_base){w->base.shape, w->base.layout, own->ref};
    }
    free(others);
    r->wave.n_variants = VARIANTS;
    r->wave.n_linears = LINEARS;
    r->wave.variants = w->variants;
    for (int d = 0; d < r->spec->n_devices; d++) r->devices[d].variant = (d + d / 2) % (VARIANTS + 1);
}

static void make_outputs(world *w, bool balance) {
    rig *r = w->r;
    int64_t entries = (int64_t)r->wave.n_sequences * WAVE_LAYERS * CK_MAX_EXPERTS;
    w->loss = rig_results(r, r->wave.n_sequences, "loss");
    w->logits = rig_results(r, r->n_tokens * VOCABULARY, "logits");
    w->gate_sum = rig_results(r, entries, "gate_sum"), w->top1 = rig_results(r, entries, "top1_count");
    w->top_k = rig_results(r, entries, "top_k_count");
    w->coefficient = rig_results(r, entries, "balance coefficient");
    w->outputs = (model_outputs){.loss = w->loss->memory,
                                 .gate_sum = w->gate_sum->memory,
                                 .top1_count = w->top1->memory,
                                 .top_k_count = w->top_k->memory,
                                 .balance_coefficient = balance ? w->coefficient->memory : NULL,
                                 .logits = w->logits->memory};
}

typedef enum { STEP, EVALUATION, PRETRAINING } program_kind;

/* Replaces the rig's empty program by the model's. */
static void record_model(world *w, program_kind kind) {
    rig *r = w->r;
    problems *list = problems_create();
    exit_code code;
    ck_program_destroy(r->program);
    r->program = NULL;
    if (kind == STEP)
        code = model_record_step(r->backend, &w->base, r->shapes, SHAPE_SPECS, &r->capacity, &w->outputs,
                                 &r->program, list);
    else if (kind == EVALUATION)
        code = model_record_evaluation(r->backend, &w->base, r->shapes, SHAPE_SPECS, &r->capacity,
                                       &w->outputs, &r->program, list);
    else
        code = model_record_pretraining(r->backend, &w->base, &r->capacity, &w->outputs, &r->program, list);
    if (code != EXIT_OK)
        check_fail(r->check, "%s: %s", r->case_name,
                   problems_count(list) > 0 ? problems_message(list, 0) : "no message");
    r->broken = code != EXIT_OK;
    r->finished = true; /* the recorders finish their programs */
    problems_destroy(list);
}

static world *world_open(rig *r, program_kind kind, bool balance) {
    world *w = calloc(1, sizeof *w);
    if (w == NULL) abort();
    w->r = r;
    draw_text(r);
    make_base(w);
    make_outputs(w, balance);
    record_model(w, kind);
    return w;
}

static void world_close(world *w) {
    free(w->variants);
    free(w);
}

static oracle_batch batch_of(const rig *r, int device) {
    int first = r->first_sequence[device];
    int64_t token = r->first_token[first];
    return (oracle_batch){r->first_sequence[device + 1] - first, r->first_token + first, r->tokens + token,
                          r->targets + token};
}

/* Losses, logits, gates and, where wanted, gradients of one device. balance: the program has the load
 * balance's gradient. */
static void device_reference(world *w, int device, bool gradients, bool balance) {
    rig *r = w->r;
    int first = r->first_sequence[device];
    int64_t token = rig_first(r, device), rows = rig_rows(r, device);
    ck_shape shape = *rig_shape(r, device);
    oracle_batch batch = batch_of(r, device);
    double *gates = oracle_zeros(WAVE_LAYERS * rows * CK_MAX_EXPERTS);
    oracle_pass pass = {.loss = w->loss->ref + first,
                        .logits = w->logits->ref + token * VOCABULARY,
                        .gates = gates,
                        .gradients = gradients ? r->gradients.ref + r->devices[device].gradients : NULL};
    shape.balanced &= balance;
    oracle_model(&w->references[r->devices[device].variant], &shape,
                 r->parameters.ref + r->devices[device].parameters, &batch, &pass);
    if (pass.margin < least_margin)
        check_fail(r->check, "wave '%s': device %d has a margin of %g", r->spec->name, device, pass.margin);
    for (int s = first; s < r->first_sequence[device + 1]; s++)
        for (int l = 0; l < WAVE_LAYERS; l++)
            for (int64_t t = r->first_token[s]; t < r->first_token[s + 1]; t++)
                for (int e = 0; e < shape.n_experts; e++) {
                    int64_t at = ((int64_t)s * WAVE_LAYERS + l) * CK_MAX_EXPERTS + e;
                    double gate = gates[(l * rows + t - token) * CK_MAX_EXPERTS + e];
                    w->gate_sum->ref[at] += gate;
                    w->top_k->ref[at] += gate > 0;
                }
    free(gates);
}

static void compare_forward(world *w) {
    rig *r = w->r;
    rig_compare_buffer(r, w->loss, 0, w->loss->count);
    rig_compare_buffer(r, w->logits, 0, w->logits->count);
    for (int d = 0; d < r->spec->n_devices; d++) {
        const ck_shape *s = rig_shape(r, d);
        r->check->comparisons++;
        if (r->fault[d] != -1)
            check_fail(r->check, "%s on wave '%s': fault of device %d: %d", r->case_name, r->spec->name, d,
                       r->fault[d]);
        for (int i = r->first_sequence[d]; i < r->first_sequence[d + 1]; i++)
            for (int l = 0; l < WAVE_LAYERS; l++) {
                int64_t at = ((int64_t)i * WAVE_LAYERS + l) * CK_MAX_EXPERTS;
                rig_compare_buffer(r, w->gate_sum, at, s->n_experts);
                if (s->router_rows > 0) rig_compare_buffer(r, w->top_k, at, s->n_experts);
            }
    }
}

static void step_with(rig *r, bool balance, bool variants) {
    world *w = world_open(r, STEP, balance);
    if (variants) make_variants(w);
    if (rig_run(r)) {
        for (int d = 0; d < r->spec->n_devices; d++) device_reference(w, d, true, balance);
        compare_forward(w);
        r->tolerance = gradient_tolerance;
        for (int l = 0; l < WAVE_LAYERS; l++) rig_compare_gradients(r, l, UINT64_MAX);
    }
    world_close(w);
}

static void step(rig *r) {
    step_with(r, true, false);
}

static void step_without_balance(rig *r) {
    step_with(r, false, false);
}

static void step_of_variants(rig *r) {
    step_with(r, true, true);
}

static void evaluation(rig *r) {
    world *w = world_open(r, EVALUATION, false);
    if (rig_run(r)) {
        for (int d = 0; d < r->spec->n_devices; d++) device_reference(w, d, false, false);
        compare_forward(w);
    }
    world_close(w);
}

/* Losses alone, of devices that keep their margins: what of a whole model survives bf16. */
static void losses_with(rig *r, bool variants) {
    world *w = world_open(r, EVALUATION, false);
    if (variants) make_variants(w);
    if (rig_run(r)) {
        for (int d = 0; d < r->spec->n_devices; d++) device_reference(w, d, false, false);
        rig_compare_buffer(r, w->loss, 0, w->loss->count);
    }
    world_close(w);
}

static void losses(rig *r) {
    losses_with(r, false);
}

static void losses_of_variants(rig *r) {
    losses_with(r, true);
}

typedef struct {
    const rig_buffer *buffer;
    float *before;
} snapshot;

static snapshot take_snapshot(const rig_buffer *buffer) {
    snapshot s = {buffer, malloc((size_t)buffer->count * sizeof(float))};
    if (s.before == NULL) abort();
    memcpy(s.before, buffer->host, (size_t)buffer->count * sizeof(float));
    return s;
}

static void compare_snapshot(rig *r, snapshot s) {
    r->check->comparisons++;
    if (memcmp(s.before, s.buffer->host, (size_t)s.buffer->count * sizeof(float)) != 0)
        check_fail(r->check, "%s on wave '%s': the second run gave other bits in %s", r->case_name,
                   r->spec->name, s.buffer->name);
    free(s.before);
}

void (*conformance_between_runs)(void) = NULL;

/* The same program over the same wave gives the same bits, also where the second run is the replay of a
 * graph. */
static void step_twice(rig *r) {
    world *w = world_open(r, STEP, true);
    if (rig_run(r)) {
        snapshot all[] = {take_snapshot(w->loss), take_snapshot(w->logits), take_snapshot(w->gate_sum),
                          take_snapshot(w->coefficient), take_snapshot(&r->gradients)};
        if (conformance_between_runs != NULL) conformance_between_runs();
        bool again = rig_run(r);
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            if (again)
                compare_snapshot(r, all[i]);
            else
                free(all[i].before);
    }
    world_close(w);
}

/* At an offset of -1 there is no tensor. */
static void compare_tensor(world *w, const char *name, int64_t offset, int64_t count) {
    rig_buffer named = w->r->base_gradients;
    named.name = name;
    if (offset >= 0) rig_compare_buffer(w->r, &named, offset, count);
}

static void compare_layer_gradients(world *w, int l) {
    const base_shape *s = &w->references[0].shape;
    const base_layer *t = &w->references[0].layout.layer0;
    int64_t base = l * w->references[0].layout.layer_stride, width = s->width, q = base_q_width(s),
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
        compare_tensor(w, tensors[i].name, tensors[i].offset < 0 ? -1 : base + tensors[i].offset,
                       tensors[i].count);
}

static void compare_base_gradients(world *w) {
    const base_layout *at = &w->references[0].layout;
    int64_t width = w->references[0].shape.width;
    compare_tensor(w, "d wte", at->wte, VOCABULARY * width);
    compare_tensor(w, "d wpe", at->wpe, CONTEXT * width);
    compare_tensor(w, "d head", at->head, VOCABULARY * width);
    compare_tensor(w, "d lnf gain", at->lnf_gain, width);
    compare_tensor(w, "d lnf bias", at->lnf_bias, width);
    for (int l = 0; l < WAVE_LAYERS; l++) compare_layer_gradients(w, l);
}

static void pretraining(rig *r) {
    world *w = world_open(r, PRETRAINING, false);
    if (rig_run(r)) {
        oracle_batch batch = {r->wave.n_sequences, r->first_token, r->tokens, r->targets};
        oracle_pass pass = {
            .loss = w->loss->ref, .logits = w->logits->ref, .gradients = r->base_gradients.ref};
        oracle_pretraining(&w->references[0], &batch, &pass);
        rig_compare_buffer(r, w->loss, 0, w->loss->count);
        rig_compare_buffer(r, w->logits, 0, w->logits->count);
        r->tolerance = gradient_tolerance;
        compare_base_gradients(w);
    }
    world_close(w);
}

static const conformance_case cases[] = {
    {.name = "model step", .run = step, .learns = true, .exact = true, .whole = true},
    {.name = "model step without load balance", .run = step_without_balance, .exact = true, .whole = true},
    {.name = "model step of variants", .run = step_of_variants, .exact = true, .whole = true},
    {.name = "model evaluation", .run = evaluation, .exact = true, .whole = true},
    {.name = "model losses", .run = losses, .whole = true},
    {.name = "model losses of variants", .run = losses_of_variants, .whole = true},
    {.name = "model step, twice", .run = step_twice, .whole = true},
    {.name = "model pre-training", .run = pretraining, .trains_base = true, .whole = true},
};
const conformance_group model_group = {"model", cases, sizeof cases / sizeof *cases};

/* model.c - a whole expert step of the whole model: forward and backward of all layers (sim/model/model.h),
 * AdamW.
 *
 * The floor is the sum of the floors of its operations, as the single cases count them; a linear that adds to
 * what is there reads that too. MFU counts model FLOPs as a run does (model_flops_per_token).
 *
 * Verified are AdamW of the checked devices from the gradients that came out, the size of every loss, and, of
 * as many checked devices as the oracle can take through the whole model (MODEL_BUDGET), losses and all
 * gradients. That is every device of a small wave, one device of 4,096 with GPT-2 124M at 64 k tokens, and
 * none where devices have more tokens than that. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cases/costs.h"
#include "cases/expert_checks.h"
#include "model/model.h"
#include "rig/draw.h"

/* Multiply-adds of the oracle. */
static const double MODEL_BUDGET = 8e9;
/* Inputs of an operation carry the rounding of all before it, see tests/conformance/cases_model.c. In bf16 an
 * expert of a close choice may be another: gradients are compared where all are chosen. */
static const double F32_GRADIENTS = 3e-5, BF16_GRADIENTS = 5e-2, F32_MARGIN = 1e-5;

static base_shape base_of(const world *w) {
    return (base_shape){.layers = w->shape.n_layers,
                        .width = w->width,
                        .heads = w->heads,
                        .ffn = w->ffn,
                        .vocabulary = w->at.value[AXIS_VOCABULARY],
                        .context = w->at.value[AXIS_SEQUENCE],
                        .epsilon = 1e-5f};
}

/* ---- The work */

static void raise_gains(const world *w, int64_t offset) {
    float *gain = w->buffer[WEIGHT].before + offset;
    for (int i = 0; i < w->width; i++)
        gain[i] = w->precision == CK_BF16 ? draw_bf16(1 + gain[i]) : 1 + gain[i];
}

static void prepare(world *w) {
    base_shape base = base_of(w);
    base_layout layout = base_layout_of(&base);
    w->needs = NEED_PACKS | NEED_GRADIENTS | NEED_MOMENTS;
    w->learn = CK_LEARN_EXPERTS | CK_LEARN_ROUTER;
    world_buffer(w, WEIGHT, "base", INPUT, layout.total, 0.5 / sqrt(w->width));
    world_buffer(w, LOSS, "loss", OUTPUT, w->n_sequences, 1);
    raise_gains(w, layout.lnf_gain);
    for (int l = 0; l < base.layers; l++) {
        raise_gains(w, layout.layer0.ln1_gain + l * layout.layer_stride);
        raise_gains(w, layout.layer0.ln2_gain + l * layout.layer_stride);
    }
    w->own = adamw_devices(w);
}

static void release(world *w) {
    free(w->own);
}

static exit_code create(const world *w, world_copy *c, problems *list) {
    model_base base = {.shape = base_of(w), .weights = c->buffer[WEIGHT]};
    base.layout = base_layout_of(&base.shape);
    const model_outputs outputs = {.loss = c->buffer[LOSS]};
    const ck_capacity capacity = world_capacity(w);
    return model_record_step(w->backend, &base, &w->shape, 1, &capacity, &outputs, &c->program, list);
}

static ck_status issue(const world *w, world_copy *c) {
    ck_status status = ck_run(c->program, w->stream, &c->wave);
    return status == CK_OK ? issue_adamw(w, c, w->own) : status;
}

/* ---- Verifying */

/* A loss of random weights is that of guessing, about. */
static void check_sizes_of_losses(const world *w, verdict *v) {
    double guess = log(w->at.value[AXIS_VOCABULARY]);
    for (int s = 0; s < w->n_sequences; s++) {
        double tokens = (double)(w->first_token[s + 1] - w->first_token[s]),
               loss = (double)w->buffer[LOSS].after[s];
        verdict_exact(v, "size of a loss", loss > 0 && loss < 3 * guess * tokens);
    }
}

static double multiplications(const world *w, int device) {
    double d = w->width, f = w->ffn, layers = w->shape.n_layers, vocabulary = w->at.value[AXIS_VOCABULARY];
    return (double)world_rows(w, device) * (2 * layers * (4 * d * d + 2 * d * f) + 4 * d * vocabulary);
}

static void check_gradients(const world *w, verdict *v, int i, const double *gradients, double tolerance) {
    double usual = v->tolerance;
    v->tolerance = tolerance;
    for (int layer = 0; layer < w->shape.n_layers; layer++)
        for (int part = 0; part < ORACLE_PARTS; part++) {
            char what[64];
            oracle_range range = oracle_part_range(&w->shape, layer, (oracle_part)part);
            snprintf(what, sizeof what, "d%s of layer %d", oracle_part_name((oracle_part)part), layer);
            verdict_compare(v, what, w->pack_after[PACK_GRADIENTS][i] + range.offset,
                            gradients + range.offset, range.count);
        }
    v->tolerance = usual;
}

/* Checked device i. */
static void check_device(const world *w, verdict *v, int i, const oracle_base *base) {
    int device = w->checked[i], first = w->first_sequence[device], n = w->first_sequence[device + 1] - first;
    int64_t token = w->first_token[first];
    const oracle_batch batch = {n, w->first_token + first, w->tokens + token, w->targets + token};
    double *parameters = world_pack(w, PACK_PARAMETERS, device), *gradients = oracle_zeros(w->shape.total),
           *loss = oracle_zeros(n);
    oracle_pass pass = {.loss = loss, .gradients = gradients};
    oracle_model(base, &w->shape, parameters, &batch, &pass);
    bool bf16 = w->precision == CK_BF16, all_chosen = w->shape.top_k >= w->shape.n_experts;
    if (all_chosen || (!bf16 && pass.margin >= F32_MARGIN)) {
        verdict_compare(v, "loss", w->buffer[LOSS].after + first, loss, n);
        check_gradients(w, v, i, gradients, bf16 ? BF16_GRADIENTS : F32_GRADIENTS);
    }
    free(parameters);
    free(gradients);
    free(loss);
}

static void verify(const world *w, verdict *v) {
    double left = MODEL_BUDGET, *weights = NULL;
    oracle_base base = {.shape = base_of(w)};
    base.layout = base_layout_of(&base.shape);
    for (int i = 0; i < w->n_checked; i++) {
        left -= multiplications(w, w->checked[i]);
        if (left < 0) break;
        if (!weights)
            base.weights = weights = oracle_from_floats(w->buffer[WEIGHT].before, base.layout.total);
        check_device(w, v, i, &base);
    }
    free(weights);
    check_sizes_of_losses(w, v);
    check_adamw(w, v, BENCH_HYPER);
}

/* ---- Costs */

static cost times(double n, cost one) {
    return (cost){one.name, n * one.bytes, n * one.flops};
}

/* A linear whose output is added to an array of `columns`. */
static cost adding(const world *w, cost linear, int columns) {
    linear.bytes += activation_bytes(w) * tokens_of(w) * columns;
    return linear;
}

static cost embed_cost(const world *w) {
    double vocabulary = w->at.value[AXIS_VOCABULARY],
           rows = tokens_of(w) < vocabulary ? tokens_of(w) : vocabulary;
    return (cost){"embed",
                  activation_bytes(w) * w->width * (tokens_of(w) + rows + w->at.value[AXIS_SEQUENCE]) +
                      4 * tokens_of(w),
                  0};
}

/* Below the first layer's attention LoRA nothing needs a gradient. */
static int costs(const world *w, cost *parts) {
    int d = w->width, f = w->ffn;
    double layers = w->shape.n_layers;
    const cost all[] = {
        embed_cost(w),
        times(2 * layers + 1, norm_cost(w)),
        times(layers, linear_cost(w, d, 3 * d)),
        times(layers, lora_cost(w, 3 * d)),
        times(layers, attention_cost(w)),
        times(layers, adding(w, linear_cost(w, d, d), d)),
        times(layers, lora_cost(w, d)),
        times(layers, route_cost(w)),
        times(layers, linear_cost(w, d, f)),
        times(layers, activation_cost(w)),
        times(layers, adding(w, linear_cost(w, f, d), d)),
        times(layers, expand_cost(w)),
        head_cost(w),
        norm_backward_cost(w, false),
        times(layers, expand_backward_cost(w)),
        times(layers, linear_cost(w, d, f)),
        times(layers, activation_backward_cost(w)),
        times(layers, route_backward_cost(w)),
        times(layers, adding(w, linear_cost(w, f, d), d)),
        times(2 * layers - 1, norm_backward_cost(w, true)),
        times(layers, linear_cost(w, d, d)),
        times(layers, lora_backward_cost(w, d, true)),
        times(layers, attention_backward_cost(w)),
        times(layers - 1, linear_cost(w, 3 * d, d)),
        times(layers - 1, lora_backward_cost(w, 3 * d, true)),
        lora_backward_cost(w, 3 * d, false),
        adamw_cost(w),
    };
    int n = sizeof all / sizeof *all;
    for (int i = 0; i < n; i++) parts[i] = all[i];
    return n;
}

static double model_flops(const world *w) {
    base_shape base = base_of(w);
    double sum = 0;
    for (int s = 0; s < w->n_sequences; s++) {
        int tokens = (int)(w->first_token[s + 1] - w->first_token[s]);
        sum += tokens * model_flops_per_token(&base, &w->shape, tokens);
    }
    return sum;
}

const bench_case model_step = {
    .name = "model",
    .direction = "step",
    .floor = "the sum of the floors of all operations of L layers, embedding and head, forward and backward, "
             "and adamw; MFU of the model's FLOPs",
    .axes = AXES_MODEL,
    .prepare = prepare,
    .create = create,
    .issue = issue,
    .verify = verify,
    .costs = costs,
    .model_flops = model_flops,
    .release = release};

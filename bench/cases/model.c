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

#include "cases/ops.h"
#include "model/model.h"
#include "rig/draw.h"

/* Multiply-adds of the oracle. */
static const double MODEL_BUDGET = 8e9;
/* Inputs of an operation carry the rounding of all before it, see tests/conformance/cases_model.c. In bf16 an
 * expert of a close choice may be another: gradients are compared where all are chosen. */
static const double F32_GRADIENTS = 3e-5, BF16_GRADIENTS = 5e-2, F32_MARGIN = 1e-5;

static base_shape base_of(const rig *r) {
    return base_complete((base_shape){.layers = r->shapes[0].n_layers,
                                      .width = r->width,
                                      .heads = r->heads,
                                      .ffn = r->ffn,
                                      .vocabulary = r->vocabulary,
                                      .context = r->context,
                                      .epsilon = 1e-5f});
}

/* ---- The work */

static void raise_gains(const rig *r, int64_t offset) {
    float *gain = r->buffer[WEIGHT].before + offset;
    for (int i = 0; i < r->width; i++)
        gain[i] = r->precision == CK_BF16 ? draw_bf16(1 + gain[i]) : 1 + gain[i];
}

static void arrays(rig *r) {
    base_shape base = base_of(r);
    base_layout layout = base_layout_of(&base);
    rig_buffer(r, WEIGHT, "base", INPUT, layout.total, 0.5 / sqrt(r->width));
    rig_buffer(r, LOSS, "loss", OUTPUT, r->n_sequences, 1);
    raise_gains(r, layout.lnf_gain);
    for (int l = 0; l < base.layers; l++) {
        raise_gains(r, layout.layer0.ln1_gain + l * layout.layer_stride);
        raise_gains(r, layout.layer0.ln2_gain + l * layout.layer_stride);
    }
    r->own = adamw_devices(r);
}

static void release(rig *r) {
    free(r->own);
}

static exit_code create(const rig *r, rig_copy *c, problems *list) {
    model_base base = {.shape = base_of(r), .weights = c->buffer[WEIGHT]};
    base.layout = base_layout_of(&base.shape);
    const model_outputs outputs = {.loss = c->buffer[LOSS]};
    const ck_capacity capacity = rig_capacity(r);
    return model_record_step(r->backend, &base, &r->shapes[0], 1, &capacity, &outputs, &c->program, list);
}

static ck_status issue(const rig *r, rig_copy *c) {
    ck_status status = ck_run(c->program, r->stream, &c->wave);
    return THEN(status, issue_adamw(r, c, r->own));
}

/* ---- Verifying */

/* A loss of random weights is that of guessing, about. */
static void check_sizes_of_losses(const rig *r, verdict *v) {
    double guess = log(r->vocabulary);
    for (int s = 0; s < r->n_sequences; s++) {
        double tokens = (double)(r->first_token[s + 1] - r->first_token[s]),
               loss = (double)r->buffer[LOSS].after[s];
        verdict_exact(v, "size of a loss", loss > 0 && loss < 3 * guess * tokens);
    }
}

static double multiplications(const rig *r, int device) {
    double d = r->width, f = r->ffn, layers = r->shapes[0].n_layers, vocabulary = r->vocabulary;
    return (double)rig_rows(r, device) * (2 * layers * (4 * d * d + 2 * d * f) + 4 * d * vocabulary);
}

/* Checked device i. */
static void check_device(const rig *r, verdict *v, int i, const oracle_base *base) {
    int device = r->checked[i], first = r->first_sequence[device], n = r->first_sequence[device + 1] - first;
    int64_t token = r->first_token[first];
    const oracle_batch batch = {n, r->first_token + first, r->tokens + token, r->targets + token,
                                &r->devices[device].noise};
    double *parameters = rig_pack(r, PACK_PARAMETERS, device), *gradients = oracle_zeros(r->shapes[0].total),
           *loss = oracle_zeros(n);
    oracle_pass pass = {.loss = loss, .gradients = gradients};
    oracle_model(base, &r->shapes[0], parameters, &batch, &pass);
    bool bf16 = r->precision == CK_BF16, all_chosen = r->shapes[0].top_k >= r->shapes[0].n_experts;
    if (all_chosen || (!bf16 && pass.margin >= F32_MARGIN)) {
        verdict_compare(v, "loss", r->buffer[LOSS].after + first, loss, n);
        double usual = v->tolerance;
        v->tolerance = bf16 ? BF16_GRADIENTS : F32_GRADIENTS;
        for (int layer = 0; layer < r->layers; layer++)
            rig_judge_gradients(r, v, i, layer, UINT64_MAX, gradients);
        v->tolerance = usual;
    }
    free(parameters);
    free(gradients);
    free(loss);
}

static void verify(const rig *r, verdict *v) {
    double left = MODEL_BUDGET, *weights = NULL;
    oracle_base base = {.shape = base_of(r)};
    base.layout = base_layout_of(&base.shape);
    for (int i = 0; i < r->n_checked; i++) {
        left -= multiplications(r, r->checked[i]);
        if (left < 0) break;
        if (!weights)
            base.weights = weights = oracle_from_floats(r->buffer[WEIGHT].before, base.layout.total);
        check_device(r, v, i, &base);
    }
    free(weights);
    check_sizes_of_losses(r, v);
    check_adamw(r, v, BENCH_HYPER);
}

/* ---- Costs */

static cost times(double n, cost one) {
    return (cost){one.name, n * one.bytes, n * one.flops};
}

/* A linear whose output is added to an array of `columns`. */
static cost adding(const rig *r, cost linear, int columns) {
    linear.bytes += activation_bytes(r) * tokens_of(r) * columns;
    return linear;
}

static cost embed_cost(const rig *r) {
    double vocabulary = r->vocabulary, rows = tokens_of(r) < vocabulary ? tokens_of(r) : vocabulary;
    return (cost){"embed",
                  activation_bytes(r) * r->width * (tokens_of(r) + rows + r->context) + 4 * tokens_of(r), 0};
}

/* Below the first layer's attention LoRA nothing needs a gradient. */
static int costs(const rig *r, cost *parts) {
    int d = r->width, f = r->ffn;
    double layers = r->shapes[0].n_layers;
    const cost all[] = {
        embed_cost(r),
        times(2 * layers + 1, norm_cost(r)),
        times(layers, linear_cost(r, d, 3 * d)),
        times(layers, lora_cost(r, 3 * d)),
        times(layers, attention_cost(r)),
        times(layers, adding(r, linear_cost(r, d, d), d)),
        times(layers, lora_cost(r, d)),
        times(layers, route_cost(r)),
        times(layers, linear_cost(r, d, f)),
        times(layers, activation_cost(r)),
        times(layers, adding(r, linear_cost(r, f, d), d)),
        times(layers, expand_cost(r)),
        head_cost(r),
        norm_backward_cost(r, false),
        times(layers, expand_backward_cost(r)),
        times(layers, linear_cost(r, d, f)),
        times(layers, activation_backward_cost(r)),
        times(layers, route_backward_cost(r)),
        times(layers, adding(r, linear_cost(r, f, d), d)),
        times(2 * layers - 1, norm_backward_cost(r, true)),
        times(layers, linear_cost(r, d, d)),
        times(layers, lora_backward_cost(r, d, true)),
        times(layers, attention_backward_cost(r)),
        times(layers - 1, linear_cost(r, 3 * d, d)),
        times(layers - 1, lora_backward_cost(r, 3 * d, true)),
        lora_backward_cost(r, 3 * d, false),
        adamw_cost(r),
    };
    int n = sizeof all / sizeof *all;
    for (int i = 0; i < n; i++) parts[i] = all[i];
    return n;
}

static double model_flops(const rig *r) {
    base_shape base = base_of(r);
    double sum = 0;
    for (int s = 0; s < r->n_sequences; s++) {
        int tokens = (int)(r->first_token[s + 1] - r->first_token[s]);
        sum += tokens * model_flops_per_token(&base, &r->shapes[0], tokens);
    }
    return sum;
}

const op_case model_step = {
    .group = "model",
    .name = "model",
    .direction = "step",
    .floor = "the sum of the floors of all operations of L layers, embedding and head, forward and backward, "
             "and adamw; MFU of the model's FLOPs",
    .axes = AXES_MODEL,
    .needs = NEED_PACKS | NEED_GRADIENTS | NEED_MOMENTS,
    .arrays = arrays,
    .create = create,
    .issue = issue,
    .verify = verify,
    .costs = costs,
    .model_flops = model_flops,
    .release = release};

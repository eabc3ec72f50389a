/* wave.c - what ck_run() refuses: a wave that contradicts itself, or that the program has no room for. */
#include "backend.h"

static ck_status sequences_problem(const ck_program *program, const ck_wave *wave) {
    ck_backend *backend = program->backend;
    const ck_capacity *capacity = &program->capacity;
    if (wave->n_sequences > capacity->max_sequences) {
        return ck_fail(backend, CK_BAD_ARGUMENT, "a wave of %d sequences exceeds the program's %d",
                       wave->n_sequences, capacity->max_sequences);
    }
    if (!wave->tokens || !wave->targets)
        return ck_fail(backend, CK_BAD_ARGUMENT, "the wave has no tokens or no targets");
    if (wave->first_token[0] != 0)
        return ck_fail(backend, CK_BAD_ARGUMENT, "the wave's first sequence does not begin at token 0");
    for (int s = 0; s < wave->n_sequences; s++) {
        int64_t tokens = wave->first_token[s + 1] - wave->first_token[s];
        if (tokens < 1 || tokens > capacity->max_sequence_tokens) {
            return ck_fail(backend, CK_BAD_ARGUMENT, "sequence %d has %lld tokens; 1 to %d are possible", s,
                           (long long)tokens, capacity->max_sequence_tokens);
        }
    }
    int64_t tokens = wave->first_token[wave->n_sequences];
    if (tokens > capacity->max_tokens) {
        return ck_fail(backend, CK_BAD_ARGUMENT, "a wave of %lld tokens exceeds the program's %d",
                       (long long)tokens, capacity->max_tokens);
    }
    return CK_OK;
}

typedef struct {
    ck_site site;
    int32_t in, out, layer;
    const ck_tensor *h;
    bool tied;
} recorded_lora;

static bool lora_fits(recorded_lora op, const ck_shape *shape) {
    ck_adapter adapter = op.tied ? CK_TIED : CK_LORA;
    const ck_block *a = ck_block_of(shape, adapter, op.site, CK_FACTOR_A),
                   *b = ck_block_of(shape, adapter, op.site, CK_FACTOR_B);
    return a->rows == 0 || (op.h->columns >= a->rows && op.layer < shape->n_layers && op.in == a->columns &&
                            op.out == b->columns);
}

static bool vector_fits(ck_site site, int32_t out, int32_t layer, const ck_shape *shape) {
    const ck_block *p = ck_block_of(shape, CK_TIED, site, CK_FACTOR_VECTOR);
    return p->rows == 0 || (p->columns == out && layer < shape->n_layers);
}

/* Rank-space activations are as wide as the shapes the program was recorded for. */
static bool op_fits(const ck_op *op, const ck_shape *s) {
    switch (op->kind) {
    case CK_OP_lora:
        return lora_fits((recorded_lora){op->as.lora.site, op->as.lora.in, op->as.lora.out, op->as.lora.layer,
                                         op->as.lora.h, op->as.lora.tied},
                         s);
    case CK_OP_lora_backward:
        return lora_fits((recorded_lora){op->as.lora_backward.site, op->as.lora_backward.in,
                                         op->as.lora_backward.out, op->as.lora_backward.layer,
                                         op->as.lora_backward.h, op->as.lora_backward.tied},
                         s);
    case CK_OP_site_vector:
        return vector_fits(op->as.site_vector.site, op->as.site_vector.out, op->as.site_vector.layer, s);
    case CK_OP_site_vector_backward:
        return vector_fits(op->as.site_vector_backward.site, op->as.site_vector_backward.out,
                           op->as.site_vector_backward.layer, s);
    case CK_OP_tied_gradients:
        return s->tied_floats == 0 || op->as.tied_gradients.n_layers == s->n_layers;
    case CK_OP_route:
        return op->as.route.layer < s->n_layers && op->as.route.x->columns >= s->width &&
               op->as.route.zh->columns >= s->router_rows + s->h_ranks;
    case CK_OP_route_backward:
        return op->as.route_backward.layer < s->n_layers && op->as.route_backward.p->columns >= s->h_ranks;
    case CK_OP_expert_activation:
        return op->as.expert_activation.ffn == s->ffn && op->as.expert_activation.mlp == s->mlp &&
               op->as.expert_activation.layer < s->n_layers &&
               op->as.expert_activation.g->columns >= s->rank_sum;
    case CK_OP_expert_activation_backward:
        return op->as.expert_activation_backward.ffn == s->ffn &&
               op->as.expert_activation_backward.mlp == s->mlp &&
               op->as.expert_activation_backward.layer < s->n_layers &&
               op->as.expert_activation_backward.q->columns >= s->rank_sum &&
               op->as.expert_activation_backward.p->columns >= s->h_ranks;
    case CK_OP_expert_expand:
        return op->as.expert_expand.layer < s->n_layers && op->as.expert_expand.y->columns >= s->width;
    case CK_OP_expert_expand_backward:
        return op->as.expert_expand_backward.layer < s->n_layers &&
               op->as.expert_expand_backward.q->columns >= s->rank_sum;
#define X(op) case CK_OP_##op:
        CK_BASE_OPS(X)
        CK_GLOBAL_OPS(X)
#undef X
    case CK_OP_COUNT:
        break; /* nothing of theirs depends on a device's shape */
    }
    return true;
}

static ck_status shape_problem(const ck_program *program, const ck_wave *wave, int device) {
    int32_t shape = wave->devices[device].shape;
    /* neighbours mostly share one */
    if (device > 0 && wave->devices[device - 1].shape == shape) return CK_OK;
    for (int o = 0; o < program->n_ops; o++) {
        if (op_fits(&program->ops[o], &wave->shapes[shape])) continue;
        return ck_fail(
            program->backend, CK_BAD_ARGUMENT,
            "device %d of the wave has a larger shape, or another MLP, than the program was recorded for",
            device);
    }
    return CK_OK;
}

static ck_status devices_problem(const ck_program *program, const ck_wave *wave) {
    ck_backend *backend = program->backend;
    if (wave->n_devices == 0) return CK_OK;
    if (wave->n_variants > 0 && wave->n_linears < program->n_linears)
        return ck_fail(backend, CK_BAD_ARGUMENT, "variants of %d linears; the program has %d",
                       wave->n_linears, program->n_linears);
    if (wave->first_sequence[0] != 0 || wave->first_sequence[wave->n_devices] != wave->n_sequences) {
        return ck_fail(backend, CK_BAD_ARGUMENT, "the devices' sequences do not cover the wave");
    }
    for (int i = 0; i < wave->n_devices; i++) {
        const ck_wave_device *device = &wave->devices[i];
        if (device->shape < 0 || device->shape >= wave->n_shapes) {
            return ck_fail(backend, CK_BAD_ARGUMENT, "device %d of the wave has no shape", i);
        }
        if (wave->first_sequence[i + 1] <= wave->first_sequence[i]) {
            return ck_fail(backend, CK_BAD_ARGUMENT, "device %d of the wave has no sequence", i);
        }
        if (device->variant < 0 || device->variant > wave->n_variants)
            return ck_fail(backend, CK_BAD_ARGUMENT, "device %d of the wave names variant %d of %d", i,
                           device->variant, wave->n_variants);
        if (device->parameters % CK_ALIGN_FLOATS != 0 || device->gradients % CK_ALIGN_FLOATS != 0) {
            return ck_fail(backend, CK_BAD_ARGUMENT,
                           "the packs of device %d of the wave do not begin at a multiple of %d floats", i,
                           CK_ALIGN_FLOATS);
        }
        if (device->learn &&
            (!wave->gradients || wave->shapes[device->shape].gradient_total > program->capacity.max_pack)) {
            return ck_fail(backend, CK_BAD_ARGUMENT, "the program has no room for the gradients of device %d",
                           i);
        }
        ck_status status = shape_problem(program, wave, i);
        if (status) return status;
    }
    return CK_OK;
}

/* A mean over the wave is not one over each device, and the other way round. */
static ck_status head_problem(const ck_program *program, const ck_wave *wave) {
    for (int o = 0; o < program->n_ops; o++) {
        if (program->ops[o].kind != CK_OP_head) continue;
        ck_head_mode mode = program->ops[o].as.head.mode;
        if (mode == CK_HEAD_PRETRAIN && (wave->n_devices > 0 || !wave->base_gradients)) {
            return ck_fail(program->backend, CK_BAD_ARGUMENT,
                           "the program's head pre-trains the base: the wave must have base gradients and no "
                           "devices");
        }
        if (mode == CK_HEAD_STEP && wave->n_devices == 0) {
            return ck_fail(program->backend, CK_BAD_ARGUMENT,
                           "the program's head takes a step of devices: the wave has none");
        }
    }
    return CK_OK;
}

ck_status ck_wave_check(const ck_program *program, const ck_wave *wave) {
    if (!program->finished) return ck_fail(program->backend, CK_BAD_ARGUMENT, "the program is not finished");
    ck_status status = sequences_problem(program, wave);
    if (!status) status = devices_problem(program, wave);
    if (!status) status = head_problem(program, wave);
    return status || !program->decodes ? status : ck_wave_check_decoding(program, wave);
}

/* program.c - recording: checks descriptors, keeps them in order, and finds the activations that cross a
 * global op. */
#include "backend.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Life of a program ---- */

ck_status ck_program_create(ck_backend *backend, const ck_capacity *capacity, ck_program **out) {
    *out = NULL;
    if (capacity->max_sequences < 1 || capacity->max_sequence_tokens < 1 ||
        capacity->max_tokens < capacity->max_sequence_tokens) {
        return ck_fail(backend, CK_BAD_ARGUMENT,
                       "a program needs room for at least one sequence (%d sequences, %d tokens, longest %d)",
                       capacity->max_sequences, capacity->max_tokens, capacity->max_sequence_tokens);
    }
    if (!ck_supports(backend, capacity->precision))
        return ck_fail(backend, CK_UNAVAILABLE, "the %s backend computes in f32 only", backend->driver->name);
    if (capacity->precision != CK_F32 && capacity->base_pack > 0)
        return ck_fail(backend, CK_BAD_ARGUMENT, "a base is trained in f32 only");
    ck_program *program = calloc(1, sizeof *program);
    if (!program) return ck_fail(backend, CK_NO_MEMORY, "cannot allocate a program");
    program->backend = backend;
    program->capacity = *capacity;
    *out = program;
    return CK_OK;
}

void ck_program_destroy(ck_program *program) {
    if (!program) return;
    if (program->finished) program->backend->driver->program_release(program);
    for (ck_tensor *tensor = program->tensors, *next; tensor; tensor = next) {
        next = tensor->next;
        free(tensor);
    }
    free(program->ops);
    free(program);
}

static void __attribute__((format(printf, 2, 3))) refuse(ck_program *program, const char *format, ...) {
    if (program->status) return; /* the first error is the one that explains */
    program->status = CK_BAD_ARGUMENT;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(program->error, sizeof program->error, format, arguments);
    va_end(arguments);
}

static void settle_keeping(ck_program *program) {
    for (ck_tensor *tensor = program->tensors; tensor; tensor = tensor->next) {
        bool used = tensor->first_segment >= 0;
        if (tensor->first_segment != tensor->last_segment || (program->decodes && used)) tensor->keep = true;
    }
}

size_t ck_program_bytes(const ck_program *program) {
    settle_keeping((ck_program *)program);
    return program->finished ? program->bytes : program->backend->driver->program_bytes(program);
}

ck_status ck_program_finish(ck_program *program) {
    if (program->status) return ck_fail(program->backend, program->status, "%s", program->error);
    if (program->finished)
        return ck_fail(program->backend, CK_BAD_ARGUMENT, "the program is finished already");
    if (program->decodes && (program->backward || program->segment > 0))
        return ck_fail(program->backend, CK_BAD_ARGUMENT,
                       "a program with attention over a cache has neither backward nor global ops");
    settle_keeping(program);
    ck_status status = program->backend->driver->program_place(program);
    program->finished = status == CK_OK;
    return status;
}

/* ---- Activations ---- */

static ck_tensor nowhere = {.name = "no memory", .columns = 1 << 30};

ck_tensor *ck_activation(ck_program *program, int32_t columns, const char *name) {
    if (columns < 0) refuse(program, "activation %s cannot have %d columns", name, columns);
    ck_tensor *tensor = calloc(1, sizeof *tensor);
    if (!tensor) {
        refuse(program, "no memory for activation %s", name);
        return &nowhere;
    }
    *tensor = (ck_tensor){.name = name,
                          .columns = columns < 1 ? 1 : columns,
                          .first_segment = -1,
                          .last_segment = -1,
                          .program = program,
                          .next = program->tensors};
    program->tensors = tensor;
    return tensor;
}

void ck_keep(ck_program *program, ck_tensor *tensor) {
    if (program->finished)
        refuse(program, "activation %s can only be kept before the program is finished", tensor->name);
    else
        tensor->keep = true;
}

/* ---- Recording ---- */

static ck_op *append(ck_program *program, ck_op_kind kind) {
    static ck_op discarded;
    if (program->finished) refuse(program, "an op was recorded after the program was finished");
    if (program->n_ops == program->ops_capacity) {
        int capacity = program->ops_capacity ? 2 * program->ops_capacity : 64;
        ck_op *grown = realloc(program->ops, (size_t)capacity * sizeof *grown);
        if (!grown) {
            refuse(program, "no memory for %d ops", capacity);
            return &discarded;
        }
        program->ops = grown;
        program->ops_capacity = capacity;
    }
    ck_op *op = &program->ops[program->n_ops++];
    memset(op, 0, sizeof *op);
    op->kind = kind;
    if (ck_is_global(kind) && program->backward)
        refuse(program, "a backward op was recorded before a global op");
    if (ck_is_global(kind)) program->segment++;
    program->backward |= ck_is_backward(kind);
    return op;
}

typedef enum { EXACT, WIDE } use_kind; /* f32 whatever the program; bf16 in a bf16 program */

/* The program's own handle of one of its activations; NULL if it belongs to another program. */
static ck_tensor *own(const ck_program *program, const ck_tensor *tensor) {
    ck_tensor *t = program->tensors;
    while (t && t != tensor) t = t->next;
    return t;
}

/* Notes a use of the activation and checks its width. */
static void use(ck_program *program, const char *op, const ck_tensor *tensor, const char *field,
                use_kind kind, int64_t columns) {
    if (!tensor) {
        refuse(program, "%s: %s is missing", op, field);
        return;
    }
    if (tensor == &nowhere) return;
    ck_tensor *used = own(program, tensor);
    if (!used) {
        refuse(program, "%s: %s (%s) belongs to another program", op, field, tensor->name);
        return;
    }
    if (tensor->columns < columns)
        refuse(program, "%s: %s (%s) has %d columns, needs %lld", op, field, tensor->name, tensor->columns,
               (long long)columns);
    *(kind == WIDE ? &used->wide : &used->exact) = true;
    if (used->wide && used->exact)
        refuse(program, "%s: %s (%s) is %s here and was %s before", op, field, tensor->name,
               kind == WIDE ? "an activation" : "exact", kind == WIDE ? "exact" : "an activation");
    if (used->first_segment < 0) used->first_segment = program->segment;
    used->last_segment = program->segment;
}

static void use_optional(ck_program *program, const char *op, const ck_tensor *tensor, const char *field,
                         use_kind kind, int64_t columns) {
    if (tensor) use(program, op, tensor, field, kind, columns);
}

static void positive(ck_program *program, const char *op, const char *field, int64_t value) {
    if (value < 1) refuse(program, "%s: %s must be at least 1, not %lld", op, field, (long long)value);
}

static void present(ck_program *program, const char *op, const char *field, const void *pointer) {
    if (!pointer) refuse(program, "%s: %s is missing", op, field);
}

static void gradient_range(ck_program *program, const char *op, int64_t offset, int64_t count) {
    if (offset >= 0 && offset + count > program->capacity.base_pack) {
        refuse(program, "%s: a gradient of %lld floats at %lld does not fit the base pack of %lld", op,
               (long long)count, (long long)offset, (long long)program->capacity.base_pack);
    }
}

static void linear_number(ck_program *program, const char *op, int32_t linear) {
    if (linear < -1) refuse(program, "%s: linear must be a number from 0 on, or -1, not %d", op, linear);
    if (linear >= program->n_linears) program->n_linears = linear + 1;
}

/* A number a token, one after the other. */
static void use_factors(ck_program *program, const char *op, const ck_tensor *factors) {
    if (!factors) return;
    use(program, op, factors, "bias_factor", EXACT, 1);
    if (factors->columns > 1) refuse(program, "%s: bias_factor has %d columns, not 1", op, factors->columns);
}

#define RECORD(op)                                                                                           \
    static void check_##op(ck_program *program, const ck_##op *d);                                           \
    void ck_op_##op(ck_program *program, const ck_##op *d) {                                                 \
        append(program, CK_OP_##op)->as.op = *d;                                                             \
        check_##op(program, d);                                                                              \
    }                                                                                                        \
    static void check_##op(ck_program *program, const ck_##op *d)

#define USE(op, field, kind, columns)    use(program, #op, d->field, #field, kind, columns)
#define USE_IF(op, field, kind, columns) use_optional(program, #op, d->field, #field, kind, columns)
#define POSITIVE(op, field)              positive(program, #op, #field, d->field)
#define PRESENT(op, field)               present(program, #op, #field, d->field)

RECORD(embed) {
    POSITIVE(embed, width);
    PRESENT(embed, wte);
    USE(embed, x, WIDE, d->width);
}

RECORD(embed_backward) {
    POSITIVE(embed_backward, width);
    POSITIVE(embed_backward, vocabulary);
    if (d->wpe_gradient >= 0 && program->capacity.max_sequence_tokens > d->positions)
        refuse(program, "embed_backward: sequences are longer than %d positions", d->positions);
    gradient_range(program, "embed_backward", d->wte_gradient, (int64_t)d->vocabulary * d->width);
    gradient_range(program, "embed_backward", d->wpe_gradient, (int64_t)d->positions * d->width);
    if (d->wte_gradient < 0) refuse(program, "embed_backward: wte_gradient is missing");
    USE(embed_backward, dx, WIDE, d->width);
}

RECORD(norm) {
    POSITIVE(norm, width);
    PRESENT(norm, gain);
    if (d->kind == CK_LAYER_NORM) PRESENT(norm, bias);
    if (d->kind == CK_RMS_NORM && d->bias) refuse(program, "norm: an RMSNorm has no bias");
    USE(norm, x, WIDE, d->width);
    USE(norm, y, WIDE, d->width);
    USE(norm, stats, EXACT, 2);
}

RECORD(norm_backward) {
    POSITIVE(norm_backward, width);
    PRESENT(norm_backward, gain);
    USE(norm_backward, x, WIDE, d->width);
    USE(norm_backward, stats, EXACT, 2);
    USE(norm_backward, dy, WIDE, d->width);
    USE(norm_backward, dx, WIDE, d->width);
    gradient_range(program, "norm_backward", d->gain_gradient, d->width);
    gradient_range(program, "norm_backward", d->bias_gradient, d->width);
    bool biased = d->kind == CK_LAYER_NORM && d->gain_gradient >= 0;
    if ((d->bias_gradient >= 0) != biased)
        refuse(program, "norm_backward: the gradient of the bias is %s", biased ? "missing" : "not wanted");
}

RECORD(linear) {
    POSITIVE(linear, in);
    POSITIVE(linear, out);
    PRESENT(linear, weight);
    USE(linear, x, WIDE, d->in);
    USE(linear, y, WIDE, d->out);
    USE_IF(linear, residual, WIDE, d->out);
    use_factors(program, "linear", d->bias_factor);
    if (d->x == d->y) refuse(program, "linear: x and y are the same activation");
    linear_number(program, "linear", d->linear);
}

RECORD(linear_backward) {
    POSITIVE(linear_backward, in);
    POSITIVE(linear_backward, out);
    USE(linear_backward, dy, WIDE, d->out);
    USE_IF(linear_backward, dx, WIDE, d->in);
    if (d->dx) PRESENT(linear_backward, weight);
    if (d->weight_gradient >= 0) USE(linear_backward, x, WIDE, d->in);
    linear_number(program, "linear_backward", d->linear);
    gradient_range(program, "linear_backward", d->weight_gradient, (int64_t)d->in * d->out);
    gradient_range(program, "linear_backward", d->bias_gradient, d->out);
}

/* Columns of q, k and v together; 0 where the heads are refused. */
static int64_t qkv_columns(ck_program *program, const char *op, int32_t heads, int32_t kv_heads,
                           int32_t head_size) {
    if (heads >= 1 && kv_heads >= 1 && head_size >= 1 && heads % kv_heads == 0)
        return ((int64_t)heads + 2 * (int64_t)kv_heads) * head_size;
    refuse(program, "%s: %d heads of %d columns cannot share %d heads of keys and values", op, heads,
           head_size, kv_heads);
    return 0;
}

#define QKV_COLUMNS(op) qkv_columns(program, #op, d->heads, d->kv_heads, d->head_size)

static void check_pairs(ck_program *program, const char *op, int32_t head_size, const float *table) {
    if (head_size % 2 != 0) refuse(program, "%s: a head of %d columns has no pairs", op, head_size);
    present(program, op, "table", table);
}

RECORD(rope) {
    USE(rope, qkv, WIDE, QKV_COLUMNS(rope));
    check_pairs(program, "rope", d->head_size, d->table);
}

RECORD(rope_backward) {
    USE(rope_backward, dqkv, WIDE, QKV_COLUMNS(rope_backward));
    check_pairs(program, "rope_backward", d->head_size, d->table);
}

RECORD(attention) {
    USE(attention, qkv, WIDE, QKV_COLUMNS(attention));
    USE(attention, o, WIDE, (int64_t)d->heads * d->head_size);
    USE(attention, lse, EXACT, d->heads);
}

RECORD(attention_backward) {
    int64_t columns = QKV_COLUMNS(attention_backward);
    USE(attention_backward, qkv, WIDE, columns);
    USE(attention_backward, o, WIDE, (int64_t)d->heads * d->head_size);
    USE(attention_backward, lse, EXACT, d->heads);
    USE(attention_backward, d_o, WIDE, (int64_t)d->heads * d->head_size);
    USE(attention_backward, dqkv, WIDE, columns);
}

RECORD(attention_cached) {
    program->decodes = true;
    POSITIVE(attention_cached, slots);
    POSITIVE(attention_cached, positions);
    PRESENT(attention_cached, keys);
    PRESENT(attention_cached, values);
    USE(attention_cached, qkv, WIDE, QKV_COLUMNS(attention_cached));
    USE(attention_cached, o, WIDE, (int64_t)d->heads * d->head_size);
}

RECORD(logits) {
    POSITIVE(logits, width);
    POSITIVE(logits, vocabulary);
    PRESENT(logits, weight);
    PRESENT(logits, logits);
    USE(logits, x, WIDE, d->width);
}

RECORD(gelu) {
    POSITIVE(gelu, ffn);
    USE(gelu, u, WIDE, d->ffn);
    USE(gelu, m, WIDE, d->ffn);
}

RECORD(gelu_backward) {
    POSITIVE(gelu_backward, ffn);
    USE(gelu_backward, u, WIDE, d->ffn);
    USE(gelu_backward, dm, WIDE, d->ffn);
    USE(gelu_backward, du, WIDE, d->ffn);
}

RECORD(swiglu) {
    POSITIVE(swiglu, ffn);
    USE(swiglu, u, WIDE, 2 * (int64_t)d->ffn);
    USE(swiglu, m, WIDE, d->ffn);
    if (d->u == d->m) refuse(program, "swiglu: u and m are the same activation");
}

RECORD(swiglu_backward) {
    POSITIVE(swiglu_backward, ffn);
    USE(swiglu_backward, u, WIDE, 2 * (int64_t)d->ffn);
    USE(swiglu_backward, dm, WIDE, d->ffn);
    USE(swiglu_backward, du, WIDE, 2 * (int64_t)d->ffn);
    if (d->du == d->dm || d->du == d->u)
        refuse(program, "swiglu_backward: du must be an activation of its own");
}

RECORD(head) {
    POSITIVE(head, width);
    POSITIVE(head, vocabulary);
    PRESENT(head, weight);
    PRESENT(head, loss);
    USE(head, x, WIDE, d->width);
    switch (d->mode) {
    case CK_HEAD_EVALUATE:
        if (d->dx) refuse(program, "head: dx is given, and an evaluation has none");
        return;
    case CK_HEAD_PRETRAIN:
        if (d->weight_gradient < 0) refuse(program, "head: pre-training needs the weight's gradient");
        gradient_range(program, "head", d->weight_gradient, (int64_t)d->vocabulary * d->width);
        break;
    case CK_HEAD_STEP:
        break;
    }
    USE(head, dx, WIDE, d->width);
}

static void check_columns(ck_program *program, const char *op, int32_t first_column) {
    if (first_column < 0) refuse(program, "%s: outputs cannot begin at column %d", op, first_column);
}

RECORD(lora) {
    check_columns(program, "lora", d->first_column);
    USE(lora, x, WIDE, d->in);
    USE(lora, h, EXACT, 1);
    USE(lora, y, WIDE, (int64_t)d->first_column + d->out);
}

RECORD(lora_backward) {
    check_columns(program, "lora_backward", d->first_column);
    USE(lora_backward, x, WIDE, d->in);
    USE(lora_backward, h, EXACT, 1);
    USE(lora_backward, dy, WIDE, (int64_t)d->first_column + d->out);
    USE_IF(lora_backward, dx, WIDE, d->in);
}

RECORD(site_vector) {
    check_columns(program, "site_vector", d->first_column);
    USE(site_vector, x, WIDE, d->in);
    USE(site_vector, y, WIDE, (int64_t)d->first_column + d->out);
}

RECORD(site_vector_backward) {
    check_columns(program, "site_vector_backward", d->first_column);
    USE(site_vector_backward, x, WIDE, d->in);
    USE(site_vector_backward, dy, WIDE, (int64_t)d->first_column + d->out);
    USE_IF(site_vector_backward, dx, WIDE, d->in);
}

RECORD(tied_gradients) {
    POSITIVE(tied_gradients, n_layers);
}

RECORD(route) {
    USE(route, x, WIDE, 1);
    USE(route, zh, EXACT, 1);
    USE(route, gates, EXACT, CK_MAX_EXPERTS);
    use_factors(program, "route", d->bias_factor);
    if (d->layer < 0 ||
        ((d->gate_sum || d->top1_count || d->top_k_count || d->gate_record) && d->layer >= d->n_layers)) {
        refuse(program, "route: layer %d of %d", d->layer, d->n_layers);
    }
}

RECORD(route_backward) {
    USE(route_backward, x, WIDE, 1);
    USE(route_backward, zh, EXACT, 1);
    USE(route_backward, gates, EXACT, CK_MAX_EXPERTS);
    USE(route_backward, dw, EXACT, CK_MAX_EXPERTS);
    USE(route_backward, p, EXACT, 1);
    USE_IF(route_backward, dx, WIDE, 1);
}

/* Columns of U. */
static int64_t up_columns(ck_mlp mlp, int32_t ffn) {
    return mlp == CK_MLP_SWIGLU ? 2 * (int64_t)ffn : ffn;
}

RECORD(expert_activation) {
    POSITIVE(expert_activation, ffn);
    USE(expert_activation, u, WIDE, up_columns(d->mlp, d->ffn));
    USE(expert_activation, zh, EXACT, 1);
    USE(expert_activation, gates, EXACT, CK_MAX_EXPERTS);
    USE(expert_activation, m, WIDE, d->ffn);
    USE(expert_activation, g, EXACT, 1);
    if (d->u == d->m) refuse(program, "expert_activation: u and m are the same activation");
}

RECORD(expert_activation_backward) {
    POSITIVE(expert_activation_backward, ffn);
    USE(expert_activation_backward, u, WIDE, up_columns(d->mlp, d->ffn));
    USE(expert_activation_backward, zh, EXACT, 1);
    USE(expert_activation_backward, gates, EXACT, CK_MAX_EXPERTS);
    USE(expert_activation_backward, dm, WIDE, d->ffn);
    USE(expert_activation_backward, q, EXACT, 1);
    USE(expert_activation_backward, du, WIDE, up_columns(d->mlp, d->ffn));
    USE(expert_activation_backward, p, EXACT, 1);
    USE(expert_activation_backward, dw, EXACT, CK_MAX_EXPERTS);
    if (d->du == d->dm || d->du == d->u)
        refuse(program, "expert_activation_backward: du must be an activation of its own");
}

RECORD(expert_expand) {
    USE(expert_expand, g, EXACT, 1);
    USE(expert_expand, gates, EXACT, CK_MAX_EXPERTS);
    USE(expert_expand, y, WIDE, 1);
}

RECORD(expert_expand_backward) {
    USE(expert_expand_backward, dy, WIDE, 1);
    USE(expert_expand_backward, g, EXACT, 1);
    USE(expert_expand_backward, gates, EXACT, CK_MAX_EXPERTS);
    USE(expert_expand_backward, q, EXACT, 1);
    USE(expert_expand_backward, dw, EXACT, CK_MAX_EXPERTS);
    linear_number(program, "expert_expand_backward", d->linear);
}

RECORD(balance) {
    POSITIVE(balance, n_layers);
    PRESENT(balance, top_k_count);
    PRESENT(balance, coefficient);
}

/* ---- Access from the host ---- */

static ck_status readable(const ck_tensor *tensor, int64_t n_tokens) {
    ck_program *program = tensor->program;
    if (!program->finished || !tensor->keep) {
        return ck_fail(program->backend, CK_BAD_ARGUMENT,
                       "activation %s is not kept: call ck_keep() before ck_program_finish()", tensor->name);
    }
    if (n_tokens > program->capacity.max_tokens)
        return ck_fail(program->backend, CK_BAD_ARGUMENT, "%lld tokens exceed the program's capacity",
                       (long long)n_tokens);
    return CK_OK;
}

ck_status ck_tensor_download(ck_stream *stream, const ck_tensor *tensor, int64_t n_tokens, float *host) {
    ck_status status = readable(tensor, n_tokens);
    if (status || stream->status) return status ? status : stream->status;
    return stream->status = tensor->program->backend->driver->tensor_download(stream, tensor, n_tokens, host);
}

ck_status ck_tensor_upload(ck_stream *stream, ck_tensor *tensor, int64_t n_tokens, const float *host) {
    ck_status status = readable(tensor, n_tokens);
    if (status || stream->status) return status ? status : stream->status;
    return stream->status = tensor->program->backend->driver->tensor_upload(stream, tensor, n_tokens, host);
}

/* ---- Running ---- */

ck_status ck_run(ck_program *program, ck_stream *stream, const ck_wave *wave) {
    if (wave->n_sequences == 0 || stream->status) return stream->status;
    stream->status = ck_wave_check(program, wave);
    if (!stream->status) stream->status = program->backend->driver->run(program, stream, wave);
    return stream->status;
}

/* plan.cu - a recorded program on the GPU: the order of its ops, and where everything lies.
 *
 * Order. A base product that another op adds to afterwards is issued after that op instead: the other op
 * begins y (residual and bias, then its own low-rank part), and the product accumulates onto it with beta =
 * 1, which hides the read of y under the product. The same for the gradient of x. Sums change their order by
 * this, nothing else. */
#include "driver.hpp"

#include <stdlib.h>
#include <string.h>

/* ---- Order ---- */

/* The tensor that the op adds to, where it adds to all that a base product of `out` columns writes; else
 * NULL. */
static const ck_tensor *adds_to(const ck_op *op, int32_t out) {
    switch (op->kind) {
    case CK_OP_expert_expand:
        return op->as.expert_expand.y;
    case CK_OP_lora:
        return op->as.lora.out == out ? op->as.lora.y : nullptr;
    case CK_OP_lora_backward:
        return op->as.lora_backward.dx;
    case CK_OP_route_backward:
        return op->as.route_backward.accumulate ? op->as.route_backward.dx : nullptr;
#define X(name) case CK_OP_##name:
        CK_BASE_OPS(X)
        CK_TIED_OPS(X)
        CK_GLOBAL_OPS(X)
#undef X
    case CK_OP_site_vector:
    case CK_OP_site_vector_backward:
    case CK_OP_route:
    case CK_OP_expert_activation:
    case CK_OP_expert_activation_backward:
    case CK_OP_expert_expand_backward:
    case CK_OP_COUNT:
        break;
    }
    return nullptr;
}

/* What the base product writes, if it could as well accumulate; else NULL. */
static const ck_tensor *could_accumulate(const ck_op *op, cuda_start *start) {
    *start = cuda_start{nullptr, nullptr, nullptr, -1};
    if (op->kind == CK_OP_linear) {
        const ck_linear *d = &op->as.linear;
        *start = cuda_start{d->residual, d->bias_factor, d->bias, d->linear};
        return d->y;
    }
    if (op->kind != CK_OP_linear_backward) return nullptr;
    const ck_linear_backward *d = &op->as.linear_backward;
    return d->accumulate || d->weight_gradient >= 0 || d->bias_gradient >= 0 ? nullptr : d->dx;
}

/* Columns that a base product writes. */
static int32_t columns_of(const ck_op *op) {
    return op->kind == CK_OP_linear ? op->as.linear.out : op->as.linear_backward.in;
}

static void order_ops(const ck_program *program, cuda_program *p) {
    for (int i = 0; i < program->n_ops; i++) {
        const ck_op *op = &program->ops[i], *next = i + 1 < program->n_ops ? op + 1 : nullptr;
        cuda_start start;
        const ck_tensor *out = could_accumulate(op, &start);
        cuda_step step = {*op, false, cuda_start{nullptr, nullptr, nullptr, -1}};
        if (out && next && adds_to(next, columns_of(op)) == out) {
            p->steps[p->n_steps++] = cuda_step{*next, true, start};
            step.starts = true; /* a linear that is begun already: cuda_linear_onto() */
            if (op->kind == CK_OP_linear_backward) step.op.as.linear_backward.accumulate = true;
            i++;
        }
        p->steps[p->n_steps++] = step;
    }
}

/* ---- Placement: one layout function, run once to count and once to place ---- */

enum : size_t { ALIGNMENT = 256 };

static void *carve(char *memory, size_t *end, size_t bytes) {
    char *start = memory ? memory + *end : nullptr;
    *end += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return start;
}

static cuda_bounds bounds_of(const ck_program *program) {
    const ck_capacity *c = &program->capacity;
    cuda_bounds bounds = {};
    bounds.max_tokens = c->max_tokens;
    bounds.max_sequences = bounds.max_devices = c->max_sequences;
    bounds.max_tiles = c->max_tokens / CUDA_TILE + c->max_sequences;
    bounds.max_sequence_tokens = c->max_sequence_tokens;
    bounds.half = c->precision == CK_BF16;
    return bounds;
}

static size_t workspace_bytes(const ck_op *op, const cuda_bounds *bounds) {
    switch (op->kind) {
#define X(name)                                                                                              \
    case CK_OP_##name:                                                                                       \
        return cuda_##name##_workspace(&op->as.name, bounds);
        CK_OPS(X)
#undef X
    case CK_OP_COUNT:
        break;
    }
    return 0;
}

static size_t table_at(size_t *end, size_t bytes) {
    size_t at = *end;
    *end += (bytes + 63) / 64 * 64;
    return at;
}

static cuda_tables table_layout(const cuda_bounds *bounds, int32_t max_shapes) {
    cuda_tables t = {};
    size_t sequences = (size_t)bounds->max_sequences, tokens = (size_t)bounds->max_tokens;
    t.devices = table_at(&t.end, sequences * sizeof(cuda_device));
    t.tiles = table_at(&t.end, (size_t)bounds->max_tiles * sizeof(cuda_tile));
    t.sequences = table_at(&t.end, sequences * sizeof(cuda_sequence));
    t.sequence_of = table_at(&t.end, tokens * sizeof(int32_t));
    t.tokens = table_at(&t.end, tokens * sizeof(int32_t));
    t.targets = table_at(&t.end, tokens * sizeof(int32_t));
    t.faults = table_at(&t.end, sequences * sizeof(int32_t));
    t.shapes = table_at(&t.end, (size_t)max_shapes * sizeof(ck_shape));
    return t;
}

/* A wave names shapes by index, so there can be more of them than devices in it. */
enum { SHAPES = 256 };

static size_t layout(const ck_program *program, const cuda_bounds *bounds, cuda_program *p, char *memory) {
    size_t end = 0, workspace = 0;
    for (ck_tensor *tensor = program->tensors; tensor; tensor = tensor->next) {
        if (tensor->first_segment < 0 && !tensor->keep) continue;
        size_t element = tensor->wide && bounds->half ? sizeof(bf16) : sizeof(float);
        void *data = carve(memory, &end, (size_t)bounds->max_tokens * (size_t)tensor->columns * element);
        if (memory) tensor->data = data;
    }
    for (int i = 0; i < program->n_ops; i++) {
        size_t bytes = workspace_bytes(&program->ops[i], bounds);
        if (bytes > workspace) workspace = bytes;
    }
    void *workspace_at = carve(memory, &end, workspace);
    cuda_tables tables = table_layout(bounds, SHAPES);
    void *tables_at = carve(memory, &end, tables.end);
    if (memory) {
        p->workspace = workspace_at;
        p->tables = static_cast<char *>(tables_at);
        p->layout = tables;
        p->max_shapes = SHAPES;
    }
    return end;
}

size_t cuda_program_bytes(const ck_program *program) {
    cuda_bounds bounds = bounds_of(program);
    return layout(program, &bounds, nullptr, nullptr);
}

/* ---- Copies of frozen weights ---- */

const void *cuda_weight(const cuda_call *call, const float *weight) {
    for (const cuda_copies *c = call->copies; c; c = c->next)
        if (weight >= c->from && weight < c->from + c->count) return c->to + (weight - c->from);
    return weight;
}

static const char *copy_weight(ck_backend *backend, cuda_program *p, const float *weight) {
    const cuda_block *block = cuda_block_of(backend, weight);
    if (!weight) return nullptr;
    if (!block) return "a weight lies outside the memory of this backend";
    const float *from = reinterpret_cast<const float *>(block->memory);
    for (cuda_copies *c = p->copies; c; c = c->next)
        if (c->from == from) return nullptr;
    cuda_copies *copy = static_cast<cuda_copies *>(calloc(1, sizeof *copy));
    if (!copy) return "no memory";
    void *to = nullptr;
    *copy = cuda_copies{from, (int64_t)(block->bytes / sizeof(float)), nullptr, block, 0, p->copies};
    p->copies = copy;
    const char *problem = gpu_alloc((size_t)copy->count * sizeof(bf16), "bf16 weights", &to);
    copy->to = static_cast<bf16 *>(to);
    if (!problem) backend->allocated_bytes += (size_t)copy->count * sizeof(bf16);
    return problem;
}

static const char *copy_weights(const ck_program *program, cuda_program *p) {
    const char *problem = nullptr;
    for (int i = 0; i < program->n_ops && !problem && p->bounds.half; i++) {
        const ck_op *op = &program->ops[i];
        const float *weight = nullptr, *bias = nullptr;
        if (op->kind == CK_OP_linear) weight = op->as.linear.weight, bias = op->as.linear.bias;
        if (op->kind == CK_OP_linear_backward) weight = op->as.linear_backward.weight;
        if (op->kind == CK_OP_head) weight = op->as.head.weight;
        if (op->kind == CK_OP_logits) weight = op->as.logits.weight;
        problem = copy_weight(program->backend, p, weight);
        if (!problem) problem = copy_weight(program->backend, p, bias);
    }
    return problem;
}

const char *cuda_copy_variants(ck_backend *backend, cuda_program *p) {
    const char *problem = nullptr;
    for (int32_t i = 0; i < p->variants.n_runs && p->bounds.half; i++) {
        const cuda_variants *v = &p->variants;
        const ck_replacement *row = v->table + (int64_t)(v->runs[i].variant - 1) * v->n_linears;
        for (int32_t l = 0; l < v->n_linears && v->runs[i].variant > 0 && !problem; l++) {
            problem = copy_weight(backend, p, row[l].weight);
            if (!problem) problem = copy_weight(backend, p, row[l].bias);
        }
    }
    return problem;
}

/* ---- Life ---- */

/* NULL, or what no kernel here is made for. */
static const char *unsupported(const ck_program *program) {
    enum { HEAD_COLUMNS = 128 };
    for (int i = 0; i < program->n_ops; i++) {
        const ck_op *op = &program->ops[i];
        bool wide = op->kind == CK_OP_attention && op->as.attention.head_size > HEAD_COLUMNS;
        wide |= op->kind == CK_OP_attention_backward && op->as.attention_backward.head_size > HEAD_COLUMNS;
        wide |= op->kind == CK_OP_attention_cached && op->as.attention_cached.head_size > HEAD_COLUMNS;
        if (wide) return "attention on a GPU needs heads of at most 128 columns";
    }
    return nullptr;
}

ck_status cuda_program_place(ck_program *program) {
    if (const char *why = unsupported(program)) return ck_fail(program->backend, CK_BAD_ARGUMENT, "%s", why);
    cuda_program *p = static_cast<cuda_program *>(calloc(1, sizeof *p));
    ck_backend *backend = program->backend;
    const char *problem = nullptr;
    program->private_data = p;
    program->bytes = cuda_program_bytes(program);
    if (!p || !(p->steps = static_cast<cuda_step *>(calloc((size_t)program->n_ops + 1, sizeof *p->steps))))
        problem = "no memory for the list of ops";
    if (!problem) {
        p->bounds = bounds_of(program);
        order_ops(program, p);
        if (ck_alloc(backend, program->bytes, "activations", &p->memory)) problem = "it does not fit the GPU";
    }
    if (!problem) {
        layout(program, &p->bounds, p, static_cast<char *>(p->memory));
        problem = copy_weights(program, p);
    }
    if (!problem) return CK_OK;
    cuda_program_release(program);
    return ck_fail(backend, CK_NO_MEMORY, "cannot place %.1f MiB of activations and workspaces: %s",
                   (double)program->bytes / 1048576.0, problem);
}

void cuda_program_release(ck_program *program) {
    cuda_program *p = static_cast<cuda_program *>(program->private_data);
    program->private_data = nullptr;
    if (!p) return;
    for (auto &entry : p->graphs) {
        gpu_graph_destroy(entry.graph);
        free(entry.variants_image);
    }
    free(p->variants_image);
    for (cuda_copies *c = p->copies, *next; c; c = next) {
        next = c->next;
        if (c->to) {
            gpu_free(c->to);
            program->backend->allocated_bytes -= (size_t)c->count * sizeof(bf16);
        }
        free(c);
    }
    ck_free(program->backend, p->memory);
    free(p->steps);
    free(p);
}

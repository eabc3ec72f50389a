/* run.c - executes a program sequence by sequence, and sums gradients in sequence order; a decoding program
 * (decoding.h) op by op.
 *
 * Order of work: the first sequence of every device, then every second one, ... so that neighbours in time
 * belong to different devices and a worker seldom waits for its turn to add. A sequence's predecessor in its
 * device was always handed out earlier, hence the wait ends. */
#include "cpu.h"

#include <limits.h>
#include <linux/futex.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct {
    /* all activations and scratch, one allocation */
    float *memory;
    int64_t scratch_floats; /* a worker's */
    float *scratch;         /* [threads, scratch_floats] */
    /* [threads, max_pack], [threads, base_pack] */
    float *spare, *base_spare;
    int32_t *order, *rank_in_device, *device_of, *fault_layer, *counted; /* [max_sequences] */
    atomic_int *turn; /* [max_sequences]: per device, sequences whose gradients are in; [0] for the base */
} cpu_private;

static const cpu_local_op local_ops[CK_OP_COUNT] = {
#define X(op) [CK_OP_##op] = cpu_##op,
    CK_LOCAL_OPS(X)
#undef X
};

/* ---- Placement: one layout function, run once to count and once to place ---- */

static int64_t scratch_floats(const ck_program *program) {
    int tokens = program->capacity.max_sequence_tokens;
    int64_t most = cpu_rank_space_scratch(tokens), floats = cpu_attention_scratch(tokens);
    if (floats > most) most = floats;
    if (program->decodes && program->capacity.max_tokens > most) most = program->capacity.max_tokens;
    for (int i = 0; i < program->n_ops; i++) {
        const ck_op *op = &program->ops[i];
        floats = 0;
        if (op->kind == CK_OP_head) floats = cpu_head_scratch(&op->as.head);
        if (op->kind == CK_OP_logits) floats = program->capacity.max_sequences * (int64_t)op->as.logits.width;
        if (op->kind == CK_OP_attention_cached)
            floats = cpu_attention_cached_scratch(&op->as.attention_cached);
        const ck_expert_activation *up = &op->as.expert_activation;
        const ck_expert_activation_backward *down = &op->as.expert_activation_backward;
        if (op->kind == CK_OP_expert_activation) floats = cpu_expert_activation_scratch(up->ffn, up->mlp);
        if (op->kind == CK_OP_expert_activation_backward)
            floats = cpu_expert_activation_scratch(down->ffn, down->mlp);
        if (floats > most) most = floats;
    }
    return ck_align(most);
}

static float *carve(float *memory, int64_t *end, int64_t floats) {
    float *start = memory ? memory + *end : NULL;
    *end += ck_align(floats);
    return start;
}

static int64_t layout(const ck_program *program, cpu_private *p, float *memory) {
    const ck_capacity *capacity = &program->capacity;
    int threads = program->backend->threads;
    int64_t end = 0;
    for (ck_tensor *tensor = program->tensors; tensor; tensor = tensor->next) {
        if (tensor->first_segment < 0 && !tensor->keep) continue;
        int64_t slot = ck_align((int64_t)capacity->max_sequence_tokens * tensor->columns);
        float *data = carve(memory, &end,
                            tensor->keep ? (int64_t)capacity->max_tokens * tensor->columns : slot * threads);
        if (!memory) continue;
        tensor->slot_stride = slot;
        tensor->data = data;
    }
    int64_t scratch = scratch_floats(program);
    float *scratch_memory = carve(memory, &end, scratch * threads);
    float *spare = carve(memory, &end, ck_align(capacity->max_pack) * threads);
    float *base_spare = carve(memory, &end, ck_align(capacity->base_pack) * threads);
    if (memory) {
        p->scratch_floats = scratch;
        p->scratch = scratch_memory;
        p->spare = spare;
        p->base_spare = base_spare;
    }
    return end;
}

size_t cpu_program_bytes(const ck_program *program) {
    return (size_t)layout(program, NULL, NULL) * sizeof(float) +
           (size_t)program->capacity.max_sequences * 6 * sizeof(int32_t);
}

ck_status cpu_program_place(ck_program *program) {
    ck_backend *backend = program->backend;
    size_t sequences = (size_t)program->capacity.max_sequences;
    cpu_private *p = calloc(1, sizeof *p);
    program->private_data = p;
    if (!p) goto no_memory;
    program->bytes = cpu_program_bytes(program);
    p->order = malloc(sequences * sizeof *p->order);
    p->rank_in_device = malloc(sequences * sizeof *p->rank_in_device);
    p->device_of = malloc(sequences * sizeof *p->device_of);
    p->fault_layer = malloc(sequences * sizeof *p->fault_layer);
    p->counted = malloc(sequences * sizeof *p->counted);
    p->turn = malloc(sequences * sizeof *p->turn);
    if (!p->order || !p->rank_in_device || !p->device_of || !p->fault_layer || !p->counted || !p->turn)
        goto no_memory;
    void *memory;
    if (ck_alloc(backend, (size_t)layout(program, NULL, NULL) * sizeof(float), "activations", &memory))
        goto no_memory;
    p->memory = memory;
    layout(program, p, p->memory);
    return CK_OK;

no_memory:
    cpu_program_release(program);
    return ck_fail(backend, CK_NO_MEMORY, "cannot allocate %.1f MiB for activations",
                   (double)program->bytes / 1048576.0);
}

void cpu_program_release(ck_program *program) {
    cpu_private *p = program->private_data;
    if (!p) return;
    ck_free(program->backend, p->memory);
    free(p->order);
    free(p->rank_in_device);
    free(p->device_of);
    free(p->fault_layer);
    free(p->counted);
    free(p->turn);
    free(p);
    program->private_data = NULL;
}

/* ---- Gradients in sequence order ---- */

static void add(float *restrict to, const float *restrict from, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] += from[i];
}

static void add_learned(float *to, const float *from, const ck_shape *shape, uint32_t learn) {
    ck_span spans[CK_BLOCKS];
    int n = ck_learn_spans(shape, learn, spans);
    for (int i = 0; i < n; i++)
        for (int layer = 0; layer < spans[i].layers && spans[i].learned; layer++) {
            int64_t at = layer * shape->layer_stride + spans[i].offset;
            add(to + at, from + at, spans[i].count);
        }
}

/* Short waits spin; in a long one the core is of more use to others, perhaps to the very thread that is
 * awaited. */
static void await(atomic_int *turn, int rank) {
    enum { SPINS = 1000 };
    int now = atomic_load_explicit(turn, memory_order_acquire);
    for (int spin = 0; spin < SPINS && now != rank; spin++)
        now = atomic_load_explicit(turn, memory_order_acquire);
    while (now != rank) {
        syscall(SYS_futex, turn, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
        now = atomic_load_explicit(turn, memory_order_acquire);
    }
}

static void pass_on(atomic_int *turn, int rank) {
    atomic_store_explicit(turn, rank, memory_order_release);
    syscall(SYS_futex, turn, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void commit(const ck_wave *wave, cpu_private *p, const cpu_block *block, int64_t base_pack) {
    bool device = block->gradients != NULL;
    if (!device && !block->base_gradients) return;
    atomic_int *turn = &p->turn[device ? block->device : 0];
    int rank = device ? p->rank_in_device[block->sequence] : block->sequence;
    await(turn, rank);
    if (rank > 0 && device)
        add_learned(wave->gradients + wave->devices[block->device].gradients, block->gradients, block->shape,
                    block->learn);
    if (rank > 0 && block->base_gradients) add(wave->base_gradients, block->base_gradients, base_pack);
    pass_on(turn, rank + 1);
}

/* ---- Execution ---- */

static int32_t count_targets(const ck_wave *wave, int64_t first, int64_t last) {
    int32_t counted = 0;
    for (int64_t t = first; t < last; t++) counted += wave->targets[t] >= 0;
    return counted;
}

static void order_by_rank(const ck_wave *wave, cpu_private *p) {
    int n = 0;
    for (int rank = 0; n < wave->n_sequences; rank++) {
        for (int d = 0; d < wave->n_devices; d++) {
            int s = wave->first_sequence[d] + rank;
            if (s < wave->first_sequence[d + 1]) p->order[n++] = s;
        }
    }
}

static void prepare(const ck_wave *wave, cpu_private *p) {
    for (int s = 0; s < wave->n_sequences; s++) p->fault_layer[s] = -1;
    if (wave->n_devices == 0) {
        int32_t counted = count_targets(wave, 0, wave->first_token[wave->n_sequences]);
        for (int s = 0; s < wave->n_sequences; s++) {
            p->order[s] = s;
            p->device_of[s] = -1;
            p->counted[s] = counted;
        }
        return;
    }
    for (int d = 0; d < wave->n_devices; d++) {
        int first = wave->first_sequence[d], last = wave->first_sequence[d + 1];
        int32_t counted = count_targets(wave, wave->first_token[first], wave->first_token[last]);
        for (int s = first; s < last; s++) {
            p->rank_in_device[s] = s - first;
            p->device_of[s] = d;
            p->counted[s] = counted;
        }
    }
    order_by_rank(wave, p);
}

static cpu_block make_block(const ck_program *program, const ck_wave *wave, cpu_private *p, int sequence,
                            int worker) {
    cpu_block block = {
        .wave = wave, .sequence = sequence, .worker = worker, .device = p->device_of[sequence]};
    block.first_token = wave->first_token[sequence];
    block.n_tokens = (int32_t)(wave->first_token[sequence + 1] - block.first_token);
    block.counted = p->counted[sequence];
    block.scratch = p->scratch + worker * p->scratch_floats;
    block.fault_layer = &p->fault_layer[sequence];
    if (wave->base_gradients && program->capacity.base_pack) {
        block.base_gradients = sequence == 0 ? wave->base_gradients
                                             : p->base_spare + worker * ck_align(program->capacity.base_pack);
    }
    if (block.device < 0) return block;
    const ck_wave_device *device = &wave->devices[block.device];
    block.shape = &wave->shapes[device->shape];
    block.pack = wave->parameters + device->parameters;
    block.learn = device->learn;
    block.variant = cpu_variant(wave, device->variant);
    if (!device->learn) return block;
    bool first = p->rank_in_device[sequence] == 0;
    block.gradients = first ? wave->gradients + device->gradients
                            : p->spare + worker * ck_align(program->capacity.max_pack);
    return block;
}

static void run_segment(ck_program *program, const ck_wave *wave, const ck_op *ops, int n_ops, bool last) {
    cpu_private *p = program->private_data;
    for (int d = 0; d < program->capacity.max_sequences; d++) atomic_init(&p->turn[d], 0);
#pragma omp parallel for schedule(dynamic, 1) num_threads(program->backend->threads)
    for (int i = 0; i < wave->n_sequences; i++) {
        cpu_block block = make_block(program, wave, p, p->order[i], omp_get_thread_num());
        for (int o = 0; o < n_ops; o++) local_ops[ops[o].kind](&ops[o].as, &block);
        if (last) commit(wave, p, &block, program->capacity.base_pack);
    }
}

/* ---- Decoding: every op over the whole wave, by all threads ---- */

typedef struct {
    ck_program *program;
    const ck_wave *wave;
    int worker, workers;
} member;

/* The member's share of n things, in units of `unit`. */
static cpu_range share_of(const member *m, int n, int unit) {
    int64_t units = (n + unit - 1) / unit, first = units * m->worker / m->workers * unit,
            end = units * (m->worker + 1) / m->workers * unit;
    return (cpu_range){(int)(first < n ? first : n), (int)(end < n ? end : n)};
}

/* Ops that are cut finer than into sequences. */
static bool is_cut_finely(ck_op_kind kind) {
    return kind == CK_OP_linear || kind == CK_OP_logits || kind == CK_OP_attention_cached;
}

static void attend_share(const member *m, const ck_attention_cached *d) {
    cpu_range pairs = share_of(m, m->wave->n_sequences * d->kv_heads, 1);
    for (int i = pairs.first; i < pairs.end; i++) {
        cpu_block block =
            make_block(m->program, m->wave, m->program->private_data, i / d->kv_heads, m->worker);
        cpu_attend_cached(d, &block, i % d->kv_heads);
    }
}

static void run_share(const member *m, const ck_op *op) {
    enum { COLUMNS = 16 }; /* a line of y has one writer */
    cpu_private *p = m->program->private_data;
    float *scratch = p->scratch + m->worker * p->scratch_floats;
    if (op->kind == CK_OP_linear) {
        cpu_range columns = share_of(m, op->as.linear.out, COLUMNS);
        cpu_linear_columns(&op->as.linear, m->wave, columns);
    } else if (op->kind == CK_OP_logits) {
        cpu_range columns = share_of(m, op->as.logits.vocabulary, COLUMNS);
        cpu_logits_columns(&op->as.logits, m->wave, columns, scratch);
    } else if (op->kind == CK_OP_attention_cached) {
        attend_share(m, &op->as.attention_cached);
    } else {
        /* always the same sequences: between two such ops nobody waits */
        for (int s = m->worker; s < m->wave->n_sequences; s += m->workers) {
            cpu_block block = make_block(m->program, m->wave, p, s, m->worker);
            local_ops[op->kind](&op->as, &block);
        }
    }
}

/* As many threads as have enough to do in the mean product: with less they take longer to wait for each other
 * than to multiply. A weight that comes from memory takes as long as READING multiplications. */
static int decoding_threads(const ck_program *program, const ck_wave *wave) {
    enum { LEAST_MULTIPLICATIONS = 1 << 18, READING = 4 };
    int64_t sum = 0, products = 0;
    for (int o = 0; o < program->n_ops; o++) {
        if (program->ops[o].kind != CK_OP_linear) continue;
        sum += (int64_t)program->ops[o].as.linear.in * program->ops[o].as.linear.out;
        products++;
    }
    int most = program->backend->threads;
    if (products == 0) return most;
    int64_t rows = wave->first_token[wave->n_sequences] + READING,
            busy = sum / products * rows / LEAST_MULTIPLICATIONS;
    return busy < 1 ? 1 : busy < most ? (int)busy : most;
}

static void run_op_by_op(ck_program *program, const ck_wave *wave) {
#pragma omp parallel num_threads(decoding_threads(program, wave))
    {
        member m = {program, wave, omp_get_thread_num(), omp_get_num_threads()};
        for (int o = 0; o < program->n_ops; o++) {
            const ck_op *op = &program->ops[o];
            if (o > 0 && (is_cut_finely(op->kind) || is_cut_finely(op[-1].kind))) {
#pragma omp barrier
            }
            run_share(&m, op);
        }
    }
}

static void report_faults(const ck_wave *wave, const cpu_private *p) {
    if (!wave->fault) return;
    for (int d = 0; d < wave->n_devices; d++) wave->fault[d] = -1;
    for (int s = 0; s < wave->n_sequences && wave->n_devices; s++) {
        int32_t *fault = &wave->fault[p->device_of[s]], layer = p->fault_layer[s];
        if (layer >= 0 && (*fault < 0 || layer < *fault)) *fault = layer;
    }
}

ck_status cpu_run(ck_program *program, ck_stream *stream, const ck_wave *wave) {
    (void)stream;
    cpu_private *p = program->private_data;
    prepare(wave, p);
    if (program->decodes) run_op_by_op(program, wave);
    for (int first = 0; first < program->n_ops && !program->decodes;) {
        int end = first;
        while (end < program->n_ops && !ck_is_global(program->ops[end].kind)) end++;
        if (end > first) run_segment(program, wave, program->ops + first, end - first, end == program->n_ops);
        if (end < program->n_ops) cpu_balance(&program->ops[end].as.balance, wave);
        first = end + 1;
    }
    report_faults(wave, p);
    return CK_OK;
}

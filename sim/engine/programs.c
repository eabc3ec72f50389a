#include "engine/programs.h"

#include "support/kernel_problem.h"

/* Takes backend memory until one allocation fails; the first failure is kept. */
typedef struct {
    ck_backend *backend;
    ck_status status;
} allocator;

static void *allocate_for(allocator *a, size_t bytes, const char *what) {
    void *memory = NULL;
    if (a->status == CK_OK && bytes > 0) a->status = ck_alloc(a->backend, bytes, what, &memory);
    return memory;
}

exit_code programs_place_base(run_programs *p, ck_backend *backend, ck_stream *stream, const base_model *base,
                              problems *list) {
    size_t bytes = (size_t)base->layout.total * sizeof(float);
    allocator a = {.backend = backend};
    *p = (run_programs){.backend = backend};
    p->base_weights = allocate_for(&a, bytes, "base weights");
    THEN(a.status, ck_upload(stream, p->base_weights, base->weights, bytes));
    THEN(a.status, ck_wait(stream));
    p->base = (model_base){.shape = base->shape, .layout = base->layout, .weights = p->base_weights};
    return kernel_problem(list, backend, a.status, "placing the base");
}

static bool any_balanced(const fleet *f) {
    for (int i = 0; i < f->n_shapes; i++)
        if (f->shapes[i].balanced) return true;
    return false;
}

static bool any_balanced_gates(const fleet *f) {
    for (int i = 0; i < f->n_shapes; i++)
        if (f->shapes[i].balanced && f->shapes[i].router == CK_ROUTER_LLAMA_MOE) return true;
    return false;
}

static exit_code allocate_outputs(run_programs *p, const fleet *f, const run_plan *plan, problems *list) {
    allocator a = {.backend = p->backend};
    size_t sequences = (size_t)plan->limits.max_sequences,
           row = (size_t)p->base.shape.layers * CK_MAX_EXPERTS * sizeof(float);
    p->step_outputs.loss = p->evaluation_outputs.loss = allocate_for(&a, sequences * sizeof(float), "losses");
    p->record_outputs.loss = p->step_outputs.loss;
    p->evaluation_outputs.gate_sum = allocate_for(&a, sequences * row, "gate sums");
    p->evaluation_outputs.top1_count = allocate_for(&a, sequences * row, "first choices");
    if (any_balanced(f)) {
        p->step_outputs.top_k_count = allocate_for(&a, sequences * row, "choices");
        p->step_outputs.balance_coefficient = allocate_for(&a, sequences * row, "load-balance coefficients");
    }
    if (any_balanced_gates(f)) {
        p->step_outputs.gate_sum = allocate_for(&a, sequences * row, "gate sums of steps");
        p->step_outputs.load_sum = allocate_for(&a, sequences * row, "sums of the load");
        p->step_outputs.load_coefficient = allocate_for(&a, sequences * row, "coefficients of the load");
    }
    if (plan->n_routing_windows > 0)
        p->record_outputs.gate_record =
            allocate_for(&a, (size_t)plan->record.max_tokens * row, "gates of recorded windows");
    p->gradients = allocate_for(&a, (size_t)plan->limits.max_packs * sizeof(float), "gradients of a wave");
    return kernel_problem(list, p->backend, a.status, "allocating a wave");
}

exit_code programs_record(run_programs *p, const fleet *f, const run_plan *plan, problems *list) {
    exit_code code = allocate_outputs(p, f, plan, list);
    THEN(code, model_record_step(p->backend, &p->base, f->shapes, f->n_shapes, &plan->step, &p->step_outputs,
                                 &p->step, list));
    THEN(code, model_record_evaluation(p->backend, &p->base, f->shapes, f->n_shapes, &plan->evaluation,
                                       &p->evaluation_outputs, &p->evaluation, list));
    if (plan->n_routing_windows > 0)
        THEN(code, model_record_evaluation(p->backend, &p->base, f->shapes, f->n_shapes, &plan->record,
                                           &p->record_outputs, &p->record, list));
    return code;
}

void programs_destroy(run_programs *p) {
    ck_program_destroy(p->step);
    ck_program_destroy(p->evaluation);
    ck_program_destroy(p->record);
    ck_free(p->backend, p->step_outputs.loss);
    ck_free(p->backend, p->step_outputs.top_k_count);
    ck_free(p->backend, p->step_outputs.balance_coefficient);
    ck_free(p->backend, p->step_outputs.gate_sum);
    ck_free(p->backend, p->step_outputs.load_sum);
    ck_free(p->backend, p->step_outputs.load_coefficient);
    ck_free(p->backend, p->evaluation_outputs.gate_sum);
    ck_free(p->backend, p->evaluation_outputs.top1_count);
    ck_free(p->backend, p->record_outputs.gate_record);
    ck_free(p->backend, p->gradients);
    ck_free(p->backend, p->base_weights);
    *p = (run_programs){0};
}

#include "engine/session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/assign.h"
#include "engine/pack_walk.h"
#include "support/kernel_problem.h"
#include "support/memory.h"
#include "support/processes.h"

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

static exit_code upload_base(session *s, base_model *base, problems *list) {
    size_t bytes = (size_t)base->layout.total * sizeof(float);
    allocator a = {.backend = s->backend};
    s->base_weights = allocate_for(&a, bytes, "base weights");
    if (a.status == CK_OK) a.status = ck_upload(s->stream, s->base_weights, base->weights, bytes);
    if (a.status == CK_OK) a.status = ck_wait(s->stream);
    s->base = (model_base){.shape = base->shape, .layout = base->layout, .weights = s->base_weights};
    return kernel_problem(list, s->backend, a.status, "placing the base");
}

static bool any_balanced(const fleet *f) {
    for (int i = 0; i < f->n_shapes; i++)
        if (f->shapes[i].balanced) return true;
    return false;
}

static exit_code allocate_outputs(session *s, problems *list) {
    allocator a = {.backend = s->backend};
    size_t sequences = (size_t)s->plan.limits.max_sequences,
           row = (size_t)s->base.shape.layers * CK_MAX_EXPERTS * sizeof(float);
    s->step_outputs.loss = s->evaluation_outputs.loss = allocate_for(&a, sequences * sizeof(float), "losses");
    s->record_outputs.loss = s->step_outputs.loss;
    s->evaluation_outputs.gate_sum = allocate_for(&a, sequences * row, "gate sums");
    s->evaluation_outputs.top1_count = allocate_for(&a, sequences * row, "first choices");
    if (any_balanced(s->fleet)) {
        s->step_outputs.top_k_count = allocate_for(&a, sequences * row, "choices");
        s->step_outputs.p_sum = allocate_for(&a, sequences * row, "router probabilities");
        s->step_outputs.balance_coefficient = allocate_for(&a, sequences * row, "load-balance coefficients");
        s->step_outputs.balance_value = allocate_for(&a, sequences * sizeof(float), "load balance");
    }
    if (s->n_routing_windows > 0)
        s->record_outputs.gate_record =
            allocate_for(&a, (size_t)s->plan.record.max_tokens * row, "gates of recorded windows");
    s->gradients = allocate_for(&a, (size_t)s->plan.limits.max_packs * sizeof(float), "gradients of a wave");
    return kernel_problem(list, s->backend, a.status, "allocating a wave");
}

static exit_code record_programs(session *s, problems *list) {
    const fleet *f = s->fleet;
    exit_code code = model_record_step(s->backend, &s->base, f->shapes, f->n_shapes, &s->plan.step,
                                       &s->step_outputs, &s->step, list);
    if (code == EXIT_OK)
        code = model_record_evaluation(s->backend, &s->base, f->shapes, f->n_shapes, &s->plan.evaluation,
                                       &s->evaluation_outputs, &s->evaluation, list);
    if (code == EXIT_OK && s->n_routing_windows > 0)
        code = model_record_evaluation(s->backend, &s->base, f->shapes, f->n_shapes, &s->plan.record,
                                       &s->record_outputs, &s->record, list);
    return code;
}

metric_shape session_metric_shape(const settings *s, const base_shape *base, const fleet *f, int windows) {
    metric_shape shape = {.populations = f->n_populations,
                          .devices = f->n_devices,
                          .layers = base->layers,
                          .windows = windows,
                          .sequence = s->data.sequence,
                          .sampling = sampling_shape_of(s, f)};
    for (int i = 0; i < f->n_shapes; i++)
        if (f->shapes[i].n_experts > shape.experts) shape.experts = f->shapes[i].n_experts;
    return shape;
}

static bool allocate_numbers(session *s) {
    const fleet *f = s->fleet;
    metric_shape shape = session_metric_shape(s->settings, &s->base.shape, f, s->n_routing_windows);
    size_t devices = (size_t)f->n_devices;
    bool ok = metric_row_create(&s->numbers, &shape);
    for (int i = 0; ok && i < f->n_populations; i++)
        s->numbers.first_device[i + 1] = f->populations[i].first_device + f->populations[i].n_devices;
    s->bytes_up = calloc(devices, sizeof *s->bytes_up);
    s->bytes_down = calloc(devices, sizeof *s->bytes_down);
    s->evaluated = calloc(devices, sizeof *s->evaluated);
    return ok && s->bytes_up && s->bytes_down && s->evaluated;
}

static exit_code allocate_host(session *s, problems *list) {
    size_t sequences = (size_t)s->plan.limits.max_sequences,
           row = (size_t)s->base.shape.layers * CK_MAX_EXPERTS;
    size_t record = s->n_routing_windows > 0 ? (size_t)s->plan.record.max_tokens * row : 1;
    s->updates = malloc(sequences * sizeof *s->updates);
    s->carries = malloc(sequences * sizeof *s->carries);
    s->host.gate_sum = malloc(sequences * row * sizeof(float));
    s->host.top1_count = malloc(sequences * row * sizeof(float));
    s->host.gate_record = malloc(record * sizeof(float));
    s->pack = calloc((size_t)pack_walk_floats(s->fleet), sizeof *s->pack);
    bool ok = s->pack && s->updates && s->carries && s->host.gate_sum && s->host.top1_count &&
              s->host.gate_record && allocate_numbers(s);
    if (!ok) return problem(list, EXIT_ENVIRONMENT, "out of memory for the numbers of a round");
    exit_code code = sampling_create(&s->sampled, s->fleet, &s->numbers, list);
    if (code == EXIT_OK) code = wave_create(&s->plan.limits, 0, &s->filling, list);
    return code == EXIT_OK ? wave_create(&s->plan.limits, 1, &s->running, list) : code;
}

/* Spread evenly over the devices that have a router; where there are more windows than such devices, they
 * take turns. */
static exit_code choose_routing_devices(session *s, problems *list) {
    const fleet *f = s->fleet;
    size_t windows = (size_t)s->n_routing_windows + 1;
    s->routing_devices = calloc(windows, sizeof *s->routing_devices);
    s->routing_owners = calloc(windows, sizeof *s->routing_owners);
    s->my_windows = calloc(windows, sizeof *s->my_windows);
    int *routed = malloc((size_t)f->n_devices * sizeof *routed), n = 0;
    if (!s->routing_devices || !s->routing_owners || !s->my_windows || !routed) {
        free(routed);
        return problem(list, EXIT_ENVIRONMENT, "out of memory for the recorded windows");
    }
    for (int i = 0; i < f->n_devices; i++)
        if (f->shapes[f->devices[i].shape].router_rows > 0) routed[n++] = i;
    for (int w = 0; w < s->n_routing_windows; w++) {
        s->routing_devices[w] =
            routed[s->n_routing_windows < n ? (int64_t)w * n / s->n_routing_windows : w % n];
        s->routing_owners[w] = f->owner[s->routing_devices[w]];
        if (s->routing_owners[w] == f->place.process) s->my_windows[s->n_my_windows++] = w;
    }
    free(routed);
    return EXIT_OK;
}

static int most_experts(const fleet *f) {
    int most = 1;
    for (int i = 0; i < f->n_shapes; i++)
        if (f->shapes[i].n_experts > most) most = f->shapes[i].n_experts;
    return most;
}

static exit_code allocate(session *s, base_model *base, problems *list) {
    exit_code code = upload_base(s, base, list);
    base_destroy(base);
    s->max_experts = most_experts(s->fleet);
    s->n_routing_windows = s->plan.n_routing_windows;
    if (code == EXIT_OK) code = choose_routing_devices(s, list);
    s->fleet->packs_at = s->plan.packs_at;
    if (code == EXIT_OK) code = fleet_allocate(s->fleet, s->backend, s->stream, list);
    if (code == EXIT_OK) code = slots_create(&s->slots, s->fleet, s->plan.limits.max_packs, list);
    if (code == EXIT_OK) code = allocate_outputs(s, list);
    if (code == EXIT_OK) code = record_programs(s, list);
    if (code == EXIT_OK) code = allocate_host(s, list);
    if (code == EXIT_OK) code = session_create_status(s, list);
    return processes_agree(s->collective, code, list);
}

/* The files that both were read from may have been changed in between. */
static exit_code check_shape(const run_outline *outline, const base_model *base, problems *list) {
    if (memcmp(&outline->shape, &base->shape, sizeof base->shape) == 0) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "the base is not of the shape that it had when the run was checked; start again");
}

static exit_code open_session(session *s, run_outline *outline, base_model *base, problems *list) {
    exit_code code = check_shape(outline, base, list);
    s->fleet = outline->fleet;
    s->plan = outline->plan;
    outline->fleet = NULL;
    if (code == EXIT_OK)
        code = kernel_problem(list, s->backend, ck_stream_create(s->backend, &s->stream), "opening a stream");
    code = processes_agree(s->collective, code, list);
    if (code == EXIT_OK) code = session_gather_texts(s, list);
    if (code == EXIT_OK) code = fleet_weigh(s->fleet, list);
    if (code == EXIT_OK) return allocate(s, base, list);
    base_destroy(base);
    return code;
}

exit_code session_create_among(ck_collective *collective, const settings *config, ck_backend *backend,
                               run_outline *outline, base_model *base, session **out, problems *list) {
    *out = NULL;
    session *s = calloc(1, sizeof *s);
    exit_code code =
        processes_agree(collective, s ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory"), list);
    if (code != EXIT_OK) {
        outline_free(outline);
        base_destroy(base);
        free(s);
        return code;
    }
    *s = (session){
        .collective = collective, .settings = config, .backend = backend, .sequence = config->data.sequence};
    code = open_session(s, outline, base, list);
    if (code != EXIT_OK) {
        session_destroy(s);
        return code;
    }
    *out = s;
    return EXIT_OK;
}

exit_code session_create(const settings *config, ck_backend *backend, base_model *base, session **out,
                         problems *list) {
    run_outline outline = {0};
    *out = NULL;
    exit_code code = outline_make(config, ck_collective_local(), backend, &outline, list);
    if (code == EXIT_OK)
        return session_create_among(ck_collective_local(), config, backend, &outline, base, out, list);
    outline_free(&outline);
    base_destroy(base);
    return code;
}

static void free_outputs(session *s) {
    ck_free(s->backend, s->step_outputs.loss);
    ck_free(s->backend, s->step_outputs.top_k_count);
    ck_free(s->backend, s->step_outputs.p_sum);
    ck_free(s->backend, s->step_outputs.balance_coefficient);
    ck_free(s->backend, s->step_outputs.balance_value);
    ck_free(s->backend, s->evaluation_outputs.gate_sum);
    ck_free(s->backend, s->evaluation_outputs.top1_count);
    ck_free(s->backend, s->record_outputs.gate_record);
    ck_free(s->backend, s->gradients);
    ck_free(s->backend, s->base_weights);
}

static void free_numbers(session *s) {
    metric_row_destroy(&s->numbers);
    free(s->bytes_up);
    free(s->bytes_down);
    free(s->evaluated);
}

void session_release(session *s) {
    if (s->stream) (void)ck_wait(s->stream); /* the last update may be under way */
    ck_program_destroy(s->step);
    ck_program_destroy(s->evaluation);
    ck_program_destroy(s->record);
    free_outputs(s);
    free_numbers(s);
    sampling_destroy(&s->sampled);
    slots_destroy(&s->slots);
    fleet_destroy(s->fleet);
    wave_destroy(s->filling);
    wave_destroy(s->running);
    free(s->updates);
    free(s->carries);
    free(s->pack);
    free(s->host.gate_sum);
    free(s->host.top1_count);
    free(s->host.gate_record);
    free(s->routing_devices);
    free(s->routing_owners);
    free(s->my_windows);
    session_destroy_status(s);
    ck_stream_destroy(s->stream);
    *s = (session){.settings = s->settings,
                   .collective = s->collective,
                   .backend = s->backend,
                   .expert_seconds = s->expert_seconds,
                   .expert_tokens = s->expert_tokens,
                   .expert_flops = s->expert_flops};
    memory_give_back();
}

void session_destroy(session *s) {
    if (!s) return;
    session_release(s);
    free(s);
}

#include "train/plan.h"

#include <stdint.h>
#include <string.h>

#include "train/memory.h"
#include "train/model.h"

/* A CPU gains nothing beyond enough windows for its threads; a GPU wants large products. */
enum { CPU_WAVE_TOKENS = 16384, GPU_WAVE_TOKENS = 65536 };

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

typedef struct {
    int64_t largest_step, least_step, whole_step, evaluation; /* windows */
    int64_t largest_pack;                                     /* floats */
    bool balanced, routed;
} demand;

static demand measure(const settings *s, const fleet *f) {
    demand d = {.least_step = INT64_MAX, .evaluation = (int64_t)f->n_devices * s->evaluate.windows};
    for (int i = 0; i < f->n_populations; i++) {
        const population *p = &f->populations[i];
        int64_t experts = fleet_expert_batch(p), router = fleet_router_batch(p);
        d.largest_step = larger(d.largest_step, larger(experts, router));
        d.least_step = smaller(d.least_step, smaller(experts, router));
        d.whole_step += larger(experts, router) * p->n_devices;
    }
    for (int i = 0; i < f->n_shapes; i++) {
        d.largest_pack = larger(d.largest_pack, f->shapes[i].total);
        d.balanced |= f->shapes[i].balanced;
        d.routed |= f->shapes[i].router_rows > 0;
    }
    return d;
}

static void set_limits(run_plan *plan, const demand *d, int64_t windows, int sequence, int64_t all_packs) {
    int64_t devices = larger(windows / d->least_step, 1);
    plan->limits.max_sequences = (int32_t)windows;
    plan->limits.max_tokens = windows * sequence;
    plan->limits.max_gradients = smaller(devices * d->largest_pack, all_packs);
    plan->step = (ck_capacity){.max_sequences = (int32_t)windows,
                               .max_tokens = (int32_t)(windows * sequence),
                               .max_sequence_tokens = sequence,
                               .max_pack = d->largest_pack};
    plan->evaluation = plan->step;
    plan->evaluation.max_pack = 0;
    plan->record = plan->evaluation;
    plan->record.max_sequences = (int32_t)smaller(windows, larger(plan->n_routing_windows, 1));
    plan->record.max_tokens = plan->record.max_sequences * sequence;
}

/* Programs are recorded only to be measured: nothing is read through these pointers. */
static exit_code measure_programs(ck_backend *backend, const base_shape *base, const fleet *f, const demand *d, run_plan *plan,
                                  problems *list) {
    static float unread[1];
    model_base model = {.shape = *base, .layout = base_layout_of(base), .weights = unread};
    model_outputs step = {.loss = unread}, evaluation = {.loss = unread, .gate_sum = unread, .top1_count = unread};
    model_outputs record = {.loss = unread, .gate_record = unread};
    if (d->balanced) step.top_k_count = step.p_sum = step.balance_coefficient = step.balance_value = unread;
    size_t bytes[3] = {0};
    exit_code code = model_program_bytes(backend, &model, f->shapes, f->n_shapes, &plan->step, &step, true, &bytes[0], list);
    if (code == EXIT_OK)
        code = model_program_bytes(backend, &model, f->shapes, f->n_shapes, &plan->evaluation, &evaluation, false, &bytes[1], list);
    if (code == EXIT_OK && plan->n_routing_windows > 0)
        code = model_program_bytes(backend, &model, f->shapes, f->n_shapes, &plan->record, &record, false, &bytes[2], list);
    plan->activations = bytes[0] + bytes[1] + bytes[2];
    return code;
}

/* Statistics are [sequences, layers, CK_MAX_EXPERTS]: two of an evaluation on backend and host, three of a balanced step; the record is
 * one a token on both; the round's tables are one row a device, and the trace's writer holds a copy of a row or two. */
static size_t buffer_bytes(const run_plan *plan, const base_shape *base, const fleet *f, bool balanced) {
    size_t row = (size_t)base->layers * CK_MAX_EXPERTS * sizeof(float);
    size_t statistics = (size_t)plan->limits.max_sequences * row * (balanced ? 7 : 4);
    size_t record = plan->n_routing_windows > 0 ? 2 * (size_t)plan->record.max_tokens * row : 0;
    size_t routing = (size_t)plan->n_routing_windows * (size_t)plan->record.max_sequence_tokens * row;
    size_t numbers = (size_t)f->n_devices * (2 * row + 8 * sizeof(double));
    return statistics + record + 3 * (numbers + routing) + wave_bytes(&plan->limits);
}

static exit_code fill_plan(const settings *s, ck_backend *backend, const base_shape *base, const fleet *f, const demand *d, int64_t windows,
                           run_plan *plan, problems *list) {
    set_limits(plan, d, windows, s->data.sequence, f->n_parameters);
    exit_code code = measure_programs(backend, base, f, d, plan, list);
    if (code != EXIT_OK) return code;
    plan->base = (size_t)base_layout_of(base).total * sizeof(float);
    plan->packs = (3 * (size_t)f->n_parameters + (size_t)f->n_packed) * sizeof(float);
    plan->checkpoint = 3 * (size_t)f->n_parameters * sizeof(float);
    plan->gradients = (size_t)plan->limits.max_gradients * sizeof(float);
    plan->buffers = buffer_bytes(plan, base, f, d->balanced);
    plan->total = plan->resident + plan->base + plan->packs + plan->checkpoint + plan->gradients + plan->activations + plan->buffers;
    return EXIT_OK;
}

static exit_code refuse(const run_plan *plan, const fleet *f, problems *list) {
    double gib = 1.0 / (1024.0 * 1024.0 * 1024.0);
    size_t a_device = (plan->packs + plan->checkpoint) / (size_t)f->n_devices;
    size_t others = plan->total - a_device * (size_t)f->n_devices;
    long long fit = plan->limit > others ? (long long)((plan->limit - others) / a_device) : 0;
    return problem(list, EXIT_ENVIRONMENT,
                   "the run needs %.2f GiB of memory and %.2f GiB can be had; of its %d devices at most %lld fit: lower `devices`, the "
                   "number of populations, or `rank`",
                   (double)plan->total * gib, (double)plan->limit * gib, f->n_devices, fit);
}

exit_code plan_make(const settings *s, ck_backend *backend, const base_shape *base, size_t loaded_base, const fleet *f, run_plan *out,
                    problems *list) {
    demand d = measure(s, f);
    memset(out, 0, sizeof *out);
    size_t resident = memory_resident(), available = memory_available();
    out->resident = resident > loaded_base ? resident - loaded_base : resident;
    out->limit = available > SIZE_MAX - resident ? SIZE_MAX : available + resident;
    out->n_routing_windows = d.routed ? s->trace.routing_windows : 0;
    int64_t preferred = s->wave_tokens > 0 ? s->wave_tokens : strcmp(ck_name(backend), "cpu") == 0 ? CPU_WAVE_TOKENS : GPU_WAVE_TOKENS;
    int64_t windows = smaller(larger(preferred / s->data.sequence, d.largest_step), larger(d.whole_step, d.evaluation));
    for (;;) {
        exit_code code = fill_plan(s, backend, base, f, &d, windows, out, list);
        if (code != EXIT_OK) return code;
        if (out->total <= out->limit) return EXIT_OK;
        if (windows == d.largest_step) return refuse(out, f, list);
        windows = larger(windows / 2, d.largest_step);
    }
}

exit_code plan_with_text(const settings *s, ck_backend *backend, const base_shape *base, size_t loaded_base, fleet *f, run_plan *out,
                         problems *list) {
    exit_code code = plan_make(s, backend, base, loaded_base, f, out, list);
    if (code == EXIT_OK) code = fleet_open_data(f, list);
    return code == EXIT_OK ? plan_make(s, backend, base, loaded_base, f, out, list) : code;
}

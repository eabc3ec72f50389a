#include "engine/plan.h"
#include "config/config.h"
#include "model/obtain_base.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "engine/checkpoints.h"
#include "engine/sampling.h"
#include "engine/session.h"
#include "model/model.h"
#include "model/pretrain.h"
#include "population/variants.h"
#include "store/slots.h"
#include "support/memory.h"

/* A CPU gains nothing beyond enough windows for its threads; a GPU wants large products. */
enum { CPU_WAVE_TOKENS = 16384, GPU_WAVE_TOKENS = 65536 };

/* What the libraries touch only once a run is on its way: HDF5's caches and its writer in process 0, and a
 * worker's stack. */
static const size_t RUNNING_BYTES = 6 << 20, THREAD_BYTES = 96 << 10, MPI_BYTES = 8 << 20;
/* The same program finds the machine a little different each time. */
static const double UNCERTAIN_MIB = 1.0, MIB = 1048576.0;

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

typedef struct {
    int64_t largest_step, least_step, whole_step, evaluation; /* windows */
    int64_t largest_pack, all_packs;       /* floats of gradients; of all devices that this process has */
    bool balanced, balanced_gates, routed; /* balanced_gates: by a router that is not linear */
} demand;

/* Windows are of this process's devices; a step of any of them fits. */
static demand measure(const settings *s, const fleet *f) {
    demand d = {.least_step = INT64_MAX, .evaluation = (int64_t)f->n_local * s->evaluate.windows};
    for (int i = 0; i < f->n_devices; i++) {
        const schedule_totals *all = fleet_totals(f, &f->devices[i]);
        int64_t largest = schedule_largest_batch(all);
        d.largest_step = larger(d.largest_step, largest);
        for (int part = 0; part < DATA_SPLITS; part++)
            if (all->batch[part] > 0) d.least_step = smaller(d.least_step, all->batch[part]);
        if (f->owner[i] != f->place.process) continue;
        d.whole_step += largest;
        d.all_packs += f->shapes[f->devices[i].shape].gradient_total;
    }
    for (int i = 0; i < f->n_shapes; i++) {
        d.largest_pack = larger(d.largest_pack, f->shapes[i].gradient_total);
        d.balanced |= f->shapes[i].balanced;
        d.balanced_gates |= f->shapes[i].balanced && f->shapes[i].router == CK_ROUTER_LLAMA_MOE;
        d.routed |= f->shapes[i].router_rows > 0;
    }
    return d;
}

static void set_limits(run_plan *plan, const demand *d, int64_t windows, int sequence,
                       ck_precision precision) {
    int64_t devices = larger(windows / d->least_step, 1);
    plan->limits.max_sequences = (int32_t)windows;
    plan->limits.max_tokens = windows * sequence;
    plan->limits.max_packs = smaller(devices * d->largest_pack, d->all_packs);
    plan->step = (ck_capacity){.max_sequences = (int32_t)windows,
                               .max_tokens = (int32_t)(windows * sequence),
                               .max_sequence_tokens = sequence,
                               .max_pack = d->largest_pack,
                               .precision = precision};
    plan->evaluation = plan->step;
    plan->evaluation.max_pack = 0;
    plan->record = plan->evaluation;
    plan->record.max_sequences = (int32_t)smaller(windows, larger(plan->n_routing_windows, 1));
    plan->record.max_tokens = plan->record.max_sequences * sequence;
}

/* Programs are recorded only to be measured: nothing is read through these pointers. */
static exit_code measure_programs(ck_backend *backend, const base_shape *base, const fleet *f,
                                  const demand *d, run_plan *plan, problems *list) {
    static float unread[1];
    model_base model = {.shape = *base, .layout = base_layout_of(base), .weights = unread};
    model_outputs step = {.loss = unread},
                  evaluation = {.loss = unread, .gate_sum = unread, .top1_count = unread};
    model_outputs record = {.loss = unread, .gate_record = unread};
    if (d->balanced) step.top_k_count = step.balance_coefficient = unread;
    if (d->balanced_gates) step.gate_sum = step.load_sum = step.load_coefficient = unread;
    size_t bytes[3] = {0};
    exit_code code = model_program_bytes(backend, &model, f->shapes, f->n_shapes, &plan->step, &step, true,
                                         &bytes[0], list);
    THEN(code, model_program_bytes(backend, &model, f->shapes, f->n_shapes, &plan->evaluation, &evaluation,
                                   false, &bytes[1], list));
    if (plan->n_routing_windows > 0)
        THEN(code, model_program_bytes(backend, &model, f->shapes, f->n_shapes, &plan->record, &record, false,
                                       &bytes[2], list));
    plan->activations = bytes[0] + bytes[1] + bytes[2];
    return code;
}

/* A row of the round's tables is there once, twice more in the trace's writer, and of several processes once
 * more on its way to process 0.
 */
static size_t row_copies(const fleet *f) {
    return (f->place.process == 0 ? 3 : 1) + (f->place.processes > 1 ? 1 : 0);
}

/* The round's metrics and their copies, and the tokens of an evaluation. */
static size_t number_bytes(const settings *s, const base_shape *base, const fleet *f, int windows) {
    metric_shape shape = session_metric_shape(s, base, f, windows);
    size_t sampling = shape.sampling.train_steps > 0 ? 2 * (size_t)f->n_devices * sizeof(int64_t) : 0;
    size_t row = metric_row_bytes(&shape) + sampling;
    return row + (row_copies(f) - 1) * metric_all_bytes(&shape) +
           (size_t)f->n_devices * sizeof(evaluated_tokens);
}

/* Averages on their way between processes. */
static size_t exchange_bytes(const fleet *f) {
    return f->place.processes > 1 ? 2 * (size_t)smaller(f->n_packed, CK_COLLECTIVE_CHUNK) * sizeof(float) : 0;
}

/* Statistics are [sequences, layers, CK_MAX_EXPERTS]: two of an evaluation on backend and host, two of a
 * balanced step, three more of one that balances gates; the record is one a token on both. Two waves take
 * turns. */
static size_t buffer_bytes(const settings *s, const run_plan *plan, const base_shape *base, const fleet *f,
                           const demand *d) {
    size_t row = (size_t)base->layers * CK_MAX_EXPERTS * sizeof(float);
    size_t tables = 4 + (d->balanced ? 2 : 0) + (d->balanced_gates ? 3 : 0);
    size_t statistics = (size_t)plan->limits.max_sequences * row * tables;
    size_t record = plan->n_routing_windows > 0 ? 2 * (size_t)plan->record.max_tokens * row : 0;
    return statistics + record + number_bytes(s, base, f, plan->n_routing_windows) +
           2 * wave_bytes(&plan->limits);
}

/* Of the packs that lie in host memory. */
static size_t far_bytes(const fleet *f, packs_memory packs_at) {
    size_t array = (size_t)f->n_parameters * sizeof(float), carried = (size_t)f->n_carried * sizeof(float);
    return packs_at == PACKS_NEAR ? 0 : packs_at == MOMENTS_FAR ? 2 * array : 3 * array + carried;
}

static size_t near_bytes(const run_plan *plan, const fleet *f, packs_memory packs_at) {
    size_t programs = plan->n_routing_windows > 0 ? 3 : 2; /* each has its own copy of the base in bf16 */
    size_t frozen = plan->base + plan->variants;
    size_t copies = plan->step.precision == CK_BF16 ? programs * (frozen / 2) : 0;
    size_t all = frozen + copies + plan->packs + plan->gradients + plan->activations + plan->buffers;
    return all - far_bytes(f, packs_at) + slots_bytes(packs_at, plan->limits.max_packs);
}

/* The nearest that fits: moments leave the GPU first, because only updates need them. What is far takes slots
 * for two waves, so that with large waves of few devices nothing is gained; what fits in no way is planned
 * for as it takes least. */
static void place_packs(run_plan *plan, const fleet *f) {
    plan->near_total = SIZE_MAX;
    for (packs_memory at = PACKS_NEAR; at <= PACKS_FAR && plan->near_total > plan->near_limit; at++) {
        size_t bytes = near_bytes(plan, f, at);
        if (bytes >= plan->near_total) continue;
        plan->near_total = bytes;
        plan->packs_at = at;
    }
    plan->slots = slots_bytes(plan->packs_at, plan->limits.max_packs);
    plan->updated_traffic = slots_traffic(plan->packs_at, PACKS_UPDATED, plan->limits.max_packs);
    plan->read_traffic = slots_traffic(plan->packs_at, PACKS_READ, plan->limits.max_packs);
    plan->training = plan->resident + plan->passing + plan->buffers + far_bytes(f, plan->packs_at);
}

/* Initial adapters pass before there are activations, which on a CPU take more than these: each of its
 * threads has room for a pack. */
static size_t passing_bytes(const ck_backend *backend, const run_plan *plan, const fleet *f) {
    size_t saved = checkpoints_bytes(f),
           initial = plan->near_limit < SIZE_MAX ? fleet_initial_bytes(f, ck_threads(backend)) : 0;
    return saved > initial ? saved : initial;
}

static exit_code fill_plan(const settings *s, ck_backend *backend, const base_shape *base, const fleet *f,
                           const demand *d, int64_t windows, run_plan *plan, problems *list) {
    set_limits(plan, d, windows, s->data.sequence, (ck_precision)s->precision);
    exit_code code = measure_programs(backend, base, f, d, plan, list);
    if (code != EXIT_OK) return code;
    plan->base = (size_t)base_layout_of(base).total * sizeof(float);
    plan->variants = variants_bytes(f);
    plan->packs = (3 * (size_t)f->n_parameters + (size_t)f->n_carried + (size_t)f->n_packed) * sizeof(float);
    plan->passing = passing_bytes(backend, plan, f);
    plan->gradients = (size_t)plan->limits.max_packs * sizeof(float);
    plan->buffers = buffer_bytes(s, plan, base, f, d) + exchange_bytes(f);
    if (plan->near_limit < SIZE_MAX)
        place_packs(plan, f);
    else
        plan->training = plan->resident + plan->base + plan->variants + plan->packs + plan->passing +
                         plan->gradients + plan->activations + plan->buffers;
    plan->total = plan->training > plan->outside ? plan->training : plan->outside;
    return EXIT_OK;
}

/* What another device adds to host memory, on average over the fleet; the averages are there once, whatever
 * their number. */
static double device_bytes(const settings *s, const run_plan *plan, const base_shape *base, const fleet *f) {
    packs_memory packs_at = plan->near_limit < SIZE_MAX ? plan->packs_at : PACKS_FAR;
    double packs = (double)far_bytes(f, packs_at), own = f->n_local > 0 ? f->n_local : 1.0;
    return (packs + (double)fleet_measure_text(f).devices) / own + (double)number_bytes(s, base, f, 0) / own;
}

/* In no way of placing the packs. Fewer devices might fit with all of theirs on the GPU, without slots. */
static exit_code refuse_near(const run_plan *plan, const fleet *f, problems *list) {
    double packs = (double)far_bytes(f, PACKS_FAR), a_device = packs / (f->n_local > 0 ? f->n_local : 1.0);
    double fit =
        floor(((double)plan->near_limit - ((double)near_bytes(plan, f, PACKS_NEAR) - packs)) / a_device);
    char fewer[96] = "";
    if (fit >= 1.0) snprintf(fewer, sizeof fewer, "at most %.0f of its %d devices, or ", fit, f->n_local);
    return problem(
        list, EXIT_ENVIRONMENT,
        "the run needs %.0f MiB of the GPU's memory and only %.0f MiB can be had, wherever its "
        "adapters lie: %.0f MiB go to "
        "activations, %.0f MiB to the base and its variants, %.0f MiB to gradients and adapters of "
        "waves; take %sa smaller base, batch or sequence",
        (double)plan->near_total / MIB, (double)plan->near_limit / MIB, (double)plan->activations / MIB,
        (double)(plan->base + plan->variants) / MIB, (double)(plan->gradients + plan->slots) / MIB, fewer);
}

/* How many devices would fit, where what they all add is `each` a device to what is there without them. */
static double fitting(double limit, double all, double each, int devices) {
    return each > 0.0 ? floor((limit - (all - each * devices) - UNCERTAIN_MIB) / each) : devices;
}

/* What sets the limit, in words. */
static const char *limit_source(const settings *s, size_t limit) {
    return limit == (size_t)s->memory_limit << 20 ? "memory_limit allows" : "can be had";
}

static bool are_alike(const fleet *f) {
    for (int i = 1; i < f->n_shapes; i++)
        if (f->shapes[i].total != f->shapes[0].total) return false;
    return true;
}

enum { VARIANTS_TEXT_BYTES = 256 };

/* What base variants take, where there are any, and the largest of them. */
static const char *variants_text(const fleet *f, const run_plan *plan, char out[VARIANTS_TEXT_BYTES]) {
    char largest[VARIANTS_TEXT_BYTES / 2];
    out[0] = '\0';
    if (f->variants)
        snprintf(out, VARIANTS_TEXT_BYTES, " (%.0f MiB of it for base variants, %s)",
                 (double)plan->variants / MIB, variants_describe(f, sizeof largest, largest));
    return out;
}

static exit_code refuse(const settings *s, const base_shape *base, const run_plan *plan, const fleet *f,
                        problems *list) {
    if (plan->near_limit < SIZE_MAX && plan->near_total > plan->near_limit) return refuse_near(plan, f, list);
    double need = (double)plan->total / MIB, limit = (double)plan->limit / MIB,
           a_device = device_bytes(s, plan, base, f) / MIB;
    double text = f->n_local > 0 ? (double)fleet_measure_text(f).devices / MIB / f->n_local : 0.0;
    double outside = (double)plan->outside / MIB, training = (double)plan->training / MIB;
    double fit_outside = fitting(limit, outside, text, f->n_local),
           fit = fmin(fit_outside, fitting(limit, training, a_device, f->n_local));
    const char *source = limit_source(s, plan->limit);
    char who[48] = "the run", variants[VARIANTS_TEXT_BYTES];
    if (f->place.processes > 1) snprintf(who, sizeof who, "process %d's share of the run", f->place.process);
    if (fit < 1.0)
        return problem(list, EXIT_ENVIRONMENT,
                       "%s needs %.0f MiB of memory and only %.0f MiB %s, which is too little for a single "
                       "device: %.0f MiB go to %s%s; "
                       "take a smaller base, batch or sequence%s",
                       who, ceil(need), floor(limit), source,
                       fit_outside < 1.0 ? outside - text * f->n_local : training - a_device * f->n_local,
                       fit_outside < 1.0 ? plan->why_outside : "base, activations and libraries",
                       variants_text(f, plan, variants), f->variants ? ", or fewer base variants" : "");
    return problem(
        list, EXIT_ENVIRONMENT,
        "%s needs %.0f MiB of memory and only %.0f MiB %s%s: of its %d devices at most %.0f fit%s; "
        "lower `devices`, the number "
        "of populations, `rank` or `data.tokens_per_device`",
        who, ceil(need), floor(limit), source, variants_text(f, plan, variants), f->n_local, fit,
        are_alike(f) ? "" : ", if all populations shrink alike");
}

/* Before the devices are there: a host copy of the base beside the backend's, or its training, which is
 * process 0's. When they are gone: what a run measures for its report. */
static exit_code outside_bytes(const settings *s, ck_backend *backend, const base_shape *base, const fleet *f,
                               run_plan *plan, problems *list) {
    size_t weights = (size_t)base_layout_of(base).total * sizeof(float), trained = 0,
           rate = ck_ceiling_bytes(backend);
    exit_code code =
        f->place.process == 0 && run_trains_base(s) ? pretrain_bytes(s, backend, &trained, list) : EXIT_OK;
    size_t placed = weights + variants_bytes(f) + variants_passing_bytes(f),
           start = weights + (trained > placed ? trained : placed);
    plan->outside = plan->resident + (rate > start ? rate : start);
    plan->why_outside = rate > start       ? "libraries and measuring the rate of matrix products"
                        : trained > placed ? "libraries and pre-training the base"
                        : f->variants      ? "libraries, the base and its variants"
                                           : "libraries and the base";
    return code;
}

/* A plan for a process that this one is not: it will have MPI and its shared memory too. */
static size_t mpi_bytes(const fleet *f) {
    return f->place.processes > ck_processes(f->collective) ? MPI_BYTES : 0;
}

/* What is taken already, and what is sure to follow. */
static size_t resident_bytes(const ck_backend *backend, size_t now, const fleet *f) {
    fleet_text_bytes closed = f->n_corpora > 0 ? (fleet_text_bytes){0, 0} : fleet_measure_text(f);
    return now + closed.devices + closed.corpora + (f->place.process == 0 ? RUNNING_BYTES : 0) +
           (size_t)ck_threads(backend) * THREAD_BYTES + mpi_bytes(f);
}

/* The processes of a machine share what it has. */
static size_t limit_bytes(const settings *s, int on_machine, size_t now) {
    size_t available = memory_available() / (size_t)on_machine, wanted = (size_t)s->memory_limit << 20;
    size_t free_ = available > SIZE_MAX - now ? SIZE_MAX : available + now;
    return s->memory_limit > 0 && wanted < free_ ? wanted : free_;
}

exit_code plan_admits_devices(const settings *s, int on_machine, problems *list) {
    size_t devices = 0, now = memory_resident(), limit = limit_bytes(s, on_machine, now);
    for (int i = 0; i < s->n_populations; i++) {
        const method *how = method_find(s->populations[i].method);
        devices += how && how->pooled ? 1 : (size_t)s->populations[i].devices;
    }
    size_t need = now + devices * FLEET_DEVICE_BYTES;
    if (need <= limit) return EXIT_OK;
    return problem(
        list, EXIT_ENVIRONMENT,
        "the run needs %.0f MiB of memory for the list of its %zu devices alone, and only %.0f MiB %s; "
        "lower `devices`, or the number of populations",
        ceil((double)need / MIB), devices, floor((double)limit / MIB), limit_source(s, limit));
}

static exit_code refuse_precision(const settings *s, const ck_backend *backend, problems *list) {
    int before = problems_count(list);
    exit_code code = problem(list, EXIT_INPUT,
                             "bf16 needs a GPU, and this run computes on the %s backend; set precision: f32",
                             ck_name(backend));
    settings_prefix(s, "precision", before, list);
    return code;
}

/* Of a GPU's memory, for the tables of waves on their way there: no part of a program (kernels/cuda/stage.cu). */
enum { NEAR_TABLES = 512 * 1024 };

exit_code plan_make(const settings *s, ck_backend *backend, const base_shape *base, const fleet *f,
                    run_plan *out, problems *list) {
    if (!ck_supports(backend, (ck_precision)s->precision)) return refuse_precision(s, backend, list);
    demand d = measure(s, f);
    memory_give_back();
    size_t now = memory_resident();
    memset(out, 0, sizeof *out);
    out->resident = resident_bytes(backend, now, f);
    out->limit = limit_bytes(s, f->place.on_machine, now);
    size_t near = ck_memory_bytes(backend);
    near = near < SIZE_MAX ? near + ck_allocated_bytes(backend) : SIZE_MAX;
    out->near_limit = near < SIZE_MAX ? near - (near < NEAR_TABLES ? near : NEAR_TABLES) : SIZE_MAX;
    out->n_routing_windows = d.routed ? s->trace.routing_windows : 0;
    int64_t preferred = s->wave_tokens > 0                     ? s->wave_tokens
                        : strcmp(ck_name(backend), "cpu") == 0 ? CPU_WAVE_TOKENS
                                                               : GPU_WAVE_TOKENS;
    int64_t all = larger(larger(d.whole_step, d.evaluation), 1); /* a process may have no device */
    int64_t windows = smaller(larger(preferred / s->data.sequence, d.largest_step), all);
    exit_code code = outside_bytes(s, backend, base, f, out, list);
    while (code == EXIT_OK) {
        code = fill_plan(s, backend, base, f, &d, windows, out, list);
        if (code != EXIT_OK || (out->total <= out->limit && out->near_total <= out->near_limit)) break;
        out->refused = windows == d.largest_step || out->outside > out->limit;
        if (out->refused) return refuse(s, base, out, f, list);
        windows = larger(windows / 2, d.largest_step);
    }
    return code;
}

exit_code plan_with_text(const settings *s, ck_backend *backend, const base_shape *base, fleet *f,
                         run_plan *out, problems *list) {
    exit_code code = plan_make(s, backend, base, f, out, list);
    if (code != EXIT_OK) return code;
    code = fleet_open_data(f, list);
    exit_code text = f->place.process == 0 && run_trains_base(s) ? pretrain_check_text(s, list) : EXIT_OK;
    THEN(code, text);
    return THEN(code, plan_make(s, backend, base, f, out, list));
}

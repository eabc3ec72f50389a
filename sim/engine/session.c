#include "engine/session.h"

#include <stdlib.h>
#include <string.h>

#include "population/variants.h"
#include "support/kernel_problem.h"
#include "support/memory.h"
#include "support/processes.h"

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

static exit_code create_numbers(session *s, problems *list) {
    const fleet *f = s->fleet;
    metric_shape shape =
        session_metric_shape(s->settings, &s->programs.base.shape, f, s->plan.n_routing_windows);
    if (!metric_row_create(&s->numbers, &shape))
        return problem(list, EXIT_ENVIRONMENT, "out of memory for the numbers of a round");
    for (int i = 0; i < f->n_populations; i++) {
        s->numbers.first_device[i + 1] = f->populations[i].first_device + f->populations[i].n_devices;
        s->numbers.described[i] = f->populations[i].n_senders;
    }
    return sampling_create(&s->sampled, f, &s->numbers, list);
}

static exit_code create_parts(session *s, base_model *base, problems *list) {
    int layers = base->shape.layers;
    exit_code code = programs_place_base(&s->programs, s->backend, s->stream, base, list);
    s->fleet->backend = s->backend;
    s->fleet->stream = s->stream;
    THEN(code, variants_place(s->fleet, base, list));
    base_destroy(base);
    s->fleet->packs_at = s->plan.packs_at;
    THEN(code, fleet_allocate(s->fleet, s->backend, s->stream, list));
    THEN(code, pipeline_create(&s->waves, s->fleet, &s->plan.limits, list));
    THEN(code, programs_record(&s->programs, s->fleet, &s->plan, list));
    THEN(code, step_lists_create(&s->steps, s->fleet, &s->plan, list));
    THEN(code, evaluation_sums_create(&s->sums, &s->plan, layers, s->fleet->n_devices, list));
    THEN(code, routing_create(&s->routing, s->fleet, &s->plan, layers, list));
    THEN(code, create_numbers(s, list));
    THEN(code, agreement_create(&s->agreed, s->collective, s->fleet, list));
    code = processes_agree(s->collective, code, list);
    THEN(code, fleet_set_anchors(s->fleet, list));
    return processes_agree(s->collective, code, list);
}

/* The files that both were read from may have been changed in between. */
static exit_code check_shape(const run_outline *outline, const base_model *base, problems *list) {
    if (base_same_shape(&outline->shape, &base->shape)) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "the base is not of the shape that it had when the run was checked; start again");
}

static exit_code open_session(session *s, run_outline *outline, base_model *base, problems *list) {
    exit_code code = check_shape(outline, base, list);
    s->fleet = outline->fleet;
    s->plan = outline->plan;
    outline->fleet = NULL;
    THEN(code,
         kernel_problem(list, s->backend, ck_stream_create(s->backend, &s->stream), "opening a stream"));
    code = processes_agree(s->collective, code, list);
    THEN(code, session_gather_texts(s, list));
    THEN(code, fleet_weigh(s->fleet, list));
    if (code == EXIT_OK) return create_parts(s, base, list);
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
    *s = (session){.collective = collective, .settings = config, .backend = backend};
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

void session_release(session *s) {
    base_shape shape = s->programs.base.shape; /* the programs forget it */
    if (s->stream) (void)ck_wait(s->stream);   /* the last update may be under way */
    programs_destroy(&s->programs);
    pipeline_destroy(&s->waves);
    step_lists_destroy(&s->steps);
    evaluation_sums_destroy(&s->sums);
    routing_destroy(&s->routing);
    sampling_destroy(&s->sampled);
    metric_row_destroy(&s->numbers);
    agreement_destroy(&s->agreed);
    fleet_destroy(s->fleet);
    ck_stream_destroy(s->stream);
    *s = (session){.settings = s->settings,
                   .programs.base.shape = shape,
                   .collective = s->collective,
                   .backend = s->backend,
                   .agreed = s->agreed};
    memory_give_back();
}

void session_destroy(session *s) {
    if (!s) return;
    session_release(s);
    free(s);
}

#include "engine/pipeline.h"

#include "support/kernel_problem.h"

exit_code pipeline_create(pipeline *p, const fleet *f, const wave_limits *limits, problems *list) {
    *p = (pipeline){.fleet = f};
    exit_code code = slots_create(&p->slots, f, limits->max_packs, list);
    THEN(code, wave_create(limits, 0, &p->filling, list));
    THEN(code, wave_create(limits, 1, &p->running, list));
    return code;
}

void pipeline_destroy(pipeline *p) {
    slots_destroy(&p->slots);
    wave_destroy(p->filling);
    wave_destroy(p->running);
    *p = (pipeline){0};
}

static ck_status start(pipeline *p, wave_buffer *w, const wave_work *work) {
    if (w->n_devices == 0) return CK_OK;
    ck_stream *stream = p->fleet->stream;
    ck_wave wave = wave_view(w, p->fleet, slots_packs(&p->slots, w).parameters, work->gradients);
    ck_status status = slots_await_parameters(&p->slots, w, stream);
    THEN(status, ck_run(work->program, stream, &wave));
    return THEN(status, work->started(work->context, w));
}

static ck_status finish(pipeline *p, wave_buffer *w, const wave_work *work) {
    if (w->n_devices == 0) return CK_OK;
    ck_stream *stream = p->fleet->stream;
    ck_status status = ck_wait(stream);
    THEN(status, slots_await_moments(&p->slots, w, stream));
    THEN(status, work->finished(work->context, w));
    return THEN(status, slots_leave(&p->slots, w, work->use, stream));
}

exit_code pipeline_check(pipeline *p, exit_code code) {
    if (code == EXIT_OK) return code;
    (void)ck_wait(p->fleet->stream);
    wave_clear(p->filling);
    wave_clear(p->running);
    return code;
}

static exit_code ended(pipeline *p, ck_status status, const wave_work *work, problems *list) {
    return pipeline_check(p, kernel_problem(list, p->fleet->backend, status, work->what));
}

exit_code pipeline_turn(pipeline *p, const wave_work *work, problems *list) {
    wave_buffer *next = p->filling, *last = p->running;
    ck_status status = last->n_devices == 0 ? slots_begin(&p->slots, p->fleet->stream) : CK_OK;
    THEN(status, slots_fetch(&p->slots, next, work->use));
    THEN(status, finish(p, last, work));
    wave_clear(last);
    wave_drop_stopped(next, p->fleet);
    THEN(status, start(p, next, work));
    p->filling = last;
    p->running = next;
    return ended(p, status, work, list);
}

exit_code pipeline_end(pipeline *p, const wave_work *work, problems *list) {
    exit_code code = pipeline_turn(p, work, list);
    THEN(code, pipeline_turn(p, work, list));
    return THEN(code, ended(p, slots_end(&p->slots, p->fleet->stream), work, list));
}

exit_code pipeline_once(pipeline *p, const wave_work *work, problems *list) {
    ck_status status = slots_begin(&p->slots, p->fleet->stream);
    THEN(status, slots_fetch(&p->slots, p->filling, work->use));
    THEN(status, start(p, p->filling, work));
    THEN(status, finish(p, p->filling, work));
    wave_clear(p->filling);
    THEN(status, slots_end(&p->slots, p->fleet->stream));
    return ended(p, status, work, list);
}

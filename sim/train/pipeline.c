#include "train/pipeline.h"

#include "kernel_problem.h"

static ck_status start(session *s, wave_buffer *w, const wave_work *work) {
    if (w->n_devices == 0) return CK_OK;
    ck_wave wave = wave_view(w, s->fleet, slots_packs(&s->slots, w).parameters, work->gradients);
    ck_status status = slots_await_parameters(&s->slots, w, s->stream);
    if (status == CK_OK) status = ck_run(work->program, s->stream, &wave);
    return status == CK_OK ? work->started(s, w, work->context) : status;
}

static ck_status finish(session *s, wave_buffer *w, const wave_work *work) {
    if (w->n_devices == 0) return CK_OK;
    ck_status status = ck_wait(s->stream);
    if (status == CK_OK) status = slots_await_moments(&s->slots, w, s->stream);
    if (status == CK_OK) status = work->finished(s, w, work->context);
    return status == CK_OK ? slots_leave(&s->slots, w, work->use, s->stream) : status;
}

exit_code pipeline_check(session *s, exit_code code) {
    if (code == EXIT_OK) return code;
    (void)ck_wait(s->stream);
    wave_clear(s->filling);
    wave_clear(s->running);
    return code;
}

static exit_code ended(session *s, ck_status status, const wave_work *work, problems *list) {
    return pipeline_check(s, kernel_problem(list, s->backend, status, work->what));
}

exit_code pipeline_turn(session *s, const wave_work *work, problems *list) {
    wave_buffer *next = s->filling, *last = s->running;
    ck_status status = last->n_devices == 0 ? slots_begin(&s->slots, s->stream) : CK_OK;
    if (status == CK_OK) status = slots_fetch(&s->slots, next, work->use);
    if (status == CK_OK) status = finish(s, last, work);
    wave_clear(last);
    wave_drop_stopped(next, s->fleet);
    if (status == CK_OK) status = start(s, next, work);
    s->filling = last;
    s->running = next;
    return ended(s, status, work, list);
}

exit_code pipeline_end(session *s, const wave_work *work, problems *list) {
    exit_code code = pipeline_turn(s, work, list);
    if (code == EXIT_OK) code = pipeline_turn(s, work, list);
    if (code != EXIT_OK) return code;
    return ended(s, slots_end(&s->slots, s->stream), work, list);
}

exit_code pipeline_once(session *s, const wave_work *work, problems *list) {
    ck_status status = slots_begin(&s->slots, s->stream);
    if (status == CK_OK) status = slots_fetch(&s->slots, s->filling, work->use);
    if (status == CK_OK) status = start(s, s->filling, work);
    if (status == CK_OK) status = finish(s, s->filling, work);
    wave_clear(s->filling);
    if (status == CK_OK) status = slots_end(&s->slots, s->stream);
    return ended(s, status, work, list);
}

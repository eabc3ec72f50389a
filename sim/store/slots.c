#include "store/slots.h"

#include "support/kernel_problem.h"

/* Of an array that lies far; the other arrays of the slot are the fleet's. */
static ck_status take(const fleet *f, bool far, int64_t floats, const char *what, float *home, float **out) {
    *out = home;
    return far ? ck_alloc(f->backend, (size_t)floats * sizeof(float), what, (void **)out) : CK_OK;
}

static ck_status open_slot(const fleet *f, int64_t floats, slot *one) {
    bool all = f->packs_at == PACKS_FAR;
    ck_status status = take(f, all, floats, "adapters of a wave", f->parameters, &one->packs.parameters);
    THEN(status, take(f, true, floats, "first moments of a wave", f->moment1, &one->packs.moment1));
    THEN(status, take(f, true, floats, "second moments of a wave", f->moment2, &one->packs.moment2));
    THEN(status, ck_event_create(f->backend, &one->parameters));
    THEN(status, ck_event_create(f->backend, &one->moments));
    return THEN(status, ck_event_create(f->backend, &one->left));
}

exit_code slots_create(slots *s, const fleet *f, int64_t floats, problems *list) {
    *s = (slots){.fleet = f};
    if (f->packs_at == PACKS_NEAR) return EXIT_OK;
    ck_status status = ck_stream_create(f->backend, &s->copies);
    THEN(status, ck_event_create(f->backend, &s->moment));
    for (int i = 0; i < SLOTS && status == CK_OK; i++) status = open_slot(f, floats, &s->slot[i]);
    return kernel_problem(list, f->backend, status, "allocating the packs of waves");
}

void slots_destroy(slots *s) {
    if (!s->copies) return;
    ck_stream_destroy(s->copies);
    ck_event_destroy(s->moment);
    for (int i = 0; i < SLOTS; i++) {
        slot *one = &s->slot[i];
        if (s->fleet->packs_at == PACKS_FAR) ck_free(s->fleet->backend, one->packs.parameters);
        ck_free(s->fleet->backend, one->packs.moment1);
        ck_free(s->fleet->backend, one->packs.moment2);
        ck_event_destroy(one->parameters);
        ck_event_destroy(one->moments);
        ck_event_destroy(one->left);
    }
    *s = (slots){0};
}

static int far_arrays(packs_memory packs_at) {
    return packs_at == PACKS_NEAR ? 0 : packs_at == MOMENTS_FAR ? 2 : 3;
}

size_t slots_bytes(packs_memory packs_at, int64_t floats) {
    return SLOTS * (size_t)far_arrays(packs_at) * (size_t)floats * sizeof(float);
}

size_t slots_traffic(packs_memory packs_at, packs_use use, int64_t floats) {
    size_t array = (size_t)floats * sizeof(float);
    return use == PACKS_UPDATED    ? 2 * (size_t)far_arrays(packs_at) * array
           : packs_at == PACKS_FAR ? array
                                   : 0;
}

/* ---- Copies ---- */

/* One array of all packs of the wave, in runs of neighbours. */
static ck_status move(const slots *s, const wave_buffer *w, float *near, float *far, bool home) {
    for (int i = 0; i < w->n_devices;) {
        int64_t at_home = s->fleet->devices[w->device_index[i]].pack, in_slot = w->devices[i].gradients,
                floats = 0;
        for (; i < w->n_devices; i++) {
            const device *d = &s->fleet->devices[w->device_index[i]];
            if (d->pack != at_home + floats || w->devices[i].gradients != in_slot + floats) break;
            floats += s->fleet->shapes[d->shape].total;
        }
        float *to = home ? far + at_home : near + in_slot;
        const float *from = home ? near + in_slot : far + at_home;
        (void)ck_copy(s->copies, to, from, (size_t)floats * sizeof(float));
    }
    return ck_stream_status(s->copies);
}

static ck_status move_parameters(const slots *s, const wave_buffer *w, bool home) {
    const fleet *f = s->fleet;
    return f->packs_at == PACKS_FAR ? move(s, w, s->slot[w->slot].packs.parameters, f->parameters, home)
                                    : CK_OK;
}

static ck_status move_moments(const slots *s, const wave_buffer *w, bool home) {
    const packs_view *near = &s->slot[w->slot].packs;
    (void)move(s, w, near->moment1, s->fleet->moment1, home);
    return move(s, w, near->moment2, s->fleet->moment2, home);
}

/* What the second stream is given from now on comes after all that the first was given so far. */
static ck_status follow(ck_stream *first, ck_event *moment, ck_stream *second) {
    ck_status status = ck_event_record(first, moment);
    return THEN(status, ck_event_await(second, moment));
}

ck_status slots_begin(slots *s, ck_stream *stream) {
    return s->copies ? follow(stream, s->moment, s->copies) : CK_OK;
}

ck_status slots_fetch(slots *s, const wave_buffer *w, packs_use use) {
    const slot *to = &s->slot[w->slot];
    if (!s->copies || w->n_devices == 0) return CK_OK;
    (void)move_parameters(s, w, false);
    (void)ck_event_record(s->copies, to->parameters);
    if (use == PACKS_UPDATED) (void)move_moments(s, w, false);
    return ck_event_record(s->copies, to->moments);
}

ck_status slots_await_parameters(slots *s, const wave_buffer *w, ck_stream *stream) {
    return s->fleet->packs_at == PACKS_FAR ? ck_event_await(stream, s->slot[w->slot].parameters) : CK_OK;
}

ck_status slots_await_moments(slots *s, const wave_buffer *w, ck_stream *stream) {
    return s->copies ? ck_event_await(stream, s->slot[w->slot].moments) : CK_OK;
}

packs_view slots_packs(const slots *s, const wave_buffer *w) {
    const fleet *f = s->fleet;
    return s->copies ? s->slot[w->slot].packs : (packs_view){f->parameters, f->moment1, f->moment2};
}

ck_status slots_leave(slots *s, const wave_buffer *w, packs_use use, ck_stream *stream) {
    if (!s->copies) return CK_OK;
    ck_status status = follow(stream, s->slot[w->slot].left, s->copies);
    if (status != CK_OK || use != PACKS_UPDATED) return status;
    (void)move_parameters(s, w, true);
    return move_moments(s, w, true);
}

ck_status slots_end(slots *s, ck_stream *stream) {
    return s->copies ? follow(s->copies, s->moment, stream) : CK_OK;
}

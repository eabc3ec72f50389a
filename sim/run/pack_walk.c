#include "run/pack_walk.h"

#include "support/processes.h"

static int64_t values_of(const pack_walk *w, packs_array which, int index) {
    const fleet *f = w->session->fleet;
    const device *d = &f->devices[index];
    return which == PACKS_CARRIED && !d->carries ? 0 : f->shapes[d->shape].total;
}

/* This process's copy of a device's values. */
static float *host_copy(const pack_walk *w, packs_array which, int index) {
    const checkpoint *c = w->checkpoint;
    const device *d = &w->session->fleet->devices[index];
    float *const arrays[PACKS_ARRAYS] = {c->parameters, c->moment1, c->moment2, c->carried};
    return arrays[which] + (which == PACKS_CARRIED ? d->carried : d->pack);
}

/* A device's values between process 0 and its owner, whichever this is. */
static exit_code travel(const pack_walk *w, packs_array which, int index, float *values, problems *list) {
    ck_collective *all = w->session->collective;
    int owner = w->session->fleet->owner[index];
    bool home = w->direction == PACKS_TO_OWNERS;
    size_t bytes = (size_t)values_of(w, which, index) * sizeof *values;
    return processes_problem(all, ck_collective_move(all, home ? 0 : owner, home ? owner : 0, values, bytes), list);
}

/* ---- Process 0 ---- */

/* False at the end of the array. */
static bool skip_empty(pack_walk *w) {
    int n = w->session->fleet->n_devices;
    while (w->device < n && values_of(w, w->array, w->device) == 0) w->device++;
    return w->device < n;
}

/* Process 0's devices from here on lie side by side. */
static int64_t own_run(pack_walk *w) {
    const fleet *f = w->session->fleet;
    int64_t count = 0;
    for (; skip_empty(w) && f->owner[w->device] == 0; w->device++) count += values_of(w, w->array, w->device);
    return count;
}

static exit_code next_piece(pack_walk *w, int64_t *count, float **values, problems *list) {
    int index = w->device;
    if (w->session->fleet->owner[index] == 0) {
        *values = host_copy(w, w->array, index);
        *count = own_run(w);
        return EXIT_OK;
    }
    w->device++;
    *values = w->session->pack;
    *count = values_of(w, w->array, index);
    if (w->direction == PACKS_TO_PROCESS_0) return travel(w, w->array, index, w->session->pack, list);
    w->foreign = index;
    return EXIT_OK;
}

static exit_code next(void *context, packs_array which, int64_t first, int64_t *count, float **values, problems *list) {
    pack_walk *w = context;
    if (first == 0) {
        w->array = which;
        w->device = 0;
    }
    skip_empty(w);
    return next_piece(w, count, values, list);
}

static exit_code send_foreign(void *context, problems *list) {
    pack_walk *w = context;
    int index = w->foreign;
    w->foreign = -1;
    return index < 0 ? EXIT_OK : travel(w, w->array, index, w->session->pack, list);
}

/* What a failure left: the content does not matter any more. */
static exit_code walk_to_the_end(pack_walk *w, problems *list) {
    exit_code code = send_foreign(w, list);
    int64_t count;
    float *values;
    for (;; w->array++, w->device = 0) {
        while (code == EXIT_OK && skip_empty(w)) {
            code = next_piece(w, &count, &values, list);
            if (code == EXIT_OK) code = send_foreign(w, list);
        }
        if (w->array == PACKS_CARRIED) return code;
    }
}

/* ---- The others ---- */

static exit_code serve(const pack_walk *w, problems *list) {
    const fleet *f = w->session->fleet;
    exit_code code = EXIT_OK;
    for (packs_array which = PACKS_PARAMETERS; which < PACKS_ARRAYS; which++)
        for (int i = 0; i < f->n_mine && code == EXIT_OK; i++)
            if (values_of(w, which, f->mine[i]) > 0) code = travel(w, which, f->mine[i], host_copy(w, which, f->mine[i]), list);
    return code;
}

/* ---- All ---- */

void pack_walk_begin(pack_walk *w, pack_direction direction, const session *s, checkpoint *c) {
    *w = (pack_walk){.session = s, .checkpoint = c, .direction = direction, .foreign = -1};
    w->pieces = (checkpoint_pieces){.context = w, .next = next, .filled = direction == PACKS_TO_OWNERS ? send_foreign : NULL};
    c->pieces = s->fleet->place.processes > 1 ? &w->pieces : NULL;
}

exit_code pack_walk_end(pack_walk *w, problems *list) {
    exit_code code = EXIT_OK;
    if (w->checkpoint->pieces) code = w->session->fleet->place.process == 0 ? walk_to_the_end(w, list) : serve(w, list);
    w->checkpoint->pieces = NULL;
    return code;
}

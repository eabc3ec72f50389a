#include "engine/pack_walk.h"

#include "support/kernel_problem.h"
#include "support/processes.h"

/* Neighbouring packs travel together up to this size: large enough for the disk, small beside a run. */
enum { PIECE_FLOATS = 1 << 20 };

int64_t pack_walk_floats(const fleet *f) {
    int64_t largest = fleet_largest_pack(f),
            piece = f->n_parameters < PIECE_FLOATS ? f->n_parameters : PIECE_FLOATS;
    return f->place.process == 0 && piece > largest ? piece : largest;
}

static int64_t values_of(const pack_walk *w, packs_array which, int index) {
    const fleet *f = w->fleet;
    const device *d = &f->devices[index];
    return which == PACKS_CARRIED && !d->carries ? 0 : f->shapes[d->shape].total;
}

static bool is_own(const pack_walk *w, int index) {
    const fleet *f = w->fleet;
    return f->owner[index] == f->place.process;
}

/* Whether this walk moves the device's packs, rather than pass them by. */
static bool is_moved(const pack_walk *w, int index) {
    return w->direction != STOPPED_PACKS_TO_OWNERS ||
           (w->fleet->devices[index].stopped && !checkpoint_stopped(w->checkpoint)[index]);
}

/* Between the buffer and the values of this process's devices that begin with the given one. */
static exit_code copy_own(const pack_walk *w, packs_array which, int index, int64_t floats, problems *list) {
    const fleet *f = w->fleet;
    const device *d = &f->devices[index];
    float *const arrays[PACKS_ARRAYS] = {f->parameters, f->moment1, f->moment2, f->carried};
    float *place = arrays[which] + (which == PACKS_CARRIED ? d->carried : d->pack);
    float *piece = w->checkpoint->piece;
    size_t bytes = (size_t)floats * sizeof *place;
    bool saves = w->direction == PACKS_TO_PROCESS_0;
    ck_status status =
        saves ? ck_download(f->stream, piece, place, bytes) : ck_upload(f->stream, place, piece, bytes);
    THEN(status, ck_wait(f->stream));
    return kernel_problem(list, f->backend, status,
                          saves ? "reading the adapters back" : "placing the checkpoint's adapters");
}

/* The buffer between process 0 and the device's owner, whichever this is. */
static exit_code travel(const pack_walk *w, packs_array which, int index, problems *list) {
    ck_collective *all = w->fleet->collective;
    int owner = w->fleet->owner[index];
    bool home = w->direction != PACKS_TO_PROCESS_0;
    size_t bytes = (size_t)values_of(w, which, index) * sizeof *w->checkpoint->piece;
    return processes_problem(
        all, ck_collective_move(all, home ? 0 : owner, home ? owner : 0, w->checkpoint->piece, bytes), list);
}

/* ---- Process 0 ---- */

/* False at the end of the array. */
static bool skip_empty(pack_walk *w) {
    int n = w->fleet->n_devices;
    while (w->device < n && values_of(w, w->array, w->device) == 0) w->device++;
    return w->device < n;
}

/* Steps over one of another process's devices, or over as many of process 0's, which lie side by side, as the
 * buffer holds. */
static int64_t step_over_piece(pack_walk *w) {
    int first = w->device++;
    int64_t room = pack_walk_floats(w->fleet), count = values_of(w, w->array, first);
    if (!is_own(w, first)) return count;
    for (; skip_empty(w) && is_own(w, w->device) && is_moved(w, w->device) == is_moved(w, first);
         w->device++) {
        int64_t more = values_of(w, w->array, w->device);
        if (count + more > room) break;
        count += more;
    }
    return count;
}

static exit_code next(void *context, packs_array which, int64_t first, int64_t *count, float **values,
                      problems *list) {
    pack_walk *w = context;
    if (first == 0) {
        w->array = which;
        w->device = 0;
    }
    skip_empty(w);
    int index = w->device;
    *values = w->checkpoint->piece;
    *count = step_over_piece(w);
    if (w->direction == PACKS_TO_PROCESS_0)
        return is_own(w, index) ? copy_own(w, which, index, *count, list) : travel(w, which, index, list);
    w->read_device = index;
    w->read_floats = *count;
    return EXIT_OK;
}

static exit_code filled(void *context, problems *list) {
    pack_walk *w = context;
    int index = w->read_device;
    w->read_device = -1;
    if (!is_moved(w, index)) return EXIT_OK;
    return is_own(w, index) ? copy_own(w, w->array, index, w->read_floats, list)
                            : travel(w, w->array, index, list);
}

/* What a failure left to be exchanged: the content does not matter any more. */
static exit_code walk_to_the_end(pack_walk *w, problems *list) {
    exit_code code = EXIT_OK;
    if (w->read_device >= 0) w->device = w->read_device;
    for (; w->array < PACKS_ARRAYS; w->array++, w->device = 0)
        for (; code == EXIT_OK && skip_empty(w); w->device++)
            if (!is_own(w, w->device) && is_moved(w, w->device)) code = travel(w, w->array, w->device, list);
    return code;
}

/* ---- The others ---- */

/* After a failed copy, too, process 0 waits for the exchange. */
static exit_code serve_pack(const pack_walk *w, packs_array which, int index, exit_code *copied,
                            problems *list) {
    int64_t floats = values_of(w, which, index);
    bool saves = w->direction == PACKS_TO_PROCESS_0;
    if (floats == 0 || !is_moved(w, index)) return EXIT_OK;
    if (saves && *copied == EXIT_OK) *copied = copy_own(w, which, index, floats, list);
    exit_code code = travel(w, which, index, list);
    if (code == EXIT_OK && !saves && *copied == EXIT_OK) *copied = copy_own(w, which, index, floats, list);
    return code;
}

static exit_code serve(const pack_walk *w, problems *list) {
    const fleet *f = w->fleet;
    exit_code code = EXIT_OK, copied = EXIT_OK;
    for (packs_array which = PACKS_PARAMETERS; which < PACKS_ARRAYS; which++)
        for (int i = 0; i < f->n_local && code == EXIT_OK; i++)
            code = serve_pack(w, which, f->local[i], &copied, list);
    return THEN(code, copied);
}

/* ---- All ---- */

void pack_walk_begin(pack_walk *w, pack_direction direction, const fleet *f, checkpoint *c) {
    *w = (pack_walk){.fleet = f, .checkpoint = c, .direction = direction, .read_device = -1};
    w->pieces = (checkpoint_pieces){
        .context = w, .next = next, .filled = direction == PACKS_TO_PROCESS_0 ? NULL : filled};
    c->pieces = &w->pieces;
}

exit_code pack_walk_end(pack_walk *w, problems *list) {
    exit_code code = w->fleet->place.process == 0 ? walk_to_the_end(w, list) : serve(w, list);
    w->checkpoint->pieces = NULL;
    return code;
}

#include "engine/sampling.h"

#include <stdlib.h>
#include <string.h>

static int larger(int a, int b) {
    return a > b ? a : b;
}

sampling_shape sampling_shape_of(const settings *s, const fleet *f) {
    sampling_shape size = {0};
    if (!s->trace.sampling_windows) return size;
    for (int i = 0; i < f->n_devices; i++) {
        const schedule_totals *all = fleet_totals(f, &f->devices[i]);
        size.train_steps = larger(size.train_steps, all->most_steps[DATA_TRAIN]);
        size.train_batch = larger(size.train_batch, all->batch[DATA_TRAIN]);
        size.valid_steps = larger(size.valid_steps, all->most_steps[DATA_VALID]);
        size.valid_batch = larger(size.valid_batch, all->batch[DATA_VALID]);
        if (f->devices[i].text.train_examples > 0)
            size.of_examples = true;
        else
            size.of_tokens = true;
    }
    return size;
}

static size_t train_count(const sampling_shape *size, int devices) {
    return (size_t)devices * (size_t)size->train_steps * (size_t)size->train_batch;
}

static size_t valid_count(const sampling_shape *size, int devices) {
    return (size_t)devices * (size_t)size->valid_steps * (size_t)size->valid_batch;
}

size_t sampling_bytes(const sampled_windows *w) {
    if (w->size.train_steps == 0) return 0;
    return (train_count(&w->size, w->n_devices) + valid_count(&w->size, w->n_devices) +
            2 * (size_t)w->n_devices) *
           sizeof(int64_t);
}

exit_code sampling_create(sampled_windows *w, const fleet *f, const metric_row *numbers, problems *list) {
    *w = (sampled_windows){.size = numbers->shape.sampling, .n_devices = f->n_devices};
    if (w->size.train_steps == 0) return EXIT_OK;
    w->train = metric_longs(numbers, METRIC_TRAIN_WINDOWS);
    w->valid = metric_longs(numbers, METRIC_VALID_WINDOWS);
    w->first_train = calloc((size_t)f->n_devices, sizeof *w->first_train);
    w->first_valid = calloc((size_t)f->n_devices, sizeof *w->first_valid);
    if (w->first_train && w->first_valid) return EXIT_OK;
    return problem(
        list, EXIT_ENVIRONMENT,
        "out of memory for the sampled windows of a round; trace.sampling_windows: false does without");
}

void sampling_destroy(sampled_windows *w) {
    free(w->first_train);
    free(w->first_valid);
}

/* The four arrays, in order, and their sizes in bytes. */
static void arrays_of(const sampled_windows *w, int64_t *arrays[4], size_t sizes[4]) {
    arrays[0] = w->train, arrays[1] = w->valid, arrays[2] = w->first_train, arrays[3] = w->first_valid;
    sizes[0] = train_count(&w->size, w->n_devices) * sizeof(int64_t);
    sizes[1] = valid_count(&w->size, w->n_devices) * sizeof(int64_t);
    sizes[2] = sizes[3] = (size_t)w->n_devices * sizeof(int64_t);
}

void sampling_pack(const sampled_windows *w, uint8_t *out) {
    int64_t *arrays[4];
    size_t sizes[4];
    if (w->size.train_steps == 0) return;
    arrays_of(w, arrays, sizes);
    for (int i = 0; i < 4; out += sizes[i++])
        if (sizes[i] > 0) memcpy(out, arrays[i], sizes[i]);
}

void sampling_unpack(sampled_windows *w, const uint8_t *bytes) {
    int64_t *arrays[4];
    size_t sizes[4];
    if (w->size.train_steps == 0) return;
    arrays_of(w, arrays, sizes);
    for (int i = 0; i < 4; bytes += sizes[i++])
        if (sizes[i] > 0) memcpy(arrays[i], bytes, sizes[i]);
}

void sampling_clear(sampled_windows *w, const fleet *f) {
    if (w->size.train_steps == 0) return;
    size_t trained = train_count(&w->size, w->n_devices), validated = valid_count(&w->size, w->n_devices);
    for (size_t i = 0; i < trained; i++) w->train[i] = -1;
    for (size_t i = 0; i < validated; i++) w->valid[i] = -1;
    for (int i = 0; i < w->n_devices; i++) {
        w->first_train[i] = f->devices[i].expert_steps;
        w->first_valid[i] = f->devices[i].router_steps;
    }
}

int64_t *sampling_place(const sampled_windows *w, const fleet *f, const device *d, data_part part,
                        int index) {
    if (w->size.train_steps == 0) return NULL;
    int64_t i = d - f->devices;
    if (part == DATA_TRAIN)
        return w->train +
               (i * w->size.train_steps + d->expert_steps - w->first_train[i]) * w->size.train_batch + index;
    return w->valid + (i * w->size.valid_steps + d->router_steps - w->first_valid[i]) * w->size.valid_batch +
           index;
}

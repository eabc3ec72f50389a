#include "store/waves.h"

#include <stdlib.h>
#include <string.h>

#include "population/variants.h"

exit_code wave_create(const wave_limits *limits, int slot, wave_buffer **out, problems *list) {
    size_t n = (size_t)limits->max_sequences, tokens = (size_t)limits->max_tokens;
    wave_buffer *w = calloc(1, sizeof *w);
    *out = w;
    if (!w) return problem(list, EXIT_ENVIRONMENT, "out of memory for a wave");
    w->limits = *limits;
    w->slot = slot;
    w->first_token = malloc((n + 1) * sizeof *w->first_token);
    w->first_sequence = malloc((n + 1) * sizeof *w->first_sequence);
    w->devices = malloc(n * sizeof *w->devices);
    w->device_index = malloc(n * sizeof *w->device_index);
    w->fault = malloc(n * sizeof *w->fault);
    w->tokens = malloc(tokens * sizeof *w->tokens);
    w->targets = malloc(tokens * sizeof *w->targets);
    w->place = malloc(n * sizeof *w->place);
    w->counted = malloc(n * sizeof *w->counted);
    w->loss = malloc(n * sizeof *w->loss);
    if (!w->first_token || !w->first_sequence || !w->devices || !w->device_index || !w->fault || !w->tokens ||
        !w->targets || !w->place || !w->counted || !w->loss)
        return problem(list, EXIT_ENVIRONMENT, "out of memory for a wave of %lld tokens",
                       (long long)limits->max_tokens);
    wave_clear(w);
    return EXIT_OK;
}

void wave_destroy(wave_buffer *w) {
    if (!w) return;
    free(w->first_token);
    free(w->first_sequence);
    free(w->devices);
    free(w->device_index);
    free(w->fault);
    free(w->tokens);
    free(w->targets);
    free(w->place);
    free(w->counted);
    free(w->loss);
    free(w);
}

size_t wave_bytes(const wave_limits *limits) {
    size_t a_sequence = 2 * sizeof(int64_t) + sizeof(int32_t) + sizeof(ck_wave_device) + sizeof(int) +
                        2 * sizeof(int32_t) + sizeof(float);
    return (size_t)limits->max_sequences * a_sequence + (size_t)limits->max_tokens * 2 * sizeof(int32_t);
}

void wave_clear(wave_buffer *w) {
    w->n_devices = w->n_sequences = 0;
    w->n_packs = 0;
    w->first_token[0] = 0;
    w->first_sequence[0] = 0;
}

int64_t wave_pack(const fleet *f, int device_index, uint32_t learn) {
    return learn || f->packs_at == PACKS_FAR ? f->shapes[f->devices[device_index].shape].gradient_total : 0;
}

bool wave_fits(const wave_buffer *w, int sequences, int64_t tokens, int64_t packs) {
    return w->n_sequences + sequences <= w->limits.max_sequences &&
           w->first_token[w->n_sequences] + tokens <= w->limits.max_tokens &&
           w->n_packs + packs <= w->limits.max_packs;
}

void wave_add_device(wave_buffer *w, const fleet *f, int device_index, uint32_t learn) {
    const device *d = &f->devices[device_index];
    w->device_index[w->n_devices] = device_index;
    w->devices[w->n_devices] = (ck_wave_device){.parameters = f->packs_at == PACKS_FAR ? w->n_packs : d->pack,
                                                .gradients = w->n_packs,
                                                .shape = d->shape,
                                                .learn = learn,
                                                .variant = variants_of(f, d->population)};
    w->n_devices++;
    w->first_sequence[w->n_devices] = w->n_sequences;
    w->n_packs += wave_pack(f, device_index, learn);
}

exit_code wave_add_window(wave_buffer *w, const data_window *window, problems *list) {
    int q = w->n_sequences;
    int64_t first = w->first_token[q];
    exit_code code = data_window_read(window, w->tokens + first, w->targets + first, list);
    if (code != EXIT_OK) return code;
    w->place[q] = window->place;
    w->counted[q] = window->tokens - window->skipped;
    w->n_sequences++;
    w->first_token[w->n_sequences] = first + window->tokens;
    w->first_sequence[w->n_devices] = w->n_sequences;
    return EXIT_OK;
}

int64_t wave_tokens(const wave_buffer *w, int i) {
    return w->first_token[w->first_sequence[i + 1]] - w->first_token[w->first_sequence[i]];
}

int64_t wave_counted(const wave_buffer *w, int i) {
    int64_t counted = 0;
    for (int q = w->first_sequence[i]; q < w->first_sequence[i + 1]; q++) counted += w->counted[q];
    return counted;
}

/* A device's windows, and what comes with each, to where the wave ends so far. */
static void keep_windows(wave_buffer *w, int first, int end) {
    for (int q = first; q < end; q++) {
        int64_t from = w->first_token[q], to = w->first_token[w->n_sequences],
                tokens = w->first_token[q + 1] - from;
        memmove(w->tokens + to, w->tokens + from, (size_t)tokens * sizeof *w->tokens);
        memmove(w->targets + to, w->targets + from, (size_t)tokens * sizeof *w->targets);
        w->place[w->n_sequences] = w->place[q];
        w->counted[w->n_sequences] = w->counted[q];
        w->n_sequences++;
        w->first_token[w->n_sequences] = to + tokens;
    }
}

static bool any_stopped(const wave_buffer *w, const fleet *f) {
    for (int i = 0; i < w->n_devices; i++)
        if (f->devices[w->device_index[i]].stopped) return true;
    return false;
}

void wave_drop_stopped(wave_buffer *w, const fleet *f) {
    int n = w->n_devices, first = 0;
    if (!any_stopped(w, f)) return;
    w->n_devices = w->n_sequences = 0;
    for (int i = 0; i < n; i++) {
        int end = w->first_sequence[i + 1];
        if (!f->devices[w->device_index[i]].stopped) {
            keep_windows(w, first, end);
            w->devices[w->n_devices] = w->devices[i];
            w->device_index[w->n_devices] = w->device_index[i];
            w->first_sequence[++w->n_devices] = w->n_sequences;
        }
        first = end;
    }
}

ck_wave wave_view(const wave_buffer *w, const fleet *f, const float *parameters, float *gradients) {
    ck_wave wave = {.n_devices = w->n_devices,
                    .n_sequences = w->n_sequences,
                    .first_token = w->first_token,
                    .first_sequence = w->first_sequence,
                    .devices = w->devices,
                    .n_shapes = f->n_shapes,
                    .shapes = f->shapes,
                    .tokens = w->tokens,
                    .targets = w->targets,
                    .parameters = parameters,
                    .gradients = gradients,
                    .fault = w->fault};
    variants_view(f, &wave);
    return wave;
}

#include "train/waves.h"

#include <stdlib.h>

exit_code wave_create(const wave_limits *limits, wave_buffer **out, problems *list) {
    size_t n = (size_t)limits->max_sequences, tokens = (size_t)limits->max_tokens;
    wave_buffer *w = calloc(1, sizeof *w);
    *out = w;
    if (!w) return problem(list, EXIT_ENVIRONMENT, "out of memory for a wave");
    w->limits = *limits;
    w->first_token = malloc((n + 1) * sizeof *w->first_token);
    w->first_sequence = malloc((n + 1) * sizeof *w->first_sequence);
    w->devices = malloc(n * sizeof *w->devices);
    w->device_index = malloc(n * sizeof *w->device_index);
    w->fault = malloc(n * sizeof *w->fault);
    w->tokens = malloc(tokens * sizeof *w->tokens);
    w->targets = malloc(tokens * sizeof *w->targets);
    w->loss = malloc(n * sizeof *w->loss);
    if (!w->first_token || !w->first_sequence || !w->devices || !w->device_index || !w->fault || !w->tokens || !w->targets || !w->loss)
        return problem(list, EXIT_ENVIRONMENT, "out of memory for a wave of %lld tokens", (long long)limits->max_tokens);
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
    free(w->loss);
    free(w);
}

size_t wave_bytes(const wave_limits *limits) {
    size_t a_sequence = sizeof(int64_t) + sizeof(int32_t) + sizeof(ck_wave_device) + sizeof(int) + sizeof(int32_t) + sizeof(float);
    return (size_t)limits->max_sequences * a_sequence + (size_t)limits->max_tokens * 2 * sizeof(int32_t);
}

void wave_clear(wave_buffer *w) {
    w->n_devices = w->n_sequences = 0;
    w->n_gradients = 0;
    w->first_token[0] = 0;
    w->first_sequence[0] = 0;
}

bool wave_fits(const wave_buffer *w, int sequences, int64_t tokens, int64_t gradients) {
    return w->n_sequences + sequences <= w->limits.max_sequences && w->first_token[w->n_sequences] + tokens <= w->limits.max_tokens &&
           w->n_gradients + gradients <= w->limits.max_gradients;
}

void wave_add_device(wave_buffer *w, const fleet *f, int device_index, uint32_t learn) {
    const device *d = &f->devices[device_index];
    w->device_index[w->n_devices] = device_index;
    w->devices[w->n_devices] = (ck_wave_device){.parameters = d->pack, .gradients = w->n_gradients, .shape = d->shape, .learn = learn};
    w->n_devices++;
    w->first_sequence[w->n_devices] = w->n_sequences;
    if (learn) w->n_gradients += f->shapes[d->shape].total;
}

void wave_add_window(wave_buffer *w, int n_tokens, int32_t **tokens, int32_t **targets) {
    int64_t first = w->first_token[w->n_sequences];
    *tokens = w->tokens + first;
    *targets = w->targets + first;
    w->n_sequences++;
    w->first_token[w->n_sequences] = first + n_tokens;
    w->first_sequence[w->n_devices] = w->n_sequences;
}

ck_wave wave_view(const wave_buffer *w, const fleet *f, float *gradients) {
    return (ck_wave){.n_devices = w->n_devices,
                     .n_sequences = w->n_sequences,
                     .first_token = w->first_token,
                     .first_sequence = w->first_sequence,
                     .devices = w->devices,
                     .n_shapes = f->n_shapes,
                     .shapes = f->shapes,
                     .tokens = w->tokens,
                     .targets = w->targets,
                     .parameters = f->parameters,
                     .gradients = gradients,
                     .fault = w->fault};
}

/* waves.h - the host side of a wave: devices and their windows, which may differ in length, are added until
 * it is full, then a program runs over it. */
#ifndef COHORT_WAVES_H
#define COHORT_WAVES_H

#include <stdbool.h>
#include <stdint.h>

#include "data/data.h"
#include "kernels.h"
#include "population/fleet.h"
#include "support/problems.h"

/* What a wave can hold. A device of a step needs room for all its windows and for its gradients. A device
 * whose pack lies far needs room for the copy of the pack (slots.h). Gradients and copy have the same place
 * among the wave's packs, in two arrays. */
typedef struct {
    int32_t max_sequences;
    int64_t max_tokens, max_packs; /* floats of the packs */
} wave_limits;

typedef struct {
    wave_limits limits;
    int slot; /* which of the two waves that take turns, and of the slots */
    int32_t n_devices, n_sequences;
    int64_t n_packs;           /* floats */
    int64_t *first_token;      /* [max_sequences + 1] */
    int32_t *first_sequence;   /* [max_sequences + 1] */
    ck_wave_device *devices;   /* [max_sequences] */
    int *device_index;         /* [max_sequences] into fleet.devices */
    int32_t *fault;            /* [max_sequences] */
    int32_t *tokens, *targets; /* [max_tokens] */
    int64_t *place;            /* [max_sequences] of a window in its device's text (data/data.h) */
    int32_t *counted;          /* [max_sequences] targets whose loss counts */
    float *loss;               /* [max_sequences] host copy */
} wave_buffer;

exit_code wave_create(const wave_limits *limits, int slot, wave_buffer **out, problems *list);
void wave_destroy(wave_buffer *w); /* NULL is fine */
size_t wave_bytes(const wave_limits *limits);

void wave_clear(wave_buffer *w);
/* Floats that a device will take of the wave's packs. */
int64_t wave_pack(const fleet *f, int device_index, uint32_t learn);
/* Whether further windows of a device, and packs of so many floats, still fit. What does not fit into an
 * empty wave fits into none. */
bool wave_fits(const wave_buffer *w, int sequences, int64_t tokens, int64_t packs);
/* Starts a device; learn = 0: no gradients. The windows that follow are its own. */
void wave_add_device(wave_buffer *w, const fleet *f, int device_index, uint32_t learn);
/* Adds a window to the last device, and reads it. */
exit_code wave_add_window(wave_buffer *w, const data_window *window, problems *list);
/* Of the wave's device i: its tokens, and those of them whose targets are counted. */
int64_t wave_tokens(const wave_buffer *w, int i);
int64_t wave_counted(const wave_buffer *w, int i);
/* Takes out the devices that have stopped since they were added. The others' packs stay where they are. */
void wave_drop_stopped(wave_buffer *w, const fleet *f);

/* What ck_run() takes; valid until the wave changes. parameters: where the packs are while it computes. */
ck_wave wave_view(const wave_buffer *w, const fleet *f, const float *parameters, float *gradients);

#endif

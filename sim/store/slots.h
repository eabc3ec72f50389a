/* slots.h - how a wave gets its packs where they lie far (fleet.packs_at): in host memory, behind a GPU's
 * bus.
 *
 *   far memory --fetch--> slot: the packs of one wave, in near memory --leave--> far memory
 *
 * Two slots take turns. Copies have a stream of their own: while one wave computes, the packs of the wave
 * before go home, and those of the next come in their place. Packs that are neighbours are copied together.
 * Arrays that lie near are used where they lie. If all arrays lie near, there are no slots, and the
 * functions here do nothing. Bytes over the bus, of a wave whose packs have P floats:
 *
 *                                MOMENTS_FAR                    PACKS_FAR
 *   PACKS_UPDATED, expert step   8 P and back                   12 P and back
 *   PACKS_READ, all else         none                           4 P
 *
 * A router step changes few values, so its optimiser works on the far packs in place. So does whatever
 * touches carried gradients (as released only). This is safe because a device is in only one wave of a step.
 * Aggregation and checkpoints work on the far packs in place, too, on the same stream, after slots_end().
 * The packs of the next wave are copied after slots_begin(). */
#ifndef COHORT_SLOTS_H
#define COHORT_SLOTS_H

#include "kernels.h"
#include "population/fleet.h"
#include "store/waves.h"
#include "support/problems.h"

enum { SLOTS = 2 };

typedef enum { PACKS_READ, PACKS_UPDATED } packs_use;

/* Backend memory. */
typedef struct {
    float *parameters, *moment1, *moment2;
} packs_view;

typedef struct {
    packs_view packs;               /* [floats] where those lie far, else the fleet's */
    ck_event *parameters, *moments; /* have arrived */
    ck_event *left;
} slot;

typedef struct {
    const fleet *fleet;
    ck_stream *copies; /* NULL: all packs are near */
    ck_event *moment;  /* of slots_begin() and slots_end() */
    slot slot[SLOTS];
} slots;

/* floats: of the packs of the largest wave. After fleet_allocate(). */
exit_code slots_create(slots *s, const fleet *f, int64_t floats, problems *list);
void slots_destroy(slots *s);
/* Near memory that they take; what a full wave moves over the bus, both ways together. */
size_t slots_bytes(packs_memory packs_at, int64_t floats);
size_t slots_traffic(packs_memory packs_at, packs_use use, int64_t floats);

/* Copies that are issued from now on wait for all that the stream was given so far. */
ck_status slots_begin(slots *s, ck_stream *stream);
/* Starts to copy the packs of a filled wave into its slot: first the parameters, which are enough to run the
 * wave, then the moments. */
ck_status slots_fetch(slots *s, const wave_buffer *w, packs_use use);
/* Work that the stream is given from now on waits until the parameters, or the moments, are in the slot. A
 * device's pack is at ck_wave_device.parameters in `parameters`. In the moments of an expert step it is at
 * the fleet's offset where they are near, else at ck_wave_device.gradients. */
ck_status slots_await_parameters(slots *s, const wave_buffer *w, ck_stream *stream);
ck_status slots_await_moments(slots *s, const wave_buffer *w, ck_stream *stream);
packs_view slots_packs(const slots *s, const wave_buffer *w);
/* Called when the stream was given all work that touches the wave's packs in its slot. Starts to copy home
 * what that work updates. */
ck_status slots_leave(slots *s, const wave_buffer *w, packs_use use, ck_stream *stream);
/* Work that the stream is given from now on waits for all copies so far, and finds packs at home. */
ck_status slots_end(slots *s, ck_stream *stream);

#endif

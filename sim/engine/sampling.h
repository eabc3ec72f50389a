/* sampling.h - which windows every step of a round drew, for /sampling/windows; only where the configuration
 * asks for it. */
#ifndef COHORT_SAMPLING_H
#define COHORT_SAMPLING_H

#include <stddef.h>
#include <stdint.h>

#include "data/data.h"
#include "numbers/metrics.h"
#include "population/fleet.h"
#include "settings/settings.h"
#include "support/problems.h"

typedef struct {
    sampling_shape size; /* all 0: nothing is recorded */
    int n_devices;
    /* [devices, steps, batch] offsets of this round, -1 where none was drawn: metrics, borrowed */
    int64_t *train, *valid;
    int64_t *first_train, *first_valid; /* [devices] steps taken before this round */
} sampled_windows;

/* What a round can draw at most, and of what, once the devices' text is known; all 0 where nobody asked for
 * it. */
sampling_shape sampling_shape_of(const settings *s, const fleet *f);
/* numbers: where the offsets are kept; it must outlive w. */
exit_code sampling_create(sampled_windows *w, const fleet *f, const metric_row *numbers, problems *list);
void sampling_destroy(sampled_windows *w);
size_t sampling_bytes(const sampled_windows *w);

/* What a round has so far, as sampling_bytes() bytes, for a checkpoint within the round. */
void sampling_pack(const sampled_windows *w, uint8_t *out);
void sampling_unpack(sampled_windows *w, const uint8_t *bytes);

/* A round starts. */
void sampling_clear(sampled_windows *w, const fleet *f);
/* Where the offset of window `index` of the step that the device is about to take belongs; NULL: it is not
 * recorded. */
int64_t *sampling_place(const sampled_windows *w, const fleet *f, const device *d, data_part part, int index);

#endif

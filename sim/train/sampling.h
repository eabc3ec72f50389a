/* sampling.h - which windows every step of a round drew, for /sampling/windows; only where the configuration asks for it. */
#ifndef COHORT_SAMPLING_H
#define COHORT_SAMPLING_H

#include <stddef.h>
#include <stdint.h>

#include "config/settings.h"
#include "data/data.h"
#include "population/fleet.h"
#include "problems.h"
#include "trace/trace.h"

typedef struct {
    trace_sampling size; /* all 0: nothing is recorded */
    int n_devices;
    int64_t *train, *valid;             /* [devices, steps, batch] offsets of this round, -1 where none was drawn */
    int64_t *first_train, *first_valid; /* [devices] steps taken before this round */
} sampled_windows;

exit_code sampling_create(sampled_windows *w, const settings *s, const fleet *f, problems *list);
void sampling_destroy(sampled_windows *w);
size_t sampling_bytes(const settings *s, const fleet *f);

/* What a round has so far, as sampling_bytes() bytes, for a checkpoint within the round. */
void sampling_pack(const sampled_windows *w, uint8_t *out);
void sampling_unpack(sampled_windows *w, const uint8_t *bytes);

/* A round starts. */
void sampling_clear(sampled_windows *w, const fleet *f);
/* Where the offset of window `index` of the step that the device is about to take belongs; NULL: it is not recorded. */
int64_t *sampling_place(const sampled_windows *w, const fleet *f, const device *d, data_part part, int index);

#endif

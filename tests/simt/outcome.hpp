/* outcome.hpp - what a run of a conformance case leaves, for comparisons of bits. */
#ifndef COHORT_SIMT_OUTCOME_HPP
#define COHORT_SIMT_OUTCOME_HPP

#include "device.hpp"

extern "C" {
#include "conformance/cases.h"
}

/* Every array that was written, one after the other, then the gradients. */
static inline std::vector<float> conformance_outcome(const rig *r) {
    std::vector<float> all;
    for (const tensor_array &t : r->tensor)
        if (t.after) all.insert(all.end(), t.after, t.after + r->n_tokens * t.columns);
    for (const buffer_array &b : r->buffer)
        if (b.after) all.insert(all.end(), b.after, b.after + b.count);
    for (int d = 0; d < r->n_devices && rig_has_memory(r, PACK_GRADIENTS); d++) {
        const float *gradients = r->pack_after[PACK_GRADIENTS][d];
        all.insert(all.end(), gradients, gradients + rig_shape(r, d)->total);
    }
    return all;
}

#endif

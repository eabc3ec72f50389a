/* carry.c - gradients carried from step to step, per class of a device's parts:
 *
 *   the optimiser's own classes     g = g + c, c = 0          12 bytes a parameter and a clear
 *   the other classes               c = c + g                 12 bytes a parameter
 */
#include "cpu.h"

static void collect(float *restrict gradients, float *restrict carried, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        gradients[i] += carried[i];
        carried[i] = 0;
    }
}

static void keep(float *restrict carried, const float *restrict gradients, int64_t count) {
    for (int64_t i = 0; i < count; i++) carried[i] += gradients[i];
}

static void carry_range(float *carried, float *gradients, int64_t count, bool learned) {
    if (learned)
        collect(gradients, carried, count);
    else
        keep(carried, gradients, count);
}

static void carry_pack(float *carried, float *gradients, const ck_shape *shape, uint32_t learn) {
    ck_span spans[CK_BLOCKS];
    int n = ck_learn_spans(shape, learn, spans);
    for (int i = 0; i < n; i++)
        for (int layer = 0; layer < spans[i].layers; layer++) {
            int64_t at = layer * shape->layer_stride + spans[i].offset;
            carry_range(carried + at, gradients + at, spans[i].count, spans[i].learned);
        }
}

ck_status cpu_carry_devices(ck_stream *stream, float *carried, float *gradients, const ck_shape *shapes,
                            const ck_carry_device *devices, int32_t n_devices) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(stream->backend->threads)
    for (int d = 0; d < n_devices; d++) {
        carry_pack(carried + devices[d].carried, gradients + devices[d].gradients, &shapes[devices[d].shape],
                   devices[d].learn);
    }
    return CK_OK;
}

/* carry.c - gradients carried from step to step, per group of a device's pack:
 *
 *   the optimiser's own group      g = g + c, c = 0          12 bytes a parameter and a clear
 *   the other group                c = c + g                 12 bytes a parameter
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

static void carry_layer(float *carried, float *gradients, const ck_shape *shape, uint32_t learn) {
    int64_t router = (int64_t)shape->router_rows * shape->width; /* the pack's layer begins with the router's rows */
    carry_range(carried, gradients, router, learn & CK_LEARN_ROUTER);
    carry_range(carried + router, gradients + router, shape->layer_stride - router, learn & CK_LEARN_EXPERTS);
}

ck_status cpu_carry_devices(ck_stream *stream, float *carried, float *gradients, const ck_shape *shapes, const ck_carry_device *devices,
                            int32_t n_devices) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(stream->backend->threads)
    for (int d = 0; d < n_devices; d++) {
        const ck_shape *shape = &shapes[devices[d].shape];
        for (int layer = 0; layer < shape->n_layers; layer++) {
            int64_t at = layer * shape->layer_stride;
            carry_layer(carried + devices[d].carried + at, gradients + devices[d].gradients + at, shape, devices[d].learn);
        }
    }
    return CK_OK;
}

/* adamw.c - AdamW on packed parameters, decoupled decay (Loshchilov & Hutter, ICLR 2019, Algorithm 2):
 *
 *   m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
 *       p = p - lr (decay p + (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps))
 *
 * 28 bytes a parameter: reads p, m, v, g, writes p, m, v.
 */
#include "cpu.h"

#include <math.h>

typedef struct {
    float *parameters, *moment1, *moment2;
    const float *gradients;
} pack_view;

static void update(pack_view view, int64_t count, const ck_adamw_hyper *hyper, float weight_decay) {
    float *restrict p = view.parameters, *restrict m = view.moment1, *restrict v = view.moment2;
    const float *restrict g = view.gradients;
    float b1 = hyper->beta1, b2 = hyper->beta2, epsilon = hyper->epsilon,
          keep = 1.0f - hyper->learning_rate * weight_decay;
    float rate = (float)(hyper->learning_rate / (1.0 - pow(hyper->beta1, hyper->step)));
    float correction = (float)(1.0 / sqrt(1.0 - pow(hyper->beta2, hyper->step)));
    for (int64_t i = 0; i < count; i++) {
        float m_new = b1 * m[i] + (1.0f - b1) * g[i];
        float v_new = b2 * v[i] + (1.0f - b2) * g[i] * g[i];
        m[i] = m_new;
        v[i] = v_new;
        p[i] = keep * p[i] - rate * m_new / (sqrtf(v_new) * correction + epsilon);
    }
}

static pack_view moved(pack_view view, int64_t parameters, int64_t moments, int64_t gradients) {
    return (pack_view){view.parameters + parameters, view.moment1 + moments, view.moment2 + moments,
                       view.gradients + gradients};
}

/* view: of the device's pack. */
static void update_pack(pack_view view, const ck_shape *shape, const ck_adamw_device *device) {
    ck_span spans[CK_BLOCKS];
    int n = ck_learn_spans(shape, device->learn, spans);
    for (int i = 0; i < n; i++) {
        const ck_adamw_hyper *hyper = &device->hyper[spans[i].router ? 1 : 0];
        for (int layer = 0; layer < spans[i].layers && spans[i].learned; layer++) {
            int64_t start = layer * shape->layer_stride + spans[i].offset;
            update(moved(view, start, start, start), spans[i].count, hyper, hyper->weight_decay);
        }
    }
}

ck_status cpu_adamw_devices(ck_stream *stream, float *parameters, float *moment1, float *moment2,
                            const float *gradients, const ck_shape *shapes, const ck_adamw_device *devices,
                            int32_t n_devices) {
    pack_view view = {parameters, moment1, moment2, gradients};
#pragma omp parallel for schedule(dynamic, 1) num_threads(stream->backend->threads)
    for (int d = 0; d < n_devices; d++) {
        pack_view pack = moved(view, devices[d].parameters, devices[d].moments, devices[d].gradients);
        update_pack(pack, &shapes[devices[d].shape], &devices[d]);
    }
    return CK_OK;
}

ck_status cpu_adamw_ranges(ck_stream *stream, float *parameters, float *moment1, float *moment2,
                           const float *gradients, const ck_range *ranges, int32_t n_ranges,
                           const ck_adamw_hyper *hyper) {
    pack_view view = {parameters, moment1, moment2, gradients};
#pragma omp parallel for schedule(dynamic, 1) num_threads(stream->backend->threads)
    for (int r = 0; r < n_ranges; r++) {
        int64_t at = ranges[r].offset;
        update(moved(view, at, at, at), ranges[r].count, hyper, ranges[r].weight_decay);
    }
    return CK_OK;
}

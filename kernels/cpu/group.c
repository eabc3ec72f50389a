/* group.c - weighted sums over a group's members in their order, and back: 4 bytes read, or written, a shared
 * value and member; and the gradient of a proximal term, 12 bytes (reads p and g, writes g). */
#include "cpu.h"

#include <string.h>

static void sum_range(const float *parameters, const ck_group *group, int range, float *restrict packed) {
    int64_t count = group->count[range];
    memset(packed, 0, (size_t)count * sizeof(float));
    for (int m = 0; m < group->n_members; m++) {
        const float *restrict from = parameters + group->members[m] +
                                     group->offset[(int64_t)group->layout[m] * group->n_ranges + range];
        float weight = group->weights[m];
        for (int64_t i = 0; i < count; i++) packed[i] += weight * from[i];
    }
}

ck_status cpu_group_sum(ck_stream *stream, const float *parameters, const ck_group *groups, int32_t n_groups,
                        float *packed) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(stream->backend->threads)
    for (int g = 0; g < n_groups; g++) {
        int64_t at = groups[g].packed;
        for (int r = 0; r < groups[g].n_ranges; r++) {
            sum_range(parameters, &groups[g], r, packed + at);
            at += groups[g].count[r];
        }
    }
    return CK_OK;
}

static void spread_to(float *parameters, const ck_group *group, int member, const float *packed) {
    const int64_t *offset = group->offset + (int64_t)group->layout[member] * group->n_ranges;
    for (int r = 0; r < group->n_ranges; r++) {
        memcpy(parameters + group->members[member] + offset[r], packed,
               (size_t)group->count[r] * sizeof(float));
        packed += group->count[r];
    }
}

ck_status cpu_group_spread(ck_stream *stream, float *parameters, const ck_group *groups, int32_t n_groups,
                           const float *packed) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(stream->backend->threads)
    for (int g = 0; g < n_groups; g++) {
        for (int m = 0; m < groups[g].n_members; m++)
            spread_to(parameters, &groups[g], m, packed + groups[g].packed);
    }
    return CK_OK;
}

static void pull(const float *parameters, const ck_group *group, int member, const float *packed,
                 float *gradients) {
    const int64_t *offset = group->offset + (int64_t)group->layout[member] * group->n_ranges;
    float weight = group->weights[member];
    for (int r = 0; r < group->n_ranges; r++) {
        const float *restrict p = parameters + group->members[member] + offset[r];
        float *restrict g = gradients + group->gradients[member] + offset[r];
        for (int64_t i = 0; i < group->count[r]; i++) g[i] += weight * (p[i] - packed[i]);
        packed += group->count[r];
    }
}

ck_status cpu_group_proximal(ck_stream *stream, const float *parameters, const ck_group *groups,
                             int32_t n_groups, const float *packed, float *gradients) {
    for (int g = 0; g < n_groups; g++) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(stream->backend->threads)
        for (int m = 0; m < groups[g].n_members; m++)
            pull(parameters, &groups[g], m, packed + groups[g].packed, gradients);
    }
    return CK_OK;
}

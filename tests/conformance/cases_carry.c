/* Gradients carried from step to step: every shape, each learning one group, both or none, over several
 * steps. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance/cases.h"

enum { WIDTH = 24, FFN = 96, STEPS = 4 };

typedef struct {
    ck_backend *backend;
    ck_stream *stream;
    verdict *verdict;
    ck_shape shapes[SHAPE_SPECS];
    ck_carry_device devices[SHAPE_SPECS];
    int64_t count; /* floats of all packs */
    void *carried, *gradients;
    float *host_carried, *host_gradients, *given; /* given: the gradients before the op */
    double *ref_carried, *ref_gradients;
    uint64_t random;
} world;

static bool worked(world *w, ck_status status) {
    if (status != CK_OK)
        verdict_fail(w->verdict, "%s: status %d: %s", ck_name(w->backend), (int)status,
                     ck_last_error(w->backend));
    return status == CK_OK;
}

static float *floats(int64_t count) {
    float *values = calloc((size_t)count, sizeof *values);
    if (values == NULL) abort();
    return values;
}

/* Packs of gradients lie in the opposite order of the carried ones: an offset that is mixed up is seen. */
static bool world_open(world *w, ck_backend *backend, verdict *c) {
    *w = (world){.backend = backend, .verdict = c, .random = 11};
    for (int d = 0; d < SHAPE_SPECS; d++) {
        w->shapes[d] = wave_shape(d, WIDTH, FFN, WAVE_LAYERS, CK_MLP_GELU);
        w->devices[d] = (ck_carry_device){.carried = w->count, .shape = d};
        w->count += w->shapes[d].total;
    }
    for (int d = 0; d < SHAPE_SPECS; d++)
        w->devices[d].gradients = w->count - w->devices[d].carried - w->shapes[d].total;
    w->host_carried = floats(w->count);
    w->host_gradients = floats(w->count);
    w->given = floats(w->count);
    w->ref_carried = oracle_zeros(w->count);
    w->ref_gradients = oracle_zeros(w->count);
    size_t bytes = (size_t)w->count * sizeof(float);
    return worked(w, ck_stream_create(backend, &w->stream)) &&
           worked(w, ck_alloc(backend, bytes, "carried", &w->carried)) &&
           worked(w, ck_alloc(backend, bytes, "gradients", &w->gradients));
}

static void world_close(world *w) {
    ck_free(w->backend, w->carried);
    ck_free(w->backend, w->gradients);
    ck_stream_destroy(w->stream);
    free(w->host_carried);
    free(w->host_gradients);
    free(w->given);
    free(w->ref_carried);
    free(w->ref_gradients);
}

static bool learned(const ck_carry_device *d, oracle_part part) {
    return (d->learn & oracle_part_class(part)) != 0;
}

static void each_range(world *w, void (*visit)(world *, const ck_carry_device *, oracle_part, oracle_range)) {
    for (int d = 0; d < SHAPE_SPECS; d++)
        for (int l = 0; l < WAVE_LAYERS; l++)
            for (oracle_part part = 0; part < ORACLE_PARTS; part++) {
                oracle_range range = oracle_part_range(&w->shapes[d], l, part);
                if (range.count > 0) visit(w, &w->devices[d], part, range);
            }
}

static void reference(world *w, const ck_carry_device *d, oracle_part part, oracle_range range) {
    double *gradients = w->ref_gradients + d->gradients + range.offset;
    for (int64_t i = 0; i < range.count; i++) gradients[i] = w->given[d->gradients + range.offset + i];
    oracle_carry(w->ref_carried + d->carried + range.offset, gradients, range.count, learned(d, part));
}

static void compare(world *w, const ck_carry_device *d, oracle_part part, oracle_range range) {
    char what[128];
    int64_t carried = d->carried + range.offset, gradients = d->gradients + range.offset;
    snprintf(what, sizeof what, "%s: carried, device %d, %s", ck_name(w->backend), d->shape,
             oracle_part_name(part));
    verdict_near(w->verdict, what, w->host_carried + carried, w->ref_carried + carried, range.count,
                 TOLERANCE_F32);
    snprintf(what, sizeof what, "%s: gradients, device %d, %s", ck_name(w->backend), d->shape,
             oracle_part_name(part));
    verdict_near(w->verdict, what, w->host_gradients + gradients, w->ref_gradients + gradients, range.count,
                 TOLERANCE_F32);
    if (!learned(d, part) &&
        memcmp(w->host_gradients + gradients, w->given + gradients, (size_t)range.count * sizeof(float)) != 0)
        verdict_fail(w->verdict, "%s: changed though they are not collected", what);
}

static bool step(world *w, int number) {
    const uint32_t turns[5] = {CK_LEARN_EXPERTS, CK_LEARN_ROUTER, CK_LEARN_EXPERTS | CK_LEARN_ROUTER, 0,
                               CK_LEARN_EXPERT_B | CK_LEARN_LORA_A};
    size_t bytes = (size_t)w->count * sizeof(float);
    for (int d = 0; d < SHAPE_SPECS; d++) w->devices[d].learn = turns[(d + number) % 5];
    for (int64_t i = 0; i < w->count; i++) w->given[i] = (float)wave_draw(&w->random, 0.1);
    each_range(w, reference);
    if (!worked(w, ck_upload(w->stream, w->gradients, w->given, bytes))) return false;
    if (!worked(w, ck_carry_devices(w->stream, w->carried, w->gradients, w->shapes, w->devices, SHAPE_SPECS)))
        return false;
    if (!worked(w, ck_download(w->stream, w->host_carried, w->carried, bytes))) return false;
    if (!worked(w, ck_download(w->stream, w->host_gradients, w->gradients, bytes)) ||
        !worked(w, ck_wait(w->stream)))
        return false;
    each_range(w, compare);
    return true;
}

static void carried_gradients(ck_backend *backend, verdict *c) {
    world w;
    bool good = world_open(&w, backend, c);
    for (int i = 0; i < STEPS && good; i++) good = step(&w, i);
    world_close(&w);
}

const conformance_case carry_cases[] = {
    {.group = "carry", .variant = {"carried gradients"}, .run_alone = carried_gradients}, {0}};

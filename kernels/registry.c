/* registry.c - the list of backends, and the calls that only forward to one. */
#include "backend.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* In order of preference. NULL ends the list. */
static const ck_driver *const drivers[] = {
#ifdef COHORT_CUDA
    &ck_cuda_driver,
#endif
#ifdef COHORT_CPU
    &ck_cpu_driver,
#endif
    NULL};
enum { N_DRIVERS = sizeof drivers / sizeof drivers[0] - 1 };

/* A backend that this build lacks still explains itself. */
static ck_backend_info infos[N_DRIVERS + 1];
static _Thread_local char open_error[512] = "";

ck_status ck_fail(ck_backend *backend, ck_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(backend ? backend->error : open_error, sizeof open_error, format, arguments);
    va_end(arguments);
    return status;
}

const ck_backend_info *ck_backends(int *count) {
    for (int i = 0; i < N_DRIVERS; i++)
        infos[i] = (ck_backend_info){drivers[i]->name, drivers[i]->unavailable()};
    *count = N_DRIVERS;
#ifndef COHORT_CUDA
    infos[(*count)++] = (ck_backend_info){
        "cuda", "this build has no CUDA backend, because nvcc or a GPU was missing when it was built"};
#endif
    return infos;
}

ck_status ck_open(const char *name, int threads, ck_backend **out) {
    *out = NULL;
    if (threads < 0 || threads > CK_MAX_THREADS)
        return ck_fail(NULL, CK_BAD_ARGUMENT, "threads must be between 0 (one per core) and %d, not %d",
                       CK_MAX_THREADS, threads);
    for (int i = 0; i < N_DRIVERS; i++) {
        const char *reason = drivers[i]->unavailable();
        bool automatic = strcmp(name, "auto") == 0;
        if (automatic && !reason) return drivers[i]->open(threads, out);
        if (strcmp(name, drivers[i]->name) != 0) continue;
        if (reason) return ck_fail(NULL, CK_UNAVAILABLE, "backend %s is not available: %s", name, reason);
        return drivers[i]->open(threads, out);
    }
    int count;
    const ck_backend_info *known = ck_backends(&count);
    for (int i = 0; i < count; i++) {
        if (strcmp(name, known[i].name) == 0 || strcmp(name, "auto") == 0)
            return ck_fail(NULL, CK_UNAVAILABLE, "backend %s is not available: %s", known[i].name,
                           known[i].unavailable);
    }
    return ck_fail(NULL, CK_UNAVAILABLE, "there is no backend '%s'; use auto, cpu or cuda", name);
}

void ck_close(ck_backend *backend) {
    if (backend) backend->driver->close(backend);
}

const char *ck_name(const ck_backend *backend) {
    return backend->driver->name;
}

const char *ck_hardware(const ck_backend *backend) {
    return backend->hardware;
}

int ck_threads(const ck_backend *backend) {
    return backend->threads;
}

const char *ck_last_error(const ck_backend *backend) {
    return backend ? backend->error : open_error;
}

size_t ck_allocated_bytes(const ck_backend *backend) {
    return backend->allocated_bytes;
}

ck_status ck_alloc(ck_backend *backend, size_t bytes, const char *what, void **out) {
    ck_status status = backend->driver->alloc(backend, bytes, out);
    if (status)
        return ck_fail(backend, status, "cannot allocate %.1f MiB for %s", (double)bytes / 1048576.0, what);
    return CK_OK;
}

ck_status ck_alloc_far(ck_backend *backend, size_t bytes, const char *what, void **out) {
    if (!backend->driver->alloc_far) return ck_alloc(backend, bytes, what, out);
    ck_status status = backend->driver->alloc_far(backend, bytes, out);
    if (status)
        return ck_fail(backend, status, "cannot allocate %.1f MiB of pinned host memory for %s",
                       (double)bytes / 1048576.0, what);
    return CK_OK;
}

size_t ck_memory_bytes(const ck_backend *backend) {
    return backend->driver->memory_bytes ? backend->driver->memory_bytes(backend) : SIZE_MAX;
}

void ck_free(ck_backend *backend, void *memory) {
    if (memory) backend->driver->free(backend, memory);
}

ck_status ck_stream_create(ck_backend *backend, ck_stream **out) {
    ck_status status = backend->driver->stream_create(backend, out);
    if (status) return ck_fail(backend, status, "cannot create a stream");
    (*out)->status = CK_OK;
    return CK_OK;
}

ck_status ck_stream_status(const ck_stream *stream) {
    return stream->status;
}

/* After a failure nothing more is issued. */
#define ISSUE(stream, call)                                                                                  \
    ((stream)->status ? (stream)->status : ((stream)->status = (stream)->backend->driver->call))

void ck_stream_destroy(ck_stream *stream) {
    if (stream) stream->backend->driver->stream_destroy(stream);
}

ck_status ck_copy(ck_stream *stream, void *to, const void *from, size_t bytes) {
    return ISSUE(stream, copy(stream, to, from, bytes));
}

ck_status ck_upload(ck_stream *stream, void *to, const void *host, size_t bytes) {
    return ISSUE(stream, upload(stream, to, host, bytes));
}

ck_status ck_download(ck_stream *stream, void *host, const void *from, size_t bytes) {
    return ISSUE(stream, download(stream, host, from, bytes));
}

ck_status ck_zero(ck_stream *stream, void *memory, size_t bytes) {
    return ISSUE(stream, zero(stream, memory, bytes));
}

ck_status ck_wait(ck_stream *stream) {
    ck_status issued = stream->status, waited = stream->backend->driver->wait(stream);
    stream->status = CK_OK;
    return issued ? issued : waited;
}

ck_status ck_adamw_devices(ck_stream *stream, float *parameters, float *moment1, float *moment2,
                           const float *gradients, const ck_shape *shapes, const ck_adamw_device *devices,
                           int32_t n_devices) {
    return ISSUE(stream,
                 adamw_devices(stream, parameters, moment1, moment2, gradients, shapes, devices, n_devices));
}

ck_status ck_carry_devices(ck_stream *stream, float *carried, float *gradients, const ck_shape *shapes,
                           const ck_carry_device *devices, int32_t n_devices) {
    return ISSUE(stream, carry_devices(stream, carried, gradients, shapes, devices, n_devices));
}

ck_status ck_adamw_ranges(ck_stream *stream, float *parameters, float *moment1, float *moment2,
                          const float *gradients, const ck_range *ranges, int32_t n_ranges,
                          const ck_adamw_hyper *hyper) {
    return ISSUE(stream,
                 adamw_ranges(stream, parameters, moment1, moment2, gradients, ranges, n_ranges, hyper));
}

ck_status ck_group_sum(ck_stream *stream, const float *parameters, const ck_group *groups, int32_t n_groups,
                       float *packed) {
    return ISSUE(stream, group_sum(stream, parameters, groups, n_groups, packed));
}

ck_status ck_group_spread(ck_stream *stream, float *parameters, const ck_group *groups, int32_t n_groups,
                          const float *packed) {
    return ISSUE(stream, group_spread(stream, parameters, groups, n_groups, packed));
}

ck_status ck_group_proximal(ck_stream *stream, const float *parameters, const ck_group *groups,
                            int32_t n_groups, const float *packed, float *gradients) {
    return ISSUE(stream, group_proximal(stream, parameters, groups, n_groups, packed, gradients));
}

bool ck_supports(const ck_backend *backend, ck_precision precision) {
    return backend->driver->supports(backend, precision);
}

/* ---- Events ---- */

ck_status ck_event_create(ck_backend *backend, ck_event **out) {
    ck_status status = backend->driver->event_create(backend, out);
    return status ? ck_fail(backend, status, "cannot create an event") : CK_OK;
}

void ck_event_destroy(ck_event *event) {
    if (event) event->backend->driver->event_destroy(event);
}

ck_status ck_event_record(ck_stream *stream, ck_event *event) {
    return ISSUE(stream, event_record(stream, event));
}

ck_status ck_event_await(ck_stream *stream, ck_event *event) {
    return ISSUE(stream, event_await(stream, event));
}

double ck_event_seconds(const ck_event *from, const ck_event *to) {
    return from->backend->driver->event_seconds(from, to);
}

/* ---- Measuring ---- */

ck_status ck_capture_begin(ck_stream *stream) {
    const ck_driver *driver = stream->backend->driver;
    if (!driver->capture_begin)
        return ck_fail(stream->backend, CK_UNAVAILABLE, "the %s backend has no graphs", driver->name);
    return driver->capture_begin(stream);
}

ck_status ck_capture_end(ck_stream *stream, ck_graph **out) {
    *out = NULL;
    return stream->backend->driver->capture_end(stream, out);
}

ck_status ck_graph_launch(ck_stream *stream, ck_graph *graph) {
    return ISSUE(stream, graph_launch(stream, graph));
}

void ck_graph_destroy(ck_graph *graph) {
    if (graph) graph->backend->driver->graph_destroy(graph);
}

const char *ck_note(const ck_backend *backend) {
    return backend->driver->note ? backend->driver->note(backend) : "";
}

size_t ck_cache_bytes(const ck_backend *backend) {
    return backend->driver->cache_bytes(backend);
}

size_t ck_ceiling_bytes(const ck_backend *backend) {
    return backend->driver->ceiling_bytes ? backend->driver->ceiling_bytes(backend) : 0;
}

ck_ceiling ck_measure_ceiling(ck_backend *backend, ck_precision precision) {
    ck_ceiling out = {0};
    backend->driver->ceiling(backend, precision, &out);
    return out;
}

double ck_copy_rate(ck_backend *backend) {
    return backend->driver->copy_rate(backend);
}

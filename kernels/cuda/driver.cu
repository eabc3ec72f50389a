/* driver.cu - the CUDA backend: memory, streams, events, and the table of calls. */
#include "driver.hpp"

#include <stdio.h>
#include <stdlib.h>

static cuda_backend *of(ck_backend *backend) {
    return reinterpret_cast<cuda_backend *>(backend);
}

static cuda_stream *of(ck_stream *stream) {
    return reinterpret_cast<cuda_stream *>(stream);
}

static ck_status issued(ck_stream *stream, const char *what, const char *problem) {
    return cuda_status(stream->backend, CK_FAILED, what, problem);
}

/* ---- Backend ---- */

static ck_status cuda_open(int threads, ck_backend **out) {
    char wrong[448];
    (void)threads;
    if (!cuda_read_limits(getenv("COHORT_CUDA_LIMITS"), wrong, sizeof wrong))
        return ck_fail(nullptr, CK_BAD_ARGUMENT, "%s", wrong);
    cuda_backend *backend = static_cast<cuda_backend *>(calloc(1, sizeof *backend));
    if (!backend) return ck_fail(nullptr, CK_NO_MEMORY, "cannot allocate the CUDA backend");
    const char *problem = gpu_describe(&backend->gpu);
    if (problem) {
        free(backend);
        return ck_fail(nullptr, CK_UNAVAILABLE, "the GPU does not answer: %s", problem);
    }
    backend->base.driver = &ck_cuda_driver;
    backend->base.threads = 1;
    snprintf(backend->base.hardware, sizeof backend->base.hardware, "%s", backend->gpu.name);
    *out = &backend->base;
    return CK_OK;
}

static void cuda_close(ck_backend *backend) {
    free(backend);
}

/* ---- Memory ---- */

const cuda_block *cuda_block_of(const ck_backend *backend, const void *address) {
    const char *at = static_cast<const char *>(address);
    for (const cuda_block *b = reinterpret_cast<const cuda_backend *>(backend)->blocks; b; b = b->next)
        if (at >= b->memory && at < b->memory + b->bytes) return b;
    return nullptr;
}

const char *cuda_alloc_zeros(size_t bytes, bool far, void **out) {
    gpu_stream stream;
    const char *problem = far ? gpu_alloc_far(bytes, "a far buffer", out) : gpu_alloc(bytes, "a buffer", out);
    if (problem) return problem;
    problem = gpu_stream_create(&stream);
    if (problem) return problem;
    problem = gpu_zero(stream, *out, bytes);
    if (!problem) problem = gpu_wait(stream);
    gpu_stream_destroy(stream);
    return problem;
}

static ck_status allocate(ck_backend *backend, size_t bytes, bool far, void **out) {
    if (bytes == 0) bytes = 1;
    cuda_block *block = static_cast<cuda_block *>(calloc(1, sizeof *block));
    *out = nullptr;
    if (!block) return CK_NO_MEMORY;
    const char *problem = cuda_alloc_zeros(bytes, far, out);
    if (problem) {
        if (*out) (far ? gpu_free_far : gpu_free)(*out);
        free(block);
        *out = nullptr;
        return cuda_status(backend, CK_NO_MEMORY, "GPU memory", problem);
    }
    *block = cuda_block{static_cast<char *>(*out), bytes, far, 1, of(backend)->blocks};
    of(backend)->blocks = block;
    if (!far) backend->allocated_bytes += bytes;
    return CK_OK;
}

static ck_status cuda_alloc(ck_backend *backend, size_t bytes, void **out) {
    return allocate(backend, bytes, false, out);
}

static ck_status cuda_alloc_far(ck_backend *backend, size_t bytes, void **out) {
    return allocate(backend, bytes, true, out);
}

static size_t cuda_memory_bytes(const ck_backend *backend) {
    const gpu_description *gpu = &reinterpret_cast<const cuda_backend *>(backend)->gpu;
    size_t share = gpu_memory_left() / (size_t)gpu->sharers;
    return share > gpu->reserve_bytes ? share - gpu->reserve_bytes : 0;
}

static void cuda_free(ck_backend *backend, void *memory) {
    for (cuda_block **at = &of(backend)->blocks; *at; at = &(*at)->next) {
        cuda_block *block = *at;
        if (block->memory != memory) continue;
        *at = block->next;
        if (!block->far) backend->allocated_bytes -= block->bytes;
        (block->far ? gpu_free_far : gpu_free)(memory);
        free(block);
        break;
    }
}

/* The memory may have other content from now on. */
static void changed(ck_backend *backend, const void *memory) {
    cuda_block *block = const_cast<cuda_block *>(cuda_block_of(backend, memory));
    if (block) block->version++;
}

/* ---- Streams ---- */

static ck_status cuda_stream_create(ck_backend *backend, ck_stream **out) {
    cuda_stream *stream = static_cast<cuda_stream *>(calloc(1, sizeof *stream));
    *out = nullptr;
    if (!stream) return CK_NO_MEMORY;
    stream->base.backend = backend;
    stream->last_delivery = &stream->deliveries;
    if (gpu_stream_create(&stream->stream)) {
        free(stream);
        return CK_FAILED;
    }
    *out = &stream->base;
    return CK_OK;
}

static void cuda_stream_destroy(ck_stream *stream) {
    cuda_stream *own = of(stream);
    (void)gpu_wait(own->stream);
    cuda_forget_deliveries(own); /* whoever expects them may be gone */
    cuda_stage_release(own);
    gpu_stream_destroy(own->stream);
    free(own);
}

static ck_status cuda_copy(ck_stream *stream, void *to, const void *from, size_t bytes) {
    changed(stream->backend, to);
    return bytes ? issued(stream, "a copy within the GPU's memories",
                          gpu_copy(of(stream)->stream, to, from, bytes))
                 : CK_OK;
}

static ck_status cuda_upload(ck_stream *stream, void *to, const void *host, size_t bytes) {
    changed(stream->backend, to);
    return bytes ? issued(stream, "a copy to the GPU", gpu_upload(of(stream)->stream, to, host, bytes))
                 : CK_OK;
}

static ck_status cuda_download(ck_stream *stream, void *host, const void *from, size_t bytes) {
    return bytes ? issued(stream, "a copy from the GPU", cuda_land(of(stream), host, from, bytes, false))
                 : CK_OK;
}

static ck_status cuda_zero(ck_stream *stream, void *memory, size_t bytes) {
    changed(stream->backend, memory);
    return bytes ? issued(stream, "clearing GPU memory", gpu_zero(of(stream)->stream, memory, bytes)) : CK_OK;
}

static ck_status cuda_wait(ck_stream *stream) {
    return issued(stream, "the GPU", cuda_explain_wait(of(stream), cuda_arrive(of(stream))));
}

/* Kept activations of a bf16 program pass through a f32 buffer; tests only, so it is made and freed here. */
static ck_status convert(ck_stream *stream, const ck_tensor *tensor, int64_t count, const float *up,
                         float *down) {
    void *floats = nullptr;
    gpu_stream s = of(stream)->stream;
    bf16 *halves = static_cast<bf16 *>(tensor->data);
    const char *problem = gpu_alloc((size_t)count * sizeof(float), "an activation", &floats);
    float *f32 = static_cast<float *>(floats);
    if (!problem && up) problem = gpu_upload(s, f32, up, (size_t)count * sizeof(float));
    if (!problem && up) problem = cuda_to_half(f32, halves, count, s);
    if (!problem && down) problem = cuda_to_float(halves, f32, count, s);
    if (!problem && down) problem = gpu_download(s, down, f32, (size_t)count * sizeof(float));
    if (!problem) problem = gpu_wait(s);
    if (floats) gpu_free(floats);
    return issued(stream, tensor->name, problem);
}

static bool is_half(const ck_tensor *tensor) {
    return tensor->wide && tensor->program->capacity.precision == CK_BF16;
}

static ck_status cuda_tensor_upload(ck_stream *stream, ck_tensor *tensor, int64_t n_tokens,
                                    const float *host) {
    int64_t count = n_tokens * tensor->columns;
    if (is_half(tensor)) return convert(stream, tensor, count, host, nullptr);
    return cuda_upload(stream, tensor->data, host, (size_t)count * sizeof(float));
}

static ck_status cuda_tensor_download(ck_stream *stream, const ck_tensor *tensor, int64_t n_tokens,
                                      float *host) {
    int64_t count = n_tokens * tensor->columns;
    if (is_half(tensor)) return convert(stream, tensor, count, nullptr, host);
    return cuda_download(stream, host, tensor->data, (size_t)count * sizeof(float));
}

/* ---- Events and graphs ---- */

typedef struct {
    ck_event base;
    gpu_event *event;
} cuda_event;

typedef struct {
    ck_graph base;
    gpu_graph *graph;
    cuda_arena *arenas; /* tables that its copies read at every launch */
    cuda_captured *programs;
} cuda_graph;

static void forget_programs(cuda_captured *list) {
    while (list) {
        cuda_captured *next = list->next;
        free(list);
        list = next;
    }
}

static ck_status cuda_event_create(ck_backend *backend, ck_event **out) {
    cuda_event *event = static_cast<cuda_event *>(calloc(1, sizeof *event));
    *out = nullptr;
    if (!event) return CK_NO_MEMORY;
    event->base.backend = backend;
    if (gpu_event_create(&event->event)) {
        free(event);
        return CK_FAILED;
    }
    *out = &event->base;
    return CK_OK;
}

static void cuda_event_destroy(ck_event *event) {
    gpu_event_destroy(reinterpret_cast<cuda_event *>(event)->event);
    free(event);
}

static ck_status cuda_event_record(ck_stream *stream, ck_event *event) {
    return issued(stream, "an event",
                  gpu_event_record(of(stream)->stream, reinterpret_cast<cuda_event *>(event)->event));
}

static ck_status cuda_event_await(ck_stream *stream, ck_event *event) {
    return issued(stream, "an event",
                  gpu_event_await(of(stream)->stream, reinterpret_cast<cuda_event *>(event)->event));
}

static double cuda_event_seconds(const ck_event *from, const ck_event *to) {
    return gpu_event_seconds(reinterpret_cast<const cuda_event *>(from)->event,
                             reinterpret_cast<const cuda_event *>(to)->event);
}

static ck_status cuda_capture_begin(ck_stream *stream) {
    if (!of(stream->backend)->gpu.graphs)
        return ck_fail(stream->backend, CK_UNAVAILABLE, "this GPU runtime has no graphs");
    ck_status status = issued(stream, "a graph", gpu_capture_begin(of(stream)->stream));
    of(stream)->capturing = status == CK_OK;
    return status;
}

static ck_status cuda_capture_end(ck_stream *stream, ck_graph **out) {
    cuda_graph *graph = static_cast<cuda_graph *>(calloc(1, sizeof *graph));
    gpu_graph *recorded = nullptr;
    ck_status status = issued(stream, "a graph", gpu_capture_end(of(stream)->stream, &recorded));
    of(stream)->capturing = false;
    if (status == CK_OK && graph) {
        *graph = cuda_graph{{stream->backend}, recorded, of(stream)->captured, of(stream)->programs};
        *out = &graph->base;
    } else {
        gpu_graph_destroy(recorded);
        cuda_arenas_free(of(stream)->captured);
        forget_programs(of(stream)->programs);
        free(graph);
    }
    of(stream)->captured = nullptr;
    of(stream)->programs = nullptr;
    return status == CK_OK && !graph ? ck_fail(stream->backend, CK_NO_MEMORY, "cannot allocate a graph")
                                     : status;
}

static ck_status cuda_graph_launch(ck_stream *stream, ck_graph *graph) {
    cuda_graph *own = reinterpret_cast<cuda_graph *>(graph);
    const char *problem = cuda_captured_refresh(own->programs, of(stream));
    return issued(stream, "a graph", problem ? problem : gpu_graph_launch(of(stream)->stream, own->graph));
}

static void cuda_graph_destroy(ck_graph *graph) {
    cuda_graph *own = reinterpret_cast<cuda_graph *>(graph);
    gpu_graph_destroy(own->graph);
    cuda_arenas_free(own->arenas);
    forget_programs(own->programs);
    free(own);
}

static size_t cuda_cache_bytes(const ck_backend *backend) {
    return reinterpret_cast<const cuda_backend *>(backend)->gpu.cache_bytes;
}

static bool cuda_supports(const ck_backend *, ck_precision) {
    return true;
}

/* ---- Updates: each call stages its tables ---- */

static ck_status update_ended(ck_stream *stream, const char *what, const char *problem) {
    const char *ended = cuda_stage_end(of(stream)); /* also after a failure: a copy may be under way */
    return issued(stream, what, problem ? problem : ended);
}

/* Shapes that the devices name: the calls do not say how many there are. */
template <typename D> static int32_t shapes_named(const D *devices, int32_t n_devices) {
    int32_t n = 0;
    for (int32_t d = 0; d < n_devices; d++)
        if (devices[d].shape >= n) n = devices[d].shape + 1;
    return n;
}

static ck_status adamw_devices(ck_stream *stream, float *parameters, float *moment1, float *moment2,
                               const float *gradients, const ck_shape *shapes, const ck_adamw_device *devices,
                               int32_t n) {
    if (n == 0) return CK_OK;
    const char *problem = cuda_stage_begin(of(stream));
    if (!problem)
        problem = cuda_adamw_devices(stream, parameters, moment1, moment2, gradients, shapes,
                                     shapes_named(devices, n), devices, n);
    return update_ended(stream, "AdamW", problem);
}

static ck_status carry_devices(ck_stream *stream, float *carried, float *gradients, const ck_shape *shapes,
                               const ck_carry_device *devices, int32_t n) {
    if (n == 0) return CK_OK;
    const char *problem = cuda_stage_begin(of(stream));
    if (!problem)
        problem =
            cuda_carry_devices(stream, carried, gradients, shapes, shapes_named(devices, n), devices, n);
    return update_ended(stream, "carried gradients", problem);
}

static ck_status adamw_ranges(ck_stream *stream, float *parameters, float *moment1, float *moment2,
                              const float *gradients, const ck_range *ranges, int32_t n,
                              const ck_adamw_hyper *hyper) {
    if (n == 0) return CK_OK;
    const char *problem = cuda_stage_begin(of(stream));
    changed(stream->backend, parameters);
    if (!problem)
        problem = cuda_adamw_ranges(stream, parameters, moment1, moment2, gradients, ranges, n, hyper);
    return update_ended(stream, "AdamW", problem);
}

static ck_status group_sum(ck_stream *stream, const float *parameters, const ck_group *groups, int32_t n,
                           float *packed) {
    if (n == 0) return CK_OK;
    const char *problem = cuda_stage_begin(of(stream));
    if (!problem) problem = cuda_group_sum(stream, parameters, groups, n, packed);
    return update_ended(stream, "aggregation", problem);
}

static ck_status group_spread(ck_stream *stream, float *parameters, const ck_group *groups, int32_t n,
                              const float *packed) {
    if (n == 0) return CK_OK;
    const char *problem = cuda_stage_begin(of(stream));
    if (!problem) problem = cuda_group_spread(stream, parameters, groups, n, packed);
    return update_ended(stream, "aggregation", problem);
}

static ck_status group_proximal(ck_stream *stream, const float *parameters, const ck_group *groups, int32_t n,
                                const float *packed, float *gradients) {
    if (n == 0) return CK_OK;
    const char *problem = cuda_stage_begin(of(stream));
    if (!problem) problem = cuda_group_proximal(stream, parameters, groups, n, packed, gradients);
    return update_ended(stream, "proximal term", problem);
}

static void *device_stream(ck_stream *stream) {
    return cuda_stream_of(stream);
}

static ck_driver make_driver() {
    ck_driver d = {};
    d.name = "cuda";
    d.unavailable = gpu_unavailable;
    d.open = cuda_open;
    d.close = cuda_close;
    d.alloc = cuda_alloc;
    d.alloc_far = cuda_alloc_far;
    d.free = cuda_free;
    d.memory_bytes = cuda_memory_bytes;
    d.stream_create = cuda_stream_create;
    d.stream_destroy = cuda_stream_destroy;
    d.copy = cuda_copy;
    d.upload = cuda_upload;
    d.download = cuda_download;
    d.zero = cuda_zero;
    d.wait = cuda_wait;
    d.event_create = cuda_event_create;
    d.event_destroy = cuda_event_destroy;
    d.event_record = cuda_event_record;
    d.event_await = cuda_event_await;
    d.event_seconds = cuda_event_seconds;
    d.capture_begin = cuda_capture_begin;
    d.capture_end = cuda_capture_end;
    d.graph_launch = cuda_graph_launch;
    d.graph_destroy = cuda_graph_destroy;
    d.cache_bytes = cuda_cache_bytes;
    d.note = cuda_note;
    d.supports = cuda_supports;
    d.tensor_upload = cuda_tensor_upload;
    d.tensor_download = cuda_tensor_download;
    d.program_bytes = cuda_program_bytes;
    d.program_place = cuda_program_place;
    d.program_release = cuda_program_release;
    d.run = cuda_run;
    d.adamw_devices = adamw_devices;
    d.carry_devices = carry_devices;
    d.adamw_ranges = adamw_ranges;
    d.group_sum = group_sum;
    d.group_spread = group_spread;
    d.group_proximal = group_proximal;
    d.ceiling = cuda_ceiling;
    d.copy_rate = cuda_copy_rate;
    d.device_stream = device_stream;
    return d;
}

/* C++17 has no designated initialisers: the table is filled before main(). */
const ck_driver ck_cuda_driver = make_driver();

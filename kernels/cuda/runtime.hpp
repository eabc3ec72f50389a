/* runtime.hpp - what the driver needs of a GPU's runtime, and no more. gpu/runtime.cu implements it with
 * CUDA; tests/simt/runtime.cc on the CPU, so that the driver itself is tested without a GPU. Functions return
 * NULL, or what was wrong, a sentence. */
#ifndef COHORT_KERNELS_CUDA_RUNTIME_HPP
#define COHORT_KERNELS_CUDA_RUNTIME_HPP

#include <stddef.h>

#include "portable.cuh"

struct gpu_event;
struct gpu_graph;

typedef struct {
    char name[128];
    /* reserve: what libraries and staged tables take beside the planned buffers */
    size_t cache_bytes, reserve_bytes;
    bool graphs; /* work can be captured */
    int sharers; /* processes of this machine that use this GPU, this one included */
} gpu_description;

const char *gpu_unavailable(); /* NULL if a GPU can be used */
const char *gpu_describe(gpu_description *out);

const char *gpu_alloc(size_t bytes, const char *what, void **out); /* content undefined */
void gpu_free(void *memory);
/* pinned host memory that kernels reach; content undefined */
const char *gpu_alloc_far(size_t bytes, const char *what, void **out);
void gpu_free_far(void *memory);
size_t gpu_memory_left(); /* bytes of the GPU that gpu_alloc() can still give */
/* pinned: copies from and to it do not block the host */
const char *gpu_alloc_host(size_t bytes, void **out);
void gpu_free_host(void *memory);

const char *gpu_stream_create(gpu_stream *out);
void gpu_stream_destroy(gpu_stream stream);
const char *gpu_upload(gpu_stream stream, void *to, const void *host, size_t bytes);
const char *gpu_download(gpu_stream stream, void *host, const void *from, size_t bytes);
/* between memories of gpu_alloc(), gpu_alloc_far() */
const char *gpu_copy(gpu_stream stream, void *to, const void *from, size_t bytes);
const char *gpu_zero(gpu_stream stream, void *memory, size_t bytes);
const char *gpu_wait(gpu_stream stream);

const char *gpu_event_create(gpu_event **out);
void gpu_event_destroy(gpu_event *event);
const char *gpu_event_record(gpu_stream stream, gpu_event *event);
/* the host waits; not at all if it was never recorded */
const char *gpu_event_wait(gpu_event *event);
/* what the stream gets from now on waits; the same */
const char *gpu_event_await(gpu_stream stream, gpu_event *event);
double gpu_event_seconds(const gpu_event *from, const gpu_event *to);

const char *gpu_capture_begin(gpu_stream stream);
const char *gpu_capture_end(gpu_stream stream, gpu_graph **out);
const char *gpu_graph_launch(gpu_stream stream, gpu_graph *graph);
void gpu_graph_destroy(gpu_graph *graph);

#endif

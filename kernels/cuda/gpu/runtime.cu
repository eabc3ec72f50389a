/* runtime.cu - the runtime that the driver asks for (runtime.hpp), by CUDA. */
#include "../runtime.hpp"

#include <stdio.h>
#include <stdlib.h>

struct gpu_event {
    cudaEvent_t event;
};

struct gpu_graph {
    cudaGraphExec_t executable;
};

/* An error that is told is also forgotten: else the next launch would report it once more, as its own. */
static const char *said(cudaError_t error) {
    if (error == cudaSuccess) return nullptr;
    (void)cudaGetLastError();
    return cudaGetErrorString(error);
}

const char *gpu_unavailable() {
    int count = 0;
    if (const char *problem = said(cudaGetDeviceCount(&count))) return problem;
    return count > 0 ? nullptr : "no CUDA device was found";
}

/* The processes of a machine take its GPUs in turn: mpirun numbers them. */
static const char *choose_device(int *device) {
    const char *local = getenv("OMPI_COMM_WORLD_LOCAL_RANK");
    int count = 0;
    if (const char *problem = said(cudaGetDeviceCount(&count))) return problem;
    if (local && count > 0)
        if (const char *problem = said(cudaSetDevice(atoi(local) % count))) return problem;
    return said(cudaGetDevice(device));
}

static int count_sharers() {
    const char *local = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
    int count = 0, processes = local ? atoi(local) : 1;
    if (said(cudaGetDeviceCount(&count)) || count < 1 || processes < 1) return 1;
    return (processes + count - 1) / count;
}

const char *gpu_describe(gpu_description *out) {
    int device = 0;
    cudaDeviceProp properties;
    if (const char *problem = choose_device(&device)) return problem;
    if (const char *problem = said(cudaGetDeviceProperties(&properties, device))) return problem;
    if (properties.major < 8)
        return "it is older than compute capability 8.0 (A100), for which the kernels are made";
    snprintf(out->name, sizeof out->name, "%s (sm_%d%d, %d multiprocessors)", properties.name,
             properties.major, properties.minor, properties.multiProcessorCount);
    out->cache_bytes = (size_t)properties.l2CacheSize;
    out->reserve_bytes = (size_t)256 << 20;
    out->graphs = true;
    out->sharers = count_sharers();
    return nullptr;
}

const char *gpu_alloc(size_t bytes, const char *, void **out) {
    return said(cudaMalloc(out, bytes));
}

void gpu_free(void *memory) {
    cudaFree(memory);
}

const char *gpu_alloc_far(size_t bytes, const char *, void **out) {
    return said(cudaHostAlloc(out, bytes, cudaHostAllocMapped | cudaHostAllocPortable));
}

void gpu_free_far(void *memory) {
    cudaFreeHost(memory);
}

size_t gpu_memory_left() {
    size_t left = 0, total = 0;
    return said(cudaMemGetInfo(&left, &total)) ? 0 : left;
}

const char *gpu_alloc_host(size_t bytes, void **out) {
    return said(cudaMallocHost(out, bytes));
}

void gpu_free_host(void *memory) {
    cudaFreeHost(memory);
}

const char *gpu_stream_create(gpu_stream *out) {
    return said(cudaStreamCreateWithFlags(out, cudaStreamNonBlocking));
}

void gpu_stream_destroy(gpu_stream stream) {
    cudaStreamDestroy(stream);
}

const char *gpu_upload(gpu_stream stream, void *to, const void *host, size_t bytes) {
    return said(cudaMemcpyAsync(to, host, bytes, cudaMemcpyDefault, stream));
}

const char *gpu_download(gpu_stream stream, void *host, const void *from, size_t bytes) {
    return said(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDefault, stream));
}

const char *gpu_copy(gpu_stream stream, void *to, const void *from, size_t bytes) {
    return said(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
}

const char *gpu_zero(gpu_stream stream, void *memory, size_t bytes) {
    return said(cudaMemsetAsync(memory, 0, bytes, stream));
}

const char *gpu_wait(gpu_stream stream) {
    return said(cudaStreamSynchronize(stream));
}

const char *gpu_event_create(gpu_event **out) {
    gpu_event *event = new gpu_event;
    *out = nullptr;
    const char *problem = said(cudaEventCreate(&event->event));
    if (problem)
        delete event;
    else
        *out = event;
    return problem;
}

void gpu_event_destroy(gpu_event *event) {
    if (!event) return;
    cudaEventDestroy(event->event);
    delete event;
}

const char *gpu_event_record(gpu_stream stream, gpu_event *event) {
    return said(cudaEventRecord(event->event, stream));
}

const char *gpu_event_wait(gpu_event *event) {
    return said(cudaEventSynchronize(event->event));
}

const char *gpu_event_await(gpu_stream stream, gpu_event *event) {
    return said(cudaStreamWaitEvent(stream, event->event, 0));
}

double gpu_event_seconds(const gpu_event *from, const gpu_event *to) {
    float milliseconds = 0;
    return said(cudaEventElapsedTime(&milliseconds, from->event, to->event)) ? 0 : 1e-3 * milliseconds;
}

const char *gpu_capture_begin(gpu_stream stream) {
    return said(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
}

const char *gpu_capture_end(gpu_stream stream, gpu_graph **out) {
    cudaGraph_t recorded;
    *out = nullptr;
    if (const char *problem = said(cudaStreamEndCapture(stream, &recorded))) return problem;
    cudaGraphExec_t executable;
    const char *problem = said(cudaGraphInstantiate(&executable, recorded, 0));
    cudaGraphDestroy(recorded);
    if (!problem) *out = new gpu_graph{executable};
    return problem;
}

const char *gpu_graph_launch(gpu_stream stream, gpu_graph *graph) {
    return said(cudaGraphLaunch(graph->executable, stream));
}

void gpu_graph_destroy(gpu_graph *graph) {
    if (!graph) return;
    cudaGraphExecDestroy(graph->executable);
    delete graph;
}

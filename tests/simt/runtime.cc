/* runtime.cc - the runtime that the CUDA driver asks for (kernels/cuda/runtime.hpp), on the CPU: memory and
 * streams of the SIMT machine, and products as plain loops. Host memory is read and written when a stream
 * comes to it (stream.hpp), and holds NaN bytes where something from the GPU is on its way, so that a caller
 * that does not wait sees it. */
#include "cuda/runtime.hpp"

#include <list>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "cuda/ops.cuh"

struct gpu_event {
    simt_event event;
};

struct gpu_graph {
    std::vector<simt_work> work;
};

static simt_stream *of(gpu_stream stream) {
    return static_cast<simt_stream *>(stream);
}

const char *gpu_unavailable() {
    return nullptr;
}

const char *gpu_describe(gpu_description *out) {
    *out =
        gpu_description{"a GPU that tests/simt plays on the CPU", (size_t)1 << 16, (size_t)1 << 20, true, 1};
    return nullptr;
}

/* COHORT_SIMT_MEMORY: bytes of this GPU; 1 GiB without it. */
static size_t memory_taken;

static size_t memory_size() {
    const char *wanted = getenv("COHORT_SIMT_MEMORY");
    return wanted ? strtoull(wanted, nullptr, 10) : (size_t)1 << 30;
}

size_t gpu_memory_left() {
    return memory_size() > memory_taken ? memory_size() - memory_taken : 0;
}

const char *gpu_alloc(size_t bytes, const char *what, void **out) {
    *out = nullptr;
    if (bytes > gpu_memory_left()) return "out of memory";
    *out = simt_alloc(bytes > 0 ? bytes : 1, what);
    memory_taken += simt_find(*out)->bytes;
    return nullptr;
}

void gpu_free(void *memory) {
    if (memory) memory_taken -= simt_find(memory)->bytes;
    simt_free(memory);
}

/* Kernels reach it, so it is checked like the GPU's own. */
const char *gpu_alloc_far(size_t bytes, const char *what, void **out) {
    *out = simt_alloc(bytes > 0 ? bytes : 1, what);
    return nullptr;
}

void gpu_free_far(void *memory) {
    simt_free(memory);
}

const char *gpu_alloc_host(size_t bytes, void **out) {
    *out = malloc(bytes > 0 ? bytes : 1);
    return *out ? nullptr : "out of memory";
}

void gpu_free_host(void *memory) {
    free(memory);
}

const char *gpu_stream_create(gpu_stream *out) {
    *out = simt_stream_create();
    return nullptr;
}

void gpu_stream_destroy(gpu_stream stream) {
    simt_stream_destroy(of(stream));
}

/* Both sides of a copy between memories: the GPU's must be one allocation. */
static const char *wrong_side(const void *gpu, size_t bytes) {
    const simt_region *region = simt_find(gpu);
    if (!region) return "a copy from or to memory that is not the GPU's";
    const char *at = static_cast<const char *>(gpu);
    return at + bytes <= region->base + region->bytes ? nullptr : "a copy beyond the end of an allocation";
}

/* Once when it is issued, so that the caller is told, and again when it is done: the memory must still be
 * there. */
static const char *issue_copy(gpu_stream stream, void *to, const void *from, size_t bytes, bool to_gpu,
                              bool from_gpu) {
    auto wrong = [=] {
        const char *problem = to_gpu ? wrong_side(to, bytes) : nullptr;
        return !problem && from_gpu ? wrong_side(from, bytes) : problem;
    };
    if (const char *problem = wrong()) return problem;
    return simt_issue(of(stream), [=]() -> const char * {
        if (const char *problem = wrong()) return problem;
        memmove(to, from, bytes);
        return nullptr;
    });
}

/* Host memory that uploads have yet to read. */
struct host_range {
    const char *first;
    size_t bytes;
};
static std::list<host_range> unread;

static bool is_unread(const void *host, size_t bytes) {
    const char *first = static_cast<const char *>(host);
    for (const host_range &r : unread)
        if (first < r.first + r.bytes && r.first < first + bytes) return true;
    return false;
}

const char *gpu_upload(gpu_stream stream, void *to, const void *host, size_t bytes) {
    if (simt_find(host)) return "an upload from the GPU's memory";
    if (const char *problem = issue_copy(stream, to, host, bytes, true, false)) return problem;
    if (simt_is_recording(of(stream))) return nullptr; /* a graph reads it again and again */
    auto range = unread.insert(unread.end(), host_range{static_cast<const char *>(host), bytes});
    return simt_issue(of(stream), [range] {
        unread.erase(range);
        return nullptr;
    });
}

/* What an upload has yet to read stays: both are in order. */
const char *gpu_download(gpu_stream stream, void *host, const void *from, size_t bytes) {
    if (!is_unread(host, bytes)) memset(host, 0xff, bytes);
    return issue_copy(stream, host, from, bytes, false, true);
}

const char *gpu_copy(gpu_stream stream, void *to, const void *from, size_t bytes) {
    return issue_copy(stream, to, from, bytes, true, true);
}

const char *gpu_zero(gpu_stream stream, void *memory, size_t bytes) {
    if (const char *problem = wrong_side(memory, bytes)) return problem;
    return simt_issue(of(stream), [=]() -> const char * {
        if (const char *problem = wrong_side(memory, bytes)) return problem;
        memset(memory, 0, bytes);
        return nullptr;
    });
}

const char *gpu_wait(gpu_stream stream) {
    return simt_stream_wait(of(stream));
}

const char *gpu_event_create(gpu_event **out) {
    *out = new gpu_event;
    return nullptr;
}

void gpu_event_destroy(gpu_event *event) {
    delete event;
}

const char *gpu_event_record(gpu_stream stream, gpu_event *event) {
    simt_event_record(of(stream), &event->event);
    return nullptr;
}

const char *gpu_event_wait(gpu_event *event) {
    simt_event_wait(event->event);
    return nullptr;
}

const char *gpu_event_await(gpu_stream stream, gpu_event *event) {
    simt_event_await(of(stream), event->event);
    return nullptr;
}

double gpu_event_seconds(const gpu_event *from, const gpu_event *to) {
    return *to->event.at - *from->event.at;
}

const char *gpu_capture_begin(gpu_stream stream) {
    if (simt_is_recording(of(stream))) return "a stream is captured twice at a time";
    simt_record_begin(of(stream));
    return nullptr;
}

const char *gpu_capture_end(gpu_stream stream, gpu_graph **out) {
    *out = new gpu_graph{simt_record_end(of(stream))};
    return nullptr;
}

const char *gpu_graph_launch(gpu_stream stream, gpu_graph *graph) {
    for (const simt_work &work : graph->work) simt_issue(of(stream), work);
    return nullptr;
}

void gpu_graph_destroy(gpu_graph *graph) {
    delete graph;
}

/* ---- Products ---- */

static float element(const void *matrix, int64_t index, bool half) {
    return half ? to_float(static_cast<const bf16 *>(matrix)[index])
                : static_cast<const float *>(matrix)[index];
}

/* The last byte of a matrix must belong to the allocation that it begins in. */
static const char *outside(const void *matrix, int64_t rows, int64_t columns, int64_t stride, bool half) {
    int64_t elements = rows > 0 ? (rows - 1) * stride + columns : 0;
    return wrong_side(matrix, (size_t)elements * (half ? 2 : 4));
}

static const char *outside(const cuda_product *p) {
    const char *problem = outside(p->a, p->turn_a ? p->k : p->m, p->turn_a ? p->m : p->k, p->lda, p->half_in);
    if (!problem)
        problem = outside(p->b, p->turn_b ? p->n : p->k, p->turn_b ? p->k : p->n, p->ldb, p->half_in);
    if (!problem) problem = outside(p->out, p->m, p->n, p->ld_out, p->half_out);
    if (!problem && p->beta != 0) problem = outside(p->add, p->m, p->n, p->ld_add, p->half_out);
    if (!problem && p->bias) problem = outside(p->bias, 1, p->n, p->n, p->half_out);
    return problem;
}

/* One row of the product, before alpha. */
static void multiply_row(const cuda_product *p, int64_t i, std::vector<float> &row) {
    row.assign((size_t)p->n, 0.0f);
    for (int64_t k = 0; k < p->k; k++) {
        float a = element(p->a, p->turn_a ? k * p->lda + i : i * p->lda + k, p->half_in);
        for (int64_t j = 0; j < p->n; j++)
            row[(size_t)j] += a * element(p->b, p->turn_b ? j * p->ldb + k : k * p->ldb + j, p->half_in);
    }
}

static void multiply(const cuda_product *p) {
    std::vector<float> row;
    for (int64_t i = 0; i < p->m; i++) {
        multiply_row(p, i, row);
        for (int64_t j = 0; j < p->n; j++) {
            float value = p->alpha * row[(size_t)j];
            if (p->beta != 0) value += p->beta * element(p->add, i * p->ld_add + j, p->half_out);
            if (p->bias) value += element(p->bias, j, p->half_out);
            if (p->half_out)
                static_cast<bf16 *>(p->out)[i * p->ld_out + j] = to_bf16(value);
            else
                static_cast<float *>(p->out)[i * p->ld_out + j] = value;
        }
    }
}

/* COHORT_SIMT_NO_PRODUCTS: as on a machine without cuBLASLt. COHORT_SIMT_LIBRARY: what the library refuses:
 * "no bias", or "nothing works".
 */
static const char *refusal(const cuda_product *p) {
    const char *wanted = getenv("COHORT_SIMT_LIBRARY");
    if (!wanted) return nullptr;
    return strcmp(wanted, "nothing works") == 0 || (p->bias && strcmp(wanted, "no bias") == 0)
               ? "the library of the test refuses it"
               : nullptr;
}

const char *gpu_multiply(const cuda_product *product, gpu_stream stream, const char **refused) {
    *refused = nullptr;
    if (getenv("COHORT_SIMT_NO_PRODUCTS"))
        return "libcublasLt.so: cannot open shared object file: No such file or directory";
    *refused = refusal(product);
    if (*refused) return nullptr;
    return simt_issue(of(stream), [p = *product] {
        const char *problem = outside(&p);
        if (!problem) multiply(&p);
        return problem;
    });
}

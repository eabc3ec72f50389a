/* ceilings.cu - the best that this GPU does: the rate of large products, and of copies. */
#include "driver.hpp"

#include <math.h>
#include <string.h>

typedef struct {
    gpu_stream stream;
    gpu_event *from, *to;
    void *memory;
} measurement;

static const char *measurement_begin(measurement *m, size_t bytes) {
    *m = measurement{};
    const char *problem = cuda_alloc_zeros(bytes, false, &m->memory);
    if (!problem) problem = gpu_stream_create(&m->stream);
    if (!problem) problem = gpu_event_create(&m->from);
    if (!problem) problem = gpu_event_create(&m->to);
    return problem;
}

static void measurement_end(measurement *m) {
    gpu_event_destroy(m->from);
    gpu_event_destroy(m->to);
    if (m->stream) gpu_stream_destroy(m->stream);
    if (m->memory) gpu_free(m->memory);
}

/* The shortest of several repetitions of `work`, each long enough for the clock. */
template <typename Work> static double shortest(measurement *m, const Work &work) {
    enum { REPETITIONS = 8, TIMES = 8 };
    double best = 0;
    for (int r = 0; r < REPETITIONS; r++) {
        const char *problem = gpu_event_record(m->stream, m->from);
        for (int i = 0; i < TIMES && !problem; i++) problem = work();
        if (!problem) problem = gpu_event_record(m->stream, m->to);
        if (!problem) problem = gpu_wait(m->stream);
        if (problem) return 0;
        double seconds = gpu_event_seconds(m->from, m->to) / TIMES;
        if (seconds > 0 && (best == 0 || seconds < best)) best = seconds;
    }
    return best;
}

/* Numbers as real ones are: of zeros a GPU makes products faster than of any others. Every two bytes are a
 * bf16, and four an f32, of magnitude 1/2 to 1. They repeat, so that little of them is in host memory. */
static const char *fill_with_numbers(measurement *m, size_t bytes) {
    enum { PIECE = 1 << 15 };
    uint16_t host[PIECE];
    uint32_t state = 1;
    const char *problem = nullptr;
    for (int i = 0; i < PIECE; i++) {
        state = state * 1664525u + 1013904223u;
        host[i] = (uint16_t)(0x3f00u | (state >> 16 & 0x807fu));
    }
    for (size_t done = 0; done < bytes && !problem; done += sizeof host) {
        size_t piece = bytes - done < sizeof host ? bytes - done : sizeof host;
        problem = gpu_upload(m->stream, static_cast<char *>(m->memory) + done, host, piece);
    }
    return problem ? problem : gpu_wait(m->stream);
}

/* Square matrices, many times a GPU's cache and so many tiles that no multiprocessor idles for long; small
 * ones where the cache is small, as where tests play a GPU. */
void cuda_ceiling(ck_backend *backend, ck_precision precision, ck_ceiling *out) {
    const size_t cache = reinterpret_cast<const cuda_backend *>(backend)->gpu.cache_bytes;
    const int64_t size = cache >= (size_t)16 << 20 ? 8192 : (int64_t)sqrt((double)cache / 3) / 64 * 64;
    const int64_t bytes = precision == CK_BF16 ? 2 : 4, matrix = size * size * bytes;
    measurement m;
    double seconds = 0;
    if (!measurement_begin(&m, (size_t)(3 * matrix)) && !fill_with_numbers(&m, (size_t)(3 * matrix))) {
        cuda_product p = {};
        char *memory = static_cast<char *>(m.memory);
        p.m = p.n = p.k = p.lda = p.ldb = p.ld_out = size;
        p.a = memory, p.b = memory + matrix, p.out = memory + 2 * matrix;
        p.half_in = p.half_out = precision == CK_BF16;
        p.alpha = 1;
        seconds = shortest(&m, [&] { return cuda_multiply(&p, m.stream); });
    }
    measurement_end(&m);
    if (seconds > 0) out->product = 2.0 * (double)size * (double)size * (double)size / seconds;
    strcpy(out->product_of, "cuBLASLt");
}

double cuda_copy_rate(ck_backend *backend) {
    size_t bytes = 8 * reinterpret_cast<const cuda_backend *>(backend)->gpu.cache_bytes;
    measurement m;
    double seconds = 0;
    if (!measurement_begin(&m, 2 * bytes)) {
        char *memory = static_cast<char *>(m.memory);
        seconds = shortest(&m, [&] { return gpu_copy(m.stream, memory + bytes, memory, bytes); });
    }
    measurement_end(&m);
    return seconds > 0 ? 2.0 * (double)bytes / seconds : 0;
}

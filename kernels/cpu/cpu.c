/* cpu.c - the CPU backend: OpenMP over sequences, products on the thread that needs them. */
#include "cpu.h"

#include <cblas.h>
#include <errno.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* The size is kept in front of the block, so that freeing can account for it. */
enum { HEADER_BYTES = 64 };

static const char *cpu_unavailable(void) {
    return NULL;
}

/* The value of a line "key : value" of /proc/cpuinfo, else an empty text. */
static void cpu_says(const char *key, char *out, size_t size) {
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];
    size_t length = strlen(key);
    out[0] = '\0';
    while (file && !out[0] && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) != 0) continue;
        const char *value = line + length + strspn(line + length, " \t");
        if (value[0] == ':' && value[1] == ' ')
            snprintf(out, size, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
    }
    if (file) fclose(file);
}

/* Virtual machines often hide which one it is behind the name of the series: family and model tell. */
static void cpu_model(char *out, size_t size) {
    char name[64], family[8], model[8];
    cpu_says("model name", name, sizeof name);
    cpu_says("cpu family", family, sizeof family);
    cpu_says("model", model, sizeof model);
    snprintf(out, size, "%s", name[0] ? name : "unknown CPU");
    if (family[0] && model[0])
        snprintf(out + strlen(out), size - strlen(out), " (family %s model %s)", family, model);
}

/* OpenMP may give fewer than are asked for (OMP_THREAD_LIMIT, OMP_MAX_ACTIVE_LEVELS=0). */
static int threads_given(int wanted) {
    int most = omp_get_max_active_levels() > 0 ? omp_get_thread_limit() : 1;
    omp_set_dynamic(0);
    return wanted < most ? wanted : most;
}

static ck_status cpu_open(int threads, ck_backend **out) {
    ck_backend *backend = calloc(1, sizeof *backend);
    if (!backend) return ck_fail(NULL, CK_NO_MEMORY, "cannot allocate the CPU backend");
    backend->driver = &ck_cpu_driver;
    backend->threads = threads_given(threads > 0 ? threads : omp_get_num_procs());
    openblas_set_num_threads(1);
    char model[96];
    cpu_model(model, sizeof model);
    snprintf(backend->hardware, sizeof backend->hardware, "%s, %d thread%s, OpenBLAS %s", model,
             backend->threads, backend->threads == 1 ? "" : "s", openblas_get_corename());
    *out = backend;
    return CK_OK;
}

static void cpu_close(ck_backend *backend) {
    free(backend);
}

/* Large blocks ask for large pages: packs and activations are walked end to end, and small pages cost a
 * lookup every 4 KiB. */
static char *allocate_block(size_t total) {
    enum { LARGE_PAGE = 2 << 20 };
    void *block = NULL;
    if (total < 2 * (size_t)LARGE_PAGE) return aligned_alloc(64, total);
    if (posix_memalign(&block, LARGE_PAGE, total) != 0) return NULL;
    (void)madvise(block, total, MADV_HUGEPAGE); /* a wish: without it all works the same */
    return block;
}

static ck_status cpu_alloc(ck_backend *backend, size_t bytes, void **out) {
    size_t total = (bytes + HEADER_BYTES + 63) / 64 * 64;
    char *block = total > bytes ? allocate_block(total) : NULL;
    *out = NULL;
    if (!block) return CK_NO_MEMORY;
    memset(block, 0, total);
    memcpy(block, &total, sizeof total);
#pragma omp atomic
    backend->allocated_bytes += total;
    *out = block + HEADER_BYTES;
    return CK_OK;
}

static void cpu_free(ck_backend *backend, void *memory) {
    char *block = (char *)memory - HEADER_BYTES;
    size_t total;
    memcpy(&total, block, sizeof total);
#pragma omp atomic
    backend->allocated_bytes -= total;
    free(block);
}

static ck_status cpu_stream_create(ck_backend *backend, ck_stream **out) {
    *out = malloc(sizeof **out);
    if (!*out) return CK_NO_MEMORY;
    (*out)->backend = backend;
    return CK_OK;
}

static void cpu_stream_destroy(ck_stream *stream) {
    free(stream);
}

static ck_status cpu_copy(ck_stream *stream, void *to, const void *from, size_t bytes) {
    (void)stream;
    if (bytes) memcpy(to, from, bytes);
    return CK_OK;
}

static ck_status cpu_zero(ck_stream *stream, void *memory, size_t bytes) {
    (void)stream;
    if (bytes) memset(memory, 0, bytes);
    return CK_OK;
}

static ck_status cpu_wait(ck_stream *stream) {
    (void)stream;
    return CK_OK;
}

static ck_status cpu_tensor_upload(ck_stream *stream, ck_tensor *tensor, int64_t n_tokens,
                                   const float *host) {
    return cpu_copy(stream, tensor->data, host, (size_t)n_tokens * (size_t)tensor->columns * sizeof(float));
}

static ck_status cpu_tensor_download(ck_stream *stream, const ck_tensor *tensor, int64_t n_tokens,
                                     float *host) {
    return cpu_copy(stream, host, tensor->data, (size_t)n_tokens * (size_t)tensor->columns * sizeof(float));
}

static bool cpu_supports(const ck_backend *backend, ck_precision precision) {
    (void)backend;
    return precision == CK_F32;
}

/* ---- Measuring ---- */

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

typedef struct {
    ck_event base;
    double at;
} cpu_event;

static ck_status cpu_event_create(ck_backend *backend, ck_event **out) {
    cpu_event *event = calloc(1, sizeof *event);
    *out = event ? &event->base : NULL;
    if (!event) return CK_NO_MEMORY;
    event->base.backend = backend;
    return CK_OK;
}

static void cpu_event_destroy(ck_event *event) {
    free(event);
}

static ck_status cpu_event_record(ck_stream *stream, ck_event *event) {
    (void)stream;
    ((cpu_event *)event)->at = seconds();
    return CK_OK;
}

/* Nothing is ever left to wait for. */
static ck_status cpu_event_await(ck_stream *stream, ck_event *event) {
    (void)stream, (void)event;
    return CK_OK;
}

static double cpu_event_seconds(const ck_event *from, const ck_event *to) {
    return ((const cpu_event *)to)->at - ((const cpu_event *)from)->at;
}

/* The kernel knows better than sysconf(), which on some virtual machines counts the cache of the whole
 * processor for every core. */
static size_t cache_of_kernel(void) {
    size_t kib = 0;
    for (int level = 3; level >= 2 && kib == 0; level--) {
        char path[64];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", level);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        if (fscanf(file, "%zuK", &kib) != 1) kib = 0;
        fclose(file);
    }
    return kib << 10;
}

size_t cpu_cache_bytes(const ck_backend *backend) {
    (void)backend;
    size_t known = cache_of_kernel();
    long level3 = sysconf(_SC_LEVEL3_CACHE_SIZE), level2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (known > 0) return known;
    return level3 > 0 ? (size_t)level3 : level2 > 0 ? (size_t)level2 : (size_t)32 << 20;
}

const ck_driver ck_cpu_driver = {
    .name = "cpu",
    .unavailable = cpu_unavailable,
    .open = cpu_open,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .stream_create = cpu_stream_create,
    .stream_destroy = cpu_stream_destroy,
    .copy = cpu_copy,
    .upload = cpu_copy,
    .download = cpu_copy,
    .zero = cpu_zero,
    .wait = cpu_wait,
    .event_create = cpu_event_create,
    .event_destroy = cpu_event_destroy,
    .event_record = cpu_event_record,
    .event_await = cpu_event_await,
    .event_seconds = cpu_event_seconds,
    .cache_bytes = cpu_cache_bytes,
    .supports = cpu_supports,
    .tensor_upload = cpu_tensor_upload,
    .tensor_download = cpu_tensor_download,
    .program_bytes = cpu_program_bytes,
    .program_place = cpu_program_place,
    .program_release = cpu_program_release,
    .run = cpu_run,
    .adamw_devices = cpu_adamw_devices,
    .carry_devices = cpu_carry_devices,
    .adamw_ranges = cpu_adamw_ranges,
    .group_sum = cpu_group_sum,
    .group_spread = cpu_group_spread,
    .group_proximal = cpu_group_proximal,
    .ceiling_bytes = cpu_ceiling_bytes,
    .ceiling = cpu_ceiling,
    .copy_rate = cpu_copy_rate,
};

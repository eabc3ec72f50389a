/* ceiling.c - what this processor can do at most: the rates that shares and floors refer to.
 *
 *   product  2 M N K FLOPs of matrices in the caches: the better one of OpenBLAS and of gemm.c. A and B are
 *            the same for all threads
 *   fma      x_c <- x_c a + b for independent c, all in registers: 2 FLOPs a lane. No loads, no stores, as
 *            many chains as hide the latency; of the widest vectors that the processor has, whatever the rest
 *            was compiled for
 *   copy     bytes read and written by memcpy() beyond the caches
 *
 * All threads, but no more than there are cores, work at the same time: a round begins when the last of them
 * has arrived. What a thread computes is held against its CPU time, and the rates of those that OpenMP really
 * gave are added: a ceiling is no lower because others use the cores too. Memory is shared, so a copy takes
 * the time from the first start to the last end. The best of several short rounds counts.
 *
 * OpenBLAS chooses its kernels by the processor's number. Where it does not know the number it may fall back
 * to those of a much older processor, so it is one candidate among others and its kernels are named where
 * they use less than the processor has. */
#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <time.h>

#include "cpu.h"
#include "gemm.h"

enum {
    M = 192,
    N = 192,
    K = 384,
    SHARED_FLOATS = M * K + K * N,
    OWN_FLOATS = M * N,
    FEWEST_ROUNDS = 3,
    MOST_ROUNDS = 30
};
/* of a thread inside cblas_sgemm(): packed A and B, its pages */
static const size_t BLAS_TOUCHES_BYTES = (size_t)640 << 10;
static const size_t BLAS_MAPS_BYTES = (size_t)128 << 20; /* and so much address space */
static const double ROUND_SECONDS = 2e-3, CANDIDATE_SECONDS = 0.06;

/* Threads beyond the cores add nothing but memory. */
static int useful_threads(const ck_backend *backend) {
    int cores = omp_get_num_procs();
    return backend->threads < cores ? backend->threads : cores;
}

size_t cpu_ceiling_bytes(const ck_backend *backend) {
    return SHARED_FLOATS * sizeof(float) +
           (size_t)useful_threads(backend) * (OWN_FLOATS * sizeof(float) + BLAS_TOUCHES_BYTES);
}

/* ---- Rounds ---- */

static double clock_seconds(clockid_t id) {
    struct timespec now;
    clock_gettime(id, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

typedef struct {
    void (*work)(const void *shared, void *own, size_t bytes); /* of one thread */
    const void *shared;
    char *own;     /* [threads, bytes]; NULL: work needs no memory, like shared */
    size_t bytes;  /* passed on */
    double amount; /* FLOPs or bytes of one call */
    bool together; /* the threads share what limits them */
} candidate;

typedef struct {
    double rate; /* a second, of all threads; 0: not measured */
    int threads;
} measured;

/* Every thread calls work() `calls` times. */
static measured run_round(const candidate *c, int threads, int calls) {
    measured all = {0};
    double first = INFINITY, last = 0;
    atomic_int arrived;
    atomic_init(&arrived, 0);
#pragma omp parallel num_threads(threads)
    {
        int given = omp_get_num_threads();
        char *own = c->own ? c->own + (size_t)omp_get_thread_num() * c->bytes : NULL;
        atomic_fetch_add(&arrived, 1);
        while (atomic_load(&arrived) < given) sched_yield();
        double begin = clock_seconds(CLOCK_MONOTONIC), cpu = clock_seconds(CLOCK_THREAD_CPUTIME_ID);
        for (int i = 0; i < calls; i++) c->work(c->shared, own, c->bytes);
        cpu = clock_seconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
#pragma omp critical
        {
            first = fmin(first, begin);
            last = fmax(last, clock_seconds(CLOCK_MONOTONIC));
            all.rate += c->amount * calls / cpu;
            all.threads = given;
        }
    }
    if (c->together) all.rate = c->amount * calls * all.threads / (last - first);
    return all;
}

static measured measure(const candidate *c, int threads) {
    measured best = {0}, once = run_round(c, threads, 1);
    double start = clock_seconds(CLOCK_MONOTONIC),
           wanted = ROUND_SECONDS * once.rate / (c->amount * once.threads);
    int calls = wanted > 1000 ? 1000 : wanted > 1 ? (int)wanted : 1;
    for (int round = 0; round < MOST_ROUNDS; round++) {
        if (round >= FEWEST_ROUNDS && clock_seconds(CLOCK_MONOTONIC) - start >= CANDIDATE_SECONDS) break;
        measured now = run_round(c, threads, calls);
        if (now.rate > best.rate) best = now;
    }
    return best;
}

/* ---- Products ---- */

static void blas_product(const void *shared, void *own, size_t bytes) {
    const float *a = shared, *b = a + M * K;
    (void)bytes;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, M, N, K, 1, a, K, b, N, 0, own, N);
}

static void own_product(const void *shared, void *own, size_t bytes) {
    const float *a = shared, *b = a + M * K;
    (void)bytes;
    gemm_nn(M, N, K, 1, a, K, b, N, 0, own, N);
}

/* OpenBLAS maps a buffer for every thread inside it, and tries for ever where it cannot; beyond its table of
 * buffers it complains. */
static bool blas_has_room(int threads) {
    const char *most = strstr(openblas_get_config(), "MAX_THREADS=");
    if (most && threads > 2 * atoi(most + strlen("MAX_THREADS="))) return false;
    size_t bytes = (size_t)threads * BLAS_MAPS_BYTES;
    void *trial = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return trial != MAP_FAILED && munmap(trial, bytes) == 0;
}

static void take_product(ck_ceiling *out, candidate c, const char *of, int threads) {
    measured m = measure(&c, threads);
    if (m.rate <= out->product) return;
    out->product = m.rate;
    out->threads = m.threads;
    snprintf(out->product_of, sizeof out->product_of, "%s", of);
}

static void measure_products(ck_ceiling *out, int threads) {
    char blas[48];
    size_t floats = SHARED_FLOATS + (size_t)threads * OWN_FLOATS;
    float *memory = aligned_alloc(64, floats * sizeof *memory);
    if (!memory) return;
    for (size_t i = 0; i < floats; i++) memory[i] = (float)(i % 13) * 0.1f;
    candidate c = {.shared = memory,
                   .own = (char *)(memory + SHARED_FLOATS),
                   .bytes = OWN_FLOATS * sizeof(float),
                   .amount = 2.0 * M * N * K};
    c.work = own_product;
    if (gemm_is_own) take_product(out, c, "Cohort's", threads);
    snprintf(blas, sizeof blas, "OpenBLAS %s", openblas_get_corename());
    c.work = blas_product;
    if (blas_has_room(threads)) take_product(out, c, blas, threads);
    free(memory);
}

/* ---- Multiply-adds ---- */

/* Two FLOPs a lane, chain and step. Chains that begin alike would be one to a compiler; all converge to 2. */
enum { CHAINS = 12, STEPS = 20000 };
#define EACH_CHAIN(X)    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define BEGIN_CHAIN(c)   x##c += start + c;
#define STEP_CHAIN(c)    x##c = x##c * half + one;
#define END_CHAIN(c)     sum += x##c;
#define DECLARE_CHAIN(c) vector x##c = {0};
#define MULTIPLY_ADD(name, bytes, attribute)                                                                 \
    attribute static void name(const void *shared, void *own, size_t unused) {                               \
        typedef float vector __attribute__((vector_size(bytes)));                                            \
        volatile float source = 1, sink;                                                                     \
        float start = source;                                                                                \
        vector half = {0}, one = {0}, sum = {0};                                                             \
        half += 0.5f * start, one += start;                                                                  \
        EACH_CHAIN(DECLARE_CHAIN)                                                                            \
        EACH_CHAIN(BEGIN_CHAIN)                                                                              \
        for (int step = 0; step < STEPS; step++) {                                                           \
            EACH_CHAIN(STEP_CHAIN)                                                                           \
        }                                                                                                    \
        EACH_CHAIN(END_CHAIN)                                                                                \
        sink = sum[0];                                                                                       \
        (void)sink, (void)shared, (void)own, (void)unused;                                                   \
    }

MULTIPLY_ADD(add_of_16_bytes, 16, )
#ifdef __x86_64__
MULTIPLY_ADD(add_of_32_bytes, 32, __attribute__((target("avx2,fma"))))
MULTIPLY_ADD(add_of_64_bytes, 64, __attribute__((target("avx512f"))))
#endif

/* ---- What the processor has, and what OpenBLAS uses of it ---- */

typedef enum { LEVEL_SSE, LEVEL_AVX, LEVEL_FMA, LEVEL_AVX512 } level;
static const char *const LEVELS[] = {"SSE", "AVX", "AVX2 and FMA", "AVX-512"};

static level processor_level(void) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f")) return LEVEL_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return LEVEL_FMA;
    if (__builtin_cpu_supports("avx")) return LEVEL_AVX;
#endif
    return LEVEL_SSE;
}

/* By the names that openblas_get_corename() gives; one that is not listed is taken to be the processor's own.
 */
static level kernels_level(const char *core) {
    static const struct {
        const char *core;
        level level;
    } known[] = {
        {"Prescott", LEVEL_SSE},   {"Core2", LEVEL_SSE},       {"Penryn", LEVEL_SSE},
        {"Dunnington", LEVEL_SSE}, {"Nehalem", LEVEL_SSE},     {"Atom", LEVEL_SSE},
        {"Athlon", LEVEL_SSE},     {"Opteron", LEVEL_SSE},     {"Opteron_SSE3", LEVEL_SSE},
        {"Barcelona", LEVEL_SSE},  {"Bobcat", LEVEL_SSE},      {"Nano", LEVEL_SSE},
        {"Katmai", LEVEL_SSE},     {"Coppermine", LEVEL_SSE},  {"Northwood", LEVEL_SSE},
        {"Banias", LEVEL_SSE},     {"Sandybridge", LEVEL_AVX}, {"Bulldozer", LEVEL_AVX},
        {"Piledriver", LEVEL_AVX}, {"Steamroller", LEVEL_AVX}, {"Excavator", LEVEL_FMA},
        {"Haswell", LEVEL_FMA},    {"Zen", LEVEL_FMA},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcasecmp(known[i].core, core) == 0) return known[i].level;
    return processor_level();
}

static double measure_multiply_adds(int threads) {
    candidate c = {.work = add_of_16_bytes, .amount = 2.0 * 4 * CHAINS * STEPS};
#ifdef __x86_64__
    level has = processor_level();
    if (has == LEVEL_FMA) c = (candidate){.work = add_of_32_bytes, .amount = 2.0 * 8 * CHAINS * STEPS};
    if (has == LEVEL_AVX512) c = (candidate){.work = add_of_64_bytes, .amount = 2.0 * 16 * CHAINS * STEPS};
#endif
    return measure(&c, threads).rate;
}

void cpu_ceiling(ck_backend *backend, ck_precision precision, ck_ceiling *out) {
    const char *core = openblas_get_corename();
    level used = kernels_level(core), has = processor_level();
    if (precision != CK_F32) return;
    measure_products(out, useful_threads(backend));
    out->fma = measure_multiply_adds(useful_threads(backend));
    /* it consists of them: on a busy machine either may come out too low */
    if (out->fma < out->product) out->fma = out->product;
    if (used < has)
        snprintf(out->note, sizeof out->note,
                 "OpenBLAS uses its %s kernels (%s) on this processor, which has %s", core, LEVELS[used],
                 LEVELS[has]);
}

/* ---- Copies ---- */

static void copy_half(const void *shared, void *own, size_t bytes) {
    (void)shared;
    memcpy((char *)own + bytes / 2, own, bytes / 2);
}

double cpu_copy_rate(ck_backend *backend) {
    size_t threads = (size_t)backend->threads, lines = (4 * cpu_cache_bytes(backend) / threads + 63) / 64,
           bytes = 2 * lines * 64;
    char *memory = aligned_alloc(64, bytes * threads);
    if (!memory) return 0;
    memset(memory, 1, bytes * threads);
    double rate =
        measure(
            &(candidate){
                .work = copy_half, .own = memory, .bytes = bytes, .amount = (double)bytes, .together = true},
            backend->threads)
            .rate;
    free(memory);
    return rate;
}

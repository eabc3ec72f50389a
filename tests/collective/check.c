/* check.c - every process checks what it gets from the others; prints what is wrong and exits 1, else prints
 * "process P of N: ok ROUTE".
 *
 *   mpirun -n N collective-check           all calls, small and large
 *   mpirun -n N collective-check device    the same with a backend that has streams of its own,
 *       so that sums may go by NCCL
 *   mpirun -n N collective-check abort     the last process ends all with status 5 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend.h"
#include "collective/collective.h"

static ck_collective *all;
static int me, n;
static int wrong;

#define EXPECT(condition, ...)                                                                               \
    do {                                                                                                     \
        if (condition) break;                                                                                \
        printf("process %d of %d, line %d: ", me, n, __LINE__);                                              \
        printf(__VA_ARGS__);                                                                                 \
        printf(" (%s)\n", ck_collective_error(all));                                                         \
        wrong = 1;                                                                                           \
    } while (0)

/* Processes arrive at different moments, another first each time. */
static void stagger(int turn) {
    const struct timespec pause = {.tv_nsec = 3000000L * ((me + turn) % n)};
    nanosleep(&pause, NULL);
}

static void check_exchange(void) {
    int64_t mine[2] = {me, 100 + me}, *every = calloc((size_t)n, sizeof mine);
    stagger(0);
    EXPECT(ck_collective_exchange(all, mine, sizeof mine, every) == CK_OK, "exchange");
    for (int p = 0; p < n; p++)
        EXPECT(every[2 * p] == p && every[2 * p + 1] == 100 + p, "exchange: %lld of process %d",
               (long long)every[2 * p], p);
    free(every);
}

static unsigned char byte_of(int process, size_t i) {
    return (unsigned char)((size_t)process * 31 + i * 7 + i / 251);
}

static void fill(unsigned char *bytes, int process, size_t count) {
    for (size_t i = 0; i < count; i++) bytes[i] = byte_of(process, i);
}

static bool holds(const unsigned char *bytes, int process, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != byte_of(process, i)) return false;
    return true;
}

static void check_broadcast(size_t count) {
    unsigned char *bytes = calloc(count + 1, 1);
    if (me == 0) fill(bytes, 0, count);
    stagger(1);
    EXPECT(ck_collective_broadcast(all, bytes, count) == CK_OK && holds(bytes, 0, count),
           "broadcast of %zu bytes", count);
    EXPECT(bytes[count] == 0, "broadcast wrote beyond %zu bytes", count);
    free(bytes);
}

/* Process p gives 1000 p bytes: process 0 nothing. */
static void check_gather(void) {
    size_t *sizes = calloc((size_t)n, sizeof *sizes), total = 0;
    for (int p = 0; p < n; p++) total += sizes[p] = 1000 * (size_t)p;
    unsigned char *mine = malloc(sizes[me] + 1), *every = me == 0 ? malloc(total + 1) : NULL, *at = every;
    fill(mine, me, sizes[me]);
    stagger(2);
    EXPECT(ck_collective_gather(all, mine, sizes, every) == CK_OK, "gather");
    for (int p = 0; me == 0 && p < n; at += sizes[p++])
        EXPECT(holds(at, p, sizes[p]), "gather: the bytes of process %d", p);
    free(sizes);
    free(mine);
    free(every);
}

static void check_move(int from, int to, size_t count) {
    unsigned char *bytes = calloc(count + 1, 1);
    if (me == from) fill(bytes, from, count);
    stagger(1);
    if (me == from || me == to)
        EXPECT(ck_collective_move(all, from, to, bytes, count) == CK_OK && holds(bytes, from, count),
               "move of %zu bytes", count);
    free(bytes);
}

/* Their sum depends on the order: ((1 + 1e8) - 1e8) is 0, (1 + (1e8 - 1e8)) is 1. Who has which changes from
 * value to value. */
static float value_of(int process, int64_t j) {
    static const float values[] = {1.0F, 1e8F, -1e8F, 0.3F};
    return values[(process + j) % 4];
}

static float sum_in_order(int64_t j) {
    volatile float sum = value_of(0, j);
    for (int p = 1; p < n; p++) sum += value_of(p, j);
    return sum;
}

static void check_sum(ck_stream *stream, int64_t count, int turn) {
    float *host = malloc((size_t)(count + 1) * sizeof *host);
    void *memory = NULL;
    int64_t differing = 0;
    EXPECT(ck_alloc(stream->backend, (size_t)(count + 1) * sizeof *host, "the sum", &memory) == CK_OK,
           "%lld floats", (long long)count);
    for (int64_t j = 0; j < count; j++) host[j] = value_of(me, j);
    host[count] = 42.0F;
    ck_upload(stream, memory, host, (size_t)(count + 1) * sizeof *host);
    stagger(turn);
    EXPECT(ck_collective_sum(all, stream, memory, count) == CK_OK, "sum of %lld", (long long)count);
    ck_download(stream, host, memory, (size_t)(count + 1) * sizeof *host);
    ck_wait(stream);
    for (int64_t j = 0; j < count; j++) differing += host[j] != sum_in_order(j);
    EXPECT(differing == 0, "sum of %lld: %lld differ from the sum in the order of the processes",
           (long long)count, (long long)differing);
    EXPECT(host[count] == 42.0F, "sum of %lld wrote beyond", (long long)count);
    ck_free(stream->backend, memory);
    free(host);
}

/* The CPU backend with streams that its "device's own libraries" know. */
static void *own_stream(ck_stream *stream) {
    return stream;
}

static ck_backend *open_backend(bool device) {
    static ck_driver driver;
    ck_backend *backend = NULL;
    EXPECT(ck_open("cpu", 1, &backend) == CK_OK, "%s", ck_last_error(NULL));
    if (!device || !backend) return backend;
    driver = *backend->driver;
    driver.device_stream = own_stream;
    backend->driver = &driver;
    return backend;
}

static void check_sums(bool device) {
    const int64_t chunk = CK_COLLECTIVE_CHUNK;
    const int64_t counts[] = {1, 2, 3, n - 1, n, n + 1, 1000, chunk - 1, chunk, chunk + 1, 2 * chunk + 12345};
    ck_backend *backend = open_backend(device);
    ck_stream *stream = NULL;
    EXPECT(backend && ck_stream_create(backend, &stream) == CK_OK, "a stream");
    for (size_t i = 0; stream && i < sizeof counts / sizeof *counts; i++)
        check_sum(stream, counts[i], (int)i);
    EXPECT(ck_collective_sum(all, stream, NULL, 0) == CK_OK, "a sum of nothing");
    ck_stream_destroy(stream);
    ck_close(backend);
}

static void check_all(bool device) {
    EXPECT(n >= 1 && me >= 0 && me < n, "number %d of %d", me, n);
    EXPECT(ck_local_processes(all) == n && ck_local_process(all) == me, "all are on this machine");
    check_exchange();
    check_broadcast(0);
    check_broadcast(5000000);
    check_gather();
    for (int p = 0; p < n; p++) {
        check_move(p, 0, 3000001);
        check_move(0, p, 17);
        check_move(p, (p + 1) % n, 100000);
    }
    check_sums(device);
}

int main(int argc, char **argv) {
    if (ck_collective_open(&all) != CK_OK) {
        printf("cannot be opened: %s\n", ck_collective_error(NULL));
        return 1;
    }
    me = ck_process(all);
    n = ck_processes(all);
    if (argc > 1 && strcmp(argv[1], "abort") == 0 && me == n - 1) ck_collective_abort(all, 5);
    check_all(argc > 1 && strcmp(argv[1], "device") == 0);
    if (!wrong) printf("process %d of %d: ok %s\n", me, n, ck_collective_route(all));
    ck_collective_close(all);
    return wrong;
}

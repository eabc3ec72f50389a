/* nccl.c - sums of GPU memory, from GPU to GPU.
 *
 *   process 0: ncclGetUniqueId --MPI--> everybody: ncclCommInitRank     once, at the first sum
 *   ncclAllReduce(packed, packed, n, f32, sum) on the backend's stream
 *       2 n (P - 1) / P floats in and out of each GPU
 *
 * The library is loaded when it is first needed, so neither building nor a run of one process asks for it.
 * What is used of it has kept its binary interface since NCCL 2.0 and is declared here. Whether all processes
 * can use it is agreed by MPI: where one cannot (no library, two processes on one GPU), all sum through the
 * host. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "collective/driver.h"
#include "library.h"

typedef struct ncclComm *ncclComm_t;
typedef struct {
    char internal[128];
} ncclUniqueId;
enum { ncclSuccess = 0, ncclFloat32 = 7, ncclSum = 0 };

struct nccl {
    bool ready;
    ncclComm_t communicator;
};

/* Entry points; a GPU's stream is a pointer. */
typedef struct {
    void *library;
    int (*GetUniqueId)(ncclUniqueId *);
    int (*CommInitRank)(ncclComm_t *, int processes, ncclUniqueId, int process);
    int (*CommDestroy)(ncclComm_t);
    int (*AllReduce)(const void *from, void *to, size_t count, int type, int operation, ncclComm_t,
                     void *stream);
    const char *(*GetErrorString)(int);
} entry_points;

static entry_points api;

static bool find(void *target, const char *name) {
    void *symbol = dlsym(api.library, name);
    /* ISO C has no conversion of an object's address to a function's */
    memcpy(target, &symbol, sizeof symbol);
    return symbol != NULL;
}

const char *nccl_unavailable(void) {
    if (api.AllReduce) return NULL;
    static char message[640];
    char why[512];
    if (!api.library) api.library = ck_load_library("libnccl.so.2", NULL, why, sizeof why);
    if (!api.library) {
        snprintf(message, sizeof message,
                 "%s: sums of GPU memory go through the host (NVIDIA's package: libnccl2)", why);
        return message;
    }
    bool found = find(&api.GetUniqueId, "ncclGetUniqueId") && find(&api.CommInitRank, "ncclCommInitRank") &&
                 find(&api.CommDestroy, "ncclCommDestroy") &&
                 find(&api.GetErrorString, "ncclGetErrorString") && find(&api.AllReduce, "ncclAllReduce");
    return found ? NULL
                 : "libnccl.so.2 lacks a function that is needed: sums of GPU memory go through the host";
}

static void *device_stream(ck_stream *stream) {
    const ck_driver *driver = stream->backend->driver;
    return driver->device_stream ? driver->device_stream(stream) : NULL;
}

/* True if all processes say so. */
static ck_status all_agree(ck_collective *c, bool own, bool *all) {
    unsigned char one = own, *every = calloc((size_t)c->processes, 1);
    if (!every) return collective_fail(c, "no memory to ask the other processes for NCCL");
    ck_status status = ck_collective_exchange(c, &one, 1, every);
    *all = status == CK_OK && !memchr(every, 0, (size_t)c->processes);
    free(every);
    return status;
}

static ck_status start(ck_collective *c, nccl *gpu) {
    ncclUniqueId id = {{0}};
    bool able = c->process != 0 || api.GetUniqueId(&id) == ncclSuccess;
    ck_status status = all_agree(c, able, &able);
    if (status != CK_OK || !able) return status;
    status = ck_collective_broadcast(c, &id, sizeof id);
    if (status != CK_OK) return status;
    bool joined = api.CommInitRank(&gpu->communicator, c->processes, id, c->process) == ncclSuccess;
    return all_agree(c, joined, &gpu->ready);
}

ck_status nccl_serves(ck_collective *c, ck_stream *stream, bool *serves) {
    ck_status status = CK_OK;
    *serves = false;
    if (!c->gpu) {
        bool able = device_stream(stream) && !nccl_unavailable();
        c->gpu = calloc(1, sizeof *c->gpu);
        if (!c->gpu) return collective_fail(c, "no memory for NCCL");
        status = all_agree(c, able, &able);
        if (status == CK_OK && able) status = start(c, c->gpu);
    }
    *serves = c->gpu->ready;
    return status;
}

ck_status nccl_sum(ck_collective *c, ck_stream *stream, float *packed, int64_t count) {
    int result = api.AllReduce(packed, packed, (size_t)count, ncclFloat32, ncclSum, c->gpu->communicator,
                               device_stream(stream));
    if (result != ncclSuccess) return collective_fail(c, "summing over GPUs: %s", api.GetErrorString(result));
    return ck_wait(stream) == CK_OK
               ? CK_OK
               : collective_fail(c, "summing over GPUs: %s", ck_last_error(stream->backend));
}

void nccl_close(ck_collective *c) {
    if (c->gpu && c->gpu->communicator && !c->broken) api.CommDestroy(c->gpu->communicator);
    free(c->gpu);
    c->gpu = NULL;
}

/* driver.h - what a way of reaching the other processes implements. Seen by this folder only. */
#ifndef COHORT_COLLECTIVE_DRIVER_H
#define COHORT_COLLECTIVE_DRIVER_H

#include "collective/collective.h"

typedef struct {
    const char *name;
    const char *(*unavailable)(void); /* NULL, or why not */
    /* Sets the four numbers; NULL where there is nothing to join. */
    ck_status (*open)(ck_collective *);
    void (*close)(ck_collective *);
    void (*abort)(ck_collective *, int exit_status);
    ck_status (*exchange)(ck_collective *, const void *own, size_t bytes, void *all);
    ck_status (*broadcast)(ck_collective *, void *values, size_t bytes);
    ck_status (*send)(ck_collective *, int to, const void *values, size_t bytes);
    ck_status (*receive)(ck_collective *, int from, void *values, size_t bytes);
    /* values[j] becomes the sum over processes, in their order; scratch [collective_scratch()] floats; count
     * <= CK_COLLECTIVE_CHUNK. */
    ck_status (*sum)(ck_collective *, float *values, float *scratch, int count);
} collective_driver;

typedef struct nccl nccl;

struct ck_collective {
    const collective_driver *driver;
    int process, processes, local_process, local_processes;
    const char *route; /* of the last sum */
    nccl *gpu;         /* NULL until the first sum of GPU memory */
    float *host;       /* chunk and scratch of a sum through the host; NULL until the first */
    bool broken;
    char error[512];
};

extern const collective_driver collective_local, collective_mpi;

/* Every process adds a share of the values: of each chunk, count / processes rounded up, times the processes.
 */
size_t collective_scratch(const ck_collective *c);
/* Records the message, marks the collective as broken, and returns CK_FAILED. */
ck_status collective_fail(ck_collective *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* nccl.c. Why GPUs cannot talk to each other, NULL if they may. */
const char *nccl_unavailable(void);
/* Whether sums of this stream's memory go by NCCL: agreed by all processes at the first call, which opens it.
 */
ck_status nccl_serves(ck_collective *c, ck_stream *stream, bool *serves);
ck_status nccl_sum(ck_collective *c, ck_stream *stream, float *packed, int64_t count);
void nccl_close(ck_collective *c);

#endif

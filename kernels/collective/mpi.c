/* mpi.c - several processes, reached by MPI.
 *
 * A sum is made by hand, because MPI may add in any order. With P processes and b = ceil(n / P):
 *
 *   process q gets block [q b, (q + 1) b) of everybody      (n / P floats from each)
 *   adds them: ((x_0 + x_1) + x_2) + ...                    in the order of the processes
 *   and everybody gets every block's sum                    2 n (P - 1) / P floats in and out in all:
 *       as little as any all-reduce
 *
 * MPI waits by polling, which would take a core that another process needs; here every wait polls for a while
 * and then sleeps between. */
#include <stdlib.h>
#include <string.h>

#include "collective/driver.h"

#ifdef COHORT_MPI

#include <mpi.h>
#include <sched.h>
#include <time.h>

/* Polls while an answer is likely to be near (tens of microseconds), then leaves the core. */
enum { POLLS = 200, YIELDS = 2000, PAUSE_NS = 100000, PIECE_BYTES = 1 << 30, TAG = 1 };

static const char *mpi_unavailable(void) {
    return NULL;
}

static ck_status check(ck_collective *c, int result, const char *what) {
    if (result == MPI_SUCCESS) return CK_OK;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(result, text, &length);
    return collective_fail(c, "%s: %s", what, text);
}

static int wait_for(MPI_Request *request) {
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    for (int tries = 0;; tries++) {
        int done = 0, result = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (result != MPI_SUCCESS || done) return result;
        if (tries > POLLS + YIELDS)
            nanosleep(&pause, NULL);
        else if (tries > POLLS)
            sched_yield();
    }
}

static ck_status finish(ck_collective *c, int result, MPI_Request *request, const char *what) {
    return check(c, result == MPI_SUCCESS ? wait_for(request) : result, what);
}

static ck_status mpi_open(ck_collective *c) {
    MPI_Comm machine;
    int provided = 0;
    ck_status status = check(c, MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "starting MPI");
    if (status != CK_OK) return status;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &c->process);
    MPI_Comm_size(MPI_COMM_WORLD, &c->processes);
    status = check(
        c, MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, c->process, MPI_INFO_NULL, &machine),
        "finding the processes of this machine");
    if (status != CK_OK) return status;
    MPI_Comm_rank(machine, &c->local_process);
    MPI_Comm_size(machine, &c->local_processes);
    MPI_Comm_free(&machine);
    return CK_OK;
}

/* Leaving waits for the others, without taking a core from them. */
static void mpi_close(ck_collective *c) {
    MPI_Request request;
    if (!c->broken && MPI_Ibarrier(MPI_COMM_WORLD, &request) == MPI_SUCCESS) wait_for(&request);
    MPI_Finalize();
}

static void mpi_abort(ck_collective *c, int exit_status) {
    (void)c;
    MPI_Abort(MPI_COMM_WORLD, exit_status);
}

static ck_status mpi_exchange(ck_collective *c, const void *own, size_t bytes, void *all) {
    MPI_Request request;
    int n = (int)bytes;
    return finish(c, MPI_Iallgather(own, n, MPI_BYTE, all, n, MPI_BYTE, MPI_COMM_WORLD, &request), &request,
                  "telling the other processes");
}

/* MPI counts in int: larger messages go in pieces. */
static int piece_of(size_t bytes) {
    return (int)(bytes < PIECE_BYTES ? bytes : PIECE_BYTES);
}

static ck_status mpi_broadcast(ck_collective *c, void *values, size_t bytes) {
    ck_status status = CK_OK;
    for (size_t at = 0; at < bytes && status == CK_OK; at += PIECE_BYTES) {
        MPI_Request request;
        void *from = (char *)values + at;
        status = finish(c, MPI_Ibcast(from, piece_of(bytes - at), MPI_BYTE, 0, MPI_COMM_WORLD, &request),
                        &request, "hearing from process 0");
    }
    return status;
}

static ck_status mpi_send(ck_collective *c, int to, const void *values, size_t bytes) {
    ck_status status = CK_OK;
    for (size_t at = 0; at < bytes && status == CK_OK; at += PIECE_BYTES) {
        MPI_Request request;
        const void *from = (const char *)values + at;
        status = finish(c, MPI_Isend(from, piece_of(bytes - at), MPI_BYTE, to, TAG, MPI_COMM_WORLD, &request),
                        &request, "sending to another process");
    }
    return status;
}

static ck_status mpi_receive(ck_collective *c, int from, void *values, size_t bytes) {
    ck_status status = CK_OK;
    for (size_t at = 0; at < bytes && status == CK_OK; at += PIECE_BYTES) {
        MPI_Request request;
        void *to = (char *)values + at;
        status = finish(c, MPI_Irecv(to, piece_of(bytes - at), MPI_BYTE, from, TAG, MPI_COMM_WORLD, &request),
                        &request, "receiving from another process");
    }
    return status;
}

/* Block q of n floats. */
static int block_count(int n, int block, int q) {
    int left = n - q * block;
    return left < 0 ? 0 : left < block ? left : block;
}

typedef struct {
    /* [processes] each: of the values by block; of my block from everybody */
    int *counts, *offsets, *same, *blocks;
} layout;

static void fill_layout(const ck_collective *c, int count, layout *l) {
    int block = (count + c->processes - 1) / c->processes;
    for (int q = 0; q < c->processes; q++) {
        l->counts[q] = block_count(count, block, q);
        l->offsets[q] = q * block < count ? q * block : 0;
        l->same[q] = block_count(count, block, c->process);
        l->blocks[q] = q * block;
    }
}

static ck_status add_blocks(ck_collective *c, const layout *l, float *values, float *scratch) {
    MPI_Request request;
    int own = l->same[0];
    ck_status status = finish(c,
                              MPI_Ialltoallv(values, l->counts, l->offsets, MPI_FLOAT, scratch, l->same,
                                             l->blocks, MPI_FLOAT, MPI_COMM_WORLD, &request),
                              &request, "summing over processes");
    if (status != CK_OK) return status;
    for (int q = 1; q < c->processes; q++) {
        const float *from = scratch + l->blocks[q];
        for (int j = 0; j < own; j++) scratch[j] += from[j];
    }
    return finish(c,
                  MPI_Iallgatherv(scratch, own, MPI_FLOAT, values, l->counts, l->offsets, MPI_FLOAT,
                                  MPI_COMM_WORLD, &request),
                  &request, "summing over processes");
}

static ck_status mpi_sum(ck_collective *c, float *values, float *scratch, int count) {
    size_t n = (size_t)c->processes;
    int *numbers = malloc(4 * n * sizeof *numbers);
    if (!numbers) return collective_fail(c, "no memory to sum over processes");
    layout l = {
        .counts = numbers, .offsets = numbers + n, .same = numbers + 2 * n, .blocks = numbers + 3 * n};
    fill_layout(c, count, &l);
    ck_status status = add_blocks(c, &l, values, scratch);
    free(numbers);
    return status;
}

const collective_driver collective_mpi = {.name = "mpi",
                                          .unavailable = mpi_unavailable,
                                          .open = mpi_open,
                                          .close = mpi_close,
                                          .abort = mpi_abort,
                                          .exchange = mpi_exchange,
                                          .broadcast = mpi_broadcast,
                                          .send = mpi_send,
                                          .receive = mpi_receive,
                                          .sum = mpi_sum};

#else

static const char *mpi_unavailable(void) {
    return "this build has no MPI: libopenmpi-dev was not found when it was built";
}

const collective_driver collective_mpi = {.name = "mpi", .unavailable = mpi_unavailable};

#endif

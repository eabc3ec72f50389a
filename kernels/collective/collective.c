/* collective.c - who is there, and what every way of reaching the others shares.
 *
 * A sum of backend memory goes through the host in chunks, so that it takes the same memory whatever it sums:
 *
 *   packed --download--> chunk --sum over processes, in their order--> chunk --upload--> packed */
#include "collective/collective.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collective/driver.h"

static ck_collective alone = {
    .driver = &collective_local, .processes = 1, .local_processes = 1, .route = "local"};
static char open_error[512];

const ck_backend_info *ck_collectives(int *count) {
    static ck_backend_info infos[3];
    infos[0] = (ck_backend_info){collective_local.name, collective_local.unavailable()};
    infos[1] = (ck_backend_info){collective_mpi.name, collective_mpi.unavailable()};
    infos[2] = (ck_backend_info){"nccl", nccl_unavailable()};
    *count = 3;
    return infos;
}

ck_status collective_fail(ck_collective *c, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (!c->broken) vsnprintf(c->error, sizeof c->error, format, arguments);
    va_end(arguments);
    c->broken = true;
    return CK_FAILED;
}

static ck_status refuse(ck_status status, const char *why) {
    snprintf(open_error, sizeof open_error, "%s", why);
    return status;
}

ck_status ck_collective_open(ck_collective **out) {
    *out = &alone;
    if (!ck_under_mpirun()) return CK_OK;
    const char *reason = collective_mpi.unavailable();
    if (reason) return refuse(CK_UNAVAILABLE, reason);
    ck_collective *c = calloc(1, sizeof *c);
    if (!c) return refuse(CK_NO_MEMORY, "no memory to join the other processes");
    *c = (ck_collective){.driver = &collective_mpi, .processes = 1, .local_processes = 1, .route = "mpi"};
    if (c->driver->open(c) == CK_OK) {
        *out = c;
        return CK_OK;
    }
    refuse(CK_FAILED, c->error);
    free(c);
    return CK_FAILED;
}

ck_collective *ck_collective_local(void) {
    return &alone;
}

void ck_collective_close(ck_collective *c) {
    if (!c || c == &alone) return;
    nccl_close(c);
    c->driver->close(c);
    free(c->host);
    free(c);
}

void ck_collective_abort(ck_collective *c, int exit_status) {
    if (c && c->driver->abort) c->driver->abort(c, exit_status);
}

const char *ck_collective_error(const ck_collective *c) {
    return c ? c->error : open_error;
}

bool ck_collective_broken(const ck_collective *c) {
    return c->broken;
}

int ck_process(const ck_collective *c) {
    return c->process;
}

int ck_processes(const ck_collective *c) {
    return c->processes;
}

int ck_local_process(const ck_collective *c) {
    return c->local_process;
}

int ck_local_processes(const ck_collective *c) {
    return c->local_processes;
}

const char *ck_collective_route(const ck_collective *c) {
    return c->route;
}

/* ---- Host memory ---- */

ck_status ck_collective_exchange(ck_collective *c, const void *own, size_t bytes, void *all) {
    return c->driver->exchange(c, own, bytes, all);
}

ck_status ck_collective_broadcast(ck_collective *c, void *values, size_t bytes) {
    return c->driver->broadcast(c, values, bytes);
}

ck_status ck_collective_move(ck_collective *c, int from, int to, void *values, size_t bytes) {
    if (from == to || bytes == 0) return CK_OK;
    return c->process == from ? c->driver->send(c, to, values, bytes)
                              : c->driver->receive(c, from, values, bytes);
}

ck_status ck_collective_gather(ck_collective *c, const void *own, const size_t *bytes, void *all) {
    if (c->process != 0) return bytes[c->process] > 0 ? c->driver->send(c, 0, own, bytes[c->process]) : CK_OK;
    unsigned char *to = all;
    ck_status status = CK_OK;
    if (bytes[0] > 0) memcpy(to, own, bytes[0]);
    for (int p = 1; p < c->processes && status == CK_OK; p++) {
        to += bytes[p - 1];
        if (bytes[p] > 0) status = c->driver->receive(c, p, to, bytes[p]);
    }
    return status;
}

/* ---- Backend memory ---- */

size_t collective_scratch(const ck_collective *c) {
    size_t processes = (size_t)c->processes;
    return (CK_COLLECTIVE_CHUNK + processes - 1) / processes * processes;
}

/* A process without this memory could not tell the others, who would wait for it. */
static ck_status take_host(ck_collective *c) {
    if (c->host) return CK_OK;
    c->host = malloc((CK_COLLECTIVE_CHUNK + collective_scratch(c)) * sizeof *c->host);
    return c->host ? CK_OK
                   : collective_fail(c, "no memory for the values that are on their way between processes");
}

static ck_status sum_chunk(ck_collective *c, ck_stream *stream, float *packed, int count) {
    size_t bytes = (size_t)count * sizeof *packed;
    ck_status status = ck_download(stream, c->host, packed, bytes);
    if (status == CK_OK) status = ck_wait(stream);
    if (status != CK_OK) return collective_fail(c, "the values to sum cannot be read from the backend");
    status = c->driver->sum(c, c->host, c->host + CK_COLLECTIVE_CHUNK, count);
    if (status != CK_OK) return status;
    status = ck_upload(stream, packed, c->host, bytes);
    if (status == CK_OK) status = ck_wait(stream);
    return status == CK_OK ? CK_OK : collective_fail(c, "the sums cannot be written to the backend");
}

static ck_status sum_through_host(ck_collective *c, ck_stream *stream, float *packed, int64_t count) {
    ck_status status = take_host(c);
    for (int64_t first = 0; first < count && status == CK_OK; first += CK_COLLECTIVE_CHUNK)
        status = sum_chunk(c, stream, packed + first,
                           (int)(count - first < CK_COLLECTIVE_CHUNK ? count - first : CK_COLLECTIVE_CHUNK));
    return status;
}

ck_status ck_collective_sum(ck_collective *c, ck_stream *stream, float *packed, int64_t count) {
    if (c->processes == 1 || count == 0) return CK_OK;
    bool by_nccl = false;
    ck_status status = nccl_serves(c, stream, &by_nccl);
    c->route = by_nccl ? "nccl" : c->driver->name;
    if (status != CK_OK) return status;
    return by_nccl ? nccl_sum(c, stream, packed, count) : sum_through_host(c, stream, packed, count);
}

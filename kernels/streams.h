/* streams.h - backends, streams, memory, events and graphs: where work runs, whatever the work is. kernels.h
 * includes this file. */
#ifndef COHORT_KERNELS_STREAMS_H
#define COHORT_KERNELS_STREAMS_H

#include <stddef.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Backends -------------------------------------------------------------------------------- */

typedef struct ck_backend ck_backend;

typedef struct {
    const char *name;        /* "cpu", "cuda" */
    const char *unavailable; /* NULL if usable, else the reason in a sentence a user understands */
} ck_backend_info;

/* The registry, in order of preference; *count entries, valid for the life of the process. */
const ck_backend_info *ck_backends(int *count);

/* Opens a backend by name ("auto": the first usable one). threads: CPU worker threads, at most
 * CK_MAX_THREADS; 0 = one per core of the affinity mask. */
ck_status ck_open(const char *name, int threads, ck_backend **out);
void ck_close(ck_backend *backend); /* NULL is fine */
const char *ck_name(const ck_backend *backend);
/* e.g. "AMD EPYC (family 26 model 2), 2 threads, OpenBLAS SkylakeX" */
const char *ck_hardware(const ck_backend *backend);
int ck_threads(const ck_backend *backend);
/* What made this backend slower so far than it could be, in a sentence; empty: nothing that it knows of. */
const char *ck_note(const ck_backend *backend);
/* The message of the last failed call on this backend; NULL: of the last failed ck_open(). Never NULL. */
const char *ck_last_error(const ck_backend *backend);

/* First of all in main(): lets OpenMP's threads soon sleep where they wait, unless the environment says how
 * they are to wait. May start the program anew, in the same process and with the same arguments; other
 * programs that it starts see nothing of that. */
void ck_wait_asleep(char **argv);

/* ---- Streams --------------------------------------------------------------------------------- */

/* Work is issued to a stream and runs in order; ck_wait() returns when it is done and reports what failed.
 * Several streams may overlap where the backend can (CUDA), unless one awaits an event of another
 * (ck_event_await()); the CPU backend finishes each call before it returns.
 *
 * A failure is sticky: every later call on the stream does nothing and returns the same status, until
 * ck_wait() reports it and clears it. So a caller may issue a sequence of calls and ask once. */
typedef struct ck_stream ck_stream;
ck_status ck_stream_create(ck_backend *backend, ck_stream **out);
void ck_stream_destroy(ck_stream *stream); /* NULL is fine */
ck_status ck_wait(ck_stream *stream);
/* CK_OK, or the first failure since the last ck_wait() */
ck_status ck_stream_status(const ck_stream *stream);

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Zero-filled memory of the backend, 64-byte aligned. Pointers into it may be offset by the caller, never
 * dereferenced by it. */
ck_status ck_alloc(ck_backend *backend, size_t bytes, const char *what, void **out);
/* The same of "far" memory, for what does not fit into the backend's own. Far memory is memory of the host
 * that the backend reaches. Of a GPU it is pinned memory behind the bus; of the CPU it is the same as its
 * own. Kernels may work on it in place, at the speed of the bus. What they need often is copied to near
 * memory before. */
ck_status ck_alloc_far(ck_backend *backend, size_t bytes, const char *what, void **out);
void ck_free(ck_backend *backend, void *memory);
/* Bytes that ck_alloc() can still give; SIZE_MAX where it takes from the host's memory (the CPU). */
size_t ck_memory_bytes(const ck_backend *backend);
/* Between two places of the backend's memory that do not overlap, near or far. */
ck_status ck_copy(ck_stream *stream, void *to, const void *from, size_t bytes);
/* Host memory must stay as it is until ck_wait(). */
ck_status ck_upload(ck_stream *stream, void *to, const void *host, size_t bytes);
ck_status ck_download(ck_stream *stream, void *host, const void *from, size_t bytes);
ck_status ck_zero(ck_stream *stream, void *memory, size_t bytes);
/* live bytes: buffers, activations, workspaces; nothing that is far */
size_t ck_allocated_bytes(const ck_backend *backend);

/* ---- Events ---------------------------------------------------------------------------------- */

/* A moment in a stream's work: what was issued to it before is done. */
typedef struct ck_event ck_event;
ck_status ck_event_create(ck_backend *backend, ck_event **out);
void ck_event_destroy(ck_event *event); /* NULL is fine */
ck_status ck_event_record(ck_stream *stream, ck_event *event);
/* What is issued to the stream from now on waits for the moment that was last recorded, on whichever stream;
 * for nothing if none was. The host does not wait. */
ck_status ck_event_await(ck_stream *stream, ck_event *event);
/* Between two moments by the backend's own clock (a GPU's events), valid after ck_wait(). */
double ck_event_seconds(const ck_event *from, const ck_event *to);

/* ---- Measuring ------------------------------------------------------------------------------- */

/* Work that is recorded once and replayed without the host's cost of issuing it. Between begin and end
 * nothing runs. A backend without graphs (the CPU) answers CK_UNAVAILABLE to begin; the caller then issues
 * the work itself. */
typedef struct ck_graph ck_graph;
ck_status ck_capture_begin(ck_stream *stream);
ck_status ck_capture_end(ck_stream *stream, ck_graph **out);
ck_status ck_graph_launch(ck_stream *stream, ck_graph *graph);
void ck_graph_destroy(ck_graph *graph); /* NULL is fine */

/* Bytes of the last cache before memory: a measurement that goes round four times as much finds them cold. */
size_t ck_cache_bytes(const ck_backend *backend);

#ifdef __cplusplus
}
#endif
#endif

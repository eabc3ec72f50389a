/* stage.cu - host tables on their way to the GPU, and numbers on their way back.
 *
 * A call copies its tables into pinned memory and from there to the GPU, so that the caller's arrays are free
 * when it returns and the host never waits for the GPU, unless it is CUDA_ARENAS calls ahead. What is
 * captured into a graph has an arena of its own. */
#include <stdlib.h>
#include <string.h>

#include "driver.hpp"

enum : size_t { STAGE_ALIGNMENT = 256, STAGE_LEAST = (size_t)1 << 16 };

static size_t rounded(size_t bytes) {
    return (bytes + STAGE_ALIGNMENT - 1) / STAGE_ALIGNMENT * STAGE_ALIGNMENT;
}

static void clear(cuda_arena *arena) {
    gpu_free_host(arena->host);
    gpu_free(arena->gpu);
    arena->host = arena->gpu = nullptr;
    arena->bytes = arena->used = 0;
}

static const char *fill(cuda_arena *arena, size_t bytes) {
    void *host = nullptr, *gpu = nullptr;
    const char *problem = gpu_alloc_host(bytes, &host);
    arena->host = static_cast<char *>(host);
    if (!problem) problem = gpu_alloc(bytes, "staged tables", &gpu);
    arena->gpu = static_cast<char *>(gpu);
    arena->bytes = problem ? 0 : bytes;
    return problem;
}

/* Arenas that a call had to add because its first was too small; the next time the first is as large as all
 * together. */
static const char *settle(cuda_arena *arena) {
    size_t needed = 0;
    for (cuda_arena *more = arena->next; more; more = more->next) needed += more->bytes;
    cuda_arenas_free(arena->next);
    arena->next = nullptr;
    arena->used = 0;
    if (needed == 0) return nullptr;
    needed += arena->bytes;
    clear(arena);
    return fill(arena, needed);
}

const char *cuda_stage_begin(cuda_stream *stream) {
    if (stream->capturing) return nullptr;
    stream->arena = (stream->arena + 1) % CUDA_ARENAS;
    cuda_arena *arena = &stream->arenas[stream->arena];
    const char *problem = arena->done ? gpu_event_wait(arena->done) : gpu_event_create(&arena->done);
    return problem ? problem : settle(arena);
}

/* The list's last arena, or a new one behind it. */
static cuda_arena *with_room(cuda_arena **list, size_t bytes) {
    while (*list && (*list)->next) list = &(*list)->next;
    if (*list && (*list)->bytes - (*list)->used >= bytes) return *list;
    cuda_arena **place = *list ? &(*list)->next : list;
    *place = static_cast<cuda_arena *>(calloc(1, sizeof **place));
    if (*place && fill(*place, bytes > STAGE_LEAST ? bytes : STAGE_LEAST)) {
        clear(*place);
        free(*place);
        *place = nullptr;
    }
    return *place;
}

void *cuda_stage_take(cuda_stream *stream, size_t bytes, void **image) {
    cuda_arena *first = &stream->arenas[stream->arena];
    cuda_arena *arena = with_room(stream->capturing ? &stream->captured : &first, rounded(bytes));
    if (!arena) return nullptr;
    char *host = arena->host + arena->used;
    *image = arena->gpu + arena->used;
    arena->used += rounded(bytes);
    return host;
}

const char *cuda_stage_send(cuda_stream *stream, void *host, void *image, size_t bytes) {
    return bytes > 0 ? gpu_upload(stream->stream, image, host, bytes) : nullptr;
}

const char *cuda_stage_end(cuda_stream *stream) {
    return stream->capturing ? nullptr : gpu_event_record(stream->stream, stream->arenas[stream->arena].done);
}

/* ---- To the host */

enum : size_t { LANDING_MOST = (size_t)32 << 20 }; /* of a stream */

static const char *expect(cuda_stream *stream, cuda_delivery what) {
    cuda_delivery *d = static_cast<cuda_delivery *>(malloc(sizeof *d));
    if (!d) return "no memory";
    *d = what;
    *stream->last_delivery = d;
    stream->last_delivery = &d->next;
    return nullptr;
}

/* In the first arena with room, or a new one: what a wave brings has its place from the second wave on. NULL:
 * no memory, or so much is on its way that it has to arrive first. */
static char *take_landing(cuda_stream *stream, size_t bytes) {
    cuda_arena **at = &stream->landing;
    size_t all = 0;
    for (; *at && (*at)->bytes - (*at)->used < bytes; at = &(*at)->next) all += (*at)->bytes;
    if (!*at) {
        void *host = nullptr;
        size_t room = bytes > STAGE_LEAST ? bytes : (size_t)STAGE_LEAST;
        cuda_arena *more =
            all + room <= LANDING_MOST ? static_cast<cuda_arena *>(calloc(1, sizeof *more)) : nullptr;
        if (!more || gpu_alloc_host(room, &host)) {
            free(more);
            return nullptr;
        }
        more->host = static_cast<char *>(host);
        more->bytes = room;
        *at = more;
    }
    char *place = (*at)->host + (*at)->used;
    (*at)->used += bytes;
    return place;
}

const char *cuda_land(cuda_stream *stream, void *host, const void *from, size_t bytes, bool faults) {
    size_t room = rounded(bytes);
    char *pinned = room > LANDING_MOST || stream->capturing ? nullptr : take_landing(stream, room);
    if (!pinned && stream->deliveries && !stream->capturing) {
        if (const char *problem = cuda_arrive(stream)) return problem;
        if (room <= LANDING_MOST) pinned = take_landing(stream, room);
    }
    if (!pinned) return faults ? "no pinned memory" : gpu_download(stream->stream, host, from, bytes);
    const char *problem = gpu_download(stream->stream, pinned, from, bytes);
    return problem ? problem : expect(stream, cuda_delivery{pinned, host, bytes, faults, nullptr});
}

static void deliver(const cuda_delivery *d) {
    const int32_t *from = static_cast<const int32_t *>(d->pinned);
    int32_t *out = static_cast<int32_t *>(d->out);
    if (!d->faults) memcpy(d->out, d->pinned, d->bytes);
    for (size_t i = 0; d->faults && i < d->bytes / sizeof *out; i++)
        out[i] = from[i] == CUDA_NO_FAULT ? -1 : from[i];
}

void cuda_forget_deliveries(cuda_stream *stream) {
    for (cuda_delivery *d = stream->deliveries, *next; d; d = next) {
        next = d->next;
        free(d);
    }
    stream->deliveries = nullptr;
    stream->last_delivery = &stream->deliveries;
    for (cuda_arena *arena = stream->landing; arena; arena = arena->next) arena->used = 0;
}

const char *cuda_arrive(cuda_stream *stream) {
    const char *problem = gpu_wait(stream->stream);
    for (const cuda_delivery *d = stream->deliveries; d && !problem; d = d->next) deliver(d);
    cuda_forget_deliveries(stream);
    return problem;
}

void cuda_stage_release(cuda_stream *stream) {
    for (cuda_arena &arena : stream->arenas) {
        cuda_arenas_free(arena.next);
        clear(&arena);
        gpu_event_destroy(arena.done);
    }
    cuda_arenas_free(stream->captured);
    cuda_arenas_free(stream->landing);
}

void cuda_arenas_free(cuda_arena *list) {
    while (list) {
        cuda_arena *next = list->next;
        clear(list);
        free(list);
        list = next;
    }
}

const void *cuda_stage(ck_stream *stream, const void *host, size_t bytes) {
    cuda_stream *own = reinterpret_cast<cuda_stream *>(stream);
    void *image = nullptr, *pinned = cuda_stage_take(own, bytes, &image);
    if (!pinned) return nullptr;
    memcpy(pinned, host, bytes);
    return cuda_stage_send(own, pinned, image, bytes) ? nullptr : image;
}

gpu_stream cuda_stream_of(ck_stream *stream) {
    return reinterpret_cast<cuda_stream *>(stream)->stream;
}

/* driver.hpp - the host side of the CUDA backend, shared by its files.
 *
 *   driver.cu   backend, memory, streams, events, graphs; the table of calls (backend.h)
 *   stage.cu    host tables on their way to the GPU
 *   plan.cu     a recorded program: order of its ops, placement of its activations
 *   report.cu   which op failed
 *   variants.cu which part of a wave goes through which weights
 *   run.cu      a wave's tables, and the ops over it, as a graph where there are graphs
 *   linear.cu   the base's products
 *   ceilings.cu the best rates of this GPU */
#ifndef COHORT_KERNELS_CUDA_DRIVER_HPP
#define COHORT_KERNELS_CUDA_DRIVER_HPP

#include "ops.cuh"
#include "runtime.hpp"

/* ---- Backend */

/* A live allocation: freeing must know its size, and a bf16 copy of a weight whole arrays. */
typedef struct cuda_block {
    char *memory;
    size_t bytes;
    bool far; /* pinned host memory */
    /* counts what may have changed its content, but for programs: copies of frozen weights go by it */
    uint64_t version;
    struct cuda_block *next;
} cuda_block;

typedef struct {
    ck_backend base;
    gpu_description gpu;
    cuda_block *blocks;
    char first_problem[160]; /* the first failure, "": none */
} cuda_backend;

/* NULL where the address belongs to none. */
const cuda_block *cuda_block_of(const ck_backend *backend, const void *address);
/* far: pinned host memory. NULL, or what was wrong. */
const char *cuda_alloc_zeros(size_t bytes, bool far, void **out);

/* ---- Ceilings (ceilings.cu) */

const char *cuda_note(const ck_backend *backend); /* multiply.cu */
void cuda_ceiling(ck_backend *backend, ck_precision precision, ck_ceiling *out);
/* Bytes read and written a second by a copy on the GPU; 0: it failed. */
double cuda_copy_rate(ck_backend *backend);

/* ---- Streams */

/* Host memory (pinned) and its image on the GPU, filled from the front by the calls between two uses of it.
 */
typedef struct cuda_arena {
    char *host, *gpu;
    size_t bytes, used;
    gpu_event *done;         /* the GPU has read it, and those behind it */
    struct cuda_arena *next; /* taken into use when this one was full */
} cuda_arena;

enum { CUDA_ARENAS = 4 };

typedef struct cuda_stream {
    ck_stream base;
    gpu_stream stream;
    cuda_arena arenas[CUDA_ARENAS];
    int arena;
    bool capturing;
    cuda_arena *captured;           /* arenas of a graph under way: the graph reads them at every launch */
    struct cuda_captured *programs; /* that it runs */
    struct cuda_delivery *deliveries, **last_delivery;
    cuda_arena *landing; /* pinned memory of deliveries, no images on the GPU; emptied by each */
    char last_op[96];    /* that was issued; "": none */
    char explanation[384];
} cuda_stream;

/* What is on its way to the host's pageable memory, by way of pinned memory: a copy straight there would hold
 * the host up. It is there after a wait. */
typedef struct cuda_delivery {
    const void *pinned;
    void *out;
    size_t bytes;
    bool faults; /* int32_t, as kernels have them: to ck_wave.fault */
    struct cuda_delivery *next;
} cuda_delivery;

/* A call that stages begins and ends: then its arena belongs to the GPU until it has read it. NULL, or what
 * was wrong. */
const char *cuda_stage_begin(cuda_stream *stream);
/* Pinned memory that the caller fills, and its image, which cuda_stage_send() brings up to date. NULL: no
 * memory. */
void *cuda_stage_take(cuda_stream *stream, size_t bytes, void **image);
const char *cuda_stage_send(cuda_stream *stream, void *host, void *image, size_t bytes);
const char *cuda_stage_end(cuda_stream *stream);
void cuda_stage_release(cuda_stream *stream);
void cuda_arenas_free(cuda_arena *list);

/* ---- Programs */

typedef struct {
    ck_op op;
    bool starts; /* the op begins y or dx, with `start` */
    cuda_start start;
} cuda_step;

/* The bf16 image of an array that holds frozen weights. */
typedef struct cuda_copies {
    const float *from;
    int64_t count;
    bf16 *to;
    const cuda_block *block;
    uint64_t version; /* of the block that was copied; 0: none yet */
    struct cuda_copies *next;
} cuda_copies;

/* Where a wave's tables lie: one block on the GPU, filled by one copy. */
typedef struct {
    size_t devices, tiles, sequences, sequence_of, tokens, targets, faults, shapes, end;
} cuda_tables;

typedef struct {
    int32_t n_tokens, n_sequences, n_devices, n_tiles;
    cuda_wave_limits limits;
    const float *parameters;
    float *gradients, *base_gradients;
} cuda_graph_key;

enum { CUDA_GRAPHS = 16 };

typedef struct {
    cuda_step *steps;
    int n_steps;
    cuda_bounds bounds;
    void *memory, *workspace;
    char *tables;
    const void *tables_of; /* the cuda_captured whose tables these are; NULL: a run's */
    cuda_tables layout;
    int32_t max_shapes;
    cuda_copies *copies;
    /* of the wave that runs: runs and table lie in the image, none where all have the recorded weights */
    cuda_variants variants;
    char *variants_image;
    size_t variants_bytes, variants_room;
    struct {
        cuda_graph_key key;
        char *variants_image; /* what the graph was captured with */
        size_t variants_bytes;
        gpu_graph *graph;
        uint64_t used;
    } graphs[CUDA_GRAPHS];
    uint64_t clock;
} cuda_program;

size_t cuda_program_bytes(const ck_program *program);
ck_status cuda_program_place(ck_program *program);
void cuda_program_release(ck_program *program);
ck_status cuda_run(ck_program *program, ck_stream *stream, const ck_wave *wave);
/* Makes the bf16 copies of what the wave's variants have, where this program needs them and they do not exist
 * yet (plan.cu). NULL, or what was wrong. */
const char *cuda_copy_variants(ck_backend *backend, cuda_program *p);
/* Fills p->variants from the wave and its table of devices (variants.cu). */
const char *cuda_list_variants(cuda_program *p, const ck_wave *wave, const cuda_device *devices);
/* What a graph needs of a program that runs in it: before a launch its bf16 copies of weights are refreshed,
 * and its tables if others have come in their place. */
typedef struct cuda_captured {
    cuda_program *program;
    const char *tables; /* pinned image, in an arena of the graph */
    bool always;        /* the program runs more than once in the graph, with other tables each time */
    struct cuda_captured *next;
} cuda_captured;
const char *cuda_captured_refresh(cuda_captured *list, const cuda_stream *stream);

/* ---- Failures (report.cu) */

/* CK_OK for NULL; else records "what: problem" and returns the status. */
ck_status cuda_status(ck_backend *backend, ck_status status, const char *what, const char *problem);
/* COHORT_CUDA_SYNC=1. */
bool cuda_waits_for_each_op();
/* Its place in the program, its name and its layer; returns text. */
const char *cuda_describe_op(const cuda_program *p, int step, char *text, size_t size);
/* Keeps what the stream did last, for cuda_explain_wait(): the problem that a wait met, with the ops that it
 * can come from; NULL for NULL.
 */
void cuda_note_run(cuda_stream *stream, const cuda_program *p);
const char *cuda_explain_wait(cuda_stream *stream, const char *problem);

/* ---- Deliveries (stage.cu) */

/* Copies to host memory that need not be pinned; faults: as kernels have them, to a ck_wave.fault. NULL, or
 * what was wrong. */
const char *cuda_land(cuda_stream *stream, void *host, const void *from, size_t bytes, bool faults);
/* Waits for the stream; then all is where it belongs, or, after a failure, nothing is. */
const char *cuda_arrive(cuda_stream *stream);
void cuda_forget_deliveries(cuda_stream *stream);

/* ---- linear.cu */

/* y += x W^T of a linear whose y another op has begun. */
const char *cuda_linear_onto(const ck_linear *d, const cuda_call *call);
const char *cuda_to_half(const float *from, bf16 *to, int64_t count, gpu_stream stream);
const char *cuda_to_float(const bf16 *from, float *to, int64_t count, gpu_stream stream);

#endif

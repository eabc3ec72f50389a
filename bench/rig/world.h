/* world.h - what a case runs on: one wave of devices, its arrays on the host, and copies of them in the
 * backend's memory.
 *
 * Host arrays exist once: `before` is what every copy begins with, `after` what was read back from one of
 * them. A copy is a recorded program with buffers of its own; going round enough copies finds none of them in
 * the cache.
 *
 * Adapter packs are too many to keep on the host (4,096 devices are gigabytes): PACK_KINDS different ones are
 * made, device d has number d mod PACK_KINDS, and results are read back for a few checked devices only. */
#ifndef COHORT_BENCH_WORLD_H
#define COHORT_BENCH_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels.h"
#include "rig/point.h"
#include "support/problems.h"

typedef struct bench_case bench_case;

/* One number for each array that any case knows; [tokens, columns]. */
typedef enum {
    X,
    ZH,
    GATES,
    U,
    M,
    G,
    RESIDUAL,
    Y,
    DY,
    Q,
    DW,
    DM,
    DU,
    P,
    DX,
    QKV,
    O,
    LSE,
    D_O,
    DQKV,
    H,
    STATS,
    TENSORS
} tensor_id;

/* Arrays that are not by token. */
typedef enum { WEIGHT, BIAS, WEIGHT2, BIAS2, GAIN, WTE, LOSS, PACKED, BUFFERS } buffer_id;

typedef enum {
    ABSENT,
    INPUT,
    OUTPUT,
    IN_PLACE,
    INNER /* an output that only a copy with everything kept can show */
} array_role;

typedef struct {
    const char *name;
    array_role role;
    int columns;
    bool wide; /* bf16 in a bf16 program */
    float *before, *after;
} tensor_array;

typedef struct {
    const char *name;
    array_role role;
    int64_t count;
    float *before, *after;
} buffer_array;

enum { PACK_KINDS = 61, MOST_CHECKED = 6 };
/* Adapter memory of a case: parameters; and gradients of the wave; and AdamW moments. */
enum { NEED_PACKS = 1, NEED_GRADIENTS = 2, NEED_MOMENTS = 4 };

typedef enum { PACK_PARAMETERS, PACK_GRADIENTS, PACK_MOMENT1, PACK_MOMENT2, PACK_MEMORIES } pack_memory;

typedef struct {
    ck_program *program; /* NULL: the case has none */
    ck_tensor *tensor[TENSORS];
    float *buffer[BUFFERS];
    float *packs[PACK_MEMORIES]; /* [n_devices, shape.total] */
    ck_wave wave;
    ck_graph *graph; /* NULL: work is issued directly */
} world_copy;

typedef struct world {
    const bench_case *which;
    point at;
    ck_backend *backend;
    ck_stream *stream;
    ck_precision precision;
    /* the wave */
    int width, ffn, up, heads, n_devices, n_sequences; /* up: columns of U, F or with SwiGLU 2 F */
    int64_t n_tokens;
    ck_shape shape; /* of all devices */
    int64_t *first_token;
    int32_t *first_sequence, *tokens, *targets, *fault;
    ck_wave_device *devices;
    uint32_t learn;
    /* arrays */
    tensor_array tensor[TENSORS];
    buffer_array buffer[BUFFERS];
    unsigned needs;               /* NEED_* */
    bool gradients_given;         /* gradients are an input, as of AdamW alone */
    float *pack_kind[PACK_KINDS]; /* [shape.total]; those that are used */
    int n_checked, checked[MOST_CHECKED];
    float *pack_after[PACK_MEMORIES][MOST_CHECKED];
    void *own; /* the case's, see release */
    /* copies */
    int n_copies, room_copies;
    world_copy *copies;
} world;

exit_code world_open(world **out, const bench_case *which, const point *at, ck_backend *backend,
                     problems *list);
void world_close(world *w); /* NULL is fine */

/* For `prepare`. deviation: of the random content of inputs. */
void world_tensor(world *w, tensor_id id, const char *name, array_role role, int columns, bool wide,
                  double deviation);
void world_buffer(world *w, buffer_id id, const char *name, array_role role, int64_t count, double deviation);
/* Router logits in zh and the gates that follow from them. */
void world_gates(world *w, array_role zh_role, array_role gates_role);

/* What a program of this wave must hold. */
ck_capacity world_capacity(const world *w);
/* A further copy, all zeros. all_kept: INNER arrays can be read back. */
exit_code world_copy_add(world *w, bool all_kept, problems *list);
void world_copies_drop(world *w, int from);
/* Puts the initial content back into a copy, outputs become NaN. */
exit_code world_reset(world *w, world_copy *c, problems *list);
/* Issues the work once: launches the graph where there is one. */
ck_status world_issue(const world *w, world_copy *c);
/* Records the copy's work as a graph. Where the backend has none, nothing changes. */
exit_code world_capture(const world *w, world_copy *c, problems *list);
/* Waits, and reads all outputs into `after`. */
exit_code world_download(world *w, const world_copy *c, bool all_kept, problems *list);

/* Initial packs, as the reference needs them; NULL without memory. free() it. */
double *world_pack(const world *w, pack_memory memory, int device);
float world_pack_value(const world *w, pack_memory memory, int device, int64_t offset);
int64_t world_first(const world *w, int device); /* token */
int64_t world_rows(const world *w, int device);
bool world_has_inner(const world *w); /* some results are seen only where everything is kept */

#endif

/* rig.h - what a case runs on: one wave of devices, its arrays on the host, and copies of them in the
 * backend's memory.
 *
 * Host arrays exist once: `before` is what every copy begins with, `after` what was read back from one of
 * them. A copy is a recorded program with buffers of its own; going round enough copies finds none of them in
 * the cache.
 *
 * In bf16 all inputs and parameters are numbers that bf16 can represent. So the backend and the oracle
 * choose the same experts.
 *
 * Of one shape there may be more devices than packs that fit on the host (4,096 devices are gigabytes):
 * PACK_KINDS different ones are made, device d has number d mod PACK_KINDS, and results are read back for
 * the checked devices only. Packs lie in reverse order of the devices and with gaps, so that code which
 * assumes an offset instead of reading it fails. */
#ifndef COHORT_BENCH_RIG_H
#define COHORT_BENCH_RIG_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels.h"
#include "rig/point.h"
#include "rig/verdict.h"
#include "support/problems.h"

typedef struct op_case op_case;
typedef struct op_variant op_variant;
typedef struct view view;

/* One number for each array that any case knows; [tokens, columns]. */
typedef enum {
    NO_TENSOR,
    X,
    ZH,
    GATES,
    BIAS_FACTOR,
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
    H_SECOND, /* of further LoRAs on the same x */
    H_THIRD,
    STATS,
    LOWER_X, /* of the layer below */
    LOWER_ZH,
    LOWER_GATES,
    LOWER_BIAS_FACTOR,
    LOWER_H,
    LOWER_DY,
    LOWER_DX,
    HIDDEN, /* layer of a router */
    LOWER_HIDDEN,
    TENSORS
} tensor_id;

/* Arrays that are not by token. */
typedef enum {
    NO_BUFFER,
    WEIGHT,
    BIAS,
    WEIGHT2,
    BIAS2,
    OTHER_WEIGHTS, /* of variants of the base */
    OTHER_BIASES,
    WRONG, /* what nothing may read */
    GAIN,
    WTE,
    WPE,
    ANGLES, /* cos, sin of rotary positions */
    KEYS,   /* of earlier tokens, as the next one */
    VALUES,
    LOSS,
    LOGITS,
    PACKED,
    GATE_SUM,
    TOP1_COUNT,
    TOP_K_COUNT,
    GATE_RECORD,
    COEFFICIENT,
    LOAD_SUM,
    LOAD_COEFFICIENT,
    DWEIGHT,
    DBIAS,
    DWTE,
    DWPE,
    BUFFERS
} buffer_id;

typedef enum {
    ABSENT,
    INPUT,
    OUTPUT,
    IN_PLACE,
    INNER,        /* an output that only a copy with everything kept can show */
    BASE_GRADIENT /* of a buffer: a part of the base's gradient pack */
} array_role;

/* What the columns of a tensor are. A device may own fewer columns than the widest device. Its other columns
 * hold NaN before the work, and are not compared after it. */
typedef enum {
    COLUMNS_PLAIN,
    COLUMNS_WIDTH,   /* D */
    COLUMNS_FFN,     /* F */
    COLUMNS_UP,      /* of U: F, with SwiGLU 2 F */
    COLUMNS_EXPERTS, /* CK_MAX_EXPERTS, of them E */
    COLUMNS_ROUTED,  /* router rows, then h_ranks */
    COLUMNS_HIDDEN,  /* 2 CK_MAX_EXPERTS, of them 2 E where the router has a hidden layer */
    COLUMNS_RANKS,   /* rank_sum */
    COLUMNS_H,       /* h_ranks */
    COLUMNS_LORA,    /* the rank of the layer's LoRA at the tensor's site that is not routed */
    COLUMNS_TIED     /* of the one there that all layers share */
} column_kind;

typedef struct {
    const char *name;
    array_role role;
    column_kind kind;
    int columns;
    ck_site site; /* of COLUMNS_LORA, COLUMNS_TIED */
    bool chosen;  /* what belongs to experts that a token has not chosen need not be written */
    float *before, *after;
} tensor_array;

typedef struct {
    const char *name;
    array_role role;
    int64_t count, at; /* at: of a base gradient in the pack */
    bool partial;      /* some of its values are not compared */
    bool half;         /* it holds bf16 in a bf16 program */
    float *before, *after;
} buffer_array;

/* What a variant of the base has instead of a linear's weight and bias: where they begin in a buffer;
 * NO_BUFFER: it has what is recorded. */
typedef struct {
    buffer_id weight, bias;
    int64_t weight_at, bias_at;
} rig_replacement;

enum { PACK_KINDS = 61, MOST_CHECKED = 6 };

typedef enum { PACK_PARAMETERS, PACK_GRADIENTS, PACK_MOMENT1, PACK_MOMENT2, PACK_MEMORIES } pack_memory;

typedef struct {
    ck_program *program; /* NULL: the case has none */
    ck_tensor *tensor[TENSORS];
    float *buffer[BUFFERS];
    float *packs[PACK_MEMORIES]; /* [pack_floats] */
    float *base_gradients;       /* [base_pack] */
    ck_wave wave;
    ck_replacement *variants; /* of the wave */
    ck_graph *graph;          /* NULL: work is issued directly */
} rig_copy;

typedef struct rig {
    const op_case *which;
    unsigned flags; /* of the variant */
    int size;
    const char *where; /* the wave's name for messages; empty: none */
    point at;          /* of a microbenchmark */
    ck_backend *backend;
    ck_stream *stream;
    ck_precision precision;
    /* the wave */
    int width, ffn, up, heads, vocabulary, context; /* up: columns of U; context: positions */
    int layers, layer;                              /* layer: the one that an operation of one layer is in */
    int n_shapes, n_devices, n_sequences;
    int64_t n_tokens;
    ck_shape *shapes;
    int64_t *first_token;    /* [n_sequences + 1] */
    int32_t *first_sequence; /* [n_devices + 1] */
    int32_t *tokens, *targets, *fault;
    int32_t *first_position, *cache_slot; /* [n_sequences] of sequences that go on (rig_go_on()), else NULL */
    ck_wave_device *devices;
    int n_variants, n_linears;
    rig_replacement *variants;                             /* [n_variants, n_linears]; see rig_variants() */
    bool trains_base, all_checked, learns_in_part;         /* learns_in_part: some devices learn nothing */
    int zh_columns, rank_columns, h_columns, lora_columns; /* the widest of any device */
    /* arrays */
    tensor_array tensor[TENSORS];
    buffer_array buffer[BUFFERS];
    uint64_t gradients; /* parts of a layer that the work writes: the case's, unless arrays says otherwise */
    bool gradients_given; /* gradients are an input, as of AdamW alone */
    int n_kinds;
    float **pack_kind; /* [n_kinds], each a pack of gradients */
    int64_t pack_floats, base_pack;
    int n_checked, *checked;
    float **pack_after[PACK_MEMORIES]; /* [n_checked], each a pack */
    void *own;                         /* the case's, see release */
    /* copies */
    int n_copies, room_copies;
    rig_copy *copies;
} rig;

/* Sets the fields from `precision` to `lora_columns`, but not tokens, targets, fault and places of packs. */
typedef exit_code rig_lay(rig *r, const void *source, problems *list);
rig_lay rig_lay_point; /* source: a point. One shape, every device learns, few are checked. */

/* variant NULL: none. */
exit_code rig_open(rig **out, const op_case *which, const op_variant *variant, rig_lay *lay,
                   const void *source, ck_backend *backend, problems *list);
void rig_close(rig *r); /* NULL is fine */
/* For a rig_lay: arrays that rig_close() frees. Aborts without memory, as the oracle does: without host
 * arrays nothing can be said. */
void *rig_zeros(int64_t count, size_t size);

/* For `arrays`. deviation: of the random content of inputs. */
void rig_tensor(rig *r, tensor_id id, const char *name, array_role role, column_kind kind);
void rig_tensor_of(rig *r, tensor_id id, const char *name, array_role role, int columns); /* COLUMNS_PLAIN */
/* kind: COLUMNS_LORA or COLUMNS_TIED. */
void rig_tensor_lora(rig *r, tensor_id id, const char *name, array_role role, column_kind kind, ck_site site);
void rig_buffer(rig *r, buffer_id id, const char *name, array_role role, int64_t count, double deviation);
void rig_base_gradient(rig *r, buffer_id id, const char *name, int64_t at, int64_t count);
/* For `arrays`: every sequence begins at a position between 0 and `positions` minus its number of tokens, as
 * one that goes on after earlier tokens. Each has a place of its own in the caches, among n_sequences + 1,
 * in reverse order. */
void rig_go_on(rig *r, int32_t positions);
/* For `arrays`: the wave's devices have variants of the base. The caller fills r->variants (all zeros:
 * nothing is replaced). */
void rig_variants(rig *r, int n_variants, int n_linears);
/* Gives each device a variant. Some neighbours have the same variant and some different ones. Devices
 * without a variant are the first, the last and some between. Each turn (from 0) is another assignment. */
void rig_assign_variants(rig *r, int turn);
/* Router logits in zh, and the gates that follow from them. */
void rig_gates(rig *r, array_role zh_role, array_role gates_role);
/* Says that values of experts which a token has not chosen are not compared. In an input these values become
 * 0, as backends leave them. */
void rig_chosen(rig *r, tensor_id id);
/* Where the gradient lies in the base's pack; -1: it is not wanted. */
int64_t rig_gradient_at(const rig *r, buffer_id id);

/* What a program of this wave must hold. */
ck_capacity rig_capacity(const rig *r);
/* A further copy, all zeros. all_kept: INNER arrays can be read back. */
exit_code rig_copy_add(rig *r, bool all_kept, problems *list);
void rig_copies_drop(rig *r, int from);
/* Puts the initial content back into a copy, outputs become NaN. */
exit_code rig_reset(rig *r, rig_copy *c, problems *list);
/* Issues the work once: launches the graph where there is one. */
ck_status rig_issue(const rig *r, rig_copy *c);
/* Records the copy's work as a graph. Where the backend has none, nothing changes. */
exit_code rig_capture(const rig *r, rig_copy *c, problems *list);
/* Waits, and reads all outputs into `after`. */
exit_code rig_download(rig *r, const rig_copy *c, bool all_kept, problems *list);

/* Initial packs. Moments and given gradients are made of the parameters: as small, another device's, the
 * second moment not negative: rig_pack_host() has its root. rig_pack(): free() it. */
const float *rig_pack_host(const rig *r, pack_memory memory, int device);
double *rig_pack(const rig *r, pack_memory memory, int device);
float rig_pack_value(const rig *r, pack_memory memory, int device, int64_t offset);
/* Floats of a device's pack: gradient_total of the shape for gradients, total for all else. */
int64_t rig_pack_count(const rig *r, pack_memory memory, int device);
const ck_shape *rig_shape(const rig *r, int device);
int64_t rig_first(const rig *r, int device); /* token */
int64_t rig_rows(const rig *r, int device);
/* Columns of a tensor that the device owns. */
int rig_owned(const rig *r, tensor_id id, int device);
bool rig_has_memory(const rig *r, pack_memory memory);
bool rig_has_inner(const rig *r); /* some results are seen only where everything is kept */

#endif

/* rig.h - one op (or a few) recorded as a program over one wave of the table, in two worlds: `host` arrays
 * hold what the backend gets and gives (float), `ref` arrays what the oracle gets and gives (double). A case
 * makes tensors, records ops, runs, lets the oracle write the same `ref` arrays, and compares. Outputs are
 * filled with NaN beforehand, so that what is not written shows.
 *
 * In bf16 all inputs and parameters are numbers that bf16 has, so that both worlds choose the same experts.
 *
 * Errors of the backend become failures of the check; after the first one the remaining calls do nothing. */
#ifndef COHORT_CONFORMANCE_RIG_H
#define COHORT_CONFORMANCE_RIG_H

#include "conformance/check.h"
#include "conformance/waves.h"
#include "kernels.h"
#include "oracle/oracle.h"

enum { RIG_MAX_TENSORS = 16, RIG_MAX_BUFFERS = 16, RIG_BASE_PACK = 131072, RIG_LAYER = 1 };

typedef struct {
    ck_tensor *tensor;
    const char *name;
    int columns;
    float *host; /* [tokens, columns] before a run: input; after: output */
    double *ref;
} rig_tensor;

typedef struct {
    void *memory; /* of the backend */
    const char *name;
    int64_t count;
    float *host;
    double *ref;
} rig_buffer;

typedef struct {
    check *check;
    const char *case_name;
    const wave_spec *spec;
    ck_backend *backend;
    ck_stream *stream;
    ck_program *program;
    bool finished, broken;
    bool skip_evaluated; /* a backward case: nothing is promised for devices that learn nothing */

    double tolerance;
    ck_capacity capacity;
    ck_wave wave;
    int64_t n_tokens;
    int max_lora_rank, max_zh, max_ranks, max_h; /* widest over the wave's devices, at least 1 */
    int64_t first_token[WAVE_MAX_DEVICES * WAVE_MAX_LENGTHS + 1];
    int32_t first_sequence[WAVE_MAX_DEVICES + 1];
    ck_wave_device devices[WAVE_MAX_DEVICES];
    ck_shape shapes[SHAPE_SPECS];
    int32_t *tokens, *targets, fault[WAVE_MAX_DEVICES];
    rig_buffer parameters, gradients, base_gradients;

    int n_tensors, n_buffers;
    rig_tensor tensors[RIG_MAX_TENSORS];
    rig_buffer buffers[RIG_MAX_BUFFERS];
    uint64_t random;
} rig;

typedef enum { LEARN_ALL, LEARN_MIXED /* by device in turn: experts, router, both, nothing */ } learn_pattern;

/* How a wave is set up beyond its spec. */
typedef struct {
    learn_pattern learn;
    bool trains_base;    /* base gradients, no adapter gradients */
    bool skip_evaluated; /* see rig */
    ck_precision precision;
} rig_options;

void rig_open(rig *r, check *c, ck_backend *backend, const char *case_name, const wave_spec *spec,
              rig_options options);
void rig_close(rig *r);

/* Random input; output (NaN before the run). */
rig_tensor *rig_input(rig *r, int columns, const char *name);
rig_tensor *rig_output(rig *r, int columns, const char *name);
/* Backend memory with the same two kinds of content. */
rig_buffer *rig_weights(rig *r, int64_t count, double scale, const char *name);
rig_buffer *rig_results(rig *r, int64_t count, const char *name);
/* host = (float)ref, ref = host: after a case has written an input's ref itself. */
void rig_round(rig *r, rig_tensor *t);
/* Takes over what a case wrote into host. */
void rig_take(rig *r, rig_tensor *t);

/* Finishes the program (the first time), uploads every tensor and buffer, runs, and downloads them. False:
 * the rig is broken. */
bool rig_run(rig *r);
bool rig_ok(rig *r, ck_status status, const char *what);

/* ---- Rows and columns of devices ------------------------------------------------------------- */

typedef enum {
    COLUMNS_ALL,
    COLUMNS_EXPERTS,                        /* E */
    COLUMNS_ROUTED,                         /* router rows + h_ranks */
    COLUMNS_RANKS,                          /* rank_sum */
    COLUMNS_H,                              /* h_ranks */
    COLUMNS_LORA,                           /* + ck_site: rank of the LoRA there */
    COLUMNS_TIED = COLUMNS_LORA + CK_SITES, /* + ck_site: of the LoRA that all layers share */
} rig_columns;

const ck_shape *rig_shape(const rig *r, int device);
int64_t rig_first(const rig *r, int device);
int64_t rig_rows(const rig *r, int device);
double *rig_row(const rig_tensor *t, int64_t token); /* of ref */
/* The oracle's view of one device's layer; its gradients go to r->gradients.ref. */
oracle_adapter rig_adapter(const rig *r, int device, int layer);
/* Sets host and ref of every column a device does not own to NaN: nothing may read them. */
void rig_poison(rig *r, rig_tensor *t, rig_columns columns);
/* Sets host and ref to 0 where the token's expert was not chosen, so that they are not compared (not for
 * COLUMNS_ALL). */
void rig_ignore_unchosen(rig *r, rig_tensor *t, rig_columns columns, const rig_tensor *gates);
/* What a device owns is finite, compared or not. */
void rig_expect_finite(rig *r, const rig_tensor *t, rig_columns columns);

/* ---- Comparison: per device, so that a large device cannot hide a small one ------------------ */

extern const double rig_tolerance, rig_tolerance_half; /* 1e-5 in f32, 1e-2 in bf16 */
void rig_compare(rig *r, const rig_tensor *t, rig_columns columns);
void rig_compare_buffer(rig *r, const rig_buffer *b, int64_t first, int64_t count);
/* Gradients of the given parts (bits 1 << part) of a layer, for the devices that learn them; those of what all
 * layers share with layer 0. */
void rig_compare_gradients(rig *r, int layer, uint64_t parts);

#endif

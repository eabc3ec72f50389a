/* backend.h - what a backend implements and what it gets: internal to kernels/.
 *
 * Recording (program.c) is the same for every backend: it validates descriptors, keeps them by value, and
 * knows which activations cross a global op. A backend then places the activations and executes the list.
 * The enum, the union, and every backend's table are made of one list of ops (CK_OPS). So the program does
 * not link if a backend lacks an op. Gradients are written after the last global op only.
 *
 * To add an op: kernels/README.md. */
#ifndef COHORT_KERNELS_BACKEND_H
#define COHORT_KERNELS_BACKEND_H

#include "decoding.h"
#include "kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Ops of the base alone: nothing of theirs depends on a device's shape. */
#define CK_BASE_FORWARD_OPS(X)                                                                               \
    X(embed)                                                                                                 \
    X(norm)                                                                                                  \
    X(linear)                                                                                                \
    X(rope)                                                                                                  \
    X(attention)                                                                                             \
    X(attention_cached)                                                                                      \
    X(gelu)                                                                                                  \
    X(swiglu)                                                                                                \
    X(head)                                                                                                  \
    X(logits)
#define CK_BASE_BACKWARD_OPS(X)                                                                              \
    X(embed_backward)                                                                                        \
    X(norm_backward)                                                                                         \
    X(linear_backward)                                                                                       \
    X(rope_backward)                                                                                         \
    X(attention_backward)                                                                                    \
    X(gelu_backward)                                                                                         \
    X(swiglu_backward)
/* Ops of a device's adapters in one layer: their descriptors have a member `layer`. */
#define CK_ADAPTER_FORWARD_OPS(X)                                                                            \
    X(lora)                                                                                                  \
    X(site_vector)                                                                                           \
    X(route)                                                                                                 \
    X(expert_activation)                                                                                     \
    X(expert_expand)
#define CK_ADAPTER_BACKWARD_OPS(X)                                                                           \
    X(lora_backward)                                                                                         \
    X(site_vector_backward)                                                                                  \
    X(route_backward)                                                                                        \
    X(expert_activation_backward)                                                                            \
    X(expert_expand_backward)
/* Of a device's adapters, in no layer: what all layers share. */
#define CK_TIED_OPS(X) X(tied_gradients)
/* Ops that see the whole wave, and belong to no layer. */
#define CK_GLOBAL_OPS(X)   X(balance)
#define CK_FORWARD_OPS(X)  CK_BASE_FORWARD_OPS(X) CK_ADAPTER_FORWARD_OPS(X)
#define CK_BACKWARD_OPS(X) CK_BASE_BACKWARD_OPS(X) CK_ADAPTER_BACKWARD_OPS(X) CK_TIED_OPS(X)
#define CK_BASE_OPS(X)     CK_BASE_FORWARD_OPS(X) CK_BASE_BACKWARD_OPS(X)
#define CK_ADAPTER_OPS(X)  CK_ADAPTER_FORWARD_OPS(X) CK_ADAPTER_BACKWARD_OPS(X)
#define CK_LOCAL_OPS(X)    CK_FORWARD_OPS(X) CK_BACKWARD_OPS(X)
#define CK_OPS(X)          CK_LOCAL_OPS(X) CK_GLOBAL_OPS(X)

typedef enum {
#define X(op) CK_OP_##op,
    CK_OPS(X)
#undef X
        CK_OP_COUNT
} ck_op_kind;

typedef struct {
    ck_op_kind kind;
    union {
#define X(op) ck_##op op;
        CK_OPS(X)
#undef X
    } as;
} ck_op;

static inline bool ck_is_global(ck_op_kind kind) {
#define X(op) || kind == CK_OP_##op
    return false CK_GLOBAL_OPS(X);
#undef X
}

static inline bool ck_is_backward(ck_op_kind kind) {
    switch (kind) {
#define X(op) case CK_OP_##op:
        CK_BACKWARD_OPS(X)
        return true;
        CK_FORWARD_OPS(X)
        CK_GLOBAL_OPS(X)
#undef X
    case CK_OP_COUNT:
        break;
    }
    return false;
}

struct ck_tensor {
    const char *name;
    int32_t columns;
    /* used as an activation proper (bf16 in a bf16 program), as f32 whatever the program */
    bool wide, exact;
    bool keep;                       /* stored for every sequence of the wave, not per worker */
    int first_segment, last_segment; /* of its uses; segments are cut by global ops; -1: unused */
    ck_program *program;
    /* Set by the backend. Kept: [max_tokens, columns]. Else the backend's own placement, slot_stride floats a
     * worker on the CPU. */
    void *data;
    int64_t slot_stride;
    ck_tensor *next;
};

typedef struct ck_driver ck_driver;

struct ck_backend {
    const ck_driver *driver;
    int threads;
    size_t allocated_bytes;
    char hardware[160];
    char error[512];
};

/* A driver's own stream, event or graph begins with one of these. */
struct ck_stream {
    ck_backend *backend;
    ck_status status; /* the first failure since the last ck_wait(); the registry keeps it, no driver does */
};
struct ck_event {
    ck_backend *backend;
};
struct ck_graph {
    ck_backend *backend;
};

struct ck_program {
    ck_backend *backend;
    ck_capacity capacity;
    ck_op *ops;
    int n_ops, ops_capacity;
    int segment;       /* of the op being recorded */
    bool backward;     /* an op that may write gradients was recorded: no global op may follow */
    bool decodes;      /* attention with a cache was recorded */
    int32_t n_linears; /* 1 + the largest number of a linear that variants may replace */
    ck_tensor *tensors;
    bool finished;
    ck_status status;
    char error[256];
    size_t bytes;
    void *private_data; /* the backend's */
};

/* One backend. Functions report through ck_fail(). */
struct ck_driver {
    const char *name;
    const char *(*unavailable)(void); /* NULL, or why not */
    ck_status (*open)(int threads, ck_backend **out);
    void (*close)(ck_backend *);
    ck_status (*alloc)(ck_backend *, size_t bytes, void **out);
    ck_status (*alloc_far)(ck_backend *, size_t bytes, void **out); /* NULL: alloc */
    void (*free)(ck_backend *, void *);
    size_t (*memory_bytes)(const ck_backend *); /* NULL: SIZE_MAX */
    ck_status (*stream_create)(ck_backend *, ck_stream **out);
    void (*stream_destroy)(ck_stream *);
    ck_status (*upload)(ck_stream *, void *to, const void *host, size_t bytes);
    ck_status (*download)(ck_stream *, void *host, const void *from, size_t bytes);
    ck_status (*copy)(ck_stream *, void *to, const void *from, size_t bytes);
    ck_status (*zero)(ck_stream *, void *, size_t bytes);
    ck_status (*wait)(ck_stream *);
    ck_status (*event_create)(ck_backend *, ck_event **out);
    void (*event_destroy)(ck_event *);
    ck_status (*event_record)(ck_stream *, ck_event *);
    ck_status (*event_await)(ck_stream *, ck_event *);
    double (*event_seconds)(const ck_event *, const ck_event *);
    ck_status (*capture_begin)(ck_stream *); /* NULL, like the next three: no graphs */
    ck_status (*capture_end)(ck_stream *, ck_graph **out);
    ck_status (*graph_launch)(ck_stream *, ck_graph *);
    void (*graph_destroy)(ck_graph *);
    size_t (*cache_bytes)(const ck_backend *);
    const char *(*note)(const ck_backend *); /* NULL: nothing */
    bool (*supports)(const ck_backend *, ck_precision);
    /* The host's side of a kept activation, f32. */
    ck_status (*tensor_upload)(ck_stream *, ck_tensor *, int64_t n_tokens, const float *host);
    ck_status (*tensor_download)(ck_stream *, const ck_tensor *, int64_t n_tokens, float *host);
    size_t (*program_bytes)(const ck_program *); /* what program_place() will allocate */
    ck_status (*program_place)(ck_program *);
    void (*program_release)(ck_program *);
    ck_status (*run)(ck_program *, ck_stream *, const ck_wave *);
    ck_status (*adamw_devices)(ck_stream *, float *, float *, float *, const float *, const ck_shape *,
                               const ck_adamw_device *, int32_t);
    ck_status (*carry_devices)(ck_stream *, float *, float *, const ck_shape *, const ck_carry_device *,
                               int32_t);
    ck_status (*adamw_ranges)(ck_stream *, float *, float *, float *, const float *, const ck_range *,
                              int32_t, const ck_adamw_hyper *);
    ck_status (*group_sum)(ck_stream *, const float *, const ck_group *, int32_t, float *);
    ck_status (*group_spread)(ck_stream *, float *, const ck_group *, int32_t, const float *);
    ck_status (*group_proximal)(ck_stream *, const float *, const ck_group *, int32_t, const float *,
                                float *);
    size_t (*ceiling_bytes)(const ck_backend *);               /* NULL: 0 */
    void (*ceiling)(ck_backend *, ck_precision, ck_ceiling *); /* of zeros */
    double (*copy_rate)(ck_backend *);
    /* what the device's own libraries know it by (a cudaStream_t); NULL: memory is the host's */
    void *(*device_stream)(ck_stream *);
};

/* Those that this build has: COHORT_CPU, COHORT_CUDA. */
extern const ck_driver ck_cpu_driver, ck_cuda_driver;

/* Records the message and returns the status; backend NULL: for ck_open(). */
ck_status ck_fail(ck_backend *backend, ck_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* CK_BAD_ARGUMENT, with a message, where the wave contradicts itself or does not fit the program. */
ck_status ck_wave_check(const ck_program *program, const ck_wave *wave);
/* Its part for a decoding program (decoding.c), of a wave that is right otherwise. */
ck_status ck_wave_check_decoding(const ck_program *program, const ck_wave *wave);

/* Position of a sequence's first token of the wave. */
static inline int32_t ck_first_position(const ck_wave *wave, int sequence) {
    return wave->first_position ? wave->first_position[sequence] : 0;
}

static inline int64_t ck_align(int64_t floats) {
    return (floats + CK_ALIGN_FLOATS - 1) / CK_ALIGN_FLOATS * CK_ALIGN_FLOATS;
}

#ifdef __cplusplus
}
#endif
#endif

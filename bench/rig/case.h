/* case.h - an operation in one direction, written once. The conformance tests hold it against the float64
 * oracle on every backend and every wave of their table; the microbenchmarks verify and time it.
 *
 *   arrays      names what it reads and writes: rig_tensor(), rig_buffer(), rig_base_gradient()
 *   record      records it on one copy of these arrays; an array that was not named is NULL
 *   reference   computes it with the oracle on the rows of one device (view.h)
 *   cost_of     the bytes and FLOPs that no implementation can avoid
 *   variants    its conformance cases; their flags are for the hooks above
 *
 * The rig (rig.h) does the rest: random content, NaN in outputs and in columns that a device does not own,
 * memory, the run, and the comparison of every array that is written, and of the gradients of packs.
 *
 * What costs count: every input that must be read once, every output that must be written once, rows of A and
 * B of all experts of a device; FLOPs of matrix products only, for the chosen experts where the others'
 * results are nobody's business. The floor of a part is
 *     max(bytes / copy rate, FLOPs / best product rate)
 * and a case's floor is the sum over its parts. A whole model also has its MFU, model FLOPs / (time x best
 * product rate): what the formula of the model costs, nothing that is computed twice. */
#ifndef COHORT_BENCH_CASE_H
#define COHORT_BENCH_CASE_H

#include "rig/view.h"

typedef struct {
    const char *name;
    double bytes, flops;
} cost;

/* Adapter memory of a case: parameters; gradients of the wave; AdamW moments. NEED_TIED: in a microbenchmark
 * the devices have, at qkv, a LoRA and a vector that all layers share, and not a LoRA of each layer. */
enum { NEED_PACKS = 1, NEED_GRADIENTS = 2, NEED_MOMENTS = 4, NEED_TIED = 8 };

/* Multiply-adds that the reference of an operation may take for a device of many tokens. */
static const double CASE_BUDGET = 5e7;

enum { CASE_MOST_COSTS = 32, CASE_MOST_VARIANTS = 16, CASE_MOST_CUTS = 3 };

/* The oracle on all rows and some columns of D or F, where all rows and columns are too many (view.h). */
typedef struct {
    column_kind columns; /* COLUMNS_WIDTH or COLUMNS_FFN; 0 ends the list */
    uint64_t parts;      /* whose gradients are compared: bits 1 << oracle_part */
    tensor_id tensor;    /* that is compared, and has these columns; NO_TENSOR: none */
    const op_case *of;   /* whose reference computes it; NULL: the case's */
} case_cut;

/* A conformance case. The microbenchmarks have the operation without variant, all of whose fields are 0. */
struct op_variant {
    const char *name; /* NULL ends the list */
    unsigned flags;   /* the operation's own */
    int size;         /* the same; 0: as the wave says */
    bool trains_base; /* gradients of frozen weights: f32 only, no devices */
    bool exact;       /* f32 only: what is compared would not survive the rounding of bf16 */
    /* further runs of the same program, of which every second one gives the devices other variants of the
     * base */
    int turns;
    const char *group; /* of the conformance tests; NULL: the operation's */
};

struct op_case {
    const char *group;            /* of the conformance tests */
    const char *name, *direction; /* together its full name: route/forward */
    const char *floor;            /* the formula of costs, for people; NULL: it is not measured */
    unsigned axes;                /* bits 1 << axis that change it */
    unsigned needs;               /* NEED_* */
    view_rows rows;               /* that the reference can be computed on */
    uint64_t gradients;           /* of the packs, which the reference computes: bits 1 << oracle_part */
    void (*arrays)(rig *r);
    void (*record)(const rig *r, rig_copy *c); /* NULL: no program */
    /* instead of record: makes the whole c->program; NULL: no */
    exit_code (*create)(const rig *r, rig_copy *c, problems *list);
    ck_status (*issue)(const rig *r, rig_copy *c); /* NULL: runs the program */
    void (*reference)(view *v);                    /* NULL: verify does it all */
    case_cut cuts[CASE_MOST_CUTS];
    void (*verify)(const rig *r, verdict *v); /* what is no array of a view; NULL: nothing */
    cost (*cost_of)(const rig *r);
    int (*costs)(const rig *r, cost *parts);     /* instead, of several operations: at most CASE_MOST_COSTS */
    double (*model_flops)(const rig *r);         /* of a model's step without recomputation; NULL: no model */
    void (*release)(rig *r);                     /* of r->own; NULL: there is nothing */
    op_variant variants[CASE_MOST_VARIANTS + 1]; /* the conformance cases */
};

/* What a rig's work cannot avoid; at most CASE_MOST_COSTS. */
int rig_costs(const rig *r, cost *parts);

enum {
    AXES_DENSE = 1 << AXIS_TOKENS | 1 << AXIS_WIDTH | 1 << AXIS_PRECISION,
    AXES_SEQUENCES = AXES_DENSE | 1 << AXIS_SEQUENCE,
    AXES_PACKS = 1 << AXIS_WIDTH | 1 << AXIS_DEVICES | 1 << AXIS_EXPERTS | 1 << AXIS_RANK,
    AXES_EXPERTS = AXES_DENSE | AXES_PACKS | 1 << AXIS_TOP_K | 1 << AXIS_DISTRIBUTION,
    AXES_MLP = AXES_EXPERTS | 1 << AXIS_MLP,
    AXES_MODEL =
        (AXES_EXPERTS | AXES_SEQUENCES | 1 << AXIS_ATTENTION_RANK | 1 << AXIS_VOCABULARY | 1 << AXIS_LAYERS),
    AXES_LORA = AXES_DENSE | 1 << AXIS_DEVICES | 1 << AXIS_ATTENTION_RANK | 1 << AXIS_DISTRIBUTION
};

#endif

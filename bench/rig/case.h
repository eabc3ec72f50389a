/* case.h - a microbenchmark as a struct of hooks.
 *
 * A case names the arrays that it reads and writes (prepare), records or issues its work (record, issue),
 * compares the results with a float64 reference (verify), and says which bytes and FLOPs no implementation
 * can avoid (costs). The harness does the rest: memory in as many copies as the cache asks for, random
 * content, graphs, clocks, statistics, output.
 *
 * What costs count: every input that must be read once, every output that must be written once, rows of A and
 * B of all experts of a device; FLOPs of matrix products only, for the chosen experts where the others'
 * results are nobody's business. The floor of a part is
 *     max(bytes / copy rate, FLOPs / best product rate)
 * and a case's floor is the sum over its parts. A whole model also has its MFU, model FLOPs / (time x best
 * product rate): what the formula of the model costs, nothing that is computed twice. */
#ifndef COHORT_BENCH_CASE_H
#define COHORT_BENCH_CASE_H

#include "rig/verdict.h"
#include "rig/world.h"

typedef struct {
    const char *name;
    double bytes, flops;
} cost;

enum { CASE_MOST_COSTS = 32 };

struct bench_case {
    const char *name, *direction; /* together its full name: route/forward */
    const char *floor;            /* the formula of costs, for people */
    unsigned axes;                /* bits 1 << axis that change it */
    void (*prepare)(world *w);
    void (*record)(const world *w, world_copy *c); /* NULL: no program */
    /* instead of record: makes the whole c->program; NULL: no */
    exit_code (*create)(const world *w, world_copy *c, problems *list);
    ck_status (*issue)(const world *w, world_copy *c); /* NULL: runs the program */
    void (*verify)(const world *w, verdict *v);
    int (*costs)(const world *w, cost *parts); /* at most CASE_MOST_COSTS */
    /* of a whole model's step without recomputation, see MFU; NULL: no model */
    double (*model_flops)(const world *w);
    void (*release)(world *w); /* of w->own; NULL: there is nothing */
};

/* All cases, ended by NULL. */
extern const bench_case *const BENCH_CASES[];

extern const bench_case route_forward, route_backward, activation_forward, activation_backward,
    expand_forward, expand_backward, lora_forward, lora_backward, attention_forward, attention_backward,
    norm_forward, norm_backward, linear_forward, linear_backward, head_step, adamw_update, group_sum,
    group_spread, layer_step, model_step;

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

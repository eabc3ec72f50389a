/* point.h - what a microbenchmark is measured at: axes, sweeps over them, and the points of a sweep.
 *
 * A sweep holds some values of each axis; its points are all combinations. A case uses some of the axes only,
 * and is measured once for each combination of those. */
#ifndef COHORT_BENCH_POINT_H
#define COHORT_BENCH_POINT_H

#include <stdbool.h>

#include "kernels.h"
#include "support/problems.h"

typedef enum {
    AXIS_TOKENS,         /* of the wave, all devices together */
    AXIS_SEQUENCE,       /* longest sequence */
    AXIS_WIDTH,          /* D; the MLP is 4 D wide, a head of attention 64 */
    AXIS_DEVICES,        /* N */
    AXIS_EXPERTS,        /* E */
    AXIS_TOP_K,          /* k */
    AXIS_RANK,           /* of every expert; RANK_MIXED: the sweep's list in turn */
    AXIS_MLP,            /* ck_mlp */
    AXIS_ATTENTION_RANK, /* of the attention LoRA */
    AXIS_VOCABULARY,     /* V */
    AXIS_LAYERS,         /* L, of a whole model */
    AXIS_DISTRIBUTION,   /* of the tokens over the devices */
    AXIS_PRECISION,      /* ck_precision */
    AXES
} axis;

enum { AXIS_MOST_VALUES = 16, RANK_MIXED = 0, POINT_NAME_BYTES = 160 };

typedef enum {
    TOKENS_UNIFORM,   /* T / N each */
    TOKENS_ZIPF,      /* in proportion to 1 / (1 + device) */
    TOKENS_SKEW,      /* device 0 has half of all, the others share the rest */
    TOKENS_ONE_TOKEN, /* one token each, and device 0 all others */
    TOKEN_DISTRIBUTIONS
} token_distribution;

typedef struct {
    int value[AXES];
    int n_mixed, mixed[CK_MAX_EXPERTS]; /* ranks that the experts have in turn where the rank is RANK_MIXED */
} point;

typedef struct {
    int n_values[AXES]; /* 0: not chosen, a default comes in */
    int values[AXES][AXIS_MOST_VALUES];
    int n_mixed, mixed[CK_MAX_EXPERTS];
    char filter[64];    /* a case's name contains it; empty: all */
    char direction[16]; /* empty: all */
} sweep;

/* The key of an axis ("tokens", "top-k", ...) as options and sweep files write it, and what it means; "ranks"
 * is a key too. */
const char *axis_key(axis a);
const char *axis_meaning(axis a);
/* The name of a value of an axis whose values are words ("uniform", ...); NULL where they are numbers. */
const char *axis_word(axis a, int value);

/* Adds to one axis the values of a list "4096,65536"; key as above, or "filter", "direction". where: what
 * messages begin with. */
exit_code sweep_set(sweep *s, const char *where, const char *key, const char *text, problems *list);
/* Fills what was not chosen: small shapes on a CPU, those of a GPU's work otherwise. */
void sweep_defaults(sweep *s, bool gpu);

/* The number of points over the axes in `used` (bit 1 << axis), and the i-th of them; axes that are not used
 * have their first value. */
int sweep_points(const sweep *s, unsigned used);
point sweep_point(const sweep *s, unsigned used, int index);

/* A sentence on why the point is impossible (more devices than tokens, k > E, ...), NULL if it is not. */
const char *point_problem(const point *p, unsigned used);
/* Parts of a name as "/T4096/D768/N16/E8/k2/r16/uniform/f32", "/swiglu" behind the rank where the MLP is not
 * GELU. */
void point_name(const point *p, unsigned used, char name[POINT_NAME_BYTES]);

/* tokens[d] of every device: at least one each, all together the point's. */
void point_tokens(const point *p, int *tokens);

#endif

/* waves.h - the devices and waves that every op is tried on. */
#ifndef COHORT_CONFORMANCE_WAVES_H
#define COHORT_CONFORMANCE_WAVES_H

#include "base/base.h"
#include "kernels.h"

typedef struct {
    int experts, rank[CK_MAX_EXPERTS], top_k;
    ck_gates gates;
    ck_router router;
    ck_mix mix;
    int attention_rank;      /* of the LoRAs at QKV and OUT */
    int site_rank[CK_SITES]; /* of LoRAs beside these; at GATE only where the MLP has one */
    int tied_rank[CK_SITES]; /* of LoRAs that all layers share, and vectors */
    ck_vector_form vector[CK_SITES];
    bool grouped;  /* q and kv have widths of their own, q twice kv; the same in all shapes of a wave */
    float balance; /* lambda; balance_e = lambda E c_e / L with unequal c_e, unless even: c_e = 1 */
    bool even;
} shape_spec;

enum {
    SHAPE_SINGLE,        /* E = 1 */
    SHAPE_SINGLE_ATTEND, /* E = 1, attention LoRA */
    SHAPE_PAIR_TOP1,     /* E = 2, k = 1: K = 1 < E */
    SHAPE_PAIR_BOTH,     /* E = K = 2, unequal c */
    SHAPE_RAGGED,        /* E = 3, ranks 4, 8, 3, k = 2 */
    SHAPE_ALL,           /* E = k = 4, ranks 2, 5, 1, 8, unequal c */
    SHAPE_MEAN,          /* E = 4, gates mean, whatever k */
    SHAPE_LINEAR,        /* E = 3, k = 2, mix linear */
    SHAPE_LINEAR_TOP1,   /* E = 4, k = 1, mix linear */
    SHAPE_LINEAR_MEAN,   /* E = 2, gates mean, mix linear */
    SHAPE_MANY,          /* E = 16, k = 2 */
    SHAPE_MANY_ALL,      /* E = k = 16, equal c: the balance is constant */
    SHAPE_EIGHT,         /* E = 8, k = 2, ranks sum to 96 */
    SHAPE_HEAVY,         /* ranks sum to 160, past any limit of "few ranks" */
    SHAPE_LIMIT,         /* CK_MAX_EXPERTS and CK_MAX_RANK_SUM */
    SHAPE_TWENTY_FOUR,   /* ranks sum to 24, attention 16 */
    SHAPE_ATTEND_MORE,   /* attention 24 */
    SHAPE_PLAIN,         /* no experts, LoRA on all linears of a GPT-2 */
    SHAPE_PLAIN_PR,      /* no experts, LoRA at PR alone */
    SHAPE_BESIDE,        /* E = 2, k = 1, LoRA at FC and PR beside them */
    SHAPE_WITH_ZERO,     /* E = 3, ranks 0, 8, 3, k = 2 */
    SHAPE_LINEAR_ZERO,   /* E = 2, ranks 4, 0, k = 1, mix linear, LoRA at PR */
    SHAPE_TIED,          /* no experts, LoRA and vectors of all layers on all linears of a GPT-2 */
    SHAPE_TIED_BESIDE,   /* E = 3, k = 2, attention 3, a LoRA of all layers at FC and PR, a vector at PR */
    SHAPE_LLAMA_TIED,    /* E = 1, LoRA and vectors of all layers on all linears of a Llama */
    SHAPE_LLAMA_PLAIN,   /* no experts, LoRA on all linears of a Llama */
    SHAPE_LLAMA_QV,      /* E = 2, k = 2, LoRA at q and v */
    SHAPE_LLAMA_BESIDE,  /* E = 3, ranks 0, 5, 4, k = 1, LoRA at k and in the MLP */
    SHAPE_HIDDEN,        /* router with a hidden layer: E = 3, k = 2 */
    SHAPE_HIDDEN_TOP1,   /* the same, E = 4, k = 1, mix linear */
    SHAPE_HIDDEN_BOTH,   /* the same, E = k = 2 */
    SHAPE_HIDDEN_MANY,   /* the same, E = 16, k = 3 */
    SHAPE_SPECS
};

enum {
    WAVE_MAX_DEVICES = 64,
    WAVE_MAX_LENGTHS = 3,
    WAVE_LAYERS = 2,
    WAVE_VOCABULARY = 37,
    WAVE_CONTEXT = 160 /* positions: more than any sequence of the table */
};

typedef struct {
    int shape;
    int lengths[WAVE_MAX_LENGTHS]; /* 0 ends the list */
} device_spec;

typedef struct {
    const char *name;
    int width, ffn, heads, n_devices;
    device_spec devices[WAVE_MAX_DEVICES];
    ck_mlp mlp; /* SwiGLU: a Llama */
} wave_spec;

extern const shape_spec shape_specs[SHAPE_SPECS];
extern const wave_spec wave_specs[];
extern const int n_wave_specs;

/* Aborts on a table entry that ck_shape_init() refuses: the tables hold only possible shapes. With SwiGLU
 * ranks are halved (rounded up) where they sum to more than it allows. */
ck_shape wave_shape(int spec, int width, int ffn, int layers, ck_mlp mlp);
/* Of a device's step; different for every number. */
ck_noise wave_noise(int number);

/* Parameters of a device's pack and weights of a base, large enough that every term of the model counts;
 * padding stays 0. */
void wave_fill_pack(const ck_shape *shape, uint64_t seed, float *pack);
/* The base of a wave's whole model, given the shape of its first device: a Llama where the MLP is SwiGLU. It
 * has all biases and a head of its own, or, where q and kv have other widths than D, groups of query heads
 * and neither. */
base_shape wave_base(const ck_shape *first, int heads, int vocabulary, int context);
/* Whether such a base is possible: a Llama's heads are even. */
bool wave_has_base(const wave_spec *spec);
void wave_fill_base(const base_shape *shape, uint64_t seed, float *weights);

/* Numbers for inputs: uniform with mean 0 and standard deviation `scale`, from a counter that the caller
 * keeps. */
double wave_draw(uint64_t *state, double scale);

#endif

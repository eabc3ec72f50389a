/* pack.h - what one device holds: its parameters, listed once.
 *
 * A device has one pack: all its adapter parameters, contiguous. A *site* is a linear of the base that
 * adapters change. At any site there may be one LoRA that every token uses; at the linears of the MLP every
 * expert has a LoRA of its own besides. An expert of rank 0 has no LoRA. A device that has one expert of
 * rank 0, and no router, has the plain MLP of the base. Beside these a site may have parts that all layers
 * share: one more LoRA, and a vector that is added to the site's outputs in every layer.
 *
 *   block   the rows of one factor at one site: all experts' ranks one after another, or those of the LoRA
 *           that is no expert's. Kernels read blocks.
 *   part    the rows of a block that belong to one expert (or to no expert) in one layer, or in all.
 *           Everything outside kernels/ walks parts: initial values, adapter files, what a method shares,
 *           comparisons.
 *
 * A pack has its layers one after another, and then what all layers share. The gradient of a shared part is
 * a sum over layers, from layer 0 up. Each layer first writes its own summand, so a pack of gradients has
 * room for these behind its end (gradient_total).
 *
 * ck_shape_init() fills the table of blocks, and nothing else in the program knows where a tensor lies. A is
 * stored [rank, in] and B, transposed, [rank, out]; the router is [experts, D], and one with a hidden layer
 * has a second matrix [experts, experts]. */
#ifndef COHORT_PACK_H
#define COHORT_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CK_MAX_EXPERTS = 16,
    CK_MAX_RANK_SUM = 512,
    CK_MAX_TOP_K = 16,
    CK_MAX_THREADS = 1024,
    CK_ALIGN_FLOATS = 16
};

typedef enum {
    /* router: top-k of R x, softmax over the kept logits (K = 1 < E: probability over all E) */
    CK_GATES_TOP_K,
    CK_GATES_MEAN /* no router: 1/E over all E */
} ck_gates;

/* What makes the logits z [E] of x, and the load balance that goes with it (sim/methods/README.md). */
typedef enum {
    CK_ROUTER_LINEAR, /* z = R x; K = 1 < E: the gate is the best expert's probability over all E */
    /* z = R2 tanh(R x), with noise on it in training; the gates are softmax over the kept logits for K = 1,
     * too: the gate of LLaMA-MoE (Zhu et al. 2024) */
    CK_ROUTER_LLAMA_MOE
} ck_router;

typedef enum {
    CK_MIX_MLP,   /* y = sum_e w_e MLP_e(x): CoMiGS */
    CK_MIX_LINEAR /* y = W x + s sum_e w_e B_e A_e x in each of the two MLP linears */
} ck_mix;

/* The MLP of the base that experts adapt. */
typedef enum {
    CK_MLP_GELU,  /* U = W_fc x + b_fc [tokens, F]; act(u) = gelu(u), tanh form: GPT-2 */
    CK_MLP_SWIGLU /* U = [W_gate x | W_up x] [tokens, 2 F]; act(u, v) = silu(u) * v: Llama */
} ck_mlp;

/* Linears of a layer, by what they do; Q = q_width, V = kv_width. */
typedef enum {
    CK_SITE_Q,    /* D -> Q; Q, K and V are sites of a base that has them apart: Llama */
    CK_SITE_K,    /* D -> V */
    CK_SITE_V,    /* D -> V */
    CK_SITE_QKV,  /* D -> Q + 2 V, the three as one linear: GPT-2 */
    CK_SITE_OUT,  /* Q -> D, the attention's output projection */
    CK_SITE_GATE, /* D -> F; SwiGLU only */
    CK_SITE_FC,   /* D -> F; with SwiGLU the up projection */
    CK_SITE_PR,   /* F -> D; with SwiGLU the down projection */
    CK_SITES,
    CK_NO_SITE = CK_SITES /* of the router */
} ck_site;

/* What a block is part of. */
typedef enum {
    CK_EXPERTS, /* the routed experts, with their router */
    CK_LORA,    /* the LoRA that every token uses */
    CK_TIED     /* what all layers share */
} ck_adapter;

typedef enum {
    CK_FACTOR_A,
    CK_FACTOR_B,
    CK_FACTOR_ROUTER,     /* R */
    CK_FACTOR_ROUTER_OUT, /* R2 */
    CK_FACTOR_VECTOR
} ck_factor;
static inline bool ck_is_of_router(ck_factor factor) {
    return factor == CK_FACTOR_ROUTER || factor == CK_FACTOR_ROUTER_OUT;
}

/* What a vector p of a site does, in every layer: W x becomes W x + p, or (W + p 1^T) x. */
typedef enum { CK_NO_VECTOR, CK_BIAS, CK_COLUMN_BIAS } ck_vector_form;

/* The router's matrices, experts' A and B at each site (some of them never exist), those of the LoRAs, those
 * of the LoRAs that all layers share, and the vectors. */
enum {
    CK_BLOCK_ROUTER,
    CK_BLOCK_ROUTER_OUT,
    CK_BLOCK_EXPERTS,
    CK_BLOCK_LORA = CK_BLOCK_EXPERTS + 2 * CK_SITES,
    CK_BLOCK_TIED = CK_BLOCK_LORA + 2 * CK_SITES,
    CK_BLOCK_VECTOR = CK_BLOCK_TIED + 2 * CK_SITES,
    CK_BLOCKS = CK_BLOCK_VECTOR + CK_SITES
};

typedef struct {
    int64_t offset;        /* floats from the beginning of a layer; CK_TIED: of the pack */
    int32_t rows, columns; /* rows 0: the device has no such block */
} ck_block;

/* What a device holds, per layer; layer l begins at l * layer_stride floats. Devices with equal shapes share
 * one ck_shape. */
typedef struct {
    /* given */
    int32_t n_layers, width, ffn; /* L, D, F */
    /* columns of q, and of k and of v: heads by the size of a head; 0 means D (GPT-2), and becomes it */
    int32_t q_width, kv_width;
    int32_t n_experts;            /* E >= 1; generalists first */
    int32_t rank[CK_MAX_EXPERTS]; /* r_e >= 0; 0: the expert is the MLP of the base */
    float scale[CK_MAX_EXPERTS];  /* s_e: alpha/sqrt(r) or alpha/r */
    int32_t top_k;                /* k; K = min(k, E) */
    ck_gates gates;
    ck_router router; /* where there is one */
    ck_mix mix;
    ck_mlp mlp;                  /* the same in all shapes of a wave */
    int32_t lora_rank[CK_SITES]; /* of the LoRA at a site that every token uses; 0 = none */
    float lora_scale[CK_SITES];  /* its scale */
    /* the same of the LoRA that all layers share */
    int32_t tied_rank[CK_SITES];
    float tied_scale[CK_SITES];
    ck_vector_form vector[CK_SITES];
    /* lambda * E * c_e / L (CK_ROUTER_LLAMA_MOE: lambda / L of every expert); all 0 = no load-balance term */
    float balance[CK_MAX_EXPERTS];
    /* derived */
    int32_t rank_sum; /* S: sum of r_e */
    /* H: S; with SwiGLU 2 S <= CK_MAX_RANK_SUM, all experts' ranks of the gate, then of the up */
    int32_t h_ranks;
    int32_t rank_first[CK_MAX_EXPERTS + 1]; /* prefix sums of rank */
    int32_t router_rows;                    /* E with a router (top-k gates and E > 1), else 0 */
    /* the load-balance term has a gradient: a router, some balance != 0; of a linear router not E = K with
     * equal ones */
    bool balanced;
    ck_block block[CK_BLOCKS]; /* at ck_block_index(site, factor) */
    /* Blocks that lie side by side and that the expert operations read as one. */
    int64_t route;               /* [router_rows + H, D]: R, then A of gate and fc */
    int64_t b1, a2, b2;          /* [H, F] B of gate and fc; [S, F] A of pr; [S, D] B of pr */
    int64_t layer_stride, total; /* floats; both multiples of CK_ALIGN_FLOATS, as are the next two */
    int64_t tied, tied_floats;   /* what all layers share: the last tied_floats of the pack, from `tied` on */
    /* of a pack of gradients: total, then for every layer what it adds to those of the shared parts */
    int64_t gradient_total;
} ck_shape;

/* Fills the derived fields. On impossible given ones CK_BAD_ARGUMENT, with *why set to a sentence (why may be
 * NULL). */
ck_status ck_shape_init(ck_shape *shape, const char **why);

static inline int ck_block_index(ck_adapter adapter, ck_site site, ck_factor factor) {
    static const int first[] = {CK_BLOCK_EXPERTS, CK_BLOCK_LORA, CK_BLOCK_TIED};
    if (factor == CK_FACTOR_ROUTER) return CK_BLOCK_ROUTER;
    if (factor == CK_FACTOR_ROUTER_OUT) return CK_BLOCK_ROUTER_OUT;
    if (factor == CK_FACTOR_VECTOR) return CK_BLOCK_VECTOR + (int)site;
    return first[adapter] + 2 * (int)site + (int)factor;
}
static inline const ck_block *ck_block_of(const ck_shape *shape, ck_adapter adapter, ck_site site,
                                          ck_factor factor) {
    return &shape->block[ck_block_index(adapter, site, factor)];
}
/* A linear of the MLP, where experts may have LoRAs. */
static inline bool ck_is_of_mlp(ck_site site) {
    return site == CK_SITE_GATE || site == CK_SITE_FC || site == CK_SITE_PR;
}
/* "attention.q", "gate", ...: how adapter files name it. */
const char *ck_site_name(ck_site site);

typedef struct {
    ck_adapter adapter;
    ck_site site; /* CK_NO_SITE: the router */
    ck_factor factor;
    int32_t expert;        /* -1: of no expert */
    int32_t layer;         /* -1: of all layers */
    int32_t rows, columns; /* as stored */
    int64_t offset;        /* floats from the beginning of the pack */
} ck_part;

/* The parts of a pack in the order layer, block, expert, those of all layers last: ck_part_at(shape, 0) ..
 * ck_part_at(shape, ck_part_count(shape) - 1). A layer's parts are neighbours, and so are the experts of a
 * block, whose rows lie side by side. */
int32_t ck_part_count(const ck_shape *shape);
ck_part ck_part_at(const ck_shape *shape, int32_t index);

/* Classes of parts that a step may train, each a bit of a mask. */
enum {
    CK_LEARN_EXPERT_A = 1,
    CK_LEARN_ROUTER = 2,
    CK_LEARN_EXPERT_B = 4,
    CK_LEARN_LORA_A = 8,
    CK_LEARN_LORA_B = 16,
    CK_LEARN_TIED_A = 32,
    CK_LEARN_TIED_B = 64,
    CK_LEARN_VECTOR = 128,
    /* all but the router */
    CK_LEARN_EXPERTS = CK_LEARN_EXPERT_A | CK_LEARN_EXPERT_B | CK_LEARN_LORA_A | CK_LEARN_LORA_B |
                       CK_LEARN_TIED_A | CK_LEARN_TIED_B | CK_LEARN_VECTOR
};
/* The class of a block's parts. */
uint32_t ck_learn_class(ck_adapter adapter, ck_factor factor);

/* Neighbouring floats of a pack that a step either trains all, or not at all. They are at the same place in
 * every layer, or lie once in the part of the pack that all layers share. */
typedef struct {
    int64_t offset, count; /* floats from the beginning of the pack */
    int32_t layers;        /* they lie there again every layer_stride floats; 1: in what all layers share */
    bool learned, router;  /* router: these are rows of one of the router's matrices, and no others */
} ck_span;
/* Cuts a layer, and what all layers share, into as few spans as possible. `learn` says which parts are
 * trained; rows of the router always have spans of their own. The spans are in rising order and cover all
 * blocks, but not the padding between blocks, whose gradients are never written. Returns how many spans
 * there are. */
int ck_learn_spans(const ck_shape *shape, uint32_t learn, ck_span spans[CK_BLOCKS]);

#ifdef __cplusplus
}
#endif
#endif

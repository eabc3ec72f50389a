/* pack.c - the layout of a device's pack. */
#include "pack.h"

#include <string.h>

#include "backend.h"

static const char *given_problem(const ck_shape *s) {
    if (s->n_layers < 1 || s->width < 1 || s->ffn < 1) return "layers, width and ffn must be at least 1";
    if (s->n_experts < 1 || s->n_experts > CK_MAX_EXPERTS) return "a device holds 1 to 16 experts";
    if (s->top_k < 1) return "top_k must be at least 1";
    for (int site = 0; site < CK_SITES; site++) {
        if (s->lora_rank[site] < 0 || s->tied_rank[site] < 0)
            return "the rank of a LoRA must not be negative";
        if (s->lora_rank[site] > CK_MAX_RANK_SUM || s->tied_rank[site] > CK_MAX_RANK_SUM)
            return "the rank of a LoRA must not be more than 512";
    }
    bool at_gate = s->lora_rank[CK_SITE_GATE] > 0 || s->tied_rank[CK_SITE_GATE] > 0 ||
                   s->vector[CK_SITE_GATE] != CK_NO_VECTOR;
    if (at_gate && s->mlp != CK_MLP_SWIGLU) return "an MLP without a gate has no adapter there";
    if (s->q_width < 0 || s->kv_width < 0) return "q_width and kv_width must not be negative";
    int sum = 0;
    for (int e = 0; e < s->n_experts; e++) {
        if (s->rank[e] < 0 || s->rank[e] > CK_MAX_RANK_SUM)
            return "an expert's rank must be between 0 and 512";
        sum += s->rank[e];
    }
    if (sum == 0 && s->n_experts > 1)
        return "experts of rank 0 are all the MLP of the base: one of them is enough";
    if (sum > CK_MAX_RANK_SUM) return "a device's ranks must not sum to more than 512";
    if (s->mlp == CK_MLP_SWIGLU && 2 * sum > CK_MAX_RANK_SUM)
        return "a device's ranks must not sum to more than 256 where the MLP is SwiGLU";
    return NULL;
}

/* ---- Blocks */

typedef struct {
    ck_adapter adapter;
    ck_site site;
    ck_factor factor;
    bool continues; /* without a gap after the block before: an operation reads both as one matrix */
} placed_block;

#define EXPERTS(site, factor, continues)                                                                     \
    { CK_EXPERTS, CK_SITE_##site, CK_FACTOR_##factor, continues }
#define LORA(adapter, site)                                                                                  \
    {adapter, CK_SITE_##site, CK_FACTOR_A, false}, {                                                         \
        adapter, CK_SITE_##site, CK_FACTOR_B, false                                                          \
    }
#define TIED(site)                                                                                           \
    LORA(CK_TIED, site), {                                                                                   \
        CK_TIED, CK_SITE_##site, CK_FACTOR_VECTOR, false                                                     \
    }
/* In the order of memory: a layer's, then what all layers share. */
static const placed_block PLACES[] = {
    {CK_EXPERTS, CK_NO_SITE, CK_FACTOR_ROUTER_OUT, false},
    {CK_EXPERTS, CK_NO_SITE, CK_FACTOR_ROUTER, false},
    EXPERTS(GATE, A, true),
    EXPERTS(FC, A, true),
    EXPERTS(GATE, B, false),
    EXPERTS(FC, B, true),
    EXPERTS(PR, A, false),
    EXPERTS(PR, B, false),
    LORA(CK_LORA, Q),
    LORA(CK_LORA, K),
    LORA(CK_LORA, V),
    LORA(CK_LORA, QKV),
    LORA(CK_LORA, OUT),
    LORA(CK_LORA, GATE),
    LORA(CK_LORA, FC),
    LORA(CK_LORA, PR),
    TIED(Q),
    TIED(K),
    TIED(V),
    TIED(QKV),
    TIED(OUT),
    TIED(GATE),
    TIED(FC),
    TIED(PR),
};
/* The first IN_LAYERS of them lie in every layer. */
enum { PLACED = sizeof PLACES / sizeof *PLACES, IN_LAYERS = PLACED - 3 * CK_SITES };

static const ck_block *block_at(const ck_shape *s, int place) {
    return ck_block_of(s, PLACES[place].adapter, PLACES[place].site, PLACES[place].factor);
}

static int32_t inputs_of(const ck_shape *s, ck_site site) {
    return site == CK_SITE_PR ? s->ffn : site == CK_SITE_OUT ? s->q_width : s->width;
}

static int32_t outputs_of(const ck_shape *s, ck_site site) {
    switch (site) {
    case CK_SITE_Q:
        return s->q_width;
    case CK_SITE_K:
    case CK_SITE_V:
        return s->kv_width;
    case CK_SITE_QKV:
        return s->q_width + 2 * s->kv_width;
    case CK_SITE_GATE:
    case CK_SITE_FC:
        return s->ffn;
    case CK_SITE_PR:
    case CK_SITE_OUT:
    case CK_SITES:
        break;
    }
    return s->width;
}

static int32_t rows_at(const ck_shape *s, const placed_block *place) {
    if (place->factor == CK_FACTOR_ROUTER) return s->router_rows;
    if (place->factor == CK_FACTOR_ROUTER_OUT) return s->router == CK_ROUTER_LLAMA_MOE ? s->router_rows : 0;
    if (place->factor == CK_FACTOR_VECTOR) return s->vector[place->site] != CK_NO_VECTOR;
    if (place->adapter == CK_LORA) return s->lora_rank[place->site];
    if (place->adapter == CK_TIED) return s->tied_rank[place->site];
    return place->site == CK_SITE_GATE && s->mlp != CK_MLP_SWIGLU ? 0 : s->rank_sum;
}

static int32_t columns_at(const ck_shape *s, const placed_block *place) {
    if (place->factor == CK_FACTOR_ROUTER) return s->width;
    if (place->factor == CK_FACTOR_ROUTER_OUT) return s->n_experts;
    return place->factor == CK_FACTOR_A ? inputs_of(s, place->site) : outputs_of(s, place->site);
}

/* Of PLACES [first, last), from `end` on; returns where they end. */
static int64_t place_blocks(ck_shape *s, int first, int last, int64_t end) {
    for (int i = first; i < last; i++) {
        const placed_block *place = &PLACES[i];
        ck_block block = {place->continues ? end : ck_align(end), rows_at(s, place), columns_at(s, place)};
        end = block.offset + (int64_t)block.rows * block.columns;
        s->block[ck_block_index(place->adapter, place->site, place->factor)] = block;
    }
    return ck_align(end);
}

static void place_all(ck_shape *s) {
    memset(s->block, 0, sizeof s->block);
    s->layer_stride = place_blocks(s, 0, IN_LAYERS, 0);
    s->tied = s->layer_stride * s->n_layers;
    s->total = place_blocks(s, IN_LAYERS, PLACED, s->tied);
    s->tied_floats = s->total - s->tied;
    s->gradient_total = s->total + s->tied_floats * s->n_layers;
}

/* Of a linear router: with all experts kept f_e = 1/E, so the term is sum_e balance_e P_e / E: constant where
 * all weights are equal, since sum_e P_e = 1. That of LLaMA-MoE's is of the gates themselves. */
static bool has_balance_gradient(const ck_shape *s) {
    bool weighted = false, equal = true;
    for (int e = 0; e < s->n_experts; e++) {
        weighted |= s->balance[e] != 0.0f;
        equal &= s->balance[e] == s->balance[0];
    }
    bool constant = s->router == CK_ROUTER_LINEAR && s->top_k >= s->n_experts && equal;
    return s->router_rows > 0 && weighted && !constant;
}

ck_status ck_shape_init(ck_shape *s, const char **why) {
    const char *problem = given_problem(s);
    if (why) *why = problem;
    if (problem) return CK_BAD_ARGUMENT;
    if (s->q_width == 0) s->q_width = s->width;
    if (s->kv_width == 0) s->kv_width = s->width;
    s->rank_first[0] = 0;
    for (int e = 0; e < CK_MAX_EXPERTS; e++)
        s->rank_first[e + 1] = s->rank_first[e] + (e < s->n_experts ? s->rank[e] : 0);
    s->rank_sum = s->rank_first[s->n_experts];
    s->h_ranks = s->mlp == CK_MLP_SWIGLU ? 2 * s->rank_sum : s->rank_sum;
    s->router_rows = s->gates == CK_GATES_TOP_K && s->n_experts > 1 ? s->n_experts : 0;
    s->balanced = has_balance_gradient(s);
    place_all(s);
    s->route = s->block[CK_BLOCK_ROUTER].offset;
    s->b1 = ck_block_of(s, CK_EXPERTS, CK_SITE_GATE, CK_FACTOR_B)->offset;
    s->a2 = ck_block_of(s, CK_EXPERTS, CK_SITE_PR, CK_FACTOR_A)->offset;
    s->b2 = ck_block_of(s, CK_EXPERTS, CK_SITE_PR, CK_FACTOR_B)->offset;
    return CK_OK;
}

/* ---- Parts */

const char *ck_site_name(ck_site site) {
    switch (site) {
    case CK_SITE_Q:
        return "attention.q";
    case CK_SITE_K:
        return "attention.k";
    case CK_SITE_V:
        return "attention.v";
    case CK_SITE_GATE:
        return "gate";
    case CK_SITE_FC:
        return "fc";
    case CK_SITE_PR:
        return "proj";
    case CK_SITE_QKV:
        return "attention.qkv";
    case CK_SITE_OUT:
        return "attention.out";
    case CK_SITES:
        break;
    }
    return "router";
}

/* Of block i in the order of memory: one for each expert that has ranks. */
static int32_t parts_in(const ck_shape *s, int i) {
    if (block_at(s, i)->rows == 0) return 0;
    if (PLACES[i].adapter != CK_EXPERTS || ck_is_of_router(PLACES[i].factor)) return 1;
    int32_t n = 0;
    for (int e = 0; e < s->n_experts; e++) n += s->rank[e] > 0;
    return n;
}

static int32_t parts_from(const ck_shape *s, int first, int last) {
    int32_t n = 0;
    for (int i = first; i < last; i++) n += parts_in(s, i);
    return n;
}

int32_t ck_part_count(const ck_shape *s) {
    return s->n_layers * parts_from(s, 0, IN_LAYERS) + parts_from(s, IN_LAYERS, PLACED);
}

/* The n-th expert that has ranks. */
static int32_t expert_with_ranks(const ck_shape *s, int32_t n) {
    int32_t e = 0;
    while (s->rank[e] == 0 || n-- > 0) e++;
    return e;
}

ck_part ck_part_at(const ck_shape *s, int32_t index) {
    int32_t each = parts_from(s, 0, IN_LAYERS), in_layers = s->n_layers * each;
    bool tied = index >= in_layers;
    int32_t layer = tied ? -1 : index / each, within = tied ? index - in_layers : index % each;
    int i = tied ? IN_LAYERS : 0;
    while (within >= parts_in(s, i)) within -= parts_in(s, i++);
    const ck_block *block = block_at(s, i);
    ck_part part = {PLACES[i].adapter,
                    PLACES[i].site,
                    PLACES[i].factor,
                    -1,
                    layer,
                    block->rows,
                    block->columns,
                    (tied ? 0 : layer * s->layer_stride) + block->offset};
    if (part.adapter != CK_EXPERTS || ck_is_of_router(part.factor)) return part;
    part.expert = expert_with_ranks(s, within);
    part.rows = s->rank[part.expert];
    part.offset += (int64_t)s->rank_first[part.expert] * block->columns;
    return part;
}

/* ---- What learns */

uint32_t ck_learn_class(ck_adapter adapter, ck_factor factor) {
    static const uint32_t classes[][2] = {[CK_EXPERTS] = {CK_LEARN_EXPERT_A, CK_LEARN_EXPERT_B},
                                          [CK_LORA] = {CK_LEARN_LORA_A, CK_LEARN_LORA_B},
                                          [CK_TIED] = {CK_LEARN_TIED_A, CK_LEARN_TIED_B}};
    if (ck_is_of_router(factor)) return CK_LEARN_ROUTER;
    if (factor == CK_FACTOR_VECTOR) return CK_LEARN_VECTOR;
    return classes[adapter][factor == CK_FACTOR_B];
}

/* Of PLACES [first, last). */
static int cut(const ck_shape *s, uint32_t learn, int first, int last, int32_t layers, ck_span *spans) {
    int n = 0;
    for (int i = first; i < last; i++) {
        const ck_block *block = block_at(s, i);
        ck_span span = {block->offset, (int64_t)block->rows * block->columns, layers,
                        (learn & ck_learn_class(PLACES[i].adapter, PLACES[i].factor)) != 0,
                        ck_is_of_router(PLACES[i].factor)};
        ck_span *before = n > 0 ? &spans[n - 1] : NULL;
        if (span.count == 0) continue;
        if (before && !before->router && !span.router && before->learned == span.learned &&
            before->offset + before->count == span.offset)
            before->count += span.count;
        else
            spans[n++] = span;
    }
    return n;
}

int ck_learn_spans(const ck_shape *s, uint32_t learn, ck_span spans[CK_BLOCKS]) {
    int n = cut(s, learn, 0, IN_LAYERS, s->n_layers, spans);
    return n + cut(s, learn, IN_LAYERS, PLACED, 1, spans + n);
}

/* pack.c - the layout of a device's pack. */
#include "pack.h"

#include "backend.h"

static const char *given_problem(const ck_shape *s) {
    if (s->n_layers < 1 || s->width < 1 || s->ffn < 1) return "layers, width and ffn must be at least 1";
    if (s->n_experts < 1 || s->n_experts > CK_MAX_EXPERTS) return "a device holds 1 to 16 experts";
    if (s->top_k < 1) return "top_k must be at least 1";
    for (int site = 0; site < CK_SITES; site++) {
        if (s->lora_rank[site] < 0) return "the rank of a LoRA must not be negative";
        if (s->lora_rank[site] > CK_MAX_RANK_SUM) return "the rank of a LoRA must not be more than 512";
        if (s->lora_rank[site] > 0 && ck_is_routed((ck_site)site))
            return "at a routed site the experts are the LoRAs: it has none of its own";
    }
    int sum = 0;
    for (int e = 0; e < s->n_experts; e++) {
        if (s->rank[e] < 1 || s->rank[e] > CK_MAX_RANK_SUM)
            return "an expert's rank must be between 1 and 512";
        sum += s->rank[e];
    }
    if (sum > CK_MAX_RANK_SUM) return "a device's ranks must not sum to more than 512";
    if (s->mlp == CK_MLP_SWIGLU && 2 * sum > CK_MAX_RANK_SUM)
        return "a device's ranks must not sum to more than 256 where the MLP is SwiGLU";
    return NULL;
}

/* ---- Blocks */

typedef struct {
    ck_site site;
    ck_factor factor;
    bool continues; /* without a gap after the block before: an operation reads both as one matrix */
} placed_block;

/* In the order of memory. */
static const placed_block PLACES[CK_BLOCKS] = {
    {CK_NO_SITE, CK_FACTOR_ROUTER, false}, {CK_SITE_GATE, CK_FACTOR_A, true},
    {CK_SITE_FC, CK_FACTOR_A, true},       {CK_SITE_GATE, CK_FACTOR_B, false},
    {CK_SITE_FC, CK_FACTOR_B, true},       {CK_SITE_PR, CK_FACTOR_A, false},
    {CK_SITE_PR, CK_FACTOR_B, false},      {CK_SITE_QKV, CK_FACTOR_A, false},
    {CK_SITE_QKV, CK_FACTOR_B, false},     {CK_SITE_OUT, CK_FACTOR_A, false},
    {CK_SITE_OUT, CK_FACTOR_B, false},
};

static int32_t inputs_of(const ck_shape *s, ck_site site) {
    return site == CK_SITE_PR ? s->ffn : s->width;
}

static int32_t outputs_of(const ck_shape *s, ck_site site) {
    switch (site) {
    case CK_SITE_GATE:
    case CK_SITE_FC:
        return s->ffn;
    case CK_SITE_QKV:
        return 3 * s->width;
    case CK_SITE_PR:
    case CK_SITE_OUT:
    case CK_SITES:
        break;
    }
    return s->width;
}

static int32_t ranks_at(const ck_shape *s, ck_site site) {
    if (!ck_is_routed(site)) return s->lora_rank[site];
    return site == CK_SITE_GATE && s->mlp != CK_MLP_SWIGLU ? 0 : s->rank_sum;
}

static ck_block block_without_place(const ck_shape *s, ck_site site, ck_factor factor) {
    if (factor == CK_FACTOR_ROUTER) return (ck_block){0, s->router_rows, s->width};
    return (ck_block){0, ranks_at(s, site), factor == CK_FACTOR_A ? inputs_of(s, site) : outputs_of(s, site)};
}

static void place_blocks(ck_shape *s) {
    int64_t end = 0;
    for (int i = 0; i < CK_BLOCKS; i++) {
        ck_block block = block_without_place(s, PLACES[i].site, PLACES[i].factor);
        block.offset = PLACES[i].continues ? end : ck_align(end);
        end = block.offset + (int64_t)block.rows * block.columns;
        s->block[ck_block_index(PLACES[i].site, PLACES[i].factor)] = block;
    }
    s->layer_stride = ck_align(end);
    s->total = s->layer_stride * s->n_layers;
}

/* With all experts kept f_e = 1/E, so the term is sum_e balance_e P_e / E: constant where all weights are
 * equal, since sum_e P_e = 1. */
static bool has_balance_gradient(const ck_shape *s) {
    bool weighted = false, equal = true;
    for (int e = 0; e < s->n_experts; e++) {
        weighted |= s->balance[e] != 0.0f;
        equal &= s->balance[e] == s->balance[0];
    }
    return s->router_rows > 0 && weighted && !(s->top_k >= s->n_experts && equal);
}

ck_status ck_shape_init(ck_shape *s, const char **why) {
    const char *problem = given_problem(s);
    if (why) *why = problem;
    if (problem) return CK_BAD_ARGUMENT;
    s->rank_first[0] = 0;
    for (int e = 0; e < CK_MAX_EXPERTS; e++)
        s->rank_first[e + 1] = s->rank_first[e] + (e < s->n_experts ? s->rank[e] : 0);
    s->rank_sum = s->rank_first[s->n_experts];
    s->h_ranks = s->mlp == CK_MLP_SWIGLU ? 2 * s->rank_sum : s->rank_sum;
    s->router_rows = s->gates == CK_GATES_TOP_K && s->n_experts > 1 ? s->n_experts : 0;
    s->balanced = has_balance_gradient(s);
    place_blocks(s);
    s->route = s->block[CK_BLOCK_ROUTER].offset;
    s->b1 = ck_block_of(s, CK_SITE_GATE, CK_FACTOR_B)->offset;
    s->a2 = ck_block_of(s, CK_SITE_PR, CK_FACTOR_A)->offset;
    s->b2 = ck_block_of(s, CK_SITE_PR, CK_FACTOR_B)->offset;
    return CK_OK;
}

/* ---- Parts */

const char *ck_site_name(ck_site site) {
    switch (site) {
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

/* Of block i in the order of memory: one for each expert at a routed site. */
static int32_t parts_in(const ck_shape *s, int i) {
    if (ck_block_of(s, PLACES[i].site, PLACES[i].factor)->rows == 0) return 0;
    return ck_is_routed(PLACES[i].site) ? s->n_experts : 1;
}

static int32_t parts_a_layer(const ck_shape *s) {
    int32_t n = 0;
    for (int i = 0; i < CK_BLOCKS; i++) n += parts_in(s, i);
    return n;
}

int32_t ck_part_count(const ck_shape *s) {
    return s->n_layers * parts_a_layer(s);
}

ck_part ck_part_at(const ck_shape *s, int32_t index) {
    int32_t each = parts_a_layer(s), layer = index / each, within = index % each;
    int i = 0;
    while (within >= parts_in(s, i)) within -= parts_in(s, i++);
    const ck_block *block = ck_block_of(s, PLACES[i].site, PLACES[i].factor);
    ck_part part = {PLACES[i].site,
                    PLACES[i].factor,
                    -1,
                    layer,
                    block->rows,
                    block->columns,
                    layer * s->layer_stride + block->offset};
    if (!ck_is_routed(part.site)) return part;
    part.expert = within;
    part.rows = s->rank[within];
    part.offset += (int64_t)s->rank_first[within] * block->columns;
    return part;
}

/* ---- What learns */

uint32_t ck_learn_class(ck_site site, ck_factor factor) {
    if (factor == CK_FACTOR_ROUTER) return CK_LEARN_ROUTER;
    if (ck_is_routed(site)) return factor == CK_FACTOR_A ? CK_LEARN_EXPERT_A : CK_LEARN_EXPERT_B;
    return factor == CK_FACTOR_A ? CK_LEARN_LORA_A : CK_LEARN_LORA_B;
}

int ck_learn_spans(const ck_shape *s, uint32_t learn, ck_span spans[CK_BLOCKS]) {
    int n = 0;
    for (int i = 0; i < CK_BLOCKS; i++) {
        const ck_block *block = ck_block_of(s, PLACES[i].site, PLACES[i].factor);
        ck_span span = {block->offset, 0, (learn & ck_learn_class(PLACES[i].site, PLACES[i].factor)) != 0,
                        PLACES[i].factor == CK_FACTOR_ROUTER};
        if (block->rows == 0 || (n > 0 && !spans[n - 1].router && spans[n - 1].learned == span.learned))
            continue;
        spans[n++] = span;
    }
    for (int i = 0; i < n; i++)
        spans[i].count = (i + 1 < n ? spans[i + 1].offset : s->layer_stride) - spans[i].offset;
    return n;
}

/* The case tables: both sides of every boundary that a backend may have a fast path for. */
#include "waves.h"

#include <math.h>
#include <stdlib.h>

#include "oracle/oracle.h"

const shape_spec shape_specs[SHAPE_SPECS] = {
    [SHAPE_SINGLE] = {.experts = 1, .rank = {8}, .top_k = 2},
    [SHAPE_SINGLE_ATTEND] = {.experts = 1, .rank = {4}, .top_k = 1, .attention_rank = 8},
    [SHAPE_PAIR_TOP1] = {.experts = 2, .rank = {4, 4}, .top_k = 1, .attention_rank = 8, .balance = 0.5f},
    [SHAPE_PAIR_BOTH] = {.experts = 2, .rank = {8, 8}, .top_k = 2, .balance = 0.5f},
    [SHAPE_RAGGED] = {.experts = 3, .rank = {4, 8, 3}, .top_k = 2, .attention_rank = 8, .balance = 0.5f},
    [SHAPE_ALL] = {.experts = 4, .rank = {2, 5, 1, 8}, .top_k = 4, .attention_rank = 3, .balance = 0.5f},
    [SHAPE_MEAN] =
        {.experts = 4, .rank = {3, 3, 4, 1}, .top_k = 2, .gates = CK_GATES_MEAN, .attention_rank = 8},
    [SHAPE_LINEAR] = {.experts = 3, .rank = {4, 8, 3}, .top_k = 2, .mix = CK_MIX_LINEAR, .balance = 0.5f},
    [SHAPE_LINEAR_TOP1] = {.experts = 4,
                           .rank = {8, 8, 8, 8},
                           .top_k = 1,
                           .mix = CK_MIX_LINEAR,
                           .attention_rank = 4,
                           .balance = 0.5f},
    [SHAPE_LINEAR_MEAN] =
        {.experts = 2, .rank = {5, 4}, .top_k = 1, .gates = CK_GATES_MEAN, .mix = CK_MIX_LINEAR},
    [SHAPE_MANY] = {.experts = 16,
                    .rank = {8, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3},
                    .top_k = 2,
                    .attention_rank = 8,
                    .balance = 0.5f},
    [SHAPE_MANY_ALL] = {.experts = 16,
                        .rank = {1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2},
                        .top_k = 16,
                        .balance = 0.5f,
                        .even = true},
    [SHAPE_EIGHT] = {.experts = 8,
                     .rank = {16, 16, 16, 8, 8, 8, 16, 8},
                     .top_k = 2,
                     .attention_rank = 8,
                     .balance = 0.5f},
    [SHAPE_HEAVY] =
        {.experts = 5, .rank = {64, 32, 33, 30, 1}, .top_k = 3, .attention_rank = 33, .balance = 0.5f},
    [SHAPE_LIMIT] = {.experts = 16,
                     .rank = {32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32},
                     .top_k = 3,
                     .attention_rank = 40,
                     .balance = 0.5f},
    [SHAPE_TWENTY_FOUR] =
        {.experts = 3, .rank = {8, 8, 8}, .top_k = 2, .attention_rank = 16, .balance = 0.5f},
    [SHAPE_ATTEND_MORE] = {.experts = 2, .rank = {4, 4}, .top_k = 1, .attention_rank = 24, .balance = 0.5f},
    [SHAPE_PLAIN] = {.experts = 1,
                     .top_k = 1,
                     .attention_rank = 4,
                     .site_rank = {[CK_SITE_FC] = 8, [CK_SITE_PR] = 8}},
    [SHAPE_PLAIN_PR] = {.experts = 1, .top_k = 1, .gates = CK_GATES_MEAN, .site_rank = {[CK_SITE_PR] = 3}},
    [SHAPE_BESIDE] = {.experts = 2,
                      .rank = {4, 4},
                      .top_k = 1,
                      .site_rank = {[CK_SITE_FC] = 5, [CK_SITE_PR] = 24},
                      .balance = 0.5f},
    [SHAPE_WITH_ZERO] = {.experts = 3, .rank = {0, 8, 3}, .top_k = 2, .attention_rank = 8, .balance = 0.5f},
    [SHAPE_LINEAR_ZERO] = {.experts = 2,
                           .rank = {4, 0},
                           .top_k = 1,
                           .mix = CK_MIX_LINEAR,
                           .site_rank = {[CK_SITE_PR] = 17},
                           .balance = 0.5f},
    [SHAPE_TIED] = {.experts = 1,
                    .top_k = 1,
                    .attention_rank = 3,
                    .tied_rank = {[CK_SITE_QKV] = 4, [CK_SITE_OUT] = 3, [CK_SITE_FC] = 17, [CK_SITE_PR] = 2},
                    .vector = {[CK_SITE_QKV] = CK_COLUMN_BIAS,
                               [CK_SITE_OUT] = CK_BIAS,
                               [CK_SITE_FC] = CK_BIAS,
                               [CK_SITE_PR] = CK_COLUMN_BIAS}},
    [SHAPE_TIED_BESIDE] = {.experts = 3,
                           .rank = {4, 8, 3},
                           .top_k = 2,
                           .attention_rank = 3,
                           .tied_rank = {[CK_SITE_FC] = 4, [CK_SITE_PR] = 8},
                           .vector = {[CK_SITE_QKV] = CK_BIAS, [CK_SITE_PR] = CK_BIAS},
                           .balance = 0.5f},
    [SHAPE_LLAMA_TIED] = {.experts = 1,
                          .rank = {4},
                          .top_k = 1,
                          .grouped = true,
                          .tied_rank = {[CK_SITE_Q] = 4,
                                        [CK_SITE_K] = 3,
                                        [CK_SITE_V] = 8,
                                        [CK_SITE_OUT] = 2,
                                        [CK_SITE_GATE] = 4,
                                        [CK_SITE_FC] = 20,
                                        [CK_SITE_PR] = 4},
                          .vector = {[CK_SITE_Q] = CK_BIAS,
                                     [CK_SITE_K] = CK_COLUMN_BIAS,
                                     [CK_SITE_V] = CK_BIAS,
                                     [CK_SITE_OUT] = CK_COLUMN_BIAS,
                                     [CK_SITE_GATE] = CK_COLUMN_BIAS,
                                     [CK_SITE_FC] = CK_BIAS,
                                     [CK_SITE_PR] = CK_COLUMN_BIAS}},
    [SHAPE_LLAMA_PLAIN] = {.experts = 1,
                           .top_k = 1,
                           .grouped = true,
                           .site_rank = {[CK_SITE_Q] = 8,
                                         [CK_SITE_K] = 4,
                                         [CK_SITE_V] = 3,
                                         [CK_SITE_OUT] = 17,
                                         [CK_SITE_GATE] = 8,
                                         [CK_SITE_FC] = 20,
                                         [CK_SITE_PR] = 16}},
    [SHAPE_LLAMA_QV] = {.experts = 2,
                        .rank = {4, 4},
                        .top_k = 2,
                        .grouped = true,
                        .site_rank = {[CK_SITE_Q] = 8, [CK_SITE_V] = 8},
                        .balance = 0.5f},
    [SHAPE_LLAMA_BESIDE] =
        {.experts = 3,
         .rank = {0, 5, 4},
         .top_k = 1,
         .grouped = true,
         .site_rank = {[CK_SITE_K] = 33, [CK_SITE_GATE] = 2, [CK_SITE_FC] = 8, [CK_SITE_PR] = 5},
         .balance = 0.5f},
};

const wave_spec wave_specs[] = {
    {"ragged",
     24,
     96,
     3,
     13,
     {{SHAPE_RAGGED, {1, 129, 32}},
      {SHAPE_SINGLE, {31}},
      {SHAPE_PAIR_TOP1, {129, 1}},
      {SHAPE_MANY, {128}},
      {SHAPE_MEAN, {32, 31, 129}},
      {SHAPE_PAIR_BOTH, {33}},
      {SHAPE_LINEAR_TOP1, {31, 33}},
      {SHAPE_ALL, {1}},
      {SHAPE_LINEAR, {129}},
      {SHAPE_SINGLE_ATTEND, {5, 6}},
      {SHAPE_LINEAR_MEAN, {17}},
      {SHAPE_MANY_ALL, {20}},
      {SHAPE_HEAVY, {40, 2}}},
     CK_MLP_GELU},
    {"aligned",
     32,
     128,
     4,
     5,
     {{SHAPE_PAIR_BOTH, {32, 32}},
      {SHAPE_PAIR_TOP1, {32}},
      {SHAPE_RAGGED, {64}},
      {SHAPE_LINEAR, {16, 16}},
      {SHAPE_SINGLE_ATTEND, {32}}},
     CK_MLP_GELU},
    {"wide",
     48,
     192,
     3,
     4,
     {{SHAPE_MEAN, {15}}, {SHAPE_ALL, {33}}, {SHAPE_LINEAR_TOP1, {16}}, {SHAPE_MANY, {47}}},
     CK_MLP_GELU},
    {"broad",
     16,
     1040,
     2,
     4,
     {{SHAPE_RAGGED, {33}}, {SHAPE_LINEAR, {17}}, {SHAPE_MANY, {16}}, {SHAPE_PAIR_TOP1, {35}}},
     CK_MLP_GELU},
    {"odd",
     21,
     50,
     3,
     6,
     {{SHAPE_RAGGED, {2, 3}},
      {SHAPE_PAIR_TOP1, {1, 1, 1}},
      {SHAPE_LINEAR, {7}},
      {SHAPE_SINGLE, {1}},
      {SHAPE_HEAVY, {9}},
      {SHAPE_LIMIT, {6, 5}}},
     CK_MLP_GELU},
    {"one token", 24, 96, 3, 1, {{SHAPE_RAGGED, {1}}}, CK_MLP_GELU},
    {"no adapter in attention", 24, 96, 3, 2, {{SHAPE_SINGLE, {4}}, {SHAPE_PAIR_BOTH, {3}}}, CK_MLP_GELU},
    {"crowd",
     24,
     96,
     3,
     24,
     {{SHAPE_PAIR_BOTH, {1}}, {SHAPE_PAIR_BOTH, {2}}, {SHAPE_PAIR_BOTH, {3}}, {SHAPE_PAIR_BOTH, {1}},
      {SHAPE_PAIR_BOTH, {5}}, {SHAPE_PAIR_BOTH, {4}}, {SHAPE_PAIR_TOP1, {1}}, {SHAPE_PAIR_TOP1, {1}},
      {SHAPE_PAIR_TOP1, {1}}, {SHAPE_PAIR_TOP1, {2}}, {SHAPE_PAIR_TOP1, {9}}, {SHAPE_PAIR_TOP1, {1}},
      {SHAPE_SINGLE, {1}},    {SHAPE_SINGLE, {2}},    {SHAPE_SINGLE, {1}},    {SHAPE_MEAN, {1}},
      {SHAPE_MEAN, {3}},      {SHAPE_RAGGED, {1}},    {SHAPE_RAGGED, {2}},    {SHAPE_RAGGED, {3}},
      {SHAPE_MANY, {1}},      {SHAPE_MANY, {2}},      {SHAPE_LINEAR, {1}},    {SHAPE_LINEAR, {2}}},
     CK_MLP_GELU},
    {"swiglu",
     32,
     96,
     4,
     6,
     {{SHAPE_PAIR_BOTH, {32, 33}},
      {SHAPE_PAIR_TOP1, {129}},
      {SHAPE_RAGGED, {64, 1}},
      {SHAPE_LINEAR, {17}},
      {SHAPE_MANY, {40}},
      {SHAPE_MEAN, {16}}},
     CK_MLP_SWIGLU},
    {"swiglu, odd",
     21,
     50,
     3,
     8,
     {{SHAPE_RAGGED, {2, 3}},
      {SHAPE_PAIR_TOP1, {1, 1, 1}},
      {SHAPE_LINEAR_TOP1, {7}},
      {SHAPE_SINGLE, {1}},
      {SHAPE_HEAVY, {9}},
      {SHAPE_LINEAR_MEAN, {5}},
      {SHAPE_ALL, {19}},
      {SHAPE_LIMIT, {6, 5}}},
     CK_MLP_SWIGLU},
    {"single tokens",
     32,
     64,
     4,
     6,
     {{SHAPE_PAIR_BOTH, {1, 1, 1}},
      {SHAPE_RAGGED, {1}},
      {SHAPE_PAIR_TOP1, {1, 1}},
      {SHAPE_LINEAR, {1, 1}},
      {SHAPE_SINGLE_ATTEND, {1}},
      {SHAPE_MEAN, {1, 1, 1}}},
     CK_MLP_GELU},
    {"few ranks",
     32,
     64,
     1,
     3,
     {{SHAPE_SINGLE_ATTEND, {20, 13}}, {SHAPE_SINGLE_ATTEND, {33}}, {SHAPE_SINGLE_ATTEND, {1}}},
     CK_MLP_GELU},
    {"24 ranks",
     32,
     64,
     2,
     3,
     {{SHAPE_TWENTY_FOUR, {33}}, {SHAPE_TWENTY_FOUR, {17, 30}}, {SHAPE_SINGLE_ATTEND, {5}}},
     CK_MLP_GELU},
    {"24 ranks of attention",
     32,
     64,
     2,
     2,
     {{SHAPE_ATTEND_MORE, {33, 2}}, {SHAPE_PAIR_TOP1, {18}}},
     CK_MLP_GELU},
    {"sites",
     32,
     96,
     4,
     6,
     {{SHAPE_PLAIN, {33, 2}},
      {SHAPE_BESIDE, {40}},
      {SHAPE_PLAIN_PR, {5}},
      {SHAPE_WITH_ZERO, {64}},
      {SHAPE_LINEAR_ZERO, {17}},
      {SHAPE_PAIR_TOP1, {1}}},
     CK_MLP_GELU},
    {"sites, odd",
     21,
     50,
     3,
     5,
     {{SHAPE_WITH_ZERO, {2, 3}},
      {SHAPE_PLAIN, {1, 20}},
      {SHAPE_LINEAR_ZERO, {7}},
      {SHAPE_BESIDE, {9}},
      {SHAPE_PLAIN_PR, {4}}},
     CK_MLP_GELU},
    {"no experts",
     32,
     64,
     2,
     3,
     {{SHAPE_PLAIN, {129, 30}}, {SHAPE_PLAIN, {3}}, {SHAPE_PLAIN_PR, {16}}},
     CK_MLP_GELU},
    {"shared by layers",
     32,
     96,
     4,
     4,
     {{SHAPE_TIED, {33, 2}}, {SHAPE_TIED_BESIDE, {64}}, {SHAPE_PAIR_TOP1, {5}}, {SHAPE_TIED, {129, 16}}},
     CK_MLP_GELU},
    {"shared by layers, odd",
     21,
     50,
     3,
     3,
     {{SHAPE_TIED_BESIDE, {1, 7}}, {SHAPE_TIED, {19}}, {SHAPE_PLAIN, {4}}},
     CK_MLP_GELU},
    {"sites of Llama",
     32,
     96,
     4,
     5,
     {{SHAPE_LLAMA_PLAIN, {33, 2}},
      {SHAPE_LLAMA_QV, {64, 1}},
      {SHAPE_LLAMA_BESIDE, {40}},
      {SHAPE_LLAMA_TIED, {20, 40}},
      {SHAPE_LLAMA_PLAIN, {1, 2}}},
     CK_MLP_SWIGLU},
    {"sites of Llama, odd",
     22,
     50,
     2,
     4,
     {{SHAPE_LLAMA_TIED, {9, 3}},
      {SHAPE_LLAMA_BESIDE, {2, 19}},
      {SHAPE_LLAMA_PLAIN, {7, 1}},
      {SHAPE_LLAMA_QV, {5}}},
     CK_MLP_SWIGLU},
};
const int n_wave_specs = sizeof wave_specs / sizeof *wave_specs;

ck_shape wave_shape(int spec, int width, int ffn, int layers, ck_mlp mlp) {
    const shape_spec *s = &shape_specs[spec];
    int sum = 0;
    for (int e = 0; e < s->experts; e++) sum += s->rank[e];
    bool halve = mlp == CK_MLP_SWIGLU && 2 * sum > CK_MAX_RANK_SUM;
    ck_shape shape = {.n_layers = layers,
                      .width = width,
                      .ffn = ffn,
                      .n_experts = s->experts,
                      .top_k = s->top_k,
                      .gates = s->gates,
                      .mix = s->mix,
                      .mlp = mlp,
                      .q_width = s->grouped ? 4 * (width / 4 + 2) : width,
                      .kv_width = s->grouped ? 2 * (width / 4 + 2) : width};
    for (int site = 0; site < CK_SITES; site++) {
        shape.lora_rank[site] = site == CK_SITE_GATE && mlp != CK_MLP_SWIGLU ? 0 : s->site_rank[site];
        if (site == CK_SITE_QKV || site == CK_SITE_OUT) shape.lora_rank[site] += s->attention_rank;
        shape.lora_scale[site] = 0.75f;
        shape.tied_scale[site] = 0.625f;
        if (site == CK_SITE_GATE && mlp != CK_MLP_SWIGLU) continue;
        shape.tied_rank[site] = s->tied_rank[site];
        shape.vector[site] = s->vector[site];
    }
    for (int e = 0; e < s->experts; e++) {
        shape.rank[e] = halve ? (s->rank[e] + 1) / 2 : s->rank[e];
        shape.scale[e] = 0.5f + 0.25f * (float)(e % 4);
        shape.balance[e] = s->balance * (float)s->experts *
                           (s->even      ? 1.0f
                            : e % 2 == 0 ? 1.5f
                                         : 0.75f) /
                           (float)layers;
    }
    const char *why;
    if (ck_shape_init(&shape, &why) != CK_OK) abort();
    return shape;
}

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double wave_draw(uint64_t *state, double scale) {
    *state += 0x9e3779b97f4a7c15u;
    double unit = (double)(mix(*state) >> 11) * 0x1p-53;
    return (2 * unit - 1) * sqrt(3) * scale;
}

void wave_fill_pack(const ck_shape *shape, uint64_t seed, float *pack) {
    for (int l = 0; l < shape->n_layers; l++)
        for (oracle_part part = 0; part < ORACLE_PARTS; part++) {
            oracle_range range = oracle_part_range(shape, l, part);
            for (int64_t i = 0; i < range.count; i++) pack[range.offset + i] = (float)wave_draw(&seed, 0.2);
        }
}

/* At an offset of -1 there is no tensor. */
static void fill(float *weights, int64_t offset, int64_t count, double mean, double scale, uint64_t *seed) {
    for (int64_t i = 0; i < count && offset >= 0; i++)
        weights[offset + i] = (float)(mean + wave_draw(seed, scale));
}

bool wave_has_base(const wave_spec *spec) {
    ck_shape first = wave_shape(spec->devices[0].shape, spec->width, spec->ffn, WAVE_LAYERS, spec->mlp);
    base_shape shape = wave_base(&first, spec->heads, 2, 1);
    return spec->mlp == CK_MLP_GELU || (shape.head_size % 2 == 0 && shape.heads * shape.head_size > 0);
}

base_shape wave_base(const ck_shape *first, int heads, int vocabulary, int context) {
    base_shape shape = {.layers = first->n_layers,
                        .width = first->width,
                        .heads = heads,
                        .ffn = first->ffn,
                        .vocabulary = vocabulary,
                        .context = context,
                        .epsilon = 1e-5f};
    if (first->mlp == CK_MLP_SWIGLU) {
        shape.family = BASE_LLAMA;
        shape.head_size = first->q_width / heads;
        shape.kv_heads = first->kv_width / shape.head_size;
        shape.rope.theta = 100;
        shape.tied_head = first->q_width != first->width;
        shape.qkv_bias = shape.out_bias = shape.mlp_bias = !shape.tied_head;
    }
    return base_complete(shape);
}

void wave_fill_base(const base_shape *shape, uint64_t seed, float *weights) {
    base_layout at = base_layout_of(shape);
    int64_t width = shape->width, q = base_q_width(shape), qkv = base_qkv_width(shape),
            fc = base_fc_width(shape);
    fill(weights, at.wte, shape->vocabulary * width, 0, 0.5, &seed);
    fill(weights, at.wpe, shape->context * width, 0, 0.5, &seed);
    fill(weights, at.lnf_gain, width, 1, 0.2, &seed);
    fill(weights, at.lnf_bias, width, 0, 0.2, &seed);
    for (int l = 0; l < shape->layers; l++) {
        float *layer = weights + l * at.layer_stride;
        const base_layer *w = &at.layer0;
        fill(layer, w->ln1_gain, width, 1, 0.2, &seed);
        fill(layer, w->ln1_bias, width, 0, 0.2, &seed);
        fill(layer, w->qkv_w, qkv * width, 0, 0.2, &seed);
        fill(layer, w->qkv_b, qkv, 0, 0.2, &seed);
        fill(layer, w->out_w, width * q, 0, 0.2, &seed);
        fill(layer, w->out_b, width, 0, 0.2, &seed);
        fill(layer, w->ln2_gain, width, 1, 0.2, &seed);
        fill(layer, w->ln2_bias, width, 0, 0.2, &seed);
        fill(layer, w->fc_w, fc * width, 0, 0.2, &seed);
        fill(layer, w->fc_b, fc, 0, 0.2, &seed);
        fill(layer, w->pr_w, width * shape->ffn, 0, 0.1, &seed);
        fill(layer, w->pr_b, width, 0, 0.2, &seed);
    }
    if (!shape->tied_head) fill(weights, at.head, shape->vocabulary * width, 0, 0.5, &seed);
    base_fill_rope(shape, &at, weights);
}

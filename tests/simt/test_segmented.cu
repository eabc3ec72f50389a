/* What the waves of the conformance suite are too small for: several tiles a block, chunks of tiles that cut
 * devices, and widths beyond one round of a block's warps, in the ops that are made of segmented low-rank
 * products; and what y begins with. */
#include <stdlib.h>
#include <string.h>

#include "device.hpp"
#include "tap.hpp"

extern "C" {
#include "conformance/cases.h"
}

/* 1,029 tiles: blocks of 4 and chunks of 2 tiles that hold parts of two or three devices. */
static const wave_spec many_tokens = {"many tokens",
                                      24,
                                      8,
                                      3,
                                      5,
                                      {{SHAPE_RAGGED, {6003, 5000}},
                                       {SHAPE_SINGLE, {1}},
                                       {SHAPE_PAIR_TOP1, {17, 3}},
                                       {SHAPE_LINEAR, {40}},
                                       {SHAPE_PAIR_BOTH, {5393}}},
                                      CK_MLP_GELU};
static const wave_spec many_ranks = {
    "many tokens, many ranks",
    16,
    8,
    2,
    4,
    {{SHAPE_PAIR_TOP1, {9001}}, {SHAPE_LIMIT, {70}}, {SHAPE_HEAVY, {21}}, {SHAPE_ALL, {7302}}},
    CK_MLP_GELU};
static const wave_spec columns = {
    "many columns", 264, 8, 3, 3, {{SHAPE_RAGGED, {20}}, {SHAPE_PAIR_TOP1, {1}}, {SHAPE_ALL, {33}}},
    CK_MLP_GELU};
static const wave_spec odd_columns = {
    "many odd columns", 265, 8, 5, 2, {{SHAPE_RAGGED, {20}}, {SHAPE_ALL, {3}}}, CK_MLP_GELU};

/* bits: where what every tensor and gradient holds in the end goes, or NULL. */
static void run_on(const conformance_case *which, const wave_spec *spec, ck_precision precision,
                   learn_pattern learn, check *c, std::vector<float> *bits = nullptr) {
    static rig r;
    ck_backend *backend;
    if (ck_open("cuda", 0, &backend) != CK_OK) {
        check_fail(c, "%s", ck_last_error(nullptr));
        return;
    }
    rig_options options = {};
    options.learn = learn, options.skip_evaluated = which->learns, options.precision = precision;
    rig_open(&r, c, backend, which->name, spec, options);
    if (!r.broken) which->run(&r);
    for (int i = 0; bits && i < r.n_tensors; i++)
        bits->insert(bits->end(), r.tensors[i].host, r.tensors[i].host + r.n_tokens * r.tensors[i].columns);
    if (bits && r.gradients.host)
        bits->insert(bits->end(), r.gradients.host, r.gradients.host + r.gradients.count);
    rig_close(&r);
    ck_close(backend);
}

static void try_case(const conformance_case *which, const wave_spec *spec) {
    for (int half = 0; half < 2; half++) {
        check c = {};
        run_on(which, spec, half ? CK_BF16 : CK_F32, which->learns ? LEARN_MIXED : LEARN_ALL, &c);
        TAP_CHECK(check_passed(&c), "%s: %d of %d comparisons failed\n%s", half ? "bf16" : "f32", c.failures,
                  c.comparisons, c.message);
    }
}

/* The cases of these ops alone; LoRA of the output differs from that of qkv in its width only. */
static void try_wave(const wave_spec *spec) {
    const conformance_group *groups[] = {&lora_group, &expert_group};
    for (const conformance_group *group : groups)
        for (int i = 0; i < group->n_cases; i++) {
            const char *name = group->cases[i].name;
            if (!strcmp(name, "lora of qkv") || !strcmp(name, "lora of qkv, backward") ||
                strstr(name, "expert expand"))
                try_case(&group->cases[i], spec);
        }
}

/* In another order of lanes and blocks; on a GPU, a second time. */
static void try_bits(const conformance_case *which, const wave_spec *spec, ck_precision precision) {
    std::vector<float> bits[2];
    check c = {};
    for (int i = 0; i < 2; i++) {
        device_order((uint64_t)(3 + 4 * i));
        run_on(which, spec, precision, LEARN_ALL, &c, &bits[i]);
    }
    device_order(1);
    TAP_CHECK(check_passed(&c), "%s", c.message);
    bool same = bits[0].size() == bits[1].size() &&
                memcmp(bits[0].data(), bits[1].data(), bits[0].size() * sizeof(float)) == 0;
    TAP_CHECK(same && !bits[0].empty(), "%s on wave '%s': other bits in another order of lanes", which->name,
              spec->name);
}

static void gives_the_same_bits() {
    for (int i = 0; i < lora_group.n_cases; i++) try_bits(&lora_group.cases[i], &columns, CK_F32);
    for (int i = 0; i < expert_group.n_cases; i++) {
        if (!strstr(expert_group.cases[i].name, "expert expand")) continue;
        try_bits(&expert_group.cases[i], &columns, CK_F32);
        try_bits(&expert_group.cases[i], &many_tokens, CK_BF16);
    }
}

static void with_many_tokens() {
    try_wave(&many_tokens);
}
static void with_many_ranks() {
    try_wave(&many_ranks);
}
static void with_many_columns() {
    try_wave(&columns);
    try_wave(&odd_columns);
}

/* ---- y = residual + c bias + x W^T + the adapter's part: the adapter's op begins y, and the base product is
 * added to it */

static rig_tensor *gates_of(rig *r) {
    rig_tensor *gates = rig_output(r, CK_MAX_EXPERTS, "gates");
    for (int d = 0; d < r->spec->n_devices; d++)
        for (int64_t t = rig_first(r, d); t < rig_first(r, d) + rig_rows(r, d); t++) {
            double logits[CK_MAX_EXPERTS];
            for (double &z : logits) z = wave_draw(&r->random, 1);
            oracle_gates(rig_shape(r, d), logits, rig_row(gates, t));
        }
    rig_round(r, gates);
    return gates;
}

typedef struct {
    rig_tensor *x, *y, *residual, *factor;
    rig_buffer *weight, *bias;
    int in, out;
} begun;

/* The linear that the next op's y begins with. */
static begun record_linear(rig *r, int out, bool with_factors) {
    int in = 8;
    begun b = {rig_input(r, in, "x"),
               rig_output(r, out, "y"),
               rig_input(r, out, "residual"),
               with_factors ? rig_input(r, 1, "bias factor") : nullptr,
               nullptr,
               nullptr,
               in,
               out};
    b.weight = rig_weights(r, (int64_t)in * out, 0.2, "weight"), b.bias = rig_weights(r, out, 3, "bias");
    ck_linear linear = {};
    linear.x = b.x->tensor, linear.y = b.y->tensor, linear.residual = b.residual->tensor;
    if (with_factors) linear.bias_factor = b.factor->tensor;
    linear.weight = static_cast<const float *>(b.weight->memory),
    linear.bias = static_cast<const float *>(b.bias->memory);
    linear.in = in, linear.out = out, linear.linear = -1;
    ck_op_linear(r->program, &linear);
    return b;
}

static void linear_reference(rig *r, const begun *b) {
    oracle_linear_size size = {r->n_tokens, b->in, b->out};
    oracle_linear(size, b->x->ref, b->weight->ref, b->bias->ref, b->factor ? b->factor->ref : nullptr,
                  b->residual->ref, b->y->ref);
}

static void begun_by_expand(rig *r) {
    begun b = record_linear(r, r->spec->width, true);
    rig_tensor *g = rig_input(r, r->max_ranks, "g"), *gates = gates_of(r);
    ck_expert_expand op = {g->tensor, gates->tensor, b.y->tensor, RIG_LAYER};
    ck_op_expert_expand(r->program, &op);
    if (!rig_run(r)) return;
    linear_reference(r, &b);
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_expert_expand(&a, rig_rows(r, d), rig_row(g, first), g->columns, rig_row(gates, first),
                             rig_row(b.y, first));
    }
    rig_compare(r, b.y, COLUMNS_ALL);
}

/* Some devices have no attention LoRA; their y is begun all the same. */
static void begun_by_lora(rig *r) {
    begun b = record_linear(r, 3 * r->spec->width, false);
    rig_tensor *x = rig_input(r, r->spec->width, "x of the adapter"),
               *h = rig_output(r, r->max_lora_rank, "h");
    ck_lora op = {x->tensor,      h->tensor,          b.y->tensor, CK_SITE_QKV,
                  r->spec->width, 3 * r->spec->width, 0,           RIG_LAYER,  false};
    ck_op_lora(r->program, &op);
    if (!rig_run(r)) return;
    linear_reference(r, &b);
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_lora(&a, CK_SITE_QKV, rig_rows(r, d), rig_row(x, first), rig_row(h, first), h->columns,
                    rig_row(b.y, first), b.y->columns);
    }
    rig_compare(r, b.y, COLUMNS_ALL);
}

static void begins_y() {
    const conformance_case cases[] = {
        {"begun by expand", begun_by_expand, false, false, nullptr, false, false},
        {"begun by lora", begun_by_lora, false, false, nullptr, false, false}};
    const wave_spec *specs[] = {&many_tokens, &columns, &odd_columns};
    for (const conformance_case &c : cases)
        for (const wave_spec *spec : specs) try_case(&c, spec);
}

static const tap_test tests[] = {
    {"many tokens", with_many_tokens},   {"many ranks", with_many_ranks},
    {"many columns", with_many_columns}, {"begins y", begins_y},
    {"same bits", gives_the_same_bits},
};

int main(int argc, char **argv) {
    return tap_main(argc, argv, "segmented", tests, sizeof tests / sizeof *tests);
}

/* What the waves of the conformance suite are too small for: several tiles a block, chunks of tiles that cut
 * devices, and widths beyond one round of a block's warps, in the ops that are made of segmented low-rank
 * products; and what y begins with. */
#include <stdlib.h>
#include <string.h>

#include "outcome.hpp"
#include "tap.hpp"

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

/* bits: what the run left goes there, or NULL. */
static void run_on(const conformance_case *which, const wave_spec *spec, ck_precision precision,
                   learn_pattern learn, verdict *c, std::vector<float> *bits = nullptr) {
    ck_backend *backend;
    if (ck_open("cuda", 0, &backend) != CK_OK) {
        verdict_fail(c, "%s", ck_last_error(nullptr));
        return;
    }
    rig *r = conformance_open(which, backend, precision, spec, learn, c);
    if (r) conformance_examine(which, r, c);
    if (r && bits) *bits = conformance_outcome(r);
    rig_close(r);
    ck_close(backend);
}

static void try_case(const conformance_case *which, const wave_spec *spec) {
    for (ck_precision precision : {CK_F32, CK_BF16}) {
        verdict c = {};
        run_on(which, spec, precision, which->learns ? LEARN_MIXED : LEARN_ALL, &c);
        TAP_CHECK(verdict_passed(&c), "%s: %d of %d comparisons failed\n%s",
                  precision == CK_BF16 ? "bf16" : "f32", c.failures, c.comparisons, c.message);
    }
}

/* The cases of these ops alone; LoRA of the output differs from that of qkv in its width only. */
static const char *const names[] = {"lora of qkv", "lora of qkv, backward", "expert expand",
                                    "expert expand, backward"};

static void try_wave(const wave_spec *spec) {
    for (const char *name : names) try_case(conformance_find(name), spec);
}

/* In another order of lanes and blocks; on a GPU, a second time. */
static void try_bits(const conformance_case *which, const wave_spec *spec, ck_precision precision) {
    std::vector<float> bits[2];
    verdict c = {};
    for (int i = 0; i < 2; i++) {
        device_order((uint64_t)(3 + 4 * i));
        run_on(which, spec, precision, LEARN_ALL, &c, &bits[i]);
    }
    device_order(1);
    TAP_CHECK(verdict_passed(&c), "%s", c.message);
    bool same = bits[0].size() == bits[1].size() &&
                memcmp(bits[0].data(), bits[1].data(), bits[0].size() * sizeof(float)) == 0;
    TAP_CHECK(same && !bits[0].empty(), "%s on wave '%s': other bits in another order of lanes",
              which->variant.name, spec->name);
}

static void gives_the_same_bits() {
    int n;
    const conformance_case *all = conformance_cases(&n);
    for (int i = 0; i < n; i++) {
        bool expand = strstr(all[i].variant.name, "expert expand") != nullptr;
        if (expand || !strcmp(all[i].group, "lora")) try_bits(&all[i], &columns, CK_F32);
        if (expand) try_bits(&all[i], &many_tokens, CK_BF16);
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

/* y = residual + c bias + x W^T + the adapter's part: the adapter's op begins y, and the base product is
 * added to it. Some devices have no attention LoRA; their y is begun all the same. */
static void begins_y() {
    for (const char *name : {"linear and expert expand", "linear and lora of qkv"})
        for (const wave_spec *spec : {&many_tokens, &columns, &odd_columns})
            try_case(conformance_find(name), spec);
}

static const tap_test tests[] = {
    {"many tokens", with_many_tokens},   {"many ranks", with_many_ranks},
    {"many columns", with_many_columns}, {"begins y", begins_y},
    {"same bits", gives_the_same_bits},
};

int main(int argc, char **argv) {
    return tap_main(argc, argv, "segmented", tests, sizeof tests / sizeof *tests);
}

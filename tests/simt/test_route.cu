/* What the waves of the conformance suite leave out of the router: both sides of the border between its two
 * regimes, every form of its kernels, with rows that can be accessed 16 bytes at a time and with others, more
 * columns than one round of copies or of warps; and the same bits whatever the order of lanes and blocks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "outcome.hpp"
#include "tap.hpp"

/* A device of 48 tokens on average: many; of 47: few. */
static const wave_spec border_many = {
    "48 tokens a device", 40, 8, 2, 2, {{SHAPE_PAIR_BOTH, {60, 7}}, {SHAPE_SINGLE, {29}}}, CK_MLP_GELU};
static const wave_spec border_few = {
    "47 tokens a device", 40, 8, 2, 2, {{SHAPE_PAIR_BOTH, {60, 7}}, {SHAPE_SINGLE, {27}}}, CK_MLP_GELU};

/* E + S at most 24, 72, 144, 528 forward; 32, 80, 144, 528 backward. */
static const wave_spec odd_many = {
    "many tokens, odd", 21, 8, 3, 3, {{SHAPE_PAIR_TOP1, {131}}, {SHAPE_SINGLE, {1}}, {SHAPE_ALL, {20}}},
    CK_MLP_GELU};
static const wave_spec many_60 = {
    "many tokens, 60 columns", 88, 8, 2, 2, {{SHAPE_MANY, {129}}, {SHAPE_LINEAR_TOP1, {15, 3}}}, CK_MLP_GELU};
static const wave_spec many_104 = {
    "many tokens, 104 columns", 264, 8, 2, 2, {{SHAPE_EIGHT, {97, 40}}, {SHAPE_MEAN, {5}}}, CK_MLP_GELU};
static const wave_spec many_528 = {
    "many tokens, 528 columns", 72, 8, 2, 2, {{SHAPE_LIMIT, {33, 50}}, {SHAPE_MANY_ALL, {14}}}, CK_MLP_GELU};
static const wave_spec odd_528 = {"many tokens, 528 columns, odd", 37,         8, 1, 1,
                                  {{SHAPE_LIMIT, {49}}},           CK_MLP_GELU};

/* Devices that are cut into chunks. */
static const wave_spec cut_18 = {"two devices, 18 columns",
                                 40,
                                 8,
                                 2,
                                 2,
                                 {{SHAPE_PAIR_BOTH, {131}}, {SHAPE_PAIR_BOTH, {150}}},
                                 CK_MLP_GELU};
static const wave_spec cut_60 = {"a long device among others",
                                 21,
                                 8,
                                 3,
                                 3,
                                 {{SHAPE_SINGLE, {5}}, {SHAPE_MANY, {300, 7}}, {SHAPE_PAIR_TOP1, {15}}},
                                 CK_MLP_GELU};
static const wave_spec cut_104 = {"one device, 104 columns", 40,         8, 2, 1,
                                  {{SHAPE_EIGHT, {330}}},    CK_MLP_GELU};

static const wave_spec few_104 = {"few tokens, 104 columns",
                                  264,
                                  8,
                                  2,
                                  3,
                                  {{SHAPE_EIGHT, {17}}, {SHAPE_PAIR_TOP1, {1}}, {SHAPE_EIGHT, {66}}},
                                  CK_MLP_GELU};
static const wave_spec few_165 = {
    "few tokens, 165 columns", 72, 8, 2, 2, {{SHAPE_HEAVY, {15}}, {SHAPE_MEAN, {70}}}, CK_MLP_GELU};
static const wave_spec few_528 = {
    "few tokens, 528 columns", 104, 8, 2, 2, {{SHAPE_LIMIT, {16}}, {SHAPE_SINGLE, {3}}}, CK_MLP_GELU};

/* The rig and its backend; false: c has failed. */
typedef struct {
    ck_backend *backend;
    rig *r;
} opened;

static bool open_rig(opened *o, const conformance_case *which, const wave_spec *spec, ck_precision precision,
                     learn_pattern learn, verdict *c) {
    *o = {};
    if (ck_open("cuda", 0, &o->backend) != CK_OK) {
        verdict_fail(c, "%s", ck_last_error(nullptr));
        return false;
    }
    o->r = conformance_open(which, o->backend, precision, spec, learn, c);
    return o->r != nullptr;
}

static void close_rig(opened *o) {
    rig_close(o->r);
    ck_close(o->backend);
}

static void report(const verdict *c, ck_precision precision) {
    TAP_CHECK(verdict_passed(c), "%s: %d of %d comparisons failed\n%s", precision == CK_BF16 ? "bf16" : "f32",
              c->failures, c->comparisons, c->message);
}

/* Every case of the router that does not ask for exactness. */
static void try_wave(const wave_spec *spec) {
    int n;
    const conformance_case *all = conformance_cases(&n);
    for (int i = 0; i < n; i++)
        for (ck_precision precision : {CK_F32, CK_BF16}) {
            const conformance_case *which = &all[i];
            opened o;
            verdict c = {};
            if (strcmp(which->group, "route") || (precision == CK_BF16 && which->variant.exact)) continue;
            if (open_rig(&o, which, spec, precision, which->learns ? LEARN_MIXED : LEARN_ALL, &c))
                conformance_examine(which, o.r, &c);
            close_rig(&o);
            report(&c, precision);
        }
}

static void at_the_border() {
    try_wave(&border_many);
    try_wave(&border_few);
}
static void with_many_tokens() {
    try_wave(&odd_many);
    try_wave(&many_60);
    try_wave(&many_104);
    try_wave(&many_528);
    try_wave(&odd_528);
}
static void with_cut_devices() {
    try_wave(&cut_18);
    try_wave(&cut_60);
    try_wave(&cut_104);
}
static void with_few_tokens() {
    try_wave(&few_104);
    try_wave(&few_165);
    try_wave(&few_528);
}

/* ---- Gradients that nobody asked for */

static bool is_written(const rig *r, int device, int layer, oracle_part part) {
    oracle_range range = oracle_part_range(rig_shape(r, device), layer, part);
    const float *gradient = r->pack_after[PACK_GRADIENTS][device] + range.offset;
    bool written = false;
    for (int64_t i = 0; i < range.count; i++) written |= !isnan(gradient[i]);
    return written;
}

static void expect_learned(const rig *r, int d, int layer, oracle_part part) {
    uint32_t learn = layer == r->layer ? r->devices[d].learn : 0;
    bool wanted =
        part == ORACLE_ROUTER ? learn & CK_LEARN_ROUTER : part == ORACLE_A1 && (learn & CK_LEARN_EXPERTS);
    if (oracle_part_range(rig_shape(r, d), layer, part).count == 0) return;
    TAP_CHECK(is_written(r, d, layer, part) == wanted, "wave '%s': d%s of device %d, layer %d: expected %s",
              r->where, oracle_part_name(part), d, layer, wanted ? "numbers" : "nothing");
}

/* The program's gradients begin as NaN: what is not learned, other layers and other parts stay so. */
static void writes_what_is_learned() {
    const conformance_case *which = conformance_find("route backward");
    for (const wave_spec *spec : {&wave_specs[0], &cut_60, &few_104}) {
        opened o;
        verdict c = {};
        if (!open_rig(&o, which, spec, CK_F32, LEARN_MIXED, &c)) return report(&c, CK_F32);
        conformance_examine(which, o.r, &c);
        for (int d = 0; d < spec->n_devices; d++)
            for (int layer = 0; layer < WAVE_LAYERS; layer++)
                for (oracle_part part = ORACLE_QKV_A; part < ORACLE_PARTS; part = (oracle_part)(part + 1))
                    expect_learned(o.r, d, layer, part);
        report(&c, CK_F32);
        close_rig(&o);
    }
}

/* ---- Bits: the whole of "load balance" (two routes, the balance, a backward pass) again in other orders */

static void repeat(const wave_spec *spec, ck_precision precision) {
    const conformance_case *which = conformance_find("load balance");
    opened o;
    verdict c = {};
    if (!open_rig(&o, which, spec, precision, LEARN_ALL, &c)) return report(&c, precision);
    conformance_examine(which, o.r, &c);
    std::vector<float> first = conformance_outcome(o.r);
    for (uint64_t seed = 2; seed < 5; seed++) {
        device_order(seed);
        if (!conformance_once(o.r, &c)) break;
        std::vector<float> again = conformance_outcome(o.r);
        TAP_CHECK(memcmp(first.data(), again.data(), first.size() * sizeof(float)) == 0,
                  "wave '%s': other bits with seed %d", spec->name, (int)seed);
    }
    device_order(1);
    report(&c, precision);
    close_rig(&o);
}

static void same_bits_in_any_order() {
    for (const wave_spec *spec : {&odd_many, &cut_18, &cut_60, &few_104}) {
        repeat(spec, CK_F32);
        repeat(spec, CK_BF16);
    }
}

/* ---- Few tokens: what no token has chosen is not read, by any op of the expert layer */

static const wave_spec few_chosen = {
    "chosen experts", 40, 24, 2, 3, {{SHAPE_LIMIT, {1}}, {SHAPE_LIMIT, {2}}, {SHAPE_LIMIT, {1}}},
    CK_MLP_GELU};
static const wave_spec few_swiglu = {"chosen experts, SwiGLU",
                                     40,
                                     24,
                                     2,
                                     3,
                                     {{SHAPE_LIMIT, {1}}, {SHAPE_LIMIT, {2}}, {SHAPE_LIMIT, {1}}},
                                     CK_MLP_SWIGLU};

/* NaN into both linears' factors of experts that no token of the device has chosen; returns how many experts
 * those are. */
static int spoil_unchosen(rig *r) {
    const oracle_part parts[] = {ORACLE_A1, ORACLE_B1, ORACLE_A2, ORACLE_B2};
    const tensor_array *t = &r->tensor[GATES];
    const float *gates = t->before ? t->before : t->after;
    int spoiled = 0;
    for (int d = 0; d < r->n_devices; d++) {
        const ck_shape *s = rig_shape(r, d);
        for (int e = 0; e < s->n_experts; e++) {
            bool chosen = false;
            for (int64_t i = rig_first(r, d); i < rig_first(r, d) + rig_rows(r, d); i++)
                chosen |= gates[i * CK_MAX_EXPERTS + e] != 0;
            if (chosen) continue;
            spoiled++;
            for (oracle_part part : parts) {
                oracle_range range = oracle_part_range(s, r->layer, part);
                int ranks = part == ORACLE_A1 || part == ORACLE_B1 ? s->h_ranks : s->rank_sum;
                int64_t columns = range.count / ranks;
                float *rows = r->pack_kind[d] + range.offset;
                for (int first = s->rank_first[e]; first < ranks; first += s->rank_sum)
                    std::fill_n(rows + first * columns, s->rank[e] * columns, NAN);
            }
        }
    }
    return spoiled;
}

static void unchanged_when_spoiled(const conformance_case *which, const wave_spec *spec,
                                   ck_precision precision) {
    const char *name = which->variant.name;
    opened o;
    verdict c = {};
    if (!open_rig(&o, which, spec, precision, LEARN_ALL, &c)) return report(&c, precision);
    conformance_examine(which, o.r, &c);
    std::vector<float> before = conformance_outcome(o.r);
    TAP_CHECK(spoil_unchosen(o.r) > 0, "%s, wave '%s': every expert was chosen", name, spec->name);
    conformance_once(o.r, &c);
    std::vector<float> after = conformance_outcome(o.r);
    TAP_CHECK(memcmp(before.data(), after.data(), before.size() * sizeof(float)) == 0,
              "%s, wave '%s': weights of experts that were not chosen count", name, spec->name);
    for (int d = 0; d < spec->n_devices; d++)
        TAP_CHECK(o.r->fault[d] == -1, "%s: device %d has a fault", name, d);
    report(&c, precision);
    close_rig(&o);
}

static void few_tokens_read_chosen_experts_only() {
    const char *const names[] = {"route", "expert activation", "expert activation, backward", "expert expand",
                                 "expert expand, backward"};
    for (const wave_spec *spec : {&few_chosen, &few_swiglu})
        for (ck_precision precision : {CK_F32, CK_BF16})
            for (const char *name : names) unchanged_when_spoiled(conformance_find(name), spec, precision);
}

static const tap_test tests[] = {
    {"both sides of the border", at_the_border},
    {"many tokens a device", with_many_tokens},
    {"cut devices", with_cut_devices},
    {"few tokens a device", with_few_tokens},
    {"writes what is learned", writes_what_is_learned},
    {"same bits in any order", same_bits_in_any_order},
    {"few tokens read chosen experts only", few_tokens_read_chosen_experts_only},
};

int main(int argc, char **argv) {
    return tap_main(argc, argv, "route", tests, sizeof tests / sizeof *tests);
}

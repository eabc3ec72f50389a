/* The CUDA expert activation against the float64 oracle on the waves of the conformance suite, and bit for bit against itself: on the CPU
 * in other orders of lanes and blocks, on a GPU (compiled by nvcc) in a second run. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "cuda/expert_activation.cuh"
#include "device.hpp"
#include "tap.hpp"

extern "C" {
#include "conformance/check.h"
#include "conformance/waves.h"
#include "oracle/oracle.h"
}

enum { LAYER = 1, SPARE_TILES = 3 };
static const double TOLERANCE = 1e-5;

typedef device_buffer<float> floats;

static void draw(floats *values, uint64_t seed, double scale) {
    for (float &v : values->host) v = (float)wave_draw(&seed, scale);
    values->put();
}

/* An activation; `padding` extra columns that belong to nobody. */
struct rows : floats {
    int64_t columns;
    rows(int64_t n_tokens, int64_t columns_, const char *name) : floats(n_tokens * columns_, name), columns(columns_) {}
    operator cuda_rows<const float>() const {
        return cuda_rows<const float>{device, columns};
    }
    operator cuda_rows<float>() const {
        return cuda_rows<float>{device, columns};
    }
};

/* ---- A wave on the device */

static std::vector<ck_shape> shapes_of(const wave_spec *spec) {
    std::vector<ck_shape> shapes;
    for (int d = 0; d < spec->n_devices; d++) shapes.push_back(wave_shape(spec->devices[d].shape, spec->width, spec->ffn, WAVE_LAYERS));
    return shapes;
}

/* Every third device learns its router only. */
static std::vector<cuda_device> devices_of(const wave_spec *spec, const std::vector<ck_shape> &shapes) {
    std::vector<cuda_device> devices;
    int64_t token = 0, offset = 0;
    for (int d = 0; d < spec->n_devices; d++) {
        int32_t n = 0;
        for (int length : spec->devices[d].lengths) n += length;
        devices.push_back(cuda_device{token, offset, offset, n, d, d % 3 == 2 ? (uint32_t)CK_LEARN_ROUTER : (uint32_t)CK_LEARN_EXPERTS});
        token += n;
        offset += shapes[(size_t)d].total;
    }
    return devices;
}

struct test_wave {
    const wave_spec *spec;
    std::vector<ck_shape> shapes;
    std::vector<cuda_device> devices;
    int64_t n_tokens, pack_floats;
    cuda_wave_limits limits;
    device_buffer<cuda_device> device_table;
    device_buffer<cuda_tile> tile_table;
    device_buffer<ck_shape> shape_table;
    floats parameters, gradients, workspace;
    rows u, zh, gates, m, g, dm, q, du, p, dw;
    std::vector<float> dw_before;

    test_wave(const wave_spec *spec_, int padding)
        : spec(spec_), shapes(shapes_of(spec)), devices(devices_of(spec, shapes)),
          n_tokens(devices.back().first_token + devices.back().n_tokens), pack_floats(devices.back().parameters + shapes.back().total),
          limits(cuda_limits_of(shapes.data(), (int32_t)shapes.size())), device_table((int64_t)devices.size(), "devices"),
          tile_table(cuda_list_tiles(devices.data(), spec->n_devices, nullptr) + SPARE_TILES, "tiles"),
          shape_table((int64_t)shapes.size(), "shapes"), parameters(pack_floats, "parameters"), gradients(pack_floats, "gradients"),
          workspace(cuda_expert_activation_workspace(n_tokens, spec->ffn, limits), "workspace"), u(n_tokens, spec->ffn + padding, "u"),
          zh(n_tokens, limits.experts + limits.rank_sum + padding, "zh"), gates(n_tokens, CK_MAX_EXPERTS, "gates"),
          m(n_tokens, spec->ffn + padding, "m"), g(n_tokens, limits.rank_sum, "g"), dm(n_tokens, spec->ffn + padding, "dm"),
          q(n_tokens, limits.rank_sum, "q"), du(n_tokens, spec->ffn + padding, "du"), p(n_tokens, limits.rank_sum, "p"),
          dw(n_tokens, CK_MAX_EXPERTS, "dw") {
        device_table.host = devices;
        shape_table.host = shapes;
        cuda_list_tiles(devices.data(), spec->n_devices, tile_table.host.data()); /* spare ones stay without rows */
        device_table.put(), shape_table.put(), tile_table.put();
        fill();
    }

    void fill() {
        draw(&parameters, 1, 0.3);
        draw(&u, 2, 1.0);
        draw(&zh, 3, 1.0);
        draw(&dm, 4, 0.5);
        draw(&q, 5, 0.5);
        draw(&dw, 6, 0.5);
        dw_before = dw.host;
        for (const cuda_device &device : devices) {
            for (int64_t t = device.first_token; t < device.first_token + device.n_tokens; t++) set_gates(&shapes[(size_t)device.shape], t);
        }
        gates.put();
    }

    /* From the logits in zh. */
    void set_gates(const ck_shape *shape, int64_t token) {
        double logits[CK_MAX_EXPERTS] = {0}, w[CK_MAX_EXPERTS];
        for (int e = 0; e < shape->router_rows; e++) logits[e] = zh.host[(size_t)(token * zh.columns + e)];
        oracle_gates(shape, logits, w);
        for (int e = 0; e < CK_MAX_EXPERTS; e++) gates.host[(size_t)(token * CK_MAX_EXPERTS + e)] = (float)w[e];
    }

    cuda_wave view() const {
        cuda_wave wave = {};
        wave.devices = device_table.device;
        wave.tiles = tile_table.device;
        wave.shapes = shape_table.device;
        wave.parameters = parameters.device;
        wave.gradients = gradients.device;
        wave.n_devices = (int32_t)devices.size();
        wave.n_tiles = (int32_t)tile_table.host.size();
        return wave;
    }
    const char *forward() {
        m.poison(), g.poison();
        cuda_expert_activation op = {view(), limits, spec->ffn, LAYER, u, zh, gates, m, g};
        const char *problem = cuda_launch_expert_activation(&op, nullptr);
        if (!problem) problem = device_finish();
        m.get(), g.get();
        return problem;
    }
    const char *backward() {
        du.poison(), p.poison(), gradients.poison(), workspace.poison();
        dw.host = dw_before;
        dw.put();
        cuda_expert_activation_backward op = {view(), limits, spec->ffn, LAYER, u, zh, gates, dm, q, du, p, dw, workspace.device};
        const char *problem = cuda_launch_expert_activation_backward(&op, nullptr);
        if (!problem) problem = device_finish();
        du.get(), p.get(), gradients.get(), dw.get();
        return problem;
    }
};

/* ---- The same by the oracle */

/* Columns [first, first + count) of a device's rows, as doubles. */
static std::vector<double> take(const rows &from, const cuda_device &device, int64_t first, int64_t count) {
    std::vector<double> out;
    for (int64_t t = device.first_token; t < device.first_token + device.n_tokens; t++) {
        for (int64_t c = first; c < first + count; c++) out.push_back(from.host[(size_t)(t * from.columns + c)]);
    }
    return out;
}

struct reference {
    const ck_shape *shape;
    int64_t n;
    std::vector<double> pack, gradients, u, zh, gates, m, g, dm, q, du, p, dw;
    oracle_adapter adapter;

    reference(const test_wave &wave, const cuda_device &device) : shape(&wave.shapes[(size_t)device.shape]), n(device.n_tokens) {
        const float *pack_at = wave.parameters.host.data() + device.parameters;
        size_t wide = (size_t)n * (size_t)shape->ffn, ranks = (size_t)n * (size_t)shape->rank_sum;
        pack.assign(pack_at, pack_at + shape->total);
        gradients.assign((size_t)shape->total, 0);
        u = take(wave.u, device, 0, shape->ffn);
        zh = take(wave.zh, device, 0, shape->router_rows + shape->rank_sum);
        gates = take(wave.gates, device, 0, CK_MAX_EXPERTS);
        dm = take(wave.dm, device, 0, shape->ffn);
        q = take(wave.q, device, 0, shape->rank_sum);
        m.resize(wide), du.resize(wide), g.resize(ranks), p.resize(ranks);
        for (int64_t i = 0; i < n * CK_MAX_EXPERTS; i++) dw.push_back(wave.dw_before[(size_t)(device.first_token * CK_MAX_EXPERTS + i)]);
        adapter = oracle_adapter{shape, LAYER, pack.data(), gradients.data()};
        int ld = shape->router_rows + shape->rank_sum;
        oracle_expert_activation(&adapter, n, u.data(), zh.data(), ld, gates.data(), m.data(), g.data(), shape->rank_sum);
        oracle_expert_activation_backward(&adapter, n, u.data(), zh.data(), ld, gates.data(), dm.data(), q.data(), shape->rank_sum,
                                          du.data(), p.data(), dw.data());
    }

    /* Experts that a token did not choose: g and p are 0 here, and dw is what it was; the oracle computes them all the same. */
    void forget_unchosen(const float *dw_before) {
        for (int64_t t = 0; t < n; t++) {
            for (int e = 0; e < CK_MAX_EXPERTS; e++) {
                if (gates[(size_t)(t * CK_MAX_EXPERTS + e)] != 0) continue;
                dw[(size_t)(t * CK_MAX_EXPERTS + e)] = dw_before[t * CK_MAX_EXPERTS + e];
                for (int j = shape->rank_first[e]; e < shape->n_experts && j < shape->rank_first[e + 1]; j++)
                    g[(size_t)(t * shape->rank_sum + j)] = p[(size_t)(t * shape->rank_sum + j)] = 0;
            }
        }
    }
};

static void compare(check *c, const test_wave &wave, int d, const char *tensor, const rows &out, int64_t columns,
                    const std::vector<double> &expected) {
    char where[128];
    std::vector<float> got;
    for (double v : take(out, wave.devices[(size_t)d], 0, columns)) got.push_back((float)v);
    snprintf(where, sizeof where, "wave %s, device %d, %s", wave.spec->name, d, tensor);
    check_near(c, where, got.data(), expected.data(), (int64_t)got.size(), TOLERANCE);
}

static bool untouched(const float *values, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        if (bits != 0xffffffffu) return false;
    }
    return true;
}

/* dB1 and dA2 where experts learn; not a float written elsewhere in the pack. */
static void compare_gradients(check *c, const test_wave &wave, int d, const reference &expected) {
    const cuda_device &device = wave.devices[(size_t)d];
    const ck_shape *shape = expected.shape;
    const float *pack = wave.gradients.host.data() + device.gradients;
    int64_t at = 0;
    for (oracle_part part : {ORACLE_B1, ORACLE_A2}) {
        oracle_range range = oracle_part_range(shape, LAYER, part);
        char where[128];
        snprintf(where, sizeof where, "wave %s, device %d, d%s", wave.spec->name, d, oracle_part_name(part));
        if (!(device.learn & CK_LEARN_EXPERTS)) continue;
        check_near(c, where, pack + range.offset, expected.gradients.data() + range.offset, range.count, TOLERANCE);
        if (!untouched(pack + at, range.offset - at)) check_fail(c, "%s: floats before it were written", where);
        at = range.offset + range.count;
    }
    if (!untouched(pack + at, shape->total - at)) check_fail(c, "wave %s, device %d: floats of others were written", wave.spec->name, d);
}

static void compare_forward(check *c, const test_wave &wave) {
    for (int d = 0; d < wave.spec->n_devices; d++) {
        const cuda_device &device = wave.devices[(size_t)d];
        reference expected(wave, device);
        expected.forget_unchosen(&wave.dw_before[(size_t)device.first_token * CK_MAX_EXPERTS]);
        compare(c, wave, d, "m", wave.m, wave.spec->ffn, expected.m);
        compare(c, wave, d, "g", wave.g, expected.shape->rank_sum, expected.g);
    }
}

static void compare_backward(check *c, const test_wave &wave) {
    for (int d = 0; d < wave.spec->n_devices; d++) {
        const cuda_device &device = wave.devices[(size_t)d];
        reference expected(wave, device);
        expected.forget_unchosen(&wave.dw_before[(size_t)device.first_token * CK_MAX_EXPERTS]);
        compare(c, wave, d, "du", wave.du, wave.spec->ffn, expected.du);
        compare(c, wave, d, "p", wave.p, expected.shape->rank_sum, expected.p);
        compare(c, wave, d, "dw", wave.dw, CK_MAX_EXPERTS, expected.dw);
        compare_gradients(c, wave, d, expected);
    }
}

/* ---- Tests */

static void expect(const check *c, const char *problem) {
    TAP_CHECK(!problem, "%s", problem);
    TAP_CHECK(c->failures == 0, "%s", c->message);
    TAP_CHECK(problem || c->comparisons > 0, "nothing was compared");
}

static void forward_equals_the_oracle() {
    check c = {};
    const char *problem = nullptr;
    for (int i = 0; i < n_wave_specs && !problem; i++) {
        test_wave wave(&wave_specs[i], 0);
        problem = wave.forward();
        if (!problem) compare_forward(&c, wave);
    }
    expect(&c, problem);
}

static void backward_equals_the_oracle() {
    check c = {};
    const char *problem = nullptr;
    for (int i = 0; i < n_wave_specs && !problem; i++) {
        test_wave wave(&wave_specs[i], 0);
        problem = wave.backward();
        if (!problem) compare_backward(&c, wave);
    }
    expect(&c, problem);
}

static const wave_spec numbers_of_tokens = {"numbers of tokens",
                                            8,
                                            40,
                                            1,
                                            8,
                                            {{SHAPE_PAIR_TOP1, {1}},
                                             {SHAPE_PAIR_BOTH, {31}},
                                             {SHAPE_LINEAR, {33}},
                                             {SHAPE_RAGGED, {128}},
                                             {SHAPE_MANY, {15}},
                                             {SHAPE_MANY, {16}},
                                             {SHAPE_MANY, {17}},
                                             {SHAPE_SINGLE, {128, 1}}}};

/* More than one block over F (256 columns each), and a last one that is not full. */
static const wave_spec blocks_over_columns = {
    "blocks over columns", 8, 530, 1, 3, {{SHAPE_PAIR_BOTH, {18}}, {SHAPE_LINEAR_TOP1, {5}}, {SHAPE_RAGGED, {33}}}};

/* Rows that begin at odd offsets: no pair is one load. */
static void both_ways(const wave_spec *spec, int padding) {
    check c = {};
    test_wave wave(spec, padding);
    const char *problem = wave.forward();
    if (!problem) compare_forward(&c, wave);
    if (!problem) problem = wave.backward();
    if (!problem) compare_backward(&c, wave);
    expect(&c, problem);
}

static void every_number_of_tokens() {
    both_ways(&numbers_of_tokens, 0);
}

static void several_blocks_over_columns() {
    both_ways(&blocks_over_columns, 0);
}

static void odd_offsets() {
    both_ways(&numbers_of_tokens, 1);
    both_ways(&blocks_over_columns, 3);
    wave_spec odd = numbers_of_tokens;
    odd.ffn = 43;
    both_ways(&odd, 1);
}

static std::vector<float> results(test_wave *wave) {
    std::vector<float> all;
    const char *problem = wave->forward();
    if (!problem) problem = wave->backward();
    TAP_CHECK(!problem, "%s", problem);
    for (const floats *out : {(const floats *)&wave->m, (const floats *)&wave->g, (const floats *)&wave->du, (const floats *)&wave->p,
                              (const floats *)&wave->dw, (const floats *)&wave->gradients})
        all.insert(all.end(), out->host.begin(), out->host.end());
    return all;
}

static void same_bits_in_any_order_of_lanes() {
    for (const wave_spec *spec : {&numbers_of_tokens, &blocks_over_columns}) {
        test_wave wave(spec, 0);
        std::vector<float> first = results(&wave);
        for (uint64_t seed = 2; seed <= 6; seed++) {
            device_order(seed);
            std::vector<float> again = results(&wave);
            TAP_CHECK(memcmp(first.data(), again.data(), first.size() * sizeof(float)) == 0, "wave %s: seed %d gave other bits", spec->name,
                      (int)seed);
        }
        device_order(1);
    }
}

/* A check that cannot fail is not a check: another expert's gates must be told from the right ones. */
static void a_wrong_routing_is_noticed() {
    check c = {};
    test_wave wave(&numbers_of_tokens, 0);
    float *row = wave.gates.host.data() + wave.devices[1].first_token * CK_MAX_EXPERTS, kept = row[0];
    row[0] = row[1], row[1] = kept;
    wave.gates.put();
    const char *problem = wave.forward();
    row[1] = row[0], row[0] = kept;
    TAP_CHECK(!problem, "%s", problem);
    compare_forward(&c, wave);
    TAP_CHECK(c.failures == 1 || c.failures == 2, "one token with swapped gates: %d comparisons failed", c.failures);
}

#define TEST(name)                                                                                                                         \
    { #name, name }
static const tap_test tests[] = {
    TEST(forward_equals_the_oracle),
    TEST(backward_equals_the_oracle),
    TEST(every_number_of_tokens),
    TEST(several_blocks_over_columns),
    TEST(odd_offsets),
    TEST(same_bits_in_any_order_of_lanes),
    TEST(a_wrong_routing_is_noticed),
};

int main(int argc, char **argv) {
    return tap_main(argc, argv, "cuda_expert_activation", tests, (int)(sizeof tests / sizeof *tests));
}

/* The CUDA expert activation, forward and backward, of GELU and of SwiGLU, against the float64 oracle on both
 * sides of its borders: dense and gathered segments, fragments and segments that are full or not, rows that
 * allow wide accesses or not, few ranks and many; and bit for bit against itself: on the CPU in other orders
 * of lanes and blocks, on a GPU (compiled by nvcc) in a second run. */
#include <string>

#include "tap.hpp"
#include "typed.hpp"

enum { LAYER = 1, SPARE_TILES = 3 };

/* What the table of shapes has not: linear mixes of any, a first expert of a rank of its own (0: as it is).
 */
typedef struct {
    bool linear;
    int rank;
} variant;

static std::vector<ck_shape> shapes_of(const wave_spec *spec, variant other) {
    std::vector<ck_shape> shapes;
    for (int d = 0; d < spec->n_devices; d++) {
        shapes.push_back(wave_shape(spec->devices[d].shape, spec->width, spec->ffn, WAVE_LAYERS, spec->mlp));
        ck_shape *shape = &shapes.back();
        const char *why;
        if (other.linear) shape->mix = CK_MIX_LINEAR;
        if (other.rank > 0) shape->rank[0] = other.rank;
        if (ck_shape_init(shape, &why) != CK_OK) abort();
    }
    return shapes;
}

/* Packs lie one behind the other. */
static std::vector<ck_wave_device> devices_of(const wave_spec *spec, const std::vector<ck_shape> &shapes) {
    const uint32_t turns[3] = {CK_LEARN_EXPERTS | CK_LEARN_ROUTER, CK_LEARN_EXPERTS, CK_LEARN_ROUTER};
    std::vector<ck_wave_device> devices;
    int64_t offset = 0;
    for (int d = 0; d < spec->n_devices; d++) {
        devices.push_back(ck_wave_device{offset, offset, d, turns[d % 3], 0, {}});
        offset += shapes[(size_t)d].total;
    }
    return devices;
}

/* One sequence a device. */
static std::vector<int64_t> first_tokens(const wave_spec *spec) {
    std::vector<int64_t> first = {0};
    for (int d = 0; d < spec->n_devices; d++) first.push_back(first.back() + spec->devices[d].lengths[0]);
    return first;
}

static ck_wave host_wave(const std::vector<ck_shape> &shapes, const std::vector<ck_wave_device> &devices,
                         const std::vector<int64_t> &first_token,
                         const std::vector<int32_t> &first_sequence) {
    ck_wave wave = {};
    wave.n_devices = wave.n_sequences = (int32_t)devices.size();
    wave.first_token = first_token.data();
    wave.first_sequence = first_sequence.data();
    wave.devices = devices.data();
    wave.shapes = shapes.data();
    wave.n_shapes = (int32_t)shapes.size();
    return wave;
}

static std::vector<int32_t> counting(int n) {
    std::vector<int32_t> numbers;
    for (int i = 0; i <= n; i++) numbers.push_back(i);
    return numbers;
}

template <typename T> struct expert_wave {
    const wave_spec *spec;
    std::vector<ck_shape> shapes;
    std::vector<ck_wave_device> packs;
    std::vector<int64_t> first_token;
    std::vector<int32_t> first_sequence;
    ck_wave wave;
    std::vector<cuda_device> devices;
    std::string name;
    int64_t n_tokens;
    int u_columns;
    cuda_wave_limits limits;
    device_buffer<cuda_device> device_table;
    device_buffer<cuda_tile> tile_table;
    device_buffer<ck_shape> shape_table;
    device_buffer<float> parameters, gradients;
    activation<T> u, m, dm, du;
    activation<float> zh, gates, g, q, p, dw;
    std::vector<double> dw_before;

    std::vector<cuda_device> list_devices() {
        std::vector<cuda_device> list(packs.size());
        cuda_list_devices(&wave, list.data());
        return list;
    }
    expert_wave(const wave_spec *s, int padding, variant other)
        : spec(s), shapes(shapes_of(s, other)), packs(devices_of(s, shapes)), first_token(first_tokens(s)),
          first_sequence(counting(s->n_devices)), wave(host_wave(shapes, packs, first_token, first_sequence)),
          devices(list_devices()),
          name(std::string("wave ") + s->name + (s->mlp == CK_MLP_SWIGLU ? " (SwiGLU)" : "")),
          n_tokens(first_token.back()), u_columns(s->mlp == CK_MLP_SWIGLU ? 2 * s->ffn : s->ffn),
          limits(cuda_limits_of(&wave)), device_table((int64_t)devices.size(), "devices"),
          tile_table(cuda_list_tiles(devices.data(), s->n_devices, nullptr) + SPARE_TILES, "tiles"),
          shape_table((int64_t)shapes.size(), "shapes"),
          parameters(packs.back().parameters + shapes.back().total, "parameters"),
          gradients(packs.back().parameters + shapes.back().total, "gradients"),
          u(nullptr, n_tokens, u_columns, padding, "u"), m(nullptr, n_tokens, s->ffn, padding, "m"),
          dm(nullptr, n_tokens, s->ffn, padding, "dm"), du(nullptr, n_tokens, u_columns, padding, "du"),
          zh(nullptr, n_tokens, limits.experts + limits.h_ranks, padding, "zh"),
          gates(nullptr, n_tokens, CK_MAX_EXPERTS, 0, "gates"),
          g(nullptr, n_tokens, limits.rank_sum, padding, "g"),
          q(nullptr, n_tokens, limits.rank_sum, padding, "q"),
          p(nullptr, n_tokens, limits.h_ranks, padding, "p"), dw(nullptr, n_tokens, CK_MAX_EXPERTS, 0, "dw") {
        uint64_t seed = 1;
        device_table.host = devices;
        shape_table.host = shapes;
        /* spare ones stay without rows */
        cuda_list_tiles(devices.data(), s->n_devices, tile_table.host.data());
        device_table.put(), shape_table.put(), tile_table.put();
        for (float &v : parameters.host) v = (float)wave_draw(&seed, 0.2);
        parameters.put();
        u.draw(2, 1), zh.draw(3, 1), dm.draw(4, 0.5), q.draw(5, 0.5), dw.draw(6, 0.5);
        dw_before = dw.take(0, n_tokens);
        set_gates();
    }

    /* From the logits in zh. */
    void set_gates() {
        for (const cuda_device &d : devices) {
            const ck_shape *shape = &shapes[(size_t)d.shape];
            for (int64_t t = d.first_token; t < d.first_token + d.n_tokens; t++) {
                double logits[CK_MAX_EXPERTS] = {0}, w[CK_MAX_EXPERTS];
                for (int e = 0; e < shape->router_rows; e++) logits[e] = (double)*zh.at(t, e);
                oracle_gates(shape, logits, w);
                for (int e = 0; e < CK_MAX_EXPERTS; e++) *gates.at(t, e) = (float)w[e];
            }
        }
        gates.put();
    }

    cuda_call call(void *workspace) {
        cuda_call c = {};
        c.wave.devices = device_table.device;
        c.wave.tiles = tile_table.device;
        c.wave.shapes = shape_table.device;
        c.wave.parameters = parameters.device;
        c.wave.gradients = gradients.device;
        c.wave.n_devices = (int32_t)devices.size();
        c.wave.n_tiles = (int32_t)tile_table.host.size();
        c.wave.n_tokens = (int32_t)n_tokens;
        c.limits = limits;
        c.half = sizeof(T) == sizeof(bf16);
        c.workspace = workspace;
        return c;
    }
    const char *forward() {
        m.poison(), g.poison();
        const ck_expert_activation d = {&u.tensor, &zh.tensor, &gates.tensor, &m.tensor,
                                        &g.tensor, spec->ffn,  LAYER,         spec->mlp};
        cuda_call c = call(nullptr);
        const char *problem = cuda_expert_activation(&d, &c);
        if (!problem) problem = device_finish();
        m.get(), g.get();
        return problem;
    }
    const char *backward() {
        du.poison(), p.poison(), gradients.poison();
        dw.set(0, dw_before);
        const ck_expert_activation_backward d = {&u.tensor, &zh.tensor, &gates.tensor, &dm.tensor,
                                                 &q.tensor, &du.tensor, &p.tensor,     &dw.tensor,
                                                 spec->ffn, LAYER,      spec->mlp};
        cuda_bounds bounds = {n_tokens,
                              (int32_t)devices.size(),
                              (int32_t)devices.size(),
                              (int32_t)tile_table.host.size(),
                              (int32_t)n_tokens,
                              sizeof(T) == sizeof(bf16)};
        device_buffer<float> workspace(
            (int64_t)(cuda_expert_activation_backward_workspace(&d, &bounds) / sizeof(float)), "workspace");
        workspace.poison();
        cuda_call c = call(workspace.device);
        const char *problem = cuda_expert_activation_backward(&d, &c);
        if (!problem) problem = device_finish();
        du.get(), p.get(), dw.get(), gradients.get();
        return problem;
    }
};

/* ---- The same by the oracle */

template <typename T> struct reference {
    const ck_shape *shape;
    int64_t n, first;
    std::vector<double> pack, gradients, m, g, du, p, dw;

    reference(expert_wave<T> *w, const cuda_device &device)
        : shape(&w->shapes[(size_t)device.shape]), n(device.n_tokens), first(device.first_token) {
        const float *at = w->parameters.host.data() + device.parameters;
        std::vector<double> u = w->u.take(first, n), zh = w->zh.take(first, n),
                            gates = w->gates.take(first, n), dm = w->dm.take(first, n),
                            q = w->q.take(first, n);
        pack.assign(at, at + shape->total);
        gradients.assign((size_t)shape->total, 0);
        m.resize((size_t)(n * shape->ffn)), du.resize((size_t)(n * w->u_columns));
        g.resize((size_t)n * (size_t)w->g.columns), p.resize((size_t)n * (size_t)w->p.columns);
        dw.assign(w->dw_before.begin() + first * CK_MAX_EXPERTS,
                  w->dw_before.begin() + (first + n) * CK_MAX_EXPERTS);
        oracle_adapter adapter = {shape, LAYER, pack.data(), gradients.data(), nullptr, nullptr};
        oracle_expert_activation(&adapter, n, u.data(), zh.data(), w->zh.columns, gates.data(), m.data(),
                                 g.data(), w->g.columns);
        oracle_expert_activation_backward(&adapter, n, u.data(), zh.data(), w->zh.columns, gates.data(),
                                          dm.data(), q.data(), w->q.columns, du.data(), p.data(),
                                          w->p.columns, dw.data());
        forget_unchosen(gates.data(), w->g.columns, w->p.columns,
                        w->dw_before.data() + first * CK_MAX_EXPERTS);
    }

    /* Experts that a token did not choose: g and p are 0, and dw is what it was; the oracle computes them all
     * the same. */
    void forget_unchosen(const double *gates, int g_columns, int p_columns, const double *before) {
        for (int64_t t = 0; t < n; t++) {
            for (int e = 0; e < shape->n_experts; e++) {
                if (gates[t * CK_MAX_EXPERTS + e] != 0) continue;
                dw[(size_t)(t * CK_MAX_EXPERTS + e)] = before[t * CK_MAX_EXPERTS + e];
                for (int j = shape->rank_first[e]; j < shape->rank_first[e + 1]; j++) {
                    g[(size_t)(t * g_columns + j)] = 0;
                    for (int i = j; i < shape->h_ranks; i += shape->rank_sum)
                        p[(size_t)(t * p_columns + i)] = 0;
                }
            }
        }
    }
};

/* Columns of the device's own; others are not written. */
template <typename T>
static void compare(verdict *c, expert_wave<T> *w, const char *tensor, const cuda_device &device,
                    std::vector<double> got, const std::vector<double> &expected, int columns, int valid) {
    std::string where = w->name + ", device " + std::to_string(device.shape) + ", " + tensor;
    std::vector<float> out;
    std::vector<double> ref;
    for (size_t i = 0; i < got.size(); i++) {
        if ((int)(i % (size_t)columns) < valid) out.push_back((float)got[i]), ref.push_back(expected[i]);
        if ((int)(i % (size_t)columns) >= valid && !std::isnan(got[i]))
            verdict_fail(c, "%s: columns of others were written", where.c_str());
    }
    verdict_near(c, where.c_str(), out.data(), ref.data(), (int64_t)out.size(), tolerance_of<T>());
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
template <typename T>
static void compare_gradients(verdict *c, expert_wave<T> *w, const cuda_device &device,
                              const reference<T> &expected) {
    const float *pack = w->gradients.host.data() + device.gradients;
    int64_t at = 0;
    for (oracle_part part : {ORACLE_B1, ORACLE_A2}) {
        if (!(device.learn & CK_LEARN_EXPERTS)) continue;
        oracle_range range = oracle_part_range(expected.shape, LAYER, part);
        std::string where =
            w->name + ", device " + std::to_string(device.shape) + ", d" + oracle_part_name(part);
        verdict_near(c, where.c_str(), pack + range.offset, expected.gradients.data() + range.offset,
                     range.count, tolerance_of<T>());
        if (!untouched(pack + at, range.offset - at))
            verdict_fail(c, "%s: floats before it were written", where.c_str());
        at = range.offset + range.count;
    }
    if (!untouched(pack + at, expected.shape->total - at))
        verdict_fail(c, "%s, device %d: floats of others were written", w->name.c_str(), device.shape);
}

template <typename T> static void compare_all(verdict *c, expert_wave<T> *w) {
    for (const cuda_device &device : w->devices) {
        reference<T> expected(w, device);
        int ranks = expected.shape->rank_sum, ffn = w->spec->ffn, u_columns = w->u_columns;
        compare(c, w, "m", device, w->m.take(device.first_token, device.n_tokens), expected.m, ffn, ffn);
        compare(c, w, "g", device, w->g.take(device.first_token, device.n_tokens), expected.g, w->g.columns,
                ranks);
        compare(c, w, "du", device, w->du.take(device.first_token, device.n_tokens), expected.du, u_columns,
                u_columns);
        compare(c, w, "p", device, w->p.take(device.first_token, device.n_tokens), expected.p, w->p.columns,
                expected.shape->h_ranks);
        compare(c, w, "dw", device, w->dw.take(device.first_token, device.n_tokens), expected.dw,
                CK_MAX_EXPERTS, CK_MAX_EXPERTS);
        compare_gradients(c, w, device, expected);
    }
    if (w->m.padding_written() || w->g.padding_written() || w->du.padding_written() || w->p.padding_written())
        verdict_fail(c, "%s: padding was written", w->name.c_str());
}

/* ---- Tests */

/* A fragment has 16 tokens, a segment up to 128; E >= 2 K is gathered from 17 tokens on. */
static const wave_spec borders = {"borders",
                                  8,
                                  40,
                                  1,
                                  12,
                                  {{SHAPE_MANY, {16}},
                                   {SHAPE_MANY, {17}},
                                   {SHAPE_PAIR_TOP1, {16}},
                                   {SHAPE_PAIR_TOP1, {129}},
                                   {SHAPE_PAIR_TOP1, {1}},
                                   {SHAPE_RAGGED, {128}},
                                   {SHAPE_LINEAR_TOP1, {33}},
                                   {SHAPE_LINEAR, {15}},
                                   {SHAPE_MANY, {127}},
                                   {SHAPE_MANY_ALL, {18}},
                                   {SHAPE_LINEAR_MEAN, {2}},
                                   {SHAPE_SINGLE, {31}}},
                                  CK_MLP_GELU};
/* More ranks than a block has room for the sums of, so that experts are worked on in groups; gathered and
 * dense; blocks over F, the last not full. */
static const wave_spec many_ranks = {
    "many ranks", 8, 72, 1, 3, {{SHAPE_LIMIT, {20}}, {SHAPE_LIMIT, {3}}, {SHAPE_HEAVY, {18}}}, CK_MLP_GELU};
static const wave_spec few_ranks = {
    "few ranks", 8, 424, 1, 3, {{SHAPE_PAIR_BOTH, {34}}, {SHAPE_PAIR_TOP1, {40}}, {SHAPE_LINEAR_MEAN, {5}}},
    CK_MLP_GELU};
/* One device alone is split over blocks. */
static const wave_spec one_device = {"one device", 8, 64, 1, 1, {{SHAPE_PAIR_TOP1, {300}}}, CK_MLP_GELU};
static const wave_spec odd = {
    "odd rows", 8,
    43,         1,
    4,          {{SHAPE_MANY, {33}}, {SHAPE_PAIR_BOTH, {17}}, {SHAPE_LINEAR, {9}}, {SHAPE_PAIR_TOP1, {20}}},
    CK_MLP_GELU};

static wave_spec with_swiglu(wave_spec spec) {
    spec.mlp = CK_MLP_SWIGLU;
    return spec;
}

static wave_spec of_one_shape(int shape, ck_mlp mlp) {
    wave_spec spec = {"one shape", 8, 136, 1, 1, {{shape, {33}}}, mlp};
    return spec;
}

template <typename T> static void both_ways(const wave_spec *spec, int padding, variant other = {false, 0}) {
    verdict c = {};
    expert_wave<T> wave(spec, padding, other);
    const char *problem = wave.forward();
    if (!problem) problem = wave.backward();
    if (!problem) compare_all(&c, &wave);
    TAP_CHECK(!problem, "%s", problem);
    TAP_CHECK(c.failures == 0, "%s", c.message);
    TAP_CHECK(problem || c.comparisons > 0, "nothing was compared");
}

static void f32_equals_the_oracle() {
    for (const wave_spec *spec : {&borders, &many_ranks, &few_ranks, &one_device}) both_ways<float>(spec, 0);
}

static void bf16_equals_the_oracle() {
    for (const wave_spec *spec : {&borders, &many_ranks, &few_ranks, &one_device}) both_ways<bf16>(spec, 0);
}

template <typename T> static void swiglu_equals_the_oracle() {
    for (const wave_spec *spec : {&borders, &many_ranks, &few_ranks, &one_device}) {
        wave_spec swiglu = with_swiglu(*spec);
        both_ways<T>(&swiglu, 0);
    }
    for (int shape : {SHAPE_PAIR_BOTH, SHAPE_RAGGED, SHAPE_ALL, SHAPE_EIGHT, SHAPE_HEAVY, SHAPE_LIMIT}) {
        wave_spec spec = of_one_shape(shape, CK_MLP_SWIGLU);
        both_ways<T>(&spec, 0);
    }
}

static void swiglu_equals_the_oracle_in_f32() {
    swiglu_equals_the_oracle<float>();
}

static void swiglu_equals_the_oracle_in_bf16() {
    swiglu_equals_the_oracle<bf16>();
}

/* Groups of experts where all of them make one activation. */
static void linear_mixes_of_many_ranks() {
    for (ck_mlp mlp : {CK_MLP_GELU, CK_MLP_SWIGLU}) {
        for (int shape : {SHAPE_HEAVY, SHAPE_LIMIT}) {
            wave_spec spec = of_one_shape(shape, mlp);
            both_ways<float>(&spec, 0, {true, 0});
            both_ways<bf16>(&spec, 0, {true, 0});
        }
    }
}

/* As many columns a block as there is room for the sums of one expert: 128 to 16. */
static void an_expert_of_many_ranks() {
    const struct {
        ck_mlp mlp;
        int rank;
    } forms[] = {{CK_MLP_GELU, 100},   {CK_MLP_GELU, 150},   {CK_MLP_GELU, 300},  {CK_MLP_GELU, 500},
                 {CK_MLP_SWIGLU, 100}, {CK_MLP_SWIGLU, 200}, {CK_MLP_SWIGLU, 248}};
    for (const auto &form : forms) {
        wave_spec spec = of_one_shape(SHAPE_PAIR_BOTH, form.mlp);
        both_ways<float>(&spec, 0, {false, form.rank});
        both_ways<bf16>(&spec, 0, {form.rank == 150 || form.rank == 200, form.rank});
    }
    wave_spec narrow = odd;
    both_ways<float>(&narrow, 1, {false, 300});
    both_ways<bf16>(&narrow, 1, {false, 300});
    narrow.mlp = CK_MLP_SWIGLU;
    both_ways<float>(&narrow, 1, {false, 150});
    both_ways<bf16>(&narrow, 1, {false, 150});
}

static void rows_that_are_not_wide() {
    both_ways<float>(&odd, 1);
    both_ways<bf16>(&odd, 1);
    both_ways<bf16>(&borders, 3);
    const wave_spec swiglu_odd = with_swiglu(odd), swiglu_borders = with_swiglu(borders);
    both_ways<float>(&swiglu_odd, 1);
    both_ways<bf16>(&swiglu_odd, 1);
    both_ways<bf16>(&swiglu_borders, 3);
}

template <typename T> static std::vector<double> results(expert_wave<T> *w) {
    const char *problem = w->forward();
    if (!problem) problem = w->backward();
    TAP_CHECK(!problem, "%s", problem);
    std::vector<double> all;
    for (activation<T> *out : {&w->m, &w->du})
        for (double v : out->take(0, w->n_tokens)) all.push_back(v);
    for (activation<float> *out : {&w->g, &w->p, &w->dw})
        for (double v : out->take(0, w->n_tokens)) all.push_back(v);
    for (float v : w->gradients.host) all.push_back((double)v);
    return all;
}

template <typename T> static void same_bits(const wave_spec *spec) {
    expert_wave<T> wave(spec, 0, {false, 0});
    std::vector<double> first = results(&wave);
    for (uint64_t seed = 2; seed <= 3; seed++) {
        device_order(seed);
        std::vector<double> again = results(&wave);
        TAP_CHECK(memcmp(first.data(), again.data(), first.size() * sizeof(double)) == 0,
                  "%s: order %d gave other bits", wave.name.c_str(), (int)seed);
    }
    device_order(1);
}

static void same_bits_in_any_order_of_lanes() {
    same_bits<float>(&odd);
    same_bits<bf16>(&one_device);
    const wave_spec swiglu_odd = with_swiglu(odd), swiglu_device = with_swiglu(one_device);
    same_bits<float>(&swiglu_odd);
    same_bits<bf16>(&swiglu_device);
    same_bits<bf16>(&many_ranks);
}

#define TEST(name)                                                                                           \
    { #name, name }
static const tap_test tests[] = {
    TEST(f32_equals_the_oracle),           TEST(bf16_equals_the_oracle),
    TEST(swiglu_equals_the_oracle_in_f32), TEST(swiglu_equals_the_oracle_in_bf16),
    TEST(linear_mixes_of_many_ranks),      TEST(an_expert_of_many_ranks),
    TEST(rows_that_are_not_wide),          TEST(same_bits_in_any_order_of_lanes),
};

int main(int argc, char **argv) {
    return tap_main(argc, argv, "cuda_expert_activation", tests, (int)(sizeof tests / sizeof *tests));
}

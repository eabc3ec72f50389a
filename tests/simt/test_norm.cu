/* The CUDA LayerNorm and RMSNorm against the float64 oracle: widths on both sides of what a lane holds in
 * registers, rows that are walked, numbers of tokens on both sides of the slices of the weight gradients. */
#include <string>

#include "tap.hpp"
#include "typed.hpp"

typedef struct {
    int width, padding, n_tokens;
} norm_case;

static const norm_case cases[] = {
    {8, 0, 1},     {21, 0, 5},   {24, 3, 9},   {256, 0, 4},  {264, 8, 5},
    {512, 0, 3},   {520, 0, 3},  {768, 8, 6},  {776, 0, 3},  {1024, 0, 3},
    {1032, 16, 3}, {2048, 0, 2}, {2056, 0, 2}, {2304, 1, 2}, {2050, 0, 2},
};

/* Offsets in the base's gradient pack, with floats around that belong to others. */
enum { BIAS_AT = 5, GAP = 7 };

template <typename T> struct norm_wave {
    const norm_case *which;
    ck_norm_kind kind;
    ck_program program;
    activation<T> x, y, dy, dx;
    activation<float> stats;
    device_buffer<float> gain, bias, base_gradients;
    std::vector<double> dx_before;

    norm_wave(const norm_case *c, ck_norm_kind kind_)
        : which(c), kind(kind_), program(), x(&program, c->n_tokens, c->width, c->padding, "x"),
          y(&program, c->n_tokens, c->width, c->padding, "y"),
          dy(&program, c->n_tokens, c->width, c->padding, "dy"),
          dx(&program, c->n_tokens, c->width, c->padding, "dx"),
          stats(&program, c->n_tokens, 2, c->padding, "stats"), gain(c->width, "gain"),
          bias(c->width, "bias"), base_gradients(BIAS_AT + 2 * c->width + 2 * GAP, "base gradients") {
        uint64_t seed = 31;
        for (float &v : gain.host) v = (float)(1 + wave_draw(&seed, 0.3));
        for (float &v : bias.host) v = (float)wave_draw(&seed, 0.3);
        gain.put(), bias.put();
        x.draw(32, 1);
        dy.draw(33, 1);
        dx.draw(34, 1);
        dx_before = dx.take(0, c->n_tokens);
    }
    cuda_call call() const {
        cuda_call call = {};
        call.wave.n_tokens = which->n_tokens;
        call.half = sizeof(T) == 2;
        return call;
    }
    const char *forward() {
        cuda_call now = call();
        ck_norm op = {
            &x.tensor,    &y.tensor, &stats.tensor, gain.device, kind == CK_RMS_NORM ? nullptr : bias.device,
            which->width, 1e-5f,     kind};
        const char *problem = cuda_norm(&op, &now);
        if (!problem) problem = device_finish();
        y.get(), stats.get();
        return problem;
    }
    int gain_at() const {
        return BIAS_AT + which->width + GAP;
    }
    const char *backward(bool accumulate, bool trained) {
        cuda_call now = call();
        cuda_bounds bounds = {};
        ck_norm_backward op = {&x.tensor,
                               &stats.tensor,
                               &dy.tensor,
                               &dx.tensor,
                               gain.device,
                               which->width,
                               trained ? gain_at() : (int64_t)-1,
                               trained && kind == CK_LAYER_NORM ? BIAS_AT : -1,
                               accumulate,
                               kind};
        bounds.max_tokens = which->n_tokens;
        device_buffer<char> workspace((int64_t)cuda_norm_backward_workspace(&op, &bounds), "workspace");
        workspace.poison(), base_gradients.poison();
        dx.set(0, dx_before);
        now.workspace = workspace.device;
        now.base_gradients = base_gradients.device;
        const char *problem = cuda_norm_backward(&op, &now);
        if (!problem) problem = device_finish();
        dx.get(), base_gradients.get();
        return problem;
    }
    std::string name(const char *what) const {
        return std::string(kind == CK_RMS_NORM ? "RMS norm, " : "norm, ") +
               (sizeof(T) == 2 ? "bf16" : "f32") + ", width " + std::to_string(which->width) + ", " + what;
    }
    /* Leaves in stats what the oracle says, for the backward. */
    void compare_forward(verdict *c) {
        int64_t n = which->n_tokens;
        std::vector<double> in = x.take(0, n), out(in.size()), rows((size_t)n * 2),
                            g(gain.host.begin(), gain.host.end()), b(bias.host.begin(), bias.host.end());
        oracle_norm_size size = {n, which->width, (double)1e-5f};
        if (kind == CK_RMS_NORM)
            oracle_rms_norm(size, in.data(), g.data(), out.data(), rows.data());
        else
            oracle_norm(size, in.data(), g.data(), b.data(), out.data(), rows.data());
        compare_rows(c, name("y").c_str(), &y, 0, n, out, tolerance_of<T>());
        compare_rows(c, name("stats").c_str(), &stats, 0, n, rows, 1e-5);
        stats.set(0, rows);
    }
    void compare_backward(verdict *c, bool accumulate, bool trained) {
        int64_t n = which->n_tokens;
        size_t width = (size_t)which->width;
        std::vector<double> in = x.take(0, n), gradient = dy.take(0, n),
                            g(gain.host.begin(), gain.host.end()), dgain(width), dbias(width),
                            out = accumulate ? dx_before : std::vector<double>(in.size());
        oracle_norm_size size = {n, which->width, (double)1e-5f};
        if (kind == CK_RMS_NORM)
            oracle_rms_norm_backward(size, in.data(), g.data(), gradient.data(), out.data(), dgain.data());
        else
            oracle_norm_backward(size, in.data(), g.data(), gradient.data(), out.data(), dgain.data(),
                                 dbias.data());
        compare_rows(c, name("dx").c_str(), &dx, 0, n, out, tolerance_of<T>());
        if (!trained) return;
        verdict_near(c, name("dgain").c_str(), &base_gradients.host[(size_t)gain_at()], dgain.data(),
                     which->width, 1e-5);
        if (kind == CK_RMS_NORM) return;
        verdict_near(c, name("dbias").c_str(), &base_gradients.host[BIAS_AT], dbias.data(), which->width,
                     1e-5);
    }
    /* Floats of the base's gradients outside what the norm has are as they were. */
    bool others_written() {
        for (size_t i = 0; i < base_gradients.host.size(); i++) {
            int at = (int)i;
            bool own = (kind == CK_LAYER_NORM && at >= BIAS_AT && at < BIAS_AT + which->width) ||
                       (at >= gain_at() && at < gain_at() + which->width);
            if (!own && !isnan(base_gradients.host[i])) return true;
        }
        return false;
    }
};

static void expect(const verdict *c, const char *problem) {
    TAP_CHECK(!problem, "%s", problem);
    TAP_CHECK(c->failures == 0, "%s", c->message);
    TAP_CHECK(problem || c->comparisons > 0, "nothing was compared");
}

template <typename T> static void compare_kind(const norm_case *which, ck_norm_kind kind, bool trained) {
    verdict c = {};
    norm_wave<T> wave(which, kind);
    const char *problem = wave.forward();
    TAP_CHECK(!wave.y.padding_written() && !wave.stats.padding_written(), "width %d: padding was written",
              which->width);
    wave.compare_forward(&c);
    for (int accumulate = 0; accumulate < 2 && !problem; accumulate++) {
        problem = wave.backward(accumulate != 0, trained);
        if (!problem) wave.compare_backward(&c, accumulate != 0, trained);
        TAP_CHECK(!wave.dx.padding_written(), "width %d: padding of dx was written", which->width);
        TAP_CHECK(!wave.others_written(), "width %d: gradients of others were written", which->width);
    }
    expect(&c, problem);
}

template <typename T> static void compare_case(const norm_case *which, bool trained) {
    compare_kind<T>(which, CK_LAYER_NORM, trained);
    compare_kind<T>(which, CK_RMS_NORM, trained);
}

static void equals_the_oracle_in_f32() {
    for (const norm_case &which : cases) compare_case<float>(&which, true);
}

static void equals_the_oracle_in_bf16() {
    for (const norm_case &which : cases) compare_case<bf16>(&which, false);
}

/* One slice of 256 tokens, its neighbours, and as many slices as there may be, which then grow. */
static void every_number_of_slices() {
    for (int n : {255, 256, 257, 1030, 64 * 256 + 1}) {
        norm_case which = {8, 0, n};
        compare_case<float>(&which, true);
    }
}

static void same_bits_in_any_order_of_lanes() {
    norm_case which = {264, 0, 300};
    norm_wave<float> wave(&which, CK_LAYER_NORM);
    const char *problem = wave.forward();
    if (!problem) problem = wave.backward(true, true);
    std::vector<float> dx = wave.dx.host, y = wave.y.host, gradients = wave.base_gradients.host;
    for (uint64_t seed = 2; seed <= 4 && !problem; seed++) {
        device_order(seed);
        problem = wave.forward();
        if (!problem) problem = wave.backward(true, true);
        bool same =
            memcmp(y.data(), wave.y.host.data(), wave.y.bytes()) == 0 &&
            memcmp(dx.data(), wave.dx.host.data(), wave.dx.bytes()) == 0 &&
            memcmp(gradients.data(), wave.base_gradients.host.data(), wave.base_gradients.bytes()) == 0;
        TAP_CHECK(same, "order %d gave other bits", (int)seed);
    }
    device_order(1);
    TAP_CHECK(!problem, "%s", problem);
}

#define TEST(name)                                                                                           \
    { #name, name }
static const tap_test tests[] = {
    TEST(equals_the_oracle_in_f32),
    TEST(equals_the_oracle_in_bf16),
    TEST(every_number_of_slices),
    TEST(same_bits_in_any_order_of_lanes),
};

int main(int argc, char **argv) {
    return tap_main(argc, argv, "cuda_norm", tests, (int)(sizeof tests / sizeof *tests));
}

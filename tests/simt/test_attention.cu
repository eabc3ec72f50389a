/* The CUDA attention against the float64 oracle: heads of every width that a kernel is made for and others,
 * sequences on both sides of every tile, in f32 and bf16, in rows that allow wide accesses and in rows that
 * do not. */
#include <string>

#include "tap.hpp"
#include "typed.hpp"

typedef struct {
    /* capacity: longest sequence that the program allows; 0: the longest one */
    int dim, heads, padding, capacity;
    std::vector<int> lengths;
    int kv_heads = 0; /* 0: as many as heads */

    int keys() const {
        return kv_heads > 0 ? kv_heads : heads;
    }
    int qkv_columns() const {
        return (heads + 2 * keys()) * dim;
    }
    oracle_attention_size size(int64_t n) const {
        return oracle_attention_size{n, heads, keys(), dim};
    }
} attention_case;

/* Up to 128 tokens, or what shared memory holds, the backward has a kernel of its own. */
static const attention_case cases[] = {
    {7, 3, 0, 0, {1, 2, 17, 33}},
    {7, 2, 1, 0, {64, 129}},
    {8, 3, 0, 0, {2, 16, 1}},
    {16, 2, 8, 0, {16, 15, 1, 128, 127}},
    {32, 1, 0, 0, {129, 64, 65, 63, 1}},
    {32, 1, 0, 0, {33, 2}},
    {40, 2, 0, 0, {33, 70}},
    {40, 1, 0, 150, {33, 70}},
    {64, 2, 8, 0, {31, 112}},
    {64, 1, 0, 113, {113}},
    {64, 1, 0, 0, {1, 48, 193}},
    {64, 1, 3, 0, {20, 150}},
    {128, 1, 0, 0, {48, 7}},
    {128, 1, 0, 0, {49}},
    {128, 1, 8, 0, {1, 65, 130}},
    {16, 1, 0, 300, {5}},
    {7, 4, 1, 0, {1, 33, 20}, 2},
    {8, 6, 8, 0, {16, 2, 65}, 2},
    {16, 4, 0, 0, {129, 64, 65, 1}, 1},
    {40, 3, 0, 150, {33, 70}, 1},
    {64, 4, 0, 0, {31, 48}, 2},
    {64, 4, 8, 0, {20, 150}, 1},
    {128, 2, 0, 0, {48, 7}, 1},
};

template <typename T> struct attention_wave {
    const attention_case *which;
    ck_program program;
    int64_t n_tokens;
    std::vector<cuda_sequence> sequences;
    device_buffer<cuda_sequence> table;
    activation<T> qkv, o, d_o, dqkv;
    activation<float> lse;

    static int64_t tokens_of(const attention_case *c) {
        int64_t n = 0;
        for (int length : c->lengths) n += length;
        return n;
    }
    explicit attention_wave(const attention_case *c)
        : which(c), program(), n_tokens(tokens_of(c)), table((int64_t)c->lengths.size(), "sequences"),
          qkv(&program, n_tokens, c->qkv_columns(), c->padding, "qkv"),
          o(&program, n_tokens, c->heads * c->dim, c->padding, "o"),
          d_o(&program, n_tokens, c->heads * c->dim, c->padding, "do"),
          dqkv(&program, n_tokens, c->qkv_columns(), c->padding, "dqkv"),
          lse(&program, n_tokens, c->heads, c->padding, "lse") {
        int64_t first = 0;
        program.capacity.max_sequence_tokens = c->capacity;
        for (int length : c->lengths) {
            sequences.push_back(cuda_sequence{first, length, -1, 0, 0, 0});
            if (length > program.capacity.max_sequence_tokens) program.capacity.max_sequence_tokens = length;
            first += length;
        }
        table.host = sequences;
        table.put();
        qkv.draw(11, 1);
        d_o.draw(12, 1);
    }
    cuda_call call() const {
        cuda_call call = {};
        call.wave.sequences = table.device;
        call.wave.n_sequences = (int32_t)sequences.size();
        call.wave.n_tokens = (int32_t)n_tokens;
        call.half = sizeof(T) == 2;
        return call;
    }
    const char *forward() {
        cuda_call now = call();
        ck_attention op = {&qkv.tensor, &o.tensor, &lse.tensor, which->heads, which->keys(), which->dim};
        o.poison(), lse.poison();
        const char *problem = cuda_attention(&op, &now);
        if (!problem) problem = device_finish();
        o.get(), lse.get();
        return problem;
    }
    /* From whatever o and lse hold. */
    const char *backward() {
        cuda_call now = call();
        cuda_bounds bounds = {};
        ck_attention_backward op = {&qkv.tensor,  &o.tensor,    &lse.tensor,   &d_o.tensor,
                                    &dqkv.tensor, which->heads, which->keys(), which->dim};
        bounds.max_tokens = n_tokens;
        bounds.max_sequence_tokens = program.capacity.max_sequence_tokens;
        bounds.half = now.half;
        device_buffer<char> workspace((int64_t)cuda_attention_backward_workspace(&op, &bounds), "workspace");
        workspace.poison(), dqkv.poison();
        now.workspace = workspace.device;
        const char *problem = cuda_attention_backward(&op, &now);
        if (!problem) problem = device_finish();
        dqkv.get();
        return problem;
    }
    std::string name(const char *tensor, size_t sequence) const {
        return std::string(sizeof(T) == 2 ? "bf16" : "f32") + ", head of " + std::to_string(which->dim) +
               ", sequence of " + std::to_string(which->lengths[sequence]) + ", " + tensor;
    }
    /* What the oracle says is what the backward is given, so that it answers for its own errors only. */
    void compare(verdict *c, size_t s, bool backwards) {
        const cuda_sequence *sequence = &sequences[s];
        int64_t n = sequence->n_tokens, width = which->heads * which->dim;
        oracle_attention_size size = which->size(n);
        std::vector<double> in = qkv.take(sequence->first_token, n), out((size_t)(n * width)),
                            sums((size_t)(n * which->heads));
        oracle_attention(size, in.data(), out.data(), sums.data());
        if (!backwards) {
            compare_rows(c, name("o", s).c_str(), &o, sequence->first_token, n, out, tolerance_of<T>());
            compare_rows(c, name("lse", s).c_str(), &lse, sequence->first_token, n, sums, tolerance_of<T>());
            return;
        }
        std::vector<double> gradient = d_o.take(sequence->first_token, n),
                            expected((size_t)(n * which->qkv_columns()));
        oracle_attention_backward(size, in.data(), gradient.data(), expected.data());
        compare_rows(c, name("dqkv", s).c_str(), &dqkv, sequence->first_token, n, expected,
                     tolerance_of<T>());
    }
    void take_from_oracle() {
        for (const cuda_sequence &sequence : sequences) {
            int64_t n = sequence.n_tokens, width = which->heads * which->dim;
            std::vector<double> in = qkv.take(sequence.first_token, n), out((size_t)(n * width)),
                                sums((size_t)(n * which->heads));
            oracle_attention(which->size(n), in.data(), out.data(), sums.data());
            o.set(sequence.first_token, out);
            lse.set(sequence.first_token, sums);
        }
    }
};

static void expect(const verdict *c, const char *problem) {
    TAP_CHECK(!problem, "%s", problem);
    TAP_CHECK(c->failures == 0, "%s", c->message);
    TAP_CHECK(problem || c->comparisons > 0, "nothing was compared");
}

template <typename T> static void compare_case(const attention_case *which) {
    verdict c = {};
    attention_wave<T> wave(which);
    const char *problem = wave.forward();
    TAP_CHECK(!wave.o.padding_written() && !wave.lse.padding_written(), "head of %d: padding was written",
              which->dim);
    for (size_t s = 0; s < wave.sequences.size() && !problem; s++) wave.compare(&c, s, false);
    wave.take_from_oracle();
    if (!problem) problem = wave.backward();
    TAP_CHECK(!wave.dqkv.padding_written(), "head of %d: padding of dqkv was written", which->dim);
    for (size_t s = 0; s < wave.sequences.size() && !problem; s++) wave.compare(&c, s, true);
    expect(&c, problem);
}

static void equals_the_oracle_in_f32() {
    for (const attention_case &which : cases) compare_case<float>(&which);
}

static void equals_the_oracle_in_bf16() {
    for (const attention_case &which : cases) compare_case<bf16>(&which);
}

/* More (sequence, head) pairs than one group of blocks, and many more blocks than tiles. */
static void many_sequences_of_different_lengths() {
    attention_case which = {8, 4, 0, 0, {}, 2};
    for (int i = 0; i < 50; i++) which.lengths.push_back(i == 20 ? 130 : 1 + i % 3);
    compare_case<bf16>(&which);
}

template <typename T> static std::vector<unsigned char> results(attention_wave<T> *wave) {
    std::vector<unsigned char> all;
    const char *problem = wave->forward();
    if (!problem) problem = wave->backward();
    TAP_CHECK(!problem, "%s", problem);
    for (activation<T> *out : {&wave->o, &wave->dqkv}) {
        const unsigned char *bytes = reinterpret_cast<const unsigned char *>(out->host.data());
        all.insert(all.end(), bytes, bytes + out->bytes());
    }
    return all;
}

template <typename T> static void same_bits_of(const attention_case *which) {
    attention_wave<T> wave(which);
    std::vector<unsigned char> first = results(&wave);
    for (uint64_t seed = 2; seed <= 4; seed++) {
        device_order(seed);
        TAP_CHECK(results(&wave) == first, "head of %d: order %d gave other bits", which->dim, (int)seed);
    }
    device_order(1);
}

static void same_bits_in_any_order_of_lanes() {
    attention_case whole = {16, 2, 0, 0, {50, 7}, 1}, tiles = {16, 2, 0, 0, {150, 7}, 1};
    same_bits_of<float>(&whole);
    same_bits_of<bf16>(&tiles);
}

/* A key changes its own row and later ones, and not a bit of earlier ones. */
static void keys_are_hidden_from_earlier_queries() {
    attention_case which = {16, 1, 0, 0, {70}};
    attention_wave<float> wave(&which);
    const char *problem = wave.forward();
    std::vector<double> before = wave.o.take(0, 70), after;
    const int changed = 37;
    for (int column = 16; column < 48; column++) set_value(wave.qkv.at(changed, column), 3);
    wave.qkv.put();
    if (!problem) problem = wave.forward();
    TAP_CHECK(!problem, "%s", problem);
    after = wave.o.take(0, 70);
    for (int row = 0; row < 70; row++) {
        bool same = memcmp(&before[(size_t)row * 16], &after[(size_t)row * 16], 16 * sizeof(double)) == 0;
        TAP_CHECK(same == (row < changed), "key %d %s row %d", changed, same ? "does not reach" : "reaches",
                  row);
    }
}

static void wider_heads_are_refused() {
    attention_case which = {136, 1, 0, 0, {2}};
    attention_wave<float> wave(&which);
    const char *forward = wave.forward(), *backward = wave.backward();
    TAP_CHECK(forward && strstr(forward, "128 columns"), "forward: %s", forward ? forward : "no problem");
    TAP_CHECK(backward && strstr(backward, "128 columns"), "backward: %s",
              backward ? backward : "no problem");
}

#define TEST(name)                                                                                           \
    { #name, name }
static const tap_test tests[] = {
    TEST(equals_the_oracle_in_f32),
    TEST(equals_the_oracle_in_bf16),
    TEST(many_sequences_of_different_lengths),
    TEST(same_bits_in_any_order_of_lanes),
    TEST(keys_are_hidden_from_earlier_queries),
    TEST(wider_heads_are_refused),
};

int main(int argc, char **argv) {
    return tap_main(argc, argv, "cuda_attention", tests, (int)(sizeof tests / sizeof *tests));
}

/* The host side of the CUDA backend on the SIMT machine: what a caller may rely on beyond the conformance
 * cases. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

#include "backend.h"
#include "cuda/limits.hpp"
#include "simt.hpp"
#include "tap.hpp"

extern "C" {
#include "conformance/cases.h"
}

/* ---- A backend and a stream, opened for one test */

struct world {
    ck_backend *backend = nullptr;
    ck_stream *stream = nullptr;

    world() {
        TAP_CHECK(ck_open("cuda", 0, &backend) == CK_OK, "%s", ck_last_error(nullptr));
        if (backend) expect(ck_stream_create(backend, &stream));
    }
    ~world() {
        ck_stream_destroy(stream);
        ck_close(backend);
    }
    void expect(ck_status status) {
        TAP_CHECK(status == CK_OK, "status %d: %s", (int)status, ck_last_error(backend));
    }
    float *allocate(size_t count) {
        void *memory = nullptr;
        expect(ck_alloc(backend, count * sizeof(float), "a test", &memory));
        return static_cast<float *>(memory);
    }
};

/* ---- Bits */

static uint64_t next_seed;

static void shuffle_lanes() {
    next_seed++;
    simt_configure(next_seed % 2 ? 2 : 1, next_seed);
}

static void same_bits_in_any_order(ck_precision precision) {
    world w;
    const conformance_case *which = conformance_find("model step, twice");
    if (!which) return tap_fail("there is no case 'model step, twice'");
    conformance_between_runs = shuffle_lanes;
    /* every wave that a whole model can run on, each in an order of its own */
    verdict c = {};
    conformance_run(which, w.backend, precision, &c);
    TAP_CHECK(verdict_passed(&c), "%s", c.message);
    conformance_between_runs = nullptr;
    simt_configure(2, 1);
}

static void same_bits_in_any_order_of_lanes() {
    same_bits_in_any_order(CK_F32);
}

static void same_bits_in_any_order_of_lanes_bf16() {
    same_bits_in_any_order(CK_BF16);
}

/* ---- Streams */

static void a_download_arrives_when_it_is_waited_for() {
    world w;
    const float sent[3] = {1, 2, 3};
    float got[3] = {0, 0, 0};
    float *memory = w.allocate(3);
    w.expect(ck_upload(w.stream, memory, sent, sizeof sent));
    w.expect(ck_download(w.stream, got, memory, sizeof got));
    TAP_CHECK(got[0] == 0, "the bytes came before ck_wait()");
    w.expect(ck_wait(w.stream));
    TAP_CHECK(memcmp(got, sent, sizeof got) == 0, "got %g %g %g", got[0], got[1], got[2]);
    ck_free(w.backend, memory);
}

/* More than has room on its way at a time, in pieces of many sizes, twice over. */
static void many_downloads_arrive() {
    enum { PIECES = 40, FLOATS = 1 << 18 };
    world w;
    std::vector<float> sent(FLOATS), got((size_t)PIECES * FLOATS);
    float *memory = w.allocate(FLOATS);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < FLOATS; i++) sent[i] = (float)(i + (size_t)round);
        w.expect(ck_upload(w.stream, memory, sent.data(), FLOATS * sizeof(float)));
        for (size_t p = 0; p < PIECES; p++)
            w.expect(
                ck_download(w.stream, &got[p * FLOATS], memory, (FLOATS - 1000 * (p % 7)) * sizeof(float)));
        w.expect(ck_wait(w.stream));
        for (size_t p = 0; p < PIECES; p++)
            TAP_CHECK(memcmp(&got[p * FLOATS], sent.data(), (FLOATS - 1000 * (p % 7)) * sizeof(float)) == 0,
                      "round %d, piece %zu", round, p);
    }
    ck_free(w.backend, memory);
}

static void copies_are_kept_inside_an_allocation() {
    world w;
    const float sent[4] = {1, 2, 3, 4};
    float *memory = w.allocate(3);
    TAP_CHECK(ck_upload(w.stream, memory, sent, sizeof sent) == CK_FAILED,
              "an upload beyond the end was accepted");
    TAP_CHECK(strstr(ck_last_error(w.backend), "allocation") != nullptr, "%s", ck_last_error(w.backend));
    ck_free(w.backend, memory);
}

static void allocated_bytes_return_to_nothing() {
    world w;
    float *a = w.allocate(100), *b = w.allocate(50);
    TAP_CHECK(ck_allocated_bytes(w.backend) == 600, "%zu bytes", ck_allocated_bytes(w.backend));
    ck_free(w.backend, a);
    ck_free(w.backend, b);
    TAP_CHECK(ck_allocated_bytes(w.backend) == 0, "%zu bytes", ck_allocated_bytes(w.backend));
}

/* ---- Two streams: what the machine shows of waits that are missing */

/* A value is written on one stream and copied on another, which awaits it or not; what the copy got. */
static float copied(const char *letters, bool awaits) {
    simt_streams(letters);
    world w;
    ck_stream *copies = nullptr;
    ck_event *written = nullptr;
    const float value = 3;
    float got = NAN, *from = w.allocate(1), *to = w.allocate(1);
    w.expect(ck_stream_create(w.backend, &copies));
    w.expect(ck_event_create(w.backend, &written));
    w.expect(ck_upload(w.stream, from, &value, sizeof value));
    w.expect(ck_event_record(w.stream, written));
    if (awaits) w.expect(ck_event_await(copies, written));
    w.expect(ck_copy(copies, to, from, sizeof value));
    w.expect(ck_download(copies, &got, to, sizeof got));
    w.expect(ck_wait(copies));
    w.expect(ck_wait(w.stream));
    ck_stream_destroy(copies);
    ck_event_destroy(written);
    ck_free(w.backend, from);
    ck_free(w.backend, to);
    simt_streams("b");
    return got;
}

static void a_stream_waits_for_an_event() {
    for (const char *letters : {"b", "a", "ba", "ab"}) {
        float got = copied(letters, true);
        TAP_CHECK(got == 3, "streams %s: %g", letters, got);
    }
}

static void a_missing_wait_shows() {
    for (const char *letters : {"b", "ba"}) {
        float got = copied(letters, false);
        TAP_CHECK(got == 0, "streams %s: %g was there without a wait", letters, got);
    }
    TAP_CHECK(copied("ab", false) == 3, "a stream that is ahead is behind");
}

/* Of an event that is recorded again, the last moment counts when it is awaited, and no later one. */
static void an_event_is_the_moment_it_had() {
    world w;
    ck_stream *other = nullptr;
    ck_event *event = nullptr;
    const float values[2] = {1, 2};
    float got = NAN, *memory = w.allocate(1), *to = w.allocate(1);
    w.expect(ck_stream_create(w.backend, &other));
    w.expect(ck_event_create(w.backend, &event));
    w.expect(ck_upload(w.stream, memory, &values[0], sizeof values[0]));
    w.expect(ck_event_record(w.stream, event));
    w.expect(ck_event_await(other, event));
    w.expect(ck_copy(other, to, memory, sizeof values[0]));
    w.expect(ck_upload(w.stream, memory, &values[1], sizeof values[1]));
    w.expect(ck_event_record(w.stream, event));
    w.expect(ck_download(other, &got, to, sizeof got));
    w.expect(ck_wait(other));
    TAP_CHECK(got == 1, "got %g, of the second moment", got);
    ck_event_destroy(event);
    ck_stream_destroy(other);
    ck_free(w.backend, memory);
    ck_free(w.backend, to);
}

static void copies_of_far_memory_are_kept_inside_an_allocation() {
    world w;
    void *far = nullptr;
    float *near = w.allocate(8);
    w.expect(ck_alloc_far(w.backend, 4 * sizeof(float), "a test", &far));
    TAP_CHECK(ck_copy(w.stream, near, far, 5 * sizeof(float)) == CK_FAILED,
              "a copy from beyond the end was accepted");
    TAP_CHECK(ck_copy(w.stream, far, near, 5 * sizeof(float)) == CK_FAILED,
              "a copy to beyond the end was accepted");
    ck_free(w.backend, far);
    ck_free(w.backend, near);
}

/* Many calls without a wait, with tables far beyond a staging buffer: each must read its own. */
static void tables_of_many_calls_do_not_mix() {
    enum { CALLS = 9, RANGES = 40000 };
    world w;
    std::vector<float> got(RANGES);
    std::vector<ck_range> ranges(RANGES);
    float *memory[4];
    for (float *&m : memory) m = w.allocate(RANGES);
    std::vector<float> ones(RANGES, 1.0f);
    w.expect(ck_upload(w.stream, memory[0], ones.data(), RANGES * sizeof(float)));
    for (int call = 0; call < CALLS; call++) {
        /* Decay alone moves them: p *= 1 - rate decay, for every range that this call names. */
        int n = 0;
        for (int i = call; i < RANGES; i += CALLS) ranges[(size_t)n++] = ck_range{i, 1, (float)(call + 1)};
        ck_adamw_hyper hyper = {0.01f, 0, 0.9f, 0.999f, 1e-8f, 1};
        w.expect(
            ck_adamw_ranges(w.stream, memory[0], memory[1], memory[2], memory[3], ranges.data(), n, &hyper));
        /* the caller's array is its own again */
        memset(ranges.data(), 0xff, ranges.size() * sizeof ranges[0]);
    }
    w.expect(ck_download(w.stream, got.data(), memory[0], RANGES * sizeof(float)));
    w.expect(ck_wait(w.stream));
    for (int i = 0; i < RANGES; i++) {
        float expected = 1.0f - 0.01f * (float)(i % CALLS + 1);
        TAP_CHECK(fabsf(got[(size_t)i] - expected) < 1e-6f, "element %d is %g, not %g", i, got[(size_t)i],
                  expected);
    }
    for (float *m : memory) ck_free(w.backend, m);
}

/* ---- Programs */

static void a_program_gives_its_memory_back() {
    world w;
    ck_program *program = nullptr;
    ck_capacity capacity = {4, 64, 16, 0, 0, CK_BF16};
    float *weight = w.allocate(32 * 8);
    size_t before = ck_allocated_bytes(w.backend);
    w.expect(ck_program_create(w.backend, &capacity, &program));
    ck_linear linear = {};
    linear.x = ck_activation(program, 32, "x");
    linear.y = ck_activation(program, 8, "y");
    linear.weight = weight;
    linear.in = 32, linear.out = 8;
    ck_op_linear(program, &linear);
    size_t planned = ck_program_bytes(program);
    w.expect(ck_program_finish(program));
    size_t taken = ck_allocated_bytes(w.backend) - before, copy = 32 * 8 * sizeof(bf16);
    TAP_CHECK(taken == planned + copy, "planned %zu bytes and a bf16 copy of %zu, took %zu", planned, copy,
              taken);
    ck_program_destroy(program);
    TAP_CHECK(ck_allocated_bytes(w.backend) == before, "%zu bytes are left",
              ck_allocated_bytes(w.backend) - before);
    ck_free(w.backend, weight);
}

/* y = x W^T of one token with x = 1, W = [1, 1] all `value`. */
static float linear_of(world *w, ck_program *program, ck_tensor *x, ck_tensor *y, float *weight,
                       float value) {
    const int64_t first_token[2] = {0, 1};
    const int32_t id = 0;
    const float one = 1;
    float got = NAN;
    ck_wave wave = {};
    wave.n_sequences = 1;
    wave.first_token = first_token;
    wave.tokens = wave.targets = &id;
    w->expect(ck_upload(w->stream, weight, &value, sizeof value));
    w->expect(ck_tensor_upload(w->stream, x, 1, &one));
    w->expect(ck_run(program, w->stream, &wave));
    w->expect(ck_tensor_download(w->stream, y, 1, &got));
    w->expect(ck_wait(w->stream));
    return got;
}

/* Copies of frozen weights are made once, but again after an upload. */
static void an_upload_reaches_the_copies_of_weights() {
    world w;
    ck_program *program = nullptr;
    ck_capacity capacity = {1, 16, 16, 0, 0, CK_BF16};
    w.expect(ck_program_create(w.backend, &capacity, &program));
    ck_linear linear = {};
    ck_tensor *x = ck_activation(program, 1, "x"), *y = ck_activation(program, 1, "y");
    float *weight = w.allocate(1);
    linear.x = x, linear.y = y, linear.weight = weight, linear.in = linear.out = 1;
    ck_op_linear(program, &linear);
    ck_keep(program, x);
    ck_keep(program, y);
    w.expect(ck_program_finish(program));
    for (float value : {2.0f, 3.0f, 3.0f, 5.0f}) {
        float got = linear_of(&w, program, x, y, weight, value);
        TAP_CHECK(got == value, "the product is %g, not %g", got, value);
    }
    ck_program_destroy(program);
    ck_free(w.backend, weight);
}

static void a_tensor_is_wide_or_exact() {
    world w;
    ck_program *program = nullptr;
    ck_capacity capacity = {1, 16, 16, 0, 0, CK_BF16};
    w.expect(ck_program_create(w.backend, &capacity, &program));
    ck_tensor *x = ck_activation(program, 32, "x");
    float *weight = w.allocate(32 * 32);
    ck_norm norm = {x, ck_activation(program, 32, "y"), x, weight, weight, 32, 1e-5f, CK_LAYER_NORM};
    ck_op_norm(program, &norm);
    TAP_CHECK(ck_program_finish(program) == CK_BAD_ARGUMENT,
              "x was taken as an activation and as statistics");
    TAP_CHECK(strstr(ck_last_error(w.backend), "exact") != nullptr, "%s", ck_last_error(w.backend));
    ck_program_destroy(program);
    ck_free(w.backend, weight);
}

static void heads_that_are_too_wide_are_refused_when_recorded() {
    world w;
    ck_program *program;
    ck_capacity capacity = {};
    capacity.max_sequences = 1, capacity.max_tokens = capacity.max_sequence_tokens = 4;
    w.expect(ck_program_create(w.backend, &capacity, &program));
    ck_attention op = {};
    op.qkv = ck_activation(program, 3 * 160, "qkv"), op.o = ck_activation(program, 160, "o"),
    op.lse = ck_activation(program, 1, "lse");
    op.heads = op.kv_heads = 1, op.head_size = 160;
    ck_op_attention(program, &op);
    TAP_CHECK(ck_program_finish(program) == CK_BAD_ARGUMENT, "heads of 160 columns were accepted");
    TAP_CHECK(strstr(ck_last_error(w.backend), "at most 128 columns") != nullptr, "%s",
              ck_last_error(w.backend));
    ck_program_destroy(program);
}

static void a_base_is_trained_in_f32_only() {
    world w;
    ck_program *program = nullptr;
    ck_capacity capacity = {1, 16, 16, 0, 1024, CK_BF16};
    TAP_CHECK(ck_program_create(w.backend, &capacity, &program) == CK_BAD_ARGUMENT,
              "a bf16 program for pre-training was accepted");
    TAP_CHECK(program == nullptr, "a refused program is not NULL");
}

/* ---- Failures */

/* A program of two products, the second with a weight that lies beyond its allocation. */
static ck_program *failing_program(world *w, float *good, float *bad) {
    ck_program *program = nullptr;
    ck_capacity capacity = {1, 16, 16, 0, 0, CK_F32};
    w->expect(ck_program_create(w->backend, &capacity, &program));
    ck_tensor *x = ck_activation(program, 8, "x"), *y = ck_activation(program, 8, "y"),
              *z = ck_activation(program, 8, "z");
    ck_linear linear = {};
    linear.x = x, linear.y = y, linear.weight = good, linear.in = linear.out = 8;
    ck_op_linear(program, &linear);
    linear.x = y, linear.y = z, linear.weight = bad;
    ck_op_linear(program, &linear);
    ck_keep(program, x);
    w->expect(ck_program_finish(program));
    return program;
}

static ck_status run_failing(world *w, ck_program *program) {
    const int64_t first_token[2] = {0, 1};
    const int32_t id = 0;
    const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    ck_wave wave = {};
    wave.n_sequences = 1;
    wave.first_token = first_token;
    wave.tokens = wave.targets = &id;
    for (ck_tensor *t = program->tensors; t; t = t->next)
        if (t->keep) w->expect(ck_tensor_upload(w->stream, t, 1, ones));
    ck_status status = ck_run(program, w->stream, &wave);
    return status == CK_OK ? ck_wait(w->stream) : status;
}

static void expect_said(const world *w, const char *text) {
    TAP_CHECK(strstr(ck_last_error(w->backend), text) != nullptr, "'%s' is not in: %s", text,
              ck_last_error(w->backend));
}

static void a_failed_op_is_named() {
    world w;
    float *good = w.allocate(64), *bad = w.allocate(8);
    ck_program *program = failing_program(&w, good, bad);
    TAP_CHECK(run_failing(&w, program) == CK_FAILED, "a product beyond an allocation worked");
    expect_said(&w, "in or before op 2 of 2 (linear) of the last program; COHORT_CUDA_SYNC=1");
    setenv("COHORT_CUDA_SYNC", "1", 1);
    TAP_CHECK(run_failing(&w, program) == CK_FAILED, "a product beyond an allocation worked");
    expect_said(&w, "a wave: op 2 of 2 (linear): ");
    expect_said(&w, "this backend's first failure was the GPU: ");
    unsetenv("COHORT_CUDA_SYNC");
    ck_program_destroy(program);
    ck_free(w.backend, good);
    ck_free(w.backend, bad);
}

/* ---- Limits */

static void limits_are_refused(const char *text, const char *why) {
    ck_backend *backend = nullptr;
    setenv("COHORT_CUDA_LIMITS", text, 1);
    TAP_CHECK(ck_open("cuda", 0, &backend) == CK_BAD_ARGUMENT, "'%s' was accepted", text);
    TAP_CHECK(strstr(ck_last_error(nullptr), why) != nullptr, "'%s': %s", text, ck_last_error(nullptr));
    ck_close(backend);
}

static void limits_come_from_the_environment() {
    const char *before = getenv("COHORT_CUDA_LIMITS");
    std::string kept = before ? before : "";
    limits_are_refused(
        "tiny", "'tiny' is not known; known are small, large, and name=value with the names segment_tiles, ");
    limits_are_refused("small,widgets=3", "'widgets=3' is not known");
    limits_are_refused("attention_warps=9", "attention_warps must be a whole number from 0 to 8, not '9'");
    limits_are_refused("gram_blocks=", "gram_blocks must be a whole number from 1 to 1048576, not ''");
    limits_are_refused("gram_blocks=6x", "not '6x'");
    setenv("COHORT_CUDA_LIMITS", "small,gram_blocks=7", 1);
    { world w; }
    TAP_CHECK(cuda_limits.gram_blocks == 7 && cuda_limits.segment_tiles == 3,
              "a value beside a preset is not what was set");
    setenv("COHORT_CUDA_LIMITS", "gram_blocks=7", 1);
    { world w; }
    TAP_CHECK(cuda_limits.gram_blocks == 7 && cuda_limits.segment_tiles == 1024,
              "values that are not given are not the large ones");
    setenv("COHORT_CUDA_LIMITS", kept.c_str(), 1);
}

#define TEST(name)                                                                                           \
    { #name, name }
static const tap_test tests[] = {
    TEST(same_bits_in_any_order_of_lanes),
    TEST(same_bits_in_any_order_of_lanes_bf16),
    TEST(a_download_arrives_when_it_is_waited_for),
    TEST(many_downloads_arrive),
    TEST(copies_are_kept_inside_an_allocation),
    TEST(allocated_bytes_return_to_nothing),
    TEST(a_stream_waits_for_an_event),
    TEST(a_missing_wait_shows),
    TEST(an_event_is_the_moment_it_had),
    TEST(copies_of_far_memory_are_kept_inside_an_allocation),
    TEST(tables_of_many_calls_do_not_mix),
    TEST(a_program_gives_its_memory_back),
    TEST(an_upload_reaches_the_copies_of_weights),
    TEST(a_tensor_is_wide_or_exact),
    TEST(heads_that_are_too_wide_are_refused_when_recorded),
    TEST(a_base_is_trained_in_f32_only),
    TEST(a_failed_op_is_named),
    TEST(limits_come_from_the_environment),
};

int main(int argc, char **argv) {
    return tap_main(argc, argv, "cuda_driver", tests, (int)(sizeof tests / sizeof *tests));
}

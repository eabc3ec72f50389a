/* Decoding programs that contradict themselves, and waves that do not fit their caches, are refused with the
 * reason. */
#include <criterion/criterion.h>
#include <string.h>

#include "decoding.h"

enum { COLUMNS = 48, SLOTS = 3, POSITIONS = 8 };

static struct {
    ck_backend *backend;
    ck_stream *stream;
    ck_program *program;
    float *keys, *values, *weights;
    ck_tensor *qkv, *o;
} f;

static float *place(int64_t floats) {
    void *memory;
    cr_assert(ck_alloc(f.backend, (size_t)floats * sizeof(float), "test", &memory) == CK_OK);
    return memory;
}

static void open_program(void) {
    ck_capacity capacity = {
        .max_sequences = 2, .max_tokens = 8, .max_sequence_tokens = 6, .base_pack = COLUMNS};
    cr_assert(ck_open("auto", 1, &f.backend) == CK_OK, "%s", ck_last_error(NULL));
    cr_assert(ck_stream_create(f.backend, &f.stream) == CK_OK);
    cr_assert(ck_program_create(f.backend, &capacity, &f.program) == CK_OK, "%s", ck_last_error(f.backend));
    f.keys = place(SLOTS * POSITIONS * 16);
    f.values = place(SLOTS * POSITIONS * 16);
    f.weights = place(COLUMNS * COLUMNS);
    f.qkv = ck_activation(f.program, COLUMNS, "qkv");
    f.o = ck_activation(f.program, COLUMNS, "o");
}

static void close_program(void) {
    ck_program_destroy(f.program);
    ck_free(f.backend, f.keys);
    ck_free(f.backend, f.values);
    ck_free(f.backend, f.weights);
    ck_stream_destroy(f.stream);
    ck_close(f.backend);
}

TestSuite(refusals_decoding, .init = open_program, .fini = close_program);

static ck_attention_cached attention(void) {
    return (ck_attention_cached){.qkv = f.qkv,
                                 .o = f.o,
                                 .keys = f.keys,
                                 .values = f.values,
                                 .slots = SLOTS,
                                 .positions = POSITIONS,
                                 .heads = 2,
                                 .kv_heads = 2,
                                 .head_size = 8};
}

static void expect(ck_status status, const char *reason) {
    cr_expect(status == CK_BAD_ARGUMENT, "status %d where this was due: %s", (int)status, reason);
    cr_expect(strstr(ck_last_error(f.backend), reason) != NULL, "\"%s\" does not say: %s",
              ck_last_error(f.backend), reason);
}

static void expect_record(ck_attention_cached d, const char *reason) {
    ck_op_attention_cached(f.program, &d);
    expect(ck_program_finish(f.program), reason);
}

Test(refusals_decoding, heads_that_do_not_fit) {
    ck_attention_cached d = attention();
    d.kv_heads = 3;
    expect_record(d, "2 heads of 8 columns cannot share 3 heads of keys and values");
}

Test(refusals_decoding, no_cache) {
    ck_attention_cached d = attention();
    d.values = NULL;
    expect_record(d, "values is missing");
}

Test(refusals_decoding, no_positions) {
    ck_attention_cached d = attention();
    d.positions = 0;
    expect_record(d, "positions must be at least 1, not 0");
}

Test(refusals_decoding, logits_of_nothing) {
    ck_op_logits(f.program, &(ck_logits){.x = f.o, .weight = f.weights, .width = COLUMNS, .vocabulary = 4});
    expect(ck_program_finish(f.program), "logits: logits is missing");
}

Test(refusals_decoding, a_backward_operation_beside_a_cache) {
    ck_attention_cached d = attention();
    ck_op_attention_cached(f.program, &d);
    ck_op_gelu_backward(f.program, &(ck_gelu_backward){.u = f.qkv, .dm = f.o, .du = f.o, .ffn = COLUMNS});
    expect(ck_program_finish(f.program), "has neither backward nor global ops");
}

/* ---- Waves */

static void expect_wave(const int32_t *first_position, const int32_t *slot, uint32_t learn,
                        const char *reason) {
    const int64_t first_token[3] = {0, 2, 8};
    const int32_t first_sequence[2] = {0, 2}, ids[8] = {0};
    ck_wave_device device = {.learn = learn};
    ck_shape shape = {.n_layers = 1,
                      .width = COLUMNS,
                      .ffn = COLUMNS,
                      .n_experts = 1,
                      .rank = {1},
                      .scale = {1},
                      .top_k = 1};
    cr_assert(ck_shape_init(&shape, NULL) == CK_OK);
    ck_attention_cached d = attention();
    ck_op_attention_cached(f.program, &d);
    cr_assert(ck_program_finish(f.program) == CK_OK, "%s", ck_last_error(f.backend));
    ck_wave wave = {.n_devices = 1,
                    .n_sequences = 2,
                    .first_token = first_token,
                    .first_sequence = first_sequence,
                    .devices = &device,
                    .n_shapes = 1,
                    .shapes = &shape,
                    .tokens = ids,
                    .targets = ids,
                    .first_position = first_position,
                    .cache_slot = slot,
                    .parameters = f.weights};
    ck_status status = ck_run(f.program, f.stream, &wave);
    if (reason)
        expect(status, reason);
    else
        cr_expect(status == CK_OK, "%s", ck_last_error(f.backend));
    ck_wait(f.stream);
}

static const int32_t POSITIONS_THAT_FIT[2] = {6, 2}, SLOTS_THAT_FIT[2] = {2, 0};

Test(refusals_decoding, a_wave_that_fits_runs) {
    expect_wave(POSITIONS_THAT_FIT, SLOTS_THAT_FIT, 0, NULL);
}

Test(refusals_decoding, a_wave_without_positions) {
    expect_wave(NULL, SLOTS_THAT_FIT, 0, "needs first positions and places in the caches");
}

Test(refusals_decoding, a_wave_without_places) {
    expect_wave(POSITIONS_THAT_FIT, NULL, 0, "needs first positions and places in the caches");
}

Test(refusals_decoding, a_place_that_is_not_there) {
    expect_wave(POSITIONS_THAT_FIT, (const int32_t[]){3, 0}, 0, "sequence 0 has place 3 of a cache of 3");
}

Test(refusals_decoding, more_tokens_than_positions) {
    expect_wave((const int32_t[]){6, 3}, SLOTS_THAT_FIT, 0,
                "sequence 1 has 6 tokens from position 3 on; its cache has 8 positions");
}

Test(refusals_decoding, a_position_before_the_first) {
    expect_wave((const int32_t[]){6, -1}, SLOTS_THAT_FIT, 0, "sequence 1 has 6 tokens from position -1 on");
}

/* What kernels.h promises beside numbers: the registry, memory, shapes, and refusals that explain themselves.
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "conformance/waves.h"
#include "kernels.h"
#include "oracle/oracle.h"

static ck_backend *open_auto(void) {
    ck_backend *backend;
    cr_assert(eq(int, ck_open("auto", 1, &backend), CK_OK), "%s", ck_last_error(NULL));
    return backend;
}

Test(registry, names_every_backend_and_why_one_is_missing) {
    int count, usable = 0;
    const ck_backend_info *list = ck_backends(&count);
    for (int i = 0; i < count; i++) {
        ck_backend *backend = NULL;
        ck_status status = ck_open(list[i].name, 1, &backend);
        usable += list[i].unavailable == NULL;
        bool expected = list[i].unavailable == NULL;
        cr_expect(eq(int, status == CK_OK, expected), "%s: status %d", list[i].name, (int)status);
        if (status != CK_OK)
            cr_expect(strlen(ck_last_error(NULL)) > 10, "%s does not say why it is missing", list[i].name);
        if (status == CK_OK) cr_expect(eq(str, (char *)ck_name(backend), (char *)list[i].name));
        ck_close(backend);
    }
    cr_expect(usable >= 1, "no backend is usable");
}

Test(registry, refuses_a_name_it_does_not_know) {
    ck_backend *backend = NULL;
    cr_expect(ck_open("abacus", 0, &backend) != CK_OK);
    cr_expect(backend == NULL);
    cr_expect(strstr(ck_last_error(NULL), "abacus") != NULL, "the message does not name it: %s",
              ck_last_error(NULL));
}

Test(registry, says_what_it_runs_on) {
    ck_backend *backend = open_auto();
    cr_expect(strlen(ck_hardware(backend)) > 0);
    cr_expect(ck_threads(backend) >= 1);
    ck_close(backend);
}

Test(memory, is_zero_aligned_counted_and_copied) {
    ck_backend *backend = open_auto();
    ck_stream *stream;
    void *memory;
    size_t before = ck_allocated_bytes(backend);
    char out[1000], in[1000];
    memset(in, 7, sizeof in);
    memset(out, 1, sizeof out);
    cr_assert(eq(int, ck_stream_create(backend, &stream), CK_OK));
    cr_assert(eq(int, ck_alloc(backend, sizeof out, "test", &memory), CK_OK));
    cr_expect(eq(sz, (uintptr_t)memory % 64, 0));
    cr_expect(ck_allocated_bytes(backend) >= before + sizeof out);
    cr_assert(eq(int, ck_download(stream, out, memory, sizeof out), CK_OK));
    cr_assert(eq(int, ck_wait(stream), CK_OK));
    for (size_t i = 0; i < sizeof out; i++) cr_assert(out[i] == 0, "byte %zu is not zero", i);
    cr_assert(eq(int, ck_upload(stream, memory, in, sizeof in), CK_OK));
    cr_assert(eq(int, ck_zero(stream, (char *)memory + 512, 64), CK_OK));
    cr_assert(eq(int, ck_download(stream, out, memory, sizeof out), CK_OK));
    cr_assert(eq(int, ck_wait(stream), CK_OK));
    for (size_t i = 0; i < sizeof out; i++) cr_assert(out[i] == (i >= 512 && i < 576 ? 0 : 7), "byte %zu", i);
    ck_free(backend, memory);
    cr_expect(eq(sz, ck_allocated_bytes(backend), before));
    ck_stream_destroy(stream);
    ck_close(backend);
}

Test(shape, parts_do_not_overlap_and_are_aligned) {
    for (int spec = 0; spec < 2 * SHAPE_SPECS; spec++) {
        ck_shape s = wave_shape(spec / 2, 21, 50, 3, spec % 2 == 0 ? CK_MLP_GELU : CK_MLP_SWIGLU);
        char *owner = calloc((size_t)s.total, 1);
        cr_assert(s.layer_stride % CK_ALIGN_FLOATS == 0 && s.total == 3 * s.layer_stride + s.tied_floats &&
                  s.gradient_total == s.total + 3 * s.tied_floats);
        for (int l = 0; l < 3; l++)
            for (oracle_part part = 0; part < ORACLE_PARTS; part++) {
                oracle_range range = oracle_part_range(&s, l, part);
                cr_assert(range.offset >= 0 && range.offset + range.count <= s.total, "shape %d: %s", spec,
                          oracle_part_name(part));
                for (int64_t i = 0; i < range.count; i++)
                    cr_assert(owner[range.offset + i]++ == 0, "shape %d: %s overlaps another tensor", spec,
                              oracle_part_name(part));
            }
        free(owner);
    }
}

/* Every part lies in its block, no two overlap, and together they are the blocks. */
Test(shape, parts_are_all_that_a_pack_holds) {
    for (int spec = 0; spec < 2 * SHAPE_SPECS; spec++) {
        ck_shape s = wave_shape(spec / 2, 21, 50, 3, spec % 2 == 0 ? CK_MLP_GELU : CK_MLP_SWIGLU);
        char *owner = calloc((size_t)s.total, 1);
        int64_t in_parts = 0, in_blocks = 0;
        for (int i = 0; i < CK_BLOCKS; i++)
            in_blocks += (i < CK_BLOCK_TIED ? 3 : 1) * (int64_t)s.block[i].rows * s.block[i].columns;
        for (int32_t i = 0; i < ck_part_count(&s); i++) {
            ck_part p = ck_part_at(&s, i);
            const ck_block *block = ck_block_of(&s, p.adapter, p.site, p.factor);
            int64_t count = (int64_t)p.rows * p.columns,
                    first = p.offset - (p.layer < 0 ? 0 : p.layer * s.layer_stride) - block->offset;
            bool there = p.adapter == CK_TIED ? p.layer == -1 : p.layer >= 0 && p.layer < 3;
            cr_assert(there && p.columns == block->columns, "shape %d, part %d", spec, i);
            cr_assert(first >= 0 && first + count <= (int64_t)block->rows * block->columns,
                      "shape %d, part %d", spec, i);
            cr_assert(p.expert < 0 ? p.rows == block->rows : p.rows == s.rank[p.expert], "shape %d, part %d",
                      spec, i);
            for (int64_t j = p.offset; j < p.offset + count; j++)
                cr_assert(owner[j]++ == 0, "shape %d, part %d overlaps", spec, i);
            in_parts += count;
        }
        cr_expect(in_parts == in_blocks && in_parts > 0, "shape %d: %lld of %lld floats", spec,
                  (long long)in_parts, (long long)in_blocks);
        free(owner);
    }
}

/* By a second way: each part's class says whether its floats are learned. */
Test(shape, learn_spans_are_all_parts_and_no_padding) {
    for (int spec = 0; spec < 2 * SHAPE_SPECS; spec++) {
        ck_shape s = wave_shape(spec / 2, 21, 50, 1, spec % 2 == 0 ? CK_MLP_GELU : CK_MLP_SWIGLU);
        for (uint32_t learn = 0; learn < 256; learn++) {
            ck_span spans[CK_BLOCKS];
            int n = ck_learn_spans(&s, learn, spans);
            int64_t end = 0, in_spans = 0;
            for (int i = 0; i < n; i++) {
                cr_assert(spans[i].offset >= end && spans[i].count > 0, "shape %d, mask %u: span %d", spec,
                          learn, i);
                cr_assert(i == 0 || spans[i - 1].router || spans[i - 1].learned != spans[i].learned ||
                              spans[i].offset > end || spans[i].offset == s.tied,
                          "shape %d: spans to join", spec);
                end = spans[i].offset + spans[i].count;
                in_spans += spans[i].count;
            }
            for (int32_t i = 0; i < ck_part_count(&s); i++)
                in_spans -= (int64_t)ck_part_at(&s, i).rows * ck_part_at(&s, i).columns;
            cr_assert(end <= s.total && in_spans == 0);
            for (int32_t i = 0; i < ck_part_count(&s); i++) {
                ck_part p = ck_part_at(&s, i);
                int at = 0;
                while (p.offset >= spans[at].offset + spans[at].count) at++;
                cr_assert(p.offset + (int64_t)p.rows * p.columns <= spans[at].offset + spans[at].count,
                          "shape %d, part %d", spec, i);
                cr_assert(spans[at].learned == ((learn & ck_learn_class(p.adapter, p.factor)) != 0),
                          "shape %d, part %d", spec, i);
                cr_assert(spans[at].router == (p.factor == CK_FACTOR_ROUTER), "shape %d, part %d", spec, i);
            }
        }
    }
}

Test(shape, derived_fields) {
    ck_shape ragged = wave_shape(SHAPE_RAGGED, 24, 96, 2, CK_MLP_GELU),
             single = wave_shape(SHAPE_SINGLE, 24, 96, 2, CK_MLP_GELU);
    cr_expect(eq(int, ragged.rank_sum, 15));
    cr_expect(eq(int, ragged.rank_first[2], 12));
    cr_expect(eq(int, ragged.router_rows, 3));
    cr_expect(ragged.balanced);
    cr_expect(eq(int, single.router_rows, 0), "one expert needs no router");
    cr_expect(eq(int, wave_shape(SHAPE_MEAN, 24, 96, 2, CK_MLP_GELU).router_rows, 0));
}

/* All experts kept: the load balance is constant where its weights are equal, and only there. */
Test(shape, is_balanced_unless_all_are_kept_with_equal_weights) {
    for (int experts = 2; experts <= 4; experts++)
        for (int top_k = 1; top_k <= experts + 1; top_k++)
            for (int unequal = 0; unequal < 2; unequal++) {
                ck_shape s = {.n_layers = 1, .width = 8, .ffn = 32, .n_experts = experts, .top_k = top_k};
                const char *why;
                for (int e = 0; e < experts; e++)
                    s.rank[e] = 4, s.balance[e] = unequal && e == experts - 1 ? 0.75f : 0.5f;
                cr_assert(eq(int, ck_shape_init(&s, &why), CK_OK));
                cr_expect(eq(int, s.balanced, unequal || top_k < experts), "E = %d, k = %d, weights %s",
                          experts, top_k, unequal ? "unequal" : "equal");
            }
    cr_expect(not(wave_shape(SHAPE_MANY_ALL, 24, 96, 2, CK_MLP_GELU).balanced), "the cases have both kinds");
    cr_expect(wave_shape(SHAPE_PAIR_BOTH, 24, 96, 2, CK_MLP_GELU).balanced &&
              wave_shape(SHAPE_ALL, 24, 96, 2, CK_MLP_GELU).balanced);
}

Test(shape, refuses_what_cannot_be) {
    const ck_shape good = {.n_layers = 1, .width = 8, .ffn = 32, .n_experts = 2, .rank = {4, 4}, .top_k = 1};
    ck_shape bad[10];
    const char *why;
    for (int i = 0; i < 10; i++) bad[i] = good;
    bad[0].n_layers = 0, bad[1].width = 0, bad[2].n_experts = 0, bad[3].n_experts = CK_MAX_EXPERTS + 1,
    bad[4].rank[0] = bad[4].rank[1] = 0;
    bad[5].top_k = 0, bad[6].rank[0] = CK_MAX_RANK_SUM;
    bad[7].rank[0] = CK_MAX_RANK_SUM / 2, bad[7].mlp = CK_MLP_SWIGLU;
    bad[8].lora_rank[CK_SITE_GATE] = 1, bad[9].lora_rank[CK_SITE_OUT] = -1;
    for (int i = 0; i < 10; i++) {
        why = NULL;
        cr_expect(eq(int, ck_shape_init(&bad[i], &why), CK_BAD_ARGUMENT), "shape %d", i);
        cr_expect(why != NULL && strlen(why) > 10, "shape %d is refused without a reason", i);
    }
    ck_shape fine = good;
    cr_expect(eq(int, ck_shape_init(&fine, &why), CK_OK));
    bad[7].rank[0] = CK_MAX_RANK_SUM / 2 - 4;
    cr_expect(eq(int, ck_shape_init(&bad[7], &why), CK_OK));
}

/* A program of one LayerNorm over [tokens, columns]. */
static ck_status norm_program(ck_backend *backend, int columns, int width, const float *weights,
                              ck_program **out) {
    ck_capacity capacity = {.max_sequences = 1, .max_tokens = 4, .max_sequence_tokens = 4};
    ck_status status = ck_program_create(backend, &capacity, out);
    if (status != CK_OK) return status;
    ck_tensor *x = ck_activation(*out, columns, "x"), *stats = ck_activation(*out, 2, "stats");
    ck_op_norm(*out, &(ck_norm){.x = x,
                                .y = x,
                                .stats = stats,
                                .gain = weights,
                                .bias = weights,
                                .width = width,
                                .epsilon = 1e-5f});
    return ck_program_finish(*out);
}

Test(program, refuses_a_contradiction_when_it_is_finished) {
    ck_backend *backend = open_auto();
    ck_program *program;
    void *weights;
    cr_assert(eq(int, ck_alloc(backend, 64 * sizeof(float), "weights", &weights), CK_OK));
    cr_expect(eq(int, norm_program(backend, 8, 12, weights, &program), CK_BAD_ARGUMENT),
              "8 columns for a width of 12");
    cr_expect(strlen(ck_last_error(backend)) > 10);
    ck_program_destroy(program);
    cr_expect(eq(int, norm_program(backend, 12, 12, weights, &program), CK_OK), "%s", ck_last_error(backend));
    cr_expect(ck_program_bytes(program) > 0);
    ck_program_destroy(program);
    ck_free(backend, weights);
    ck_close(backend);
}

Test(program, refuses_a_wave_past_its_capacity) {
    ck_backend *backend = open_auto();
    ck_program *program;
    ck_stream *stream;
    void *weights;
    int32_t tokens[5] = {0}, fault[1];
    cr_assert(eq(int, ck_alloc(backend, 64 * sizeof(float), "weights", &weights), CK_OK));
    cr_assert(eq(int, ck_stream_create(backend, &stream), CK_OK));
    cr_assert(eq(int, norm_program(backend, 12, 12, weights, &program), CK_OK), "%s", ck_last_error(backend));
    ck_wave wave = {.n_sequences = 1,
                    .first_token = (int64_t[]){0, 5},
                    .first_sequence = (int32_t[]){0, 1},
                    .tokens = tokens,
                    .targets = tokens,
                    .fault = fault};
    cr_expect(eq(int, ck_run(program, stream, &wave), CK_BAD_ARGUMENT), "5 tokens where 4 fit");
    cr_expect(strlen(ck_last_error(backend)) > 10);
    wave.first_token = (int64_t[]){0, 4};
    cr_expect(eq(int, ck_run(program, stream, &wave), CK_BAD_ARGUMENT), "the stream has failed before");
    cr_expect(eq(int, ck_wait(stream), CK_BAD_ARGUMENT));
    cr_expect(eq(int, ck_run(program, stream, &wave), CK_OK), "%s", ck_last_error(backend));
    cr_expect(eq(int, ck_wait(stream), CK_OK));
    ck_program_destroy(program);
    ck_stream_destroy(stream);
    ck_free(backend, weights);
    ck_close(backend);
}

Test(program, refuses_gradients_before_a_global_op) {
    ck_backend *backend = open_auto();
    ck_program *program;
    float table[1];
    ck_capacity capacity = {.max_sequences = 1, .max_tokens = 4, .max_sequence_tokens = 4};
    cr_assert(eq(int, ck_program_create(backend, &capacity, &program), CK_OK));
    ck_tensor *u = ck_activation(program, 8, "u"), *dm = ck_activation(program, 8, "dm"),
              *du = ck_activation(program, 8, "du");
    ck_op_gelu_backward(program, &(ck_gelu_backward){.u = u, .dm = dm, .du = du, .ffn = 8});
    ck_op_balance(program, &(ck_balance){.top_k_count = table, .coefficient = table, .n_layers = 1});
    cr_expect(eq(int, ck_program_finish(program), CK_BAD_ARGUMENT));
    cr_expect(strstr(ck_last_error(backend), "global") != NULL, "%s", ck_last_error(backend));
    ck_program_destroy(program);
    ck_close(backend);
}

/* One device of that shape with one sequence of four tokens. */
static ck_wave four_tokens(const ck_shape *shape, const float *pack) {
    static const int64_t first_token[] = {0, 4};
    static const int32_t first_sequence[] = {0, 1}, tokens[4];
    static const ck_wave_device device;
    static int32_t fault[1];
    return (ck_wave){.n_devices = 1,
                     .n_sequences = 1,
                     .first_token = first_token,
                     .first_sequence = first_sequence,
                     .devices = &device,
                     .n_shapes = 1,
                     .shapes = shape,
                     .tokens = tokens,
                     .targets = tokens,
                     .parameters = pack,
                     .fault = fault};
}

/* A program recorded for narrow rank-space activations must not be run by a device that would write beyond
 * them. */
Test(program, refuses_a_device_wider_than_it_was_recorded_for) {
    ck_backend *backend = open_auto();
    ck_program *program;
    ck_stream *stream;
    ck_shape narrow = wave_shape(SHAPE_SINGLE, 12, 16, 1, CK_MLP_GELU),
             wide = wave_shape(SHAPE_ALL, 12, 16, 1, CK_MLP_GELU);
    int columns = narrow.router_rows + narrow.rank_sum;
    void *pack;
    ck_capacity capacity = {.max_sequences = 1, .max_tokens = 4, .max_sequence_tokens = 4};
    cr_assert(eq(int, ck_alloc(backend, (size_t)wide.total * sizeof(float), "pack", &pack), CK_OK));
    cr_assert(eq(int, ck_stream_create(backend, &stream), CK_OK));
    cr_assert(eq(int, ck_program_create(backend, &capacity, &program), CK_OK));
    ck_tensor *x = ck_activation(program, 12, "x"), *zh = ck_activation(program, columns, "zh");
    ck_op_route(program, &(ck_route){.x = x,
                                     .zh = zh,
                                     .gates = ck_activation(program, CK_MAX_EXPERTS, "gates"),
                                     .n_layers = 1});
    cr_assert(eq(int, ck_program_finish(program), CK_OK), "%s", ck_last_error(backend));
    ck_wave wave = four_tokens(&wide, pack);
    cr_expect(eq(int, ck_run(program, stream, &wave), CK_BAD_ARGUMENT));
    cr_expect(strstr(ck_last_error(backend), "shape") != NULL, "%s", ck_last_error(backend));
    cr_expect(eq(int, ck_wait(stream), CK_BAD_ARGUMENT));
    wave.shapes = &narrow;
    wave.devices = &(ck_wave_device){.parameters = 4};
    cr_expect(eq(int, ck_run(program, stream, &wave), CK_BAD_ARGUMENT));
    cr_expect(strstr(ck_last_error(backend), "multiple") != NULL, "%s", ck_last_error(backend));
    cr_expect(eq(int, ck_wait(stream), CK_BAD_ARGUMENT));
    wave.devices = &(ck_wave_device){0};
    cr_expect(eq(int, ck_run(program, stream, &wave), CK_OK), "%s", ck_last_error(backend));
    ck_program_destroy(program);
    ck_stream_destroy(stream);
    ck_free(backend, pack);
    ck_close(backend);
}

Test(program, refuses_a_device_of_another_mlp) {
    ck_backend *backend = open_auto();
    ck_program *program;
    ck_stream *stream;
    ck_shape gelu = wave_shape(SHAPE_SINGLE, 12, 16, 1, CK_MLP_GELU),
             swiglu = wave_shape(SHAPE_SINGLE, 12, 16, 1, CK_MLP_SWIGLU);
    void *pack;
    ck_capacity capacity = {.max_sequences = 1, .max_tokens = 4, .max_sequence_tokens = 4};
    cr_assert(eq(int, ck_alloc(backend, (size_t)swiglu.total * sizeof(float), "pack", &pack), CK_OK));
    cr_assert(eq(int, ck_stream_create(backend, &stream), CK_OK));
    cr_assert(eq(int, ck_program_create(backend, &capacity, &program), CK_OK));
    ck_tensor *u = ck_activation(program, 2 * 16, "u"), *zh = ck_activation(program, swiglu.h_ranks, "zh");
    ck_tensor *gates = ck_activation(program, CK_MAX_EXPERTS, "gates"), *m = ck_activation(program, 16, "m"),
              *g = ck_activation(program, swiglu.rank_sum, "g");
    ck_op_expert_activation(
        program, &(ck_expert_activation){
                     .u = u, .zh = zh, .gates = gates, .m = m, .g = g, .ffn = 16, .mlp = CK_MLP_SWIGLU});
    cr_assert(eq(int, ck_program_finish(program), CK_OK), "%s", ck_last_error(backend));
    ck_wave wave = four_tokens(&gelu, pack);
    cr_expect(eq(int, ck_run(program, stream, &wave), CK_BAD_ARGUMENT));
    cr_expect(strstr(ck_last_error(backend), "MLP") != NULL, "%s", ck_last_error(backend));
    cr_expect(eq(int, ck_wait(stream), CK_BAD_ARGUMENT));
    wave.shapes = &swiglu;
    cr_expect(eq(int, ck_run(program, stream, &wave), CK_OK), "%s", ck_last_error(backend));
    ck_program_destroy(program);
    ck_stream_destroy(stream);
    ck_free(backend, pack);
    ck_close(backend);
}

static void expect_refusal(ck_program *program, ck_stream *stream, const ck_wave *wave, const char *text) {
    cr_expect(eq(int, ck_run(program, stream, wave), CK_BAD_ARGUMENT), "%s", text);
    cr_expect(eq(int, ck_wait(stream), CK_BAD_ARGUMENT), "%s", text);
}

Test(program, refuses_a_variant_that_the_wave_has_not) {
    ck_backend *backend = open_auto();
    ck_program *program;
    ck_stream *stream;
    ck_shape shape = wave_shape(SHAPE_SINGLE, 12, 16, 1, CK_MLP_GELU);
    void *memory;
    ck_capacity capacity = {.max_sequences = 1, .max_tokens = 4, .max_sequence_tokens = 4};
    cr_assert(eq(int, ck_alloc(backend, (size_t)shape.total * sizeof(float), "pack", &memory), CK_OK));
    cr_assert(eq(int, ck_stream_create(backend, &stream), CK_OK));
    cr_assert(eq(int, ck_program_create(backend, &capacity, &program), CK_OK));
    ck_op_linear(program, &(ck_linear){.x = ck_activation(program, 3, "x"),
                                       .y = ck_activation(program, 3, "y"),
                                       .weight = memory,
                                       .in = 3,
                                       .out = 3,
                                       .linear = 1});
    cr_assert(eq(int, ck_program_finish(program), CK_OK), "%s", ck_last_error(backend));
    ck_replacement table[2] = {{0}};
    ck_wave_device device = {.variant = 1};
    ck_wave wave = four_tokens(&shape, memory);
    wave.devices = &device;
    expect_refusal(program, stream, &wave, "the wave has no variants");
    wave.n_variants = 1, wave.n_linears = 1, wave.variants = table;
    expect_refusal(program, stream, &wave, "the program's linear 1 is not in the table");
    wave.n_linears = 2;
    cr_expect(eq(int, ck_run(program, stream, &wave), CK_OK), "%s", ck_last_error(backend));
    device.variant = 2;
    expect_refusal(program, stream, &wave, "there is one variant");
    device.variant = -1;
    expect_refusal(program, stream, &wave, "a variant before the first");
    ck_program_destroy(program);
    ck_stream_destroy(stream);
    ck_free(backend, memory);
    ck_close(backend);
}

Test(program, refuses_a_linear_below_minus_1) {
    ck_backend *backend = open_auto();
    ck_program *program;
    float weight[9];
    ck_capacity capacity = {.max_sequences = 1, .max_tokens = 4, .max_sequence_tokens = 4};
    cr_assert(eq(int, ck_program_create(backend, &capacity, &program), CK_OK));
    ck_op_linear(program, &(ck_linear){.x = ck_activation(program, 3, "x"),
                                       .y = ck_activation(program, 3, "y"),
                                       .weight = weight,
                                       .in = 3,
                                       .out = 3,
                                       .linear = -2});
    cr_expect(eq(int, ck_program_finish(program), CK_BAD_ARGUMENT));
    cr_expect(strstr(ck_last_error(backend), "-1") != NULL, "%s", ck_last_error(backend));
    ck_program_destroy(program);
    ck_close(backend);
}

/* A program of one head in that mode; what is not wanted is left out. */
static ck_status head_program(ck_backend *backend, ck_head_mode mode, bool dx, int64_t gradient,
                              float *memory, ck_program **out) {
    ck_capacity capacity = {.max_sequences = 1, .max_tokens = 4, .max_sequence_tokens = 4, .base_pack = 32};
    ck_status status = ck_program_create(backend, &capacity, out);
    if (status != CK_OK) return status;
    ck_op_head(*out, &(ck_head){.mode = mode,
                                .x = ck_activation(*out, 4, "x"),
                                .dx = dx ? ck_activation(*out, 4, "dx") : NULL,
                                .weight = memory,
                                .loss = memory + 32,
                                .width = 4,
                                .vocabulary = 8,
                                .weight_gradient = gradient});
    return ck_program_finish(*out);
}

Test(program, refuses_a_head_that_contradicts_its_mode) {
    static const struct {
        ck_head_mode mode;
        bool dx;
        int64_t gradient;
        ck_status expected;
    } cases[] = {
        {CK_HEAD_EVALUATE, false, 0, CK_OK},
        {CK_HEAD_EVALUATE, true, 0, CK_BAD_ARGUMENT},
        {CK_HEAD_STEP, true, -1, CK_OK},
        {CK_HEAD_STEP, false, -1, CK_BAD_ARGUMENT},
        {CK_HEAD_PRETRAIN, true, 0, CK_OK},
        {CK_HEAD_PRETRAIN, true, -1, CK_BAD_ARGUMENT},
        {CK_HEAD_PRETRAIN, true, 1, CK_BAD_ARGUMENT}, /* behind the end of the base's pack */
    };
    ck_backend *backend = open_auto();
    void *memory;
    cr_assert(eq(int, ck_alloc(backend, 64 * sizeof(float), "head", &memory), CK_OK));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_program *program;
        ck_status status =
            head_program(backend, cases[i].mode, cases[i].dx, cases[i].gradient, memory, &program);
        cr_expect(eq(int, status, cases[i].expected), "head %zu: %s", i, ck_last_error(backend));
        ck_program_destroy(program);
    }
    ck_free(backend, memory);
    ck_close(backend);
}

/* A step's mean is over each device, pre-training's over the wave. */
Test(program, refuses_a_wave_that_contradicts_the_mode_of_its_head) {
    ck_backend *backend = open_auto();
    ck_stream *stream;
    ck_shape shape = wave_shape(SHAPE_SINGLE, 4, 16, 1, CK_MLP_GELU);
    float *memory;
    cr_assert(eq(int, ck_alloc(backend, 128 * sizeof(float), "head", (void **)&memory), CK_OK));
    cr_assert(eq(int, ck_stream_create(backend, &stream), CK_OK));
    ck_wave of_device = four_tokens(&shape, memory), of_none = of_device, of_base;
    of_none.n_devices = 0;
    of_base = of_none, of_base.base_gradients = memory + 64;
    const ck_wave *good[] = {[CK_HEAD_STEP] = &of_device, [CK_HEAD_PRETRAIN] = &of_base};
    for (ck_head_mode mode = CK_HEAD_STEP; mode <= CK_HEAD_PRETRAIN; mode++) {
        ck_program *program;
        const ck_wave *all[] = {&of_device, &of_none, &of_base};
        cr_assert(eq(int, head_program(backend, mode, true, 0, memory, &program), CK_OK), "%s",
                  ck_last_error(backend));
        for (int i = 0; i < 3; i++) {
            ck_run(program, stream, all[i]);
            cr_expect(eq(int, ck_wait(stream), all[i] == good[mode] ? CK_OK : CK_BAD_ARGUMENT),
                      "mode %d, wave %d: %s", mode, i, ck_last_error(backend));
        }
        ck_program_destroy(program);
    }
    ck_stream_destroy(stream);
    ck_free(backend, memory);
    ck_close(backend);
}

Test(destroy, takes_null) {
    ck_close(NULL);
    ck_stream_destroy(NULL);
    ck_program_destroy(NULL);
    cr_expect(ck_last_error(NULL) != NULL);
}

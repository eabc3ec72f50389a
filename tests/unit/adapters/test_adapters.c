/* Adapter files: every tensor lands where kernels.h says, and nothing else is accepted. */
#include "adapters/adapters.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/safetensors.h"
#include "unit/checkpoints.h"

enum { LAYERS = 2, D = 6, F = 20, RA = 3 };

static ck_shape make_shape(ck_gates gates, int attention_rank) {
    ck_shape s = {.n_layers = LAYERS,
                  .width = D,
                  .ffn = F,
                  .n_experts = 3,
                  .rank = {2, 5, 1},
                  .top_k = 2,
                  .gates = gates,
                  .lora_rank = {[CK_SITE_QKV] = attention_rank, [CK_SITE_OUT] = attention_rank}};
    const char *why = "";
    cr_assert_eq(ck_shape_init(&s, &why), CK_OK, "%s", why);
    return s;
}

/* A pack whose every value is its own offset + 1; what lies between tensors is found by writing and reading.
 */
static float *numbered_pack(const ck_shape *s) {
    float *pack = malloc((size_t)s->total * sizeof *pack);
    for (int64_t i = 0; i < s->total; i++) pack[i] = (float)(i + 1);
    return pack;
}

static int64_t parameters(const ck_shape *s) {
    int64_t layer = (int64_t)(s->router_rows + s->rank_sum) * D + 2 * s->rank_sum * F + s->rank_sum * D;
    return s->n_layers * (layer + s->lora_rank[CK_SITE_QKV] * (D + 3 * D + D + D));
}

/* A, B and a vector of each linear of the base, once for all layers. */
Test(adapters, hold_what_all_layers_share_once) {
    char *folder = temporary_folder(), *path = adapters_path(folder, 0, 0);
    problems *list = problems_create();
    ck_shape s = make_shape(CK_GATES_TOP_K, 0);
    s.tied_rank[CK_SITE_QKV] = 2, s.tied_rank[CK_SITE_PR] = 3;
    s.vector[CK_SITE_PR] = CK_BIAS, s.vector[CK_SITE_OUT] = CK_COLUMN_BIAS;
    cr_assert_eq(ck_shape_init(&s, NULL), CK_OK);
    float *pack = numbered_pack(&s), *again = malloc((size_t)s.total * sizeof *again);
    cr_assert_eq(adapters_write(path, &s, pack, list), EXIT_OK, "%s", all_messages(list));
    cr_assert_eq(adapters_read(path, &s, again, list), EXIT_OK, "%s", all_messages(list));
    int shared = 0;
    for (int32_t i = 0; i < ck_part_count(&s); i++) {
        ck_part part = ck_part_at(&s, i);
        size_t bytes = (size_t)part.rows * (size_t)part.columns * sizeof *pack;
        shared += part.layer < 0;
        cr_expect(memcmp(pack + part.offset, again + part.offset, bytes) == 0, "part %d", i);
    }
    cr_expect_eq(shared, 6);
    safetensors *file;
    cr_assert_eq(safetensors_open(path, &file, list), EXIT_OK);
    const safetensor *vector = safetensors_find(file, "tied.mlp.proj.vector"),
                     *b = safetensors_find(file, "tied.attention.qkv.B");
    cr_assert(vector && vector->n_dims == 1 && vector->dims[0] == D);
    cr_assert(b && b->n_dims == 2 && b->dims[0] == 3 * D && b->dims[1] == 2);
    safetensors_close(file);
    problems_destroy(list);
    free(pack);
    free(again);
    free(path);
    remove_folder(folder);
}

Test(adapters, round_trip_keeps_every_bit) {
    char *folder = temporary_folder(), *path = adapters_path(folder, 3, 14);
    cr_expect(strstr(path, "/adapters_3_14.safetensors"));
    for (int i = 0; i < 4; i++) {
        ck_shape s = make_shape(i & 1 ? CK_GATES_MEAN : CK_GATES_TOP_K, i & 2 ? RA : 0);
        float *pack = numbered_pack(&s), *again = malloc((size_t)s.total * sizeof *again);
        int64_t kept = 0;
        problems *list = problems_create();
        pack[s.route] = -0.0f;
        cr_assert_eq(adapters_write(path, &s, pack, list), EXIT_OK, "%s", all_messages(list));
        memset(again, 0xff, (size_t)s.total * sizeof *again);
        cr_assert_eq(adapters_read(path, &s, again, list), EXIT_OK, "%s", all_messages(list));
        for (int64_t j = 0; j < s.total; j++) {
            bool same = !memcmp(&again[j], &pack[j], sizeof *pack);
            cr_assert(same || again[j] == 0.0f, "shape %d, float %lld: %g became %g", i, (long long)j,
                      pack[j], again[j]);
            kept += same;
        }
        cr_expect_eq(kept, parameters(&s), "shape %d: %lld floats kept, %lld parameters", i, (long long)kept,
                     (long long)parameters(&s));
        problems_destroy(list);
        free(again);
        free(pack);
    }
    free(path);
    remove_folder(folder);
}

/* Element [row, col] of a tensor of the file. */
static float element(const safetensors *file, const char *name, int64_t rows, int64_t cols, int64_t row,
                     int64_t col) {
    const safetensor *t = safetensors_find(file, name);
    float value;
    cr_assert_not_null(t, "%s is not in the file", name);
    cr_assert(t->n_dims == 2 && t->dims[0] == rows && t->dims[1] == cols, "%s has another shape", name);
    cr_assert_eq(
        safetensors_data(file, t, sizeof value * (size_t)(row * cols + col), sizeof value, &value, NULL),
        EXIT_OK);
    return value;
}

Test(adapters, tensors_have_the_orientation_of_pytorch) {
    char *folder = temporary_folder(), *path = adapters_path(folder, 0, 0);
    ck_shape s = make_shape(CK_GATES_TOP_K, RA);
    float *pack = numbered_pack(&s);
    const float *layer1 = pack + s.layer_stride;
    problems *list = problems_create();
    safetensors *file;
    cr_assert_eq(adapters_write(path, &s, pack, list), EXIT_OK, "%s", all_messages(list));
    cr_assert_eq(safetensors_open(path, &file, list), EXIT_OK, "%s", all_messages(list));
    cr_expect_eq(safetensors_count(file), LAYERS * (4 + 1 + 3 * 4));
    /* Expert 1 owns ranks 2..6; the route block holds 3 router rows before them. */
    cr_expect_eq(element(file, "layer.1.attention.qkv.A", RA, D, 2, 4),
                 layer1[ck_block_of(&s, CK_LORA, CK_SITE_QKV, CK_FACTOR_A)->offset + 2 * D + 4]);
    cr_expect_eq(element(file, "layer.1.attention.qkv.B", 3 * D, RA, 16, 1),
                 layer1[ck_block_of(&s, CK_LORA, CK_SITE_QKV, CK_FACTOR_B)->offset + 1 * 3 * D + 16]);
    cr_expect_eq(element(file, "layer.1.attention.out.A", RA, D, 1, 5),
                 layer1[ck_block_of(&s, CK_LORA, CK_SITE_OUT, CK_FACTOR_A)->offset + 1 * D + 5]);
    cr_expect_eq(element(file, "layer.1.attention.out.B", D, RA, 5, 2),
                 layer1[ck_block_of(&s, CK_LORA, CK_SITE_OUT, CK_FACTOR_B)->offset + 2 * D + 5]);
    cr_expect_eq(element(file, "layer.1.router", 3, D, 2, 3), layer1[s.route + 2 * D + 3]);
    cr_expect_eq(element(file, "layer.1.expert.1.fc.A", 5, D, 4, 3), layer1[s.route + (3 + 2 + 4) * D + 3]);
    cr_expect_eq(element(file, "layer.1.expert.1.fc.B", F, 5, 17, 4), layer1[s.b1 + (2 + 4) * F + 17]);
    cr_expect_eq(element(file, "layer.1.expert.1.proj.A", 5, F, 3, 19), layer1[s.a2 + (2 + 3) * F + 19]);
    cr_expect_eq(element(file, "layer.1.expert.1.proj.B", D, 5, 2, 3), layer1[s.b2 + (2 + 3) * D + 2]);
    safetensors_close(file);
    problems_destroy(list);
    free(pack);
    free(path);
    remove_folder(folder);
}

Test(adapters, names_tensors_of_another_shape) {
    char *folder = temporary_folder(), *path = adapters_path(folder, 0, 0);
    ck_shape written = make_shape(CK_GATES_TOP_K, RA), wanted = make_shape(CK_GATES_TOP_K, RA);
    wanted.rank[1] = 4;
    wanted.n_experts = 2;
    cr_assert_eq(ck_shape_init(&wanted, NULL), CK_OK);
    float *pack = numbered_pack(&written), *again = calloc((size_t)written.total, sizeof *again);
    problems *list = problems_create();
    cr_assert_eq(adapters_write(path, &written, pack, list), EXIT_OK, "%s", all_messages(list));
    cr_expect_eq(adapters_read(path, &wanted, again, list), EXIT_INPUT);
    cr_expect(mentions(list, "\"layer.0.router\" has shape [3, 6]; it must be [2, 6]"), "%s",
              all_messages(list));
    cr_expect(mentions(list, "\"layer.1.expert.1.fc.B\" has shape [20, 5]; it must be [20, 4]"), "%s",
              all_messages(list));
    cr_expect(mentions(list, "\"layer.0.expert.2.proj.A\" has no place"), "%s", all_messages(list));
    for (int64_t i = 0; i < wanted.total; i++)
        cr_assert_eq(again[i], 0.0f, "a refused file changed the pack");
    problems_destroy(list);
    free(again);
    free(pack);
    free(path);
    remove_folder(folder);
}

Test(adapters, names_missing_tensors_and_files) {
    char *folder = temporary_folder(), *path = adapters_path(folder, 0, 0),
         *absent = adapters_path(folder, 0, 1);
    ck_shape without = make_shape(CK_GATES_MEAN, 0), with = make_shape(CK_GATES_TOP_K, RA);
    float *pack = numbered_pack(&with);
    problems *list = problems_create();
    cr_assert_eq(adapters_write(path, &without, pack, list), EXIT_OK, "%s", all_messages(list));
    cr_expect_eq(adapters_read(path, &with, pack, list), EXIT_INPUT);
    cr_expect(mentions(list, "\"layer.1.attention.qkv.B\" is missing; it must be there with shape [18, 3]"),
              "%s", all_messages(list));
    cr_expect(mentions(list, "\"layer.0.router\" is missing"), "%s", all_messages(list));
    cr_expect_eq(problems_count(list), LAYERS * 5);
    cr_expect_eq(adapters_read(absent, &with, pack, list), EXIT_INPUT);
    cr_expect(mentions(list, "adapters_0_1.safetensors: cannot be read"), "%s", all_messages(list));
    problems_destroy(list);
    free(pack);
    free(absent);
    free(path);
    remove_folder(folder);
}

Test(adapters, refuses_values_that_are_not_finite) {
    char *folder = temporary_folder(), *path = adapters_path(folder, 0, 0);
    ck_shape s = make_shape(CK_GATES_TOP_K, RA);
    float *pack = numbered_pack(&s);
    problems *list = problems_create();
    pack[s.b1 + 3 * F + 7] = NAN; /* rank 3 is rank 1 of expert 1 */
    cr_assert_eq(adapters_write(path, &s, pack, list), EXIT_OK, "%s", all_messages(list));
    cr_expect_eq(adapters_read(path, &s, pack, list), EXIT_INPUT);
    cr_expect(mentions(list, "\"layer.0.expert.1.fc.B\": element [7, 1] is NaN"), "%s", all_messages(list));
    problems_destroy(list);
    free(pack);
    free(path);
    remove_folder(folder);
}

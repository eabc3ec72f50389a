/* PEFT folders that a device starts from: what was written comes back to the bit, at the scale that the
 * folder says, and what cannot be a device's adapter is refused with the reason. tests/cli/test_peft.sh reads
 * what PEFT itself has written. */
#include "adapters/peft.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "unit/checkpoints.h"

enum { D = 16, F = 40 };

typedef enum { EXPERT, LORAS, BOTH } kind; /* of what is on the linears of the MLP */

static ck_shape make_shape(ck_mlp mlp, kind which, int rank, float scale) {
    ck_shape s = {.n_layers = 2,
                  .width = D,
                  .ffn = F,
                  .n_experts = 1,
                  .top_k = 1,
                  .gates = CK_GATES_MEAN,
                  .mlp = mlp,
                  .rank = {which == LORAS ? 0 : rank},
                  .scale = {scale},
                  .q_width = mlp == CK_MLP_SWIGLU ? 24 : 0,
                  .kv_width = mlp == CK_MLP_SWIGLU ? 8 : 0};
    for (ck_site site = 0; site < CK_SITES; site++) {
        bool there = mlp == CK_MLP_SWIGLU ? site != CK_SITE_QKV : site >= CK_SITE_QKV && site != CK_SITE_GATE;
        if (!there || (ck_is_of_mlp(site) && which == EXPERT)) continue;
        s.lora_rank[site] = rank + (int)site % 2;
        s.lora_scale[site] = scale;
    }
    cr_assert_eq(ck_shape_init(&s, NULL), CK_OK);
    return s;
}

static float *make_pack(const ck_shape *s) {
    float *pack = calloc((size_t)s->total, sizeof *pack);
    for (int32_t i = 0; i < ck_part_count(s); i++) {
        ck_part part = ck_part_at(s, i);
        for (int64_t j = 0; j < (int64_t)part.rows * part.columns; j++)
            pack[part.offset + j] = 0.1F * sinf(0.37F * (float)(part.offset + j) + 1.0F);
    }
    return pack;
}

/* alpha 6 by classic scaling, whose scale for a module of rank r is 6 / r: what shapes here have is up to the
 * test. */
static void write_at(const char *folder, const ck_shape *s, double alpha, const float *pack) {
    problems *list = problems_create();
    experts_settings x = {.alpha = alpha, .scaling = SCALING_LORA};
    lora_settings lora;
    for (int site = 0; site < CK_SITES; site++) lora.alpha[site] = alpha;
    cr_assert_eq(peft_write(folder, s, 0, &x, &lora, NULL, pack, list), EXIT_OK, "%s", all_messages(list));
    problems_destroy(list);
}

static void set_scales(ck_shape *s, double alpha) {
    if (s->rank[0] > 0) s->scale[0] = (float)(alpha / s->rank[0]);
    for (int site = 0; site < CK_SITES; site++)
        if (s->lora_rank[site] > 0) s->lora_scale[site] = (float)(alpha / s->lora_rank[site]);
}

static double worst_difference(const ck_shape *s, const float *a, const float *b) {
    double worst = 0;
    for (int64_t i = 0; i < s->total; i++) worst = fmax(worst, fabs((double)a[i] - b[i]));
    return worst;
}

static double round_trip(ck_mlp mlp, kind which) {
    char *folder = temporary_folder();
    problems *list = problems_create();
    ck_shape s = make_shape(mlp, which, 3, 1);
    set_scales(&s, 6);
    float *pack = make_pack(&s), *back = calloc((size_t)s.total, sizeof *back);
    write_at(folder, &s, 6, pack);
    cr_assert(peft_is_folder(folder));
    cr_assert_eq(peft_read(folder, &s, 0, back, list), EXIT_OK, "%s", all_messages(list));
    double worst = worst_difference(&s, pack, back);
    problems_destroy(list);
    free(pack);
    free(back);
    remove_folder(folder);
    return worst;
}

Test(peft_read, gives_back_what_was_written_to_the_bit) {
    cr_expect_eq(round_trip(CK_MLP_GELU, EXPERT), 0);
    cr_expect_eq(round_trip(CK_MLP_GELU, LORAS), 0);
    cr_expect_eq(round_trip(CK_MLP_SWIGLU, EXPERT), 0);
    cr_expect_eq(round_trip(CK_MLP_SWIGLU, LORAS), 0);
}

/* One LoRA of PEFT's holds both; B takes up the difference of the scales. */
Test(peft_read, an_expert_and_a_lora_on_one_linear_come_back_but_for_rounding) {
    cr_expect_lt(round_trip(CK_MLP_GELU, BOTH), 1e-7);
    cr_expect_lt(round_trip(CK_MLP_SWIGLU, BOTH), 1e-7);
}

Test(peft_read, a_device_of_another_scale_computes_the_same) {
    char *folder = temporary_folder();
    problems *list = problems_create();
    ck_shape s = make_shape(CK_MLP_GELU, LORAS, 3, 1), other = s;
    set_scales(&s, 6);
    set_scales(&other, 24);
    float *pack = make_pack(&s), *back = calloc((size_t)s.total, sizeof *back);
    write_at(folder, &s, 6, pack);
    cr_assert_eq(peft_read(folder, &other, 0, back, list), EXIT_OK, "%s", all_messages(list));
    for (int32_t i = 0; i < ck_part_count(&s); i++) {
        ck_part part = ck_part_at(&s, i);
        float ratio = part.factor == CK_FACTOR_B ? 0.25F : 1.0F;
        for (int64_t j = part.offset; j < part.offset + (int64_t)part.rows * part.columns; j++)
            cr_assert_float_eq(back[j], ratio * pack[j], 1e-8, "part %d", i);
    }
    problems_destroy(list);
    free(pack);
    free(back);
    remove_folder(folder);
}

/* ---- What is refused */

static void change_config(const char *folder, const char *key, json_t *value) {
    char *path = path_in(folder, "adapter_config.json");
    json_t *config = json_load_file(path, 0, NULL);
    cr_assert_not_null(config);
    json_object_set_new(config, key, value);
    cr_assert_eq(json_dump_file(config, path, 0), 0);
    json_decref(config);
    free(path);
}

/* One message, that holds each of these texts. */
static void expect_refused(const char *folder, const ck_shape *s, int n, const char *first,
                           const char *second) {
    problems *list = problems_create();
    float *pack = calloc((size_t)s->total, sizeof *pack);
    cr_assert_eq(peft_read(folder, s, 0, pack, list), EXIT_INPUT, "expected: %s", first);
    cr_expect_eq(problems_count(list), n, "%s", all_messages(list));
    const char *text = all_messages(list);
    cr_expect(strstr(text, first) && strstr(text, second), "expected '%s' and '%s' in: %s", first, second,
              text);
    free(pack);
    problems_destroy(list);
}

Test(peft_read, refuses_what_is_no_plain_lora) {
    static const struct {
        const char *key, *value, *expected;
    } cases[] = {
        {"peft_type", "\"IA3\"", "peft_type is IA3"},
        {"bias", "\"all\"", "bias is all; only none"},
        {"bias", "\"lora_only\"", "bias is lora_only"},
        {"use_dora", "true", "use_dora is set"},
        {"modules_to_save", "[\"lm_head\"]", "modules_to_save is set"},
        {"layers_to_transform", "[0]", "layers_to_transform is set"},
        {"lora_alpha", "0", "lora_alpha must be a number above 0"},
        {"lora_alpha", "\"16\"", "lora_alpha must be a number above 0"},
        {"target_modules", "[\"c_attn\", \"wte\"]", "target_modules has wte"},
        {"target_modules", "[\"q_proj\"]", "target_modules has q_proj"},
        {"alpha_pattern", "{\"h.[01].attn\": 3}", "alpha_pattern has h.[01].attn"},
        {"alpha_pattern", "{\"c_attn\": -3}", "alpha_pattern: c_attn must be a number above 0"},
    };
    ck_shape s = make_shape(CK_MLP_GELU, LORAS, 3, 1);
    float *pack = make_pack(&s);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *folder = temporary_folder();
        write_at(folder, &s, 6, pack);
        change_config(folder, cases[i].key, json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        expect_refused(folder, &s, 1, cases[i].expected, "adapter_config.json");
        remove_folder(folder);
    }
    free(pack);
}

Test(peft_read, takes_names_and_keys_as_people_write_them) {
    ck_shape s = make_shape(CK_MLP_GELU, LORAS, 3, 1);
    float *pack = make_pack(&s), *back = calloc((size_t)s.total, sizeof *back);
    char *folder = temporary_folder();
    problems *list = problems_create();
    write_at(folder, &s, 6, pack);
    change_config(folder, "target_modules",
                  json_loads("[\"c_attn\", \"c_proj\", \"transformer.h.0.mlp.c_fc\"]", 0, NULL));
    change_config(folder, "modules_to_save", json_null());
    change_config(folder, "alpha_pattern", json_loads("{\"attn.c_proj\": 12, \"h.1.mlp.c_fc\": 3}", 0, NULL));
    cr_assert_eq(peft_read(folder, &s, 0, back, list), EXIT_OK, "%s", all_messages(list));
    const ck_block *out = ck_block_of(&s, CK_LORA, CK_SITE_OUT, CK_FACTOR_B),
                   *up = ck_block_of(&s, CK_LORA, CK_SITE_FC, CK_FACTOR_B);
    const float *layer0 = pack, *layer1 = pack + s.layer_stride;
    double of_out = 12.0 / s.lora_rank[CK_SITE_OUT] / 1, of_up = 3.0 / s.lora_rank[CK_SITE_FC];
    cr_expect_float_eq(back[out->offset], of_out * layer0[out->offset], 1e-6);
    cr_expect_float_eq(back[up->offset], 6.0 / s.lora_rank[CK_SITE_FC] * layer0[up->offset], 1e-6);
    cr_expect_float_eq(back[s.layer_stride + up->offset], of_up * layer1[up->offset], 1e-6);
    problems_destroy(list);
    free(pack);
    free(back);
    remove_folder(folder);
}

Test(peft_read, names_modules_and_ranks_that_do_not_fit) {
    ck_shape s = make_shape(CK_MLP_GELU, LORAS, 3, 1), more = make_shape(CK_MLP_GELU, LORAS, 7, 1),
             fewer = make_shape(CK_MLP_GELU, LORAS, 3, 1), expert = make_shape(CK_MLP_GELU, EXPERT, 9, 1);
    char *folder = temporary_folder();
    float *pack = make_pack(&s);
    fewer.lora_rank[CK_SITE_FC] = 0;
    cr_assert_eq(ck_shape_init(&fewer, NULL), CK_OK);
    write_at(folder, &s, 6, pack);
    expect_refused(folder, &more, 4, "the LoRA on attn.c_attn has rank 4, the device's has 8; give lora.qkv",
                   "the LoRA on mlp.c_proj has rank 4");
    expect_refused(folder, &fewer, 1, "has a LoRA of rank 3 on mlp.c_fc, and the device has none there",
                   "give lora.up");
    expect_refused(folder, &expert, 4, "the LoRA on mlp.c_fc has rank 3, the device's has 9",
                   "give experts.rank");
    char *less = temporary_folder();
    write_at(less, &fewer, 6, pack);
    expect_refused(less, &s, 1, "has no LoRA on mlp.c_fc, and the device has one of rank 3 there", "");
    free(pack);
    remove_folder(folder);
    remove_folder(less);
}

Test(peft_read, lists_names_and_shapes_of_another_base) {
    ck_shape s = make_shape(CK_MLP_GELU, LORAS, 3, 1), wide = s,
             llama = make_shape(CK_MLP_SWIGLU, LORAS, 3, 1);
    char *folder = temporary_folder();
    float *pack = make_pack(&s);
    wide.width = 2 * D, wide.q_width = wide.kv_width = 0;
    cr_assert_eq(ck_shape_init(&wide, NULL), CK_OK);
    write_at(folder, &s, 6, pack);
    expect_refused(folder, &wide, 4,
                   "is of another base: A and B on attn.c_attn are [4, 16] and [48, 4]; here they would be "
                   "[4, 32] and [96, 4]",
                   "A and B on mlp.c_proj are [4, 40] and [16, 4]; here they would be [4, 40] and [32, 4]");
    expect_refused(folder, &llama, 4, "target_modules has attn.c_attn", "target_modules has mlp.c_proj");
    change_config(folder, "target_modules", json_string("all-linear"));
    expect_refused(
        folder, &llama, 1,
        "is of another base: its first tensor is "
        "\"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight\" [4, 16]",
        "this base's is \"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\" [3, 16]");
    ck_shape deep = s;
    deep.n_layers = 3;
    cr_assert_eq(ck_shape_init(&deep, NULL), CK_OK);
    expect_refused(
        folder, &deep, 8,
        "transformer.h.2.attn.c_attn.lora_A.weight\" is missing; it must be there with shape [4, 16]",
        "transformer.h.2.mlp.c_proj.lora_B.weight\" is missing");
    free(pack);
    remove_folder(folder);
}

Test(peft_read, says_what_is_wrong_with_the_files) {
    ck_shape s = make_shape(CK_MLP_GELU, LORAS, 3, 1);
    char *folder = temporary_folder(), *path = path_in(folder, "adapter_config.json");
    float *pack = make_pack(&s);
    cr_expect_not(peft_is_folder(folder));
    write_at(folder, &s, 6, pack);
    FILE *out = fopen(path, "w");
    fputs("{\"r\": ", out);
    fclose(out);
    expect_refused(folder, &s, 1, "adapter_config.json: line 1:", "");
    out = fopen(path, "w");
    fputs("[1]", out);
    fclose(out);
    expect_refused(folder, &s, 1, "adapter_config.json: is not a JSON object", "");
    write_at(folder, &s, 6, pack);
    pack[ck_block_of(&s, CK_LORA, CK_SITE_FC, CK_FACTOR_A)->offset + 5] = NAN;
    write_at(folder, &s, 6, pack);
    expect_refused(folder, &s, 1, "mlp.c_fc.lora_A.weight\": element [0, 5] is NaN", "");
    free(path);
    free(pack);
    remove_folder(folder);
}

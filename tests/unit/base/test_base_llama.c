/* Bases of the Llama family: where tensors lie, and folders in both directions. Their config.json:
 * test_base_llama_config.c; the logits: test_base_logits.c. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/shards.h"
#include "base/tensors.h"
#include "unit/checkpoints.h"

#define REFERENCE COHORT_SOURCE_DIR "/tests/reference/llama/"

static int64_t elements(const packed_tensor *t) {
    return t->n_dims == 1 ? t->dims[0] : t->dims[0] * t->dims[1];
}

/* ---- Where tensors lie ----------------------------------------------------------------------- */

/* All that a Llama can have: every bias, a head of its own, heads of a width of their own. */
static base_shape everything(void) {
    return (base_shape){.family = BASE_LLAMA,
                        .layers = 3,
                        .width = 10,
                        .heads = 4,
                        .kv_heads = 2,
                        .head_size = 6,
                        .ffn = 17,
                        .vocabulary = 31,
                        .context = 9,
                        .epsilon = 1e-5f,
                        .qkv_bias = true,
                        .out_bias = true,
                        .mlp_bias = true,
                        .rope = {.theta = 100.0f,
                                 .scaling = BASE_ROPE_LLAMA3,
                                 .factor = 8.0f,
                                 .low_frequency_factor = 1.0f,
                                 .high_frequency_factor = 4.0f,
                                 .original_context = 40}};
}

Test(base_llama, tensors_fill_their_packed_matrices_and_none_overlap) {
    base_shape shape = everything();
    base_layout layout = base_layout_of(&shape);
    unsigned char *owner = calloc((size_t)layout.total, 1);
    for (int i = 0; i < base_tensor_count(&shape); i++) {
        packed_tensor t = base_tensor(&shape, &layout, "", i, NULL);
        cr_assert_leq(t.offset + elements(&t), layout.total, "%s leaves the pack", t.name);
        for (int64_t j = 0; j < elements(&t); j++)
            cr_assert_eq(owner[t.offset + j]++, 0, "%s overlaps", t.name);
    }
    const base_layer *l = &layout.layer0;
    const struct {
        int64_t offset, count;
    } packed[] = {{layout.wte, 310},   {layout.head, 310},     {layout.lnf_gain, 10}, {l->ln1_gain, 10},
                  {l->qkv_w, 48 * 10}, {l->qkv_b, 48},         {l->out_w, 10 * 24},   {l->out_b, 10},
                  {l->ln2_gain, 10},   {l->fc_w, 2 * 17 * 10}, {l->fc_b, 34},         {l->pr_w, 170},
                  {l->pr_b, 10}};
    for (size_t i = 0; i < sizeof packed / sizeof *packed; i++) {
        cr_expect_eq(packed[i].offset % CK_ALIGN_FLOATS, 0);
        for (int64_t j = 0; j < packed[i].count; j++)
            cr_assert_eq(owner[packed[i].offset + j], 1, "packed tensor %zu has a hole at %lld", i,
                         (long long)j);
    }
    cr_expect(layout.wpe == -1 && layout.lnf_bias == -1 && l->ln1_bias == -1 && l->ln2_bias == -1);
    for (int64_t j = 0; j < 9 * 6; j++) cr_assert_eq(owner[layout.rope + j], 0, "the table is a tensor");
    free(owner);
}

/* Row `row` of a tensor in a file, of any dtype: by the reader, alone in a pack. */
static const float *read_row(const shards *files, const char *name, int64_t row) {
    static float values[4096];
    const safetensors *file = NULL;
    const safetensor *t = shards_find(files, name, &file);
    cr_assert(t && t->dims[0] * t->dims[1] <= 4096, "%s", name);
    packed_tensor one = {.n_dims = 2, .dims = {t->dims[0], t->dims[1]}};
    snprintf(one.name, sizeof one.name, "%s", name);
    problems *list = problems_create();
    cr_assert_eq(safetensors_read(file, &one, 1, values, list), EXIT_OK, "%s", all_messages(list));
    problems_destroy(list);
    return values + row * t->dims[1];
}

/* tests/reference/llama/tinyllama: 16 heads of 2, 2 key heads, width 32, MLP 88, in three files. */
Test(base_llama, q_k_v_and_gate_up_are_rows_of_one_matrix) {
    problems *list = problems_create();
    base_model *model;
    shards files;
    cr_assert_eq(base_load(REFERENCE "tinyllama", &model, list), EXIT_OK, "%s", all_messages(list));
    cr_assert_eq(shards_open(REFERENCE "tinyllama", &files, list), EXIT_OK, "%s", all_messages(list));
    cr_expect_eq(files.n, 3);
    const float *layer = model->weights + model->layout.layer_stride; /* layer 1 */
    const base_layer *l = &model->layout.layer0;
    const struct {
        const char *name;
        int64_t in_file;
        const float *at;
    } cases[] = {
        {"model.layers.1.self_attn.q_proj.weight", 5, layer + l->qkv_w + 5 * 32},
        {"model.layers.1.self_attn.k_proj.weight", 3, layer + l->qkv_w + (32 + 3) * 32},
        {"model.layers.1.self_attn.v_proj.weight", 2, layer + l->qkv_w + (32 + 4 + 2) * 32},
        {"model.layers.1.mlp.gate_proj.weight", 87, layer + l->fc_w + 87 * 32},
        {"model.layers.1.mlp.up_proj.weight", 1, layer + l->fc_w + (88 + 1) * 32},
        {"lm_head.weight", 36, model->weights + model->layout.head + 36 * 32},
        {"model.embed_tokens.weight", 36, model->weights + model->layout.wte + 36 * 32},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_arr_eq(cases[i].at, read_row(&files, cases[i].name, cases[i].in_file), 32 * sizeof(float),
                         "%s", cases[i].name);
    shards_close(&files);
    base_destroy(model);
    problems_destroy(list);
}

/* f_i of layout.c, from the published table of Llama 3's scaling: the low frequencies are divided by 8. */
Test(base_llama, the_table_of_positions_has_angles_of_the_scaled_frequencies) {
    base_shape shape = everything();
    base_layout layout = base_layout_of(&shape);
    float *weights = calloc((size_t)layout.total, sizeof *weights);
    base_fill_rope(&shape, &layout, weights);
    /* theta 100, heads of 6: 1, 100^(-1/3), 100^(-2/3); waves in 40 positions: 6.366, 1.3716, 0.29550 */
    double plain1 = pow(100.0, -1.0 / 3), waves1 = 40 * plain1 / (2 * M_PI), m = (waves1 - 1) / 3;
    double f[3] = {1.0, ((1 - m) / 8 + m) * plain1, pow(100.0, -2.0 / 3) / 8};
    cr_assert(waves1 > 1 && waves1 < 4);
    for (int t = 0; t < shape.context; t++)
        for (int i = 0; i < 3; i++) {
            const float *at = weights + layout.rope + 2 * (t * 3 + i);
            cr_expect_float_eq(at[0], cos(t * f[i]), 1e-6, "cosine of position %d, pair %d", t, i);
            cr_expect_float_eq(at[1], sin(t * f[i]), 1e-6, "sine of position %d, pair %d", t, i);
        }
    free(weights);
}

/* ---- Folders --------------------------------------------------------------------------------- */

typedef struct {
    char *folder, *weights_path, *config_path;
    base_model *model;
    packed_tensor *tensors; /* room for a few more */
    int n;
    problems *list;
} fixture;

static fixture make_fixture(const base_shape *shape, const char *prefix) {
    fixture f = {.folder = temporary_folder(), .n = base_tensor_count(shape), .list = problems_create()};
    cr_assert_eq(base_random(shape, 3, &f.model, f.list), EXIT_OK);
    f.weights_path = path_in(f.folder, "model.safetensors");
    f.config_path = path_in(f.folder, "config.json");
    f.tensors = calloc((size_t)f.n + 8, sizeof *f.tensors);
    for (int i = 0; i < f.n; i++) f.tensors[i] = base_tensor(shape, &f.model->layout, prefix, i, NULL);
    cr_assert_eq(base_config_write(f.config_path, shape, f.list), EXIT_OK);
    return f;
}

static void end_fixture(fixture *f) {
    problems_destroy(f->list);
    base_destroy(f->model);
    free(f->tensors);
    free(f->config_path);
    free(f->weights_path);
    remove_folder(f->folder);
}

static void write_file(fixture *f, const char *name, const packed_tensor *tensors, int n) {
    char *path = path_in(f->folder, name);
    cr_assert_eq(safetensors_write(path, tensors, n, f->model->weights, f->list), EXIT_OK, "%s",
                 all_messages(f->list));
    free(path);
}

/* Loads the folder, and compares shape and weights where that succeeds. */
static exit_code load(fixture *f) {
    base_model *again;
    exit_code code = base_load(f->folder, &again, f->list);
    if (code) {
        cr_expect_null(again);
    } else {
        cr_expect(base_same_shape(&again->shape, &f->model->shape));
        cr_expect_arr_eq(again->weights, f->model->weights,
                         (size_t)f->model->layout.total * sizeof *again->weights);
    }
    base_destroy(again);
    return code;
}

static packed_tensor *add_tensor(fixture *f, const char *name, int64_t rows, int64_t cols, int64_t offset) {
    packed_tensor *t = &f->tensors[f->n++];
    *t = (packed_tensor){.n_dims = 2, .dims = {rows, cols}, .offset = offset};
    snprintf(t->name, sizeof t->name, "%s", name);
    return t;
}

static packed_tensor *named(fixture *f, const char *name) {
    int i = 0;
    while (i < f->n && strcmp(f->tensors[i].name, name) != 0) i++;
    cr_assert_lt(i, f->n, "no tensor %s", name);
    return &f->tensors[i];
}

Test(base_llama, saved_weights_load_bit_for_bit) {
    base_shape shapes[4] = {everything(), everything(), everything(), everything()};
    shapes[1].out_bias = shapes[1].mlp_bias = false; /* a Qwen2 */
    shapes[1].rope = (base_rope){.theta = 12345.678f};
    shapes[2].tied_head = true;
    shapes[2].qkv_bias = shapes[2].out_bias = shapes[2].mlp_bias = false;
    shapes[3].mlp_bias = false;
    shapes[3].kv_heads = 4;
    for (int i = 0; i < 4; i++) {
        char *root = temporary_folder(), *folder = path_in(root, "base");
        fixture f = {.folder = folder, .list = problems_create()};
        cr_assert_eq(base_random(&shapes[i], 9, &f.model, f.list), EXIT_OK);
        cr_assert_eq(base_save(f.model, folder, f.list), EXIT_OK, "%s", all_messages(f.list));
        cr_expect_eq(load(&f), EXIT_OK, "shape %d: %s", i, all_messages(f.list));
        problems_destroy(f.list);
        base_destroy(f.model);
        free(folder);
        remove_folder(root);
    }
}

Test(base_llama, loads_with_and_without_prefix_frequencies_and_tied_head) {
    base_shape shape = everything();
    shape.tied_head = true;
    for (int prefixed = 0; prefixed < 2; prefixed++) {
        fixture f = make_fixture(&shape, prefixed ? "model." : "");
        add_tensor(&f,
                   prefixed ? "model.layers.2.self_attn.rotary_emb.inv_freq"
                            : "layers.2.self_attn.rotary_emb.inv_freq",
                   1, 3, 0);
        add_tensor(&f, "lm_head.weight", shape.vocabulary, shape.width, f.model->layout.wte);
        write_file(&f, "model.safetensors", f.tensors, f.n);
        cr_expect_eq(load(&f), EXIT_OK, "%s", all_messages(f.list));
        named(&f, "lm_head.weight")->offset += 1;
        write_file(&f, "model.safetensors", f.tensors, f.n);
        cr_expect_eq(load(&f), EXIT_INPUT, "a tied head that differs");
        end_fixture(&f);
    }
}

Test(base_llama, names_missing_unexpected_and_transposed_tensors_together) {
    base_shape shape = everything();
    fixture f = make_fixture(&shape, "model.");
    packed_tensor *k = named(&f, "model.layers.0.self_attn.k_proj.weight"); /* as a Conv1D stores it */
    k->dims[0] = 10;
    k->dims[1] = 12;
    strcpy(named(&f, "lm_head.weight")->name, "model.head.weight");
    write_file(&f, "model.safetensors", f.tensors, f.n);
    cr_expect_eq(load(&f), EXIT_INPUT);
    cr_expect(mentions(f.list, "\"model.layers.0.self_attn.k_proj.weight\" has shape [10, 12]; it must be "
                               "[12, 10]"),
              "%s", all_messages(f.list));
    cr_expect(mentions(f.list, "\"lm_head.weight\" is missing; it must be there with shape [31, 10]"), "%s",
              all_messages(f.list));
    cr_expect(mentions(f.list, "\"model.head.weight\" has no place"), "%s", all_messages(f.list));
    cr_expect_eq(problems_count(f.list), 3, "%s", all_messages(f.list));
    end_fixture(&f);
}

Test(base_llama, refuses_weights_that_are_not_finite) {
    base_shape shape = everything();
    fixture f = make_fixture(&shape, "model.");
    f.model->weights[f.model->layout.layer0.fc_w + (17 + 5) * 10 + 2] = NAN; /* row 5 of up */
    f.model->weights[f.model->layout.layer0.qkv_b + 24 + 3] = INFINITY;      /* of k */
    write_file(&f, "model.safetensors", f.tensors, f.n);
    cr_expect_eq(load(&f), EXIT_INPUT);
    cr_expect(mentions(f.list, "\"model.layers.0.mlp.up_proj.weight\": element [5, 2] is NaN"), "%s",
              all_messages(f.list));
    cr_expect(mentions(f.list, "\"model.layers.0.self_attn.k_proj.bias\": element [3] is Inf"), "%s",
              all_messages(f.list));
    end_fixture(&f);
}

/* ---- Several files --------------------------------------------------------------------------- */

/* a.safetensors has the first 20 tensors, b.safetensors those from `from` on; the index places the first
 * `placed` in a. */
static fixture make_shards(int from, int placed) {
    base_shape shape = everything();
    fixture f = make_fixture(&shape, "model.");
    char *text = NULL, *path = path_in(f.folder, "model.safetensors.index.json");
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    write_file(&f, "a.safetensors", f.tensors, 20);
    write_file(&f, "b.safetensors", f.tensors + from, f.n - from);
    fprintf(out, "{\"metadata\": {}, \"weight_map\": {");
    for (int i = 0; i < f.n; i++)
        fprintf(out, "%s\"%s\": \"%s.safetensors\"", i ? ", " : "", f.tensors[i].name,
                i < placed ? "a" : "b");
    fprintf(out, "}}");
    fclose(out);
    write_text(path, text);
    free(path);
    free(text);
    return f;
}

Test(base_llama, shards_of_an_index_are_one_checkpoint) {
    fixture f = make_shards(20, 20);
    cr_expect_eq(load(&f), EXIT_OK, "%s", all_messages(f.list));
    end_fixture(&f);
}

Test(base_llama, a_shard_that_is_missing_is_named) {
    fixture f = make_shards(20, 20);
    char *path = path_in(f.folder, "b.safetensors");
    cr_assert_eq(unlink(path), 0);
    cr_expect_eq(load(&f), EXIT_INPUT);
    cr_expect(
        mentions(f.list, "model.safetensors.index.json: names the file b.safetensors, which is missing"),
        "%s", all_messages(f.list));
    cr_expect_eq(problems_count(f.list), 1, "%s", all_messages(f.list));
    free(path);
    end_fixture(&f);
}

Test(base_llama, an_index_that_differs_from_its_files_is_refused) {
    fixture f = make_shards(20, 21);
    cr_expect_eq(load(&f), EXIT_INPUT);
    cr_expect(mentions(f.list, "index.json: places tensor \"model.layers.1."), "%s", all_messages(f.list));
    cr_expect(mentions(f.list, "in a.safetensors, which does not hold it"), "%s", all_messages(f.list));
    end_fixture(&f);
    f = make_shards(19, 20); /* one tensor is in both */
    cr_expect_eq(load(&f), EXIT_INPUT);
    cr_expect(mentions(f.list, "b.safetensors: holds tensor \"model.layers.1."), "%s", all_messages(f.list));
    end_fixture(&f);
}

Test(base_llama, an_index_that_is_no_index_is_refused) {
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\n\"weight_map\": }", "index.json:2: is not valid JSON"},
        {"{}", "weight_map must be an object"},
        {"{\"weight_map\": {\"x\": 3}}", "gives tensor \"x\" no file"},
        {"{\"weight_map\": {\"x\": \"../a.safetensors\"}}", "gives tensor \"x\" no file"},
        {"{\"weight_map\": {\"x\": \"a.safetensors\"}}",
         "places tensor \"x\" in a.safetensors, which does not"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f = make_shards(20, 20);
        char *path = path_in(f.folder, "model.safetensors.index.json");
        write_text(path, cases[i].text);
        cr_expect_eq(load(&f), EXIT_INPUT);
        cr_expect(mentions(f.list, cases[i].message), "case %zu: %s", i, all_messages(f.list));
        free(path);
        end_fixture(&f);
    }
}

/* Base variants of populations: versions, what devices download, and that a checkpoint brings back the same
 * bits. */
#include "population/variants.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/checkpoints.h"
#include "unit/base/variant_files.h"
#include "unit/checkpoints.h"
#include "unit/small_run.h"

enum { D = 16, F = 64, RANK = 3 }; /* of the small base; of the adapter */
/* What the adapter holds of both layers: c_fc and c_proj of the MLP. */
enum { VALUES = 2 * 2 * RANK * (D + F), REPLACED = 2 * 2 * D * F };

static const char *adapter(void) {
    static char *path;
    if (path) return path;
    written_pair pairs[] = {variant_pair("transformer.h.0.mlp.c_fc", RANK, D, F, 1),
                            variant_pair("transformer.h.0.mlp.c_proj", RANK, F, D, 2),
                            variant_pair("transformer.h.1.mlp.c_fc", RANK, D, F, 3),
                            variant_pair("transformer.h.1.mlp.c_proj", RANK, F, D, 4)};
    path = variant_peft(small_folder(), "adapter", "{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 3}",
                        pairs, 4);
    return path;
}

/* a and b share the adapter, c has the base itself. */
static small_run open_run(void) {
    char text[2048];
    snprintf(text, sizeof text,
             "  - {name: a, method: local, devices: 2, base: {variant: %s}}\n"
             "  - {name: b, method: comigs, devices: 2, base: {variant: %s}}\n"
             "  - {name: c, method: local, devices: 1}\n",
             adapter(), adapter());
    return small_open(text, 0, NULL);
}

/* Factors of the rank for some rows of the linear. */
typedef struct {
    float a[40 * F], b[40 * F];
    variant_factors factors;
} made_factors;

static const variant_factors *make(made_factors *m, int linear, int in, int64_t first, int64_t rows, int rank,
                                   int seed) {
    cr_assert(rank <= 40 && in <= F && rows <= F);
    variant_numbers(m->a, rank * in, 0.1F, seed);
    variant_numbers(m->b, rank * rows, 0.1F, seed + 1);
    m->factors = (variant_factors){linear, first, rows, rank, 0.5F, m->a, m->b};
    return &m->factors;
}

enum { FC0 = BASE_FC, PR1 = BASE_LAYER_LINEARS + BASE_PR };

static void fold(small_run *r, int which, int rank, int seed) {
    static made_factors first, second;
    variant_factors both[] = {*make(&first, FC0, D, 8, 20, rank, seed),
                              *make(&second, PR1, F, 0, D, rank, seed + 5)};
    small_check(variants_fold(r->session->fleet, which, both, 2, r->problems), r->problems, "folding");
}

static int64_t folded_bytes(int rank) {
    return 4 * rank * (D + 20) + 4 * rank * (F + D);
}

/* The weight that the population's devices go through, of the backend. */
static const float *weight_of(const small_run *r, int which, int linear) {
    ck_wave wave = {0};
    variants_view(r->session->fleet, &wave);
    int32_t variant = variants_of(r->session->fleet, which);
    cr_assert(variant >= 1 && variant <= wave.n_variants);
    return wave.variants[(variant - 1) * wave.n_linears + linear].weight;
}

static void expect_same_weights(const small_run *x, const small_run *y, int which) {
    for (int linear = 0; linear < 2 * BASE_LAYER_LINEARS; linear++) {
        const float *a = weight_of(x, which, linear), *b = weight_of(y, which, linear);
        cr_assert_eq(a == NULL, b == NULL);
        if (!a) continue;
        float *p = small_download(x, a, (int64_t)D * F), *q = small_download(y, b, (int64_t)D * F);
        cr_expect_eq(memcmp(p, q, D * F * sizeof *p), 0, "population %d, linear %d", which, linear);
        free(p);
        free(q);
    }
}

/* ---- Traffic --------------------------------------------------------------------------------- */

Test(variants, a_device_downloads_each_version_once) {
    small_run r = open_run();
    fleet *f = r.session->fleet;
    device *a = &f->devices[0], *late = &f->devices[1], *plain = &f->devices[4];
    cr_expect_eq(variants_version(f, 0), 1);
    cr_expect_eq(variants_version(f, 2), 0);
    cr_expect_eq(variants_first_bytes(f, 0), 4 * VALUES);
    cr_expect_eq(variants_bring(f, a), 4 * VALUES);
    cr_expect_eq(variants_bring(f, a), 0);
    cr_expect_eq(variants_bring(f, plain), 0);
    fold(&r, 0, 2, 1);
    cr_expect_eq(variants_version(f, 0), 2);
    cr_expect_eq(variants_version(f, 1), 1, "b has made no new version");
    cr_expect_eq(variants_bring(f, a), folded_bytes(2));
    fold(&r, 0, 5, 3);
    cr_expect_eq(variants_bring(f, late), 4 * VALUES + folded_bytes(2) + folded_bytes(5));
    cr_expect_eq(variants_bring(f, a), folded_bytes(5));
    cr_expect_eq(variants_bring(f, &f->devices[2]), 4 * VALUES, "b's own, of its first version");
    fold(&r, 0, 40, 3);
    fold(&r, 0, 40, 3);
    a->variant_version = 0;
    cr_expect_eq(variants_bring(f, a), 4 * REPLACED, "never more than the linears themselves");
    small_close(&r);
}

/* ---- Versions -------------------------------------------------------------------------------- */

/* W + s B A of the rows, and nothing else. */
Test(variants, a_new_version_is_its_populations_own) {
    small_run r = open_run();
    static made_factors m;
    cr_assert_eq(weight_of(&r, 0, FC0), weight_of(&r, 1, FC0), "they share a variant");
    float *before = small_download(&r, weight_of(&r, 0, FC0), (int64_t)D * F);
    small_check(variants_fold(r.session->fleet, 0, make(&m, FC0, D, 8, 20, 2, 1), 1, r.problems), r.problems,
                "folding");
    float *own = small_download(&r, weight_of(&r, 0, FC0), (int64_t)D * F),
          *other = small_download(&r, weight_of(&r, 1, FC0), (int64_t)D * F);
    cr_expect_eq(memcmp(other, before, D * F * sizeof *other), 0, "b's weights changed");
    for (int64_t o = 0; o < F; o++)
        for (int64_t i = 0; i < D; i++) {
            double sum = before[o * D + i];
            for (int j = 0; j < 2 && o >= 8 && o < 28; j++)
                sum += 0.5 * (double)m.b[j * 20 + o - 8] * (double)m.a[j * D + i];
            cr_assert_float_eq(own[o * D + i], sum, 1e-6);
            cr_assert(o >= 8 && o < 28 ? own[o * D + i] != before[o * D + i]
                                       : own[o * D + i] == before[o * D + i]);
        }
    free(before);
    free(own);
    free(other);
    small_close(&r);
}

Test(variants, folding_where_nothing_is_replaced_is_refused) {
    small_run r = open_run();
    static made_factors m;
    fleet *f = r.session->fleet;
    cr_expect_eq(variants_fold(f, 2, make(&m, FC0, D, 0, F, 1, 1), 1, r.problems), EXIT_RUN);
    cr_expect(mentions(r.problems, "population 'c' has no base variant"), "%s", all_messages(r.problems));
    cr_expect_eq(variants_fold(f, 0, make(&m, BASE_QKV, D, 0, 8, 1, 1), 1, r.problems), EXIT_RUN);
    cr_expect_eq(variants_fold(f, 0, make(&m, FC0, D, 60, 8, 1, 1), 1, r.problems), EXIT_RUN);
    cr_expect_eq(variants_version(f, 0), 1, "nothing was folded");
    small_close(&r);
}

/* ---- Checkpoints ----------------------------------------------------------------------------- */

static void train(small_run *r, int round) {
    r->session->at.round = round;
    for (int i = 0; i < r->settings->local_steps; i++) {
        small_check(session_local_step(r->session, r->problems), r->problems, "step");
        small_check(session_follow_ups(r->session, r->problems), r->problems, "burst");
    }
}

static const double *losses(small_run *r) {
    small_check(
        session_evaluate(r->session, (evaluation_order){.part = DATA_TEST}, METRIC_TEST_LOSS, r->problems),
        r->problems, "evaluation");
    return metric_doubles(&r->session->numbers, METRIC_TEST_LOSS);
}

/* rank: of the new versions; 40 is more than the weights themselves take. */
static void expect_restored(int rank) {
    small_run first = open_run(), second = open_run();
    checkpoint saved, found;
    char path[5000];
    snprintf(path, sizeof path, "%s/checkpoint-%d.h5", small_folder(), rank);
    small_check(checkpoints_create(first.session, &saved, first.problems), first.problems, "checkpoint");
    small_check(checkpoints_create(second.session, &found, second.problems), second.problems, "checkpoint");
    train(&first, 1);
    fold(&first, 1, rank, 1);
    fold(&first, 1, rank, 8);
    for (int i = 0; i < 3; i++) variants_bring(first.session->fleet, &first.session->fleet->devices[i]);
    small_check(checkpoints_save(first.session, 1, &saved, path, first.problems), first.problems, "saving");
    small_check(checkpoints_restore(second.session, &found, path, second.problems), second.problems,
                "restoring");
    for (int i = 0; i < 5; i++)
        cr_expect_eq(second.session->fleet->devices[i].variant_version,
                     first.session->fleet->devices[i].variant_version, "device %d", i);
    for (int round = 2; round < 4; round++) {
        for (int which = 0; which < 2; which++) {
            cr_expect_eq(variants_version(second.session->fleet, which),
                         variants_version(first.session->fleet, which));
            expect_same_weights(&first, &second, which);
        }
        train(&first, round);
        train(&second, round);
        cr_expect_arr_eq(losses(&first), losses(&second), 5 * sizeof(double));
        fold(&first, 1, 1, 20);
        fold(&second, 1, 1, 20);
    }
    cr_expect_eq(variants_bring(second.session->fleet, &second.session->fleet->devices[3]),
                 variants_bring(first.session->fleet, &first.session->fleet->devices[3]));
    checkpoints_destroy(&saved);
    checkpoints_destroy(&found);
    small_close(&first);
    small_close(&second);
}

Test(variants, a_checkpoint_brings_back_factors) {
    expect_restored(2);
}

Test(variants, a_checkpoint_brings_back_weights_where_factors_are_more) {
    expect_restored(40);
}

/* Versions change what is computed: else the tests above would compare nothing. */
Test(variants, a_new_version_changes_losses) {
    small_run r = open_run();
    double before[5];
    memcpy(before, losses(&r), sizeof before);
    cr_expect_neq(before[0], before[4], "a and c have the same text and initial adapters");
    fold(&r, 1, 2, 1);
    const double *after = losses(&r);
    cr_expect_eq(after[0], before[0]);
    cr_expect_neq(after[2], before[2]);
    cr_expect_eq(after[4], before[4]);
    small_close(&r);
}

Test(variants, damaged_bytes_of_a_checkpoint_are_refused) {
    small_run r = open_run();
    uint8_t *saved = NULL;
    int64_t bytes = 0;
    fold(&r, 0, 2, 1);
    small_check(variants_save(r.session->fleet, &saved, &bytes, r.problems), r.problems, "saving");
    for (int64_t cut = 8; cut < bytes; cut += bytes / 4 + 1) {
        small_run other = open_run();
        cr_expect_eq(variants_restore(other.session->fleet, saved, cut, "c.h5", other.problems), EXIT_INPUT);
        cr_expect(mentions(other.problems, "c.h5: /variants"), "%s", all_messages(other.problems));
        small_close(&other);
    }
    saved[2 * sizeof(int64_t)] ^= 0x40; /* how many bytes of factors there are */
    small_run other = open_run();
    cr_expect_eq(variants_restore(other.session->fleet, saved, bytes, "c.h5", other.problems), EXIT_INPUT);
    small_close(&other);
    small_run plain = small_open("  - {name: c, method: local, devices: 1}\n", 0, NULL);
    cr_expect_eq(variants_restore(plain.session->fleet, saved, bytes, "c.h5", plain.problems), EXIT_INPUT);
    small_close(&plain);
    free(saved);
    small_close(&r);
}

/* ---- Merging --------------------------------------------------------------------------------- */

static void append(small_run *r, const uint8_t *saved, int64_t n, int which, uint8_t **out, int64_t *bytes) {
    const saved_variants from = {r->session->fleet, saved, n};
    small_check(variants_append_saved(&from, which, out, bytes, r->problems), r->problems, "merging");
}

Test(variants, what_is_saved_of_populations_is_put_together) {
    small_run r = open_run(), other = open_run();
    uint8_t *saved = NULL, *all = NULL, *one = NULL;
    int64_t n = 0, n_all = 0, n_one = 0;
    fold(&r, 0, 2, 1);
    fold(&r, 1, 2, 1);
    fold(&r, 1, 3, 8);
    small_check(variants_save(r.session->fleet, &saved, &n, r.problems), r.problems, "saving");
    for (int which = 0; which < 3; which++) append(&r, saved, n, which, &all, &n_all);
    cr_assert_eq(n_all, n);
    cr_expect_eq(memcmp(all, saved, (size_t)n), 0);
    append(&r, NULL, 0, 0, &one, &n_one); /* a run in which nothing was folded in */
    append(&r, saved, n, 1, &one, &n_one);
    append(&r, saved, n, 2, &one, &n_one);
    small_check(variants_restore(other.session->fleet, one, n_one, "c.h5", other.problems), other.problems,
                "restoring");
    cr_expect_eq(variants_version(other.session->fleet, 0), 1);
    cr_expect_eq(variants_version(other.session->fleet, 1), 3);
    expect_same_weights(&r, &other, 1);
    const saved_variants cut = {r.session->fleet, saved, n - 8};
    cr_expect_eq(variants_append_saved(&cut, 1, &one, &n_one, r.problems), EXIT_INPUT);
    free(saved);
    free(all);
    free(one);
    small_close(&r);
    small_close(&other);
}

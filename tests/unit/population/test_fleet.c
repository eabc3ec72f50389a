/* Devices, their shapes, what is averaged, and what they start from. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "model/pretrain.h"
#include "population/fleet.h"
#include "unit/data_files.h"
#include "unit/small_run.h"

enum { WIDTH = 16, FFN = 64, RANK = 4, LAYERS = 2 };

static fleet *make_fleet(settings *s) {
    problems *list = problems_create();
    base_shape shape = pretrain_shape(s);
    fleet *f = NULL;
    small_check(fleet_create(s, &shape, &f, list), list, "fleet");
    problems_destroy(list);
    return f;
}

static float *initial_pack(const fleet *f, int index) {
    const device *d = &f->devices[index];
    float *pack = malloc((size_t)f->shapes[d->shape].total * sizeof *pack);
    fleet_init_pack(&f->populations[d->population], d, &f->shapes[d->shape], pack);
    return pack;
}

static const float *a1_of(const ck_shape *s, const float *pack, int layer, int expert) {
    return pack + layer * s->layer_stride + s->route +
           (int64_t)(s->router_rows + s->rank_first[expert]) * s->width;
}

static const float *a2_of(const ck_shape *s, const float *pack, int layer, int expert) {
    return pack + layer * s->layer_stride + s->a2 + (int64_t)s->rank_first[expert] * s->ffn;
}

static bool same_a(const fleet *f, int device1, int expert1, int device2, int expert2) {
    float *p1 = initial_pack(f, device1), *p2 = initial_pack(f, device2);
    const ck_shape *s1 = &f->shapes[f->devices[device1].shape], *s2 = &f->shapes[f->devices[device2].shape];
    bool same = true;
    for (int l = 0; l < LAYERS; l++) {
        same &=
            memcmp(a1_of(s1, p1, l, expert1), a1_of(s2, p2, l, expert2), RANK * WIDTH * sizeof(float)) == 0;
        same &= memcmp(a2_of(s1, p1, l, expert1), a2_of(s2, p2, l, expert2), RANK * FFN * sizeof(float)) == 0;
    }
    free(p1);
    free(p2);
    return same;
}

Test(fleet, counts_what_is_shared_and_what_is_private) {
    settings *s =
        small_settings("  - {name: c, method: comigs, devices: 3, generalists: 1, specialists: [1, 2, 0]}\n"
                       "  - {name: l, method: local, devices: 2}\n"
                       "  - {name: f, method: fedavg, devices: 2}\n"
                       "  - {name: p, method: centralized, devices: 5}\n",
                       0, NULL);
    fleet *f = make_fleet(s);
    int64_t expert = LAYERS * RANK * 2 * (WIDTH + FFN), attention = LAYERS * RANK * 6 * WIDTH,
            router = LAYERS * WIDTH;
    cr_assert_eq(f->n_devices, 3 + 2 + 2 + 1);
    const int64_t shared[] = {expert + attention,
                              expert + attention,
                              expert + attention,
                              0,
                              0,
                              2 * expert + attention,
                              2 * expert + attention,
                              0};
    const int64_t own[] = {expert + 2 * router,
                           2 * expert + 3 * router,
                           0,
                           2 * expert + attention,
                           2 * expert + attention,
                           0,
                           0,
                           2 * expert + attention};
    for (int i = 0; i < f->n_devices; i++) {
        cr_expect_eq(f->devices[i].parameters_shared, shared[i], "device %d shares %lld, expected %lld", i,
                     (long long)f->devices[i].parameters_shared, (long long)shared[i]);
        cr_expect_eq(f->devices[i].parameters_private, own[i], "device %d keeps %lld, expected %lld", i,
                     (long long)f->devices[i].parameters_private, (long long)own[i]);
        cr_expect_eq(f->devices[i].bytes_a_round, 4 * shared[i]);
    }
    cr_expect_eq(f->n_groups, 2, "only comigs and fedavg average");
    cr_expect_eq(fleet_totals(f, &f->devices[f->populations[3].first_device])->batch[DATA_TRAIN], 10,
                 "centralized sees the batches of all 5 devices");
    fleet_destroy(f);
    settings_destroy(s);
}

Test(fleet, balance_coefficients_follow_the_formula) {
    const char *overrides[] = {"experts.balance=0.02", "experts.balance_importance=0.25"};
    settings *s =
        small_settings("  - {name: c, method: comigs, devices: 2, generalists: 1, specialists: [3, 1]}\n"
                       "  - {name: g, method: comigs, devices: 1, generalists: 3, specialists: 0}\n"
                       "  - {name: m, method: local, devices: 1, specialists: 3}\n",
                       2, overrides);
    fleet *f = make_fleet(s);
    const ck_shape *four = &f->shapes[f->devices[0].shape], *two = &f->shapes[f->devices[1].shape];
    const ck_shape *generalists = &f->shapes[f->devices[2].shape], *mean = &f->shapes[f->devices[3].shape];
    /* lambda E / L = 0.04; c_g = 1 / (0.25 * 4) = 1, c_s = 3 / (0.75 * 4) = 1 */
    cr_expect_float_eq(four->balance[0], 0.04, 1e-7);
    cr_expect_float_eq(four->balance[3], 0.04, 1e-7);
    /* lambda E / L = 0.02; c_g = 1 / (0.25 * 2) = 2, c_s = 1 / (0.75 * 2) = 2/3 */
    cr_expect_float_eq(two->balance[0], 0.04, 1e-7);
    cr_expect_float_eq(two->balance[1], 0.02 * 2.0 / 3.0, 1e-7);
    cr_expect_float_eq(generalists->balance[1], 0.02 * 3 / LAYERS, 1e-7, "without specialists c is 1");
    cr_expect_eq(mean->balance[0], 0.0F, "without a router there is nothing to balance");
    cr_expect(four->balanced && two->balanced && generalists->balanced && !mean->balanced);
    fleet_destroy(f);
    settings_destroy(s);
}

/* Root mean square of a device's second matrix in a layer, and the matrix. */
static double second_matrix(const fleet *f, int index, int layer,
                            float out[CK_MAX_EXPERTS * CK_MAX_EXPERTS]) {
    const ck_shape *s = &f->shapes[f->devices[index].shape];
    const ck_block *block = &s->block[CK_BLOCK_ROUTER_OUT];
    float *pack = initial_pack(f, index);
    double square = 0;
    int64_t n = (int64_t)block->rows * block->columns;
    memcpy(out, pack + layer * s->layer_stride + block->offset, (size_t)n * sizeof *out);
    for (int64_t i = 0; i < n; i++) square += pow((double)out[i], 2) / (double)n;
    free(pack);
    return sqrt(square);
}

Test(fleet, llama_moe_routers_have_a_second_matrix_and_equal_balance) {
    const char *overrides[] = {"experts.balance=0.02", "experts.balance_importance=0.25",
                               "experts.router=llama_moe"};
    settings *s =
        small_settings("  - {name: c, method: comigs, devices: 2, generalists: 1, specialists: 15, rank: 1}\n"
                       "  - {name: m, method: local, devices: 1, specialists: 3}\n"
                       "  - {name: one, method: comigs, devices: 1, generalists: 1, specialists: 0}\n",
                       3, overrides);
    fleet *f = make_fleet(s);
    const ck_shape *routed = &f->shapes[f->devices[0].shape];
    cr_expect_eq(routed->router, CK_ROUTER_LLAMA_MOE);
    cr_expect_eq(routed->block[CK_BLOCK_ROUTER_OUT].rows, 16);
    cr_expect_eq(routed->block[CK_BLOCK_ROUTER_OUT].columns, 16);
    for (int e = 0; e < 16; e++) cr_expect_float_eq(routed->balance[e], 0.02 / LAYERS, 1e-7, "expert %d", e);
    for (int i = 2; i < 4; i++)
        cr_expect_eq(f->shapes[f->devices[i].shape].block[CK_BLOCK_ROUTER_OUT].rows, 0,
                     "without a router there is no second matrix");
    float first[256], other_layer[256], other_device[256];
    double root = second_matrix(f, 0, 0, first);
    cr_expect(root > 0.015 && root < 0.025, "R2 ~ N(0, 0.02^2): %g", root);
    second_matrix(f, 0, 1, other_layer);
    second_matrix(f, 1, 0, other_device);
    cr_expect(memcmp(first, other_layer, sizeof first) != 0 &&
              memcmp(first, other_device, sizeof first) != 0);
    float *pack = initial_pack(f, 0);
    cr_expect(memcmp(first, pack + routed->route, sizeof first) != 0, "it is not a copy of the first matrix");
    free(pack);
    fleet_destroy(f);
    settings_destroy(s);
}

Test(fleet, starts_paired_populations_from_the_same_tensors) {
    settings *s = small_settings("  - {name: a, method: comigs, devices: 2, generalists: 1, specialists: 1}\n"
                                 "  - {name: b, method: comigs, devices: 2, generalists: 1, specialists: 3}\n"
                                 "  - {name: c, method: comigs, devices: 2, seed: 43}\n"
                                 "  - {name: d, method: fedavg, devices: 2, generalists: 2}\n",
                                 0, NULL);
    fleet *f = make_fleet(s);
    cr_expect(same_a(f, 0, 0, 1, 0), "a generalist starts equal on all devices");
    cr_expect(same_a(f, 0, 0, 2, 0), "and in all populations of the seed");
    cr_expect(same_a(f, 0, 0, 6, 0), "whatever the method");
    cr_expect(!same_a(f, 0, 0, 4, 0), "but not for another seed");
    cr_expect(same_a(f, 0, 1, 2, 1), "a device's first specialist does not depend on how many there are");
    cr_expect(!same_a(f, 0, 1, 1, 1), "specialists differ between devices");
    cr_expect(!same_a(f, 2, 1, 2, 2), "and between each other");
    cr_expect(!same_a(f, 6, 0, 6, 1), "generalists differ between each other");
    cr_expect(same_a(f, 6, 1, 7, 1));
    fleet_destroy(f);
    settings_destroy(s);
}

Test(fleet, initial_values_have_their_distribution) {
    const char *overrides[] = {"experts.rank=16"};
    settings *s = small_settings(
        "  - {name: a, method: comigs, devices: 1, generalists: 4, specialists: 4}\n", 1, overrides);
    fleet *f = make_fleet(s);
    const ck_shape *shape = &f->shapes[0];
    float *pack = initial_pack(f, 0);
    double largest = 0.0, squares = 0.0, router = 0.0;
    int64_t n = (int64_t)shape->rank_sum * WIDTH, routed = (int64_t)shape->router_rows * WIDTH;
    for (int64_t i = 0; i < n; i++) {
        double a = a1_of(shape, pack, 0, 0)[i];
        largest = fmax(largest, fabs(a));
        squares += a * a / (double)n;
    }
    for (int64_t i = 0; i < routed; i++) router += pow(pack[shape->route + i], 2.0) / (double)routed;
    cr_expect_leq(largest, 1.0 / sqrt(WIDTH));
    cr_expect_gt(largest, 0.98 / sqrt(WIDTH));
    cr_expect_float_eq(squares, 1.0 / (3.0 * WIDTH), 0.1 / (3.0 * WIDTH));
    cr_expect_float_eq(sqrt(router), 0.02, 0.005);
    for (int64_t i = 0; i < (int64_t)shape->rank_sum * FFN; i++) cr_assert_eq(pack[shape->b1 + i], 0.0F);
    for (int64_t i = 0; i < (int64_t)shape->rank_sum * WIDTH; i++) cr_assert_eq(pack[shape->b2 + i], 0.0F);
    free(pack);
    fleet_destroy(f);
    settings_destroy(s);
}

/* Which floats of a pack are averaged, as the method says. */
static bool *shared_mask(const fleet *f, const device *d) {
    const ck_shape *shape = &f->shapes[d->shape];
    const population *p = &f->populations[d->population];
    bool *mask = calloc((size_t)shape->total, sizeof *mask);
    for (int i = 0; i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        if (!p->method->shares(&part, d->generalists)) continue;
        for (int64_t j = 0; j < (int64_t)part.rows * part.columns; j++) mask[part.offset + j] = true;
    }
    return mask;
}

static float value(int device_index, int64_t at) {
    return (float)(device_index + 1) * 1000.0F + (float)(at % 997);
}

/* The router's rows, and every specialist, must keep the device's own values; the generalist becomes the
 * mean. */
Test(fleet, averages_generalists_over_ragged_devices) {
    small_run r =
        small_open("  - {name: l, method: local, devices: 1}\n"
                   "  - {name: c, method: comigs, devices: 4, generalists: 1, specialists: [1, 3, 0, 2]}\n",
                   0, NULL);
    fleet *f = r.session->fleet;
    float *before = malloc((size_t)f->n_parameters * sizeof *before);
    for (int i = 0; i < f->n_devices; i++)
        for (int64_t j = 0; j < f->shapes[f->devices[i].shape].total; j++)
            before[f->devices[i].pack + j] = value(i, j);
    cr_assert_eq(ck_upload(f->stream, f->parameters, before, (size_t)f->n_parameters * sizeof *before),
                 CK_OK);
    small_check(fleet_aggregate(f, 1, r.problems), r.problems, "aggregate");
    float *after = small_download(&r, f->parameters, f->n_parameters);
    const device *first = &f->devices[1];
    const ck_shape *shape1 = &f->shapes[first->shape];
    for (int i = 0; i < f->n_devices; i++) {
        const device *d = &f->devices[i];
        const ck_shape *shape = &f->shapes[d->shape];
        bool *mask = shared_mask(f, d);
        for (int64_t j = 0; j < shape->total; j++)
            if (!mask[j])
                cr_assert_eq(after[d->pack + j], before[d->pack + j], "device %d float %lld is private", i,
                             (long long)j);
        for (int l = 0; l < LAYERS && i > 0; l++)
            for (int64_t j = 0; j < RANK * FFN; j++) {
                int64_t at = l * shape->layer_stride + shape->a2 + j,
                        at1 = l * shape1->layer_stride + shape1->a2 + j;
                cr_assert(mask[at], "A2 of the generalist is shared");
                cr_assert_eq(after[d->pack + at], after[first->pack + at1], "device %d agrees with device 1",
                             i);
            }
        free(mask);
    }
    double sum = 0.0;
    for (int i = 1; i <= 4; i++) {
        const ck_shape *shape = &f->shapes[f->devices[i].shape];
        sum += before[f->devices[i].pack + shape->layer_stride + shape->b2 + 5] / 4.0;
    }
    cr_expect_float_eq(after[first->pack + shape1->layer_stride + shape1->b2 + 5], sum, 1e-3);
    free(before);
    free(after);
    small_close(&r);
}

/* Two sources of 600 and 900 tokens, two devices each. */
static small_run open_uneven_text(const char *populations) {
    static char text[5000];
    snprintf(text, sizeof text, "data.corpus=%s", small_folder());
    for (int source = 0; source < 2; source++)
        for (int part = 0; part < 3; part++) {
            static const char *const names[] = {"train_%d.bin", "valid_%d.bin", "test_%d.bin"};
            char name[32];
            snprintf(name, sizeof name, names[part], source);
            data_write_shard(small_folder(), name, source, source == 0 ? 600 : 900);
        }
    const char *overrides[] = {text, "data.tokens_per_device=0", "data.valid_tokens_per_device=0",
                               "data.test_tokens_per_device=0", "base.vocabulary=256"};
    return small_open(populations, 5, overrides);
}

static void expect_mean(const small_run *r, int which, const double weights[4]) {
    const population *p = &r->session->fleet->populations[which];
    const fleet *f = r->session->fleet;
    const device *first = &f->devices[p->first_device];
    int64_t at = ck_block_of(&f->shapes[first->shape], CK_LORA, CK_SITE_QKV, CK_FACTOR_A)->offset + 5;
    float *before = malloc((size_t)f->n_parameters * sizeof *before);
    for (int i = 0; i < f->n_devices; i++)
        for (int64_t j = 0; j < f->shapes[f->devices[i].shape].total; j++)
            before[f->devices[i].pack + j] = value(i, j);
    cr_assert_eq(ck_upload(f->stream, f->parameters, before, (size_t)f->n_parameters * sizeof *before),
                 CK_OK);
    small_check(fleet_aggregate(r->session->fleet, 1, r->problems), r->problems, "aggregate");
    float *after = small_download(r, f->parameters, f->n_parameters);
    double mean = 0.0;
    for (int i = 0; i < 4; i++) mean += weights[i] * before[first[i].pack + at];
    for (int i = 0; i < 4; i++)
        cr_expect_float_eq(after[first[i].pack + at], mean, 1e-5 * mean,
                           "population %d, device %d: %.9g, expected %.9g", which, i,
                           (double)after[first[i].pack + at], mean);
    free(before);
    free(after);
}

Test(fleet, devices_weigh_by_their_training_tokens_or_the_same) {
    small_run r =
        open_uneven_text("  - {name: f, method: fedavg, devices: 4}\n"
                         "  - {name: u, method: fedavg, devices: 4, aggregate: {weights: uniform}}\n"
                         "  - {name: c, method: comigs, devices: 4}\n"
                         "  - {name: t, method: comigs, devices: 4, aggregate: {weights: tokens}}\n");
    const double tokens[] = {0.2, 0.3, 0.2, 0.3}, uniform[] = {0.25, 0.25, 0.25, 0.25};
    for (int i = 0; i < 4; i++) expect_mean(&r, i, i == 0 || i == 3 ? tokens : uniform);
    small_close(&r);
}

/* n / (N n) is 1 / N to the last bit. */
Test(fleet, equal_texts_weigh_the_same_in_every_bit) {
    static const int numbers[] = {3, 7, 10, 49};
    for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) {
        int devices = numbers[n];
        char entries[160];
        snprintf(entries, sizeof entries,
                 "  - {name: f, method: fedavg, devices: %d}\n  - {name: c, method: comigs, devices: %d}\n",
                 devices, devices);
        small_run r = small_open(entries, 0, NULL);
        const ck_group *groups = r.session->fleet->groups;
        for (int i = 0; i < devices; i++)
            cr_assert_eq(groups[0].weights[i], groups[1].weights[i], "%d devices", devices);
        small_close(&r);
    }
}

/* The last device joins in round 3 of 3. Whatever it holds, not even numbers, enters no average; it gets that
 * of round 2, and of round 3. */
Test(fleet, a_late_device_receives_the_average_of_the_others_and_adds_nothing_to_it) {
    static const char *const three[] = {"train.rounds=3"};
    small_run r = small_open("  - {name: u, method: fedavg, devices: 4, aggregate: {weights: uniform}, "
                             "held_out: {devices: 1, rounds: 1}}\n",
                             1, three);
    fleet *f = r.session->fleet;
    const device *d = f->devices;
    int64_t at = ck_block_of(&f->shapes[d->shape], CK_LORA, CK_SITE_QKV, CK_FACTOR_A)->offset + 5;
    for (int round = 1; round <= 3; round++) {
        float values[] = {1.0F, 2.0F, 6.0F, NAN};
        for (int i = 0; i < 4; i++)
            cr_assert_eq(ck_upload(f->stream, f->parameters + d[i].pack + at, &values[i], sizeof values[i]),
                         CK_OK);
        small_check(fleet_aggregate(f, round, r.problems), r.problems, "aggregate");
        float *after = small_download(&r, f->parameters, f->n_parameters);
        for (int i = 0; i < 3; i++)
            cr_expect_float_eq(after[d[i].pack + at], 3.0, 1e-6, "round %d, device %d", round, i);
        if (round == 1)
            cr_expect(isnan(after[d[3].pack + at]), "it is not there yet");
        else
            cr_expect_eq(after[d[3].pack + at], after[d[0].pack + at], "round %d", round);
        free(after);
    }
    small_close(&r);
}

/* What is planned for a device is what it will do. */
Test(fleet, totals_are_those_of_the_steps_of_a_device) {
    static const char *const longer[] = {"train.rounds=7", "train.local_steps=5", "train.router.every=7"};
    small_run r = small_open("  - {name: c, method: comigs, devices: 3, held_out: {devices: 1, rounds: 3}}\n"
                             "  - {name: s, method: comigs, devices: 2, as_released: true}\n"
                             "  - {name: l, method: local, devices: 2, held_out: {devices: 1, rounds: 7}}\n",
                             3, longer);
    const fleet *f = r.session->fleet;
    for (int i = 0; i < f->n_devices; i++) {
        schedule_entry entries[SCHEDULE_MOST];
        int64_t steps[DATA_SPLITS] = {0};
        for (int64_t step = 0; step < f->local_steps; step++) {
            int n = fleet_schedule(f, &f->devices[i], step, entries);
            for (int j = 0; j < n; j++) steps[entries[j].text] += entries[j].steps;
        }
        for (int part = 0; part < DATA_SPLITS; part++)
            cr_expect_eq(steps[part], fleet_totals(f, &f->devices[i])->steps[part], "device %d, part %d", i,
                         part);
    }
    /* 15 steps from the fifth round on, and 2 bursts of 2 among them */
    cr_expect_eq(fleet_totals(f, &f->devices[2])->steps[DATA_TRAIN], 15);
    cr_expect_eq(fleet_totals(f, &f->devices[2])->steps[DATA_VALID], 4);
    cr_expect_eq(fleet_totals(f, &f->devices[0])->steps[DATA_TRAIN], 35);
    cr_expect_eq(fleet_totals(f, &f->devices[0])->steps[DATA_VALID], 10);
    small_close(&r);
}

Test(fleet, a_stopped_population_is_not_averaged) {
    small_run r = small_open("  - {name: a, method: fedavg, devices: 2}\n"
                             "  - {name: b, method: comigs, devices: 2}\n",
                             0, NULL);
    fleet *f = r.session->fleet;
    cr_assert_eq(f->n_groups, 2);
    fleet_stop(f, 0);
    cr_expect_eq(f->n_groups, 1);
    cr_expect_eq(f->holders[0].population, 1);
    cr_expect(f->devices[0].stopped && f->devices[1].stopped && !f->devices[2].stopped);
    small_check(fleet_aggregate(f, 1, r.problems), r.problems, "aggregate");
    small_close(&r);
}

Test(fleet, refuses_to_average_different_numbers_of_experts) {
    settings *s = small_settings(
        "  - {name: f, method: fedavg, devices: 2, generalists: 1, specialists: [1, 2]}\n", 0, NULL);
    problems *list = problems_create();
    base_shape shape = pretrain_shape(s);
    fleet *f = NULL;
    cr_expect_eq(fleet_create(s, &shape, &f, list), EXIT_INPUT);
    cr_assert_eq(problems_count(list), 1);
    cr_expect_not_null(strstr(problems_message(list, 0), "device 1 has 2"), "%s", problems_message(list, 0));
    cr_expect_null(f);
    problems_destroy(list);
    settings_destroy(s);
}

/* Which devices average what, where they differ in their generalists and ranks. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "config/config.h"
#include "kernels.h"
#include "population/fleet.h"
#include "unit/small_run.h"

enum { DEVICES = 4, ROUNDS = 3 };

/* Every value of a pack says whose it is, and of which part. */
static float value(int device_index, const ck_part *part) {
    return (float)(device_index + 1) * (float)(100 + 10 * (part->expert + 1) + (part->layer + 1));
}

static void fill(const fleet *f, float *all) {
    for (int i = 0; i < f->n_devices; i++) {
        const ck_shape *shape = &f->shapes[f->devices[i].shape];
        for (int p = 0; p < ck_part_count(shape); p++) {
            ck_part part = ck_part_at(shape, p);
            for (int64_t j = 0; j < (int64_t)part.rows * part.columns; j++)
                all[f->devices[i].pack + part.offset + j] = value(i, &part);
        }
    }
}

/* The mean of a part over the devices with more generalists than its number that are not held out, by hand; what
 * a device does not receive stays. */
static double expected(const fleet *f, int device_index, const ck_part *part, const double *weights,
                       int round) {
    double sum = 0, all = 0;
    int own = f->devices[device_index].generalists;
    const population_settings *p = f->populations[0].settings;
    int senders = p->devices - p->held_out.devices;
    if (ck_is_of_router(part->factor) || own == 0 || part->expert >= own) return value(device_index, part);
    if (device_index >= senders && round < ROUNDS - p->held_out.rounds) return value(device_index, part);
    for (int i = 0; i < senders; i++) {
        if (f->devices[i].generalists == 0 || f->devices[i].generalists <= part->expert) continue;
        sum += weights[i] * value(i, part);
        all += weights[i];
    }
    return all > 0 ? sum / all : value(device_index, part);
}

/* Aggregates a population of four devices, the only one, and returns the floats that changed. */
static int64_t expect_means_after(int round, const char *entry, const double *weights) {
    small_run r = small_open(entry, 1, (const char *const[]){"train.rounds=3"});
    fleet *f = r.session->fleet;
    float *all = calloc((size_t)f->n_parameters, sizeof *all);
    int64_t changed = 0;
    cr_assert_eq(f->n_devices, DEVICES);
    fill(f, all);
    cr_assert_eq(ck_upload(f->stream, f->parameters, all, (size_t)f->n_parameters * sizeof *all), CK_OK);
    small_check(fleet_aggregate(f, round, r.problems), r.problems, "aggregate");
    float *after = small_download(&r, f->parameters, f->n_parameters);
    for (int i = 0; i < DEVICES; i++) {
        const device *d = &f->devices[i];
        const ck_shape *shape = &f->shapes[d->shape];
        for (int p = 0; p < ck_part_count(shape); p++) {
            ck_part part = ck_part_at(shape, p);
            double wanted = expected(f, i, &part, weights, round);
            for (int64_t j = 0; j < (int64_t)part.rows * part.columns; j++) {
                double found = after[d->pack + part.offset + j];
                cr_assert_float_eq(found, wanted, 1e-5 * wanted,
                                   "%s: device %d, expert %d, layer %d: %g, expected %g", entry, i,
                                   part.expert, part.layer, found, wanted);
                changed += found != (double)value(i, &part);
            }
        }
    }
    free(all);
    free(after);
    small_close(&r);
    return changed;
}

static int64_t expect_means(const char *entry, const double *weights) {
    return expect_means_after(1, entry, weights);
}

Test(sharing, a_generalist_is_averaged_over_the_devices_that_hold_it) {
    static const double uniform[] = {1, 1, 1, 1}, tokens[] = {200, 300, 300, 600};
    cr_expect_gt(expect_means("  - {name: a, method: comigs, devices: 4, generalists: [2, 1, 4, 2], "
                              "specialists: [0, 2, 0, 1]}\n",
                              uniform),
                 0);
    expect_means("  - {name: a, method: pfedmoe, devices: 4, generalists: [1, 3, 3, 2], specialists: 1}\n",
                 uniform);
    expect_means("  - {name: a, method: comigs, devices: 4, generalists: [2, 2, 1, 1], specialists: 1, "
                 "data: {tokens_per_device: [200, 300, 300, 600]}, aggregate: {weights: tokens}}\n",
                 tokens);
}

/* They join in round 3 of 3, and hold a generalist that one device sends, and one that nobody does. */
Test(sharing, held_out_devices_receive_the_generalists_that_they_hold_and_send_none) {
    static const double uniform[] = {1, 1, 1, 1}, tokens[] = {200, 300, 300, 600};
    int64_t changed[ROUNDS + 1] = {0};
    for (int round = 1; round <= ROUNDS; round++) {
        changed[round] =
            expect_means_after(round,
                               "  - {name: a, method: comigs, devices: 4, generalists: [2, 1, 3, 3], "
                               "specialists: [0, 2, 0, 1], held_out: {devices: 2, rounds: 1}}\n",
                               uniform);
        expect_means_after(
            round,
            "  - {name: a, method: comigs, devices: 4, generalists: [2, 2, 1, 2], specialists: 1, "
            "data: {tokens_per_device: [200, 300, 300, 600]}, aggregate: {weights: tokens}, "
            "held_out: {devices: 1, rounds: 1}}\n",
            tokens);
    }
    cr_expect_gt(changed[1], 0);
    cr_expect_gt(changed[2], changed[1], "they receive as they join");
    cr_expect_eq(changed[3], changed[2]);
}

/* A device without generalists shares nothing, so its rank may be another. */
Test(sharing, devices_without_generalists_stand_apart) {
    static const double uniform[] = {1, 1, 1, 1};
    cr_expect_gt(
        expect_means("  - {name: a, method: comigs, devices: 4, generalists: [0, 1, 1, 1], specialists: 2, "
                     "rank: [2, 8, 8, 8]}\n",
                     uniform),
        0);
    cr_expect_eq(
        expect_means("  - {name: a, method: comigs, devices: 4, generalists: 0, rank: [2, 4, 8, 16]}\n",
                     uniform),
        0);
}

/* What one device alone holds is not sent. */
Test(sharing, traffic_is_what_others_hold_too) {
    small_run r =
        small_open("  - {name: a, method: comigs, devices: 4, generalists: [1, 1, 3, 2], specialists: 0, "
                   "attention: {rank: 0}}\n"
                   "  - {name: b, method: comigs, devices: 2, generalists: 1, specialists: 0, "
                   "attention: {rank: 0}}\n",
                   0, NULL);
    const device *d = r.session->fleet->devices;
    int64_t one = d[4].bytes_a_round;
    cr_assert_gt(one, 0);
    cr_expect_eq(one, 4 * d[4].parameters_shared);
    cr_expect_eq(d[0].bytes_a_round, one);
    cr_expect_eq(d[1].bytes_a_round, one);
    cr_expect_eq(d[2].bytes_a_round, 2 * one);
    cr_expect_eq(d[3].bytes_a_round, 2 * one);
    fleet_stop(r.session->fleet, 0);
    cr_expect_eq(r.session->fleet->n_groups, 1, "all groups of a population that diverged are gone");
    small_close(&r);
}

/* Nor what nobody sends, of several held-out devices. */
Test(sharing, traffic_of_held_out_devices_is_what_others_send) {
    small_run r =
        small_open("  - {name: a, method: comigs, devices: 4, generalists: [2, 1, 3, 3], specialists: 0, "
                   "attention: {rank: 0}, held_out: {devices: 2, rounds: 1}}\n",
                   0, NULL);
    const device *d = r.session->fleet->devices;
    int64_t one = d[1].bytes_a_round;
    cr_expect_eq(one, 4 * d[1].parameters_shared);
    cr_expect_eq(d[0].bytes_a_round, 2 * one);
    for (int i = 2; i < DEVICES; i++) cr_expect_eq(d[i].bytes_a_round, 2 * one);
    small_close(&r);
}

static const struct {
    const char *population, *expected;
} refused[] = {
    {"method: comigs, rank: [4, 4, 8, 16]", "method comigs averages experts, which must have one rank on all "
                                            "devices that share them; device 0 has rank 4, "
                                            "device 2 has rank 8; give experts.rank one number, or choose"},
    {"method: fedsa, rank: [4, 4, 4, 16]", "device 0 has rank 4, device 3 has rank 16"},
    {"method: comigs, generalists: [0, 1, 1, 2], specialists: 1, rank: [2, 8, 8, 4]",
     "device 1 has rank 8, device 3 has rank 4"},
    {"method: fedavg, specialists: [1, 1, 2, 1]", "method fedavg averages all experts, so every device must "
                                                  "have as many; device 0 has 1 specialists, device 2 has 2"},
    {"method: fedprox, generalists: [1, 2, 2, 3], held_out: {devices: 2, rounds: 1}",
     "method fedprox holds devices near what they receive, but device 3, which is held out, has 3 "
     "generalists, "
     "and no device that sends has as many; give one of the first 2 devices as many"},
};

Test(sharing, what_has_no_mean_is_refused_by_name) {
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char entry[256];
        fleet *f = NULL;
        problems *list = problems_create();
        snprintf(entry, sizeof entry, "  - {name: a, devices: 4, %s}\n", refused[i].population);
        settings *s = small_settings(entry, 0, NULL);
        base_shape shape = {.family = BASE_GPT2,
                            .layers = 2,
                            .width = 16,
                            .ffn = 64,
                            .heads = 2,
                            .kv_heads = 2,
                            .head_size = 8,
                            .vocabulary = 16,
                            .context = 16};
        cr_expect_eq(fleet_create(s, &shape, &f, list), EXIT_INPUT);
        cr_assert_eq(problems_count(list), 1);
        cr_expect(strstr(problems_message(list, 0), refused[i].expected), "%s", problems_message(list, 0));
        fleet_destroy(f);
        settings_destroy(s);
        problems_destroy(list);
    }
}

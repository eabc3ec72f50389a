/* What several processes rest on, looked at from one: calls of a process that is alone, how devices are
 * assigned, what is summed, and checkpoints in pieces. Real processes are in tests/cli/test_processes.sh. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collective/collective.h"
#include "config/config.h"
#include "engine/assign.h"
#include "model/pretrain.h"
#include "result/trace.h"
#include "support/processes.h"
#include "unit/small_run.h"
#include "unit/trace_fixture.h"

/* ---- Alone ---- */

Test(collective, every_way_is_listed_and_explains_itself) {
    int count = 0;
    const ck_backend_info *infos = ck_collectives(&count);
    cr_assert_eq(count, 3);
    cr_expect_str_eq(infos[0].name, "local");
    cr_expect_str_eq(infos[1].name, "mpi");
    cr_expect_str_eq(infos[2].name, "nccl");
    cr_expect_null(infos[0].unavailable);
    for (int i = 1; i < count; i++)
        cr_expect(!infos[i].unavailable || strlen(infos[i].unavailable) > 20, "%s", infos[i].unavailable);
}

Test(collective, without_mpirun_a_process_is_alone) {
    ck_collective *c = NULL;
    unsetenv("OMPI_COMM_WORLD_SIZE");
    cr_assert_eq(ck_collective_open(&c), CK_OK);
    cr_expect_eq(c, ck_collective_local());
    cr_expect(ck_process(c) == 0 && ck_processes(c) == 1 && ck_local_process(c) == 0 &&
              ck_local_processes(c) == 1);
    const int mine = 42;
    const size_t bytes = sizeof mine;
    int all = 0, gathered = 0, kept = 7;
    cr_expect_eq(ck_collective_exchange(c, &mine, bytes, &all), CK_OK);
    cr_expect_eq(ck_collective_gather(c, &mine, &bytes, &gathered), CK_OK);
    cr_expect(all == 42 && gathered == 42);
    cr_expect_eq(ck_collective_broadcast(c, &kept, bytes), CK_OK);
    cr_expect_eq(ck_collective_move(c, 0, 0, &kept, bytes), CK_OK);
    cr_expect_eq(kept, 7);
    cr_expect_not(ck_collective_broken(c));
    ck_collective_abort(c, 3); /* of nobody else */
    ck_collective_close(c);
}

Test(collective, alone_a_code_is_the_agreement) {
    problems *list = problems_create();
    cr_expect_eq(processes_agree(ck_collective_local(), EXIT_OK, list), EXIT_OK);
    cr_expect_eq(processes_agree(ck_collective_local(), EXIT_ENVIRONMENT, list), EXIT_ENVIRONMENT);
    cr_expect_eq(problems_count(list), 0);
    problems_destroy(list);
}

/* ---- Dealing ---- */

static const char *const MIXED = "  - {name: c, method: comigs, devices: 5, specialists: [1, 2, 1, 3, 1]}\n"
                                 "  - {name: r, method: comigs, devices: 2, as_released: true}\n"
                                 "  - {name: l, method: local, devices: 2}\n"
                                 "  - {name: f, method: fedavg, devices: 3}\n"
                                 "  - {name: p, method: centralized, devices: 4}\n";
enum { MIXED_DEVICES = 5 + 2 + 2 + 3 + 1, PROCESSES = 3 };

static fleet *fleet_of(const settings *s, int process, int processes) {
    problems *list = problems_create();
    base_shape shape = pretrain_shape(s);
    process_place place = {.process = process, .processes = processes, .on_machine = processes};
    fleet *f = NULL;
    small_check(fleet_create_at(place, s, &shape, &f, list), list, "fleet");
    problems_destroy(list);
    return f;
}

static void assign(fleet *f, int process, int processes, const double *cost) {
    problems *list = problems_create();
    process_place place = {.process = process, .processes = processes, .on_machine = processes};
    small_check(fleet_assign(f, place, cost, list), list, "assign");
    problems_destroy(list);
}

Test(assign, equal_devices_take_turns) {
    settings *s = small_settings("  - {name: l, method: local, devices: 7}\n", 0, NULL);
    fleet *f = fleet_of(s, 1, PROCESSES);
    for (int i = 0; i < 7; i++)
        cr_expect_eq(f->owner[i], i % PROCESSES, "device %d: process %d", i, f->owner[i]);
    cr_assert_eq(f->n_local, 2);
    cr_expect(f->local[0] == 1 && f->local[1] == 4);
    cr_expect(f->devices[1].pack == 0 && f->devices[4].pack == f->shapes[0].total &&
              f->devices[0].pack == -1);
    cr_expect_eq(f->n_parameters, 2 * f->shapes[0].total);
    cr_expect_eq(f->all_parameters, 7 * f->shapes[0].total);
    fleet_destroy(f);
    settings_destroy(s);
}

Test(assign, a_dear_device_is_alone_and_the_rest_balances) {
    settings *s = small_settings("  - {name: l, method: local, devices: 6}\n", 0, NULL);
    const double cost[] = {3, 1, 10, 3, 1, 2};
    const int expected[] = {1, 2, 0, 2, 2, 1}; /* 10 | 3 | 3; 2 joins the first 3; both 1 join the second */
    fleet *f = fleet_of(s, 0, 1);
    assign(f, 0, PROCESSES, cost);
    for (int i = 0; i < 6; i++)
        cr_expect_eq(f->owner[i], expected[i], "device %d: process %d", i, f->owner[i]);
    fleet_destroy(f);
    settings_destroy(s);
}

/* A pooled device costs as much as its population has devices; a larger bank costs more than a smaller one.
 */
Test(assign, costs_follow_tokens_and_banks) {
    settings *s = small_settings(MIXED, 0, NULL);
    base_shape shape = pretrain_shape(s);
    fleet *f = fleet_of(s, 0, 1);
    double small = assign_cost(s, &shape, f, 0), large = assign_cost(s, &shape, f, 3),
           one = assign_cost(s, &shape, f, 9), pooled = assign_cost(s, &shape, f, 12);
    cr_expect_gt(large, 1.01 * small);
    cr_expect(pooled > 2.0 * one && pooled < 4.0 * one, "pooled %g, one of fedavg %g", pooled, one);
    fleet_destroy(f);
    settings_destroy(s);
}

Test(assign, processes_agree_on_owners_and_on_what_is_packed) {
    settings *s = small_settings(MIXED, 0, NULL);
    fleet *whole = fleet_of(s, 0, 1), *part[PROCESSES];
    int64_t parameters = 0, carried = 0;
    int owners[MIXED_DEVICES] = {0};
    for (int p = 0; p < PROCESSES; p++) {
        part[p] = fleet_of(s, p, PROCESSES);
        cr_assert_eq(part[p]->n_devices, MIXED_DEVICES);
        cr_expect_arr_eq(part[p]->owner, part[0]->owner, sizeof owners);
        parameters += part[p]->n_parameters;
        carried += part[p]->n_carried;
        for (int i = 0; i < part[p]->n_local; i++) owners[part[p]->local[i]]++;
        cr_assert_eq(part[p]->n_groups, whole->n_groups);
        cr_expect_eq(part[p]->n_packed, whole->n_packed);
        for (int g = 0; g < whole->n_groups; g++) {
            cr_expect_eq(part[p]->groups[g].packed, whole->groups[g].packed);
            cr_assert_eq(part[p]->groups[g].n_ranges, whole->groups[g].n_ranges);
            cr_expect_arr_eq(part[p]->groups[g].count, whole->groups[g].count,
                             (size_t)whole->groups[g].n_ranges * sizeof(int64_t));
        }
    }
    for (int i = 0; i < MIXED_DEVICES; i++)
        cr_expect_eq(owners[i], 1, "device %d is owned %d times", i, owners[i]);
    cr_expect(parameters == whole->n_parameters && carried == whole->n_carried && carried > 0);
    for (int p = 0; p < PROCESSES; p++) fleet_destroy(part[p]);
    fleet_destroy(whole);
    settings_destroy(s);
}

/* Partial sums of the processes' members, added, are the population's mean: also with more processes than
 * members. */
static void expect_sums(int processes) {
    small_run r = small_open(MIXED, 0, NULL);
    const fleet *f = r.session->fleet;
    float *all = malloc((size_t)f->n_parameters * sizeof *all),
          *mean = calloc((size_t)f->n_packed, sizeof *mean);
    for (int64_t i = 0; i < f->n_parameters; i++) all[i] = sinf((float)i);
    cr_assert_eq(ck_group_sum(r.session->stream, all, f->groups, f->n_groups, mean), CK_OK);
    float *sum = calloc((size_t)f->n_packed, sizeof *sum),
          *packed = calloc((size_t)f->n_packed, sizeof *packed);
    for (int p = 0; p < processes; p++) {
        fleet *part = fleet_of(r.settings, p, processes);
        float *mine = malloc((size_t)part->n_parameters * sizeof *mine + 1);
        for (int i = 0; i < part->n_local; i++) {
            const device *d = &part->devices[part->local[i]];
            memcpy(mine + d->pack, all + f->devices[part->local[i]].pack,
                   (size_t)part->shapes[d->shape].total * sizeof *mine);
        }
        cr_assert_eq(ck_group_sum(r.session->stream, mine, part->groups, part->n_groups, packed), CK_OK);
        for (int64_t j = 0; j < f->n_packed; j++) sum[j] += packed[j];
        free(mine);
        fleet_destroy(part);
    }
    int nonzero = 0;
    for (int64_t j = 0; j < f->n_packed; j++) {
        nonzero += mean[j] != 0.0F;
        cr_assert_float_eq(sum[j], mean[j], 1e-6, "value %lld: %g, mean %g", (long long)j, (double)sum[j],
                           (double)mean[j]);
    }
    cr_expect_gt(nonzero, f->n_packed / 2);
    free(all);
    free(mean);
    free(sum);
    free(packed);
    small_close(&r);
}

Test(assign, sums_over_processes_are_the_means) {
    expect_sums(2);
    expect_sums(PROCESSES);
    expect_sums(MIXED_DEVICES + 4);
}

/* ---- Checkpoints in pieces ---- */

enum { VALUES = 1000, PIECE = 96 };

typedef struct {
    const checkpoint *whole; /* where the values come from, or are to arrive */
    float buffer[PIECE];
    packs_array which;
    int64_t first, count;
    int pieces;
} courier;

static float *array_of(const checkpoint *c, packs_array which) {
    float *const arrays[PACKS_ARRAYS] = {c->parameters, c->moment1, c->moment2, c->carried};
    return arrays[which];
}

/* Pieces of uneven lengths. */
static exit_code next_piece(void *context, packs_array which, int64_t first, int64_t *count, float **values,
                            problems *list) {
    (void)list;
    courier *k = context;
    k->which = which;
    k->first = first;
    k->count = *count = *count < PIECE ? *count : 1 + (first * 7 + 13) % PIECE;
    memcpy(k->buffer, array_of(k->whole, which) + first, (size_t)*count * sizeof(float));
    *values = k->buffer;
    k->pieces++;
    return EXIT_OK;
}

static exit_code piece_filled(void *context, problems *list) {
    (void)list;
    courier *k = context;
    memcpy(array_of(k->whole, k->which) + k->first, k->buffer, (size_t)k->count * sizeof(float));
    return EXIT_OK;
}

static checkpoint checkpoint_of(float *memory, int64_t counts[2], uint8_t stopped[2]) {
    return (checkpoint){.config_hash = "abc",
                        .round = 3,
                        .n_parameters = VALUES,
                        .parameters = memory,
                        .moment1 = memory + VALUES,
                        .moment2 = memory + 2 * VALUES,
                        .n_carried = VALUES,
                        .carried = memory + 3 * VALUES,
                        .n_devices = 2,
                        .state = {counts, counts, counts, counts, counts, counts, stopped}};
}

static void write_and_read(const checkpoint_pieces *writing, const checkpoint_pieces *reading, courier *to) {
    static float from_memory[4 * VALUES], to_memory[4 * VALUES];
    int64_t counts[2] = {5, 6}, found[2] = {0};
    uint8_t stopped[2] = {0, 1}, found_stopped[2] = {9, 9};
    char *path = fixture_path(fixture_folder(), "checkpoint.h5");
    problems *list = fixture_problems();
    for (int i = 0; i < 4 * VALUES; i++) from_memory[i] = (float)i;
    memset(to_memory, 0, sizeof to_memory);
    checkpoint from = checkpoint_of(from_memory, counts, stopped),
               target = checkpoint_of(to_memory, found, found_stopped);
    courier source = {.whole = &from};
    checkpoint_pieces pieces = writing ? *writing : (checkpoint_pieces){0};
    pieces.context = &source;
    checkpoint copy = from;
    if (writing) {
        copy.parameters = copy.moment1 = copy.moment2 = copy.carried = NULL;
        copy.pieces = &pieces;
    }
    cr_assert_eq(checkpoint_write(path, &copy, list), EXIT_OK);
    if (writing) cr_expect_gt(source.pieces, 4 * VALUES / PIECE);
    checkpoint read = target;
    to->whole = &target;
    if (reading) {
        read.parameters = read.moment1 = read.moment2 = read.carried = NULL;
        read.pieces = reading;
    }
    cr_assert_eq(checkpoint_read(path, &read, list), EXIT_OK);
    cr_expect_arr_eq(to_memory, from_memory, sizeof to_memory);
    cr_expect(found[0] == 5 && found[1] == 6 && found_stopped[1] == 1);
}

Test(pieces, what_is_written_in_pieces_is_read_whole_and_the_other_way_round) {
    courier to = {0};
    const checkpoint_pieces writing = {.next = next_piece},
                            reading = {.context = &to, .next = next_piece, .filled = piece_filled};
    write_and_read(&writing, NULL, &to);
    write_and_read(NULL, &reading, &to);
    write_and_read(&writing, &reading, &to);
    cr_expect_gt(to.pieces, 4 * VALUES / PIECE);
}

/* What is averaged: per population the ranges of its devices' packs that its method shares, as one ck_group.
 *
 * Its members are this process's devices, if any: for the sum those that send, which come first, and then
 * those that receive. The weights are those of the whole population, so that the sum over processes is the
 * mean over its senders: 1/N of N, or once the text of all is open their share of its training tokens, where
 * that is asked for.
 *
 * Devices of a population may differ in their number of private experts, so each distinct shape among them is
 * a layout: the same tensors at other offsets. Experts stand generalists first, so the shared ones of a
 * tensor are one range. */
#include <stdlib.h>

#include "population/parts.h"
#include "support/processes.h"

/* Neighbouring experts of a block are one range. */
int fleet_shared_ranges(const population *p, const ck_shape *shape, int64_t *offset, int64_t *count) {
    bool before = false; /* whether the part before is shared */
    int n = 0;
    for (int32_t i = 0; i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        bool shared = population_shares(p, &part), continues = before && part.expert > 0;
        int64_t floats = (int64_t)part.rows * part.columns;
        before = shared;
        if (!shared) continue;
        if (!continues) {
            offset[n] = part.offset;
            count[n++] = 0;
        }
        count[n - 1] += floats;
    }
    return n;
}

/* The population's first device has layout 0, member or not: all processes find the same ranges. */
static int distinct_layouts(const fleet *f, const population *p, const int *members, int n_members,
                            int *shape_of_layout, int32_t *layout_of_member) {
    int n = 1;
    shape_of_layout[0] = f->devices[p->first_device].shape;
    for (int i = 0; i < n_members; i++) {
        int shape = f->devices[members[i]].shape, j = 0;
        while (j < n && shape_of_layout[j] != shape) j++;
        if (j == n) shape_of_layout[n++] = shape;
        layout_of_member[i] = j;
    }
    return n;
}

static void group_free(ck_group *g) {
    free((void *)g->members);
    free((void *)g->layout);
    free((void *)g->weights);
    free((void *)g->count);
    free((void *)g->offset);
}

/* This process's devices of a population: `first` of them, in fleet.local. */
static int count_members(const fleet *f, const population *p, int *first) {
    int n = 0;
    for (int i = 0; i < f->n_local; i++) {
        if (f->local[i] < p->first_device || f->local[i] >= p->first_device + p->n_devices) continue;
        if (n++ == 0) *first = i;
    }
    return n;
}

static bool group_fill(fleet *f, const population *p, ck_group *g) {
    int max_ranges = ck_part_count(&f->shapes[f->devices[p->first_device].shape]), n_layouts = 0, first = 0,
        n_members = count_members(f, p, &first);
    size_t members = (size_t)n_members + 1;
    int64_t *packs = malloc(members * sizeof *packs);
    int32_t *layout = malloc(members * sizeof *layout);
    float *weights = malloc(members * sizeof *weights);
    int *shape_of_layout = malloc((size_t)f->n_shapes * sizeof *shape_of_layout);
    int64_t *count = malloc((size_t)max_ranges * sizeof *count);
    int64_t *offset = malloc((size_t)max_ranges * (size_t)f->n_shapes * sizeof *offset);
    *g = (ck_group){.n_members = n_members,
                    .members = packs,
                    .layout = layout,
                    .weights = weights,
                    .count = count,
                    .offset = offset};
    bool ok = packs && layout && weights && shape_of_layout && count && offset;
    if (ok) n_layouts = distinct_layouts(f, p, f->local + first, n_members, shape_of_layout, layout);
    for (int i = 0; ok && i < n_members; i++) {
        packs[i] = f->devices[f->local[first + i]].pack;
        weights[i] = 1.0F / (float)p->n_senders; /* of the senders: no other is in a sum */
    }
    for (int j = 0; ok && j < n_layouts; j++)
        g->n_ranges =
            fleet_shared_ranges(p, &f->shapes[shape_of_layout[j]], offset + (int64_t)j * g->n_ranges, count);
    free(shape_of_layout);
    return ok;
}

static void place(fleet *f, ck_group *g) {
    g->packed = f->n_packed;
    for (int j = 0; j < g->n_ranges; j++) f->n_packed += g->count[j];
    f->n_packed = (f->n_packed + CK_ALIGN_FLOATS - 1) / CK_ALIGN_FLOATS * CK_ALIGN_FLOATS;
}

exit_code groups_create(fleet *f, problems *list) {
    f->n_packed = 0;
    f->groups = calloc((size_t)f->n_populations, sizeof *f->groups);
    f->group_population = calloc((size_t)f->n_populations, sizeof *f->group_population);
    if (!f->groups || !f->group_population)
        return problem(list, EXIT_ENVIRONMENT, "out of memory for the populations");
    for (int i = 0; i < f->n_populations; i++) {
        const population *p = &f->populations[i];
        if (p->n_devices < 2 || f->devices[p->first_device].parameters_shared == 0) continue;
        ck_group *g = &f->groups[f->n_groups];
        bool ok = group_fill(f, p, g);
        f->group_population[f->n_groups++] = i;
        if (!ok) return problem(list, EXIT_ENVIRONMENT, "out of memory for the populations");
        place(f, g);
    }
    return EXIT_OK;
}

void groups_destroy(fleet *f) {
    for (int i = 0; i < f->n_groups; i++) group_free(&f->groups[i]);
    free(f->groups);
    free(f->group_population);
    f->groups = NULL;
    f->group_population = NULL;
    f->n_groups = 0;
}

/* Training tokens of this process's senders in each population. */
static void count_tokens(const fleet *f, int64_t *tokens) {
    for (int i = 0; i < f->n_local; i++) {
        const device *d = &f->devices[f->local[i]];
        if (d->index < f->populations[d->population].n_senders)
            tokens[d->population] += d->text.tokens[DATA_TRAIN];
    }
}

/* n_i / n: of equal devices the bits of 1/N. */
static void weigh_by_tokens(const fleet *f, ck_group *g, const population *p, int64_t all) {
    float *weights = (float *)g->weights;
    int first = 0, n = count_members(f, p, &first);
    for (int i = 0; i < n; i++)
        weights[i] = (float)((double)f->devices[f->local[first + i]].text.tokens[DATA_TRAIN] / (double)all);
}

exit_code fleet_weigh(fleet *f, problems *list) {
    int processes = ck_processes(f->collective), n = f->n_populations;
    int64_t *tokens = calloc((size_t)n * ((size_t)processes + 1), sizeof *tokens),
            *own = tokens ? tokens + (size_t)n * processes : NULL;
    exit_code code =
        tokens ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for the weights of the devices");
    code = processes_agree(f->collective, code, list);
    if (code == EXIT_OK) {
        count_tokens(f, own);
        code = processes_problem(
            f->collective, ck_collective_exchange(f->collective, own, (size_t)n * sizeof *own, tokens), list);
    }
    for (int g = 0; code == EXIT_OK && g < f->n_groups; g++) {
        const population *p = &f->populations[f->group_population[g]];
        int64_t all = 0;
        for (int process = 0; process < processes; process++)
            all += tokens[process * n + f->group_population[g]];
        if (p->settings->weights == WEIGHTS_TOKENS) weigh_by_tokens(f, &f->groups[g], p, all);
    }
    free(tokens);
    return code;
}

static bool sends(participation in_round) {
    return in_round.sends;
}

static bool receives(participation in_round) {
    return in_round.receives;
}

/* Devices that join late are the last of their population, so those that do what is asked come first. */
static void choose_members(fleet *f, int round, bool (*does)(participation in_round)) {
    for (int g = 0; g < f->n_groups; g++) {
        int first = 0, n = count_members(f, &f->populations[f->group_population[g]], &first), members = 0;
        while (members < n && does(fleet_participation(f, &f->devices[f->local[first + members]], round)))
            members++;
        f->groups[g].n_members = members;
    }
}

void groups_of_senders(fleet *f, int round) {
    choose_members(f, round, sends);
}

void groups_of_receivers(fleet *f, int round) {
    choose_members(f, round, receives);
}

static void remove_group(fleet *f, int which) {
    group_free(&f->groups[which]);
    f->n_groups--;
    for (int j = which; j < f->n_groups; j++) {
        f->groups[j] = f->groups[j + 1];
        f->group_population[j] = f->group_population[j + 1];
    }
}

void fleet_stop(fleet *f, int which) {
    const population *p = &f->populations[which];
    for (int i = 0; i < p->n_devices; i++) f->devices[p->first_device + i].stopped = true;
    for (int i = 0; i < f->n_groups; i++)
        if (f->group_population[i] == which) remove_group(f, i);
}

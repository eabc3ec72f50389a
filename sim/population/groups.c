/* What is averaged: per population, and per set of parts that the same devices hold (sharing.h), the ranges of
 * their packs as one ck_group.
 *
 * Its members are this process's devices, if any; their weights are those of all devices that hold the set, so
 * that the sum over processes is the mean over these: 1/N, or once the text of all is open their share of the
 * training tokens, where that is asked for.
 *
 * Devices of a population may differ in their experts, so each class of them is a layout: the same tensors at
 * other offsets. */
#include <stdlib.h>

#include "population/parts.h"
#include "population/sharing.h"
#include "support/processes.h"

static void group_free(ck_group *g) {
    free((void *)g->members);
    free((void *)g->layout);
    free((void *)g->weights);
    free((void *)g->count);
    free((void *)g->offset);
}

/* The place of a class among those that hold the set. */
static int32_t layout_of(const sharing *s, int set, int which) {
    const bool *holds = s->holds + (size_t)set * (size_t)s->n_classes;
    int32_t layout = 0;
    for (int i = 0; i < which; i++) layout += holds[i];
    return layout;
}

/* Whether the device is of that population, and holds the set. */
static bool is_member(const sharing *s, int set, int index) {
    const population *p = s->population;
    return index >= p->first_device && index < p->first_device + p->n_devices &&
           sharing_holds(s, set, &s->fleet->devices[index]);
}

static void fill_members(const sharing *s, int set, int holders, int64_t *packs, int32_t *layout,
                         float *weights) {
    const fleet *f = s->fleet;
    for (int i = 0, n = 0; i < f->n_local; i++) {
        if (!is_member(s, set, f->local[i])) continue;
        const device *d = &f->devices[f->local[i]];
        packs[n] = d->pack;
        layout[n] = layout_of(s, set, sharing_class(s, d));
        weights[n++] = 1.0F / (float)holders;
    }
}

/* The ranges of every class that holds the set: those of most parts need the most room. */
static int fill_ranges(const sharing *s, int set, int64_t *offset, int64_t *count) {
    int n = 0;
    for (int i = 0, layout = 0; i < s->n_classes; i++) {
        if (!s->holds[(size_t)set * (size_t)s->n_classes + (size_t)i]) continue;
        n = sharing_ranges(s, set, i, offset + (int64_t)layout++ * n, count);
    }
    return n;
}

static int most_parts(const sharing *s) {
    int most = 0;
    for (int i = 0; i < s->n_classes; i++) {
        int parts = ck_part_count(&s->fleet->shapes[s->fleet->devices[s->classes[i]].shape]);
        if (parts > most) most = parts;
    }
    return most;
}

static bool group_fill(const sharing *s, int set, int holders, ck_group *g) {
    int n_members = 0;
    size_t most_ranges = (size_t)most_parts(s);
    for (int i = 0; i < s->fleet->n_local; i++) n_members += is_member(s, set, s->fleet->local[i]);
    size_t members = (size_t)n_members + 1;
    int64_t *packs = malloc(members * sizeof *packs);
    int32_t *layout = malloc(members * sizeof *layout);
    float *weights = malloc(members * sizeof *weights);
    int64_t *count = malloc(most_ranges * sizeof *count);
    int64_t *offset = malloc(most_ranges * (size_t)s->n_classes * sizeof *offset);
    *g = (ck_group){.n_members = n_members,
                    .members = packs,
                    .layout = layout,
                    .weights = weights,
                    .count = count,
                    .offset = offset};
    if (!packs || !layout || !weights || !count || !offset) return false;
    fill_members(s, set, holders, packs, layout, weights);
    g->n_ranges = fill_ranges(s, set, offset, count);
    return true;
}

static void place(fleet *f, ck_group *g) {
    g->packed = f->n_packed;
    for (int j = 0; j < g->n_ranges; j++) f->n_packed += g->count[j];
    f->n_packed = (f->n_packed + CK_ALIGN_FLOATS - 1) / CK_ALIGN_FLOATS * CK_ALIGN_FLOATS;
}

/* All devices that hold the set send and receive it, 4 B a value. */
static void count_bytes(fleet *f, const sharing *s, int set, const ck_group *g) {
    const population *p = s->population;
    int64_t bytes = 0;
    for (int i = 0; i < g->n_ranges; i++) bytes += 4 * g->count[i];
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++)
        if (is_member(s, set, i)) f->devices[i].bytes_a_round += bytes;
}

/* A set that one device alone holds has no mean. */
static bool create_group(fleet *f, const sharing *s, int set, int population_index) {
    int holders = sharing_holders(s, set);
    size_t n = (size_t)f->n_groups + 1;
    if (holders < 2) return true;
    ck_group *groups = realloc(f->groups, n * sizeof *groups);
    if (groups) f->groups = groups;
    int *population_of = realloc(f->group_population, n * sizeof *population_of);
    if (population_of) f->group_population = population_of;
    if (!groups || !population_of) return false;
    ck_group *g = &f->groups[f->n_groups];
    f->group_population[f->n_groups++] = population_index;
    if (!group_fill(s, set, holders, g)) return false;
    place(f, g);
    count_bytes(f, s, set, g);
    return true;
}

exit_code groups_create(fleet *f, problems *list) {
    bool good = true;
    f->n_packed = 0;
    for (int i = 0; i < f->n_devices; i++) f->devices[i].bytes_a_round = 0;
    for (int i = 0; i < f->n_populations && good; i++) {
        sharing s;
        good = sharing_find(f, &f->populations[i], &s);
        for (int set = 0; set < s.n_sets && good; set++) good = create_group(f, &s, set, i);
        sharing_destroy(&s);
    }
    return good ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for the populations");
}

void groups_destroy(fleet *f) {
    for (int i = 0; i < f->n_groups; i++) group_free(&f->groups[i]);
    free(f->groups);
    free(f->group_population);
    f->groups = NULL;
    f->group_population = NULL;
    f->n_groups = 0;
}

/* The device of a group's member: the first of fleet.local from *at on that has its pack. */
static const device *member_device(const fleet *f, const ck_group *g, int member, int *at) {
    while (f->devices[f->local[*at]].pack != g->members[member]) ++*at;
    return &f->devices[f->local[*at]];
}

/* Training tokens of this process's members of each group. */
static void count_tokens(const fleet *f, int64_t *tokens) {
    for (int g = 0; g < f->n_groups; g++)
        for (int i = 0, at = 0; i < f->groups[g].n_members; i++)
            tokens[g] += member_device(f, &f->groups[g], i, &at)->text.tokens[DATA_TRAIN];
}

/* n_i / n: of equal devices the bits of 1/N. */
static void weigh_by_tokens(const fleet *f, ck_group *g, int64_t all) {
    float *weights = (float *)g->weights;
    for (int i = 0, at = 0; i < g->n_members; i++)
        weights[i] = (float)((double)member_device(f, g, i, &at)->text.tokens[DATA_TRAIN] / (double)all);
}

exit_code fleet_weigh(fleet *f, problems *list) {
    int processes = ck_processes(f->collective), n = f->n_groups;
    int64_t *tokens = calloc((size_t)n * ((size_t)processes + 1) + 1, sizeof *tokens),
            *own = tokens ? tokens + (size_t)n * processes : NULL;
    exit_code code =
        tokens ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for the weights of the devices");
    code = processes_agree(f->collective, code, list);
    if (code == EXIT_OK && n > 0) {
        count_tokens(f, own);
        code = processes_problem(
            f->collective, ck_collective_exchange(f->collective, own, (size_t)n * sizeof *own, tokens), list);
    }
    for (int g = 0; code == EXIT_OK && g < n; g++) {
        const population *p = &f->populations[f->group_population[g]];
        int64_t all = 0;
        for (int process = 0; process < processes; process++) all += tokens[process * n + g];
        if (p->settings->weights == WEIGHTS_TOKENS) weigh_by_tokens(f, &f->groups[g], all);
    }
    free(tokens);
    return code;
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
    for (int i = f->n_groups - 1; i >= 0; i--)
        if (f->group_population[i] == which) remove_group(f, i);
}

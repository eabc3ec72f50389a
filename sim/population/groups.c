/* groups.c - what is averaged. Each set of parts of each population (sharing.h) becomes one ck_group: the
 * ranges of the packs that belong to the set.
 *
 * The members of a group are the devices of this process that hold the set, in rising order. A process may
 * have none. Devices that are held out are the last of their population, so members that send come before
 * members that only receive.
 *
 * The weights of a group sum to 1 over the sending devices of all processes, so that the sum over processes
 * is the mean. At first each weight is 1/N. Where a population weighs by tokens, fleet_weigh() replaces it
 * by the device's share of the training tokens, once the text of all devices is open.
 *
 * Devices of a population may differ in their experts. Each class of devices (sharing.h) is therefore a
 * layout of the group: the same tensors at other offsets. */
#include <stdlib.h>

#include "population/parts.h"
#include "population/sharing.h"
#include "support/processes.h"

static void group_free(ck_group *g, group_holders *h) {
    free((void *)g->members);
    free((void *)g->layout);
    free((void *)g->weights);
    free((void *)g->count);
    free((void *)g->offset);
    free(h->local);
}

/* The number of a class among the classes that hold the set, which is the number of its layout. */
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

static void fill_members(const sharing *s, int set, const group_holders *h, int64_t *packs, int32_t *layout,
                         float *weights) {
    const fleet *f = s->fleet;
    int senders = sharing_senders(s, set);
    for (int i = 0; i < h->n_local; i++) {
        const device *d = &f->devices[h->local[i]];
        packs[i] = d->pack;
        layout[i] = layout_of(s, set, sharing_class(s, d));
        weights[i] = 1.0F / (float)senders; /* members that do not send have it too, but are in no sum */
    }
}

/* Writes the ranges of every class that holds the set, layout by layout. Returns how many a layout has. */
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

static bool find_holders(const sharing *s, int set, group_holders *h) {
    const fleet *f = s->fleet;
    h->local = malloc(((size_t)f->n_local + 1) * sizeof *h->local);
    for (h->first = s->population->first_device; !is_member(s, set, h->first);) h->first++;
    for (int i = 0; h->local && i < f->n_local; i++)
        if (is_member(s, set, f->local[i])) h->local[h->n_local++] = f->local[i];
    return h->local;
}

static bool group_fill(const sharing *s, int set, ck_group *g, group_holders *h) {
    size_t most_ranges = (size_t)most_parts(s);
    if (!find_holders(s, set, h)) return false;
    size_t members = (size_t)h->n_local + 1;
    int64_t *packs = malloc(members * sizeof *packs);
    int32_t *layout = malloc(members * sizeof *layout);
    float *weights = malloc(members * sizeof *weights);
    int64_t *count = malloc(most_ranges * sizeof *count);
    int64_t *offset = malloc(most_ranges * (size_t)s->n_classes * sizeof *offset);
    *g = (ck_group){.n_members = h->n_local,
                    .members = packs,
                    .layout = layout,
                    .weights = weights,
                    .count = count,
                    .offset = offset};
    if (!packs || !layout || !weights || !count || !offset) return false;
    fill_members(s, set, h, packs, layout, weights);
    g->n_ranges = fill_ranges(s, set, offset, count);
    return true;
}

static void place(fleet *f, ck_group *g) {
    g->packed = f->n_packed;
    for (int j = 0; j < g->n_ranges; j++) f->n_packed += g->count[j];
    f->n_packed = (f->n_packed + CK_ALIGN_FLOATS - 1) / CK_ALIGN_FLOATS * CK_ALIGN_FLOATS;
}

/* Each device that holds the set sends or receives it every round, 4 B a value each way. */
static void count_bytes(fleet *f, const sharing *s, int set, const ck_group *g) {
    const population *p = s->population;
    int64_t bytes = 0;
    for (int i = 0; i < g->n_ranges; i++) bytes += 4 * g->count[i];
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++)
        if (is_member(s, set, i)) f->devices[i].bytes_a_round += bytes;
}

/* A set needs no group if nobody sends it, or if one device alone holds it. A population with a proximal
 * term needs the group of a single device nevertheless, because the anchor of the term lies in it. */
static bool create_group(fleet *f, const sharing *s, int set, int population_index) {
    int holders = sharing_holders(s, set);
    size_t n = (size_t)f->n_groups + 1;
    bool changes = holders > 1 || population_proximal(s->population) > 0.0;
    if (!changes || sharing_senders(s, set) == 0) return true;
    ck_group *groups = realloc(f->groups, n * sizeof *groups);
    if (groups) f->groups = groups;
    group_holders *all = realloc(f->holders, n * sizeof *all);
    if (all) f->holders = all;
    if (!groups || !all) return false;
    ck_group *g = &f->groups[f->n_groups];
    group_holders *h = &f->holders[f->n_groups++];
    *g = (ck_group){0};
    *h = (group_holders){.population = population_index};
    if (!group_fill(s, set, g, h)) return false;
    place(f, g);
    if (holders > 1) count_bytes(f, s, set, g);
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
    for (int i = 0; i < f->n_groups; i++) group_free(&f->groups[i], &f->holders[i]);
    free(f->groups);
    free(f->holders);
    f->groups = NULL;
    f->holders = NULL;
    f->n_groups = 0;
}

int32_t fleet_layout(const fleet *f, int group, int device_index) {
    const group_holders *h = &f->holders[group];
    int low = 0, high = h->n_local;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (h->local[middle] < device_index)
            low = middle + 1;
        else
            high = middle;
    }
    return low < h->n_local && h->local[low] == device_index ? f->groups[group].layout[low] : -1;
}

static int64_t tokens_of(const fleet *f, int device_index) {
    return f->devices[device_index].text.tokens[DATA_TRAIN];
}

/* Training tokens of this process's senders in each group. */
static void count_tokens(const fleet *f, int64_t *tokens) {
    for (int g = 0; g < f->n_groups; g++) {
        const group_holders *h = &f->holders[g];
        const population *p = &f->populations[h->population];
        for (int i = 0; i < h->n_local && h->local[i] < p->first_device + p->n_senders; i++)
            tokens[g] += tokens_of(f, h->local[i]);
    }
}

/* n_i / n: of equal devices the bits of 1/N. */
static void weigh_by_tokens(const fleet *f, int g, int64_t all) {
    float *weights = (float *)f->groups[g].weights;
    for (int i = 0; i < f->holders[g].n_local; i++)
        weights[i] = (float)((double)tokens_of(f, f->holders[g].local[i]) / (double)all);
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
        const population *p = &f->populations[f->holders[g].population];
        int64_t all = 0;
        for (int process = 0; process < processes; process++) all += tokens[process * n + g];
        if (p->settings->weights == WEIGHTS_TOKENS) weigh_by_tokens(f, g, all);
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

/* The members that send, or receive, are the first ones: devices that join late are the last of their
 * population. So it is enough to set how many members count. */
static void choose_members(fleet *f, int round, bool (*does)(participation in_round)) {
    for (int g = 0; g < f->n_groups; g++) {
        const group_holders *h = &f->holders[g];
        int n = 0;
        while (n < h->n_local && does(fleet_participation(f, &f->devices[h->local[n]], round))) n++;
        f->groups[g].n_members = n;
    }
}

void groups_of_senders(fleet *f, int round) {
    choose_members(f, round, sends);
}

void groups_of_receivers(fleet *f, int round) {
    choose_members(f, round, receives);
}

static void remove_group(fleet *f, int which) {
    group_free(&f->groups[which], &f->holders[which]);
    f->n_groups--;
    for (int j = which; j < f->n_groups; j++) {
        f->groups[j] = f->groups[j + 1];
        f->holders[j] = f->holders[j + 1];
    }
}

void fleet_stop(fleet *f, int which) {
    const population *p = &f->populations[which];
    for (int i = 0; i < p->n_devices; i++) f->devices[p->first_device + i].stopped = true;
    for (int i = f->n_groups - 1; i >= 0; i--)
        if (f->holders[i].population == which) remove_group(f, i);
}

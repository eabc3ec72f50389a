#include "population/sharing.h"

#include <stdlib.h>
#include <string.h>

static const device *first_of(const sharing *s, int which) {
    return &s->fleet->devices[s->classes[which]];
}

/* Whether device d holds a part. The part is described by the pack of some device of the population, perhaps
 * another one, so d need not have it. */
static bool averages(const fleet *f, const population *p, const device *d, const ck_part *part) {
    const ck_shape *shape = &f->shapes[d->shape];
    bool router = ck_is_of_router(part->factor);
    bool there = router             ? shape->router_rows > 0
                 : part->expert < 0 ? true
                                    : part->expert < shape->n_experts && shape->rank[part->expert] > 0;
    return there && population_shares(p, d, part);
}

/* ---- Classes ---- */

int sharing_class(const sharing *s, const device *d) {
    int i = 0;
    while (i < s->n_classes &&
           (first_of(s, i)->shape != d->shape || first_of(s, i)->generalists != d->generalists))
        i++;
    return i;
}

static bool find_classes(sharing *s) {
    const population *p = s->population;
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++) {
        if (sharing_class(s, &s->fleet->devices[i]) < s->n_classes) continue;
        int *grown = realloc(s->classes, (size_t)(s->n_classes + 1) * sizeof *grown);
        if (!grown) return false;
        s->classes = grown;
        s->classes[s->n_classes++] = i;
    }
    return true;
}

/* ---- Sets ---- */

/* Which classes average a part: [n_classes]. */
static void find_holders(const sharing *s, const ck_part *part, bool *out) {
    for (int i = 0; i < s->n_classes; i++) out[i] = averages(s->fleet, s->population, first_of(s, i), part);
}

static int find_set(const sharing *s, const bool *holders) {
    size_t classes = (size_t)s->n_classes;
    int set = 0;
    while (set < s->n_sets &&
           memcmp(s->holds + (size_t)set * classes, holders, classes * sizeof *holders) != 0)
        set++;
    return set;
}

/* Every layer has the parts of the first one, so it is enough to look at these. Parts that all layers share
 * have a negative layer. */
static bool is_of_first_layer(const ck_part *part) {
    return part->layer <= 0;
}

static bool find_sets_of(sharing *s, int which) {
    const ck_shape *shape = &s->fleet->shapes[first_of(s, which)->shape];
    size_t classes = (size_t)s->n_classes;
    bool *holders = s->room;
    for (int32_t i = 0; i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        if (!is_of_first_layer(&part)) continue;
        find_holders(s, &part, holders);
        if (!holders[which] || find_set(s, holders) < s->n_sets) continue;
        bool *grown = realloc(s->holds, (size_t)(s->n_sets + 1) * classes * sizeof *grown);
        if (!grown) return false;
        s->holds = grown;
        memcpy(s->holds + (size_t)s->n_sets++ * classes, holders, classes * sizeof *holders);
    }
    return true;
}

bool sharing_find(const fleet *f, const population *p, sharing *out) {
    *out = (sharing){.fleet = f, .population = p};
    bool good = find_classes(out);
    if (good) out->room = malloc((size_t)out->n_classes * sizeof *out->room);
    good = good && out->room;
    for (int i = 0; i < out->n_classes && good; i++) good = find_sets_of(out, i);
    return good;
}

void sharing_destroy(sharing *s) {
    free(s->classes);
    free(s->holds);
    free(s->room);
}

bool sharing_holds(const sharing *s, int set, const device *d) {
    return s->holds[(size_t)set * (size_t)s->n_classes + (size_t)sharing_class(s, d)];
}

static int count_holders(const sharing *s, int set, int of_the_first) {
    int first = s->population->first_device, n = 0;
    for (int i = first; i < first + of_the_first; i++) n += sharing_holds(s, set, &s->fleet->devices[i]);
    return n;
}

int sharing_holders(const sharing *s, int set) {
    return count_holders(s, set, s->population->n_devices);
}

int sharing_senders(const sharing *s, int set) {
    return count_holders(s, set, s->population->n_senders);
}

/* Parts of neighbouring experts lie side by side in a block, so they make one range. */
int sharing_ranges(const sharing *s, int set, int which, int64_t *offset, int64_t *count) {
    const ck_shape *shape = &s->fleet->shapes[first_of(s, which)->shape];
    bool *holders = s->room;
    int before = -1, n = 0; /* before: expert of the previous part; -1: that is not of the set */
    for (int32_t i = 0; i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        int64_t floats = (int64_t)part.rows * part.columns;
        find_holders(s, &part, holders);
        bool shared = holders[which] && find_set(s, holders) == set;
        bool continues = shared && before >= 0 && part.expert == before + 1;
        before = shared ? part.expert : -1;
        if (!shared) continue;
        if (!continues) {
            offset[n] = part.offset;
            count[n++] = 0;
        }
        count[n - 1] += floats;
    }
    return n;
}

/* ---- What cannot be averaged ---- */

static exit_code refuse_ranks(const population *p, const device *a, const device *b, problems *list) {
    return problem(
        list, EXIT_INPUT,
        "population '%s': method %s averages experts, which must have one rank on all devices that "
        "share them; device %d has rank %d, device %d has rank %d; give experts.rank one number, or "
        "choose a method that averages no experts (local, or comigs with generalists: 0)",
        p->settings->name, p->method->name, a->index, a->rank, b->index, b->rank);
}

static exit_code refuse_counts(const population *p, const device *a, const device *b, problems *list) {
    bool generalists = a->specialists == b->specialists;
    return problem(
        list, EXIT_INPUT,
        "population '%s': method %s averages all experts, so every device must have as many; device "
        "%d has %d %s, device %d has %d",
        p->settings->name, p->method->name, a->index, generalists ? a->generalists : a->specialists,
        generalists ? "generalists" : "specialists", b->index, generalists ? b->generalists : b->specialists);
}

/* Refuses two classes if class_a holds a part that class_b must hold, too, but does not, or holds in another
 * shape. */
static exit_code check_pair(const sharing *s, int class_a, int class_b, problems *list) {
    const population *p = s->population;
    const device *a = first_of(s, class_a), *b = first_of(s, class_b), *first = class_a < class_b ? a : b,
                 *second = first == a ? b : a;
    const ck_shape *shape = &s->fleet->shapes[a->shape];
    for (int32_t i = 0; i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        if (!is_of_first_layer(&part) || !averages(s->fleet, p, a, &part)) continue;
        bool router = ck_is_of_router(part.factor), both = averages(s->fleet, p, b, &part);
        if (both && part.expert >= 0 && a->rank != b->rank) return refuse_ranks(p, first, second, list);
        if (router ? device_experts(a) != device_experts(b) : !both && part.expert >= a->generalists)
            return refuse_counts(p, first, second, list);
    }
    return EXIT_OK;
}

/* A proximal term of parts that nobody sends has no anchor. */
static exit_code check_anchor(const sharing *s, int set, problems *list) {
    const population *p = s->population;
    const device *d = &s->fleet->devices[p->first_device + p->n_senders];
    if (population_proximal(p) == 0.0 || sharing_senders(s, set) > 0) return EXIT_OK;
    while (!sharing_holds(s, set, d)) d++;
    return problem(
        list, EXIT_INPUT,
        "population '%s': method %s holds devices near what they receive, but device %d, which is "
        "held out, has %d generalists, and no device that sends has as many; give one of the first "
        "%d devices as many, or this one fewer",
        p->settings->name, p->method->name, d->index, d->generalists, p->n_senders);
}

exit_code sharing_check(const fleet *f, const population *p, problems *list) {
    sharing s;
    exit_code code = EXIT_OK;
    if (!sharing_find(f, p, &s)) code = problem(list, EXIT_ENVIRONMENT, "out of memory for the populations");
    for (int i = 0; i < s.n_classes && code == EXIT_OK; i++)
        for (int j = 0; j < s.n_classes && code == EXIT_OK; j++)
            if (i != j) code = check_pair(&s, i, j, list);
    for (int i = 0; i < s.n_sets && code == EXIT_OK; i++) code = check_anchor(&s, i, list);
    sharing_destroy(&s);
    return code;
}

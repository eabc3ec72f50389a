/* partition.c - a split says how much a device has of each source; here these shares get their places in the
 * sources' text.
 *
 * Places are keyed by (seed, RNG_PARTITION, part, source): populations of equal seed, method whatever, have
 * the same stretches, and other seeds others. Test stretches depend on no seed, so that all populations are
 * measured on the same text. */
#include "data/partition.h"

#include <stdlib.h>

#include "data/examples.h"
#include "data/parts.h"

static const char *const KEYS[DATA_SPLITS] = {"data.tokens_per_device", "data.valid_tokens_per_device",
                                              "data.test_tokens_per_device"};

int64_t partition_first(int64_t total, int64_t wanted, int slot, int slots, const rng_key *key) {
    int64_t place = (slot + (int64_t)rng_below(key, 0, (uint64_t)slots)) % slots;
    int64_t spare = total - wanted;
    if (wanted <= total / slots)
        return (int64_t)rng_below(key, 1, (uint64_t)(total - slots * wanted) + 1) + place * wanted;
    return (int64_t)((__int128)spare * place / (slots - 1));
}

int64_t partition_first_after(int64_t total, int64_t wanted, int64_t before, int64_t all,
                              const rng_key *key) {
    if (all <= total) return (int64_t)rng_below(key, 1, (uint64_t)(total - all) + 1) + before;
    return (int64_t)((__int128)(total - wanted) * before / (all - wanted));
}

static const per_device *amounts(const data_settings *d, data_part part) {
    const per_device *const all[DATA_SPLITS] = {&d->tokens_per_device, &d->valid_tokens_per_device,
                                                &d->test_tokens_per_device};
    return all[part];
}

int64_t partition_asked(const data_settings *d, data_part part, int device) {
    return per_device_at(amounts(d, part), device);
}

bool partition_wants_all(const data_settings *d, data_part part) {
    return amounts(d, part)->value == 0;
}

static double scale_of(const data_settings *d, uint64_t seed, int device) {
    const data_split *split = split_of(d);
    return per_device_real_at(&d->fraction, device) * (split->factor ? split->factor(d, seed, device) : 1.0);
}

/* The addend makes good what a product may lack of a whole number. */
int64_t data_scaled(int64_t tokens, double factor) {
    return factor == 1.0 ? tokens : (int64_t)((double)tokens * factor + 1e-6);
}

/* A factor leaves every device a window. */
static int64_t scaled(const data_settings *d, double scale, int64_t tokens) {
    int64_t least = split_of(d)->factor && tokens > d->sequence ? d->sequence + 1 : 0,
            product = data_scaled(tokens, scale);
    return product > least ? product : least;
}

int64_t data_train_tokens(const data_settings *d, uint64_t seed, int device) {
    return scaled(d, scale_of(d, seed, device), per_device_at(&d->tokens_per_device, device));
}

double partition_scale(const partition *p, int device, data_part part) {
    return part == DATA_TRAIN ? scale_of(p->settings, p->seed, device) : 1.0;
}

int64_t partition_wanted(const partition *p, int device, data_part part) {
    return part == DATA_TRAIN ? data_train_tokens(p->settings, p->seed, device)
                              : partition_asked(p->settings, part, device);
}

int64_t partition_tokens(const partition *p, int device, data_part part, int source, int slots) {
    if (!partition_wants_all(p->settings, part)) return partition_wanted(p, device, part);
    int64_t held = partition_held(p, source, part);
    return part == DATA_TRAIN ? scaled(p->settings, partition_scale(p, device, part), held / slots) : held;
}

bool partition_is_common(const partition *p, data_part part) {
    if (part == DATA_TEST) return amounts(p->settings, part)->n == 0;
    return part == DATA_VALID && partition_wants_all(p->settings, part);
}

/* ---- Own sources ---- */

int partition_source(const partition *p, int device) {
    return p->own ? p->own[device].source : device % corpus_sources(p->corpus);
}

int partition_slot(const partition *p, int device) {
    return p->own ? p->own[device].slot : device / corpus_sources(p->corpus);
}

int partition_holders(const partition *p, int source) {
    int sources = corpus_sources(p->corpus);
    return p->own ? p->holders[source] : (p->devices - source + sources - 1) / sources;
}

static bool assign_sources(partition *p) {
    const per_device *given = &p->settings->sources;
    if (given->value < 0) return true;
    p->own = calloc((size_t)p->devices, sizeof *p->own);
    p->holders = calloc((size_t)corpus_sources(p->corpus), sizeof *p->holders);
    for (int i = 0; i < p->devices && p->own && p->holders; i++) {
        int source = (int)per_device_at(given, i);
        p->own[i] = (own_source){.source = source, .slot = p->holders[source]++};
    }
    return p->own && p->holders;
}

exit_code partition_check(const corpus *c, const data_settings *d, const char **key, problems *list) {
    const data_split *split = split_of(d);
    int sources = corpus_sources(c), least = split->least_sources ? split->least_sources(d) : 1;
    *key = d->split_key ? d->split_key : "data.split";
    if (least > sources)
        return problem(list, EXIT_INPUT, "the split %s needs %d sources, but %s has %d", split_name(d->split),
                       least, corpus_path(c), sources);
    *key = "data.sources";
    if (split->has_own && d->sources.value >= sources)
        return problem(list, EXIT_INPUT, "there is no source %lld; %s has %d, numbered from 0",
                       (long long)d->sources.value, corpus_path(c), sources);
    *key = NULL;
    return EXIT_OK;
}

int64_t partition_held(const partition *p, int source, data_part part) {
    if (partition_wants_all(p->settings, part)) return shard_tokens(corpus_shard(p->corpus, source, part));
    return corpus_text_tokens(p->corpus, source, part);
}

/* ---- Sums over devices, where their amounts are unequal ---- */

/* Brings `before` to the devices before `device`. Devices come in their order, so that a whole population
 * costs one pass. */
static void sum_up_to(partition *p, int device, data_part part) {
    partition_sums *sums = &p->sums[part];
    int sources = corpus_sources(p->corpus);
    if (device < sums->next) {
        for (int s = 0; s < sources; s++) sums->before[s] = 0;
        sums->next = 0;
    }
    for (; sums->next < device; sums->next++) {
        int n = p->splits[part]->shares(p, sums->next, part, p->others);
        for (int i = 0; i < n; i++) sums->before[p->others[i].source] += p->others[i].tokens;
    }
}

static bool create_sums(partition *p, data_part part) {
    partition_sums *sums = &p->sums[part];
    size_t sources = (size_t)corpus_sources(p->corpus);
    sums->before = calloc(sources, sizeof *sums->before);
    sums->all = calloc(sources, sizeof *sums->all);
    if (!sums->before || !sums->all) return false;
    sum_up_to(p, p->devices, part);
    for (size_t s = 0; s < sources; s++) sums->all[s] = sums->before[s];
    return true;
}

static bool devices_differ(const partition *p, data_part part) {
    for (int i = 1; i < p->devices; i++)
        if (partition_wanted(p, i, part) != partition_wanted(p, 0, part) ||
            partition_scale(p, i, part) != partition_scale(p, 0, part))
            return true;
    return false;
}

exit_code partition_open(const corpus *c, const data_settings *d, uint64_t seed, int devices, partition **out,
                         problems *list) {
    size_t sources = (size_t)corpus_sources(c);
    partition *p = *out = calloc(1, sizeof *p);
    bool good = p != NULL;
    if (good) {
        *p = (partition){.corpus = c, .settings = d, .seed = seed, .devices = devices};
        for (int part = 0; part < DATA_SPLITS; part++) {
            p->splits[part] = split_of_part(d, (data_part)part);
            p->even[part] = !p->splits[part]->unequal && !devices_differ(p, (data_part)part);
        }
        p->shares = calloc(sources, sizeof *p->shares);
        p->others = calloc(sources, sizeof *p->others);
        good =
            p->shares && p->others && assign_sources(p) && (!split_of(d)->prepare || split_of(d)->prepare(p));
    }
    for (int part = 0; part < DATA_TEST && good; part++)
        good = p->even[part] || create_sums(p, (data_part)part);
    if (good) return EXIT_OK;
    partition_close(p);
    *out = NULL;
    return problem(list, EXIT_ENVIRONMENT, "no memory to divide the text of %zu source(s)", sources);
}

void partition_close(partition *p) {
    if (!p) return;
    for (int part = 0; part < DATA_TEST; part++) {
        free(p->sums[part].before);
        free(p->sums[part].all);
    }
    free(p->shares);
    free(p->others);
    free(p->own);
    free(p->holders);
    free(p->prepared);
    free(p);
}

/* ---- Stretches ---- */

static exit_code too_little(const partition *p, int device, int source, data_part part, int64_t wanted,
                            int64_t total, problems *list) {
    const char *of = corpus_source_name(p->corpus, source), *path = corpus_path(p->corpus),
               *name = part_name(part), *key = KEYS[part];
    if (p->splits[part]->unequal || wanted != partition_asked(p->settings, part, device))
        return problem(
            list, EXIT_INPUT,
            "device %d of %d: takes %lld tokens (%s: %lld) from source %s of %s, which has %lld in "
            "its %s split; ask for fewer, or 0 for as many as there are",
            device, p->devices, (long long)wanted, key, (long long)partition_asked(p->settings, part, device),
            of, path, (long long)total, name);
    return problem(list, EXIT_INPUT,
                   "device %d of %d: %s asks for %lld tokens, but source %s of %s has %lld in its %s split; "
                   "ask for at most that many, or 0 for all",
                   device, p->devices, key, (long long)wanted, of, path, (long long)total, name);
}

static exit_code check_window(const partition *p, int device, int source, data_part part, int64_t count,
                              int sources, problems *list) {
    int sequence = p->settings->sequence;
    if (count > sequence || shard_examples(corpus_shard(p->corpus, source, part)) > 0) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "device %d of %d: holds %lld %s token(s) of source %s, fewer than a window "
                   "(data.sequence: %d) and the token after it need; "
                   "give each device at least %d by %s, or fewer devices, or more text",
                   device, p->devices, (long long)count, part_name(part),
                   corpus_source_name(p->corpus, source), sequence, sources * (sequence + 1), KEYS[part]);
}

static exit_code no_example(const partition *p, int device, int source, data_part part, int64_t count,
                            problems *list) {
    return problem(
        list, EXIT_INPUT,
        "device %d of %d: no %s example of source %s begins in its stretch of %lld tokens; give each "
        "device more by %s, or fewer devices, or more examples",
        device, p->devices, part_name(part), corpus_source_name(p->corpus, source), (long long)count,
        KEYS[part]);
}

static int64_t place_of(partition *p, int device, data_part part, const text_share *share, int64_t wanted) {
    rng_key key = {p->seed, RNG_SHARED, RNG_PARTITION, (uint64_t)part << 32 | (uint64_t)share->source};
    int64_t total = partition_held(p, share->source, part);
    if (part == DATA_TEST) return 0;
    if (p->even[part]) return partition_first(total, wanted, share->slot, share->slots, &key);
    sum_up_to(p, device, part);
    const partition_sums *sums = &p->sums[part];
    return partition_first_after(total, wanted, sums->before[share->source], sums->all[share->source], &key);
}

/* Whether other devices have some of the same training text. */
static bool is_shared(const partition *p, data_part part, const text_share *share, int64_t wanted,
                      int64_t total) {
    if (part != DATA_TRAIN) return false;
    return p->even[part] ? wanted > total / share->slots : p->sums[part].all[share->source] > total;
}

static exit_code take_share(partition *p, int device, data_part part, const text_share *share, int sources,
                            text_range *out, problems *list) {
    int64_t total = partition_held(p, share->source, part), wanted = share->tokens;
    if (wanted > total) return too_little(p, device, share->source, part, wanted, total, list);
    exit_code code = check_window(p, device, share->source, part, wanted, sources, list);
    if (code != EXIT_OK) return code;
    int64_t first = place_of(p, device, part, share, wanted);
    code = corpus_text(p->corpus, share->source, part, first, wanted, out, list);
    if (code == EXIT_OK && shard_examples(out->text) > 0 && out->examples == 0)
        code = no_example(p, device, share->source, part, wanted, list);
    out->shared = is_shared(p, part, share, wanted, total);
    out->start = share->start;
    out->end = share->end;
    return code;
}

static bool make_room(part_text *text, int more) {
    if (text->count + more <= text->room) return true;
    int room = text->count + more > 2 * text->count ? text->count + more : 2 * text->count;
    text_range *grown = realloc(text->ranges, (size_t)room * sizeof *grown);
    if (!grown) return false;
    text->ranges = grown;
    text->room = room;
    return true;
}

exit_code partition_take(partition *p, int device, data_part part, part_text *out, problems *list) {
    int n = p->splits[part]->shares(p, device, part, p->shares);
    if (!make_room(out, n))
        return problem(list, EXIT_ENVIRONMENT, "device %d: no memory to list its text", device);
    for (int i = 0; i < n; i++) {
        text_range *range = &out->ranges[out->count];
        exit_code code = take_share(p, device, part, &p->shares[i], n, range, list);
        if (code != EXIT_OK) return code;
        out->tokens += range->count;
        out->count++;
    }
    return EXIT_OK;
}

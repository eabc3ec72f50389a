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

int64_t partition_wanted(const data_settings *d, data_part part) {
    const int64_t wanted[DATA_SPLITS] = {d->tokens_per_device, d->valid_tokens_per_device,
                                         d->test_tokens_per_device};
    return wanted[part];
}

bool partition_is_common(const partition *p, data_part part) {
    return part == DATA_TEST || (part == DATA_VALID && partition_wanted(p->settings, part) == 0);
}

int partition_source(const partition *p, int device) {
    return device % corpus_sources(p->corpus);
}

int64_t partition_held(const partition *p, int source, data_part part) {
    if (partition_wanted(p->settings, part) == 0) return shard_tokens(corpus_shard(p->corpus, source, part));
    return corpus_text_tokens(p->corpus, source, part);
}

/* ---- Sums over devices, where shares are unequal ---- */

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

exit_code partition_open(const corpus *c, const data_settings *d, uint64_t seed, int devices, partition **out,
                         problems *list) {
    size_t sources = (size_t)corpus_sources(c);
    partition *p = *out = calloc(1, sizeof *p);
    bool good = p != NULL;
    if (good) {
        *p = (partition){.corpus = c, .settings = d, .seed = seed, .devices = devices};
        for (int part = 0; part < DATA_SPLITS; part++) p->splits[part] = split_of_part(d, (data_part)part);
        p->shares = calloc(sources, sizeof *p->shares);
        p->others = calloc(sources, sizeof *p->others);
        good = p->shares && p->others;
    }
    for (int part = 0; part < DATA_TEST && good; part++)
        good = !p->splits[part]->unequal || create_sums(p, (data_part)part);
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
    free(p);
}

/* ---- Stretches ---- */

static exit_code too_little(const partition *p, int device, int source, data_part part, int64_t wanted,
                            int64_t total, problems *list) {
    const char *of = corpus_source_name(p->corpus, source), *path = corpus_path(p->corpus),
               *name = part_name(part), *key = KEYS[part];
    if (p->splits[part]->unequal)
        return problem(list, EXIT_INPUT,
                       "device %d of %d: takes %lld of %s (%lld tokens) from source %s of %s, which has %lld "
                       "in its %s split; ask for fewer, "
                       "or 0 for as many as its mixture allows",
                       device, p->devices, (long long)wanted, key,
                       (long long)partition_wanted(p->settings, part), of, path, (long long)total, name);
    return problem(list, EXIT_INPUT,
                   "device %d of %d: %s asks for %lld tokens, but source %s of %s has %lld in its %s split; "
                   "ask for at most that many, or 0 for all",
                   device, p->devices, key, (long long)wanted, of, path, (long long)total, name);
}

static exit_code check_window(const partition *p, int device, int source, data_part part, int64_t count,
                              problems *list) {
    int sequence = p->settings->sequence;
    if (count > sequence || shard_examples(corpus_shard(p->corpus, source, part)) > 0) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "device %d of %d: holds %lld %s token(s) of source %s, fewer than a window "
                   "(data.sequence: %d) and the token after it need; "
                   "give each device at least %d by %s, or fewer devices, or more text",
                   device, p->devices, (long long)count, part_name(part),
                   corpus_source_name(p->corpus, source), sequence, sequence + 1, KEYS[part]);
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
    if (!p->splits[part]->unequal) return partition_first(total, wanted, share->slot, share->slots, &key);
    sum_up_to(p, device, part);
    const partition_sums *sums = &p->sums[part];
    return partition_first_after(total, wanted, sums->before[share->source], sums->all[share->source], &key);
}

/* Whether other devices have some of the same training text. */
static bool is_shared(const partition *p, data_part part, const text_share *share, int64_t wanted,
                      int64_t total) {
    if (part != DATA_TRAIN) return false;
    return p->splits[part]->unequal ? p->sums[part].all[share->source] > total
                                    : wanted > total / share->slots;
}

static exit_code take_share(partition *p, int device, data_part part, const text_share *share,
                            text_range *out, problems *list) {
    int64_t total = partition_held(p, share->source, part), wanted = share->tokens;
    if (partition_wanted(p->settings, part) == 0 && !p->splits[part]->unequal)
        wanted = part == DATA_TRAIN ? total / share->slots : total;
    if (wanted > total) return too_little(p, device, share->source, part, wanted, total, list);
    exit_code code = check_window(p, device, share->source, part, wanted, list);
    if (code != EXIT_OK) return code;
    int64_t first = place_of(p, device, part, share, wanted);
    code = corpus_text(p->corpus, share->source, part, first, wanted, out, list);
    if (code == EXIT_OK && shard_examples(out->text) > 0 && out->examples == 0)
        code = no_example(p, device, share->source, part, wanted, list);
    out->shared = is_shared(p, part, share, wanted, total);
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
        exit_code code = take_share(p, device, part, &p->shares[i], range, list);
        if (code != EXIT_OK) return code;
        out->tokens += range->count;
        out->count++;
    }
    return EXIT_OK;
}

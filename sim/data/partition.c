/* partition.c - device i of a population of N over S sources has source i mod S; it is holder i / S of that source's text.
 *
 * Keyed by (seed, RNG_PARTITION, part, source): populations of equal seed, method whatever, deal the same stretches, and other seeds deal
 * others. Test stretches depend on no seed, so that all populations are measured on the same text. */
#include "data/partition.h"

#include "data/parts.h"

static const char *const KEYS[DATA_SPLITS] = {"data.tokens_per_device", "data.valid_tokens_per_device", "data.test_tokens_per_device"};

int64_t partition_first(int64_t total, int64_t wanted, int slot, int slots, const rng_key *key) {
    int64_t place = (slot + (int64_t)rng_below(key, 0, (uint64_t)slots)) % slots;
    int64_t spare = total - wanted;
    if (wanted <= total / slots) return (int64_t)rng_below(key, 1, (uint64_t)(total - slots * wanted) + 1) + place * wanted;
    return (int64_t)((__int128)spare * place / (slots - 1));
}

int64_t partition_wanted(const data_settings *d, data_part part) {
    const int64_t wanted[DATA_SPLITS] = {d->tokens_per_device, d->valid_tokens_per_device, d->test_tokens_per_device};
    return wanted[part];
}

bool partition_is_mixed(const data_settings *d, data_part part) {
    return part != DATA_TRAIN && d->split == SPLIT_OUT_OF_DISTRIBUTION;
}

static int holders(const partition *p, int source) {
    int sources = corpus_sources(p->corpus);
    return (p->devices - source + sources - 1) / sources;
}

bool partition_overlaps(const partition *p, int source) {
    int64_t wanted = p->settings->tokens_per_device;
    return wanted > 0 && wanted > corpus_text_tokens(p->corpus, source, DATA_TRAIN) / holders(p, source);
}

static exit_code too_little(const partition *p, int device, int source, data_part part, int64_t wanted, int64_t total, problems *list) {
    return problem(
        list, EXIT_INPUT,
        "device %d of %d: %s asks for %lld tokens, but source %s of %s has %lld in its %s split; ask for at most that many, or 0 for all",
        device, p->devices, KEYS[part], (long long)wanted, corpus_source_name(p->corpus, source), corpus_path(p->corpus), (long long)total,
        part_name(part));
}

static exit_code check_window(const partition *p, int device, int source, data_part part, int64_t count, problems *list) {
    int sequence = p->settings->sequence;
    if (count > sequence) return EXIT_OK;
    return problem(
        list, EXIT_INPUT,
        "device %d of %d: holds %lld %s token(s) of source %s, fewer than a window (data.sequence: %d) and the token after it need; "
        "give each device at least %d by %s, or fewer devices, or more text",
        device, p->devices, (long long)count, part_name(part), corpus_source_name(p->corpus, source), sequence, sequence + 1, KEYS[part]);
}

static exit_code take(const partition *p, int device, int source, data_part part, int64_t wanted, int slot, int slots, text_range *out,
                      problems *list) {
    rng_key key = {p->seed, RNG_SHARED, RNG_PARTITION, (uint64_t)part << 32 | (uint64_t)source};
    int64_t total = corpus_text_tokens(p->corpus, source, part);
    if (wanted == 0) {
        total = shard_tokens(corpus_shard(p->corpus, source, part));
        wanted = part == DATA_TRAIN ? total / slots : total;
    }
    if (wanted > total) return too_little(p, device, source, part, wanted, total, list);
    exit_code code = check_window(p, device, source, part, wanted, list);
    if (code != EXIT_OK) return code;
    int64_t first = part == DATA_TEST ? 0 : partition_first(total, wanted, slot, slots, &key);
    return corpus_text(p->corpus, source, part, first, wanted, out, list);
}

exit_code partition_own(const partition *p, int device, data_part part, text_range *out, problems *list) {
    int sources = corpus_sources(p->corpus), source = device % sources;
    return take(p, device, source, part, partition_wanted(p->settings, part), device / sources, holders(p, source), out, list);
}

exit_code partition_mixed(const partition *p, int device, int source, data_part part, text_range *out, problems *list) {
    int64_t all = partition_wanted(p->settings, part), sources = corpus_sources(p->corpus);
    int64_t wanted = all / sources + (source < all % sources);
    if (all > 0 && wanted == 0) return check_window(p, device, source, part, 0, list);
    return take(p, device, source, part, wanted, device, p->devices, out, list);
}

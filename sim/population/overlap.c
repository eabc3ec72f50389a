/* What a user is told about devices that share training text. */
#include <stdio.h>
#include <string.h>

#include "data/split.h"
#include "population/fleet.h"

typedef struct {
    int devices;
    int64_t tokens; /* that all of them ask for */
    bool even;      /* equally many each */
} holders;

static holders holders_of(const fleet *f, const population *p, int source) {
    holders h = {0, 0, true};
    int64_t first = -1;
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++)
        if (f->devices[i].text.source == source) {
            int64_t tokens = f->devices[i].text.tokens[DATA_TRAIN];
            if (h.devices++ == 0) first = tokens;
            h.even = h.even && tokens == first;
            h.tokens += tokens;
        }
    return h;
}

/* Devices with several sources: of which one there is too little depends on the mixtures of all. */
static bool describe_mixtures(const fleet *f, const population *p, size_t bytes, char *out) {
    int sharing = 0;
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++)
        sharing += f->devices[i].text.overlaps;
    if (sharing > 0)
        snprintf(out, bytes,
                 "population '%s', seed %llu: %d of its %d devices share text: more of a source is asked "
                 "than it has",
                 p->settings->name, (unsigned long long)p->settings->seed, sharing, p->n_devices);
    return sharing > 0;
}

/* Devices of a source share its text or none does: the first of them tells. NULL: it has none. */
static const device *first_holder(const fleet *f, const population *p, int source) {
    const device *first = &f->devices[p->first_device];
    if (p->settings->data.sources.value < 0) return source < p->n_devices ? first + source : NULL;
    for (int i = 0; i < p->n_devices; i++)
        if (first[i].text.source == source) return first + i;
    return NULL;
}

/* The first source that runs short is described, and how many others do. */
bool fleet_describe_overlap(const fleet *f, const population *p, size_t bytes, char *out) {
    if (split_of(&p->settings->data)->mixes) return describe_mixtures(f, p, bytes, out);
    int sources = corpus_sources(p->text), short_sources = 0, first = 0;
    for (int source = sources - 1; source >= 0; source--) {
        const device *holder = first_holder(f, p, source);
        if (!holder || !holder->text.overlaps) continue;
        short_sources++;
        first = source;
    }
    if (short_sources == 0) return false;
    holders h = holders_of(f, p, first);
    char asked[64];
    if (!h.even)
        snprintf(asked, sizeof asked, "%lld tokens together", (long long)h.tokens);
    else
        snprintf(asked, sizeof asked, "%d x %lld tokens", h.devices, (long long)(h.tokens / h.devices));
    int end =
        snprintf(out, bytes,
                 "population '%s', seed %llu: its %d devices of source %s share text: %s are asked of %lld",
                 p->settings->name, (unsigned long long)p->settings->seed, h.devices,
                 corpus_source_name(p->text, first), asked,
                 (long long)shard_tokens(corpus_shard(p->text, first, DATA_TRAIN)));
    if (short_sources > 1 && end > 0 && (size_t)end < bytes)
        snprintf(out + end, bytes - (size_t)end, "; %d more source%s", short_sources - 1,
                 short_sources > 2 ? "s run short" : " runs short");
    return true;
}

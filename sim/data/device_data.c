/* device_data.c - a device's text, part by part, and the windows drawn from it.
 *
 * A part is a list of stretches; a window lies within one. A random window picks a stretch uniformly, then one of its
 * count - sequence positions; fixed window k of a part with P stretches lies in stretch k mod P. So all sources of a mixture, and all
 * devices of pooled data, weigh the same, whatever their lengths. */
#include <stdlib.h>

#include "data/corpus.h"
#include "data/partition.h"
#include "data/parts.h"
#include "data/windows.h"

typedef struct {
    text_range *ranges; /* [count] */
    int count;
    int64_t tokens; /* of all ranges */
} part_text;

struct device_data {
    uint64_t seed;
    int device, source;
    bool overlaps;
    part_text parts[DATA_SPLITS];
    const char *windows_file; /* borrowed; NULL: all windows are drawn */
    window_table windows;
};

/* How many devices' texts make up a part: one, or for pooled data as many as differ. Whole splits and test stretches are the same for
 * all devices of a source, so one device of each source stands for them. */
static int contributors(const partition *p, data_part part, bool pooled) {
    if (!pooled) return 1;
    int sources = corpus_sources(p->corpus);
    bool same = part == DATA_TEST || (part == DATA_VALID && partition_wanted(p->settings, part) == 0);
    if (same && partition_is_mixed(p->settings, part)) return 1;
    return same && sources < p->devices ? sources : p->devices;
}

static exit_code fill_part(const partition *p, int device, bool pooled, data_part part, part_text *out, problems *list) {
    bool mixed = partition_is_mixed(p->settings, part);
    int devices = contributors(p, part, pooled), each = mixed ? corpus_sources(p->corpus) : 1;
    exit_code code = EXIT_OK;
    out->ranges = calloc((size_t)devices * (size_t)each, sizeof *out->ranges);
    if (!out->ranges) return problem(list, EXIT_ENVIRONMENT, "device %d: no memory to list its text", device);
    for (int i = 0; i < devices && code == EXIT_OK; i++)
        for (int source = 0; source < each && code == EXIT_OK; source++) {
            text_range *range = &out->ranges[out->count];
            int holder = pooled ? i : device;
            code = mixed ? partition_mixed(p, holder, source, part, range, list) : partition_own(p, holder, part, range, list);
            if (code != EXIT_OK) break;
            out->tokens += range->count;
            out->count++;
        }
    return code;
}

/* The stretch that holds position *offset of the part; *offset becomes the position within it. */
static const text_range *range_at(const part_text *part, int64_t *offset) {
    int i = 0;
    while (i < part->count - 1 && *offset >= part->ranges[i].count) *offset -= part->ranges[i++].count;
    return &part->ranges[i];
}

static exit_code check_windows(const device_data *data, int sequence, problems *list) {
    for (int64_t i = 0; i < data->windows.count; i++) {
        const window_row *row = &data->windows.rows[i];
        int64_t offset = row->offset;
        const text_range *range = range_at(&data->parts[row->part], &offset);
        if (offset + sequence + 1 > range->count)
            return problem(
                list, EXIT_INPUT,
                "%s:%d: a window of %d tokens and the one after it do not fit at offset %lld of device %d, whose %s text there ends "
                "%lld tokens later",
                data->windows_file, row->line, sequence, (long long)row->offset, data->device, part_name(row->part),
                (long long)(range->count > offset ? range->count - offset : 0));
    }
    return EXIT_OK;
}

exit_code device_data_give_windows(device_data *data, int sequence, given_windows *from, problems *list) {
    data->windows_file = from->path;
    data->windows = from->tables[data->device];
    from->tables[data->device] = (window_table){0};
    return check_windows(data, sequence, list);
}

exit_code device_data_open(const corpus *c, const data_settings *d, uint64_t seed, int device, int devices, bool pooled, device_data **out,
                           problems *list) {
    partition p = {c, d, seed, devices};
    exit_code code = EXIT_OK;
    *out = NULL;
    device_data *data = calloc(1, sizeof *data);
    if (!data) return problem(list, EXIT_ENVIRONMENT, "device %d: no memory for its data", device);
    data->seed = seed;
    data->device = device;
    data->source = pooled ? -1 : device % corpus_sources(c);
    data->overlaps = !pooled && partition_overlaps(&p, data->source);
    for (int part = 0; part < DATA_SPLITS; part++) {
        exit_code of_part = fill_part(&p, device, pooled, (data_part)part, &data->parts[part], list);
        if (code == EXIT_OK) code = of_part;
    }
    if (code == EXIT_OK)
        *out = data;
    else
        device_data_close(data);
    return code;
}

void device_data_close(device_data *data) {
    if (!data) return;
    for (int part = 0; part < DATA_SPLITS; part++) {
        for (int i = 0; i < data->parts[part].count; i++) shard_close(data->parts[part].ranges[i].owned);
        free(data->parts[part].ranges);
    }
    windows_free(&data->windows);
    free(data);
}

int device_data_source(const device_data *data) {
    return data->source;
}

int64_t device_data_tokens(const device_data *data, data_part part) {
    return data->parts[part].tokens;
}

bool device_data_overlaps(const device_data *data) {
    return data->overlaps;
}

static int64_t draw_window(const device_data *data, data_part part, uint64_t step, int index, int sequence) {
    static const rng_purpose purposes[DATA_SPLITS] = {RNG_TRAIN_WINDOWS, RNG_ROUTER_WINDOWS, RNG_TEST_WINDOWS};
    const part_text *text = &data->parts[part];
    rng_key key = {data->seed, data->device, purposes[part], step};
    int chosen = (int)rng_below(&key, 2 * (uint64_t)index, (uint64_t)text->count);
    int64_t before = 0;
    for (int i = 0; i < chosen; i++) before += text->ranges[i].count;
    return before + (int64_t)rng_below(&key, 2 * (uint64_t)index + 1, (uint64_t)(text->ranges[chosen].count - sequence));
}

exit_code device_data_require(const device_data *data, data_part part, int64_t steps, int batch, problems *list) {
    if (!data->windows_file) return EXIT_OK;
    for (int64_t step = 0; step < steps; step++)
        for (int index = 0; index < batch; index++)
            if (!windows_find(&data->windows, part, (uint64_t)step, index))
                return problem(
                    list, EXIT_INPUT,
                    "%s: has no line for device %d, %s, step %lld, index %d; the run takes steps 0 to %lld there, with index 0 to %d",
                    data->windows_file, data->device, part_name(part), (long long)step, index, (long long)steps - 1, batch - 1);
    return EXIT_OK;
}

exit_code device_data_sample(const device_data *data, data_part part, uint64_t step, int index, int sequence, int32_t *tokens,
                             int32_t *targets, int64_t *offset, problems *list) {
    const window_row *given = windows_find(&data->windows, part, step, index);
    int64_t position = given ? given->offset : draw_window(data, part, step, index, sequence);
    if (offset) *offset = position;
    const text_range *range = range_at(&data->parts[part], &position);
    return shard_window(range->text, range->first + position, sequence, tokens, targets, list);
}

exit_code device_data_fixed(const device_data *data, data_part part, int index, int count, int sequence, int32_t *tokens, int32_t *targets,
                            problems *list) {
    const part_text *text = &data->parts[part];
    int chosen = index % text->count;
    int64_t place = index / text->count, places = (count - chosen + text->count - 1) / text->count;
    const text_range *range = &text->ranges[chosen];
    int64_t positions = range->count - sequence;
    return shard_window(range->text, range->first + positions * (2 * place + 1) / (2 * places), sequence, tokens, targets, list);
}

/* device_data.c - a device's text, part by part, and the windows drawn from it.
 *
 * A part is a list of stretches; a window lies within one, at one of its count - sequence positions. Where
 * shares are equal, a random window picks a stretch uniformly, then one of its positions; fixed window k of a
 * part with P stretches lies in stretch k mod P. So all sources of a mixture, and all devices of pooled data,
 * weigh the same, whatever their lengths. Where shares are unequal, a random window picks one of all
 * stretches' positions, and fixed windows are spread evenly over them: a source weighs as much as a device
 * has of it. */
#include <stdlib.h>

#include "data/corpus.h"
#include "data/partition.h"
#include "data/parts.h"
#include "data/windows.h"

struct device_data {
    const corpus *corpus; /* borrowed */
    uint64_t seed;
    int device, source, sequence; /* sequence: data.sequence */
    bool by_positions;            /* windows fall on all positions alike, else on stretches alike */
    bool overlaps;
    part_text parts[DATA_SPLITS];
    const char *windows_file; /* borrowed; NULL: all windows are drawn */
    window_table windows;
};

/* Pooled data are the texts of all devices, those that differ. */
static exit_code fill_part(partition *p, int device, bool pooled, data_part part, part_text *out,
                           problems *list) {
    int devices = !pooled ? 1 : p->split->distinct ? p->split->distinct(p, part) : p->devices;
    exit_code code = EXIT_OK;
    for (int i = 0; i < devices && code == EXIT_OK; i++)
        code = partition_take(p, pooled ? i : device, part, out, list);
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
            return problem(list, EXIT_INPUT,
                           "%s:%d: a window of %d tokens and the one after it do not fit at offset %lld of "
                           "device %d, whose %s text there ends "
                           "%lld tokens later",
                           data->windows_file, row->line, sequence, (long long)row->offset, data->device,
                           part_name(row->part),
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

static bool overlaps(const part_text *train) {
    for (int i = 0; i < train->count; i++)
        if (train->ranges[i].shared) return true;
    return false;
}

exit_code device_data_open(partition *p, int device, bool pooled, device_data **out, problems *list) {
    exit_code code = EXIT_OK;
    *out = NULL;
    device_data *data = calloc(1, sizeof *data);
    if (!data) return problem(list, EXIT_ENVIRONMENT, "device %d: no memory for its data", device);
    *data = (device_data){.corpus = p->corpus,
                          .seed = p->seed,
                          .device = device,
                          .source = pooled || !p->split->source ? -1 : p->split->source(p, device),
                          .sequence = p->settings->sequence,
                          .by_positions = p->split->unequal};
    for (int part = 0; part < DATA_SPLITS; part++) {
        exit_code of_part = fill_part(p, device, pooled, (data_part)part, &data->parts[part], list);
        if (code == EXIT_OK) code = of_part;
    }
    data->overlaps = !pooled && overlaps(&data->parts[DATA_TRAIN]);
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

/* How much text of each source a part has, in the proportions in which windows fall on sources. */
static double weight_of(const device_data *data, const text_range *range) {
    return data->by_positions ? (double)(range->count - data->sequence) : 1.0;
}

double device_data_entropy(const device_data *data) {
    const part_text *text = &data->parts[DATA_TEST];
    double sum = 0, weights = 0;
    for (int i = 0; i < text->count; i++) {
        double weight = weight_of(data, &text->ranges[i]);
        sum += weight * corpus_entropy(data->corpus, text->ranges[i].source);
        weights += weight;
    }
    return sum / weights;
}

int64_t device_data_longest(const device_data *data, data_part part) {
    const part_text *text = &data->parts[part];
    int64_t longest = 0;
    for (int i = 0; i < text->count; i++)
        if (text->ranges[i].count > longest) longest = text->ranges[i].count;
    return longest;
}

static int64_t positions(const part_text *text, int sequence) {
    return text->tokens - (int64_t)text->count * sequence;
}

/* Of all stretches' positions one after the other, where `position` is in the part's text. */
static int64_t offset_of(const part_text *text, int64_t position, int sequence) {
    int64_t before = 0;
    for (int i = 0; i < text->count - 1 && position >= text->ranges[i].count - sequence; i++) {
        position -= text->ranges[i].count - sequence;
        before += text->ranges[i].count;
    }
    return before + position;
}

static int64_t draw_window(const device_data *data, data_part part, uint64_t step, int index, int sequence) {
    static const rng_purpose purposes[DATA_SPLITS] = {RNG_TRAIN_WINDOWS, RNG_ROUTER_WINDOWS,
                                                      RNG_TEST_WINDOWS};
    const part_text *text = &data->parts[part];
    rng_key key = {data->seed, data->device, purposes[part], step};
    if (data->by_positions)
        return offset_of(text,
                         (int64_t)rng_below(&key, 2 * (uint64_t)index, (uint64_t)positions(text, sequence)),
                         sequence);
    int chosen = (int)rng_below(&key, 2 * (uint64_t)index, (uint64_t)text->count);
    int64_t before = 0;
    for (int i = 0; i < chosen; i++) before += text->ranges[i].count;
    return before + (int64_t)rng_below(&key, 2 * (uint64_t)index + 1,
                                       (uint64_t)(text->ranges[chosen].count - sequence));
}

exit_code device_data_require(const device_data *data, data_part part, int64_t steps, int batch,
                              problems *list) {
    if (!data->windows_file) return EXIT_OK;
    for (int64_t step = 0; step < steps; step++)
        for (int index = 0; index < batch; index++)
            if (!windows_find(&data->windows, part, (uint64_t)step, index))
                return problem(list, EXIT_INPUT,
                               "%s: has no line for device %d, %s, step %lld, index %d; the run takes steps "
                               "0 to %lld there, with index 0 to %d",
                               data->windows_file, data->device, part_name(part), (long long)step, index,
                               (long long)steps - 1, batch - 1);
    return EXIT_OK;
}

exit_code device_data_sample(const device_data *data, data_part part, uint64_t step, int index, int sequence,
                             int32_t *tokens, int32_t *targets, int64_t *offset, problems *list) {
    const window_row *given = windows_find(&data->windows, part, step, index);
    int64_t position = given ? given->offset : draw_window(data, part, step, index, sequence);
    if (offset) *offset = position;
    const text_range *range = range_at(&data->parts[part], &position);
    return shard_window(range->text, range->first + position, sequence, tokens, targets, list);
}

/* The middle of the index-th of `count` equal parts of n positions. */
static int64_t middle(int64_t n, int64_t index, int64_t count) {
    return (int64_t)((__int128)n * (2 * index + 1) / (2 * count));
}

static int64_t fixed_window(const device_data *data, data_part part, int index, int count, int sequence) {
    const part_text *text = &data->parts[part];
    if (data->by_positions) return offset_of(text, middle(positions(text, sequence), index, count), sequence);
    int chosen = index % text->count;
    int64_t before = 0;
    for (int i = 0; i < chosen; i++) before += text->ranges[i].count;
    return before + middle(text->ranges[chosen].count - sequence, index / text->count,
                           (count - chosen + text->count - 1) / text->count);
}

exit_code device_data_fixed(const device_data *data, data_part part, int index, int count, int sequence,
                            int32_t *tokens, int32_t *targets, problems *list) {
    int64_t position = fixed_window(data, part, index, count, sequence);
    const text_range *range = range_at(&data->parts[part], &position);
    return shard_window(range->text, range->first + position, sequence, tokens, targets, list);
}

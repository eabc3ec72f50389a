/* device_data.c - a device's text, part by part, and the windows drawn from it.
 *
 * A part is a list of stretches; a window lies within one, at one of its count - sequence positions; or,
 * where the stretch has examples, is one of these, and every example is a position. Where shares are equal, a
 * random window picks a stretch uniformly, then one of its positions; fixed window k of a part with P
 * stretches lies in stretch k mod P. So all sources of a mixture, and all devices of pooled data, weigh the
 * same, whatever their lengths. Where shares are unequal, a random window picks one of all stretches'
 * positions, and fixed windows are spread evenly over them: a source weighs as much as a device has of it. */
#include <stdlib.h>

#include "data/corpus.h"
#include "data/examples.h"
#include "data/partition.h"
#include "data/parts.h"
#include "data/windows.h"

struct device_data {
    const corpus *corpus; /* borrowed */
    uint64_t seed;
    int device, source, sequence; /* sequence: data.sequence */
    /* of the whole run, where the split of training text moves */
    bool moves;
    int rounds;
    int64_t steps;
    /* windows of a part fall on all positions alike, else on stretches alike */
    bool by_positions[DATA_SPLITS];
    bool overlaps;
    part_text parts[DATA_SPLITS];
    const char *windows_file; /* borrowed; NULL: all windows are drawn */
    window_table windows;
};

/* Leaves a device so many examples as it is to have: of its stretches, which are those from `first` on, in
 * proportion to the examples in each. */
static exit_code keep_examples(const partition *p, int device, part_text *out, int first, problems *list) {
    int64_t wanted = per_device_at(&p->settings->examples_per_device, device), all = 0, before = 0, kept = 0;
    int end = out->count, n = first;
    for (int i = first; i < end; i++) all += out->ranges[i].examples;
    if (all < wanted)
        return problem(
            list, EXIT_INPUT,
            "device %d of %d: data.examples_per_device asks for %lld training examples, but there are "
            "%lld in its text (data.tokens_per_device: %lld)%s",
            device, p->devices, (long long)wanted, (long long)all,
            (long long)partition_asked(p->settings, DATA_TRAIN, device),
            all == 0 ? "; running text has none" : "; ask for fewer, or give each device more text");
    exit_code code = EXIT_OK;
    for (int i = first; i < end && code == EXIT_OK; i++) {
        text_range *range = &out->ranges[i];
        before += range->examples;
        int64_t share = (int64_t)((__int128)wanted * before / all) - kept;
        kept += share;
        out->tokens -= range->count;
        code = corpus_keep_examples(range, share, list);
        out->tokens += range->count;
        if (share > 0) out->ranges[n++] = *range;
    }
    out->count = n;
    return code;
}

/* Pooled data are the texts of all devices, those that differ. */
static exit_code fill_part(partition *p, int device, bool pooled, data_part part, part_text *out,
                           problems *list) {
    const data_split *split = p->splits[part];
    exit_code code = EXIT_OK;
    for (int i = pooled ? 0 : device; i < (pooled ? p->devices : device + 1) && code == EXIT_OK; i++) {
        int first = out->count;
        if (pooled && split->repeats && split->repeats(p, i, part)) continue;
        code = partition_take(p, i, part, out, list);
        if (code == EXIT_OK && part == DATA_TRAIN && per_device_at(&p->settings->examples_per_device, i) > 0)
            code = keep_examples(p, i, out, first, list);
    }
    return code;
}

/* What a window's place counts: tokens, or examples. */
static int64_t places_of(const text_range *range) {
    return range->examples > 0 ? range->examples : range->count;
}

/* Where a window of the stretch can be. */
static int64_t positions_of(const text_range *range, int sequence) {
    return range->examples > 0 ? range->examples : range->count - sequence;
}

static int64_t places_before(const part_text *part, int range) {
    int64_t before = 0;
    for (int i = 0; i < range; i++) before += places_of(&part->ranges[i]);
    return before;
}

/* The stretch that holds *place of the part; *place becomes the place within it. */
static const text_range *range_at(const part_text *part, int64_t *place) {
    int i = 0;
    while (i < part->count - 1 && *place >= places_of(&part->ranges[i]))
        *place -= places_of(&part->ranges[i++]);
    return &part->ranges[i];
}

static exit_code refuse_example(const device_data *data, const window_row *row, problems *list) {
    return problem(list, EXIT_INPUT, "%s:%d: there is no example %lld of device %d, which has %lld to %s",
                   data->windows_file, row->line, (long long)row->offset, data->device,
                   (long long)device_data_examples(data, row->part), part_name(row->part));
}

static exit_code check_windows(const device_data *data, int sequence, problems *list) {
    for (int64_t i = 0; i < data->windows.count; i++) {
        const window_row *row = &data->windows.rows[i];
        int64_t offset = row->offset;
        const text_range *range = range_at(&data->parts[row->part], &offset);
        if (range->examples > 0 && offset >= range->examples) return refuse_example(data, row, list);
        if (range->examples == 0 && offset + sequence + 1 > range->count)
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
                          .source = pooled || p->splits[DATA_TRAIN]->mixes ? -1 : partition_source(p, device),
                          .sequence = p->settings->sequence,
                          .moves = p->splits[DATA_TRAIN]->moves,
                          .rounds = 1,
                          .steps = 1};
    for (int part = 0; part < DATA_SPLITS; part++) {
        data->by_positions[part] = p->splits[part]->unequal;
        exit_code of_part = fill_part(p, device, pooled, (data_part)part, &data->parts[part], list);
        THEN(code, of_part);
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

int64_t device_data_examples(const device_data *data, data_part part) {
    int64_t examples = 0;
    for (int i = 0; i < data->parts[part].count; i++) examples += data->parts[part].ranges[i].examples;
    return examples;
}

void device_data_mixture(const device_data *data, int64_t *out) {
    const part_text *text = &data->parts[DATA_TRAIN];
    for (int i = 0; i < text->count; i++) out[text->ranges[i].source] += text->ranges[i].count;
}

void device_data_set_length(device_data *data, int rounds, int64_t steps) {
    data->rounds = rounds;
    data->steps = steps;
}

int64_t device_data_tokens(const device_data *data, data_part part) {
    return data->parts[part].tokens;
}

bool device_data_overlaps(const device_data *data) {
    return data->overlaps;
}

/* How much text of each source a part has, in the proportions in which windows fall on sources. */
static double weight_of(const device_data *data, data_part part, const text_range *range) {
    return data->by_positions[part] ? (double)positions_of(range, data->sequence) : 1.0;
}

double device_data_entropy(const device_data *data) {
    const part_text *text = &data->parts[DATA_TEST];
    double sum = 0, weights = 0;
    for (int i = 0; i < text->count; i++) {
        double weight = weight_of(data, DATA_TEST, &text->ranges[i]);
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
    int64_t n = 0;
    for (int i = 0; i < text->count; i++) n += positions_of(&text->ranges[i], sequence);
    return n;
}

/* Of all stretches' positions one after the other, at which place of the part's text `position` is. */
static int64_t place_of(const part_text *text, int64_t position, int sequence) {
    int i = 0;
    for (; i < text->count - 1 && position >= positions_of(&text->ranges[i], sequence); i++)
        position -= positions_of(&text->ranges[i], sequence);
    return places_before(text, i) + position;
}

/* How far the run is in the round of a training step: 0 in the first, 1 in the last. */
static double progress_at(const device_data *data, uint64_t step) {
    int64_t round = data->steps > 0 ? (int64_t)((__int128)step * data->rounds / data->steps) : 0;
    if (round > data->rounds - 1) round = data->rounds - 1;
    return data->rounds > 1 ? (double)round / (data->rounds - 1) : 1.0;
}

/* The stretch that a window falls on: by the shares of that step. */
static int draw_moving(const device_data *data, const rng_key *key, int index, uint64_t step) {
    const part_text *text = &data->parts[DATA_TRAIN];
    double at = progress_at(data, step), sum = 0;
    for (int i = 0; i < text->count; i++) sum += (1 - at) * text->ranges[i].start + at * text->ranges[i].end;
    double left = sum * rng_open_unit(key, 2 * (uint64_t)index);
    int i = 0;
    for (; i < text->count - 1; i++) {
        left -= (1 - at) * text->ranges[i].start + at * text->ranges[i].end;
        if (left < 0) break;
    }
    return i;
}

static int64_t draw_place(const device_data *data, data_part part, uint64_t step, int index, int sequence) {
    static const rng_purpose purposes[DATA_SPLITS] = {RNG_TRAIN_WINDOWS, RNG_ROUTER_WINDOWS,
                                                      RNG_TEST_WINDOWS};
    const part_text *text = &data->parts[part];
    rng_key key = {data->seed, data->device, purposes[part], step};
    bool moves = part == DATA_TRAIN && data->moves;
    if (data->by_positions[part] && !moves)
        return place_of(text,
                        (int64_t)rng_below(&key, 2 * (uint64_t)index, (uint64_t)positions(text, sequence)),
                        sequence);
    int chosen = moves ? draw_moving(data, &key, index, step)
                       : (int)rng_below(&key, 2 * (uint64_t)index, (uint64_t)text->count);
    return places_before(text, chosen) +
           (int64_t)rng_below(&key, 2 * (uint64_t)index + 1,
                              (uint64_t)positions_of(&text->ranges[chosen], sequence));
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

/* ---- Windows ---- */

/* An example that is longer than a window is cut at the window's end. */
static exit_code example_window(const text_range *range, int64_t index, int sequence, data_window *out,
                                problems *list) {
    example e;
    exit_code code = shard_example(range->text, range->first_example + index, &e, list);
    if (code != EXIT_OK) return code;
    int32_t tokens = e.tokens - 1 < sequence ? e.tokens - 1 : sequence;
    *out = (data_window){.text = range->text, .first = e.first, .tokens = tokens, .skipped = e.prompt - 1};
    return EXIT_OK;
}

static exit_code window_at(const part_text *part, int64_t place, int sequence, data_window *out,
                           problems *list) {
    int64_t within = place;
    exit_code code = EXIT_OK;
    const text_range *range = range_at(part, &within);
    if (range->examples > 0)
        code = example_window(range, within, sequence, out, list);
    else
        *out = (data_window){.text = range->text, .first = range->first + within, .tokens = sequence};
    out->place = place;
    return code;
}

exit_code data_window_read(const data_window *window, int32_t *tokens, int32_t *targets, problems *list) {
    exit_code code = shard_window(window->text, window->first, window->tokens, tokens, targets, list);
    for (int32_t i = 0; i < window->skipped; i++) targets[i] = -1;
    return code;
}

exit_code device_data_sample(const device_data *data, data_part part, uint64_t step, int index, int sequence,
                             data_window *out, problems *list) {
    const window_row *given = windows_find(&data->windows, part, step, index);
    int64_t place = given ? given->offset : draw_place(data, part, step, index, sequence);
    return window_at(&data->parts[part], place, sequence, out, list);
}

/* The middle of the index-th of `count` equal parts of n positions. */
static int64_t middle(int64_t n, int64_t index, int64_t count) {
    return (int64_t)((__int128)n * (2 * index + 1) / (2 * count));
}

static int64_t fixed_place(const device_data *data, data_part part, int index, int count, int sequence) {
    const part_text *text = &data->parts[part];
    if (data->by_positions[part])
        return place_of(text, middle(positions(text, sequence), index, count), sequence);
    int chosen = index % text->count;
    return places_before(text, chosen) + middle(positions_of(&text->ranges[chosen], sequence),
                                                index / text->count,
                                                (count - chosen + text->count - 1) / text->count);
}

exit_code device_data_fixed(const device_data *data, data_part part, int index, int count, int sequence,
                            data_window *out, problems *list) {
    return window_at(&data->parts[part], fixed_place(data, part, index, count, sequence), sequence, out,
                     list);
}

/* Where stretches weigh the same, each gives as many as the one with the fewest examples has. */
int device_data_fixed_count(const device_data *data, data_part part, int most) {
    const part_text *text = &data->parts[part];
    int64_t fewest = INT64_MAX, all = 0;
    for (int i = 0; i < text->count; i++) {
        const text_range *range = &text->ranges[i];
        if (range->examples == 0) return most;
        if (range->examples < fewest) fewest = range->examples;
        all += range->examples;
    }
    if (!data->by_positions[part]) all = fewest < most ? fewest * text->count : most;
    return all < most ? (int)all : most;
}

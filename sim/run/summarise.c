#include "run/summarise.h"

#include <math.h>
#include <stdlib.h>

#include "data/split.h"
#include "methods/as_released.h"

/* A population's numbers are of its devices that are not held out: those of them that have a value. */
static int count(const population *p, const double *values) {
    int n = 0;
    for (int i = 0; i < p->n_senders; i++) n += !isnan(values[p->first_device + i]);
    return n;
}

static double mean(const population *p, const double *values) {
    int n = count(p, values);
    double sum = n > 0 ? 0.0 : NAN;
    for (int i = 0; i < p->n_senders; i++)
        if (!isnan(values[p->first_device + i])) sum += values[p->first_device + i] / n;
    return sum;
}

static double perplexity(const population *p, const double *loss) {
    int n = count(p, loss);
    double sum = n > 0 ? 0.0 : NAN;
    for (int i = 0; i < p->n_senders; i++)
        if (!isnan(loss[p->first_device + i]))
            sum += released_perplexity(p->settings->as_released, loss[p->first_device + i]);
    return sum / n;
}

static double perplexity_std(const population *p, const double *loss) {
    int n = count(p, loss);
    double center = perplexity(p, loss), squares = n > 0 ? 0.0 : NAN;
    for (int i = 0; i < p->n_senders; i++)
        if (!isnan(loss[p->first_device + i]))
            squares +=
                pow(released_perplexity(p->settings->as_released, loss[p->first_device + i]) - center, 2.0);
    return sqrt(squares / n);
}

static double of_column(const population *p, summary_kind kind, const double *values) {
    switch (kind) {
    case SUMMARY_MEAN:
        return mean(p, values);
    case SUMMARY_PERPLEXITY:
        return perplexity(p, values);
    case SUMMARY_PERPLEXITY_STD:
        return perplexity_std(p, values);
    }
    return NAN;
}

static void set_measured(const session *s, const population *p, summary_row *row) {
    for (metric_id id = 0; id < METRIC_COUNT; id++)
        for (int i = 0; i < METRIC_COLUMNS && metrics[id].columns[i].name; i++)
            row->of_metric[id][i] =
                of_column(p, metrics[id].columns[i].kind, metric_doubles(&s->numbers, id));
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++)
        for (device_state_id id = 0; id < DEVICE_STATES; id++) {
            int64_t value = 0;
            if (!device_states[id].column) continue;
            device_state_get(&s->fleet->devices[i], id, &value);
            row->of_state[id] += value;
        }
}

/* Of the devices that the population's own numbers leave out: those of them that have a value. */
static double perplexity_of_late(const session *s, const population *p, bool joining) {
    const double *last = metric_doubles(&s->numbers, METRIC_TEST_LOSS);
    double sum = 0.0;
    int n = 0;
    for (int i = p->first_device + p->n_senders; i < p->first_device + p->n_devices; i++) {
        double loss = joining ? s->fleet->devices[i].joined_loss : last[i];
        if (isnan(loss)) continue;
        sum += released_perplexity(p->settings->as_released, loss);
        n++;
    }
    return n > 0 ? sum / n : NAN;
}

static void set_held_out(const session *s, const population *p, summary_row *row) {
    row->held_out = p->n_devices - p->n_senders;
    row->held_out_first = perplexity_of_late(s, p, true);
    row->held_out_last = perplexity_of_late(s, p, false);
}

static void add_round(const population *p, const metric_row *row, population_course *course) {
    const double *test = metric_doubles(row, METRIC_TEST_LOSS);
    double valid = mean(p, metric_doubles(row, METRIC_VALID_LOSS)), loss = mean(p, test),
           target = p->settings->target_loss;
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++)
        course->bytes += metric_longs(row, METRIC_BYTES_UP)[i] + metric_longs(row, METRIC_BYTES_DOWN)[i];
    if (!isnan(valid) && (course->best_round == 0 || valid < course->best_valid)) {
        course->best_round = metric_round(row);
        course->best_valid = valid;
        course->test_ppl_best = perplexity(p, test);
    }
    if (target > 0.0 && loss <= target && course->rounds_to_target == 0) {
        course->rounds_to_target = metric_round(row);
        course->bytes_to_target = course->bytes;
    }
}

void course_add(const fleet *f, const metric_row *row, population_course *courses) {
    for (int i = 0; i < f->n_populations; i++) add_round(&f->populations[i], row, &courses[i]);
}

static summary_row row_of(const session *s, const population *p, const population_course *course) {
    const population_settings *ps = p->settings;
    summary_row row = {.population = ps->name,
                       .method = p->method->name,
                       .devices = p->n_devices,
                       .seed = ps->seed,
                       .generalists = ps->generalists,
                       .specialists = ps->specialists,
                       .rank = ps->rank,
                       .tokens_per_device = ps->data.tokens_per_device,
                       .split = split_name(ps->data.split),
                       .evaluation = evaluation_name(ps->data.evaluation),
                       .best_round = course->best_round,
                       .test_ppl_best = course->test_ppl_best,
                       .rounds_to_target = course->rounds_to_target,
                       .bytes_to_target = course->bytes_to_target,
                       .run = s->settings,
                       .own = ps};
    set_measured(s, p, &row);
    set_held_out(s, p, &row);
    row.weights =
        s->fleet->devices[p->first_device].bytes_a_round > 0 ? aggregate_weights_text(ps->weights) : "";
    for (int i = p->first_device; i < p->first_device + p->n_senders; i++)
        row.entropy_mean += s->fleet->devices[i].text.entropy / p->n_senders;
    return row;
}

void summarise(const session *s, const population_course *courses, summary_row *rows) {
    for (int i = 0; i < s->fleet->n_populations; i++)
        rows[i] = row_of(s, &s->fleet->populations[i], &courses[i]);
}

typedef struct {
    const fleet *fleet;
    population_course *courses; /* [n_populations] */
} course_reader;

static void read_round(void *context, const metric_row *row) {
    course_reader *reader = context;
    course_add(reader->fleet, row, reader->courses);
}

exit_code summarise_trace(session *s, const char *trace_path, summary_row *rows, problems *list) {
    course_reader reader = {s->fleet, calloc((size_t)s->fleet->n_populations, sizeof *reader.courses)};
    exit_code code = reader.courses ? trace_read_devices(trace_path, s->settings->rounds, &s->numbers,
                                                         read_round, &reader, list)
                                    : problem(list, EXIT_ENVIRONMENT, "out of memory for the summary");
    if (code == EXIT_OK) summarise(s, reader.courses, rows);
    free(reader.courses);
    return code;
}

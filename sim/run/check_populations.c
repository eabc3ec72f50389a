#include "run/check_populations.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/table.h"
#include "data/split.h"
#include "result/bank.h"

enum { MANY_TIMES = 10 };

static void experts_text(const fleet *f, const population *p, char out[BANK_TEXT_BYTES]) {
    bank_span generalists = {0, 0}, specialists = {0, 0};
    for (int i = 0; i < p->n_devices; i++) {
        const device *d = &f->devices[p->first_device + i];
        bank_count(&generalists, d->generalists, i == 0);
        bank_count(&specialists, d->specialists, i == 0);
    }
    bank_text(out, generalists, specialists);
}

/* How often the run's steps read a device's training text, in the mean over the population. */
static double times_read(const fleet *f, const population *p) {
    const schedule_totals *all = fleet_totals(f, &f->devices[p->first_device]);
    double windows = (double)all->steps[DATA_TRAIN] * all->batch[DATA_TRAIN],
           tokens = windows * p->settings->data.sequence, sum = 0.0;
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++) {
        const device_text *text = &f->devices[i].text;
        sum += text->train_examples > 0 ? windows / (double)text->train_examples
                                        : tokens / (double)text->tokens[DATA_TRAIN];
    }
    return sum / p->n_devices;
}

/* ---- The table of populations ---- */

/* A column of an axis that the table has no other column for. */
typedef struct {
    const setting_row *row;
    int width;
} axis_column;

/* malloc'd. */
static axis_column *choose_axis_columns(const fleet *f, int *n) {
    static const char *const shown[] = {"method", "seed", "devices", "generalists", "specialists"};
    axis_column *columns = calloc((size_t)f->settings->n_axes + 1, sizeof *columns);
    *n = 0;
    for (int i = 0; columns && i < f->settings->n_axes; i++) {
        bool is_shown = false;
        for (size_t k = 0; k < sizeof shown / sizeof *shown; k++)
            is_shown |= strcmp(shown[k], f->settings->axes[i]) == 0;
        if (is_shown) continue;
        axis_column *c = &columns[(*n)++];
        *c = (axis_column){.row = table_find(f->settings->axes[i], true),
                           .width = (int)strlen(f->settings->axes[i])};
        for (int p = 0; p < f->n_populations; p++) {
            char *value = value_plain(c->row, f->populations[p].settings);
            if ((int)strlen(value) > c->width) c->width = (int)strlen(value);
            free(value);
        }
    }
    return columns;
}

static void print_axis_values(const axis_column *columns, int n, const population *p) {
    for (int i = 0; i < n; i++) {
        char *value = value_plain(columns[i].row, p->settings);
        printf("  %*s", columns[i].width, value);
        free(value);
    }
}

/* Where there are axes: how many populations, and how many of different names. */
static void print_count(const fleet *f) {
    int points = 0;
    if (f->settings->n_axes == 0) return;
    for (int i = 0; i < f->n_populations; i++) {
        bool first = true;
        for (int j = 0; j < i && first; j++)
            first = strcmp(f->populations[j].settings->name, f->populations[i].settings->name) != 0;
        points += first;
    }
    printf("%d population%s", f->n_populations, f->n_populations > 1 ? "s" : "");
    if (points < f->n_populations) printf(", %d but for their seeds", points);
    printf("; axes:");
    for (int i = 0; i < f->settings->n_axes; i++) printf("%s %s", i ? "," : "", f->settings->axes[i]);
    printf("\n\n");
}

static void print_population(const fleet *f, const population *p, int width, const axis_column *columns,
                             int n_columns) {
    char experts[BANK_TEXT_BYTES];
    double shared = 0.0, private_ = 0.0, bytes = 0.0, train = 0.0;
    experts_text(f, p, experts);
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++) {
        shared += (double)f->devices[i].parameters_shared / p->n_devices;
        private_ += (double)f->devices[i].parameters_private / p->n_devices;
        bytes += (double)f->devices[i].bytes_a_round / p->n_devices;
        train += (double)f->devices[i].text.tokens[DATA_TRAIN] / p->n_devices;
    }
    printf("%-*s  %-11s %6llu %8d", width, p->settings->name, p->method->name,
           (unsigned long long)p->settings->seed, p->n_devices);
    print_axis_values(columns, n_columns, p);
    printf("  %-7s %12.0f %12.0f %14.0f %14.0f %10.1f\n", experts, shared, private_, bytes, train,
           times_read(f, p));
}

/* Once for all populations that read their text many times; seeds of a population count once. */
static void print_repetitions(const fleet *f) {
    const char *first = NULL, *last = "";
    double least = INFINITY, most = 0.0;
    int names = 0;
    for (int i = 0; i < f->n_populations; i++) {
        const population *p = &f->populations[i];
        double times = times_read(f, p);
        if (times <= MANY_TIMES) continue;
        least = fmin(least, times);
        most = fmax(most, times);
        if (strcmp(p->settings->name, last) == 0) continue;
        last = p->settings->name;
        if (names++ == 0) first = last;
    }
    if (names == 0) return;
    printf("\n%s", first);
    if (names > 1) printf(" and %d more", names - 1);
    printf(" read%s each device's training text %.0f", names > 1 ? "" : "s", least);
    if (most - least >= 1.0) printf(" to %.0f", most);
    printf(" times over: it may be learnt by heart; give devices more text (data.tokens_per_device) or take "
           "fewer steps\n");
}

/* Of one population, or of several that have the same mixtures. */
typedef struct {
    const char *name; /* of the first */
    int more;         /* names */
    char text[256];
} mixture_note;

static void describe_mixture(const fleet *f, const population *p, char out[256]) {
    double least = 1.0, most = 0.0, sum = 0.0;
    for (int i = p->first_device; i < p->first_device + p->n_devices; i++) {
        const device_text *text = &f->devices[i].text;
        double share = (double)text->longest / (double)text->tokens[DATA_TRAIN];
        least = share < least ? share : least;
        most = share > most ? share : most;
        sum += share;
    }
    snprintf(out, 256,
             "(%s): %.0f %% of a device's training text are of its largest source (%.0f %% to %.0f %%; "
             "there are %d sources)",
             split_name(p->settings->data.split), 100.0 * sum / p->n_devices, 100.0 * least, 100.0 * most,
             corpus_sources(p->text));
}

static void add_mixture(const fleet *f, const population *p, mixture_note *notes, int *n) {
    mixture_note note = {.name = p->settings->name};
    describe_mixture(f, p, note.text);
    for (int i = 0; i < *n; i++)
        if (strcmp(notes[i].text, note.text) == 0) {
            notes[i].more++;
            return;
        }
    notes[(*n)++] = note;
}

/* Where a population has examples: once for all its seeds. */
static void print_examples(const fleet *f) {
    const char *last = NULL;
    for (int i = 0; i < f->n_populations; i++) {
        const population *p = &f->populations[i];
        int64_t least = INT64_MAX, most = 0;
        for (int d = p->first_device; d < p->first_device + p->n_devices; d++) {
            int64_t n = f->devices[d].text.train_examples;
            least = n < least ? n : least;
            most = n > most ? n : most;
        }
        if (most == 0 || (last && strcmp(p->settings->name, last) == 0)) continue;
        printf("%s%s: a device has %lld", last ? "" : "\n", p->settings->name, (long long)least);
        if (most > least) printf(" to %lld", (long long)most);
        printf(" training example%s; train tokens are of prompts and responses\n", most > 1 ? "s" : "");
        last = p->settings->name;
    }
}

/* Once for all seeds of a population. */
static void print_held_out(const fleet *f) {
    const char *last = NULL;
    for (int i = 0; i < f->n_populations; i++) {
        const population *p = &f->populations[i];
        int late = p->n_devices - p->n_senders, rounds = f->settings->rounds;
        if (late == 0 || (last && strcmp(p->settings->name, last) == 0)) continue;
        printf("%s%s: %d of its %d devices %s in round %d of %d, and %s nothing\n", last ? "" : "\n",
               p->settings->name, late, p->n_devices, late == 1 ? "joins" : "join",
               schedule_first_round(p->settings, p->n_devices - 1, rounds), rounds,
               late == 1 ? "sends" : "send");
        last = p->settings->name;
    }
}

/* What is not the same on all devices: once for all seeds of a population. */
static void print_lists(const fleet *f) {
    const char *last = NULL;
    for (int i = 0; i < f->n_populations; i++) {
        const population_settings *p = f->populations[i].settings;
        char *lists = settings_lists(p);
        if (*lists && !(last && strcmp(p->name, last) == 0)) {
            printf("%s%s, device by device: %s\n", last ? "" : "\n", p->name, lists);
            last = p->name;
        }
        free(lists);
    }
}

/* Where devices have several sources: once for all seeds of a population, and for all that are alike. */
static void print_mixtures(const fleet *f) {
    const char *last = NULL;
    int n = 0;
    mixture_note *notes = calloc((size_t)f->n_populations, sizeof *notes);
    for (int i = 0; notes && i < f->n_populations; i++) {
        const population *p = &f->populations[i];
        if (!split_of(&p->settings->data)->mixes || p->method->pooled ||
            (last && strcmp(p->settings->name, last) == 0))
            continue;
        last = p->settings->name;
        add_mixture(f, p, notes, &n);
    }
    if (n > 0) putchar('\n');
    for (int i = 0; i < n; i++) {
        printf("%s", notes[i].name);
        if (notes[i].more > 0) printf(" and %d more", notes[i].more);
        printf(" %s\n", notes[i].text);
    }
    free(notes);
}

void check_print_populations(const fleet *f) {
    int width = (int)strlen("population"), n_columns = 0;
    axis_column *columns = choose_axis_columns(f, &n_columns);
    for (int i = 0; i < f->n_populations; i++)
        if ((int)strlen(f->populations[i].settings->name) > width)
            width = (int)strlen(f->populations[i].settings->name);
    print_count(f);
    printf("Per device (means over a population's devices); bytes are sent up and received each round\n\n");
    printf("%-*s  %-11s %6s %8s", width, "population", "method", "seed", "devices");
    for (int i = 0; i < n_columns; i++) printf("  %*s", columns[i].width, columns[i].row->path);
    printf("  %-7s %12s %12s %14s %14s %10s\n", "experts", "shared par.", "private par.", "bytes a round",
           "train tokens", "times read");
    for (int i = 0; i < f->n_populations; i++)
        print_population(f, &f->populations[i], width, columns, n_columns);
    free(columns);
    print_lists(f);
    print_examples(f);
    print_mixtures(f);
    print_held_out(f);
    print_repetitions(f);
}

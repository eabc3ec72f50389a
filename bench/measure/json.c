/* json.c - results in the format of Google Benchmark's --benchmark_format=json, for its compare.py and
 * whatever else reads that. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "measure/result.h"

enum { SCHEMA_VERSION = 1, GOOGLE_SCHEMA_VERSION = 1 };
static const double MICRO = 1e6;

/* ---- A writer of objects and arrays: it knows when a comma is due */

typedef struct {
    FILE *file;
    int depth;
    bool first;  /* nothing stands before the next value in its object or array */
    bool failed; /* memory ran out, something is missing */
} writer;

static void next(writer *w) {
    if (w->depth == 0) return;
    fprintf(w->file, "%s\n%*s", w->first ? "" : ",", 2 * w->depth, "");
    w->first = false;
}

static void put_string(writer *w, const char *text) {
    fputc('"', w->file);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c == '"' || *c == '\\')
            fprintf(w->file, "\\%c", *c);
        else if (*c < 0x20)
            fprintf(w->file, "\\u%04x", *c);
        else
            fputc(*c, w->file);
    fputc('"', w->file);
}

static void key(writer *w, const char *name) {
    next(w);
    put_string(w, name);
    fputs(": ", w->file);
}

static void open_in(writer *w, const char *name, char bracket) {
    if (name)
        key(w, name);
    else
        next(w);
    fputc(bracket, w->file);
    w->depth++;
    w->first = true;
}

static void close_in(writer *w, char bracket) {
    w->depth--;
    if (!w->first) fprintf(w->file, "\n%*s", 2 * w->depth, "");
    fputc(bracket, w->file);
    w->first = false;
}

static void text(writer *w, const char *name, const char *value) {
    key(w, name);
    put_string(w, value);
}

static void integer(writer *w, const char *name, long long value) {
    key(w, name);
    fprintf(w->file, "%lld", value);
}

/* JSON has neither NaN nor infinities. */
static void real(writer *w, const char *name, double value) {
    key(w, name);
    if (isfinite(value))
        fprintf(w->file, "%.17g", value);
    else
        fputs("null", w->file);
}

/* 0: not measured. */
static void rate(writer *w, const char *name, double value) {
    real(w, name, value > 0 ? value : NAN);
}

static void boolean(writer *w, const char *name, bool value) {
    key(w, name);
    fputs(value ? "true" : "false", w->file);
}

/* ---- Content */

static void put_context(writer *w, const context *c) {
    char host[256] = "unknown", date[64];
    time_t seconds = time(NULL);
    struct tm utc;
    gethostname(host, sizeof host - 1);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S+00:00", gmtime_r(&seconds, &utc));
    open_in(w, "context", '{');
    text(w, "date", date);
    text(w, "host_name", host);
    text(w, "executable", "cohort-bench");
    integer(w, "num_cpus", sysconf(_SC_NPROCESSORS_ONLN));
    integer(w, "mhz_per_cpu", 0);
    boolean(w, "cpu_scaling_enabled", false);
    open_in(w, "caches", '[');
    close_in(w, ']');
    open_in(w, "load_avg", '[');
    for (int i = 0; i < c->load.count; i++) {
        next(w);
        fprintf(w->file, "%.2f", c->load.average[i]);
    }
    close_in(w, ']');
    text(w, "library_build_type", "release");
    integer(w, "json_schema_version", GOOGLE_SCHEMA_VERSION);
    integer(w, "schema_version", SCHEMA_VERSION);
    text(w, "git_revision", c->revision);
    text(w, "backend", c->backend);
    text(w, "hardware", c->hardware);
    text(w, "compiler", __VERSION__);
    integer(w, "threads", c->threads);
    rate(w, "copy_bytes_per_second", c->copy_rate);
    rate(w, "gemm_f32_flops_per_second", c->ceiling[CK_F32].product);
    rate(w, "gemm_bf16_flops_per_second", c->ceiling[CK_BF16].product);
    text(w, "gemm_f32_of", c->ceiling[CK_F32].product_of);
    rate(w, "fma_f32_flops_per_second", c->ceiling[CK_F32].fma);
    integer(w, "cache_bytes", (long long)c->cache_bytes);
    real(w, "noise_target", c->rule.noise);
    close_in(w, '}');
}

typedef struct {
    const result *r;
    const measured *m;
    int family, instance, repetitions;
} entry;

static void put_names(writer *w, const entry *e, const char *run, const char *suffix, const char *type) {
    char name[RESULT_NAME_BYTES + 160];
    snprintf(name, sizeof name, "%s%s", run, suffix);
    text(w, "name", name);
    integer(w, "family_index", e->family);
    integer(w, "per_family_instance_index", e->instance);
    text(w, "run_name", run);
    text(w, "run_type", type);
    integer(w, "repetitions", e->repetitions);
}

/* What a measurement is called: the case and how it was measured. */
static void put_measurement_names(writer *w, const entry *e, const char *suffix, const char *type) {
    char run[RESULT_NAME_BYTES + 100];
    snprintf(run, sizeof run, "%s/%s", e->r->name, e->m->label);
    put_names(w, e, run, suffix, type);
}

static void put_counters(writer *w, const entry *e, double seconds) {
    const result *r = e->r;
    real(w, "bytes", r->bytes);
    real(w, "flops", r->flops);
    if (seconds > 0) {
        real(w, "bytes_per_second", r->bytes / seconds);
        real(w, "flops_per_second", r->flops / seconds);
        if (r->floor_seconds > 0) real(w, "percent_of_floor", 100 * r->floor_seconds / seconds);
        if (r->fma_seconds > 0) real(w, "percent_of_fma_peak", 100 * r->fma_seconds / seconds);
        if (r->model_flops > 0 && r->product_rate > 0)
            real(w, "mfu_percent", 100 * r->model_flops / (seconds * r->product_rate));
    }
    rate(w, "floor_us", MICRO * r->floor_seconds);
    integer(w, "wrong", e->m->peer ? e->m->right.wrong : r->right.wrong);
    integer(w, "checked", e->m->peer ? e->m->right.checked : r->right.checked);
    boolean(w, "settled", e->m->t.settled);
    boolean(w, "peer", e->m->peer);
}

static void put_sample(writer *w, const entry *e, int repetition, int i) {
    const timing *t = &e->m->t;
    open_in(w, NULL, '{');
    put_measurement_names(w, e, "", "iteration");
    integer(w, "repetition_index", repetition);
    integer(w, "threads", 1);
    integer(w, "iterations", t->iterations);
    real(w, "real_time", MICRO * t->seconds[i]);
    real(w, "cpu_time", MICRO * t->cpu_seconds[i]);
    text(w, "time_unit", "us");
    put_counters(w, e, t->seconds[i]);
    boolean(w, "disturbed", t->disturbed[i]);
    close_in(w, '}');
}

static double mean_of(const double *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    return n > 0 ? sum / n : NAN;
}

static double deviation_of(const double *x, int n) {
    double mean = mean_of(x, n), sum = 0;
    for (int i = 0; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
    return n > 1 ? sqrt(sum / (n - 1)) : 0;
}

static void put_aggregate(writer *w, const entry *e, const char *what, const char *unit, double seconds,
                          double cpu_seconds) {
    char suffix[32];
    bool time = strcmp(unit, "time") == 0;
    snprintf(suffix, sizeof suffix, "_%s", what);
    open_in(w, NULL, '{');
    put_measurement_names(w, e, suffix, "aggregate");
    integer(w, "threads", 1);
    text(w, "aggregate_name", what);
    text(w, "aggregate_unit", unit);
    integer(w, "iterations", e->m->t.real.count);
    real(w, "real_time", time ? MICRO * seconds : seconds);
    real(w, "cpu_time", time ? MICRO * cpu_seconds : cpu_seconds);
    text(w, "time_unit", "us");
    put_counters(w, e, time ? seconds : 0);
    integer(w, "samples", e->m->t.count);
    integer(w, "undisturbed_samples", e->m->t.undisturbed);
    close_in(w, '}');
}

/* Writes so many samples that every measurement of the file has: evenly chosen from the undisturbed ones;
 * where these are too few, all of them and then disturbed ones. */
static void put_repetitions(writer *w, const entry *e) {
    const timing *t = &e->m->t;
    int left = e->repetitions, of = t->undisturbed, repetition = 0;
    bool enough = of >= left;
    for (int i = 0, seen = 0, spare = left - of; i < t->count && left > 0; i++) {
        bool chosen = !t->disturbed[i];
        if (enough && chosen)
            chosen = (int64_t)(seen + 1) * e->repetitions / of > (int64_t)seen * e->repetitions / of;
        else if (!enough && !chosen)
            chosen = spare-- > 0;
        seen += !t->disturbed[i];
        if (!chosen) continue;
        put_sample(w, e, repetition++, i);
        left--;
    }
}

static void put_aggregates(writer *w, const entry *e, const double *seconds, const double *cpu, int n) {
    double mean = mean_of(seconds, n), cpu_mean = mean_of(cpu, n);
    double deviation = deviation_of(seconds, n), cpu_deviation = deviation_of(cpu, n);
    put_aggregate(w, e, "mean", "time", mean, cpu_mean);
    put_aggregate(w, e, "median", "time", e->m->t.real.median, statistics_median(cpu, n));
    put_aggregate(w, e, "stddev", "time", deviation, cpu_deviation);
    put_aggregate(w, e, "cv", "percentage", deviation / mean, cpu_mean > 0 ? cpu_deviation / cpu_mean : 0);
    put_aggregate(w, e, "spread", "percentage", e->m->t.real.spread, statistics_of(cpu, n).spread);
}

static void put_measured(writer *w, const entry *e) {
    const timing *t = &e->m->t;
    put_repetitions(w, e);
    double *seconds = malloc(2 * (size_t)t->count * sizeof *seconds);
    w->failed |= !seconds;
    if (!seconds) return;
    double *cpu = seconds + t->count;
    timing_judged(t, t->cpu_seconds, cpu);
    put_aggregates(w, e, seconds, cpu, timing_judged(t, t->seconds, seconds));
    free(seconds);
}

/* No time, and a name that no measurement has: Google Benchmark's compare.py expects times of all that are
 * called alike. */
static void put_error(writer *w, const entry *e, const char *name, const char *message) {
    open_in(w, NULL, '{');
    put_names(w, e, name, "", "iteration");
    integer(w, "repetition_index", 0);
    integer(w, "threads", 1);
    boolean(w, "error_occurred", true);
    text(w, "error_message", message);
    put_counters(w, e, 0);
    close_in(w, '}');
}

static void put_peer_error(writer *w, const entry *e) {
    char name[RESULT_NAME_BYTES + 120];
    snprintf(name, sizeof name, "%s/%s/failed", e->r->name, e->m->label);
    put_error(w, e, name, e->m->right.wrong ? "wrong" : e->m->reason);
}

static void put_result(writer *w, const result *r, int family, int instance, int repetitions) {
    char message[256];
    const measured nothing = {.label = ""};
    if (r->skipped) return;
    if (!verdict_passed(&r->right)) {
        snprintf(message, sizeof message, "%lld of %lld elements are wrong, first in %s",
                 (long long)r->right.wrong, (long long)r->right.checked, r->right.where);
        put_error(w, &(entry){r, &nothing, family, instance, 0}, r->name, message);
    }
    for (int i = 0; i < r->n_times; i++) {
        const entry e = {r, &r->times[i], family, instance, repetitions};
        if (e.m->t.count > 0)
            put_measured(w, &e);
        else if (e.m->peer)
            put_peer_error(w, &e);
    }
}

/* Of all measurements that have any. */
static int fewest_samples(const result *all, int n) {
    int fewest = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < all[i].n_times; j++) {
            int count = all[i].times[j].t.count;
            if (count > 0 && (fewest == 0 || count < fewest)) fewest = count;
        }
    return fewest;
}

exit_code result_write_json(output_file *out, const context *c, const result *all, int n, problems *list) {
    writer w = {.file = out->stream};
    int family = -1, instance = 0, repetitions = fewest_samples(all, n);
    open_in(&w, NULL, '{');
    put_context(&w, c);
    open_in(&w, "benchmarks", '[');
    for (int i = 0; i < n; i++) {
        bool same = i > 0 && strcmp(all[i].family, all[i - 1].family) == 0;
        instance = same ? instance + 1 : 0;
        family += !same;
        put_result(&w, &all[i], family, instance, repetitions);
    }
    close_in(&w, ']');
    close_in(&w, '}');
    fputc('\n', w.file);
    return w.failed ? problem(list, EXIT_ENVIRONMENT, "%s: out of memory for the results", out->path)
                    : EXIT_OK;
}

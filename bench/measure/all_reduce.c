#include "measure/all_reduce.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "collective/collective.h"
#include "rig/draw.h"
#include "support/kernel_problem.h"

#ifndef COHORT_GIT_REVISION
#define COHORT_GIT_REVISION "unknown"
#endif

enum {
    FIRST_BYTES = 4096,
    GROWTH = 4,
    MOST_SIZES = 24,
    SEED = 7000,
    MOST_PROCESSES = 1024,
    MOST_ITERATIONS = 10000
};
static const double MICRO = 1e6;

typedef struct {
    const all_reduce_options *o;
    ck_collective *c;
    ck_backend *backend;
    ck_stream *stream;
    void *packed;
    int64_t count;     /* floats */
    load_average load; /* before anything was measured */
    int n_results;
    result results[MOST_SIZES];
    output_file json; /* of process 0 */
} sums;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static exit_code said(const sums *s, ck_status status, problems *list) {
    return status == CK_OK ? EXIT_OK : problem(list, EXIT_RUN, "all-reduce: %s", ck_collective_error(s->c));
}

/* ---- Verifying */

static exit_code upload_values(sums *s, problems *list) {
    float *values = malloc((size_t)s->count * sizeof *values);
    if (!values) return problem(list, EXIT_ENVIRONMENT, "all-reduce: out of memory");
    draw_fill(SEED + (uint64_t)ck_process(s->c), 1, false, values, s->count);
    ck_status status = ck_upload(s->stream, s->packed, values, (size_t)s->count * sizeof *values);
    THEN(status, ck_wait(s->stream));
    free(values);
    return kernel_problem(list, s->backend, status, "all-reduce");
}

/* What every process knows of all others' values. */
static void reference(const sums *s, double *sum) {
    float *all = malloc((size_t)s->count * sizeof *all);
    for (int p = 0; p < ck_processes(s->c) && all; p++) {
        draw_fill(SEED + (uint64_t)p, 1, false, all, s->count);
        for (int64_t i = 0; i < s->count; i++) sum[i] += (double)all[i];
    }
    free(all);
}

static exit_code verify(sums *s, verdict *v, problems *list) {
    float *out = malloc((size_t)s->count * sizeof *out);
    double *sum = calloc((size_t)s->count, sizeof *sum);
    int64_t own[2], all[2 * MOST_PROCESSES];
    exit_code code =
        out && sum ? upload_values(s, list) : problem(list, EXIT_ENVIRONMENT, "all-reduce: out of memory");
    THEN(code, said(s, ck_collective_sum(s->c, s->stream, s->packed, s->count), list));
    if (code == EXIT_OK) {
        ck_status status = ck_download(s->stream, out, s->packed, (size_t)s->count * sizeof *out);
        code = kernel_problem(list, s->backend, status == CK_OK ? ck_wait(s->stream) : status, "all-reduce");
    }
    if (code == EXIT_OK) {
        reference(s, sum);
        verdict_compare(v, "sum", out, sum, s->count);
        own[0] = v->checked, own[1] = v->wrong;
        code = said(s, ck_collective_exchange(s->c, own, sizeof own, all), list);
    }
    v->checked = v->wrong = 0;
    for (int p = 0; p < ck_processes(s->c) && code == EXIT_OK; p++)
        v->checked += all[2 * p], v->wrong += all[2 * p + 1];
    free(out);
    free(sum);
    return code;
}

/* ---- Timing: what process 0 decides holds for all */

/* The slowest process counts, and what any of them lost. */
static bool work(void *who, int64_t n, sample *out) {
    sums *s = who;
    sample own = {0}, all[MOST_PROCESSES];
    ck_status status = ck_collective_exchange(s->c, &own, sizeof own, all); /* all begin together */
    usage begin = usage_now();
    double start = now();
    for (int64_t i = 0; i < n && status == CK_OK; i++)
        status = ck_collective_sum(s->c, s->stream, s->packed, s->count);
    own.seconds = now() - start;
    own.used = usage_since(&begin);
    THEN(status, ck_collective_exchange(s->c, &own, sizeof own, all));
    *out = (sample){.used.cpu_seconds = own.used.cpu_seconds};
    for (int p = 0; p < ck_processes(s->c) && status == CK_OK; p++) {
        out->seconds = fmax(out->seconds, all[p].seconds);
        out->used.queued_seconds = fmax(out->used.queued_seconds, all[p].used.queued_seconds);
        out->used.preemptions += all[p].used.preemptions;
    }
    return status == CK_OK;
}

/* Process 0 asks for work, and for 0 iterations once it has enough. */
static bool ask(void *who, int64_t n, sample *out) {
    sums *s = who;
    return ck_collective_broadcast(s->c, &n, sizeof n) == CK_OK && work(who, n, out);
}

static bool follow(sums *s) {
    sample ignored;
    for (int64_t n = 1;;) {
        if (ck_collective_broadcast(s->c, &n, sizeof n) != CK_OK) return false;
        if (n == 0) return true;
        if (!work(s, n, &ignored)) return false;
    }
}

/* Sums of sums grow without bound: the buffer becomes zeros, which travel as quickly as anything. */
static exit_code measure(sums *s, result *r, problems *list) {
    exit_code code = kernel_problem(
        list, s->backend, ck_zero(s->stream, s->packed, (size_t)s->count * sizeof(float)), "all-reduce");
    bool ok = code == EXIT_OK && ck_wait(s->stream) == CK_OK;
    if (ck_process(s->c) > 0) return ok && follow(s) ? EXIT_OK : said(s, CK_FAILED, list);
    /* one process waits for another */
    subject one = {.who = s, .work = ask, .threads = strcmp(ck_name(s->backend), "cpu") == 0 ? 2 : 0};
    int64_t enough = 0;
    if (ok) timing_measure(&one, 1, &s->o->rule);
    if (!ok || one.t.failed || ck_collective_broadcast(s->c, &enough, sizeof enough) != CK_OK)
        return said(s, CK_FAILED, list);
    measured *m = &r->times[r->n_times++];
    *m = (measured){.right = r->right, .t = one.t};
    snprintf(m->label, sizeof m->label, "%s", ck_collective_route(s->c));
    return EXIT_OK;
}

/* ---- The table */

static void print_header(FILE *out, const sums *s) {
    fprintf(out, "processes: %d, of them on this machine %d; %s backend: %s; Cohort %s\n\n",
            ck_processes(s->c), ck_local_processes(s->c), ck_name(s->backend), ck_hardware(s->backend),
            COHORT_GIT_REVISION);
    fprintf(out, "%12s %12s %6s %12s %6s %4s %10s %10s %10s\n", "bytes", "floats", "by", "median us", "+-",
            "n", "algbw GB/s", "busbw GB/s", "wrong");
}

static void print_row(FILE *out, const sums *s, const result *r) {
    double n = ck_processes(s->c);
    fprintf(out, "%12.0f %12lld %6s", r->bytes, (long long)s->count, ck_collective_route(s->c));
    if (r->n_times == 0) {
        fprintf(out, " %12s %6s %4s %10s %10s %10lld  WRONG\n", "", "", "", "", "",
                (long long)r->right.wrong);
        return;
    }
    const statistics *t = &r->times[0].t.real;
    double algbw = 1e-9 * r->bytes / t->median;
    fprintf(out, " %12.2f %5.1f%% %4d %10.3f %10.3f %10lld%s\n", MICRO * t->median, 100 * t->spread, t->count,
            algbw, algbw * 2 * (n - 1) / n, (long long)r->right.wrong,
            r->times[0].t.settled ? "" : "  DID NOT SETTLE");
    fflush(out);
}

static exit_code take_size(sums *s, size_t bytes, problems *list) {
    result *r = &s->results[s->n_results++];
    *r = (result){.family = "all_reduce", .bytes = (double)bytes, .right = {.tolerance = 1e-5}};
    snprintf(r->name, sizeof r->name, "all_reduce/B%zu/P%d", bytes, ck_processes(s->c));
    s->count = (int64_t)(bytes / sizeof(float));
    exit_code code =
        kernel_problem(list, s->backend, ck_alloc(s->backend, bytes, "all-reduce", &s->packed), "all-reduce");
    THEN(code, verify(s, &r->right, list));
    if (code == EXIT_OK && verdict_passed(&r->right)) code = measure(s, r, list);
    if (s->packed) ck_free(s->backend, s->packed);
    s->packed = NULL;
    if (code == EXIT_OK && ck_process(s->c) == 0) print_row(s->o->out ? s->o->out : stdout, s, r);
    return code;
}

/* Before anything is measured; the other processes are told whether it can be written. */
static exit_code begin_file(sums *s, problems *list) {
    int32_t own = EXIT_OK, all[MOST_PROCESSES];
    bool first = ck_process(s->c) == 0;
    if (first && s->o->json) own = (int32_t)output_file_begin(s->o->json, &s->json, list);
    if (ck_collective_exchange(s->c, &own, sizeof own, all) != CK_OK)
        return problem(list, EXIT_RUN, "all-reduce: %s", ck_collective_error(s->c));
    return (exit_code)all[0];
}

static exit_code write_result(sums *s, problems *list) {
    const context c = {.backend = ck_name(s->backend),
                       .hardware = ck_hardware(s->backend),
                       .revision = COHORT_GIT_REVISION,
                       .threads = ck_threads(s->backend),
                       .rule = s->o->rule,
                       .cache_bytes = ck_cache_bytes(s->backend),
                       .load = s->load};
    return s->json.stream ? result_write_json(&s->json, &c, s->results, s->n_results, list) : EXIT_OK;
}

static exit_code take_sizes(sums *s, problems *list) {
    bool first = ck_process(s->c) == 0;
    int wrong = 0;
    exit_code code = EXIT_OK;
    if (ck_processes(s->c) > MOST_PROCESSES)
        return problem(list, EXIT_INPUT, "all-reduce: at most %d processes", MOST_PROCESSES);
    if (ck_processes(s->c) == 1) {
        fprintf(s->o->out ? s->o->out : stdout,
                "one process: nothing travels; mpirun -n 2 cohort-bench all-reduce starts two\n");
        return EXIT_OK;
    }
    code = begin_file(s, list);
    if (code != EXIT_OK) return code;
    s->load = load_now();
    if (first) print_header(s->o->out ? s->o->out : stdout, s);
    for (double bytes = FIRST_BYTES;
         bytes <= s->o->most_bytes && s->n_results < MOST_SIZES && code == EXIT_OK; bytes *= GROWTH) {
        code = take_size(s, (size_t)bytes, list);
        wrong += !verdict_passed(&s->results[s->n_results - 1].right);
    }
    THEN(code, write_result(s, list));
    if (s->json.stream) code = output_file_end(&s->json, code, list);
    if (code == EXIT_OK && wrong && first)
        code = problem(list, EXIT_RUN, "%d sums are wrong: they have no times", wrong);
    return code == EXIT_OK && wrong ? EXIT_RUN : code;
}

/* Processes that cannot be joined would each measure one process. */
static exit_code check_launcher(problems *list) {
    bool speaks = true;
    const char *why = ck_foreign_launcher(&speaks);
    if (!why) return EXIT_OK;
    return speaks ? problem(list, EXIT_ENVIRONMENT, "all-reduce: %s", why) : EXIT_ENVIRONMENT;
}

exit_code all_reduce_run(const all_reduce_options *options, problems *list) {
    sums *s = calloc(1, sizeof *s);
    if (!s) return problem(list, EXIT_ENVIRONMENT, "all-reduce: out of memory");
    s->o = options;
    exit_code code = check_launcher(list);
    if (code == EXIT_OK && ck_collective_open(&s->c) != CK_OK)
        code = problem(list, EXIT_ENVIRONMENT, "all-reduce: %s", ck_collective_error(NULL));
    THEN(code,
         kernel_problem(list, NULL,
                        ck_open(options->backend ? options->backend : "auto", options->threads, &s->backend),
                        "opening the backend"));
    THEN(code, kernel_problem(list, s->backend, ck_stream_create(s->backend, &s->stream), "a stream"));
    THEN(code, take_sizes(s, list));
    if (code == EXIT_RUN && ck_collective_broken(s->c)) ck_collective_abort(s->c, code);
    for (int i = 0; i < s->n_results; i++) result_free(&s->results[i]);
    ck_stream_destroy(s->stream);
    ck_close(s->backend);
    ck_collective_close(s->c);
    free(s);
    return code;
}
